"""MusicGen medium (Copet et al. 2023: width 1536, 48 layers) with lyrics.

python -m autosong_jax.train --config=configs/medium.py --config.data.path=DATASET --workdir=DIR
"""

import ml_collections

from autosong_jax.config import finish
from configs import small


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    config = small.musicgen(width=1536, heads=24, layers=48)
    config.sources.lyrics.update(width=768, heads=12, layers=8)
    return finish(config, arg)
