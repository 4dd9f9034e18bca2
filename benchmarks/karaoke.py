"""Does a model know when each line is sung? Its times beside the true ones, on songs of a songbook never seen.

python -m benchmarks.karaoke --workdir=DIR --songs=SONGS --dataset=DATASET

Of recordings, read as if the model had sung them, the times are those of `notes.json`. Of songs that it sings itself
they are those of the notes that are heard, where these are the lyrics' own. The control spreads the lyrics evenly over
the time from the first note to the end of the last.
"""

import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from absl import flags

from autosong_jax import cli

FLAGS = flags.FLAGS
BATCH = 16  # songs sung at once
PARTS = ("lines", "words", "syllables")


def define_flags() -> None:
    """In a function, so that several commands can be imported into one process."""
    flags.DEFINE_string("workdir", None, "Workdir of a model trained on a songbook.")
    flags.DEFINE_string("songs", None, "The songbook.")
    flags.DEFINE_string("dataset", None, "Dataset made of it.")
    flags.DEFINE_string("split", "validation", "Split of the dataset whose songs are timed.")
    flags.DEFINE_integer("most", 64, "At most so many of them.", lower_bound=1)
    flags.DEFINE_integer("calibration", 16, "Songs of the split train by which heads are chosen.", lower_bound=1)
    flags.DEFINE_integer("seed", 0, "Seed of the first song.", lower_bound=0)
    flags.mark_flags_as_required(["workdir", "songs", "dataset"])


class Sung(NamedTuple):
    """A song whose times are known: its frames, its conditions, and (character, second) of each syllable; NaN where it
    is not known."""

    frames: np.ndarray
    conditions: dict[str, str]
    times: list[tuple[int, float]]
    end: float


def main() -> None:
    import autosong_jax

    singer = autosong_jax.load(FLAGS.workdir)
    recorded = recordings(FLAGS.split, FLAGS.most)
    own = sung(singer, recorded)
    found = singer.calibrate([tuple(song[:3]) for song in recordings("train", FLAGS.calibration)])
    heads = ", ".join(f"{layer}.{head}" for layer, head in found.heads)
    heard = np.mean([np.isfinite(seconds) for song in own for _, seconds in song.times])
    print(f"{len(recorded)} songs of {FLAGS.split!r}; of those that the model sings, {heard:.1%} of the syllables are "
          f"heard. Calibrated heads, by {found.songs} songs of 'train': {heads}")
    print("| songs | heads | " + " | ".join(f"{part}: median, within 0.15 s, 0.5 s" for part in PARTS) + " |")
    print("| --- | --- |" + " --- |" * len(PARTS))
    for songs, group in [("recordings", recorded), ("its own", own)]:
        for name, chosen in [("the most monotone", None), ("calibrated", found.heads)]:
            walks = [singer.align(song.frames, heads=chosen, **song.conditions).walk
                     for song in cli.progress(group, unit="song", leave=False)]
            row(songs, name, [differences(song, walk.text, np.append(walk.starts, np.nan) / singer.frame_rate)
                              for song, walk in zip(group, walks, strict=True)])
        row(songs, "control", [differences(song, walk.text, evenly(song, len(walk.starts)))
                               for song, walk in zip(group, walks, strict=True)])


def recordings(split: str, most: int) -> list[Sung]:
    """True songs of a split."""
    from autosong_jax.data.dataset import SongDataset
    from autosong_jax.evaluation.timed import TimedSong

    records, songs = SongDataset(FLAGS.dataset, split), []
    for record in (records[i] for i in range(min(most, len(records)))):
        song = TimedSong.read(pathlib.Path(FLAGS.songs) / record["id"])
        songs.append(Sung(record["frames"], {"lyrics": record["lyrics"], "genre": record["genre"]}, song.times,
                          song.syllables[-1].end))
    return songs


def sung(singer: Any, songs: Sequence[Sung]) -> list[Sung]:
    """What the model sings of the same lyrics, and when its notes are heard."""
    from autosong_jax.evaluation.notes import align, detect_notes, lyric_notes

    own = []
    for first in cli.progress(range(0, len(songs), BATCH), unit="batch", leave=False):
        part = songs[first:first + BATCH]
        given = {name: [song.conditions[name] for song in part] for name in part[0].conditions}
        for song, made in zip(part, singer.generate(seed=FLAGS.seed + first, **given), strict=True):
            asked = lyric_notes(song.conditions["lyrics"])
            heard = detect_notes(made.audio.mean(axis=0), made.sample_rate)
            seconds = np.full(len(asked), np.nan)
            for i, j in align(asked, [note.midi for note in heard]):
                if i is not None and j is not None and asked[i] == heard[j].midi:
                    seconds[i] = heard[j].start
            times = [(at, second) for (at, _), second in zip(song.times, seconds, strict=True)]
            own.append(Sung(made.frames, song.conditions, times, heard[-1].end if heard else np.nan))
    return own


def evenly(song: Sung, columns: int) -> np.ndarray:
    """Seconds [columns + 1], in which characters would begin that all last equally long."""
    return np.append(np.linspace(np.nanmin([second for _, second in song.times]), song.end, columns + 1)[:-1], np.nan)


def differences(song: Sung, text: Any, starts: np.ndarray) -> list[np.ndarray]:
    """Of each of `PARTS` float [any], by how many seconds the beginnings differ that are known."""
    at = np.array([character for character, _ in song.times])
    off = np.abs(starts[np.searchsorted(text.at, at)] - np.array([second for _, second in song.times]))
    firsts = [np.unique(np.searchsorted(at, [start for start, _ in spans])) for spans in (text.lines, text.words)]
    return [off[first][np.isfinite(off[first])] for first in (*firsts, slice(None))]


def row(songs: str, heads: str, found: Sequence[list[np.ndarray]]) -> None:
    """Prints a row of the table."""
    cells = [np.concatenate(part) for part in zip(*found, strict=True)]
    print(f"| {songs} | {heads} | " + " | ".join(
        f"{np.median(off):.3f} s, {np.mean(off <= 0.15):.1%}, {np.mean(off <= 0.5):.1%} of {len(off)}"
        for off in cells) + " |", flush=True)


if __name__ == "__main__":
    define_flags()
    cli.run(main)
