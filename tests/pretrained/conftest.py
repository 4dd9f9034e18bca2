"""Toy MusicGens with random weights, saved as the hub holds released ones."""

import pytest

from tests import musicgens


@pytest.fixture(scope="session")
def make_musicgen():
    """`make_musicgen("mono", folder, width=64)` saves a toy and gives it: 50 frames/s, 64 entries a codebook."""
    return musicgens.make_musicgen


@pytest.fixture(scope="session", params=musicgens.SHAPES)
def musicgen(request, make_musicgen, tmp_path_factory):
    """A toy of each kind, in several shards."""
    return make_musicgen(request.param, tmp_path_factory.mktemp("musicgen") / request.param, shard="40KB")


@pytest.fixture(scope="session")
def imported(musicgen, tmp_path_factory):
    """The workdir that `musicgen` becomes."""
    from autosong_jax.pretrained import released

    workdir = tmp_path_factory.mktemp("imported") / musicgen.kind
    released.read(str(musicgen.directory)).write(workdir)
    return workdir
