"""Does a model follow a clip? Songs of two registers, a dataset, a model, and lyrics that it has never seen.

python -m benchmarks.styles --output styles

It runs the commands that a user runs, words first and then clips, and then listens: every song is sung twice, once
with a clip of a low voice and once with one of a high voice, both from other songs that the model has not learned from.
Started again it goes on where it was stopped.
"""

import json
import pathlib
import time

import numpy as np
from absl import flags

from autosong_jax import cli
from benchmarks.demo import CODEC, run

FLAGS = flags.FLAGS
BATCH = 16  # songs sung at once
SECONDS = 7.0  # the longest that a song may be; a model learns, and sings, the beginnings
PLAIN_SECONDS = 6.0  # that of one that is learned whole, to learn words
LEAST = 0.15  # seconds of a note that must be within what is sung, for it to be asked for


def define_flags() -> None:
    """In a function, so that several commands can be imported into one process."""
    flags.DEFINE_string("output", "styles", "Where songs, dataset, model and results go.")
    flags.DEFINE_integer("songs", 4000, "Songs to learn from.", lower_bound=500)
    flags.DEFINE_integer("words_steps", None, "Steps of training without clips. By default the config's.",
                         lower_bound=1)
    flags.DEFINE_integer("steps", None, "Steps of training with them, from there. By default the config's.",
                         lower_bound=1)
    flags.DEFINE_integer("heard", 64, "At most so many held-out songs are sung, each twice.", lower_bound=2)
    flags.DEFINE_string("config", "configs/styles.py", "Config of the model.")


def main() -> None:
    output = pathlib.Path(FLAGS.output)
    songs, dataset, workdir = output / "songs", output / "dataset", output / "workdir"
    plain, words = output / "plain_songs", output / "words"
    made(songs, dataset, CODEC, f"--seconds={SECONDS}", "--styles")
    made(plain, output / "plain_dataset", str(dataset / "codec"), f"--seconds={PLAIN_SECONDS}")
    started = time.perf_counter()
    train(f"{FLAGS.config}:words", output / "plain_dataset", words, FLAGS.words_steps)
    train(FLAGS.config, dataset, workdir, FLAGS.steps, f"--config.init.workdir={words}")
    minutes = (time.perf_counter() - started) / 60
    results = {"minutes": minutes} | judge(workdir, dataset, songs, plain, FLAGS.heard)
    (output / "results.json").write_text(json.dumps(results, indent=2) + "\n")
    print_table(results)


def made(songs: pathlib.Path, dataset: pathlib.Path, codec: str, *flags: str) -> None:
    run("data_prep.songbook", f"--output={songs}", f"--songs={FLAGS.songs}", "--seed=0", *flags)
    run("data_prep.export", f"--input={songs}", f"--output={dataset}", f"--codec={codec}")


def train(config: str, dataset: pathlib.Path, workdir: pathlib.Path, steps: int | None, *flags: str) -> None:
    run("autosong_jax.train", f"--config={config}", f"--config.data.path={dataset}", f"--workdir={workdir}",
        *([f"--config.train.steps={steps}"] if steps else []), *flags)


def judge(workdir: pathlib.Path, dataset: pathlib.Path, songs: pathlib.Path, plain: pathlib.Path, most: int
          ) -> dict[str, float]:
    """How held-out lyrics are sung with clips of either register; those that a plain song has, too, are none.

    A clip is followed if the median of the notes heard is nearer to that of the lyrics' notes in the clip's register
    than in the other. "words" is the note error rate beside the lyrics in the clip's register, "other words" beside
    another song's; "codec" and "true audio" are the ceiling: of the recordings after the codec, and as they are.
    """
    import autosong_jax
    from autosong_jax.audio import io
    from autosong_jax.data.dataset import SongDataset
    from autosong_jax.evaluation.notes import OCTAVE, lyric_notes, note_error_rate, register, sung_notes

    singer, split = autosong_jax.load(workdir), SongDataset(dataset, "validation")
    rate, pitches = singer.codec.sample_rate, sorted({*_pitches(0), *_pitches(OCTAVE)})
    known = {path.read_text() for path in plain.glob("*/lyrics.txt")}
    names = [split[i]["id"] for i in range(len(split))]
    names = [name for name in names if (songs / name / "lyrics.txt").read_text() not in known]
    seconds = singer.config.data.seconds
    lyrics = [(songs / name / "lyrics.txt").read_text() for name in names]
    genres = [(songs / name / "genre.txt").read_text().strip() for name in names]
    asked = [lyric_notes(text) for text in lyrics]
    true = [io.read(songs / name / "audio.wav", rate, singer.codec.channels)[0] for name in names]
    scores = [json.loads((songs / name / "notes.json").read_text()) for name in names]
    higher = [score[0]["midi"] - notes[0] for score, notes in zip(scores, asked, strict=True)]
    asked = [notes[:sum(note["start"] + LEAST <= seconds for note in score)]
             for score, notes in zip(scores, asked, strict=True)]
    count = min(most, len(names))

    def clip(i: int, wanted: int) -> np.ndarray:
        """From the middle of another song in the wanted register."""
        j = next(j for j in (*range(i + 1, len(names)), *range(i)) if higher[j] == wanted)
        middle, length = true[j].shape[1] // 2, round(singer.config.sources.style.max_length / singer.frame_rate * rate)
        return true[j][:, middle - length // 2:][:, :length]

    def error(i: int, audio: np.ndarray, wanted: int) -> float:
        return note_error_rate([note + wanted for note in asked[i]], sung_notes(audio[0], rate, pitches))

    rows = {name: [] for name in ("followed low", "followed high", "changed", "words", "other words", "codec",
                                  "true audio")}
    registers = np.zeros((count, 2))
    for k, wanted in enumerate((0, OCTAVE)):
        for first in cli.progress(range(0, count, BATCH), unit="batch", desc="high" if wanted else "low"):
            part = range(first, min(first + BATCH, count))
            made = singer.generate(lyrics=[lyrics[i] for i in part], genre=[genres[i] for i in part],
                                   style_audio=[clip(i, wanted) for i in part], seed=first)
            for i, song in zip(part, made, strict=True):
                registers[i, k] = register(song.audio[0], rate) - np.median(asked[i])
                rows["words"].append(error(i, song.audio, wanted))
                other = asked[(i + 1) % len(asked)]
                rows["other words"].append(note_error_rate(
                    [note + wanted for note in other], sung_notes(song.audio[0], rate, pitches)))
    near = np.abs(registers[..., None] - np.array([0, OCTAVE]))  # NaN, where nobody sings, is near nothing
    followed = np.stack([near[:, k, k] < near[:, k, 1 - k] for k in range(2)], axis=1)
    rows["followed low"], rows["followed high"] = followed.T
    rows["changed"] = registers[:, 1] - registers[:, 0] > OCTAVE / 2
    for i in range(count):
        beginning = true[i][:, :round(seconds * rate)]
        rows["codec"].append(error(i, singer.codec.decode(singer.codec.encode(beginning)), higher[i]))
        rows["true audio"].append(error(i, beginning, higher[i]))
    return {"songs": count} | {name: float(np.mean(values)) for name, values in rows.items()}


def _pitches(higher: int) -> list[int]:
    from autosong_jax.evaluation.notes import PITCHES

    return [pitch + higher for pitch in PITCHES]


def print_table(results: dict[str, float]) -> None:
    """The results, with what they mean."""
    print(f"\n{results['songs']} songs that were not learned from, each sung with a clip of a low and of a high voice "
          f"({results['minutes']:.1f} minutes of training)\n"
          f"\nregister of the clip is followed   low {results['followed low']:.3f}, high {results['followed high']:.3f}"
          f"\nthe other clip changes it          {results['changed']:.3f}"
          f"\nnote error rate of the words       {results['words']:.3f} (other words {results['other words']:.3f}; "
          f"ceiling {results['codec']:.3f} after the codec, {results['true audio']:.3f} of the recordings)")


if __name__ == "__main__":
    define_flags()
    cli.run(main)
