"""Teaches a model to sing lyrics, by LoRA: one that has been trained here, or a released one such as MusicGen.

python -m autosong_jax.convert --source=facebook/musicgen-small --workdir=BASE
python -m data_prep.export --input SONGS --output DATASET --codec BASE/codec --text_encoder t5:BASE/text_encoder
python -m autosong_jax.train --config=configs/finetune.py:base=BASE --config.data.path=DATASET --workdir=DIR
python -m autosong_jax.generate --workdir=DIR --lyrics=lyrics.txt --text="slow pop ballad" --output=song.wav

The model is the base's, with lyrics as one more source where it has none. What is trained is LoRA on the attention of
the decoder (`:base=BASE,rank=8` for another rank) and what the new source brings; with `rank=0` it is everything.
A model that follows a melody wants songs that hold theirs: export them with `--sources=text,chroma`.
"""

import pathlib

import ml_collections

from autosong_jax import config as config_file
from autosong_jax import defaults
from autosong_jax.errors import UserError


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    given = config_file.parse_arg(arg, base="", rank=16, runlocal=False)
    if not given.base:
        raise UserError("configs/finetune.py starts from a model: give --config=configs/finetune.py:base=WORKDIR, a "
                        "workdir that `python -m autosong_jax.convert` or `python -m autosong_jax.train` wrote")
    if not (pathlib.Path(given.base) / "config.json").exists():
        raise UserError(f"configs/finetune.py:base={given.base}: there is no workdir; if the base has moved, give "
                        "where it is now")
    base = config_file.load(pathlib.Path(given.base) / "config.json")
    config = defaults.base()
    del config.sources.genre
    config.data.update(batch_size=8)
    config.lora.rank = given.rank
    config.init.workdir = given.base
    config.optimizer.update(learning_rate=1e-4, warmup_steps=100, weight_decay=0.01)
    # Memory decides what can be tuned at all; a sample, too, would take the weights once more.
    config.train.update(steps=2000, ema_decay=0.0, remat="full", log_every=10, eval_every=200, checkpoint_every=200,
                        sample_every=0)
    if given.rank:
        of_lyrics = ("conditions/(sources|types)/lyrics",) if "lyrics" not in base.sources else ()
        config.train.trainable = ("lora_", *of_lyrics)
    if given.runlocal:
        config_file.run_local(config)
    config.data.update(seconds=base.data.seconds, end_of_song=base.data.end_of_song)
    for section in ("model", "objective", "sources", "sampling"):
        config[section].update(base[section])
    return config
