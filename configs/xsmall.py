"""About 25 million parameters: a first model of one's own on one GPU.

python -m autosong_jax.train --config=configs/xsmall.py --config.data.path=DATASET --workdir=DIR
"""

import ml_collections

from autosong_jax import defaults
from autosong_jax.config import finish


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    config = defaults.base()
    config.data.update(batch_size=64)
    config.sources.lyrics.update(width=256, heads=4, layers=4)
    config.model.update(width=384, heads=6, layers=8, mlp_width=1536)
    config.optimizer.update(learning_rate=5e-4)
    config.train.update(steps=20_000, accumulation=4, remat="full")
    return finish(config, arg)
