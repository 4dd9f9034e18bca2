"""Learns to sing lyrics in the register of a clip that it is given: an octave higher, or not.

python -m data_prep.songbook --styles --output songs --songs 4000 --seconds 7
python -m data_prep.export --input songs --output DATASET --codec melrvq:hop=1280,subframes=4,num_codebooks=2
python -m data_prep.songbook --output plain_songs --songs 4000 --seconds 6
python -m data_prep.export --input plain_songs --output PLAIN --codec DATASET/codec
python -m autosong_jax.train --config=configs/styles.py:words --config.data.path=PLAIN --workdir=WORDS
python -m autosong_jax.train --config=configs/styles.py --config.data.path=DATASET --config.init.workdir=WORDS \
    --workdir=DIR

First words, of songs in one register and without clips, and then clips, from there. Where both are new at once, the
words were not learned in 2,000 steps: two registers double what there is to learn of each syllable.
"""

import ml_collections

from autosong_jax import defaults
from autosong_jax.config import frames, parse_arg, run_local

SECONDS = 2.0  # of the clip


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    given = parse_arg(arg, words=False, runlocal=False)
    config = defaults.base()
    config.assumed.update(codec="melrvq", sample_rate=16_000, frame_rate=12.5, num_codebooks=2, codebook_size=512)
    # Less than a song: the clip is of what is left of it. From the beginning on, where the lyrics begin, too.
    config.data.update(seconds=6.5 if given.words else 4.5, batch_size=16, beginnings=True, end_of_song=False)
    config.sources.lyrics.update(max_length=96, width=256, heads=4, layers=3, dropout=0.0)
    config.sources.genre.update(max_length=16, width=64, heads=2, layers=1)
    if not given.words:
        config.sources.style = defaults.source(
            kind="style", max_length=frames(SECONDS, config.assumed.frame_rate), width=128, heads=4, layers=1)
    config.model.update(width=256, heads=4, layers=4, mlp_width=1024, activation="relu")
    config.optimizer.update(learning_rate=1e-3 if given.words else 5e-4, warmup_steps=200)
    config.train.update(steps=1400 if given.words else 750, log_every=50, eval_every=250, checkpoint_every=250,
                        sample_every=0)
    config.sampling.update(temperature=0.0, cfg_scale=1.0)
    return run_local(config) if given.runlocal else config
