"""A training run killed again and again, at any moment, ends as one that nobody disturbed: bit for bit.

python -m benchmarks.kills --kills=50

It trains a tiny model twice by the documented command: once in peace, once with a SIGKILL at random moments, half of
them while a checkpoint is being written, and the same command after each. It checks that each start goes on from the
newest finished checkpoint, and in the end weights, optimizer state, moving average and metrics of both runs.
"""

import collections
import dataclasses
import json
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
from absl import flags

from autosong_jax import cli
from autosong_jax.errors import UserError

FLAGS = flags.FLAGS
TIMES = {"steps_per_second", "targets_per_second", "data_wait", "mfu", "time"}  # what no two runs have in common
MOMENTS = ("any", "beginning", "writing")
MOST_STEPS = 24  # between two kills


def define_flags() -> None:
    """In a function, so that several commands can be imported into one process."""
    flags.DEFINE_integer("kills", 50, "How often to kill.", lower_bound=1)
    flags.DEFINE_integer("seed", 0, "Of the moments.", lower_bound=0)
    flags.DEFINE_string("output", "kills", "Where songs, dataset, both workdirs and what the runs said go.")


def main() -> int:
    output = pathlib.Path(FLAGS.output)
    dataset, every = make_dataset(output), 4
    command = [
        sys.executable, "-m", "autosong_jax.train", "--config=configs/xsmall.py:runlocal",
        f"--config.data.path={dataset}", "--config.data.seconds=1.0", "--config.model.dropout=0.1",
        "--config.train.ema_every=1", f"--config.train.steps={MOST_STEPS * FLAGS.kills + 16}",
        "--config.train.log_every=1", "--config.train.eval_every=12", f"--config.train.checkpoint_every={every}"]
    for name in ("peace", "kills"):
        shutil.rmtree(output / name, ignore_errors=True)
    started = time.perf_counter()
    in_peace = output / "peace"
    life = Life(command, in_peace, output / "peace.log")
    while life.step is None and life.process.poll() is None:
        time.sleep(0.02)
    warm_up = time.perf_counter() - started
    if life.process.wait():
        raise UserError(f"training failed: see {output}/peace.log")
    print(f"Undisturbed: {life.step} steps in {time.perf_counter() - started:.0f} s\n", flush=True)
    rng = np.random.default_rng(FLAGS.seed)
    # The first two while the run is first set up, the others half and half; progress is made in those that write.
    moments = ["beginning"] * 2 + [MOMENTS[2 * (i % 2)] for i in range(FLAGS.kills)]
    deaths = kill(command, output / "kills", moments[:FLAGS.kills], rng, longest=1.2 * warm_up)
    return report(deaths, every, in_peace, output / "kills")


def make_dataset(output: pathlib.Path) -> pathlib.Path:
    """A dataset of twelve made-up songs, once."""
    songs, dataset = output / "songs", output / "dataset"
    if not (dataset / "dataset_info.json").exists():
        run("data_prep.songbook", f"--output={songs}", "--songs=12", "--seconds=5")
        run("data_prep.export", f"--input={songs}", f"--output={dataset}", "--codec=melrvq:codebook_size=32")
    return dataset


def run(module: str, *arguments: str) -> None:
    """Runs a command to its end, and says nothing of it unless it fails."""
    process = subprocess.run([sys.executable, "-m", module, *arguments], capture_output=True, text=True, check=False)
    if process.returncode:
        raise UserError(f"{module} failed: {process.stderr.strip().splitlines()[-1]}")


class Life:
    """One process of a run: `command`, with `workdir`; what it says goes to `log`."""

    def __init__(self, command: list[str], workdir: pathlib.Path, log: pathlib.Path):
        self.workdir, self.log = workdir, log
        with log.open("w") as file:
            self.process = subprocess.Popen([*command, f"--workdir={workdir}"], stdout=file, stderr=file)

    @property
    def step(self) -> int | None:
        """The last step reported."""
        try:
            text = (self.workdir / "metrics.jsonl").read_text()
        except FileNotFoundError:
            return None
        lines = [line for line in text.splitlines(keepends=True) if line.endswith("\n")]
        return json.loads(lines[-1])["step"] if lines else None

    @property
    def went_on_from(self) -> int | None:
        """The step that the process says it goes on from."""
        found = re.search(r"Going on from step (\d+)", self.log.read_text())
        return int(found[1]) if found else None


@dataclasses.dataclass
class Death:
    """What a kill met and left.

    Attributes:
      moment: when it was meant to come.
      writing: whether it left a checkpoint half written.
      step: the last step reported before it.
      kept: the newest finished checkpoint after it; 0 for none.
      went_on_from: where the killed process said that it had gone on from.
      before: the newest finished checkpoint when that started.
    """

    moment: str
    writing: bool
    step: int
    kept: int
    went_on_from: int | None
    before: int


def kill(command: list[str], workdir: pathlib.Path, moments: list[str], rng: np.random.Generator,
         longest: float) -> list[Death]:
    """Runs `command` until it is done, killing it once at each of the moments.

    Args:
      command: without --workdir.
      workdir: need not exist.
      moments: "any" from the start of the process to `longest` seconds or `MOST_STEPS` after it, "beginning" while the
        workdir is first set up, "writing" while a checkpoint is being written.
      rng: decides when exactly.
      longest: seconds.

    Raises:
      UserError: the run ends or fails before the last kill, or fails in its last life.
    """
    deaths = []
    logs = workdir.parent / f"{workdir.name}-logs"
    logs.mkdir(parents=True, exist_ok=True)
    for i, moment in enumerate(cli.progress(moments, unit="kill")):
        before = newest(workdir)
        life = Life(command, workdir, logs / f"{i}.log")
        wait(life, moment, rng, longest)
        life.process.send_signal(signal.SIGKILL)
        if life.process.wait() != -signal.SIGKILL:
            raise UserError(f"the run had ended before kill {i}: see {life.log}")
        deaths.append(Death(moment, bool(half_written(workdir)), life.step or 0, newest(workdir), life.went_on_from,
                            before))
    last = Life(command, workdir, logs / "last.log")
    if last.process.wait():
        raise UserError(f"the run failed after its last kill: see {last.log}")
    return deaths


def wait(life: Life, moment: str, rng: np.random.Generator, longest: float) -> None:
    """Returns at the moment, or when the process has ended."""
    def until(condition):
        while not condition() and life.process.poll() is None:
            time.sleep(0.001)

    if moment == "any":
        first, deadline = newest(life.workdir), time.perf_counter() + rng.uniform(0, longest)
        until(lambda: time.perf_counter() > deadline or (life.step or 0) >= first + MOST_STEPS)
    elif moment == "beginning":
        until(life.workdir.exists)
        time.sleep(rng.uniform(0, 1.0))
    else:
        for _ in range(rng.integers(0, 4)):  # so many checkpoints in peace
            finished = newest(life.workdir)
            until(lambda finished=finished: newest(life.workdir) > finished)
        until(lambda: half_written(life.workdir))
        time.sleep(rng.uniform(0, 0.1))
        until(lambda: half_written(life.workdir))


def newest(workdir: pathlib.Path) -> int:
    """The step of the newest finished checkpoint; 0 for none."""
    try:
        return max((int(path.name) for path in (workdir / "checkpoints").iterdir() if path.name.isdecimal()), default=0)
    except FileNotFoundError:
        return 0


def half_written(workdir: pathlib.Path) -> list[pathlib.Path]:
    """Checkpoints that are being written, or were when the process was killed."""
    return list((workdir / "checkpoints").glob("*tmp*"))


def report(deaths: list[Death], every: int, in_peace: pathlib.Path, killed: pathlib.Path) -> int:
    """Prints the table; 0 if all is as it should be, else 1."""
    wrong = [death for death in deaths if death.went_on_from not in (None, death.before)]
    print(f"{'kills':28} {'count':>6} {'of them while writing':>22} {'steps lost at most':>19}")
    groups = collections.defaultdict(list)
    for death in deaths:
        groups[death.moment].append(death)
    for name, group in [*groups.items(), ("all", deaths)]:
        lost = max(death.step - death.kept for death in group)
        print(f"{name:28} {len(group):6} {sum(death.writing for death in group):22} {lost:19}")
    print(f"\n(a checkpoint every {every} steps, written in the background)")
    equal = compare(in_peace, killed)
    for name, same in [("every start went on from the newest finished checkpoint", not wrong), *equal.items()]:
        print(f"{name:60} {'yes' if same else 'NO'}")
    return int(bool(wrong) or not all(equal.values()))


def compare(one: pathlib.Path, other: pathlib.Path) -> dict[str, bool]:
    """What of two finished runs is equal, bit for bit."""
    import jax
    from orbax.checkpoint import v1 as ocp

    step = newest(one)
    equal = {"metrics.jsonl is equal, but for times": metrics(one) == metrics(other), "the last step is equal":
             step == newest(other)}
    trees = [ocp.load_checkpointables((workdir / "checkpoints" / str(step)).absolute()) for workdir in (one, other)]
    for item in ("params", "ema", "optimizer"):
        a, b = (jax.tree.leaves(tree[item]) for tree in trees)
        equal[f"{item}: {len(a)} arrays are equal, bit for bit"] = len(a) == len(b) and all(
            np.asarray(x).tobytes() == np.asarray(y).tobytes() for x, y in zip(a, b, strict=True))
    return equal


def metrics(workdir: pathlib.Path) -> list[dict]:
    """The lines of metrics.jsonl without times."""
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [{name: value for name, value in json.loads(line).items() if name not in TIMES} for line in lines]


if __name__ == "__main__":
    define_flags()
    cli.run(main)
