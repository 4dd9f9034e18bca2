"""Distances of distributions, against closed forms, roots of matrices, double loops, and true values that are known."""

import math

import numpy as np
import pytest
import scipy.linalg
import scipy.spatial

from autosong_jax.errors import UserError
from autosong_jax.evaluation import distributions


def normal(seed, songs, dimensions=4, shift=0.0, scale=1.0):
    return shift + scale * np.random.default_rng(seed).standard_normal((songs, dimensions))


def moments(vectors):
    return vectors.mean(axis=0), np.cov(vectors, rowvar=False)


def by_sqrtm(mean_1, covariance_1, mean_2, covariance_2):
    root = scipy.linalg.sqrtm(covariance_1 @ covariance_2)
    return ((mean_1 - mean_2) ** 2).sum() + np.trace(covariance_1 + covariance_2 - 2 * root).real


def test_gaussians_of_one_dimension():
    assert distributions.gaussian_distance([1], [[4]], [3], [[9]]) == pytest.approx(4 + (2 - 3) ** 2, rel=1e-14)


@pytest.mark.parametrize("rank", [8, 5])
def test_gaussians_whose_covariances_commute(rank):
    rng = np.random.default_rng(0)
    axes = np.linalg.qr(rng.standard_normal((8, 8)))[0]
    (m1, s1), (m2, s2) = ((rng.standard_normal(8), rng.uniform(0.1, 3, 8) * (np.arange(8) < rank)) for _ in range(2))
    distance = distributions.gaussian_distance(m1, (axes * s1 ** 2) @ axes.T, m2, (axes * s2 ** 2) @ axes.T)
    assert distance == pytest.approx(((m1 - m2) ** 2).sum() + ((s1 - s2) ** 2).sum(), rel=1e-7)


def test_fitted_gaussians_have_the_distance_that_a_root_of_the_product_gives():
    x, y = normal(0, 50), normal(1, 70, shift=0.3) @ normal(2, 4)
    expected = by_sqrtm(*moments(x), *moments(y))
    assert distributions.gaussian_distance(*moments(x), *moments(y)) == pytest.approx(expected, rel=1e-10)
    assert distributions.frechet_distance(x, y).value == pytest.approx(expected, rel=1e-10)
    assert distributions.frechet_distance(y, x).value == pytest.approx(expected, rel=1e-10)


def test_fewer_songs_than_dimensions():
    """Songs within a subspace have the distance that they have there, moved and turned as one likes."""
    x, y = normal(0, 12, 3), normal(1, 9, 3, shift=0.5)
    turn = np.linalg.qr(normal(2, 40, 3))[0].T
    assert distributions.frechet_distance(x @ turn + 7, y @ turn + 7).value == pytest.approx(
        by_sqrtm(*moments(x), *moments(y)), rel=1e-10)


def test_equal_sets_have_no_distance():
    x = normal(0, 30, 50)
    assert distributions.frechet_distance(x, x).value == pytest.approx(0, abs=1e-12)
    assert distributions.frechet_distance(x, x.copy() + 1).value == pytest.approx(50, rel=1e-12)


def test_a_standard_error_is_the_spread_of_other_songs():
    distances = [distributions.frechet_distance(normal(seed, 200), normal(seed + 100, 300, shift=0.5))
                 for seed in range(30)]
    spread = np.std([distance.value for distance in distances], ddof=1)
    assert np.mean([distance.error for distance in distances]) == pytest.approx(spread, rel=0.4)
    assert sum(distance.low < 1 + 4 * (4 / 8) * (1 / 200 + 1 / 300) < distance.high for distance in distances) >= 25


@pytest.fixture(scope="module")
def extrapolated():
    """Of some draws of 500 from two Gaussians in 64 dimensions, (extrapolation, plain distance); and the true one."""
    scales = np.linspace(0.5, 1.5, 64)
    pairs = []
    for seed in range(3):
        x, y = normal(seed, 500, 64, scale=scales), normal(seed + 100, 500, 64, shift=0.25, scale=scales[::-1])
        pairs.append((distributions.frechet_extrapolation(x, y, orders=2, rng=np.random.default_rng(seed)),
                      distributions.frechet_distance(x, y)))
    return pairs, 64 * 0.25 ** 2 + ((scales - scales[::-1]) ** 2).sum()


def test_an_extrapolation_has_not_the_bias_of_few_songs(extrapolated):
    pairs, true = extrapolated
    errors = np.array([at_infinity.value - true for at_infinity, _ in pairs])
    standard_errors = np.array([at_infinity.error for at_infinity, _ in pairs])
    assert (np.abs(errors) < 3 * standard_errors).all()
    assert abs(errors.mean()) < 0.5 + 2 * (standard_errors ** 2).mean() ** 0.5 / len(pairs) ** 0.5
    for at_infinity, plain in pairs:
        assert 0.1 < at_infinity.error < 1.5 and plain.value - true > 3
        # The bias of fitted covariances alike, to first order (Marchenko & Pastur 1967).
        assert plain.value - at_infinity.value == pytest.approx(64 / 4 * 64 / 500 * 2, rel=0.15)


def test_a_result_says_what_it_is_of(extrapolated):
    at_infinity = extrapolated[0][0][0]
    assert at_infinity.sizes == ((500, 500), (375, 375), (300, 300), (250, 250))
    assert list(at_infinity.distances) == sorted(at_infinity.distances) and 0.99 < at_infinity.r_squared <= 1
    assert at_infinity.high - at_infinity.value == pytest.approx(2.262 * at_infinity.error, rel=1e-3)  # t of 9
    assert at_infinity.value - at_infinity.low == pytest.approx(2.262 * at_infinity.error, rel=1e-3)
    distance = distributions.Distance(1.5, 0.25, 1, 2, references=7, songs=6)
    assert str(distance) == "1.5 (95 %: 1 to 2; 6 songs, 7 references)"


def test_subsets_are_drawn_without_replacement(monkeypatch):
    seen = []
    fitted = distributions.Gaussian.fitted
    monkeypatch.setattr(distributions.Gaussian, "fitted", lambda vectors: seen.append(vectors) or fitted(vectors))
    distributions.frechet_extrapolation(normal(0, 40, 2), normal(1, 30, 2), orders=2)
    assert {len(vectors) for vectors in seen[::2]} == {40, 30, 24, 20, 36, 27, 22, 18}  # all, and without a tenth
    assert {len(vectors) for vectors in seen[1::2]} == {30, 22, 18, 15, 27, 20, 16, 14}
    assert all(len(np.unique(vectors, axis=0)) == len(vectors) for vectors in seen)
    assert len({vectors.tobytes() for vectors in seen}) > len(seen) * 0.9


def test_draws_follow_their_generator(caplog):
    def value(seed=None):
        rng = None if seed is None else np.random.default_rng(seed)
        return distributions.frechet_extrapolation(normal(0, 30), normal(1, 40), orders=2, rng=rng)
    assert value(1) == value(1) != value(2)
    assert value() == value()
    assert not caplog.records
    distributions.frechet_extrapolation(normal(0, 30, 20), normal(1, 40, 20), orders=1)
    assert "no larger than their 20 dimensions" in caplog.text


def naive_kernel_distance(x, y):
    bandwidth = np.median([math.dist(x[i], x[j]) for i in range(len(x)) for j in range(i)])

    def mean(a, b, same):
        return np.mean([math.exp(-math.dist(p, q) ** 2 / (2 * bandwidth ** 2))
                        for i, p in enumerate(a) for j, q in enumerate(b) if not (same and i == j)])
    return 100 * (mean(x, x, True) + mean(y, y, True) - 2 * mean(x, y, False))


def test_a_kernel_distance_is_that_of_a_double_loop():
    x, y = normal(0, 13), normal(1, 9, shift=0.4, scale=2)
    distance = distributions.kernel_distance(x, y)
    assert distance.value == pytest.approx(naive_kernel_distance(x, y), rel=1e-10)
    assert (distance.references, distance.songs) == (13, 9)
    # The bandwidth is the reference's: as the spreads of these two sets differ, the other way round the distance does.
    assert distributions.kernel_distance(y, x).value == pytest.approx(naive_kernel_distance(y, x), rel=1e-10)
    assert distributions.kernel_distance(y, x).value != pytest.approx(distance.value, rel=0.05)
    far = distributions.kernel_distance(x + 1e4, y + 1e4)
    assert far.value == pytest.approx(distance.value, rel=1e-8)


@pytest.mark.parametrize("block", [1, 4, 13, 100])
def test_a_kernel_distance_comes_block_by_block(block):
    x, y = normal(0, 13), normal(1, 9, shift=0.4)
    blocks, whole = (distributions.kernel_distance(x, y, block=size) for size in (block, 50))
    assert (blocks.value, blocks.error) == pytest.approx((whole.value, whole.error), rel=1e-12)


def test_the_error_of_a_kernel_distance_is_a_jackknife():
    x, y = normal(0, 13), normal(1, 9, shift=0.4)
    bandwidth = np.median(scipy.spatial.distance.pdist(x))
    kernel = [[np.exp(-scipy.spatial.distance.cdist(a, b, "sqeuclidean") / (2 * bandwidth ** 2)) for b in (x, y)]
              for a in (x, y)]

    def without(i, j):
        rows, columns = ([k for k in range(len(own)) if k != out] for own, out in ((x, i), (y, j)))
        within = [(part.sum() - len(part)) / (len(part) * (len(part) - 1)) for part in (
            kernel[0][0][np.ix_(rows, rows)], kernel[1][1][np.ix_(columns, columns)])]
        return 100 * (sum(within) - 2 * kernel[0][1][np.ix_(rows, columns)].mean())

    variance = 12 * np.var([without(i, None) for i in range(13)]) + 8 * np.var([without(None, j) for j in range(9)])
    assert distributions.kernel_distance(x, y).error == pytest.approx(variance ** 0.5, rel=1e-9)


def test_kernel_distances_of_one_distribution_are_about_0_and_grow_with_a_shift():
    def values(shift):
        return [distributions.kernel_distance(normal(seed, 60, 8), normal(seed + 100, 80, 8, shift=shift))
                for seed in range(40)]
    equal, *shifted = (values(shift) for shift in (0, 0.4, 0.8, 1.6))
    of_equal = np.array([distance.value for distance in equal])
    assert abs(of_equal.mean()) < 3 * of_equal.std(ddof=1) / 40 ** 0.5
    assert of_equal.min() < 0 < of_equal.max()
    assert sum(distance.low < 0 < distance.high for distance in equal) >= 35
    means = [np.mean([distance.value for distance in distances]) for distances in shifted]
    assert 0 < means[0] < means[1] < means[2]
    assert all(distance.low > 0 for distance in shifted[-1])


def test_a_median_is_of_some_of_many_references(monkeypatch):
    x, y = normal(0, 301), normal(1, 50)
    exact = distributions.kernel_distance(x, y).value
    monkeypatch.setattr(distributions, "_MOST", 101)
    some = np.median(scipy.spatial.distance.pdist(x[::3]))
    assert distributions._bandwidth(x, 7) == pytest.approx(some, rel=1e-12)
    assert distributions.kernel_distance(x, y).value == pytest.approx(exact, abs=0.1)


@pytest.mark.parametrize("estimate", [
    distributions.frechet_distance, distributions.frechet_extrapolation, distributions.kernel_distance])
def test_what_has_no_distance(estimate):
    good = normal(0, 10)
    spoiled = good.copy()
    spoiled[3, 1] = np.nan
    for reference, songs, words in [
            (good, good[:1], "of songs are of 1 songs, expected"), (good[:2], good, "of reference are of 2 songs"),
            (good, spoiled, "songs hold NaN or infinite values, first in row 3"),
            (good, good[:, :3], "have 4 and 3 dimensions"), (good[0], good, r"float64 of shape \[4\], expected floats"),
            (good, good.astype(int), "are int64 of shape")]:
        with pytest.raises(UserError, match=words):
            estimate(reference, songs)


def test_other_things_without_a_distance():
    with pytest.raises(UserError, match="most of 10 references have the same embedding"):
        distributions.kernel_distance(np.ones((10, 3)), normal(0, 10, 3))
    with pytest.raises(ValueError, match="moments hold NaN"):
        distributions.gaussian_distance([0], [[np.nan]], [0], [[1]])
