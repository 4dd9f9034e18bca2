"""One picture of what runs have logged: losses, codebooks, rates and speed over steps."""

import functools
import pathlib
import warnings
from collections.abc import Mapping, Sequence

from autosong_jax.evaluation.progress import Run, Series

WIDTH, HEIGHT, DPI = 14, 4, 100  # inches, the latter of a row
MOST_SUNG = 6  # numbers of songs that were sung
# Okabe and Ito's, told apart by the colour-blind, too; then others.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000", "#8c564b", "#7f7f7f", "#bcbd22")
STYLES = ("-", "-.", (0, (1, 1)), (0, (5, 1, 1, 1)))  # of objectives


def plot_runs(path: str | pathlib.Path, runs: Mapping[str, Run]) -> None:
    """Writes a PNG of 1400 x 1200 pixels, in one move: who looks at it while it is written anew sees the old one.

    Where songs were sung and judged, it is higher, with a curve for each of the first numbers of them.

    Args:
      path: of the PNG; its folder exists.
      runs: by the names that the legend gives them, at most as many as there are `COLOURS`.
    """
    from matplotlib.figure import Figure  # no pyplot: no window, no global state
    from matplotlib.lines import Line2D
    from matplotlib.ticker import LogLocator

    coloured = list(zip(runs.values(), COLOURS, strict=False))
    drawings = {
        "Loss": lambda axes: _draw_both(axes, coloured, "loss"),
        "Training loss by codebook": lambda axes: _draw_codebooks(axes, coloured),
        "Accuracy (%)": lambda axes: _draw_both(axes, coloured, "accuracy", 100),
        "Gradient norm": lambda axes: _draw(axes, coloured, "gradient_norm"),
        "Learning rate": lambda axes: _draw(axes, coloured, "learning_rate"),
        "Steps per second": lambda axes: _draw(axes, coloured, "steps_per_second")}
    for name in list(dict.fromkeys(name for run in runs.values() for name in run.series.get("sung", ())))[:MOST_SUNG]:
        drawings[f"Sung: {_shown(name.replace('_', ' '))}"] = functools.partial(_draw_sung, coloured, name)
    rows = -(-len(drawings) // 2)
    figure = Figure(figsize=(WIDTH, HEIGHT * rows), dpi=DPI, layout="constrained")
    panels = figure.subplots(rows, 2)
    for axes in panels.flat[len(drawings):]:
        axes.set_axis_off()
    for axes, (title, draw) in zip(panels.flat, drawings.items(), strict=False):
        drawn = draw(axes)
        axes.set_title(title, loc="left", fontsize=12, fontweight="bold")
        axes.grid(color="#e6e6e6")
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_xlabel("step")
        if not drawn:
            axes.text(0.5, 0.5, "nothing logged", ha="center", va="center", color="#999999", transform=axes.transAxes)
            axes.set(xticks=[], yticks=[])
        elif title in ("Loss", "Training loss by codebook", "Gradient norm") and min(drawn) > 0 and (
                max(drawn) > 20 * min(drawn)):
            axes.set_yscale("log")
            axes.yaxis.set_minor_locator(LogLocator(subs=(2, 5)))
            for set_formatter in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
                set_formatter(lambda value, _: f"{value:g}")
        elif title in ("Learning rate", "Steps per second"):
            axes.set_ylim(bottom=0)
    handles = [Line2D([], [], color=colour, linewidth=3, label=_shown(name))
               for name, colour in zip(runs, COLOURS, strict=False)]
    handles += [Line2D([], [], color="#555555", linewidth=1.2, label="training"),
                Line2D([], [], color="#555555", linewidth=1.2, linestyle="--", marker="o", markersize=4,
                       label="validation")]
    objectives = _objectives(coloured, "train")
    if len(objectives) > 1:
        handles += [Line2D([], [], color="#555555", linestyle=STYLES[i % len(STYLES)], label=_shown(kind[6:]))
                    for i, kind in enumerate(objectives)]
    figure.legend(handles=handles, loc="outside upper center", ncols=min(len(handles), 5), frameon=False, fontsize=11)
    path = pathlib.Path(path)
    unfinished = path.with_name(f".unfinished-{path.name}")
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph")  # of scripts that the font lacks: boxes in the picture say so
            figure.savefig(unfinished, format="png")
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def _objectives(coloured: Sequence[tuple[Run, str]], of: str) -> list[str]:
    return sorted({kind for run, _ in coloured for kind in run.kinds(of)})


def _draw_both(axes, coloured: Sequence[tuple[Run, str]], name: str, scale: float = 1) -> list[float]:
    """Training and validation; what was drawn."""
    drawn = []
    for of, look in (("train", {"linewidth": 1.2, "alpha": 0.75}), ("validation", {"marker": "o", "markersize": 4})):
        for i, kind in enumerate(_objectives(coloured, of)):
            style = STYLES[i % len(STYLES)] if of == "train" else "--"
            for run, colour in coloured:
                drawn += _line(axes, run.get(kind, name), scale, color=colour, linestyle=style, **look)
    return drawn


def _draw(axes, coloured: Sequence[tuple[Run, str]], name: str) -> list[float]:
    drawn = []
    for i, kind in enumerate(_objectives(coloured, "train")):
        for run, colour in coloured:
            drawn += _line(axes, run.get(kind, name), color=colour, linestyle=STYLES[i % len(STYLES)], linewidth=1.2)
    return drawn


def _draw_sung(coloured: Sequence[tuple[Run, str]], name: str, axes) -> list[float]:
    return [value for run, colour in coloured
            for value in _line(axes, run.get("sung", name), color=colour, linestyle="--", marker="o", markersize=4)]


def _draw_codebooks(axes, coloured: Sequence[tuple[Run, str]]) -> list[float]:
    """The later the codebook, the paler; its number stands at the end of its line."""
    from matplotlib.colors import to_rgb

    drawn = []
    for i, kind in enumerate(_objectives(coloured, "train")):
        for run, colour in coloured:
            codebooks = run.codebooks(kind)
            for place, codebook in enumerate(codebooks):
                pale = 0.65 * place / max(len(codebooks) - 1, 1)
                shade = [part + (1 - part) * pale for part in to_rgb(colour)]
                series = run.get(kind, f"loss_{codebook}")
                values = _line(axes, series, color=shade, linestyle=STYLES[i % len(STYLES)], linewidth=1.4)
                if values:
                    axes.annotate(str(codebook), (series.bins[-1].last, values[-1]), xytext=(4, 0), fontsize=9,
                                  textcoords="offset points", va="center", color=colour)
                drawn += values
    return drawn


def _line(axes, series: Series, scale: float = 1, **look) -> list[float]:
    values = [scale * bin.mean for bin in series.bins]
    if len(values) == 1:
        look.setdefault("marker", "o")
    if values:
        axes.plot([bin.last for bin in series.bins], values, **look)
    return values


def _shown(name: str) -> str:
    """A name as a label, in which nothing is a formula, and which is not hidden for its underscore."""
    name = name.replace("$", r"\$")
    return f" {name}" if name.startswith("_") else name
