"""A command that is stopped at every moment at which it changes what is on disk."""

import functools
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest


class Stop(BaseException):
    """Not an Exception: nothing may handle it."""


def stopped_before_and_after_each_step(start: Callable[[], object]) -> int:
    """Calls `start` until it returns, and stops each call one step later than the one before it; how many there were.

    A file or a directory gets its name at each `os.replace`, one goes away at each `unlink` and `rmtree`.
    """
    steps = allowed = 0

    def stop():
        nonlocal steps
        steps += 1
        if steps > allowed:
            raise Stop

    def stopping(function):
        @functools.wraps(function)
        def step(*args, **kwargs):
            stop()
            result = function(*args, **kwargs)
            stop()
            return result
        return step

    with pytest.MonkeyPatch.context() as patch:
        for module, name in ((os, "replace"), (Path, "unlink"), (shutil, "rmtree")):
            patch.setattr(module, name, stopping(getattr(module, name)))
        while True:
            steps, allowed = 0, allowed + 1
            try:
                start()
                return allowed
            except Stop:
                pass
