"""Text to music by a prefix: the text's states, then the audio one code a step, in one causal sequence.

Meant for EnCodec 32 kHz (4 codebooks x 2048, 50 Hz) and frozen T5-base states:

python -m data_prep.export --input SONGS --output DATASET --codec encodec_32khz --text_encoder t5:t5-base
python -m autosong_jax.train --config=configs/prefix_lm.py --config.data.path=DATASET --workdir=DIR
"""

import ml_collections

from autosong_jax import defaults
from autosong_jax.config import finish


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    config = defaults.base()
    config.assumed.update(text_encoder="t5", text_width=768)  # and EnCodec 32 kHz
    config.data.update(seconds=10.0, batch_size=32)
    config.model.update(width=768, heads=12, layers=12, mlp_width=3072, fusion="prefix", pattern="flatten")
    config.optimizer.update(b1=0.9, b2=0.99, weight_decay=0.1, clip_norm=1.0)
    config.train.update(accumulation=4)
    # The warm-up takes the first tenth of the steps.
    config.optimizer.warmup_steps = config.train.steps // 10
    return finish(config, arg)
