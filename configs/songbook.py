"""Learns to sing from a songbook until it sings lyrics that it has never seen.

python -m data_prep.songbook --output songs --songs 4000 --seconds 6 --seed 0
python -m data_prep.export --input songs --output DATASET --codec melrvq:hop=1280,subframes=4,num_codebooks=2
python -m autosong_jax.train --config=configs/songbook.py --config.data.path=DATASET --workdir=DIR
"""

import ml_collections

from autosong_jax import defaults
from autosong_jax.config import finish


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    config = defaults.base()
    config.assumed.update(codec="melrvq", sample_rate=16_000, frame_rate=12.5, num_codebooks=2, codebook_size=512)
    config.data.update(seconds=6.5, batch_size=16)
    config.sources.lyrics.update(max_length=80, width=256, heads=4, layers=3)
    config.sources.genre.update(max_length=16, width=64, heads=2, layers=1)
    config.model.update(width=256, heads=4, layers=4, mlp_width=1024, activation="relu")
    config.optimizer.update(learning_rate=1e-3, warmup_steps=200)
    config.train.update(steps=2000, log_every=50, eval_every=250, checkpoint_every=250, sample_every=0)
    config.sampling.update(temperature=0.0, cfg_scale=1.0)
    return finish(config, arg)
