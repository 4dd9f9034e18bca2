"""Runs of one config share what is traced and compiled of it, as they do not in processes of their own."""

import pytest

from autosong_jax import config as config_file
from autosong_jax.training import loop


@pytest.fixture(autouse=True, scope="module")
def shared_trainers():
    """Of a file's runs: most are there to be stopped, damaged or begun again, and would trace the same step each."""
    make_trainer, made = loop.make_trainer, {}

    def make(config, create_model, pattern, mesh):
        key = config_file.to_json(config), mesh
        if key not in made:
            made[key] = make_trainer(config, create_model, pattern, mesh)
        return made[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "make_trainer", make)
        yield
