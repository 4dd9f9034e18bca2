"""Residual k-means, against naive loops and scikit-learn."""

import numpy as np
import sklearn.cluster

from autosong_jax.codecs.melrvq import kmeans


def clusters(rng, centres, points, dimensions, spread):
    chosen = 5 * rng.standard_normal((centres, dimensions))
    return (chosen[rng.integers(centres, size=points)] + spread * rng.standard_normal((points, dimensions))
            ).astype(np.float32)


def test_quantize_is_the_naive_loop():
    rng = np.random.default_rng(0)
    points = rng.standard_normal((1100, 6)).astype(np.float32)  # more than one block
    codebooks = rng.standard_normal((3, 11, 6)).astype(np.float32)
    codes = kmeans.quantize(points, codebooks)
    assert codes.dtype == np.uint16
    for point, code in zip(points[::50], codes[::50], strict=True):
        left = point.astype(np.float64)
        for level, entries in enumerate(codebooks):
            assert code[level] == np.square(entries - left).sum(axis=1).argmin()
            left = left - entries[code[level]]
    np.testing.assert_allclose(kmeans.dequantize(codes, codebooks)[50],
                               sum(codebooks[k, codes[50, k]] for k in range(3)), rtol=1e-6)


def test_fit_is_as_good_as_scikit_learn():
    points = clusters(np.random.default_rng(0), 40, 3000, 8, 1.0)
    codebooks = kmeans.fit(points, 1, 32, iterations=20, seed=0)
    ours = np.square(points - kmeans.dequantize(kmeans.quantize(points, codebooks), codebooks)).sum()
    theirs = sklearn.cluster.KMeans(32, n_init=1, max_iter=20, init="random", random_state=0).fit(points).inertia_
    assert ours < 1.1 * theirs


def test_later_codebooks_reduce_the_error():
    points = clusters(np.random.default_rng(0), 9, 2000, 8, 1.0)
    codebooks = kmeans.fit(points, 4, 16, iterations=10, seed=0)
    codes = kmeans.quantize(points, codebooks)
    errors = [np.square(points - kmeans.dequantize(codes[:, :k], codebooks[:k])).sum() for k in (1, 2, 3, 4)]
    assert np.all(np.diff(errors) < 0)


def test_entry_0_is_zero():
    codebooks = kmeans.fit(clusters(np.random.default_rng(0), 9, 500, 4, 1.0), 3, 16, iterations=5, seed=0)
    assert not codebooks[:, 0].any()


def test_fewer_distinct_points_than_entries():
    points = np.repeat(np.array([[1, 2], [3, 4], [-5, 0]], np.float32), 20, axis=0)
    codebooks = kmeans.fit(points, 2, 8, iterations=5, seed=0)
    codes = kmeans.quantize(points, codebooks)
    assert codebooks.shape == (2, 8, 2) and np.isfinite(codebooks).all()
    np.testing.assert_array_equal(kmeans.dequantize(codes, codebooks), points)
    assert not codes[:, 1].any()  # nothing is left for the second codebook


def test_one_entry():
    assert not kmeans.fit(np.ones((5, 2), np.float32), 2, 1, iterations=3, seed=0).any()


def test_the_seed_decides():
    points = clusters(np.random.default_rng(0), 40, 1000, 8, 1.0)
    first, second, other = (kmeans.fit(points, 2, 16, iterations=5, seed=seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(first, other)
