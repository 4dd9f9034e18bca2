"""How far a sequence is from another by insertions, deletions and substitutions."""

from collections.abc import Hashable, Sequence

import numpy as np


def edit_distance(reference: Sequence[Hashable], hypothesis: Sequence[Hashable]) -> int:
    """The fewest insertions, deletions and substitutions that make one of the other (Levenshtein 1966).

    A row of the table at a time: songs of thousands of characters take milliseconds, and memory goes with the shorter.
    """
    numbers: dict[Hashable, int] = {}
    a, b = (np.array([numbers.setdefault(item, len(numbers)) for item in items], np.int64)
            for items in (reference, hypothesis))
    if len(a) < len(b):
        a, b = b, a
    steps = np.arange(len(b) + 1)
    costs = steps  # of making the first items of b, each number of them, of no item of a
    for done, item in enumerate(a, start=1):
        best = np.concatenate([[done], np.minimum(costs[:-1] + (b != item), costs[1:] + 1)])
        costs = np.minimum.accumulate(best - steps) + steps  # an insertion costs a step to the right
    return int(costs[-1])
