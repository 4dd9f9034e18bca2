"""Learns to sing lyrics in the register of a clip that it is given: an octave higher, or not.

python -m data_prep.songbook --styles --output songs --songs 4000 --seconds 7 --seed 0
python -m data_prep.export --input songs --output DATASET --codec melrvq:hop=1280,subframes=4,num_codebooks=2
python -m autosong_jax.train --config=configs/styles.py --config.data.path=DATASET --workdir=DIR
"""

import ml_collections

from autosong_jax import defaults
from autosong_jax.config import finish, frames

SECONDS = 2.0  # of the clip


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    config = defaults.base()
    config.assumed.update(codec="melrvq", sample_rate=16_000, frame_rate=12.5, num_codebooks=2, codebook_size=512)
    # Less than a song: the clip is of what is left of it. From the beginning on, where the lyrics begin, too.
    config.data.update(seconds=4.5, batch_size=16, beginnings=True, end_of_song=False)
    config.sources.lyrics.update(max_length=96, width=256, heads=4, layers=3, dropout=0.0)
    config.sources.genre.update(max_length=16, width=64, heads=2, layers=1)
    config.sources.style = defaults.source(
        kind="style", max_length=frames(SECONDS, config.assumed.frame_rate), width=128, heads=4, layers=1)
    config.model.update(width=256, heads=4, layers=4, mlp_width=1024, activation="relu")
    config.optimizer.update(learning_rate=1e-3, warmup_steps=200)
    config.train.update(steps=3000, log_every=50, eval_every=250, checkpoint_every=250, sample_every=0)
    config.sampling.update(temperature=0.0, cfg_scale=1.0)
    return finish(config, arg)
