"""From recordings to songs: who does what next, and how finished songs come into the output.

The songs depend on the recordings and the options alone: not on the number of workers, on the order in which they
finish, or on how often the command was stopped and started again.
"""

import collections
import dataclasses
import functools
import json
import os
import pathlib
import shutil
import time
from collections.abc import Iterable

from autosong_jax.cli import progress
from autosong_jax.errors import UserError
from data_prep import output, tasks
from data_prep.stems import report
from data_prep.stems.options import Options
from data_prep.stems.recordings import LeftOut, Recording, check_source, fetch, find_recordings, with_groups
from data_prep.stems.separation import separator
from data_prep.stems.stages import Job, Refused, Stages
from data_prep.work import Results, WorkDirectory, digest
from data_prep.workers import WorkerDied, Workers

_KILLED = "the process that was at it was killed (not enough memory?)"
_DOING = {"loaded": "loading", "pieces": "separating", "mixed": "mixing", "windows": "listening", "songs": "cutting"}


def make_songs(options: Options) -> tuple[report.Report, report.New | None]:
    """Makes the folder of songs `options.output`, or adds what is new to it.

    Returns:
      The report, and what this start did; None if there was nothing to do.

    Raises:
      UserError: an option is wrong, no recording can be used, or the output holds something else.
    """
    started = time.monotonic()
    for source in options.input:
        check_source(source)
        target = output.check(options.output, source, report.is_ours)
    earlier = report.read(target)
    work = WorkDirectory(target, "start")
    work.remove_unfinished()
    with Workers(options.workers or os.cpu_count() or 1) as workers:
        run = _Run(options, target, Results(work.path), workers)
        recordings, left_out = find_recordings(options.input, options.lead, run.fetch)
        stages = [run.stages(recording) for recording in run.identify(recordings, left_out)]
        there = _there(earlier, target)
        gone = [song for key, entry in there.items() if key not in {one.key for one in stages} for song in entry.songs]
        if gone and not options.overwrite:
            raise UserError(f"--output={target} holds songs of other recordings, or made with other options "
                            f"({', '.join(gone[:2])}{', ...' if len(gone) > 2 else ''}): give another --output, or "
                            "--overwrite to remove them")
        known = {one.key: one for one in (earlier.left_out if earlier else [])}
        left_out += [known[one.refusal_key] for one in stages if one.refusal_key in known]
        stages = [one for one in stages if one.refusal_key not in known]
        new = [one for one in stages if one.key not in there]
        refused = run.work_off(new)
    left_out += refused.values()
    done = [one for one in stages if one.key not in refused]
    if not done:
        report.build(options, [], left_out).write(target)
        reasons = "; ".join(f"{one.recording}: {one.reason}" for one in left_out[:3])
        raise UserError(f"of the recordings in --input={', '.join(options.input)} none can be used: "
                        f"{reasons or 'there are none'}{'; ...' if len(left_out) > 3 else ''}; "
                        f"{target / report.FILE} names all")
    for song in gone:
        shutil.rmtree(target / song)
    finished = report.build(options, [there.get(one.key) or report.Entry.of(one, one.install()) for one in done],
                            left_out)
    finished.write(target)
    if not options.keep:
        work.remove()
    made = [entry for entry in finished.recordings if entry.key in {one.key for one in new}]
    if not made:
        return finished, None
    return finished, report.New(len(made), sum(entry.seconds for entry in made), time.monotonic() - started)


def _there(earlier: report.Report | None, target: pathlib.Path) -> dict[str, report.Entry]:
    """What an earlier start has finished, by its key, if all songs of it are still there."""
    return {entry.key: entry for entry in (earlier.recordings if earlier else [])
            if all((target / song).is_dir() for song in entry.songs)}


class _Run:
    """What one start of the command does."""

    def __init__(self, options: Options, target: pathlib.Path, results: Results, workers: Workers):
        self.options, self.target, self.results, self.workers = options, target, results, workers

    def stages(self, recording: Recording) -> Stages:
        """Those of a recording."""
        return Stages(recording, self.options, self.results, self.target)

    def fetch(self, urls: list[str]) -> dict[str, pathlib.Path | str]:
        """The files, or the reasons why there are none, of URLs."""
        function = functools.partial(fetch, command=self.options.fetch, results=self.results)
        return dict(progress(self.workers.map_reading(function, urls), total=len(urls), desc="fetching", unit="file"))

    def identify(self, recordings: list[Recording], left_out: list[LeftOut]) -> list[Recording]:
        """The recordings that can be read, each once, with content and group filled in."""
        paths = list(dict.fromkeys(path for recording in recordings for _, path in recording.files))
        function = functools.partial(tasks.file_digest, max_minutes=self.options.max_minutes)
        digests = dict(progress(self.workers.map_reading(function, paths), total=len(paths), desc="finding",
                                unit="file"))
        known: dict[str, Recording] = {}
        for recording in recordings:
            reasons = [f"its audio file {reason}" for _, path in recording.files if (reason := digests[path][1])]
            content = digest([[stem, digests[path][0]] for stem, path in recording.files])
            if reasons:
                left_out.append(LeftOut(recording.name, reasons[0]))
            elif content in known:
                left_out.append(LeftOut(recording.name, f"the same audio as {known[content].name}"))
            else:
                known[content] = dataclasses.replace(recording, content=content)
        return list(with_groups(known.values()))

    def work_off(self, todo: list[Stages]) -> dict[str, LeftOut]:
        """Goes with the recordings through all stages. Gives, by key, those that must be left out.

        A recording that has been started comes before the others, so no more are on their way, and on the disk, than
        there are workers.
        """
        if any(one.is_mix for one in todo):
            self._open_separator()
        by_recording = {one.recording: one for one in todo}
        refused: dict[str, LeftOut] = {}
        queue, running = _Queue(), collections.Counter()
        with progress(show=bool(todo), total=0, desc="recordings", unit="step") as bar:
            def go_on(one: Stages) -> None:
                try:
                    if not self.options.keep:
                        one.remove_read()
                    jobs = one.todo()
                except Refused as error:
                    refused[one.key] = one.left_out(error)
                    return
                running[one.key] = len(jobs)
                bar.total += len(jobs)
                queue.put_first(jobs)

            for one in reversed(todo):
                go_on(one)
            bar.refresh()
            function = functools.partial(_perform, options=self.options, results=self.results, target=self.target)
            for job, result in self.workers.map(function, queue):
                one = by_recording[job.recording]
                bar.set_postfix_str(f"{_DOING[job.kind]} {job.recording.name[-40:]}", refresh=False)
                bar.update()
                running[one.key] -= 1
                if isinstance(result, WorkerDied):
                    result = LeftOut(job.recording.name, _KILLED)  # without a key: there may be more memory next time
                if result:
                    refused.setdefault(one.key, result)
                    queue.drop(job.recording)
                elif one.key not in refused and not running[one.key]:
                    go_on(one)
        return refused

    def _open_separator(self) -> None:
        """Finds out once what the separator gives. Raises UserError if that is of no use."""
        key = Stages.separator_key(self.options)
        if not self.results.file("separators", key).exists():
            for _, result in self.workers.map(functools.partial(_keep_separator, results=self.results), [self.options]):
                if isinstance(result, WorkerDied):
                    raise UserError(f"--separator={self.options.separator} cannot be loaded: {_KILLED}")
        stems = Stages.read_separator(self.options, self.results).stems
        lead = set(self.options.lead)
        if not lead < set(stems):
            raise UserError(f"--lead={','.join(self.options.lead)}: --separator={self.options.separator} gives "
                            f"{', '.join(stems)}; expected some of these, but not all")


class _Queue:
    """Jobs to be done. It goes on after it has ended if there are more then: some come only when others are done."""

    def __init__(self):
        self._jobs: collections.deque[Job] = collections.deque()

    def __iter__(self) -> "_Queue":
        return self

    def __next__(self) -> Job:
        if not self._jobs:
            raise StopIteration
        return self._jobs.popleft()

    def put_first(self, jobs: Iterable[Job]) -> None:
        """Before all others, in their order."""
        self._jobs.extendleft(reversed(list(jobs)))

    def drop(self, recording: Recording) -> None:
        """Takes out what is to be done of one."""
        self._jobs = collections.deque(job for job in self._jobs if job.recording != recording)


def _perform(job: Job, options: Options, results: Results, target: pathlib.Path) -> LeftOut | None:
    """Does a job in a worker; gives its recording if that must be left out."""
    one = Stages(job.recording, options, results, target)
    try:
        one.perform(job)
    except Refused as error:
        return one.left_out(error)
    except MemoryError:
        return LeftOut(job.recording.name, "there is not enough memory for it")
    except RuntimeError as error:  # of PyTorch, which says so of memory, too
        return LeftOut(job.recording.name, f"{_DOING[job.kind]} failed: {str(error).strip()[:200]}".split("\n")[0])
    return None


def _keep_separator(options: Options, results: Results) -> None:
    """Keeps what is to be known of the separator."""
    model = separator(options.separator, options.segment, options.overlap)
    described = {"stems": model.stems, "layout": dataclasses.asdict(model.layout)}
    results.write("separators", Stages.separator_key(options), json.dumps(described).encode())
