"""Which split a song belongs to: decided by a hash of its group, before anything is fitted or encoded."""

import hashlib
from collections.abc import Mapping

SPLITS = ("train", "validation", "test")


def join_same_audio(groups: Mapping[str, str], digests: Mapping[str, str]) -> dict[str, str]:
    """Puts songs with the same audio, and everything grouped with them, into one group, so that no split leaks.

    Args:
      groups: song id -> group.
      digests: song id -> digest of the audio file.

    Returns:
      song id -> group; groups that were joined bear the first of their names in alphabetical order.
    """
    parent = {group: group for group in groups.values()}

    def root(group: str) -> str:
        while parent[group] != group:
            group = parent[group]
        return group

    owner: dict[str, str] = {}
    for song, group in groups.items():
        pair = sorted((root(group), root(owner.setdefault(digests[song], group))))
        parent[pair[1]] = pair[0]
    return {song: root(group) for song, group in groups.items()}


def assign_splits(groups: Mapping[str, str], validation_fraction: float, test_fraction: float) -> dict[str, str]:
    """Song id -> "train", "validation" or "test", the same for all songs of a group.

    A group's hash gives a number u in [0, 1): u < validation_fraction is validation, the next test_fraction is test,
    the rest is train. So a group keeps its split as songs are added or removed. By three exceptions no split asked for
    is empty where that can be helped: the group of the highest u is always in train; with at least two groups and
    validation_fraction > 0 the group of the lowest u is always in validation; and with at least three groups and
    test_fraction > 0, if none is in test, then the next lowest is.

    Args:
      groups: song id -> group; not empty.
      validation_fraction, test_fraction: each in [0, 1), together below 1.
    """
    ordered = sorted(set(groups.values()), key=lambda group: (_uniform(group), group))
    split_of = {}
    for group in ordered:
        u = _uniform(group)
        split_of[group] = ("validation" if u < validation_fraction else
                           "test" if u < validation_fraction + test_fraction else "train")
    split_of[ordered[-1]] = "train"
    rest = ordered[:-1]
    if rest and validation_fraction > 0:
        split_of[rest[0]] = "validation"
        rest = rest[1:]
    if len(ordered) >= 3 and test_fraction > 0 and "test" not in split_of.values():
        split_of[rest[0]] = "test"
    return {song: split_of[group] for song, group in groups.items()}


def _uniform(group: str) -> float:
    """A number in [0, 1) that depends on the name alone."""
    return int.from_bytes(hashlib.sha256(group.encode()).digest()[:6], "big") / 2**48
