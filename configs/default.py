"""The defaults as they are; `autosong_jax/defaults.py` says what every field means.

python -m autosong_jax.train --config=configs/default.py --config.data.path=DATASET --workdir=DIR
"""

import ml_collections

from autosong_jax import defaults
from autosong_jax.config import finish


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    return finish(defaults.base(), arg)
