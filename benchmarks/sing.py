"""Does a model sing the lyrics that it is given? Note error rates over a split of a songbook's dataset.

python -m benchmarks.sing --workdir=DIR --dataset=DATASET --split=validation
"""

import time
from typing import Any, NamedTuple

import numpy as np
from absl import flags

from autosong_jax import cli

FLAGS = flags.FLAGS
BATCH = 16  # songs sung at once


def define_flags() -> None:
    """In a function, so that several commands can be imported into one process."""
    flags.DEFINE_string("workdir", None, "Workdir of a model trained on a songbook.")
    flags.DEFINE_string("dataset", None, "Dataset whose lyrics are sung.")
    flags.DEFINE_string("split", "validation", "Split of the dataset.")
    flags.DEFINE_integer("songs", 200, "At most so many songs.", lower_bound=1)
    flags.DEFINE_integer("seed", 0, "Seed of the first song.", lower_bound=0)
    flags.DEFINE_float("hybrid_seconds", None, "Sung step by step before a masked model fills in the rest.")
    flags.DEFINE_string("rescorer", None, "Workdir of a model of next steps that judges the codes of a masked one.")
    flags.mark_flags_as_required(["workdir", "dataset"])


def main() -> None:
    import autosong_jax

    helpers = {"hybrid_seconds": FLAGS.hybrid_seconds,
               "rescorer": autosong_jax.load(FLAGS.rescorer) if FLAGS.rescorer else None}
    result = judge(autosong_jax.load(FLAGS.workdir), FLAGS.dataset, FLAGS.split, FLAGS.songs, FLAGS.seed, **helpers)
    ours = result.ours
    print(f"{len(ours)} songs of {FLAGS.split!r}, {result.notes} notes, sung in {result.seconds:.0f} s "
          "(compilation included)")
    print(f"note error rate: mean {ours.mean():.3f} (standard error {ours.std() / np.sqrt(len(ours)):.3f}), median "
          f"{np.median(ours):.3f}, worst {ours.max():.3f}, songs without an error {np.mean(ours == 0):.2f}")
    print(f"control, against the other lyrics: mean {result.control.mean():.3f}; nearer to its own lyrics than to any "
          f"other: {np.mean(ours < result.control.min(axis=1)):.2f} of the songs")
    print(f"ceiling, the true song after the codec: mean {result.ceiling.mean():.3f}")


class Judged(NamedTuple):
    """Note error rates of songs.

    Attributes:
      ours: [songs], what was sung against its own lyrics.
      control: [songs, songs - 1], against the lyrics of each other song.
      ceiling: [songs], the true song after the codec.
      notes: in all lyrics together.
      seconds: that the songs were sung in.
    """

    ours: np.ndarray
    control: np.ndarray
    ceiling: np.ndarray
    notes: int
    seconds: float


def judge(singer: Any, dataset: str, split: str, most: int, seed: int, **helpers: Any) -> Judged:
    """Has a model sing the lyrics of at most so many songs of a split.

    Args:
      singer: from `autosong_jax.load`.
      dataset: made of a songbook.
      split: of it.
      most: songs.
      seed: of the first song.
      helpers: for `singer.generate`.
    """
    from autosong_jax.data.dataset import SongDataset
    from autosong_jax.evaluation.notes import lyric_notes, note_error_rate, sung_notes

    songs_of_split = SongDataset(dataset, split)
    records = [songs_of_split[i] for i in range(min(most, len(songs_of_split)))]
    started, songs = time.perf_counter(), []
    for i in cli.progress(range(0, len(records), BATCH), unit="batch"):
        part = records[i:i + BATCH]
        songs += singer.generate(lyrics=[r["lyrics"] for r in part], genre=[r["genre"] for r in part], seed=seed + i,
                                 **helpers)
    audio = [song.audio.mean(axis=0) for song in songs]  # which is decoded here
    seconds = time.perf_counter() - started
    asked = [lyric_notes(record["lyrics"]) for record in records]
    sung = [sung_notes(sound, song.sample_rate) for sound, song in zip(audio, songs, strict=True)]
    codec = [sung_notes(singer.codec.decode(r["frames"]).mean(axis=0), singer.codec.sample_rate) for r in records]
    return Judged(
        np.array([note_error_rate(a, s) for a, s in zip(asked, sung, strict=True)]),
        np.array([[note_error_rate(a, s) for j, a in enumerate(asked) if j != i] for i, s in enumerate(sung)]),
        np.array([note_error_rate(a, s) for a, s in zip(asked, codec, strict=True)]),
        sum(map(len, asked)), seconds)


if __name__ == "__main__":
    define_flags()
    cli.run(main)
