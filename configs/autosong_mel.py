"""Lyrics and a genre to continuous latents: no codebooks at all.

python -m autosong_jax.train --config=configs/autosong_mel.py --config.data.path=DATASET \
    --config.latents.workdir=AUTOENCODER --workdir=DIR

The dataset is one of mel spectrograms, the autoencoder one that configs/autosong_autoencoder.py has trained on it.
Heads are flow, distilled, mixture and regression: `:head=distilled` sings in one to four steps. `given=true` is the
system as it was first built: patches one by one, differences from the latent before by L1 and a discriminator, a clean
history and no short context. It drifts: beside it the others show what each part is good for.
"""

import ml_collections

from autosong_jax import config as config_file
from autosong_jax import defaults


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    given = config_file.parse_arg(arg, head="flow", given=False, frame_rate=187.5, runlocal=False)
    config = defaults.base()
    config.assumed.codec = "mel"
    config.data.update(seconds=30.0, batch_size=32)
    config.objective.name = "next_latent"
    config.model.update(norm="post", activation="gelu", dropout=0.1)
    config.latents.head = given.head
    if given.given:
        config.latents.update(head="regression", order="raster", residual=True, noise=False, short_context=0,
                              adversarial=0.01)
    config.optimizer.update(learning_rate=1e-4)
    config.train.update(trainable=("^(?!frames/latents/)",), ema_decay=0.999, sample_every=0)
    config.sampling.update(temperature=0.8, cfg_scale=1.5)
    return config_file.run_local(config) if given.runlocal else config
