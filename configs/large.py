"""MusicGen large (Copet et al. 2023: width 2048, 48 layers) with lyrics.

python -m autosong_jax.train --config=configs/large.py --config.data.path=DATASET --workdir=DIR
"""

import ml_collections

from autosong_jax.config import finish
from configs import small


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    config = small.musicgen(width=2048, heads=32, layers=48)
    config.sources.lyrics.update(width=1024, heads=16, layers=8)
    config.train.update(remat="full")
    return finish(config, arg)
