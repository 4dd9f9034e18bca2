"""The model of configs/songbook.py with masked spans in place of next steps; songs and dataset are made as there.

python -m autosong_jax.train --config=configs/songbook_masked.py --config.data.path=DATASET --workdir=DIR
"""

import ml_collections

from autosong_jax.config import finish
from configs import songbook


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    config = songbook.get_config()
    config.objective.name = "masked_spans"
    config.model.pattern = "parallel"
    config.sampling.masked.update(steps=(20, 10), temperature=0.0, cfg_scale=1.0)
    return finish(config, arg)
