"""Lyric to music: whole songs in one context, one code a step, post-norm blocks attending to the whole lyric.

Meant for EnCodec 24 kHz at 1.5 kbps (2 codebooks x 1024, 75 Hz) and frozen BERT states:

python -m data_prep.export --input SONGS --output DATASET --codec encodec_24khz --bandwidth 1.5 \
    --text_encoder bert:bert-base-multilingual-cased
python -m autosong_jax.train --config=configs/lyric2music.py --config.data.path=DATASET --workdir=DIR
"""

import ml_collections

from autosong_jax import defaults
from autosong_jax.config import finish


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    config = defaults.base()
    config.assumed.update(codec="encodec_24khz at 1.5 kbps", sample_rate=24_000, frame_rate=75.0, num_codebooks=2,
                          codebook_size=1024, text_encoder="bert", text_width=768)
    config.data.update(seconds=120.0, batch_size=8)  # up to 18,000 steps
    config.model.update(
        width=1024, heads=16, layers=16, mlp_width=4096, norm="post", bias=True, positions="learned",
        max_positions=18_001, pattern="flatten", dropout=0.1)
    config.optimizer.update(learning_rate=1e-4, final_learning_rate=1e-6, warmup_steps=2000, weight_decay=0.01)
    config.train.update(remat="full")
    return finish(config, arg)
