"""How certain a number is that was found of some songs: bootstrap over songs (Efron 1979), by percentiles.

What is known of a song are sums, such as the errors in it and how many there could have been. Those of several songs
are added, and a number is made of what they add up to: so a perplexity is the exponential of a mean, not a mean of
exponentials, and a long song counts for more than a short one where that is meant.

Where a number grows with how many different songs there are, as the share of a vocabulary does, the interval lies too
low: of N songs that are drawn with replacement, fewer are different.

Letters: N songs.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

Sums = Mapping[str, Any]  # numbers or arrays, the same for every song

DRAWS = 1000
LEVEL = 0.95


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A number and its confidence interval.

    Attributes:
      value: of all songs; NaN where there is none.
      low, high: between which 95 % of the numbers lie that are found of N songs drawn from these with replacement;
        NaN of a single song.
      songs: N.
    """

    value: float
    low: float
    high: float
    songs: int

    def __str__(self):
        return f"{self.value:.4g} (95 %: {self.low:.4g} to {self.high:.4g}; {self.songs} songs)"

    def as_json(self) -> dict[str, float | int | None]:
        """As JSON has it, which knows no NaN."""
        return {name: None if isinstance(value, float) and not math.isfinite(value) else value
                for name, value in dataclasses.asdict(self).items()}


def estimates(songs: Sequence[Sums], summarize: Callable[[Mapping[str, np.ndarray]], Mapping[str, float]], *,
              seed: int = 0, draws: int = DRAWS) -> dict[str, Estimate]:
    """The numbers of some songs, each with its interval; nothing of no songs.

    Args:
      songs: the sums of each.
      summarize: of added sums, float64, what numbers they make; what cannot be said is NaN or left out. Draws in which
        it is so do not count for that number.
      seed: of the draws, which are the same for all numbers of as many songs.
      draws: how many.
    """
    if not songs:
        return {}
    stacked = {name: np.stack([np.asarray(song[name], np.float64) for song in songs]) for name in songs[0]}
    # How often each song is drawn, [draws, N]; one draw after another, since sums may be as large as a vocabulary.
    times = np.random.default_rng(seed).multinomial(len(songs), np.full(len(songs), 1 / len(songs)), size=draws)
    # One song says nothing of how others differ from it.
    times = times if len(songs) > 1 else []
    drawn = [summarize({name: np.tensordot(row, x, 1) for name, x in stacked.items()}) for row in times]
    value = summarize({name: x.sum(axis=0) for name, x in stacked.items()})
    return {name: Estimate(float(of_all), *_percentiles([float(one.get(name, math.nan)) for one in drawn]), len(songs))
            for name, of_all in value.items()}


def _percentiles(numbers: Sequence[float]) -> tuple[float, float]:
    known = [number for number in numbers if math.isfinite(number)]
    if not known:
        return math.nan, math.nan
    low, high = np.percentile(known, [50 * (1 - LEVEL), 50 * (1 + LEVEL)])
    return float(low), float(high)
