"""Does a free run of minutes stay music? Each variant goes on from its own latents, window after window.

The models learn from windows anywhere in long songs, without their lyrics, so that any window may follow any other.
What is measured of every ten seconds stands beside the same of true songs, through the same autoencoder and heard in
the same way: the standard deviation of latents over time, whose square is the mean of the variances of all values; the
RMS of the sound; and how much of it is silent.
"""

import functools
import itertools
import pathlib
from typing import Any

import numpy as np

from benchmarks.continuous import pictures, songs
from benchmarks.continuous.scene import RATE, Scene, training_of

STRETCH = 10.0  # seconds
MEASURES = {"latents": "standard deviation of latents", "level": "RMS, dB", "silence": "share of silence"}


def stretches(columns: np.ndarray, column_rate: float, audio: np.ndarray) -> dict[str, list[float]]:
    """Each measure of every whole stretch.

    Args:
      columns: of latents, float [N, F].
      column_rate: of them a second.
      audio: float [samples] at RATE.
    """
    from autosong_jax.evaluation.sound import levels, silence

    edges = np.arange(0, len(columns) + 1e-6, STRETCH * column_rate).round().astype(int)
    deviations = [float(np.sqrt(columns[a:b].var(axis=0).mean())) for a, b in itertools.pairwise(edges)]
    return {"latents": deviations, "level": levels(audio, RATE, STRETCH).tolist(),
            "silence": silence(audio, RATE, STRETCH).tolist()}


def measure(scene: Scene, variants: list[str], autoencoder: str, steps: int, seconds: float, seeds: int, count: int
            ) -> dict[str, Any]:
    """Trains the variants on so many long songs, and has each run for so many seconds, from each of some seeds."""
    book = scene.book("long_songs", count, 60.0)
    mels = scene.mels_of(book, "long_mels")
    given = {"steps": steps, "autoencoder": autoencoder, "vocoder": scene.vocoder_steps, "seconds": seconds,
             "seeds": seeds, "long songs": count}
    found: dict[str, Any] = {}
    for variant in variants:
        found[variant] = scene.measured(
            f"drift-{variant}", given,
            functools.partial(_measure, scene, variant, mels, autoencoder, steps, seconds, seeds))
    workdir = scene.workdir(f"drift-{variants[0]}")  # any has the same autoencoder
    found["true"] = scene.measured("drift-true", given | {"steps": None}, lambda: _true(workdir, mels))
    pictures.curves(scene.output / "drift.png", {name: found[name]["curves"] for name in variants},
                    found["true"], MEASURES, STRETCH)
    return found


def _measure(scene: Scene, variant: str, mels: pathlib.Path, autoencoder: str, steps: int, seconds: float, seeds: int
             ) -> dict[str, Any]:
    import autosong_jax

    workdir = songs.train(scene, f"drift-{variant}", variant, mels, autoencoder, steps, words=False)
    singer = autosong_jax.load(workdir)
    sources = singer.encode_conditions([{"genre": "pop"}] * seeds)
    runs = [_heard(singer, columns)
            for columns in singer.sing_units(sources, range(seeds), duration=seconds, show_progress=True)]
    return {"training": training_of(workdir), "curves": {name: [run[name] for run in runs] for name in MEASURES}}


def _true(workdir: pathlib.Path, mels: pathlib.Path) -> dict[str, list[float]]:
    """Of each measure the 5th, 50th and 95th percentile over all stretches of true songs that nothing learned from."""
    import autosong_jax
    from autosong_jax.data.dataset import SongDataset

    singer, split = autosong_jax.load(workdir), SongDataset(mels, "validation")
    found: dict[str, list[float]] = {name: [] for name in MEASURES}
    for i in range(len(split)):
        for name, values in _heard(singer, singer.medium.units(split[i]["frames"])).items():
            found[name] += values
    return {name: np.percentile(values, [5, 50, 95]).tolist() for name, values in found.items()}


def _heard(singer: Any, columns: np.ndarray) -> dict[str, list[float]]:
    frames = np.concatenate(list(singer.medium.frames([columns])))
    return stretches(columns, singer.medium.rate, singer.codec.decode(frames)[0])


def print_table(found: dict[str, Any], seconds: float) -> None:
    """The results as a table, with what its columns mean."""
    true = found["true"]
    print(f"\nFree runs of {seconds:g} s: their first and their last 30 s, and how many of their stretches of 10 s lie "
          "outside of 5 to 95 % of true ones.\n")
    print(f"{'':28} {'minutes':>7}" + "".join(f" | {text:>32}" for text in MEASURES.values()))
    print(f"{'':28} {'':7}" + " |    first     last      outside   " * len(MEASURES))
    for name, row in found.items():
        if name == "true":
            continue
        cells = []
        for measure, (low, _, high) in true.items():
            curves = np.array(row["curves"][measure])
            outside = ((curves < low) | (curves > high)).mean()
            cells.append(f" | {curves[:, :3].mean():8.3f} {curves[:, -3:].mean():8.3f} {outside:12.2f}   ")
        print(f"{name:28} {row['training']['minutes']:7.1f}" + "".join(cells))
    print(f"{'true songs (5, 50, 95 %)':36}" + "".join(
        f" | {low:8.3f} {middle:8.3f} {high:12.3f}   " for low, middle, high in true.values()))
