"""Guidance against its written-out formula."""

import numpy as np
import pytest

from autosong_jax.sampling.guidance import branches, combine


def guided(names, scales, logits_of):
    keep, weights = branches(names, scales)
    logits = np.concatenate([logits_of(frozenset(n for n, k in zip(names, row, strict=True) if k)) for row in keep])
    return np.asarray(combine(logits, weights)), len(keep)


def logits_of(kept):
    return np.random.default_rng(sum(map(ord, "".join(sorted(kept))))).normal(size=(2, 3, 5))


NONE, A, AB = frozenset(), frozenset("a"), frozenset("ab")


@pytest.mark.parametrize(("scales", "expected", "passes"), [
    ({"a": 1.0, "b": 1.0}, logits_of(AB), 1),
    ({"a": 3.0, "b": 3.0}, logits_of(NONE) + 3 * (logits_of(AB) - logits_of(NONE)), 2),
    ({"a": 4.0, "b": 2.0},
     logits_of(NONE) + 4 * (logits_of(A) - logits_of(NONE)) + 2 * (logits_of(AB) - logits_of(A)), 3),
    ({"a": 1.0, "b": 0.0}, logits_of(A), 1),
    ({"a": 0.0, "b": 0.0}, logits_of(NONE), 1),
])
def test_each_source_has_its_scale(scales, expected, passes):
    got, count = guided(["a", "b"], scales, logits_of)
    np.testing.assert_allclose(got, expected, atol=1e-5)
    assert count == passes


def test_no_sources_is_one_plain_pass():
    keep, weights = branches([], {})
    assert keep.shape == (1, 0) and weights.tolist() == [1.0]
