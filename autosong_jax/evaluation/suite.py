"""How good is a trained model? All that can be asked of it and of the songs that it sings, song by song.

What has been found out of a song is kept (`results`), so that it is asked once, and work that was cut off goes on. It
knows no sampler: whoever calls it hands it what sings.

Letters: N songs.
"""

import collections
import contextlib
import dataclasses
import hashlib
import json
import pathlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

import autosong_jax
from autosong_jax.audio import io
from autosong_jax.cli import log, progress, say
from autosong_jax.codecs.codec import load_codec, read_frames
from autosong_jax.data.dataset import SongDataset
from autosong_jax.errors import UserError
from autosong_jax.evaluation import distributions
from autosong_jax.evaluation.accompaniment import mismatched, mix, prompt_adherence
from autosong_jax.evaluation.embedders import Embedder
from autosong_jax.evaluation.intervals import estimates
from autosong_jax.evaluation.metrics import METRICS, Metric, Song
from autosong_jax.evaluation.report import Sample, render, summary
from autosong_jax.evaluation.results import Results, file_name, write
from autosong_jax.evaluation.teacher_forced import TeacherForced
from autosong_jax.outputs import check_directory

RESULTS = "results"
TRUE = "true songs"
DISTANCES = {"FAD": distributions.frechet_distance, "FAD-inf": distributions.frechet_extrapolation,
             "KAD": distributions.kernel_distance}
AUDIO = (".wav", ".flac", ".mp3", ".ogg", ".opus", ".aiff", ".aif")


@dataclasses.dataclass(frozen=True)
class Judged:
    """Some songs, in the order of the dataset, that are judged together.

    Attributes:
      name: of them, for the report.
      songs: what is known of each.
      results: where what is found of them is kept.
      left_out: names of songs that cannot be judged, and why.
    """

    name: str
    songs: Sequence[Song]
    results: Results
    left_out: Mapping[str, str] = dataclasses.field(default_factory=dict)


class Suite:
    """The songs of a split, and where everything that is found of them goes.

    Args:
      dataset: of the songs.
      split: its name.
      output: a folder; made if need be.
      most: of so many songs at most, the first, songs are sung and judged.
      metrics: what is asked of songs.

    Attributes:
      count: N, how many songs are judged.
      codec: of the songs.
    """

    def __init__(self, dataset: SongDataset, split: str, output: pathlib.Path, most: int,
                 metrics: Sequence[Metric] = METRICS):
        check_directory(output, "--output")
        self.dataset, self.split, self.output, self.metrics = dataset, split, output, metrics
        self.count, self.codec = min(most, len(dataset)), load_codec(dataset.path / "codec")
        self._identity = {"version": autosong_jax.__version__, "dataset": _digest_of(dataset.path), "split": split}
        self.ids = [dataset[i]["id"] for i in range(self.count)]

    def results(self, kind: str, **made_from: Any) -> Results:
        """Where results of a kind are kept that are made from that, beside the songs."""
        return Results(self.output / RESULTS, kind, self._identity | made_from)

    def teacher_forced(self, forced: TeacherForced, weights: str) -> dict[str, dict[str, Any]]:
        """The losses of all songs of the split by objective: numbers by their names, as JSON has them."""
        results = self.results("teacher_forced", weights=weights, objectives=list(forced.objectives))
        known: dict[int, dict[str, Any]] = {}
        with progress(total=len(self.dataset), unit="song", desc="teacher forcing") as bar:
            for first in range(0, len(self.dataset), forced.group):
                group = range(first, min(first + forced.group, len(self.dataset)))
                names = [f"{i:06d}" for i in group]
                found = [results.numbers(name) for name in names]
                if None in found:  # the group as a whole, so that its numbers do not depend on where work was cut off
                    for place, numbers in enumerate(forced.read(group)):
                        if found[place] is None:
                            found[place] = numbers
                            results.keep_numbers(names[place], numbers)
                known |= zip(group, found, strict=True)
                bar.update(len(group))
        said = {}
        for name, objective in forced.objectives.items():
            sums = [known[i][name] for i in range(len(self.dataset))]
            said[name] = {number: estimate.as_json() for number, estimate in estimates(
                sums, lambda total, objective=objective: _quietly(objective.summarize, total)).items()}
        return said

    def forced_choices(self, forced: TeacherForced, weights: str) -> list[np.ndarray] | None:
        """What the model would take at each frame of the judged songs; None of one that does not say."""
        if not forced.has_choices:
            return None
        results = self.results("choices", weights=weights)

        def choose(group: Sequence[int]) -> list[np.ndarray]:
            return forced.choices(group)

        return self._kept(results, forced.group, choose, "most probable codes")

    def sung(self, name: str, results: Results, sing: Callable[[Sequence[int]], list[np.ndarray]], at_once: int
             ) -> list[np.ndarray]:
        """The frames of the judged songs, sung where they are not kept already.

        Args:
          name: of how they are sung, for the progress bar.
          results: where they are kept.
          sing: numbers of songs -> their frames.
          at_once: songs that are sung together.
        """
        return self._kept(results, at_once, sing, f"singing {name}")

    def _kept(self, results: Results, at_once: int, make: Callable[[Sequence[int]], list[np.ndarray]], what: str
              ) -> list[np.ndarray]:
        """An array of each judged song, those that are missing made in groups that depend on nothing else."""
        arrays: list[np.ndarray] = []
        with progress(total=self.count, unit="song", desc=what) as bar:
            for first in range(0, self.count, at_once):
                group = range(first, min(first + at_once, self.count))
                found = [results.array(self.ids[i]) for i in group]
                if any(array is None for array in found):
                    for place, array in enumerate(make(group)):
                        if found[place] is None:
                            found[place] = array
                            results.keep_array(self.ids[group[place]], array)
                arrays += found
                bar.update(len(group))
        return arrays

    def true_song(self, i: int) -> Song:
        """Song `i` of the split, as its codec decodes it."""
        record = self.dataset[i]
        return self._song(record, record["frames"])

    def song(self, i: int, frames: np.ndarray, **known: Any) -> Song:
        """What should be song `i` of the split, of these frames; see `Song` for what else is known."""
        return self._song(self.dataset[i], frames, truth=self.true_song(i), **known)

    def _song(self, record: Mapping[str, Any], frames: np.ndarray, **known: Any) -> Song:
        info = self.dataset.codec
        backing = record.get(f"backing_{info.frames.feature}")
        return Song(record["id"], info.sample_rate, info.frame_rate, info.frames.size, lambda: frames,
                    lambda: self.codec.decode(frames), lyrics=record["lyrics"], description=record["description"],
                    get_backing=None if backing is None else lambda: self.codec.decode(backing), **known)

    def given(self, folder: pathlib.Path, *, codes: bool) -> Judged:
        """Songs that were made elsewhere, those that are named as songs of the split beside these.

        Args:
          folder: of their files: audio, or with `codes` frames, .npy.

        Raises:
          UserError: there are none that can be used.
        """
        flag = "--codes" if codes else "--audio"
        if not folder.is_dir():
            raise UserError(f"{flag}={folder} is no directory: expected one of {'.npy' if codes else 'audio'} files")
        wanted = (".npy",) if codes else AUDIO
        paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in wanted and path.is_file())
        if not paths:
            raise UserError(f"{flag}={folder} holds no {', '.join(wanted)} files: expected songs, named as those of "
                            f"the dataset, such as {file_name(self.ids[0])}{wanted[0]}")
        places, songs, left_out, contents = self._places(), [], {}, []
        for path in progress(paths, unit="file", desc="reading"):
            try:
                song = self._read(path, folder, places, codes)
            except UserError as error:
                log.warning("%s; it is left out", error)
                left_out[str(path.relative_to(folder))] = str(error)
                continue
            songs.append(song)
            with path.open("rb") as file:
                contents.append((song.id, hashlib.file_digest(file, "sha256").hexdigest()))
        if not songs:
            raise UserError(f"{flag}={folder}: none of its {len(paths)} files can be used; the first: "
                            f"{next(iter(left_out.values()))}")
        return Judged(str(folder), songs, self.results("given", songs=contents), left_out)

    def _places(self) -> dict[str, int]:
        """The songs of the split by the names of their files."""
        return {file_name(self.dataset[i]["id"]): i for i in range(len(self.dataset))}

    def _read(self, path: pathlib.Path, folder: pathlib.Path, places: Mapping[str, int], codes: bool) -> Song:
        name, info = path.relative_to(folder).with_suffix("").as_posix(), self.dataset.codec
        place = places.get(path.stem, places.get(file_name(name)))
        known = {}
        if place is not None:
            truth = self.true_song(place)
            known = {"truth": truth, "lyrics": truth.lyrics, "description": truth.description,
                     "get_backing": truth.get_backing}
        if codes:
            frames = np.array(read_frames(path, info.frames))
            return Song(name, info.sample_rate, info.frame_rate, info.frames.size, lambda: frames,
                        lambda: self.codec.decode(frames), **known)
        def read() -> np.ndarray:
            return io.read(path, info.sample_rate, info.channels)[0]

        read()  # once to see whether it can be read, and again when it is asked for
        return Song(name, info.sample_rate, info.frame_rate, info.frames.size, lambda: self.codec.encode(read()), read,
                    **known)

    def judge(self, judged: Judged, embedders: Sequence[Embedder]
              ) -> tuple[dict[str, Any], dict[tuple[str, str], np.ndarray]]:
        """What the metrics say of some songs: numbers by their names, as JSON has them; and embeddings [N, D] by
        ("embedding", embedder) of songs and by ("mix", embedder) of songs together with their backings."""
        sums: dict[str, list[Mapping[str, Any]]] = {metric.name: [] for metric in self.metrics}
        vectors: dict[tuple[str, str], list[np.ndarray]] = collections.defaultdict(list)
        self._ask_together(judged)
        for song in progress(judged.songs, unit="song", desc=f"judging {judged.name}"):
            song = song.anew()
            known = judged.results.numbers(song.id) or {}
            before = len(known)
            for metric in [metric for metric in self.metrics if metric.applies(song)]:
                if metric.kept_as not in known:
                    known[metric.kept_as] = dict(metric.of_song(song))
                sums[metric.name].append(known[metric.kept_as])
            for what, heard in {"embedding": song, **({"mix": _mixed(song, song)} if song.get_backing else {})}.items():
                for embedder in embedders:
                    if heard.has >= set(embedder.needs):
                        if f"{what} {embedder.name}" not in known:
                            known[f"{what} {embedder.name}"] = embedder.embed(heard)
                        vectors[what, embedder.name].append(np.asarray(known[f"{what} {embedder.name}"], np.float64))
            if len(known) > before:
                judged.results.keep_numbers(song.id, known)
        numbers = {}
        for metric in self.metrics:
            found = estimates(sums[metric.name], lambda total, metric=metric: _quietly(metric.summarize, total))
            numbers |= {metric.label(detail): estimate.as_json() for detail, estimate in found.items()}
        return numbers, {name: np.stack(rows) for name, rows in vectors.items()}

    def _ask_together(self, judged: Judged) -> None:
        """Keeps what is found of all songs together, of those of which it is not kept already."""
        for metric in [metric for metric in self.metrics if metric.of_songs]:
            kept = {song.id: judged.results.numbers(song.id) or {} for song in judged.songs if metric.applies(song)}
            missing = [song for song in judged.songs if metric.kept_as not in kept.get(song.id, {metric.kept_as: None})]
            if missing:
                for song, sums in zip(missing, metric.of_songs(missing), strict=True):
                    judged.results.keep_numbers(song.id, kept[song.id] | {metric.kept_as: dict(sums)})

    def report(self, found: dict[str, Any], judged: Sequence[Judged], embedders: Sequence[Embedder], samples: int
               ) -> None:
        """Judges songs, beside them the true ones, and writes all that was found."""
        true = Judged(TRUE, [self.true_song(i) for i in range(self.count)], self.results("true"))
        numbers, reference = self.judge(true, embedders)
        pairs = self._pairs(embedders) if any(song.get_backing for song in true.songs) else {}
        found["judged"] = [{"name": TRUE, "songs": self.count, "metrics": numbers,
                            "distances": _adherence(pairs, reference)}]
        for some in judged:
            numbers, vectors = self.judge(some, embedders)
            found["judged"].append({"name": some.name, "songs": len(some.songs), "metrics": numbers,
                                    "distances": _distances(reference, vectors) + _adherence(pairs, vectors),
                                    "left_out": dict(some.left_out)})
        found["about"] = {metric.name: {"about": metric.about, "better": metric.better} for metric in self.metrics}
        for line in summary(found):
            say(line)
        self._write("metrics.json", json.dumps(found, indent=1) + "\n")
        heard = [sample for some in (true, *judged) for sample in self._samples(some, samples)]
        self._write("report.html", render(found, heard))

    def _pairs(self, embedders: Sequence[Embedder]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Embeddings of training songs mixed with their own backings and with those of others, as many songs as are
        judged: by embedder, [N, D] each; nothing where there are no training songs to be had."""
        try:
            training = Suite(SongDataset(self.dataset.path, "train"), "train", self.output, self.count)
        except UserError:
            return {}
        stems = mismatched(training.count) if training.count > 1 else []
        results = training.results("pairs", songs=training.count)
        found: dict[str, tuple[list, list]] = {embedder.name: ([], []) for embedder in embedders}
        for i, stem in enumerate(progress(stems, unit="pair", desc="listening to pairs")):
            song, known = training.true_song(i), results.numbers(training.ids[i]) or {}
            before = len(known)
            for place, heard in enumerate((_mixed(song, song), _mixed(song, training.true_song(int(stem))))):
                for embedder in embedders:
                    if heard.has >= set(embedder.needs):
                        if f"{place} {embedder.name}" not in known:
                            known[f"{place} {embedder.name}"] = embedder.embed(heard)
                        found[embedder.name][place].append(np.asarray(known[f"{place} {embedder.name}"], np.float64))
            if len(known) > before:
                results.keep_numbers(training.ids[i], known)
        return {name: (np.stack(right), np.stack(wrong)) for name, (right, wrong) in found.items() if right}

    def _samples(self, judged: Judged, count: int) -> Iterator[Sample]:
        """The first songs, whose files are written on the way."""
        folder = self.output / "samples" / re.sub(r"[^\w=.,+-]+", "_", judged.name)[-100:]
        for song in judged.songs[:count]:
            song = song.anew()
            if song.audio.shape[1]:
                folder.mkdir(parents=True, exist_ok=True)
                io.write(folder / f"{file_name(song.id)}.wav", song.audio, song.sample_rate)
                yield Sample(judged.name, song.id, song.lyrics, song.audio, song.sample_rate)

    def _write(self, name: str, text: str) -> None:
        """Writes a file of the output in one move, and says so."""
        write(self.output / name, lambda file: file.write(text.encode()))
        say(str(self.output / name))


def _mixed(context: Song, stem: Song) -> Song:
    """A song together with a backing, that of the song `context`."""
    return Song(stem.id, stem.sample_rate, stem.frame_rate,
                get_audio=lambda: mix(context.get_backing().mean(axis=0), stem.mono, stem.sample_rate)[None])


def _adherence(pairs: Mapping[str, tuple[np.ndarray, np.ndarray]], songs: Mapping[tuple[str, str], np.ndarray]
               ) -> list[dict[str, Any]]:
    """How well songs go with their backings, by every embedder that pairs have been heard with."""
    found = []
    for embedder, (right, wrong) in pairs.items():
        if (judged := songs.get(("mix", embedder))) is not None:
            entry = {"distance": "APA", "embedder": embedder, "songs": len(judged), "references": len(right)}
            try:
                value = prompt_adherence(right, wrong, judged)
                entry |= {"value": value.value, "low": value.low, "high": value.high}
            except UserError as error:  # too few songs
                entry |= {"value": None, "low": None, "high": None, "why": str(error)}
            found.append(entry)
    return found


def _distances(reference: Mapping[tuple[str, str], np.ndarray], songs: Mapping[tuple[str, str], np.ndarray]
               ) -> list[dict[str, Any]]:
    """How far the embeddings of some songs are from those of others, by every embedder that both have."""
    found = []
    for what, embedder in songs.keys() & reference.keys():
        if what != "embedding":
            continue
        for name, distance in DISTANCES.items():
            entry = {"distance": name, "embedder": embedder, "songs": len(songs[what, embedder]),
                     "references": len(reference[what, embedder])}
            try:
                value = distance(reference[what, embedder], songs[what, embedder])
                entry |= {"value": value.value, "low": value.low, "high": value.high}
            except UserError as error:  # too few songs
                entry |= {"value": None, "low": None, "high": None, "why": str(error)}
            found.append(entry)
    return sorted(found, key=lambda entry: entry["embedder"])


def weights_digest(params: Any) -> str:
    """A name for weights: equal for equal ones."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        digest.update(f"{jax.tree_util.keystr(path)}{leaf.dtype}{leaf.shape}".encode())
        digest.update(np.ascontiguousarray(np.asarray(leaf)).view(np.uint8).data)
    return digest.hexdigest()[:16]


def _digest_of(dataset: pathlib.Path) -> str:
    """A name for a dataset: by what its descriptions say of it."""
    digest = hashlib.sha256()
    for name in ("dataset_info.json", "features.json", "codec/codec.json", "text_encoder.json", "report.json"):
        with contextlib.suppress(OSError):
            digest.update((dataset / name).read_bytes())
    return digest.hexdigest()[:16]


def _quietly(summarize: Callable[[Mapping[str, Any]], Mapping[str, float]], sums: Mapping[str, Any]
             ) -> Mapping[str, float]:
    """Numbers of sums that may be of nothing: NaN without a word."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return summarize(sums)
