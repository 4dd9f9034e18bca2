"""The best of several songs: what ranks them, and how they were ranked.

What can be told of a song by its sound is not this package's business: a `Ranker` is given to it.
"""

import dataclasses
import json
import math
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from autosong_jax.cli import log, progress
from autosong_jax.errors import UserError
from autosong_jax.sampling.sound import GeneratedSong

AT_ONCE = 64  # candidates that are sung together
Conditions = Mapping[str, Any]  # of a song


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A song that may be chosen.

    Attributes:
      song: it; what is not asked for its audio is not decoded.
      conditions: what it was asked to be, by what that was given as: `lyrics`, `genre`, `description`, ...
      seconds: how long it lasts.
      log_likelihood: gives the mean log probability of one of its codes; see `likelihood.Likelihood`.
    """

    song: GeneratedSong
    conditions: Conditions
    seconds: float
    log_likelihood: Callable[[], float | None]


@dataclasses.dataclass(frozen=True)
class Ranker:
    """What says how good songs are.

    Attributes:
      name: what it is called by.
      score: of a candidate; None, or no finite number, where it says nothing of it.
      lowest: whether the lowest score is the best; else it is the highest.
      check: (singer, conditions of a song) -> None; raises UserError where it could not rank such songs of that singer.
        It is called before any is sung.
    """

    name: str
    score: Callable[[Candidate], float | None]
    lowest: bool = False
    check: Callable[[Any, Conditions], None] = lambda singer, conditions: None


@dataclasses.dataclass(frozen=True)
class Scored:
    """A candidate that has been ranked: its seed, its score if it has one, and how many seconds it lasts."""

    seed: int
    score: float | None
    seconds: float


@dataclasses.dataclass(frozen=True)
class Ranking:
    """How the candidates of a song were ranked.

    Attributes:
      ranker: its name.
      lowest: as of `Ranker`.
      candidates: in the order of their seeds.
    """

    ranker: str
    lowest: bool
    candidates: tuple[Scored, ...] = ()

    @property
    def scores(self) -> list[float | None]:
        """Of the candidates."""
        return [candidate.score for candidate in self.candidates]

    @property
    def chosen(self) -> int:
        """Which candidate has the best score, the first of equal ones; the first of all if none has a score."""
        known = [i for i, score in enumerate(self.scores) if score is not None]
        best = min if self.lowest else max
        return best(known, key=self.scores.__getitem__, default=0)

    @property
    def best_is(self) -> str:
        """For people."""
        return "lowest" if self.lowest else "highest"

    def joined(self, candidate: Scored) -> "Ranking":
        """This ranking with one more candidate."""
        return dataclasses.replace(self, candidates=(*self.candidates, candidate))

    def lines(self) -> list[str]:
        """A line for people about each candidate."""
        scores = ["no score" if score is None else f"{score:.4f}" for score in self.scores]
        width, seeds = max(map(len, scores)), max(len(str(candidate.seed)) for candidate in self.candidates)
        return [f"seed {one.seed:{seeds}}  {score:>{width}}  {one.seconds:.2f} s"
                + ("  <- kept" if i == self.chosen else "")
                for i, (one, score) in enumerate(zip(self.candidates, scores, strict=True))]

    def write(self, path: str | pathlib.Path) -> None:
        """Writes it as JSON."""
        rows = [dataclasses.asdict(candidate) | {"kept": i == self.chosen}
                for i, candidate in enumerate(self.candidates)]
        ranking = {"rank_by": self.ranker, "kept": self.best_is, "candidates": rows}
        pathlib.Path(path).write_text(json.dumps(ranking, indent=2) + "\n", encoding="utf-8")


@dataclasses.dataclass(frozen=True)
class RankedSong(GeneratedSong):
    """The best of several songs, with how that was found out."""

    ranking: Ranking = dataclasses.field(kw_only=True)

    @classmethod
    def of(cls, song: GeneratedSong, ranking: Ranking) -> "RankedSong":
        """The same song, with the audio that it has."""
        return cls(song.frames, song.sample_rate, lambda frames: song.audio, song.samples, ranking=ranking)


def check(candidates: int, ranker: Ranker | None) -> None:
    """Raises UserError where so many candidates mean nothing, or there is nothing to rank them by."""
    if isinstance(candidates, bool) or not isinstance(candidates, int) or candidates < 1:
        raise UserError(f"candidates {candidates!r}: expected a number of songs to choose from, at least 1")
    if ranker is None and candidates > 1:
        raise UserError(f"candidates {candidates} without rank_by: expected what to choose the best by, such as "
                        "likelihood")
    if ranker is not None and not isinstance(ranker, Ranker):
        raise UserError(f"rank_by {ranker!r}: expected a ranker, such as autosong_jax.ranker('likelihood') gives")


def best(sung: Callable[[Sequence[Conditions], int], Iterator[Candidate]], songs: Sequence[Conditions],
         candidates: int, ranker: Ranker, seed: int, show_progress: bool) -> list[RankedSong]:
    """Of each song the best of its candidates.

    Args:
      sung: (conditions of songs that are made together, seed of the first) -> those songs, whose seeds follow it.
      songs: the conditions of each.
      candidates: how many there are of each; those of song i have the seeds from `seed` + i `candidates` on.
      ranker: what they are ranked by.
      seed: of the first candidate of the first song.
      show_progress: a progress bar on stderr.
    """
    rankings, kept, made = [Ranking(ranker.name, ranker.lowest) for _ in songs], {}, [set() for _ in songs]
    count = candidates * len(songs)
    with progress(total=count, unit="song", desc="ranking", leave=False, show=show_progress) as bar:
        for first in range(0, count, AT_ONCE):
            some = range(first, min(first + AT_ONCE, count))
            of = [i // candidates for i in some]
            for i, song, candidate in zip(some, of, sung([songs[i] for i in of], seed + first), strict=True):
                score = ranker.score(candidate)
                score = None if score is None or not math.isfinite(score) else float(score)
                rankings[song] = rankings[song].joined(Scored(seed + i, score, candidate.seconds))
                if rankings[song].chosen == i % candidates:
                    kept[song] = candidate.song
                made[song].add(hash(candidate.song.frames.tobytes()))
                del candidate  # and with it the audio of those that are not kept
                bar.update()
    if candidates > 1 and (same := sum(len(one) == 1 for one in made)):
        of = f" of {same} of {len(songs)} songs" if len(songs) > 1 else ""
        log.warning("all candidates%s are the same: at temperature 0 nothing is drawn", of)
    return [RankedSong.of(kept[i], ranking) for i, ranking in enumerate(rankings)]
