"""Does a model listen? Duets, a dataset, models and their singing to backings that they have never heard.

python -m benchmarks.duets --output duets

It runs the commands that a user runs, once without scheduled sampling and once with it, and then listens: the notes of
a lead are right if they are those that the chords of its backing ask for (autosong_jax/evaluation/duets.py). Started
again it goes on where it was stopped.
"""

import json
import pathlib
import time

import numpy as np
from absl import flags

from autosong_jax import cli
from benchmarks.demo import CODEC, run

FLAGS = flags.FLAGS
BATCH = 16  # leads sung at once


def define_flags() -> None:
    """In a function, so that several commands can be imported into one process."""
    flags.DEFINE_string("output", "duets", "Where duets, dataset, models and results go.")
    flags.DEFINE_integer("duets", 2000, "Duets to learn from.", lower_bound=32)
    flags.DEFINE_integer("steps", None, "Steps of training. By default the config's.", lower_bound=1)
    flags.DEFINE_integer("heard", 64, "At most so many held-out backings are sung to.", lower_bound=2)
    flags.DEFINE_multi_float("share", [0.0, 0.25], "Final share of scheduled sampling; each is a model.")
    flags.DEFINE_string("config", "configs/duets.py", "Config of the models.")


def main() -> None:
    output = pathlib.Path(FLAGS.output)
    songs, dataset = output / "songs", output / "dataset"
    run("data_prep.songbook", "--duets", f"--output={songs}", f"--songs={FLAGS.duets}", "--seconds=6", "--seed=0")
    run("data_prep.export", f"--input={songs}", f"--output={dataset}", f"--codec={CODEC}", "--sources=text,backing",
        "--norequire_lyrics")
    rows = []
    for share in FLAGS.share:
        workdir, started = output / f"share-{share:g}", time.perf_counter()
        steps = [f"--config.train.steps={FLAGS.steps}"] if FLAGS.steps else []
        run("autosong_jax.train", f"--config={FLAGS.config}", f"--config.data.path={dataset}", f"--workdir={workdir}",
            f"--config.objective.scheduled_sampling={share}", *steps)
        minutes = (time.perf_counter() - started) / 60
        rows.append({"share": share, "minutes": minutes, **teacher_forced(workdir),
                     **judge(workdir, dataset, songs, FLAGS.heard)})
        (output / "results.json").write_text(json.dumps(rows, indent=2) + "\n")
    print_table(rows)


def teacher_forced(workdir: pathlib.Path) -> dict[str, float]:
    """Loss and accuracy of the last validation, where the model reads the true codes."""
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    last = [line for line in lines if line["kind"] == "validation"][-1]
    return {"loss": last["loss"], "accuracy": last["accuracy"]}


def judge(workdir: pathlib.Path, dataset: pathlib.Path, songs: pathlib.Path, most: int) -> dict[str, float]:
    """Mean note error rates of leads that a model sings to held-out backings.

    "ours" is beside what the backing asks for, "other backing" beside what another one does, of the same genre if there
    is one; "chance" is of the true lead beside that other backing; "codec" and "true audio" are of the true lead, after
    the codec and as it is.
    """
    import autosong_jax
    from autosong_jax.audio import io
    from autosong_jax.data.dataset import SongDataset
    from autosong_jax.evaluation.duets import lead_error_rate

    singer, split = autosong_jax.load(workdir), SongDataset(dataset, "validation")
    folders = [songs / split[i]["id"] for i in range(min(most, len(split)))]
    chords = [[stroke["chord"] for stroke in json.loads((folder / "chords.json").read_text())] for folder in folders]
    genres = [(folder / "genre.txt").read_text() for folder in folders]

    def read(folder: pathlib.Path, name: str) -> np.ndarray:
        return io.read(folder / name, singer.codec.sample_rate, singer.codec.channels)[0]

    made = {}
    for genre in cli.progress(sorted(set(genres)), unit="genre"):  # all of a genre have the same length
        of_genre = [folder for folder, other in zip(folders, genres, strict=True) if other == genre]
        for first in range(0, len(of_genre), BATCH):
            part = of_genre[first:first + BATCH]
            backings = [read(folder, "backing.wav") for folder in part]
            made |= zip(part, singer.generate(backing=backings, seed=first), strict=True)
    rates = {"ours": [], "other backing": [], "chance": [], "codec": [], "true audio": []}
    for i, folder in enumerate(folders):
        ours, true = made[folder].audio, read(folder, "audio.wav")
        heard = {"ours": ours, "codec": singer.codec.decode(singer.codec.encode(true)), "true audio": true}
        for name, audio in heard.items():
            rates[name].append(lead_error_rate(chords[i], audio[0], singer.codec.sample_rate))
        others = sorted((j for j in range(len(folders)) if j != i), key=lambda j: genres[j] != genres[i])
        for name, audio in (("other backing", ours), ("chance", true)):
            rates[name].append(lead_error_rate(chords[others[0]], audio[0], singer.codec.sample_rate))
    return {"backings": len(folders)} | {name: float(np.mean(values)) for name, values in rates.items()}


def print_table(rows: list[dict[str, float]]) -> None:
    """The rows as a table, with what its columns mean."""
    print(f"\nNote error rates of leads sung to {rows[0]['backings']} backings that were not learned from."
          "\n  ours: beside what the chords of the backing ask for   control: beside what another backing asks for"
          "\n  chance: of the true lead, beside that other backing  ceiling: after the codec, and as it is\n")
    print(f"{'share':>6} {'minutes':>8} {'ours':>7} {'control':>8} {'chance':>7} {'ceiling':>13} {'loss':>7} "
          f"{'accuracy':>9}")
    for row in rows:
        print(f"{row['share']:6.2f} {row['minutes']:8.1f} {row['ours']:7.3f} {row['other backing']:8.3f} "
              f"{row['chance']:7.3f} {row['codec']:7.3f} {row['true audio']:5.3f} {row['loss']:7.3f} "
              f"{row['accuracy']:9.3f}")
    print("\nLoss and accuracy are of codes, each from the true codes before it.")


if __name__ == "__main__":
    define_flags()
    cli.run(main)
