"""Songs to a backing track: an encoder reads the codes of the backing, a decoder writes those of the lead.

Songs are folders with `audio.*`, the lead, and `backing.*`; meant for EnCodec 32 kHz (4 codebooks x 2048, 50 Hz):

python -m data_prep.export --input SONGS --output DATASET --codec encodec_32khz --sources=text,backing \
    --norequire_lyrics
python -m autosong_jax.train --config=configs/accompaniment.py:size=medium --config.data.path=DATASET --workdir=DIR
python -m autosong_jax.generate --workdir=DIR --backing=track.wav --output=lead.wav --mix=both.wav

Sizes are xsmall, small, medium, large and xlarge; `lyrics=true` has the lead sing lyrics, too. For a codec of another
frame rate give it, such as `:size=small,frame_rate=25`.
"""

import ml_collections

from autosong_jax import config as config_file
from autosong_jax import defaults
from autosong_jax.errors import UserError

SIZES = {"xsmall": (128, 2, 4), "small": (256, 4, 6), "medium": (384, 6, 6), "large": (512, 8, 8),
         "xlarge": (768, 12, 12)}  # width, heads, and layers of the encoder and of the decoder each
SECONDS = 30.0


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    given = config_file.parse_arg(arg, size="small", lyrics=False, frame_rate=50.0, runlocal=False)
    if given.size not in SIZES:
        raise UserError(f"configs/accompaniment.py:size={given.size}: expected one of {', '.join(SIZES)}")
    width, heads, layers = SIZES[given.size]
    config = defaults.base()
    config.assumed.frame_rate = given.frame_rate
    config.data.update(seconds=SECONDS, batch_size=32, end_of_song=False)  # how long a song is, its backing says
    shape = {"width": width, "heads": heads, "layers": layers}
    config.model.update(mlp_width=4 * width, activation="relu", dropout=0.1, **shape)
    texts = {"lyrics": defaults.source(max_length=2048, width=width, heads=heads, layers=layers),
             "genre": config.sources.genre} if given.lyrics else {}
    frames = config_file.frames(SECONDS, given.frame_rate)
    config.sources = {"backing": defaults.source(kind="backing", max_length=frames, **shape), **texts}
    config.optimizer.update(learning_rate=3e-4, final_learning_rate=1e-6, warmup_steps=1000, b1=0.9, b2=0.98, eps=1e-9,
                            weight_decay=0.01)
    config.train.update(accumulation=8)
    return config_file.run_local(config) if given.runlocal else config
