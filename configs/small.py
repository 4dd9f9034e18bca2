"""MusicGen small (Copet et al. 2023: width 1024, 24 layers) with lyrics.

python -m autosong_jax.train --config=configs/small.py --config.data.path=DATASET --workdir=DIR
"""

import ml_collections

from autosong_jax import defaults
from autosong_jax.config import finish


def musicgen(*, width: int, heads: int, layers: int, learning_rate: float = 1e-4) -> ml_collections.ConfigDict:
    """MusicGen's decoder and training, conditioned on lyrics and a genre."""
    config = defaults.base()
    config.model.update(width=width, heads=heads, layers=layers, mlp_width=4 * width)
    config.optimizer.update(learning_rate=learning_rate, warmup_steps=4000, b1=0.9, b2=0.95, weight_decay=0.1)
    config.train.update(steps=1_000_000, remat="dots")
    return config


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    return finish(musicgen(width=1024, heads=16, layers=24), arg)
