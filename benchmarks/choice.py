"""Is the best of several songs better? Note error rates of lyrics never seen, by what chooses among the candidates.

python -m benchmarks.choice --workdir=DIR --dataset=DATASET

Each song is sung several times, once a seed. The first of them is what a user has without --candidates; of all of them
one is chosen by how likely the model finds it, and one by its notes.
"""

import time
from collections.abc import Mapping

import numpy as np
from absl import flags

from autosong_jax import cli

FLAGS = flags.FLAGS
BATCH = 16  # songs sung at once, each with its candidates
DRAWS = 10_000  # of the bootstrap


def define_flags() -> None:
    """In a function, so that several commands can be imported into one process."""
    flags.DEFINE_string("workdir", None, "Workdir of a model trained on a songbook.")
    flags.DEFINE_string("dataset", None, "Dataset whose lyrics are sung.")
    flags.DEFINE_string("split", "validation", "Split of the dataset.")
    flags.DEFINE_integer("songs", 64, "At most so many songs.", lower_bound=2)
    flags.DEFINE_integer("candidates", 4, "Songs to choose from.", lower_bound=2, upper_bound=64)
    flags.DEFINE_float("temperature", 1.0, "Temperature; at 0 all candidates are the same.")
    flags.DEFINE_integer("seed", 0, "Seed of the first candidate of the first song.", lower_bound=0)
    flags.mark_flags_as_required(["workdir", "dataset"])


def main() -> None:
    started = time.perf_counter()
    errors, likelihoods = sung()
    minutes = (time.perf_counter() - started) / 60
    rows = np.arange(len(errors))
    chosen = {
        "the first": errors[:, :1], "any, on average": errors,
        "the most likely": errors[rows, likelihoods.argmax(axis=1)][:, None],
        "the least likely": errors[rows, likelihoods.argmin(axis=1)][:, None],
        "the fewest wrong notes": errors.min(axis=1, keepdims=True)}
    print(f"{len(errors)} songs of {FLAGS.split!r} at temperature {FLAGS.temperature:g}, {errors.shape[1]} candidates "
          f"each, sung and judged in {minutes:.1f} minutes (compilation included)\n")
    print_table(chosen)
    within = np.mean([correlation(*pair) for pair in zip(-errors, likelihoods, strict=True) if np.ptp(pair[0])])
    print(f"\nrank correlation of likelihood and fewer wrong notes among the candidates of a song: {within:.2f}, the "
          f"mean of {np.count_nonzero(np.ptp(errors, axis=1))} songs whose candidates differ in wrong notes")


def sung() -> tuple[np.ndarray, np.ndarray]:
    """Note error rates and mean log probabilities, float [songs, candidates] each."""
    import autosong_jax
    from autosong_jax.data.dataset import SongDataset
    from autosong_jax.sampling.ranking import Ranker

    singer, split = autosong_jax.load(FLAGS.workdir), SongDataset(FLAGS.dataset, FLAGS.split)
    records = [split[i] for i in range(min(FLAGS.songs, len(split)))]
    by_notes, by_likelihood = autosong_jax.ranker("notes"), autosong_jax.ranker("likelihood")
    scores = []

    def both(candidate) -> float:
        scores.append((by_notes.score(candidate), by_likelihood.score(candidate)))
        return scores[-1][0]

    ranker = Ranker("both", both, check=by_notes.check)
    for first in cli.progress(range(0, len(records), BATCH), unit="batch"):
        part = records[first:first + BATCH]
        singer.generate(lyrics=[record["lyrics"] for record in part], genre=[record["genre"] for record in part],
                        temperature=FLAGS.temperature, seed=FLAGS.seed + first * FLAGS.candidates,
                        candidates=FLAGS.candidates, rank_by=ranker)
    # A song of no frames has no likelihood.
    found = np.array(scores, float).reshape(len(records), FLAGS.candidates, 2)
    return found[..., 0], np.nan_to_num(found[..., 1], nan=-np.inf)


def print_table(chosen: Mapping[str, np.ndarray]) -> None:
    """Note error rates [songs, any that may be kept], and how they differ from those of the first candidate, with 95 %
    intervals over songs."""
    first = next(iter(chosen.values()))
    print(f"{'kept of each song':24} {'note error rate':24} {'less than the first':24} no wrong note")
    for name, errors in chosen.items():
        less = "-" if errors is first else interval((first - errors).mean(axis=1))
        print(f"{name:24} {interval(errors.mean(axis=1)):24} {less:24} {np.mean(errors == 0):.2f}")


def interval(values: np.ndarray) -> str:
    """A mean over songs with its interval."""
    from autosong_jax.evaluation.intervals import estimates

    songs = [{"sum": value, "songs": 1} for value in values]
    mean = estimates(songs, lambda sums: {"mean": sums["sum"] / sums["songs"]}, draws=DRAWS)["mean"]
    return f"{mean.value:.3f} [{mean.low:.3f}, {mean.high:.3f}]"


def correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Spearman's."""
    from scipy.stats import spearmanr

    return spearmanr(one, other).statistic


if __name__ == "__main__":
    define_flags()
    cli.run(main)
