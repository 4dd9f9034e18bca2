"""Half as wide again as MusicGen large, with lyrics, for many accelerators of one host.

python -m autosong_jax.train --config=configs/xlarge.py --config.data.path=DATASET --workdir=DIR
"""

import ml_collections

from autosong_jax.config import finish
from configs import small


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    config = small.musicgen(width=3072, heads=48, layers=48, learning_rate=7e-5)
    config.sources.lyrics.update(width=1024, heads=16, layers=12)
    config.train.update(remat="full")
    return finish(config, arg)
