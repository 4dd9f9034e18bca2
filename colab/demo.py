# ---
# jupyter:
#   accelerator: GPU
#   colab:
#     gpuType: T4
#     name: demo.ipynb
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
# # From nothing to a song
#
# A little book of songs is made up, a small model learns them by heart, and then it sings. Two CPU cores are enough; on
# a GPU or TPU (*Runtime > Change runtime type*) it is done sooner. The first cell prepares this machine; then each
# command is one that you can also type into a terminal.

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
# Sizes. The project's tests run this notebook as a toy, which learns nothing.
TOY = "AUTOSONG_TOY" in os.environ
SONGS, SECONDS = (4, 5) if TOY else (32, 12)
CODEC = "melrvq:hop=1280,subframes=4,num_codebooks=2" + (",codebook_size=16" if TOY else "")
CONFIG, STEPS = ("demo.py:runlocal", 4) if TOY else ("demo.py", 400)

# %% [markdown]
# ## Songs
#
# The songbook makes up lyrics of a few syllables and sings them: each syllable has its note, so whether a model sings
# what it should can be heard by a computer, too.

# %%
# !python -m data_prep.songbook --output demo/songs --songs {SONGS} --seconds {SECONDS} --seed 0

# %%
from IPython.display import Audio, Image

first = pathlib.Path("demo/songs/song_00000")
print(f"A {(first / 'genre.txt').read_text().strip()} song:\n\n{(first / 'lyrics.txt').read_text()}")
Audio(str(first / "audio.wav"))

# %% [markdown]
# ## A dataset
#
# The export turns audio into *codes*, a few numbers for each moment of sound, which the model learns to write, and
# keeps some songs apart to check it by. `melrvq` is a codec that is fitted to your songs and needs no download. It
# sounds rough; for real recordings there are better ones.

# %%
# !python -m data_prep.export --input demo/songs --output demo/dataset --codec "{CODEC}"

# %% [markdown]
# ## Training
#
# A model is one file in `configs/`; each of its fields can also be set here. Before the first step the program is
# compiled, which takes a minute. Stop it whenever you like: run again, it goes on where it was.

# %%
# !python -m autosong_jax.train --config={ROOT}/configs/{CONFIG} --config.data.path=demo/dataset \
#     --config.train.steps={STEPS} --workdir=demo/run

# %% [markdown]
# How did it go? The loss on the songs that it learns from should fall close to 0. That on the songs that it does not
# see rises after a while: 32 songs are enough to learn by heart, not to learn how to sing.

# %%
# !python -m autosong_jax.monitor --workdir=demo/run --plot=demo/curves.png
Image("demo/curves.png")

# %% [markdown]
# ## Singing
#
# First lyrics that it learned, then lyrics that it has never seen, in the same genre. The same `--seed` gives the same
# song.

# %%
from autosong_jax.data.dataset import SongDataset

learned, new = SongDataset("demo/dataset", "train")[0], SongDataset("demo/dataset", "validation")[0]
# !python -m autosong_jax.generate --workdir=demo/run --genre="{learned['genre']}" --seed=0 \
#     --lyrics=demo/songs/{learned['id']}/lyrics.txt --lyrics=demo/songs/{new['id']}/lyrics.txt --output=demo/sung.wav

# %%
print(learned["lyrics"])
Audio("demo/sung-0.wav")

# %% [markdown]
# Beside it the recording that it learned from:

# %%
Audio(f"demo/songs/{learned['id']}/audio.wav")

# %% [markdown]
# And the new lyrics, which it cannot sing yet. That takes thousands of songs and half an hour: see
# `configs/songbook.py`.

# %%
print(new["lyrics"])
Audio("demo/sung-1.wav")

# %% [markdown]
# ## Looking at it
#
# Above, the spectrogram of the first song with the notes that are heard in it; below, these beside the notes that the
# lyrics ask for.

# %%
from autosong_jax.audio import io
from autosong_jax.evaluation.notes import lyric_notes
from autosong_jax.evaluation.plots import plot_song

audio, rate = io.read("demo/sung-0.wav", channels=1)
plot_song("demo/song.png", audio[0], rate, lyric_notes(learned["lyrics"]), "A song that it learned, sung by the model")
Image("demo/song.png")

# %% [markdown]
# Next: [your own songs](your_songs.ipynb), [MusicGen](musicgen.ipynb), [editing](magnet_editing.ipynb), [accompaniment
# and songs without codebooks](accompaniment_continuous.ipynb).
