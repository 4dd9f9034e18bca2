"""Mel spectrograms to a few latents and back: the first of the three models of the continuous system.

python -m data_prep.export --input SONGS --output DATASET --codec mel
python -m autosong_jax.train --config=configs/autosong_autoencoder.py --config.data.path=DATASET --workdir=DIR

Blocks of 256 frames x 256 bands become 16 x 16 x `channels` latents. `:channels=8` or 16 lose less of the sound, and
the song model has more to predict; `discriminator=false` trains without a game, `level=true` with norms that keep how
loud a block is. For mel spectrograms of another frame rate give it, such as `:frame_rate=250`.
"""

import ml_collections

from autosong_jax import config as config_file
from autosong_jax import defaults

FRAMES = 256  # of a block


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    given = config_file.parse_arg(arg, channels=4, discriminator=True, level=False, frame_rate=187.5, runlocal=False)
    config = defaults.base()
    config.assumed.codec = "mel"
    config.data.update(seconds=FRAMES / given.frame_rate, batch_size=16, end_of_song=False, curriculum_steps=10_000)
    config.sources = ml_collections.ConfigDict()
    config.autoencoder.update(channels=given.channels, norm="level" if given.level else "instance",
                              discriminator_width=64 if given.discriminator else 0)
    config.objective.update(name="reconstruction", adversarial=0.01, feature_matching=0.1, adversarial_start=20_000)
    config.optimizer.update(learning_rate=1e-4, b2=0.99, weight_decay=0.01)
    config.train.update(sample_every=0)
    return config_file.run_local(config) if given.runlocal else config
