"""Does an edited song sing its new lyrics where it was edited, and is it the same elsewhere? On a songbook's songs.

python -m benchmarks.edit --workdir=DIR --dataset=DATASET --songs=SONGS --start=2 --stop=4

Each song of a split gets the lyrics of another one, which has other notes at those times. What is heard within the span
is compared with the notes that the new lyrics have there, and with those that the old ones had.
"""

import json
import math
import pathlib

import numpy as np
from absl import flags

from autosong_jax import cli

FLAGS = flags.FLAGS
SHIFT = 7  # the new lyrics are those of the song so many places further on


def define_flags() -> None:
    """In a function, so that several commands can be imported into one process."""
    flags.DEFINE_string("workdir", None, "Workdir of a masked model trained on a songbook.")
    flags.DEFINE_string("dataset", None, "Dataset whose songs are edited.")
    flags.DEFINE_string("songs", None, "The songbook that it was made of, with the times of the notes.")
    flags.DEFINE_string("split", "train", "Split of the dataset.")
    flags.DEFINE_integer("count", 200, "At most so many songs.", lower_bound=1)
    flags.DEFINE_float("start", 2.0, "Where to begin to sing anew, in seconds.", lower_bound=0.0)
    flags.DEFINE_float("stop", None, "Where to stop. Default: the song's end.")
    flags.mark_flags_as_required(["workdir", "dataset", "songs"])


def main() -> None:
    import autosong_jax
    from autosong_jax.data.dataset import SongDataset
    from autosong_jax.evaluation.notes import note_error_rate, sung_notes
    from autosong_jax.sampling.edits import Edit

    singer, dataset = autosong_jax.load(FLAGS.workdir), SongDataset(FLAGS.dataset, FLAGS.split)
    records = [dataset[i] for i in range(len(dataset))]
    count = min(FLAGS.count, len(records))
    errors, notes, kept = np.zeros(2), np.zeros(2), 0
    for i in cli.progress(range(count), unit="song"):
        record, other = records[i], records[(i + SHIFT) % len(records)]
        frames = len(record["frames"])
        stop = min(FLAGS.stop or math.inf, frames / singer.frame_rate)
        song = singer.edit(Edit([record["frames"]], [(FLAGS.start, stop)]), lyrics=other["lyrics"],
                           genre=other["genre"], seed=i)
        outside = np.ones(frames, bool)
        outside[math.floor(FLAGS.start * singer.frame_rate):math.ceil(stop * singer.frame_rate)] = False
        ours = np.resize(song.codes, record["frames"].shape)  # shorter only where the span reaches the end
        kept += bool((ours[outside] == record["frames"][outside]).all())
        within = slice(round(FLAGS.start * song.sample_rate), round(stop * song.sample_rate))
        heard = sung_notes(song.audio.mean(axis=0)[within], song.sample_rate)
        for j, lyrics in enumerate((other, record)):
            expected = _notes_between(lyrics["id"], FLAGS.start, stop)
            if expected:
                errors[j] += note_error_rate(expected, heard) * len(expected)
                notes[j] += len(expected)
    new, old = errors / notes
    until = f"{FLAGS.stop:g} s" if FLAGS.stop else "the end"
    print(f"{count} songs edited from {FLAGS.start:g} s to {until}: outside, all codes are equal in {kept}; inside, "
          f"the note error rate is {new:.3f} against the new lyrics ({notes[0]:.0f} notes) and {old:.3f} against the "
          f"old ({notes[1]:.0f})")


def _notes_between(song: str, start: float, stop: float) -> list[int]:
    """MIDI numbers of the notes of a song whose middle is within a span of seconds."""
    notes = json.loads((pathlib.Path(FLAGS.songs) / song / "notes.json").read_text(encoding="utf-8"))
    return [note["midi"] for note in notes if start <= (note["start"] + note["end"]) / 2 < stop]


if __name__ == "__main__":
    define_flags()
    cli.run(main)
