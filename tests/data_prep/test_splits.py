"""Splits: groups stay together, shares come out, songs keep their split, and no split asked for is empty."""

import itertools

import pytest

from data_prep.splits import assign_splits, join_same_audio


def groups_of(count):
    return {f"song {i}": f"group {i // 3}" for i in range(count)}


def test_groups_stay_together_and_shares_come_out():
    groups = groups_of(6000)
    split_of = assign_splits(groups, 0.2, 0.1)
    by_group = {}
    for song, group in groups.items():
        assert by_group.setdefault(group, split_of[song]) == split_of[song]
    counts = {split: sum(value == split for value in split_of.values()) / 6000 for split in split_of.values()}
    # Three standard deviations of 2000 draws.
    assert counts["validation"] == pytest.approx(0.2, abs=0.027) and counts["test"] == pytest.approx(0.1, abs=0.021)


def test_a_song_keeps_its_split_when_others_come():
    many = groups_of(600)
    few = dict(itertools.islice(many.items(), 300))
    before, after = assign_splits(few, 0.2, 0.1), assign_splits(many, 0.2, 0.1)
    assert all(after[song] == before[song] for song in few)


@pytest.mark.parametrize(("validation", "test"), [(0.0, 0.0), (0.01, 0.0), (0.01, 0.01), (0.5, 0.49), (0.98, 0.01)])
@pytest.mark.parametrize("count", [1, 2, 3, 4, 9])
def test_no_split_asked_for_is_empty_where_that_can_be(count, validation, test):
    for trial in range(20):
        splits = set(assign_splits({f"{trial} {i}": f"{trial} {i}" for i in range(count)}, validation, test).values())
        assert "train" in splits
        assert ("validation" in splits) == (validation > 0 and count >= 2)
        assert ("test" in splits) == (test > 0 and count >= 3) or (test > 0 and count >= 2 and "test" in splits)


def test_same_audio_joins_groups():
    groups = {"a": "g1", "b": "g2", "c": "g2", "d": "g3", "e": "g4", "f": "g3", "g": "g5"}
    digests = {"a": "X", "b": "X", "c": "Y", "d": "Y", "e": "Z", "f": "W", "g": "V"}
    # a = b by audio, b with c by group, c = d by audio, d with f by group; e and g on their own.
    assert join_same_audio(groups, digests) == {
        "a": "g1", "b": "g1", "c": "g1", "d": "g1", "e": "g4", "f": "g1", "g": "g5"}
