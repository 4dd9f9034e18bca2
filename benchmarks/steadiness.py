"""Does the memory of a training run grow? Its resident size, from after the warm-up to the end.

python -m benchmarks.steadiness --steps=600

A tiny model, with a checkpoint every 10 steps, an evaluation every 20 and a sample every 100, so that whatever each of
them might leave behind adds up.
"""

import pathlib
import shutil
import statistics
import subprocess
import sys
import time

from absl import flags

from autosong_jax import cli
from autosong_jax.errors import UserError
from benchmarks import kills

FLAGS = flags.FLAGS
EVERY = {"checkpoint_every": 10, "eval_every": 20, "sample_every": 100}


def define_flags() -> None:
    """In a function, so that several commands can be imported into one process."""
    flags.DEFINE_integer("steps", 600, "Steps of the run.", lower_bound=300)
    flags.DEFINE_string("output", "steadiness", "Where songs, dataset and workdir go.")


def main() -> None:
    output = pathlib.Path(FLAGS.output)
    dataset, workdir = kills.make_dataset(output), output / "workdir"
    shutil.rmtree(workdir, ignore_errors=True)
    life = kills.Life(
        [sys.executable, "-m", "autosong_jax.train", "--config=configs/xsmall.py:runlocal",
         f"--config.data.path={dataset}", "--config.data.seconds=1.0", f"--config.train.steps={FLAGS.steps}",
         "--config.train.log_every=1", *(f"--config.train.{name}={value}" for name, value in EVERY.items())],
        workdir, output / "train.log")
    sizes = sample(life)
    if life.process.returncode:
        raise UserError(f"training failed: see {life.log}")
    print(f"{'steps':>12} {'resident MiB: median':>22} {'least':>8} {'most':>8}")
    for low in range(0, FLAGS.steps, FLAGS.steps // 6):
        high = min(low + FLAGS.steps // 6, FLAGS.steps)
        part = [size for step, size in sizes if low < step <= high]
        note = "  (warm-up: the first of everything is in here)" if low < max(EVERY.values()) else ""
        if part:
            print(f"{low + 1:5} - {high:4} {statistics.median(part):22.1f} {min(part):8.1f} {max(part):8.1f}{note}")


def sample(life: kills.Life) -> list[tuple[int, float]]:
    """(step, MiB), five times a second until the process ends."""
    sizes = []
    with cli.progress(total=FLAGS.steps, unit="step") as bar:
        while life.process.poll() is None:
            step = life.step or 0
            bar.update(step - bar.n)
            size = subprocess.run(["ps", "-o", "rss=", "-p", str(life.process.pid)], capture_output=True, text=True,
                                  check=False).stdout.strip()
            if size and int(size):  # 0 once it has ended
                sizes.append((step, int(size) / 1024))
            time.sleep(0.2)
    return sizes


if __name__ == "__main__":
    define_flags()
    cli.run(main)
