"""How far songs are from reference songs as distributions of embeddings, such as those of `evaluation.clap`: the
Frechet distance of Gaussians, what it would be of infinitely many songs, and the kernel distance.

Embeddings are float [N, D], a song each; all is computed in float64. A distance depends on what makes the embeddings
and, but for the unbiased ones, on N: a result names N and the uncertainty, and whoever passes it on should name the
model.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import stdtrit

from autosong_jax.cli import log
from autosong_jax.errors import UserError

SCALE = 100.0
"""What the toolkit of the kernel distance's authors multiplies it by."""
SHARES = (1.0, 0.75, 0.6, 0.5)
"""Of both sets, how much is looked at for an extrapolation: evenly spaced in 1 / N."""

_GROUPS = 10  # of a jackknife; each costs all that the estimate does
_MOST = 4096  # references whose pairs the median is of: 8 million, 64 MiB
_LEVEL = 0.95


@dataclasses.dataclass(frozen=True)
class Distance:
    """An estimate of how far two distributions are from each other.

    Attributes:
      value: the distance.
      error: its standard error: how much it would change with other songs and references of the same two distributions.
      low, high: the confidence interval of 95 %, by Student's t about `value`. A bias of `value` is not in it.
      references: how many embeddings there were of the reference.
      songs: how many there were of what is judged.
    """

    value: float
    error: float
    low: float
    high: float
    references: int
    songs: int

    def __str__(self):
        return (f"{self.value:.4g} (95 %: {self.low:.4g} to {self.high:.4g}; {self.songs} songs, {self.references} "
                "references)")


@dataclasses.dataclass(frozen=True)
class Extrapolation(Distance):
    """A distance of infinitely many songs, and the line that it was read from.

    Attributes:
      sizes: (references, songs) in the subsets of each size.
      distances: the mean distance of the subsets of each size.
      r_squared: how much of the distances' variance the line explains. Far from 1 says that they hardly depend on N,
        or not as 1 / N; near 1 does not say that there were songs enough.
    """

    sizes: tuple[tuple[int, int], ...]
    distances: tuple[float, ...]
    r_squared: float


def gaussian_distance(mean_1: np.ndarray, covariance_1: np.ndarray, mean_2: np.ndarray, covariance_2: np.ndarray
                      ) -> float:
    """The squared Frechet distance of Gaussians, |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)) (Dowson & Landau 1982).

    Args:
      mean_1, mean_2: float [D].
      covariance_1, covariance_2: float [D, D], symmetric, of any rank; what rounding made negative of them counts as 0.

    Raises:
      ValueError: something is not finite.
    """
    return squared_distance(Gaussian.of(mean_1, covariance_1), Gaussian.of(mean_2, covariance_2))


def frechet_distance(reference: np.ndarray, songs: np.ndarray, rng: np.random.Generator | None = None) -> Distance:
    """The Frechet audio distance (Kilgour et al. 2019, arXiv 1812.08466): `gaussian_distance` of the Gaussians fitted
    to two sets.

    It is too high by about a / N + b / M. In fewer songs than dimensions a covariance lacks rank, which is allowed, but
    the bias may then be most of the value: compare values of the same N and M alone, or use `frechet_extrapolation`.
    The standard error is a jackknife's, which leaves out a tenth of both sets at a time.

    Args:
      reference: float [N, D].
      songs: float [M, D].
      rng: deals out the tenths; the same ones each time without it.

    Raises:
      UserError: the embeddings are something else, or fewer than 3.
    """
    sets = _checked(reference, songs, least=3)
    orders = [[np.arange(len(vectors))] for vectors in sets]
    error, groups = jackknife(lambda kept: _between(sets, [order[0] for order in kept]), orders, rng)
    return Distance(*interval(squared_distance(*map(Gaussian.fitted, sets)), error, groups - 1), *map(len, sets))


def frechet_extrapolation(reference: np.ndarray, songs: np.ndarray, orders: int = 4,
                          rng: np.random.Generator | None = None) -> Extrapolation:
    """The Frechet audio distance at infinite N: the intercept of a line through distances of subsets over 1 / N (Chong
    & Forsyth 2020, arXiv 1911.07023; for music Gui et al. 2024, arXiv 2311.01616).

    Subsets are drawn without replacement: with it, what is drawn twice makes every distance higher, the intercept too.
    Both sets shrink by the same shares (`SHARES`), so that the bias that comes of the reference's size goes as well;
    Gui et al. keep the reference whole. The value may be negative.

    The bias goes as 1 / N where N is well above D. Of Gaussians in 64 dimensions whose distance is 4, sets of 100 to
    200 give about 4, and the plain distance 15 to 26. Sets of 64 give 15, and of 40 even 33, which R^2 (0.98) does not
    show; a warning says where subsets are no larger than D.

    The standard error has two parts: a jackknife's over the sets, which leaves out a tenth of both at a time and draws
    the same from what is left, and that of the draws, which is all that residuals of the line would tell of. It takes
    11 * (1 + 6 * `orders`) distances: a minute for twice 1000 songs in 512 dimensions on one core.

    Args:
      reference: float [N, D].
      songs: float [M, D].
      orders: how often the sets are shuffled; a subset is the beginning or the end of a shuffled set.
      rng: what draws; the same draws each time without it.

    Raises:
      UserError: the embeddings are something else, or fewer than 6.
    """
    sets = _checked(reference, songs, least=6)
    if min(map(len, sets)) * min(SHARES) <= sets[0].shape[1]:
        log.warning("the Frechet distance of %d references and %d songs is extrapolated from subsets no larger than "
                    "their %d dimensions, where it does not go as 1 / N", *map(len, sets), sets[0].shape[1])
    rng = rng or np.random.default_rng(0)
    shuffled = [[rng.permutation(len(vectors)) for _ in range(orders)] for vectors in sets]
    sizes, distances = _curve(sets, shuffled)
    intercepts, fitted = _line(sizes, distances)
    error, groups = jackknife(lambda kept: _line(*_curve(sets, kept))[0].mean(), shuffled, rng)
    of_draws = intercepts.std(ddof=1) / orders ** 0.5 if orders > 1 else 0.0
    mean = distances.mean(axis=0)
    spread = float(((mean - mean.mean()) ** 2).sum())
    r_squared = 1 - float(((mean - fitted) ** 2).sum()) / spread if spread else 1.0
    return Extrapolation(
        *interval(float(intercepts.mean()), float(np.hypot(error, of_draws)), groups - 1), *map(len, sets),
        tuple(sizes), tuple(mean.tolist()), r_squared)


def kernel_distance(reference: np.ndarray, songs: np.ndarray, block: int = 1024) -> Distance:
    """The kernel audio distance (Chung et al. 2025, arXiv 2502.15602): the unbiased estimate of the squared maximum
    mean discrepancy (Gretton et al. 2012, equation 3) with the kernel exp(-|x - y|^2 / (2 s^2)), times `SCALE`.

    The bandwidth s is the median distance of pairs of the reference, so that values of several models are comparable;
    of more than 4096 references, those of 4096 evenly spaced ones. The value does not depend on N but by chance. For
    equal distributions it is 0 on average, and so may be negative.

    The standard error is a jackknife's, which leaves out one embedding at a time and keeps the bandwidth (Arvesen
    1969). Where the distributions are equal it is too high, by up to about 1.4 times.

    Args:
      reference: float [N, D].
      songs: float [M, D].
      block: how many rows of a kernel matrix are there at a time: memory is block x (N + M).

    Raises:
      UserError: the embeddings are something else, fewer than 3, or most references are equal.
    """
    sets = _checked(reference, songs, least=3)
    # Distances stay, and small ones are no differences of large numbers.
    x, y = (vectors - sets[0].mean(axis=0) for vectors in sets)
    gamma = 0.5 / _bandwidth(x, block) ** 2
    (n, within_x), (m, within_y) = ((len(own), _kernel_sums(own, own, gamma, block)[0] - 1) for own in (x, y))
    across_x, across_y = _kernel_sums(x, y, gamma, block)
    xx, yy, xy = within_x.sum(), within_y.sum(), across_x.sum()

    def discrepancy(n, xx, m, yy, xy):
        return xx / (n * (n - 1)) + yy / (m * (m - 1)) - 2 * xy / (n * m)

    variance = sum((len(without) - 1) * without.var() for without in (
        discrepancy(n - 1, xx - 2 * within_x, m, yy, xy - across_x),
        discrepancy(n, xx, m - 1, yy - 2 * within_y, xy - across_y)))
    return Distance(*interval(SCALE * float(discrepancy(n, xx, m, yy, xy)), SCALE * float(variance) ** 0.5, n + m - 2),
                    n, m)


class Gaussian(NamedTuple):
    """A Gaussian of `mean` [D] whose covariance is `root.T @ root`, `root` float64 [at most D, D]."""

    mean: np.ndarray
    root: np.ndarray

    @classmethod
    def of(cls, mean: np.ndarray, covariance: np.ndarray) -> "Gaussian":
        mean, covariance = np.asarray(mean, np.float64), np.asarray(covariance, np.float64)
        if not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
            raise ValueError("moments hold NaN or infinite values: expected finite ones")
        variances, axes = np.linalg.eigh(covariance)
        return cls(mean, np.sqrt(np.maximum(variances, 0))[:, None] * axes.T)

    @classmethod
    def fitted(cls, vectors: np.ndarray) -> "Gaussian":
        """To float64 [N, D], with N - 1 in the covariance, which is never squared up: QR of what is centred is as exact
        for those without full rank."""
        mean = vectors.mean(axis=0)
        return cls(mean, np.linalg.qr(vectors - mean, mode="r") / (len(vectors) - 1) ** 0.5)


def squared_distance(a: Gaussian, b: Gaussian) -> float:
    """See `gaussian_distance`. With C = R' R, the eigenvalues of C1 C2 are the squared singular values of R1 R2', whose
    sum is the trace of the root; no matrix need have an inverse, nor a root of its own."""
    overlap = np.linalg.svd(a.root @ b.root.T, compute_uv=False).sum()
    squared = ((a.mean - b.mean) ** 2).sum() + (a.root ** 2).sum() + (b.root ** 2).sum() - 2 * overlap
    return max(float(squared), 0.0)  # rounding makes the distance of equal ones negative


def _between(sets: Sequence[np.ndarray], chosen: Sequence[np.ndarray]) -> float:
    """The distance of the Gaussians fitted to the chosen rows of two sets."""
    return squared_distance(*(Gaussian.fitted(vectors[rows]) for vectors, rows in zip(sets, chosen, strict=True)))


def _curve(sets: Sequence[np.ndarray], orders: Sequence[Sequence[np.ndarray]]
           ) -> tuple[list[tuple[int, int]], np.ndarray]:
    """How the distance depends on N: (references, songs) of each size, and float [orders, sizes].

    Args:
      sets: the two sets.
      orders: for both of them, several orders of the rows to draw from.
    """
    sizes = [tuple(round(share * len(order[0])) for order in orders) for share in SHARES]
    whole = _between(sets, [order[0] for order in orders])
    # Beginning and end of an order have little in common, so that their mean varies less than that of two draws.
    return sizes, np.array([[whole] + [
        (_between(sets, [order[:n] for order, n in zip(pair, size, strict=True)])
         + _between(sets, [order[-n:] for order, n in zip(pair, size, strict=True)])) / 2
        for size in sizes[1:]] for pair in zip(*orders, strict=True)])


def _line(sizes: Sequence[tuple[int, int]], distances: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Least squares over 1 / N: the intercept of each order [orders], and the line through the means [sizes]."""
    sizes = np.array(sizes, np.float64)
    design = np.stack([np.ones(len(sizes)), (sizes[0] / sizes).mean(axis=1)], axis=1)
    coefficients = np.linalg.pinv(design) @ distances.T
    return coefficients[0], design @ coefficients.mean(axis=1)


def jackknife(estimate: Callable[[list[list[np.ndarray]]], float], orders: Sequence[Sequence[np.ndarray]],
               rng: np.random.Generator | None) -> tuple[float, int]:
    """The standard error of an estimate by leaving out a group of both sets at a time, and how many groups there are.

    Args:
      estimate: of `orders` of which the rows of a group are gone.
      orders: for both sets, orders of its rows. Being the same without a group, chance does not come in again.
      rng: deals rows out to groups.
    """
    rng = rng or np.random.default_rng(0)
    counts = [len(order[0]) for order in orders]
    groups = min(_GROUPS, *counts)
    dealt = [rng.permutation(count) % groups for count in counts]
    values = np.array([estimate([[rows[group[rows] != left_out] for rows in order]
                                 for order, group in zip(orders, dealt, strict=True)]) for left_out in range(groups)])
    return float(((groups - 1) * values.var()) ** 0.5), groups


def interval(value: float, error: float, freedom: int) -> tuple[float, float, float, float]:
    """value, error, low, high."""
    half = float(stdtrit(freedom, (1 + _LEVEL) / 2)) * error
    return value, error, value - half, value + half


def _bandwidth(x: np.ndarray, block: int) -> float:
    """The median distance of pairs of different rows of float64 [N, D]."""
    some = x[np.linspace(0, len(x) - 1, min(len(x), _MOST)).round().astype(int)]
    pairs = np.concatenate([squares[np.arange(len(some)) > np.arange(at, at + len(squares))[:, None]]
                            for at, squares in _squares(some, some, block)])
    median = float(np.median(np.sqrt(pairs)))
    if not median:
        raise UserError(f"most of {len(x)} references have the same embedding: expected different songs")
    return median


def _kernel_sums(x: np.ndarray, y: np.ndarray, gamma: float, block: int) -> tuple[np.ndarray, np.ndarray]:
    """Sums of the kernel exp(-gamma |x - y|^2) over y for each x, and over x for each y: [N], [M]."""
    rows, columns = np.empty(len(x)), np.zeros(len(y))
    for at, squares in _squares(x, y, block):
        kernel = np.exp(-gamma * squares)
        rows[at:at + len(kernel)] = kernel.sum(axis=1)
        columns += kernel.sum(axis=0)
    return rows, columns


def _squares(x: np.ndarray, y: np.ndarray, block: int) -> Iterator[tuple[int, np.ndarray]]:
    """Yields (first row, squared distances of up to `block` rows of x to all of y)."""
    lengths = (y ** 2).sum(axis=1)
    for at in range(0, len(x), block):
        some = x[at:at + block]
        yield at, np.maximum((some ** 2).sum(axis=1)[:, None] + lengths - 2 * some @ y.T, 0)


def _checked(reference: np.ndarray, songs: np.ndarray, least: int) -> tuple[np.ndarray, np.ndarray]:
    """Both as float64."""
    sets = {"reference": np.asarray(reference), "songs": np.asarray(songs)}
    for name, vectors in sets.items():
        if vectors.dtype.kind != "f" or vectors.ndim != 2 or not vectors.shape[1]:
            raise UserError(f"embeddings of {name} are {vectors.dtype} of shape {list(vectors.shape)}, expected floats "
                            "[songs, dimensions]")
        if len(vectors) < least:
            raise UserError(f"embeddings of {name} are of {len(vectors)} songs, expected {least} or more: a "
                            "distribution is estimated from many")
        if not np.isfinite(vectors).all():
            bad = int(np.flatnonzero(~np.isfinite(vectors).all(axis=1))[0])
            raise UserError(f"embeddings of {name} hold NaN or infinite values, first in row {bad}: expected finite "
                            "ones")
    widths = [vectors.shape[1] for vectors in sets.values()]
    if widths[0] != widths[1]:
        raise UserError(f"embeddings of reference and songs have {widths[0]} and {widths[1]} dimensions: expected "
                        "those of one model")
    return tuple(vectors.astype(np.float64) for vectors in sets.values())
