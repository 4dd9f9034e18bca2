"""Songs, a dataset, a model and its singing, from nothing, in minutes on two CPU cores: what `make demo` runs.

python -m benchmarks.demo --output demo

It runs the commands that a user runs, and then listens: every number in its table comes from the audio files it wrote.
Started again it goes on where it was stopped.
"""

import json
import pathlib
import shlex
import subprocess
import sys
import time

import numpy as np
from absl import flags

from autosong_jax import cli
from autosong_jax.errors import UserError

FLAGS = flags.FLAGS
CODEC = "melrvq:hop=1280,subframes=4,num_codebooks=2"  # 12.5 frames a second: short sequences for a CPU


def define_flags() -> None:
    """In a function, so that several commands can be imported into one process."""
    flags.DEFINE_string("output", "demo", "Where songs, dataset, model and results go.")
    flags.DEFINE_integer("songs", 32, "Songs to learn from.", lower_bound=8)
    flags.DEFINE_string("config", "configs/demo.py", "Config of the model.")


def main() -> None:
    output = pathlib.Path(FLAGS.output)
    started = time.perf_counter()
    songs, dataset, workdir, sung = (output / name for name in ("songs", "dataset", "workdir", "sung"))
    run("data_prep.songbook", f"--output={songs}", f"--songs={FLAGS.songs}", "--seconds=12", "--seed=0")
    run("data_prep.export", f"--input={songs}", f"--output={dataset}", f"--codec={CODEC}")
    chosen = choose_songs(dataset)
    run("autosong_jax.train", f"--config={FLAGS.config}", f"--config.data.path={dataset}", f"--workdir={workdir}")
    sung.mkdir(exist_ok=True)
    for name, song in chosen.items():
        run("autosong_jax.generate", f"--workdir={workdir}", f"--lyrics={songs / song / 'lyrics.txt'}",
            f"--genre={(songs / song / 'genre.txt').read_text().strip()}", f"--output={sung / name}.wav")
    rows = [listen(name, sung / f"{name}.wav", songs / song, dataset, songs) for name, song in chosen.items()]
    (output / "results.json").write_text(json.dumps(rows, indent=2) + "\n")
    picture = draw(output / "song.png", sung, songs, chosen)
    print_table(rows)
    print(f"\nListen to {sung}/*.wav, look at {picture}. All of it took {(time.perf_counter() - started) / 60:.1f} "
          "minutes.")


def run(module: str, *arguments: str) -> None:
    """Runs `python -m module` as a user would, showing the command.

    Raises:
      UserError: if it fails; what went wrong stands above on the screen.
    """
    print("\n$ " + shlex.join(["python", "-m", module, *arguments]), flush=True)
    status = subprocess.run([sys.executable, "-m", module, *arguments], check=False).returncode
    if status:
        raise UserError(f"{module} ended with status {status}; its own message is above")


def choose_songs(dataset: pathlib.Path) -> dict[str, str]:
    """Which song is sung under which name: two that the model learned from, one that it never saw."""
    from autosong_jax.data.dataset import SongDataset

    train, held_out = SongDataset(dataset, "train"), SongDataset(dataset, "validation")
    return {"learned-1": train[0]["id"], "learned-2": train[1]["id"], "new-lyrics": held_out[0]["id"]}


def listen(name: str, sung: pathlib.Path, song: pathlib.Path, dataset: pathlib.Path, songs: pathlib.Path) -> dict:
    """Note error rates of one song, heard from audio alone."""
    from autosong_jax.audio import io
    from autosong_jax.codecs.codec import load_codec
    from autosong_jax.evaluation.notes import lyric_notes, note_error_rate, sung_notes

    def heard(path):
        audio, rate = io.read(path, channels=1)
        return sung_notes(audio[0], rate)

    codec = load_codec(dataset / "codec")
    true_audio, _ = io.read(song / "audio.wav", codec.sample_rate, codec.channels)
    asked = lyric_notes((song / "lyrics.txt").read_text())
    others = [lyric_notes(path.read_text()) for path in sorted(songs.glob("*/lyrics.txt")) if path.parent != song]
    notes = heard(sung)
    return {
        "song": name,
        "asked": len(asked),
        "sung": len(notes),
        "error rate": note_error_rate(asked, notes),
        "other lyrics": float(np.mean([note_error_rate(other, notes) for other in others])),
        "nearest other": float(np.min([note_error_rate(other, notes) for other in others])),
        "codec": note_error_rate(asked, sung_notes(codec.decode(codec.encode(true_audio))[0], codec.sample_rate)),
        "true audio": note_error_rate(asked, heard(song / "audio.wav")),
    }


def draw(path: pathlib.Path, sung: pathlib.Path, songs: pathlib.Path, chosen: dict[str, str]) -> pathlib.Path:
    """A picture of the first song."""
    from autosong_jax.audio import io
    from autosong_jax.evaluation.notes import lyric_notes
    from autosong_jax.evaluation.plots import plot_song

    name, song = next(iter(chosen.items()))
    audio, rate = io.read(sung / f"{name}.wav", channels=1)
    lyrics = (songs / song / "lyrics.txt").read_text()
    words = " ".join(line for line in lyrics.splitlines() if not line.startswith("["))
    plot_song(path, audio[0], rate, lyric_notes(lyrics), f"{name}: {words[:70]}")
    return path


def print_table(rows: list[dict]) -> None:
    """The rows as a table, with what its columns mean."""
    print("\nNote error rate: edit distance between the notes heard and those of the lyrics, over the latter's number."
          "\n  ours: of the song that the model sang   control: the same song against all other lyrics (mean, nearest)"
          "\n  ceiling: of the true recording after the codec, and of the recording itself\n")
    print(f"{'':12} {'notes':>6} {'heard':>6} {'ours':>7} {'control':>14} {'ceiling':>14}")
    for row in rows:
        print(f"{row['song']:12} {row['asked']:6} {row['sung']:6} {row['error rate']:7.2f} "
              f"{row['other lyrics']:7.2f} {row['nearest other']:6.2f} {row['codec']:7.2f} {row['true audio']:6.2f}")
    print("\nWhat it learned from it sings by heart. New lyrics it cannot sing yet: that takes thousands of songs and"
          "\nhalf an hour, see configs/songbook.py and benchmarks/RESULTS.md.")


if __name__ == "__main__":
    define_flags()
    cli.run(main)
