"""Shows how training runs are doing: how far they are, their losses, speed and checkpoints.

python -m autosong_jax.monitor --workdir=runs/mine
python -m autosong_jax.monitor --workdir=runs/mine --workdir=runs/other --watch --plot=curves.png

Reads what the runs have written and changes nothing in them: it may be called while they train, and afterwards.
"""

import itertools
import math
import os
import signal
import time

from absl import flags

from autosong_jax import cli, outputs
from autosong_jax.errors import UserError

FLAGS = flags.FLAGS
EVERY = 2.0  # seconds between two looks
PLOT_EVERY = 30.0  # seconds between two pictures, which cost more
COLUMN = 46  # characters that a run needs in a table
BARS = {True: "▁▂▃▄▅▆▇█", False: "_.-=+*#@"}  # of curves; for terminals with Unicode, and for those without
MOST = 10  # runs: as many as a picture has colours


def define_flags() -> None:
    """In a function, so that several commands can be imported into one process."""
    flags.DEFINE_multi_string("workdir", [], f"Workdir of a training run, up to {MOST} of them.")
    flags.DEFINE_bool("watch", False, "Go on looking until Ctrl+C.")
    flags.DEFINE_string("plot", None, "File for a picture of the curves, .png; with --watch drawn anew as they grow.")


def main() -> None:
    from autosong_jax.evaluation.progress import Run

    given = [path for path in FLAGS.workdir if path]
    if not given:
        raise UserError("--workdir is missing: expected that of a training run")
    if len(given) > MOST:
        raise UserError(f"--workdir is given {len(given)} times, expected at most {MOST}")
    outputs.check_file(FLAGS.plot, (".png",), "plot")
    paths = [os.path.abspath(path) for path in given]
    for i, path in enumerate(paths):
        if path in paths[:i]:
            raise UserError(f"--workdir={given[i]} is given twice: expected another run")
    runs = dict(zip(_names(given, paths), map(Run, given), strict=True))
    if FLAGS.watch:
        return watch(runs)
    for run in runs.values():
        run.look()
    if all(run.step is None for run in runs.values()):
        raise UserError(f"--workdir={given[0]}: nothing has been logged yet; a run writes its first line after "
                        "config.train.log_every steps, and --watch waits for it")
    console = _console()
    console.print(show(runs, console))
    _plot(runs)


def _names(given: list[str], paths: list[str]) -> list[str]:
    """What tells the runs apart: the path as it was given, or of several what they do not share."""
    if len(paths) == 1:
        return given
    common = os.path.commonpath(paths)
    return [os.path.relpath(path, common) if path != common else os.path.basename(path) for path in paths]


def _console():
    from rich.console import Console

    return Console(highlight=False, markup=False, emoji=False)


def watch(runs: dict) -> None:
    """Looks until Ctrl+C, or until the system ends the command: both leave the terminal as it was."""
    from rich.live import Live

    console = _console()
    drawn, due = -PLOT_EVERY, False  # when, and whether there is more by now
    for number in (signal.SIGINT, signal.SIGTERM):  # the former is ignored in what a script starts in the background
        signal.signal(number, signal.default_int_handler)
    try:
        with Live(console=console, auto_refresh=False, screen=console.is_terminal) as live:
            while True:
                for run in runs.values():
                    due = run.look() or due
                live.update(show(runs, console), refresh=True)
                if due and time.monotonic() > drawn + PLOT_EVERY:
                    _plot(runs, say=False)
                    due, drawn = False, time.monotonic()
                time.sleep(EVERY)
    except KeyboardInterrupt:
        pass
    if console.is_terminal:  # what was on a screen of its own
        console.print(show(runs, console))
    if any(run.step is not None for run in runs.values()):
        _plot(runs)


def _plot(runs: dict, *, say: bool = True) -> None:
    if FLAGS.plot:
        from autosong_jax.evaluation.curves import plot_runs

        plot_runs(FLAGS.plot, {cli.printable(name): run for name, run in runs.items()})
        if say:
            cli.say(f"{FLAGS.plot}: the curves of {', '.join(runs)}")


def show(runs: dict, console):
    """Tables of as many runs beside each other as there is room for."""
    from rich.console import Group

    names = list(runs)
    beside = max((console.width - 20) // (COLUMN + 3), 1)
    chunks = [{name: runs[name] for name in names[i:i + beside]} for i in range(0, len(names), beside)]
    unicode = console.encoding.startswith("utf")
    tables = [_table(chunk, unicode) for chunk in chunks]
    return Group(tables[0], *(part for table in tables[1:] for part in ("", table)))


def _table(runs: dict, unicode: bool):
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column("")
    for name in runs:
        table.add_column(Text(cli.printable(name).replace("\n", r"\n")), width=COLUMN if len(runs) > 1 else None,
                         overflow="fold")

    def row(label: str, cells: list[str], styles: list[str] | None = None) -> None:
        if any(cells):
            styles = styles or [""] * len(cells)
            table.add_row(Text(cli.printable(label), style="dim"),
                          *(Text(cli.printable(cell), style=style) for cell, style in zip(cells, styles, strict=True)))

    every = list(runs.values())
    states = [_state(run) for run in every]
    row("state", [state for state, _ in states], [style for _, style in states])
    row("step", [_step(run) for run in every])
    row("last line", [_last_line(run) for run in every])
    row("time left", [_left(run) for run in every])
    table.add_section()
    for of in ("train", "validation"):
        for kind in sorted({kind for run in every for kind in run.kinds(of)}):
            label = kind.replace("_", " ", 1)
            row(f"{label} loss", [_loss(run.get(kind, "loss")) for run in every])
            row("", [sparkline(run.get(kind, "loss"), unicode) for run in every], ["cyan"] * len(every))
            row(f"{label} accuracy", [_percent(run.get(kind, "accuracy").newest) for run in every])
    for name in dict.fromkeys(name for run in every for name in run.series.get("sung", ())):
        row(f"sung {name.replace('_', ' ')}", [_number(run.get("sung", name).newest) for run in every])
        row("", [sparkline(run.get("sung", name), unicode) for run in every], ["cyan"] * len(every))
    table.add_section()
    row("learning rate", [_number(run.of_training("learning_rate").newest) for run in every])
    row("gradient norm", [_number(run.of_training("gradient_norm").newest) for run in every])
    row("steps/s", [_number(run.of_training("steps_per_second").newest) for run in every])
    row("wait for data", [_percent(run.of_training("data_wait").newest) for run in every])
    row("MFU", [_percent(run.of_training("mfu").newest) for run in every])
    row("checkpoints", [_checkpoints(run) for run in every])
    row("damaged lines", [f"{run.damaged:,} passed over" if run.damaged else "" for run in every],
        ["yellow"] * len(every))
    table.add_section()
    for label, kinds in _codebook_rows(every):
        for place, (codebook, cells) in enumerate(kinds):
            row(f"{label if place == 0 else '':<{len(label)}} {codebook}", cells)
    return table


def _codebook_rows(every: list) -> list[tuple[str, list[tuple[int, list[str]]]]]:
    """For each objective, the codebooks with what the last lines say of them."""
    found = []
    for kind in sorted({kind for run in every for kind in run.kinds("train")}):
        objective = kind.removeprefix("train")
        rows = []
        for codebook in sorted({codebook for run in every for codebook in run.codebooks(kind)}):
            rows.append((codebook, [
                ", ".join(_of_codebook(run, of + objective, codebook) for of in ("train", "validation")
                          if run.get(of + objective, f"loss_{codebook}")) for run in every]))
        found.append(("codebook" + objective.replace("_", " ", 1), rows))
    return found


def _of_codebook(run, kind: str, codebook: int) -> str:
    """ "valid. 0.01811 99.7 %": what the last line says of it."""
    of = {"train": "train", "validation": "valid."}[kind.partition("_")[0]]
    said = _number(run.get(kind, f"loss_{codebook}").newest), _percent(run.get(kind, f"accuracy_{codebook}").newest)
    return " ".join(filter(None, (of, *said)))


def _state(run) -> tuple[str, str]:
    if run.step is None:
        return "nothing has been logged yet", "yellow"
    if run.finished:
        return "finished", "green"
    return ("seems to have stopped", "bold red") if run.has_stopped() else ("trains", "green")


def _step(run) -> str:
    if run.step is None:
        return f"0 of {run.steps:,}" if run.steps else ""
    return f"{run.step:,} of {run.steps:,} ({100 * run.step / run.steps:.0f} %)" if run.steps else f"{run.step:,}"


def _last_line(run) -> str:
    if run.step is None:
        return ""
    return f"{time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(run.written))}, {duration(run.silent())} ago"


def _left(run) -> str:
    if run.finished or run.seconds_left is None:
        return ""
    return f"about {duration(run.seconds_left)}, if it goes on{'' if run.has_stopped() else ' like this'}"


def duration(seconds: float) -> str:
    """ "45 s", "12 min", "3 h 05 min", "2 d 4 h" """
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 100:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    return f"{minutes // 1440:,} d {minutes % 1440 // 60} h"


def _loss(series) -> str:
    if not series:
        return ""
    least, at = series.best
    return f"{_number(series.newest)}, best {_number(least)} at {at:,}"


def _checkpoints(run) -> str:
    if run.newest_checkpoint is None:
        return "none yet" if run.step is not None else ""
    best = run.best_checkpoint
    said = f"newest {run.newest_checkpoint:,}"
    if best is None:
        return said
    of = run.best_by.replace("_", " ")
    return f"{said}, best {best:,} ({of} {_number(run.checkpoints[best][run.best_by])})"


def _number(value: float) -> str:
    """Four digits; nothing of what is not known."""
    return "" if math.isnan(value) else f"{value:.4g}" if abs(value) >= 1e-3 or value == 0 else f"{value:.2e}"


def _percent(value: float) -> str:
    return "" if math.isnan(value) else f"{100 * value:.1f} %"


def sparkline(series, unicode: bool = True, width: int = 40) -> str:
    """The curve in one line; of values that fall manyfold their logarithms, or the end would be flat."""
    values = [bin.mean for bin in series.bins]
    if len(values) < 2:
        return ""
    width = min(width, len(values))
    ends = [len(values) * i // width for i in range(width + 1)]
    values = [sum(values[a:b]) / (b - a) for a, b in itertools.pairwise(ends)]
    if min(values) > 0 and max(values) > 20 * min(values):
        values = [math.log(value) for value in values]
    least, most = min(values), max(values)
    bars = BARS[unicode]
    return "".join(bars[min(int((value - least) / ((most - least) or 1) * len(bars)), len(bars) - 1)]
                   for value in values)


if __name__ == "__main__":
    define_flags()
    cli.run(main)
