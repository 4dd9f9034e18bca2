# ---
# jupyter:
#   accelerator: GPU
#   colab:
#     gpuType: T4
#     name: magnet_editing.ipynb
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
# # MAGNeT, and songs edited
#
# Masked models write all moments of a song together, in a few dozen passes, and so can write any part of one anew: new
# words in the middle, an intro before the beginning, a bridge between two clips. On a GPU or TPU (*Runtime > Change
# runtime type*). A model in memory can be asked for one song after another, so here the calls are Python; what does not
# need the device are commands.

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
MODEL = os.environ.get("AUTOSONG_MAGNET", "facebook/magnet-small-10secs")
CODEC = "melrvq:hop=1280,subframes=4,num_codebooks=2" + (",codebook_size=16" if TOY else "")
SONGS, STEPS = (8, 2) if TOY else (32, 600)
SPAN = (0.1, 0.25) if TOY else (3.0, 6.0)  # seconds to make anew

# %% [markdown]
# ## MAGNeT
#
# Meta's released weights (for research, not commercially: CC BY-NC 4.0). They are pickles, which PyTorch reads once;
# after that nothing needs it.

# %%
# !JAX_PLATFORMS=cpu python -m autosong_jax.convert --source={MODEL} --workdir=runs/magnet
# !python -m data_prep.songbook --output songs --songs {SONGS} --seconds 6 --seed 11
# !python -m data_prep.export --input songs --output dataset --codec "{CODEC}"

# %% [markdown]
# The songbook is for later. First a song of MAGNeT's own, all ten seconds at once:

# %%
from IPython.display import Audio

import autosong_jax

magnet = autosong_jax.load("runs/magnet")
song = magnet.generate(description="rock, electric guitar and drums", seed=0)
Audio(song.audio, rate=song.sample_rate)

# %% [markdown]
# Its middle anew, with another description. What is outside of the span stays, code by code. A recording of yours is
# read by `magnet.read("clip.wav")`.

# %%
from autosong_jax.sampling.edits import Edit

edited = magnet.edit(Edit([song.codes], [SPAN]), description="a quiet flute alone", seed=1)
Audio(edited.audio, rate=edited.sample_rate)

# %% [markdown]
# And what comes before and after a clip, as if it had been there:

# %%
extended = magnet.edit(Edit([song.codes[len(song.codes) // 2:]], before=SPAN[0]), seed=2,
                       description="rock, electric guitar and drums")
magnet.release_weights()  # frees their memory
Audio(extended.audio, rate=extended.sample_rate)

# %% [markdown]
# ## A model of both kinds, with lyrics
#
# The next model learns by turns to go on step by step and to fill gaps. Like the demo it learns a little songbook by
# heart, whose every note is known.

# %%
import logging

from autosong_jax.training.loop import train
from configs import songbook_masked

logging.basicConfig(format="%(asctime)s  %(message)s", datefmt="%H:%M:%S", force=True)
logging.getLogger("autosong_jax").setLevel(logging.INFO)  # so that it tells how it gets on

config = songbook_masked.get_config("runlocal" if TOY else None)
config.data.path = "dataset"
config.objective.name = "both"
config.model.pattern = "delay"
config.train.update(steps=STEPS, eval_every=STEPS // 2, checkpoint_every=STEPS // 2,
                    log_every=max(STEPS // 20, 1))
reached = train(config, pathlib.Path("runs/both"))

# %% [markdown]
# Filled in, 20 passes for the first codebook and 10 for the second:

# %%
from autosong_jax.data.dataset import SongDataset

dataset = SongDataset("dataset", "train")
songs = [dataset[i] for i in range(len(dataset))]
learned = songs[0]
singer = autosong_jax.load("runs/both")
filled = singer.generate(lyrics=learned["lyrics"], genre=learned["genre"], seed=0)
print(learned["lyrics"])
Audio(filled.audio, rate=filled.sample_rate)

# %% [markdown]
# *Hybrid*: the first two seconds step by step, then the rest at once.

# %%
hybrid = singer.generate(lyrics=learned["lyrics"], genre=learned["genre"], hybrid_seconds=2.0, seed=0)
Audio(hybrid.audio, rate=hybrid.sample_rate)

# %% [markdown]
# ## New words in the middle
#
# From the second second to the fourth it is to sing what another song has there. In a terminal that is `python -m
# autosong_jax.generate --workdir=runs/both --edit=song.wav --from=2 --to=4 --lyrics=other.txt --output=new.wav`.

# %%
other = next(song for song in songs[1:] if song["genre"] == learned["genre"])
edited = singer.edit(Edit([learned["frames"]], [(2.0, 4.0)]), lyrics=other["lyrics"], genre=other["genre"], seed=0)
print(other["lyrics"])
Audio(edited.audio, rate=edited.sample_rate)

# %% [markdown]
# Both as spectrograms, with the notes that are heard in them: outside of the span they are the same. (Close to its
# edges the codec, which finds sound for several moments together, makes a difference.) Below each, the notes that all
# of its lyrics ask for; of the second, only those from 2 to 4 s are sung.

# %%
from IPython.display import Image, display

from autosong_jax.evaluation.notes import lyric_notes
from autosong_jax.evaluation.plots import plot_song

before = singer.codec.decode(learned["frames"])
plot_song("before.png", before[0], singer.codec.sample_rate, lyric_notes(learned["lyrics"]), "Before")
plot_song("after.png", edited.audio[0], singer.codec.sample_rate, lyric_notes(other["lyrics"]), "From 2 to 4 s anew")
display(Image("before.png"), Image("after.png"))
