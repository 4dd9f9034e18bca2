# ---
# jupyter:
#   accelerator: GPU
#   colab:
#     gpuType: T4
#     name: accompaniment_continuous.ipynb
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
# # Accompaniment, and songs without codebooks
#
# Two kinds of models, each learned from songs that are made up. On a GPU or TPU (*Runtime > Change runtime type*). A
# model in memory can be asked for one song after another, so here the calls are Python; what does not need the device
# are commands.

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
NEEDS = []  # of the extras of pyproject.toml
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
# Sizes. The project's tests run this notebook as a toy, which learns nothing. The full ones are small, too: a few
# hundred songs, with which a GPU is done in minutes. For what comes of more, see benchmarks/RESULTS.md.
TOY = "AUTOSONG_TOY" in os.environ
SMALL = "runlocal" if TOY else ""
SONGS = 4 if TOY else 500
CODEC = "melrvq:hop=1280,subframes=4,num_codebooks=2" + (",codebook_size=16" if TOY else "")
HOP, BANDS = 128, 64  # samples a frame and bands of the mel spectrograms
WIDTH = 48 if TOY else 192  # of the vocoder
STEPS = 2 if TOY else 800  # of each training

# %% [markdown]
# ## Datasets
#
# Duets have a `backing.wav` beside the lead, `audio.wav`, whose notes follow from the backing's chords. Your own come
# from finished recordings by `python -m data_prep.stems`. For songs without codebooks the frames are mel spectrograms;
# `pcm` are the samples themselves, for the vocoder.

# %%
# !python -m data_prep.songbook --duets --output duets --songs {SONGS} --seconds 6
# !python -m data_prep.export --input duets --output duets_codes --codec "{CODEC}" --sources=text,backing \
#     --norequire_lyrics
# !python -m data_prep.songbook --output songs --songs {SONGS} --seconds 6
# !python -m data_prep.export --input songs --output mels --codec mel:sample_rate=16000,hop={HOP},n_mels={BANDS}
# !python -m data_prep.export --input songs --output sound --codec pcm:sample_rate=16000,hop={HOP}

# %% [markdown]
# ## Singing to a backing
#
# The model reads the codes of the backing and writes those of the lead.

# %%
import logging

from autosong_jax.training.loop import train

logging.basicConfig(format="%(asctime)s  %(message)s", datefmt="%H:%M:%S", force=True)
logging.getLogger("autosong_jax").setLevel(logging.INFO)  # so that training tells how it gets on


def learn(config, dataset: str, workdir: str) -> None:
    """Trains for STEPS steps; called again it goes on from the last checkpoint."""
    config.data.path = dataset
    config.train.update(steps=STEPS, eval_every=STEPS // 2, checkpoint_every=STEPS // 2,
                        log_every=max(STEPS // 20, 1))
    train(config, pathlib.Path(workdir))


# %%
from configs import duets

learn(duets.get_config(SMALL), "duets_codes", "runs/duets")

# %% [markdown]
# A backing that it has never heard:

# %%
from IPython.display import Audio

import autosong_jax
from autosong_jax.data.dataset import SongDataset

song = SongDataset("duets_codes", "validation")[0]
singer = autosong_jax.load("runs/duets")
backing = singer.read(f"duets/{song['id']}/backing.wav")
Audio(backing, rate=singer.codec.sample_rate)

# %% [markdown]
# The lead has as many samples as the backing. Here it is alone, and below with it.

# %%
lead = singer.generate(backing=backing, seed=0)
Audio(lead.audio, rate=lead.sample_rate)

# %%
from autosong_jax.sampling.sound import mixed

Audio(mixed(lead.audio, backing), rate=lead.sample_rate)

# %% [markdown]
# In a terminal: `python -m autosong_jax.generate --workdir=runs/duets --backing=track.wav --output=lead.wav
# --mix=both.wav`.
#
# ## Songs without codebooks
#
# Three models: an autoencoder makes a few *latents* of a mel spectrogram and a spectrogram of them; a vocoder makes
# sound of that; and the song model writes latents for lyrics. Each is trained by itself.

# %%
from configs import autosong_autoencoder, vocoder

config = autosong_autoencoder.get_config(f"channels=8,discriminator=false,frame_rate={16000 / HOP},{SMALL}")
config.autoencoder.width = WIDTH // 12
config.optimizer.update(learning_rate=2e-3, warmup_steps=50)
config.data.curriculum_steps = STEPS // 4  # short windows first
learn(config, "mels", "runs/latents")

# %%
config = vocoder.get_config(f"n_mels={BANDS},frame_rate={16000 / HOP},{SMALL}")
config.vocoder.update(width=WIDTH, blocks=4, mlp_width=3 * WIDTH)
config.optimizer.update(learning_rate=1e-3, warmup_steps=100)
learn(config, "sound", "runs/vocoder")

# %%
from configs import autosong_songbook

config = autosong_songbook.get_config(SMALL)
config.latents.update(workdir="runs/latents", vocoder="runs/vocoder")
config.data.end_of_song = not TOY  # who has learned nothing may say at once that the song is over
learn(config, "mels", "runs/songs")

# %% [markdown]
# Its workdir holds all three. Lyrics that it has never seen; `latent_steps` are those from noise to a latent:

# %%
new = SongDataset("mels", "validation")[0]
singer = autosong_jax.load("runs/songs")
song = singer.generate(lyrics=new["lyrics"], genre=new["genre"], seed=0,
                       **({"latent_steps": 2, "duration": 1} if TOY else {}))
assert song.audio.size, "The model says at once that the song is over: train for longer (STEPS), or try another seed"
print(new["lyrics"])
Audio(song.audio, rate=song.sample_rate)

# %% [markdown]
# Beside it what the vocoder makes of the true spectrogram, which no song model can be better than:

# %%
Audio(singer.codec.decode(new["frames"]), rate=singer.codec.sample_rate)

# %% [markdown]
# What the three have learned, side by side:

# %%
from IPython.display import Image

from autosong_jax.evaluation.curves import plot_runs
from autosong_jax.evaluation.progress import Run

runs = {name: Run(f"runs/{name}") for name in ("latents", "vocoder", "songs")}
for run in runs.values():
    run.look()
plot_runs("curves.png", runs)
Image("curves.png")
