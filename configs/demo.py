"""The model of `make demo`: learns a small songbook by heart in minutes on two CPU cores.

python -m autosong_jax.train --config=configs/demo.py --config.data.path=DATASET --workdir=DIR
"""

import ml_collections

from configs import default


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    config = default.base()
    config.data.update(seconds=12.5, batch_size=8)
    config.sources.lyrics.update(max_length=160, width=192, heads=4, layers=2)
    config.sources.genre.update(max_length=16, width=64, heads=2, layers=1)
    config.model.update(width=192, heads=4, layers=4, mlp_width=768, activation="relu")
    config.optimizer.update(learning_rate=2e-3, warmup_steps=50)
    config.train.update(steps=300, log_every=25, eval_every=100, checkpoint_every=100, sample_every=0)
    config.sampling.update(temperature=0.0, cfg_scale=1.0)
    return default.finish(config, arg)
