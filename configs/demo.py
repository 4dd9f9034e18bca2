"""The model of `make demo`: learns a small songbook by heart in minutes on two CPU cores.

python -m autosong_jax.train --config=configs/demo.py --config.data.path=DATASET --workdir=DIR
"""

import ml_collections

from autosong_jax import defaults
from autosong_jax.config import finish


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    config = defaults.base()
    config.assumed.update(codec="melrvq", sample_rate=16_000, frame_rate=25.0, num_codebooks=4, codebook_size=512)
    config.data.update(seconds=12.5, batch_size=8)
    # No condition dropout: in songs known by heart only the first notes need the lyrics, which so count every time.
    config.sources.lyrics.update(max_length=160, width=192, heads=4, layers=2, dropout=0.0)
    config.sources.genre.update(max_length=16, width=64, heads=2, layers=1, dropout=0.0)
    config.model.update(width=192, heads=4, layers=4, mlp_width=768, activation="relu")
    config.optimizer.update(learning_rate=1e-3, warmup_steps=50)
    config.train.update(steps=400, log_every=50, eval_every=200, checkpoint_every=200, sample_every=0)
    config.sampling.update(temperature=0.0, cfg_scale=1.0)
    return finish(config, arg)
