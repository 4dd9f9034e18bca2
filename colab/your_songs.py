# ---
# jupyter:
#   accelerator: GPU
#   colab:
#     gpuType: T4
#     name: your_songs.ipynb
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
# # A model of your own songs
#
# From a folder on Google Drive to a model that sings, on a GPU or TPU (*Runtime > Change runtime type*). All that is
# made lies on your Drive. When Colab disconnects, connect again and run all cells again: what is done is not done
# again, and training goes on exactly where its last checkpoint is.
#
# One folder a song, with its lyrics and a recording (`mp3`, `flac`, `wav` or `ogg`); the genre is optional. Use songs
# that you may use:
#
# ```
# MyDrive/autosong/songs/my_first_song/lyrics.txt
# MyDrive/autosong/songs/my_first_song/genre.txt
# MyDrive/autosong/songs/my_first_song/audio.mp3
# ```

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
# Sizes. The project's tests run this notebook as a toy, which learns nothing.
TOY = "AUTOSONG_TOY" in os.environ
CODEC = "melrvq:codebook_size=16" if TOY else "encodec_32khz"
CONFIG = "xsmall.py:runlocal" if TOY else "xsmall.py"
STEPS, LONGER = (2, 4) if TOY else (20_000, 20_000)  # of training, and of training that went on after that
EVERY = 2 if TOY else 500  # steps between checkpoints: what a disconnect may cost
DURATION = 1 if TOY else 20  # seconds to sing

# %% [markdown]
# ## Where everything is
#
# On Colab your Drive, which asks for your permission; elsewhere the folder that this notebook runs in.

# %%
HOME = pathlib.Path("mine")
if "google.colab" in sys.modules:
    from google.colab import drive

    drive.mount("/content/drive")
    HOME = pathlib.Path("/content/drive/MyDrive/autosong")
SONGS, DATASET, RUN = HOME / "songs", HOME / "dataset", HOME / "run"
HOME.mkdir(exist_ok=True)
print(f"{len(list(SONGS.glob('*/audio.*')))} songs in {SONGS}")

# %% [markdown]
# Who has no songs there yet gets some that are made up, to see how it goes. Delete them, and what was made of them,
# before you put your own there.

# %%
if not SONGS.exists():
    print("There are none: a few are made up")
    # !python -m data_prep.songbook --output "{SONGS}" --songs 6 --seconds 5

# %% [markdown]
# ## Export, once
#
# EnCodec at 32 kHz turns the recordings into codes; its weights are downloaded. Songs that cannot be used are left out
# and named, with the reason. Later runs encode only what is new.

# %%
# !python -m data_prep.export --input "{SONGS}" --output "{DATASET}" --codec {CODEC}

# %% [markdown]
# ## Training
#
# `xsmall` has about 25 million parameters. Where memory runs out, `--config.train.accumulation=16` computes a batch in
# smaller parts; `python -m autosong_jax.train --plan --config=...` says beforehand what a larger model needs. The
# square beside the cell stops it: it saves first.
#
# Checkpoints go to your Drive: the last one, and the best two.

# %%
# !python -m autosong_jax.train --config={ROOT}/configs/{CONFIG} --config.data.path="{DATASET}" --workdir="{RUN}" \
#     --config.train.steps={STEPS} --config.train.checkpoint_every={EVERY} --config.train.eval_every={EVERY} \
#     --config.train.log_every={min(EVERY, 50)} --config.train.keep_last=1 --config.train.keep_best=2

# %% [markdown]
# Was it cut off? **The same command again** goes on: with the weights, the optimizer, the order of songs and the chance
# that it would have had, so that the result is the one of a run that was never stopped. A finished run stays as it is,
# but with a greater `--config.train.steps` it trains for longer than it was meant to: raise `LONGER`, above.

# %%
# !python -m autosong_jax.train --config={ROOT}/configs/{CONFIG} --config.data.path="{DATASET}" --workdir="{RUN}" \
#     --config.train.steps={LONGER} --config.train.checkpoint_every={EVERY} --config.train.eval_every={EVERY} \
#     --config.train.log_every={min(EVERY, 50)} --config.train.keep_last=1 --config.train.keep_best=2

# %% [markdown]
# ## How is it doing?
#
# The table and the picture may be asked for at any time, also of a run that stands still. Where the validation loss
# rises while the training loss falls, the model begins to know your songs by heart.

# %%
from IPython.display import Audio, Image, display

# !python -m autosong_jax.monitor --workdir="{RUN}" --plot=curves.png
Image("curves.png")

# %% [markdown]
# ## Singing
#
# Write lyrics of your own, in the language of your songs.

# %%
pathlib.Path("lyrics.txt").write_text("""\
[verse]
slow is the river and long is the night
[chorus]
carry me home
""")
# !python -m autosong_jax.generate --workdir="{RUN}" --lyrics=lyrics.txt --genre=pop --seed=0 --num_samples=2 \
#     --duration={DURATION} --output=song.wav
for path in ("song-0.wav", "song-1.wav"):
    display(Audio(path))

# %% [markdown]
# The folder `run` on your Drive is all that generation needs: copy it to another machine and sing there.
