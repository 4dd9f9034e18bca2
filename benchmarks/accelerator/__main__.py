"""Measures what JAX finds here, an accelerator or a CPU, in slices of some minutes, what matters most first.

python -m benchmarks.accelerator --minutes=9 --output=DIR

Each part is a process of its own and leaves DIR/PART.json as soon as something is measured, and DIR/PART.log; a table
of everything so far is DIR/report.md. The same command goes on where the last one stopped, and a part that fails, or
for which a package is missing, says why and stands in nobody's way. Nothing is installed or downloaded.
"""

import pathlib
import shlex
import signal
import sys
import time

from absl import flags

from autosong_jax import cli
from autosong_jax.errors import UserError

FLAGS = flags.FLAGS


def define_flags() -> None:
    """In a function, so that several commands can be imported into one process."""
    flags.DEFINE_float("minutes", 9.0, "After which this ends; what does not fit is measured by the next call.",
                       lower_bound=0.0)
    flags.DEFINE_string("output", None, "Folder of the records, to be made or to go on with.", required=True)
    flags.DEFINE_list("only", [], "Parts to measure, by their names or the beginnings of them: decode, train-small.")
    flags.DEFINE_list("again", [], "Finished parts to measure again, likewise; `failed` for all that failed.")
    flags.DEFINE_bool("toy", False, "Everything so small that it says nothing, to see that it runs.")
    flags.DEFINE_bool("list", False, "Only say which parts there are and how each stands.")


def main() -> None:
    """Within `--minutes` from now."""
    deadline = time.monotonic() + 60 * FLAGS.minutes
    try:
        from benchmarks.accelerator import plan, records, report, runner
    except ModuleNotFoundError as error:
        raise UserError(f"the package {error.name} is not installed: docs/performance.md says which are "
                        "needed") from error

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # by way of what ends the part that is running
    output = pathlib.Path(FLAGS.output)
    if output.exists() and not output.is_dir():
        raise UserError(f"--output={output} is a file: expected a folder, or the name of a new one")
    output.mkdir(parents=True, exist_ok=True)
    command = shlex.join(["python", "-m", "benchmarks.accelerator", *sys.argv[1:]])
    first = plan.ceilings(FLAGS.toy)
    runner.forget(output, [first], FLAGS.again)
    if not FLAGS.list:
        runner.run(output, [first], deadline, command)
    record = records.read(output, first.name)
    if record is None or record["status"] != "done":
        why = record["reason"] if record else "it is not measured yet"
        raise UserError(f"{first.name}: {why}; all else stands beside it: see {output / (first.name + '.log')}, then "
                        f"give --minutes of at least 3 and --again={first.name}")
    if record["arguments"]["toy"] != FLAGS.toy:
        raise UserError(f"--output={output} has measurements {'with' if record['arguments']['toy'] else 'without'} "
                        "--toy: expected another folder")
    machine = record["machine"]
    parts = plan.parts(plan.scale_of(machine["platform"], machine["memory"], FLAGS.toy), machine["platform"])
    for choice in {*FLAGS.only, *FLAGS.again} - {"failed", first.name}:
        if not any(runner.matches(part.name, [choice]) for part in parts):
            raise UserError(f"{choice!r} is no part and the beginning of none: --list says which there are")
    chosen = [part for part in parts if not FLAGS.only or runner.matches(part.name, FLAGS.only)]
    if FLAGS.list:
        for part in [first, *chosen]:
            state = records.read(output, part.name) or {"status": "to be measured"}
            print(f"{part.name:32} {state['status']}{': ' + state['reason'] if state.get('reason') else ''}")
        return
    runner.forget(output, chosen, FLAGS.again)
    names = [first.name, *(part.name for part in parts)]
    postponed = runner.run(output, chosen, deadline, command, after=lambda: report.write(output, names))
    report.write(output, names)
    cli.log.info("%s has what is measured%s", output / "report.md",
                 f"; the same command goes on with {', '.join(postponed)}" if postponed else "")


if __name__ == "__main__":
    define_flags()
    cli.run(main)
