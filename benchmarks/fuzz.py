"""Wrong input of every kind through the commands, drawn by a seed: none may end but as promised.

python -m benchmarks.fuzz --cases=2000 --seed=0

A case is a command with damaged files, odd paths, numbers out of range or flags that mean nothing. It must end with
status 0, or with 2 and one plain line, in bounded time and memory; leave what was there before as it was; and leave no
process behind. What does not is listed with the command that tries it again. Kinds of cases: benchmarks/fuzzing.
"""

import collections
import concurrent.futures
import pathlib
import queue
import random
import shlex
import shutil
import subprocess
import sys
import tempfile
import time

from absl import flags

from autosong_jax import cli
from autosong_jax.errors import UserError
from benchmarks.fuzzing.kinds import IMPORTS, KINDS
from benchmarks.fuzzing.scene import Case, Scene
from benchmarks.fuzzing.server import Outcome, Server

FLAGS = flags.FLAGS


def define_flags() -> None:
    """In a function, so that several commands can be imported into one process."""
    flags.DEFINE_integer("cases", 2000, "How many cases, of all kinds in turns.", lower_bound=1)
    flags.DEFINE_integer("seed", 0, "Of the cases.")
    flags.DEFINE_list("only", [], "Kinds to draw; all by default.")
    flags.DEFINE_integer("case", None,
                         "The number of the one case to try; its folder stays, and what it said is shown.")
    flags.DEFINE_integer("jobs", 2, "Cases at a time.", lower_bound=1)
    flags.DEFINE_string("work", None,
                        "Folder for fixtures and cases, kept for the next time. Default: a temporary one.")


def main() -> int:
    if unknown := sorted(set(FLAGS.only) - KINDS.keys()):
        raise UserError(f"--only={unknown[0]}: expected some of {', '.join(KINDS)}")
    kinds = FLAGS.only or list(KINDS)
    if FLAGS.case is not None and len(kinds) != 1:
        raise UserError(f"--case={FLAGS.case}: expected one kind beside it, --only=KIND")
    with tempfile.TemporaryDirectory() as temporary:
        work = pathlib.Path(FLAGS.work or temporary).absolute()
        fixtures = work / "fixtures"
        if not fixtures.exists():
            command = [sys.executable, "-m", "benchmarks.fuzzing.fixtures", str(work / "unfinished")]
            shutil.rmtree(work / "unfinished", ignore_errors=True)
            subprocess.run(command, check=True)
            (work / "unfinished").rename(fixtures)
        if FLAGS.case is not None:
            return _one(kinds[0], work, fixtures)
        return _all(kinds, work, fixtures)


def draw(kind: str, number: int, seed: int, folder: pathlib.Path, fixtures: pathlib.Path) -> tuple[Case, Scene]:
    """Case `number` of a kind, and its folder, made anew."""
    shutil.rmtree(folder, ignore_errors=True)
    scene = Scene(folder, fixtures, random.Random(f"{seed} {kind} {number}"))
    return KINDS[kind](scene), scene


def _one(kind: str, work: pathlib.Path, fixtures: pathlib.Path) -> int:
    folder = pathlib.Path.cwd() / f"fuzz-{kind}-{FLAGS.case}"
    case, scene = draw(kind, FLAGS.case, FLAGS.seed, folder, fixtures)
    cli.say(shlex.join(["python", "-m", case.module, *map(str, case.arguments)]))
    server = Server(work / "cache", IMPORTS)
    outcome = server.run(case, scene)
    server.close()
    cli.say(f"stdout: {outcome.stdout}\nstderr: {outcome.stderr}\n{outcome.verdict}: status {outcome.status}, "
            f"{outcome.seconds:.1f} s, {outcome.memory} MiB; see {folder}")
    return outcome.verdict != "well"


def _all(kinds: list[str], work: pathlib.Path, fixtures: pathlib.Path) -> int:
    started = time.perf_counter()
    servers: queue.Queue[Server] = queue.Queue()
    for _ in range(FLAGS.jobs):
        servers.put(Server(work / "cache", IMPORTS))
    counts = collections.defaultdict(collections.Counter)

    def run(i: int) -> tuple[str, int, Outcome]:
        kind, number, server = kinds[i % len(kinds)], i // len(kinds), servers.get()
        folder = work / "cases" / f"{kind}-{number}"
        try:
            return kind, number, server.run(*draw(kind, number, FLAGS.seed, folder, fixtures))
        finally:
            servers.put(server)
            shutil.rmtree(folder, ignore_errors=True)

    with concurrent.futures.ThreadPoolExecutor(FLAGS.jobs) as pool:
        tasks = [pool.submit(run, i) for i in range(FLAGS.cases)]
        for done in concurrent.futures.as_completed(tasks):
            kind, number, outcome = done.result()
            counts[kind][outcome.verdict.partition(" where nothing")[0]] += 1
            if outcome.verdict != "well":
                last = (outcome.stderr.strip().splitlines() or [""])[-1]
                cli.say(f"{outcome.verdict} ({outcome.seconds:.0f} s, {outcome.memory} MiB): {last[:160]}\n    "
                        f"python -m benchmarks.fuzz --seed={FLAGS.seed} --only={kind} --case={number}")
    for _ in range(FLAGS.jobs):
        servers.get().close()
    total = sum(counts.values(), collections.Counter())
    cli.say(f"\n{FLAGS.cases} cases in {time.perf_counter() - started:.0f} s")
    for verdict, count in total.most_common():
        where = ", ".join(f"{kind} {c[verdict]}" for kind, c in counts.items() if c[verdict])
        cli.say(f"{count:6d} {verdict}" + ("" if verdict == "well" else f" ({where})"))
    return int(total["well"] != FLAGS.cases)


if __name__ == "__main__":
    define_flags()
    cli.run(main)
