"""Mel spectrograms to sound, learned from songs: what sings in place of Griffin-Lim.

python -m data_prep.export --input SONGS --output SOUND --codec pcm
python -m autosong_jax.train --config=configs/vocoder.py --config.data.path=SOUND --workdir=DIR

It is Vocos (Siuzdak 2023), about 14 million parameters, for 48 kHz and 256 bands. `discriminator=true` has it play
against a discriminator of spectra, `:n_mels=64` and `n_fft=512` are for other mel spectrograms.
"""

import ml_collections

from autosong_jax import config as config_file
from autosong_jax import defaults


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    given = config_file.parse_arg(arg, discriminator=False, n_mels=256, n_fft=0, frame_rate=187.5, runlocal=False)
    config = defaults.base()
    config.assumed.codec = "pcm"
    config.data.update(seconds=64 / given.frame_rate, batch_size=16, end_of_song=False)
    config.sources = ml_collections.ConfigDict()
    config.vocoder.update(n_mels=given.n_mels, n_fft=given.n_fft, discriminator_width=32 if given.discriminator else 0)
    config.objective.update(name="vocoding", adversarial_start=20_000)
    config.optimizer.update(learning_rate=5e-4, b1=0.8, b2=0.99, weight_decay=0.01)
    config.train.update(sample_every=0)
    return config_file.run_local(config) if given.runlocal else config
