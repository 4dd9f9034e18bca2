"""Learns to sing to a backing: a lead whose notes follow from the chords that it hears.

python -m data_prep.songbook --duets --output songs --songs 2000 --seconds 6 --seed 0
python -m data_prep.export --input songs --output DATASET --sources text,backing --norequire_lyrics \
    --codec melrvq:hop=1280,subframes=4,num_codebooks=2
python -m autosong_jax.train --config=configs/duets.py --config.data.path=DATASET --workdir=DIR
"""

import ml_collections

from autosong_jax import defaults
from autosong_jax.config import finish, frames

SECONDS = 6.0


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    config = defaults.base()
    config.assumed.update(codec="melrvq", sample_rate=16_000, frame_rate=12.5, num_codebooks=2, codebook_size=512)
    config.data.update(seconds=SECONDS, batch_size=16, end_of_song=False)  # how long a lead is, its backing says
    config.sources = {"backing": defaults.source(
        kind="backing", max_length=frames(SECONDS, config.assumed.frame_rate), width=192, heads=4, layers=2)}
    config.model.update(width=192, heads=4, layers=4, mlp_width=768, activation="relu")
    config.optimizer.update(learning_rate=1e-3, warmup_steps=200)
    config.objective.update(scheduled_sampling_steps=500)  # the share itself is 0 unless asked for
    config.train.update(steps=1500, log_every=50, eval_every=250, checkpoint_every=250, sample_every=0)
    config.sampling.update(temperature=0.0, cfg_scale=1.0)
    return finish(config, arg)
