"""Heads that are trained once for all tests."""

import functools

import pytest

from tests.latents import cases


@pytest.fixture(scope="session")
def fork_head():
    """`fork_head("flow")`: that head after it has learned `cases.fork`; each is trained once."""
    return functools.cache(cases.fork_head)
