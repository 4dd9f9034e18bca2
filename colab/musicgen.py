# ---
# jupyter:
#   accelerator: GPU
#   colab:
#     gpuType: T4
#     name: musicgen.ipynb
#     provenance: []
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
#   language_info:
#     name: python
# ---

# %% [markdown]
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/)
#
# # MusicGen: singing, continuing, following, learning your lyrics
#
# Meta's released weights, run and trained without PyTorch, on a GPU or TPU (*Runtime > Change runtime type*). They may
# be used for research, not commercially (CC BY-NC 4.0). A model in memory can be asked for one song after another, so
# here the calls are Python; what does not need the device are commands.

# %% tags=["install"]
# On Colab: installs autosong_jax, which takes a few minutes, and restarts the session. Then run all cells once more.
# Where autosong_jax is installed, nothing happens.
import glob
import importlib.util
import os
import pathlib
import subprocess
import sys

REPOSITORY = ""  # @param {type: "string"}
NEEDS = ["prep"]  # of the extras of pyproject.toml
if importlib.util.find_spec("autosong_jax") is None:
    from IPython import get_ipython

    if not REPOSITORY:
        raise SystemExit("Fill in REPOSITORY: the address that `git clone` takes of the repository you have this from")
    if os.path.exists("/dev/nvidia0"):
        NEEDS.append("cuda")
    elif glob.glob("/dev/accel*") or glob.glob("/dev/vfio/[0-9]*"):
        NEEDS.append("tpu")
    if not os.path.exists("autosong"):
        subprocess.run(["git", "clone", "--depth=1", REPOSITORY, "autosong"], check=True)
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "--constraint=autosong/constraints.txt",
                    "--editable=autosong[" + ",".join(NEEDS) + "]"], check=True)
    get_ipython().kernel.do_shutdown(True)  # what is loaded of older versions goes
else:
    ROOT = pathlib.Path(importlib.util.find_spec("autosong_jax").origin).parents[1]
    # `python` in the commands below is this notebook's.
    os.environ["PATH"] = os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]])

# %%
# Sizes. The project's tests run this notebook as a toy, with a model of random numbers that they have made.
TOY = "AUTOSONG_TOY" in os.environ
MODEL = os.environ.get("AUTOSONG_MUSICGEN", "facebook/musicgen-small")
MELODY_MODEL = os.environ.get("AUTOSONG_MUSICGEN_MELODY", "facebook/musicgen-melody")
SECONDS = 0.4 if TOY else 10  # to sing
SONGS, SECONDS_OF_SONGS = (3, 5) if TOY else (32, 12)  # to learn from
WORKERS = 1 if TOY else os.cpu_count()  # that encode them, each with models of its own
BATCH, STEPS, WINDOW = (2, 2, 1) if TOY else (8, 500, 30)  # of training; WINDOW in seconds

# %% [markdown]
# ## Converting
#
# The weights are downloaded, some gigabytes each, and written as *workdirs*: what training leaves, too. Text encoder
# and codec are in them. The second model, for melodies, is four times as large as the first: where memory is short,
# leave it out, and the cells under *Following a melody*.

# %%
# !JAX_PLATFORMS=cpu python -m autosong_jax.convert --source={MODEL} --workdir=runs/musicgen
# !JAX_PLATFORMS=cpu python -m autosong_jax.convert --source={MELODY_MODEL} --workdir=runs/melody

# %% [markdown]
# The songs that it will learn from later are exported now, with its own codec and text encoder, while the device is
# free. Yours are folders with `audio.mp3`, `lyrics.txt` and, if you like, `description.txt` in `songs`; if there are
# none, a few are made up.

# %%
if not os.path.exists("songs"):
    # !python -m data_prep.songbook --output songs --songs {SONGS} --seconds {SECONDS_OF_SONGS}
    for song in pathlib.Path("songs").glob("song_*"):
        (song / "description.txt").write_text(f"made-up {(song / 'genre.txt').read_text().strip()} song")
# !python -m data_prep.export --input songs --output dataset --codec runs/musicgen/codec \
#     --text_encoder t5:runs/musicgen/text_encoder --workers {WORKERS}

# %% [markdown]
# ## Singing
#
# The first song of each kind takes longer: its program is compiled. The same seed gives the same song.

# %%
from IPython.display import Audio

import autosong_jax

singer = autosong_jax.load("runs/musicgen")
song = singer.generate(description="slow pop ballad with a warm piano", duration=SECONDS, seed=0)
Audio(song.audio, rate=song.sample_rate)

# %% [markdown]
# How closely it keeps to the description (`cfg_scale`) and how much of chance there is (`temperature`, `top_k`,
# `top_p`) can be set; a list of descriptions makes all of them at once.

# %%
fast, slow = singer.generate(description=["fast techno, dark bass", "slow strings, a sad cello"], duration=SECONDS,
                             cfg_scale=4.0, temperature=0.9)
Audio(fast.audio, rate=fast.sample_rate)

# %% [markdown]
# ## Continuing
#
# From the first half of the song on, with another description. A recording of yours is read by
# `singer.read("clip.wav")`.

# %%
half = song.audio[:, :song.audio.shape[1] // 2]
longer = singer.generate(description="the ballad becomes a fast dance", prompt_audio=half, duration=SECONDS, seed=1)
Audio(longer.audio, rate=longer.sample_rate)

# %% [markdown]
# ## Following a melody
#
# `musicgen-melody` follows a recording: what is sung, hummed or played in it, best without drums and bass. Here it is a
# line of plain tones.

# %%
import numpy as np

singer.release_weights()  # frees their memory
melodic = autosong_jax.load("runs/melody")
rate, tone = melodic.codec.sample_rate, SECONDS / 8
times = np.arange(round(tone * rate)) / rate
tune = np.concatenate([np.sin(2 * np.pi * 261.6 * 2 ** (semitones / 12) * times) * np.sin(np.pi * times / tone)
                       for semitones in (0, 4, 7, 12, 9, 7, 4, 0)]).astype(np.float32)[None]
Audio(tune, rate=rate)

# %%
followed = melodic.generate(description="brass band, a solemn march", melody=tune, duration=SECONDS)
melodic.release_weights()
Audio(followed.audio, rate=followed.sample_rate)

# %% [markdown]
# ## Learning lyrics
#
# MusicGen knows no lyrics. `configs/finetune.py` adds them as one more thing that it attends to, and trains that and
# LoRA, small matrices beside those of its attention; the released weights stay as they are. How many songs fit into a
# batch is in a table of the README: about 50 on 16 GB. To learn to sing takes many songs, and many more steps than
# here.
#
# Run again, the cell goes on from the last checkpoint, and with greater `STEPS` for longer.

# %%
import logging

from autosong_jax.training.loop import train
from configs import finetune

logging.basicConfig(format="%(asctime)s  %(message)s", datefmt="%H:%M:%S", force=True)
logging.getLogger("autosong_jax").setLevel(logging.INFO)  # so that it tells how it gets on

config = finetune.get_config("base=runs/musicgen,rank=16" + (",runlocal" if TOY else ""))
config.data.update(path="dataset", batch_size=BATCH, seconds=WINDOW)
config.train.update(steps=STEPS, eval_every=STEPS // 2, checkpoint_every=STEPS // 2,
                    log_every=max(STEPS // 20, 1))
reached = train(config, pathlib.Path("runs/sings"))

# %%
singer = autosong_jax.load("runs/sings")
song = singer.generate(lyrics=next(pathlib.Path("songs").glob("*/lyrics.txt")).read_text(), duration=SECONDS,
                       description="made-up pop song")
Audio(song.audio, rate=song.sample_rate)

# %% [markdown]
# ## Handing it on
#
# The model as a folder of safetensors with a model card, LoRA merged into the weights. `autosong_jax.load` takes such a
# folder, or its name on Hugging Face once you have put it there (`hf upload OWNER/NAME sings_for_others`; mind the
# license of the weights that you started from). A model that still is a MusicGen, without lyrics, is written as
# `transformers` reads it. In a terminal: `python -m autosong_jax.convert --workdir=runs/sings
# --export=sings_for_others`.

# %%
from autosong_jax.pretrained.export import export

print("Written as", export(pathlib.Path("runs/sings"), pathlib.Path("sings_for_others")))
for path in sorted(pathlib.Path("sings_for_others").iterdir()):
    print(path)
