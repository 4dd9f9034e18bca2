"""How benchmarks time things side by side."""

import time
from collections.abc import Callable, Sequence
from typing import Any


def alternate(functions: Sequence[Callable[[], Any]], repeats: int, *, before: int = 0) -> list[list[float]]:
    """Seconds that each function takes, in turns, after a turn of each that is not counted.

    Turns, so that whatever else the machine does meets them all. A function returns when its work is done.

    Args:
      functions: what is timed.
      repeats: the turns of each that are counted.
      before: calls at the start of each turn that are not counted.
    """
    seconds = [[] for _ in functions]
    for _ in range(1 + repeats):
        for function, taken in zip(functions, seconds, strict=True):
            for _ in range(before):
                function()
            started = time.perf_counter()
            function()
            taken.append(time.perf_counter() - started)
    return [taken[1:] for taken in seconds]


def repeat(function: Callable[[], Any], repeats: int) -> list[float]:
    """Seconds of each of `repeats` calls, after one that is not counted."""
    return alternate([function], repeats)[0]
