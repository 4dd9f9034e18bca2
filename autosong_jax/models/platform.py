"""Which kind of accelerator a program is for: the one that is here, or one that a run is planned for."""

import contextlib
import contextvars
from collections.abc import Iterator

import jax

_PLANNED = contextvars.ContextVar("planned", default=None)


def platform() -> str:
    """"cpu", "gpu" or "tpu"."""
    return _PLANNED.get() or jax.default_backend()


@contextlib.contextmanager
def planned_for(name: str) -> Iterator[None]:
    """Programs traced inside are those of that platform. They tell how much memory they take, but need not run."""
    token = _PLANNED.set(name)
    try:
        yield
    finally:
        _PLANNED.reset(token)
