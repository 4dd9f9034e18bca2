"""When each line, word and character of lyrics is sung, from how much a model attends to them frame by frame.

Some heads of a model that attends to its lyrics go through them as it sings. Averaged, they score every character in
every frame. Each character gets the frame that it is sung in, none before the one of the character before it, such that
together they gather the most. It shows where the model attends, which is not proof of what is heard.

Nothing here knows a model: `attended` reads one.

Letters: T frames, M slots of the lyrics in a model's memory, C columns: characters that are sung; N heads.
"""

import dataclasses
import itertools
import json
import pathlib
import re
import unicodedata
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Annotated

import numpy as np
import pydantic

from autosong_jax import inputs
from autosong_jax.cli import progress
from autosong_jax.errors import UserError
from autosong_jax.sources.text import sections

CAVEAT = "Where the model attends in its lyrics: no proof of what is heard."
FILE = "alignment.json"  # in a workdir: the heads that a calibration chose
NEARLY = 0.85  # of the attention in the frame of a character: with so much before it, the character has begun
PAUSE = 2.0  # seconds without a line after which LRC clears the last one
MOST_HEADS = 4  # that are averaged without a calibration
SHARE = 0.7  # of the best head's monotony, which they have at least
TRIED = 8  # heads, of which a calibration takes the first few
MOST_ERROR = 1.0  # seconds, in a calibration: what is further off is wrong, however far
_WORD = re.compile(r"\S*[^\W_]\S*")

Head = tuple[int, int]  # layer and head, each counted from 0
Span = tuple[int, int]  # characters of a text, from start to before stop
Reader = Callable[[Sequence[Head]], Iterator[tuple[Head, np.ndarray]]]  # heads -> each with its attention [T, C]


@dataclasses.dataclass(frozen=True)
class Timed:
    """A part of the lyrics and when it is sung.

    Attributes:
      text: the part.
      start, end: in seconds.
      confidence: the share of the attention, 0 to 1, that its characters have where each is sung, each together with
        the two beside it.
    """

    text: str
    start: float
    end: float
    confidence: float


class Text:
    """What of lyrics is sung: neither section tags nor blanks nor punctuation.

    Args:
      text: the lyrics.
      spans: int [M, 2], the characters that each slot of a memory came from; the model may read less than all of them.

    Attributes:
      text: the lyrics.
      lines, words: their spans; no tags, no blank lines.
      slots: int [any], the slots that sing; `columns`, of the same shape: the column of each. Slots of the same
        characters share one.
      spans: int [C, 2], the characters of each column.
      at: int [C], the first of them that is sung.
    """

    def __init__(self, text: str, spans: np.ndarray):
        self.text, self.lines, self.words, sung, at = text, [], [], [], 0
        for raw in text.splitlines(keepends=True):
            words = [] if sections.tag_in(raw) else [(at + m.start(), at + m.end()) for m in _WORD.finditer(raw)]
            if words:
                self.words += words
                self.lines.append((at + len(raw) - len(raw.lstrip()), at + len(raw.rstrip())))
            sung += [c for word in words for c in range(*word) if unicodedata.category(text[c])[0] in "LMN"]
            at += len(raw)
        sung = np.append(sung, len(text) + 1).astype(int)
        spans = np.asarray(spans, int).reshape(-1, 2)
        first = sung[np.searchsorted(sung, spans[:, 0])]
        self.slots = np.flatnonzero(first < spans[:, 1])
        spans, first = spans[self.slots], first[self.slots]
        begins = np.append(True, (spans[1:] != spans[:-1]).any(axis=1))[:len(spans)]
        self.columns = begins.cumsum() - 1
        self.spans, self.at = spans[begins], first[begins]

    def scores(self, weights: np.ndarray) -> np.ndarray:
        """Attention to slots [..., M] -> to columns [..., C]."""
        scores = np.zeros((len(self.spans), *weights.shape[:-1]), np.float32)
        np.add.at(scores, self.columns, np.moveaxis(weights[..., self.slots], -1, 0))
        return np.moveaxis(scores, 0, -1)

    def of(self, span: Span) -> np.ndarray:
        """The columns of a part, which may be none."""
        return np.flatnonzero((self.at >= span[0]) & (self.at < span[1]))


def monotone_frames(scores: np.ndarray) -> np.ndarray:
    """The frame of each column, none before that of the last, which together gather the most.

    Dynamic time warping in its asymmetric form (Sakoe & Chiba 1978): any number of frames may be passed over, and
    several columns may share one. Among equals it is the earlier frame. A bit for each score is held.

    Args:
      scores: float [T, C], T at least 1.

    Returns:
      int [C].
    """
    length, columns = scores.shape
    frames, gathered = np.zeros(columns, int), np.zeros(length)
    better = []  # a column: the frames to which no earlier one is as good, a bit each
    for column in range(columns):
        best = np.maximum.accumulate(gathered)
        better.append(np.packbits(np.append(True, best[1:] > best[:-1])))
        gathered = best + scores[:, column]
    frame = int(gathered.argmax())
    for column in reversed(range(columns)):
        frames[column] = frame
        frame = int(np.flatnonzero(np.unpackbits(better[column])[:frame + 1])[-1])
    return frames


class Walk:
    """A song's way through its lyrics.

    Args:
      text: the lyrics, of one column at least.
      scores: float [T, C], how much each frame attends to each column.

    Attributes:
      text, scores: as given.
      frames: int [C], where each column is attended to; see `monotone_frames`.
      starts: int [C], where that begins: the first frame after that of the column before with `NEARLY` as much.
    """

    def __init__(self, text: Text, scores: np.ndarray):
        self.text, self.scores, self.frames = text, scores, monotone_frames(scores)
        self.starts, first = self.frames.copy(), 0
        for column, frame in enumerate(self.frames):
            before = scores[first:frame, column] >= NEARLY * scores[frame, column]
            self.starts[column] = first + int(np.append(before, True).argmax())
            first = min(frame + 1, len(scores) - 1)
        self.starts = np.maximum.accumulate(self.starts)

    @property
    def monotony(self) -> float:
        """How well this way explains the attention, 0 to 1: the mean over the columns of what each has in its frame,
        times the share of all attention that columns have between the frames of those before and after them."""
        at = np.arange(len(self.scores))[:, None]
        near = (at >= np.append(0, self.frames[:-1])) & (at <= np.append(self.frames[1:], len(at) - 1))
        explained = self.scores.sum(where=near) / max(self.scores.sum(), 1e-9)
        return float(self.scores[self.frames, np.arange(len(self.frames))].mean() * explained)

    def confidence(self, columns: np.ndarray) -> float:
        """The attention that each of some columns has in its frame together with its two neighbours, on average. With
        the whole line it would be high by chance: of two lines, one half.
        """
        padded = np.pad(self.scores[self.frames[columns]], ((0, 0), (1, 1)))
        near = padded[np.arange(len(columns))[:, None], columns[:, None] + np.arange(3)]
        return min(float(near.sum(axis=1).mean()), 1.0)

    def stops(self) -> np.ndarray:
        """int [C], where columns end: with the next one. While a note is held nothing is attended to, and so nothing
        says when a line's last column ends: it lasts at most as long as the longest that another follows in its line.
        """
        stops = np.append(self.starts[1:], len(self.scores))
        line = np.searchsorted([start for start, _ in self.text.lines], self.text.at, "right")
        last = np.append(line[1:] != line[:-1], True)
        longest = np.max((stops - self.starts)[~last], initial=0) or len(self.scores)
        return np.where(last, np.minimum(stops, self.starts + longest), stops)


def best_heads(walks: Iterable[tuple[Head, Walk]]) -> dict[Head, Walk]:
    """The few heads that go through the lyrics best (`Walk.monotony`), the best first. Of others, no walk is held."""
    best = {}
    for head, walk in walks:
        best = dict(sorted((best | {head: walk}).items(), key=lambda item: -item[1].monotony)[:MOST_HEADS])
    least = SHARE * next(iter(best.values())).monotony
    return {head: walk for head, walk in best.items() if walk.monotony >= least}


@dataclasses.dataclass(frozen=True)
class Alignment:
    """When the parts of lyrics are sung. What the model does not read of them has no time and is left out.

    Attributes:
      lines, words: in their order; section tags are none.
      characters: likewise, those that are sung; None where the model reads longer pieces of words.
      duration: of the song, in seconds.
      frame_rate: frames a second: times are multiples of its inverse.
      heads: whose attention it is.
      walk: what all of it comes from.
    """

    lines: list[Timed]
    words: list[Timed]
    characters: list[Timed] | None
    duration: float
    frame_rate: float
    heads: list[Head]
    walk: Walk = dataclasses.field(repr=False, compare=False)

    @classmethod
    def of(cls, walk: Walk, frame_rate: float, heads: Sequence[Head], *, spelled: bool) -> "Alignment":
        """Of a walk; `spelled` says that its columns are characters."""
        text, starts, stops = walk.text, walk.starts / frame_rate, walk.stops() / frame_rate

        def timed(spans: Iterable[Span]) -> list[Timed]:
            parts = [(span, text.of(span)) for span in spans]
            return [Timed(text.text[slice(*span)], round(float(starts[columns[0]]), 3),
                          round(float(stops[columns[-1]]), 3), round(walk.confidence(columns), 3))
                    for span, columns in parts if len(columns)]

        return cls(timed(text.lines), timed(text.words), timed(map(tuple, text.spans)) if spelled else None,
                   round(len(walk.scores) / frame_rate, 3), frame_rate, list(heads), walk)

    def lrc(self) -> str:
        """The lines in the LRC format, [mm:ss.xx] before each; after one that a long pause follows, an empty one."""
        rows = []
        for line, following in zip(self.lines, [*self.lines[1:], None], strict=True):
            rows.append(f"{_stamp(line.start)}{line.text}")
            if (following.start if following else self.duration) - line.end >= PAUSE:
                rows.append(_stamp(line.end))
        return "".join(f"{row}\n" for row in rows)

    def json(self) -> str:
        """All but the walk, and a note of what it is not."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.name != "walk"}
        fields = {"note": CAVEAT} | fields
        rows = {name: [json.dumps(vars(part), ensure_ascii=False) for part in value] for name, value in fields.items()
                if name in ("lines", "words", "characters") and value is not None}
        return "{\n" + ",\n".join(
            f' "{name}": ' + ("[\n  " + ",\n  ".join(rows[name]) + "]" if name in rows else json.dumps(value))
            for name, value in fields.items()) + "\n}\n"

    def write(self, path: str | pathlib.Path) -> None:
        """A file in a folder that exists: the lines as .lrc, all as .json, or a picture, .png."""
        path = pathlib.Path(path)
        texts = {".lrc": self.lrc, ".json": self.json}
        if make := texts.get(path.suffix.lower()):
            path.write_text(make(), encoding="utf-8")
        else:
            self.draw(path)

    @property
    def summary(self) -> str:
        """In a few words."""
        mean = np.mean([line.confidence for line in self.lines]) if self.lines else 0.0
        return f"{len(self.lines)} lines, {len(self.words)} words, confidence {mean:.2f}"

    def draw(self, path: str | pathlib.Path) -> None:
        """Writes a PNG, whose folder exists: attention, characters down and seconds across, and the way through it."""
        from matplotlib.figure import Figure  # no pyplot: no window, no global state

        walk, text = self.walk, self.walk.text
        columns = np.arange(len(text.spans))
        figure = Figure(figsize=(min(max(9, 1.2 * self.duration), 60), min(max(4, 0.16 * len(columns)), 40)), dpi=120,
                        layout="constrained")
        axes = figure.subplots()
        image = axes.imshow(walk.scores.T, aspect="auto", origin="upper", cmap="Blues", interpolation="nearest",
                            extent=(0, self.duration, len(columns) - 0.5, -0.5))
        axes.step(np.append(walk.starts, walk.stops()[-1]) / self.frame_rate, np.append(columns, columns[-1]),
                  where="post", color="#d73027", linewidth=1.2, label="where each is taken to begin")
        for line, span in zip(self.lines, (span for span in text.lines if len(text.of(span))), strict=True):
            top = text.of(span)[0]
            axes.axhline(top - 0.5, color="#999999", linewidth=0.6)
            axes.annotate(f"{line.start:.2f} s", (line.start, top), xytext=(8, 8), textcoords="offset points",
                          color="#d73027", fontsize=8, va="top",
                          bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.8})
        words = [(text.of(span)[0], text.text[slice(*span)]) for span in text.words if len(text.of(span))]
        words = words[::-(-len(words) // 200)] if words else words  # more cannot be read
        axes.set_yticks([at for at, _ in words], [_shown(word) for _, word in words], fontsize=8)
        axes.set_xlabel("seconds")
        axes.legend(loc="upper right", fontsize=8)
        heads = ", ".join(f"{layer}.{head}" for layer, head in self.heads)
        axes.set_title(f"{CAVEAT} (layer.head {heads})", loc="left", fontsize=9)
        figure.colorbar(image, ax=axes, label="attention", fraction=0.03, pad=0.01)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph")  # of scripts that the font lacks: boxes in the picture say so
            figure.savefig(path, format="png")


def _stamp(seconds: float) -> str:
    """[mm:ss.xx]"""
    hundredths = round(100 * seconds)
    return f"[{hundredths // 6000:02d}:{hundredths // 100 % 60:02d}.{hundredths % 100:02d}]"


def _shown(word: str) -> str:
    """A word as a label, in which nothing is a formula."""
    return (word if len(word) <= 24 else f"{word[:23]}…").replace("$", r"\$")


@dataclasses.dataclass(frozen=True)
class Calibration:
    """What `FILE` holds: which heads of a model are looked at, and what they gave on songs whose times are known.

    Attributes:
      heads: the best first.
      songs, syllables: how many they were chosen by.
      mean_error: of the beginning of a syllable, in seconds, each counted as at most `MOST_ERROR`.
    """

    heads: Annotated[list[tuple[Annotated[int, pydantic.Field(ge=0)], Annotated[int, pydantic.Field(ge=0)]]],
                     pydantic.Field(min_length=1, max_length=64)]
    songs: int
    syllables: int
    mean_error: float

    def save(self, directory: str | pathlib.Path) -> None:
        """Into a workdir."""
        path = pathlib.Path(directory) / FILE
        unfinished = path.with_name(f".unfinished-{path.name}")
        unfinished.write_text(json.dumps(dataclasses.asdict(self)) + "\n")
        unfinished.replace(path)

    @classmethod
    def load(cls, directory: str | pathlib.Path) -> "Calibration | None":
        """Of a workdir, if it has one. Raises UserError where it is none."""
        path = pathlib.Path(directory) / FILE
        return inputs.read_json(path, cls, "calibration") if path.exists() else None


def errors(walk: Walk, times: Sequence[tuple[int, float]], frame_rate: float) -> np.ndarray:
    """Seconds by which beginnings are off.

    Args:
      walk: of a song.
      times: (a character of the lyrics that is sung, the second in which it truly begins).
      frame_rate: frames a second.

    Returns:
      float [times], negative where the walk is early; NaN for characters that the model has not read.
    """
    characters, seconds = np.array(times, float).reshape(-1, 2).T
    starts = np.append(walk.starts / frame_rate, np.nan)
    return starts[np.searchsorted(walk.text.at, characters)] - seconds


def calibrate(songs: Sequence[tuple[Text, Reader, Sequence[tuple[int, float]]]], heads: Sequence[Head],
              frame_rate: float, *, show_progress: bool = False) -> Calibration:
    """Chooses the heads by which the times of songs come out best.

    Args:
      songs: of each its lyrics, what gives heads' attention to them, and known times as `errors` takes them.
      heads: to choose from.
      frame_rate: frames a second.

    Raises:
      UserError: no time is known.
    """
    known = sum(len(times) for *_, times in songs)
    if not known:
        raise UserError("calibration: no time of a syllable is known; expected songs with notes.json")

    def missed(walk: Walk, times: Sequence[tuple[int, float]]) -> float:
        return np.fmin(np.abs(errors(walk, times, frame_rate)), MOST_ERROR).sum()

    alone = dict.fromkeys(heads, 0.0)
    for text, read, times in progress(songs, desc="each head", unit="song", leave=False, show=show_progress):
        for head, scores in read(heads):
            alone[head] += missed(Walk(text, scores), times)
    ranked = sorted(heads, key=alone.__getitem__)[:TRIED]
    together = np.zeros(len(ranked))
    for text, read, times in progress(songs, desc="together", unit="song", leave=False, show=show_progress):
        sums = itertools.accumulate(scores for _, scores in read(ranked))
        together += [missed(Walk(text, scores / count), times) for count, scores in enumerate(sums, start=1)]
    count = int(together.argmin()) + 1
    return Calibration(ranked[:count], len(songs), known, round(float(together.min()) / known, 4))
