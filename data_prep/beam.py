"""The work on songs as pipelines of Apache Beam, on this machine or on a cluster.

All machines have to see the songs and the output under the same paths, and have this package installed. What a worker
makes it keeps in the work directory there, under a name that says what it was made from; so an item that a runner does
again, or twice at once, does no harm, and an export that was stopped goes on where it was.
"""

import contextlib
import dataclasses
import functools
import io
import json
import logging
import pathlib
import shutil
import threading
import types
import typing
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from autosong_jax.errors import UserError
from data_prep.workers import WorkerDied, Workers

FLAG = "--beam_options"
_ITEMS_A_FILE = 1000
# With DirectRunner alone, Beam would first look for a program of its own on GitHub. This one is in the package.
_DIRECT = "FnApiRunner"
_this_thread = threading.local()


class BeamWorkers:
    """In the place of `Workers`: each of Beam's workers has a process of its own for the work, with one thread.

    What a song that kills its process costs is that process, not one of Beam's, which would try the song again and give
    up the pipeline in the end.
    """

    remote = True

    def __init__(self, count: int, options: Sequence[str], work: pathlib.Path):
        """Args:
          count: of workers, if the pipelines run here and `options` do not say.
          options: of the pipelines, such as `--runner=FlinkRunner`.
          work: the work directory, which need not exist. Items and results go by way of a directory in it.

        Raises:
          UserError: Beam is not installed or does not know the options.
        """
        self._options = _pipeline_options(count, options)
        self._work = work

    def __enter__(self) -> "BeamWorkers":
        return self

    def __exit__(self, *_) -> None:
        with contextlib.suppress(OSError):  # it holds something, or is gone
            self._work.rmdir()

    def map(self, function: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[tuple[Any, Any]]:
        """Yields (item, function(item)), once all are done.

        Args:
          function: can be pickled; gives JSON. A `UserError` that it raises is raised here.
          items: all of one kind: numbers, texts, paths, or dataclasses and tuples of them.

        Raises:
          UserError: the pipeline failed.
        """
        items = list(items)
        if not items:
            return
        directory = self._work / f"beam-{uuid.uuid4().hex}"
        directory.mkdir(parents=True)
        try:
            read = functools.partial(_read_items, kind=_kind(items[0]))
            self._run(function, read, _write_items(items, directory), directory)
            lines = [json.loads(line) for path in directory.glob("results-*") for line in _lines(path)]
        finally:
            shutil.rmtree(directory, ignore_errors=True)
        answers = {answer.pop("item"): answer for answer in lines}
        if len(answers) != len(items):
            raise UserError(f"--runner=beam: of {len(items)} results {len(answers)} came back by way of {self._work}: "
                            "expected a directory that all workers see; start again")
        for index, answer in answers.items():
            if "error" in answer:
                raise UserError(answer["error"])
            yield items[index], WorkerDied() if "died" in answer else answer["result"]

    map_reading = map

    def _run(self, function: Callable[[Any], Any], read: Callable[[str], list], items: list[str],
             directory: pathlib.Path) -> None:
        """Runs a pipeline from files of items, which `read` reads, to files of results, which are in `directory`."""
        import apache_beam

        result = None
        try:
            pipeline = apache_beam.Pipeline(options=self._options)
            _ = (pipeline | apache_beam.Create(items) | apache_beam.FlatMap(read) | apache_beam.Reshuffle()
                 | apache_beam.Map(functools.partial(_answer, function=function))
                 | apache_beam.io.WriteToText(str(directory / "results")))
            result = pipeline.run()
            state = result.wait_until_finish()
        except Exception as error:  # of the runner, of the cluster, of a worker
            raise UserError(f"--runner=beam: the pipeline failed ({_reason(error)}): once it is mended, start again, "
                            "which goes on where it was") from error
        except BaseException:  # Ctrl+C
            if result is not None:
                with contextlib.suppress(Exception):
                    result.cancel()
            raise
        if state != apache_beam.runners.runner.PipelineState.DONE:
            raise UserError(f"--runner=beam: the pipeline ended as {state}: start again, which goes on where it was")


def _write_items(items: list[Any], directory: pathlib.Path) -> list[str]:
    """Numbers the items and writes them into files, whose paths it returns: a pipeline may be of a few megabytes only,
    and lyrics are more.

    They are JSON: of a file that others may write, code must not come.
    """
    numbered, paths = [[i, _plain(item)] for i, item in enumerate(items)], []
    for first in range(0, len(items), _ITEMS_A_FILE):
        path = directory / f"items-{first}"
        path.write_text(json.dumps(numbered[first:first + _ITEMS_A_FILE]), encoding="utf-8")
        paths.append(str(path))
    return paths


def _read_items(path: str, kind: Any) -> list[tuple[int, Any]]:
    """In one of Beam's workers: the numbered items of a file, which are of that kind."""
    return [(i, _typed(item, kind)) for i, item in json.loads(pathlib.Path(path).read_text(encoding="utf-8"))]


def _plain(item: Any) -> Any:
    """An item as JSON has it."""
    if dataclasses.is_dataclass(item):
        return {field.name: _plain(getattr(item, field.name)) for field in dataclasses.fields(item)}
    if isinstance(item, tuple):
        return [_plain(part) for part in item]
    return str(item) if isinstance(item, pathlib.Path) else item


def _typed(value: Any, kind: Any) -> Any:
    """The item of that kind that `_plain` gave `value` for: a dataclass, a tuple, what is made of a text or number, or
    None."""
    if value is None:
        return None
    if isinstance(kind, types.UnionType):  # of something and None
        kind = typing.get_args(kind)[0]
    if dataclasses.is_dataclass(kind):
        kinds = typing.get_type_hints(kind)
        return kind(**{field.name: _typed(value[field.name], kinds[field.name]) for field in dataclasses.fields(kind)})
    if typing.get_origin(kind) is tuple:
        kinds = typing.get_args(kind)
        kinds = kinds[:1] * len(value) if kinds[1:] == (...,) else kinds
        return tuple(map(_typed, value, kinds))
    return kind(value)


def _kind(item: Any) -> Any:
    """The kind of an item, as `_typed` takes it."""
    return tuple[tuple(map(_kind, item))] if isinstance(item, tuple) else type(item)


def _answer(item: tuple[int, Any], function: Callable[[Any], Any]) -> str:
    """In one of Beam's workers: what `function` gives for an item, as a line of JSON."""
    if not hasattr(_this_thread, "workers"):
        _this_thread.workers = Workers(1)
    index, argument = item
    try:
        [(_, result)] = _this_thread.workers.map(function, [argument])
    except UserError as error:
        return json.dumps({"item": index, "error": str(error)})
    return json.dumps({"item": index} | ({"died": True} if isinstance(result, WorkerDied) else {"result": result}))


def _lines(path: pathlib.Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


def _reason(error: Exception) -> str:
    """The last line of an error that is not of a traceback; a worker's comes with its traceback as text."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip() and not line.startswith(" ")]
    return (lines or [repr(error)])[-1]


def _pipeline_options(count: int, given: Sequence[str]):
    """Beam's options, with what is the default here.

    Raises:
      UserError: Beam is not installed, there is no such runner or option, or it has another kind of value.
    """
    given, printed = list(given), io.StringIO()
    logging.disable(logging.WARNING)  # what Beam lacks for Google's cloud is no news elsewhere
    try:
        from apache_beam.options import pipeline_options
        from apache_beam.runners import runner
    except ImportError as error:
        raise UserError(f"--runner=beam needs Apache Beam ({error}): pip install 'autosong_jax[beam]'") from error
    finally:
        logging.disable(logging.NOTSET)
    logging.getLogger("apache_beam").setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stderr(printed):
            options = pipeline_options.PipelineOptions(given)
            known = options.get_all_options().keys()
    except SystemExit as error:
        raise UserError(f"{FLAG}={' '.join(given)}: {printed.getvalue().rpartition('error: ')[2]}") from error
    standard = options.view_as(pipeline_options.StandardOptions)
    if standard.runner in (None, "DirectRunner", _DIRECT):
        standard.runner = _DIRECT
        unknown = options.get_all_options(retain_unknown_options=True).keys() - known
        if unknown:  # the options of a cluster may be known to that alone
            raise UserError(f"{FLAG}: DirectRunner has no option --{min(unknown)}; give the one with the --runner that "
                            "has it")
        direct = options.view_as(pipeline_options.DirectOptions)
        if not any(option.startswith("--direct_num_workers") for option in given):
            direct.direct_num_workers = count
        if not any(option.startswith("--direct_running_mode") for option in given):
            direct.direct_running_mode = "multi_threading"  # each of which has a process of its own for the work
    try:
        runner.create_runner(standard.runner)
    except (ValueError, ImportError, AttributeError) as error:
        raise UserError(f"{FLAG}=--runner={standard.runner}: {error}") from error
    return options
