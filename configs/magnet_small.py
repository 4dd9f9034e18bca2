"""MAGNeT small (Ziv et al. 2024: width 1024, 24 layers) with lyrics: whole clips at once, in a few dozen passes.

python -m autosong_jax.train --config=configs/magnet_small.py --config.data.path=DATASET --workdir=DIR
"""

import ml_collections

from autosong_jax.config import finish
from configs import small


def magnet(*, width: int, heads: int, layers: int) -> ml_collections.ConfigDict:
    """MAGNeT's decoder, training and sampling of 30 s, conditioned on lyrics and a genre."""
    config = small.musicgen(width=width, heads=heads, layers=layers)
    config.objective.name = "masked_spans"
    config.model.pattern = "parallel"
    config.data.end_of_song = False  # how long a song is, is given
    for source in config.sources.values():
        source.dropout = 0.3
    config.sampling.masked.steps = (60, 10, 10, 10)
    return config


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    return finish(magnet(width=1024, heads=16, layers=24), arg)
