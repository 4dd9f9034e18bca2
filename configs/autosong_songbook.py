"""Learns to sing from a songbook as configs/songbook.py does, by latents in place of codes.

python -m data_prep.songbook --output songs --songs 4000 --seconds 6 --seed 0
python -m data_prep.export --input songs --output DATASET --codec mel:sample_rate=16000,hop=128,n_mels=64
python -m autosong_jax.train --config=configs/autosong_autoencoder.py:channels=8,frame_rate=125 \
    --config.data.path=DATASET --config.autoencoder.width=16 --workdir=AUTOENCODER
python -m autosong_jax.train --config=configs/autosong_songbook.py --config.data.path=DATASET \
    --config.latents.workdir=AUTOENCODER --workdir=DIR

`head` and `given` are those of configs/autosong_mel.py, whose way of training it has; the decoder is that of the model
of codes. `words=false` learns from windows anywhere in longer songs, without their lyrics.
"""

import ml_collections

from autosong_jax import config as config_file
from configs import autosong_mel, songbook


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    given = config_file.parse_arg(arg, head="flow", given=False, words=True, runlocal=False)
    config, continuous = songbook.get_config(), autosong_mel.get_config(f"head={given.head},given={given.given}")
    config.assumed.codec = "mel:sample_rate=16000,hop=128,n_mels=64"
    for part in ("objective", "latents", "sampling"):
        config[part] = continuous[part]
    config.latents.update(layers=3, hidden=256, mlp_width=256)
    config.train.trainable = continuous.train.trainable
    if not given.words:
        del config.sources["lyrics"]
        config.data.end_of_song = False
    return config_file.run_local(config) if given.runlocal else config
