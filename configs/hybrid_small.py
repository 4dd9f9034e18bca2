"""One model that does both: begins a song step by step, as MusicGen small does, and fills in the rest, as MAGNeT does.

python -m autosong_jax.train --config=configs/hybrid_small.py --config.data.path=DATASET --workdir=DIR
"""

import ml_collections

from autosong_jax.config import finish
from configs import magnet_small


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    config = magnet_small.magnet(width=1024, heads=16, layers=24)
    config.objective.name = "both"
    config.model.pattern = "delay"
    config.data.end_of_song = True
    config.sampling.masked.hybrid_seconds = 3.0
    return finish(config, arg)
