"""Text and a few seconds of sound to music: the decoder attends to the text's states and to the codes of a clip.

In training the clip is of the same song, from outside of the window, so songs should be longer than that. Meant for
EnCodec 32 kHz (4 codebooks x 2048, 50 Hz) and frozen T5-base states:

python -m data_prep.export --input SONGS --output DATASET --codec encodec_32khz --text_encoder t5:t5-base
python -m autosong_jax.train --config=configs/audio_prompt.py --config.data.path=DATASET --workdir=DIR
python -m autosong_jax.generate --workdir=DIR --lyrics=lyrics.txt --style_audio=clip.wav --output=song.wav

`:seconds=5` reads longer clips, `frame_rate` is for a codec of another one, and `masked=true` trains the model to fill
in masked spans of codes, all frames at once, in place of next steps.
"""

import ml_collections

from autosong_jax import config as config_file
from autosong_jax import defaults
from configs import prefix_lm


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    given = config_file.parse_arg(arg, seconds=3.0, frame_rate=50.0, masked=False, runlocal=False)
    config = prefix_lm.get_config()
    config.assumed.frame_rate = given.frame_rate
    config.model.update(fusion="cross", pattern="delay")
    # No layers: the clip's embedded codes are the memory.
    config.sources.style = defaults.source(kind="style", max_length=config_file.frames(given.seconds, given.frame_rate))
    if given.masked:
        config.objective.name = "masked_spans"
        config.model.pattern = "parallel"
        config.data.end_of_song = False  # how long a song is, is given
    return config_file.run_local(config) if given.runlocal else config
