"""A short real run: does a model trained on this machine sing lyrics that it has never seen?

Needs all packages of the project: songs are made and exported, then trained on and sung by the ordinary commands.
"""

import importlib.util
import pathlib
import subprocess
import sys
import time

from benchmarks.accelerator.measurement import Measurement, Skipped

CODEC = "melrvq:hop=1280,subframes=4,num_codebooks=2"  # as configs/songbook.py has it
# Of the commands, beside what the measurements of speed take.
NEEDED = ("clu", "google_crc32c", "grain", "librosa", "ml_collections", "orbax", "soundfile", "soxr", "tensorboardX",
          "tensorflow_datasets")


def dataset(measurement: Measurement, songs: int, seconds: float, seed: int) -> None:
    """Makes the songbook and its dataset, beside the records."""
    check_packages()
    folder = measurement.output / "songbook"
    for name, *command in (
            ("songs", "data_prep.songbook", f"--output={folder / 'songs'}", f"--songs={songs}", f"--seconds={seconds}",
             f"--seed={seed}"),
            ("export", "data_prep.export", f"--input={folder / 'songs'}", f"--output={folder / 'dataset'}",
             f"--codec={CODEC}")):
        started = time.perf_counter()
        run(*command)
        measurement.row(what=name, songs=songs, seconds=time.perf_counter() - started)


def train_and_sing(measurement: Measurement, config: str, overrides: list[str], most: int, split: str) -> None:
    """Trains `config` on the songbook, then judges at most so many songs of a split by their notes.

    Training goes on from its last checkpoint where a call before was stopped.
    """
    check_packages()
    folder = measurement.output / "songbook"
    workdir = folder / pathlib.Path(config.partition(":")[0]).stem
    if not (folder / "dataset" / "dataset_info.json").exists():
        raise Skipped("the part `songs-data`, which makes its dataset, is not done")
    started = time.perf_counter()
    run("autosong_jax.train", f"--config={config}", f"--config.data.path={folder / 'dataset'}",
        f"--workdir={workdir}", *overrides)
    trained = time.perf_counter() - started
    measurement.device()  # only now: training had the device to itself
    import autosong_jax
    from benchmarks.sing import judge

    judged = judge(autosong_jax.load(workdir), str(folder / "dataset"), split, most, 0)
    count = len(judged.ours)
    control = float(judged.control.mean()) if count > 1 else None
    measurement.row(config=config, overrides=overrides, train_seconds=trained, sing_seconds=judged.seconds,
                    songs=count, notes=judged.notes, note_error_rate=float(judged.ours.mean()),
                    standard_error=float(judged.ours.std() / count**0.5), right=float((judged.ours == 0).mean()),
                    control=control, ceiling=float(judged.ceiling.mean()))


def check_packages() -> None:
    """Raises Skipped if packages are missing."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise Skipped(f"packages are not installed: {', '.join(missing)}")


def run(module: str, *arguments: str) -> None:
    """Runs a command of the project to its end, its output with this process's own."""
    done = subprocess.run([sys.executable, "-m", module, *arguments], check=False)
    if done.returncode:
        raise RuntimeError(f"python -m {module} ended with exit status {done.returncode}: see the log of this part")
