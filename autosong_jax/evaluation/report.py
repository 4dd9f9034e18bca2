"""What `metrics.json` says, as one HTML file for people: tables, pictures and songs, readable on a phone."""

import base64
import html
import io
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from autosong_jax import cli
from autosong_jax.evaluation.curves import COLOURS

SECONDS = 30  # of a song that is heard in the report; the files beside it have all
_OF_CODEBOOK = re.compile(r"(.+?)(?:_|\.codebook )(\d+)")
_STYLE = """
:root { color-scheme: light dark; --line: #8884; --faint: #888; }
body { font: 16px/1.5 system-ui, sans-serif; margin: 0 auto; padding: 1rem; max-width: 60rem; }
h1 { font-size: 1.5rem; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin-top: 2rem; } h3 { font-size: 1rem; margin-bottom: .3rem; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .25rem .8rem .25rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
td small, .about { color: var(--faint); white-space: nowrap; } .about { white-space: normal; font-size: .8rem; }
th:first-child { min-width: 8rem; max-width: 16rem; font-weight: normal; }
img { max-width: 100%; height: auto; background: #fff; } audio { width: 100%; max-width: 30rem; }
figure { margin: .8rem 0; } figcaption { font-size: .9rem; } pre { white-space: pre-wrap; font-size: .8rem; }
"""


class Sample(NamedTuple):
    """A song to listen to: by whom (see `Judged.name`), which, its lyrics, sound float32 [channels, samples], Hz."""

    judged: str
    song: str
    lyrics: str
    audio: np.ndarray
    sample_rate: int


def summary(found: Mapping[str, Any]) -> list[str]:
    """What is worth a line in a terminal: losses, and what is better or worse for everybody."""
    lines = []
    for name, numbers in found.get("teacher_forced", {}).items():
        said = [f"{kind} {_plain(numbers[kind])}" for kind in ("loss", "accuracy", "perplexity") if kind in numbers]
        lines.append(f"teacher forcing, {name}, {found['songs']} songs: {', '.join(said)}")
    for some in found["judged"][1:]:
        said = [f"{name} {_plain(estimate)}" for name, estimate in some["metrics"].items()
                if name in found["about"] and found["about"][name]["better"]]
        said += [f"{entry['distance']} ({entry['embedder']}) {_plain(entry)}" for entry in some["distances"]]
        lines.append(f"{some['name']}, {some['songs']} songs: {', '.join(said)}")
    return lines


def render(found: Mapping[str, Any], samples: Sequence[Sample]) -> str:
    """The report.

    Args:
      found: as `metrics.json` has it.
      samples: songs to hear in it, of each the first `SECONDS`.
    """
    parts = [f"<h1>{_title(found)}</h1>", _facts(found)]
    for name, numbers in found.get("teacher_forced", {}).items():
        parts += [f"<h2>Teacher forcing: {_text(name)}</h2>",
                  "<p class='about'>What the model says of every frame of the true songs, after all that is before it "
                  "in its window: losses are negative log-likelihoods in nats, unless the objective has another. In "
                  "brackets the 95 % interval of a bootstrap over songs.</p>", _forced_table(numbers),
                  _picture(_forced_figure(numbers), f"{name} by codebook")]
    parts += ["<h2>Songs</h2>", "<p class='about'>In brackets the 95 % interval of a bootstrap over songs. ↑ more is "
              "better, ↓ less is better. The true songs are what the codec gives back of them.</p>",
              _songs_table(found), _picture(_songs_figure(found), "metrics by codebook")]
    if rows := [(some["name"], distance) for some in found["judged"] for distance in some.get("distances", ())]:
        parts += ["<h2>Distances from the true songs</h2>", "<p class='about'>As distributions of embeddings; numbers "
                  "of other embedders or other numbers of songs cannot be compared. They take songs and true songs for "
                  "independent: where the former nearly repeat the latter, FAD-inf and KAD are below 0. APA is no "
                  "distance: 1 where songs go with their backings as training songs do, 0 where they go as with those "
                  "of others.</p>",
                  _distances_table(rows)]
    parts += _samples(samples)
    for some in found["judged"]:
        if some.get("left_out"):
            parts += [f"<h2>Left out of {_text(some['name'])}: {len(some['left_out'])}</h2>", "<ul>", *(
                f"<li>{_text(name)}<br><span class='about'>{_text(why)}</span></li>"
                for name, why in some["left_out"].items()), "</ul>"]
    body = "\n".join(filter(None, parts))
    return (f"<!DOCTYPE html>\n<html lang='en'><head><meta charset='utf-8'><meta name='viewport' content="
            f"'width=device-width, initial-scale=1'><title>{_title(found)}</title><style>{_STYLE}</style></head>\n"
            f"<body>\n{body}\n</body></html>\n")


def _title(found: Mapping[str, Any]) -> str:
    model = f"{found['workdir']}, step {found['step']}" if "workdir" in found else found["judged"][-1]["name"]
    return f"How good is {_text(model)}?"


def _facts(found: Mapping[str, Any]) -> str:
    return (f"<p>{found['songs']} songs of the split {_text(found['split'])} of {_text(found['dataset'])}; "
            f"{found['judged'][-1]['songs']} songs judged for each column of the table of songs.</p>")


def _forced_table(numbers: Mapping[str, Any]) -> str:
    """A row for all codebooks together and for each of them, a column for each kind of number."""
    rows: dict[str, dict[str, Any]] = {}
    for name, estimate in numbers.items():
        of_codebook = _OF_CODEBOOK.fullmatch(name)
        kind, row = (of_codebook[1], f"codebook {of_codebook[2]}") if of_codebook else (name, "all")
        rows.setdefault(row, {})[kind] = estimate
    kinds = list(next(iter(rows.values())))
    return _table(["", *kinds], [[_text(row), *(_cell(cells.get(kind)) for kind in kinds)]
                                 for row, cells in rows.items()])


def _songs_table(found: Mapping[str, Any]) -> str:
    """A row for each number of each metric."""
    rows, judged = [], found["judged"]
    for metric, said in found["about"].items():
        names = dict.fromkeys(name for some in judged for name in some["metrics"]
                              if name == metric or name.startswith(f"{metric}."))
        arrow = {"more": " ↑", "less": " ↓"}.get(said["better"], "")
        for i, name in enumerate(names):
            detail = name.removeprefix(metric).removeprefix(".")
            label = f"{_text(metric)}{arrow}<div class='about'>{_text(said['about'])}</div>" if i == 0 else ""
            label += f"<div>{_text(detail)}</div>" if detail else ""
            rows.append([label, *(_cell(some["metrics"].get(name)) for some in judged)])
    return _table(["", *(some["name"] for some in judged)], rows)


def _distances_table(rows: Sequence[tuple[str, Mapping[str, Any]]]) -> str:
    return _table(["songs", "distance", "embedder", "value", "songs / references"], [
        [_text(name), _text(entry["distance"]), _text(entry["embedder"]),
         _cell(entry) + (f"<div class='about'>{_text(entry['why'])}</div>" if "why" in entry else ""),
         f"{entry['songs']} / {entry['references']}"] for name, entry in rows])


def _samples(samples: Sequence[Sample]) -> list[str]:
    parts = ["<h2>Listen</h2>"] if samples else []
    for song in dict.fromkeys(sample.song for sample in samples):
        same = [sample for sample in samples if sample.song == song]
        parts.append(f"<h3>{_text(song)}</h3>")
        if same[0].lyrics:
            parts.append(f"<details><summary>Lyrics</summary><pre>{_text(same[0].lyrics)}</pre></details>")
        parts += [f"<figure><figcaption>{_text(sample.judged)}</figcaption><audio controls preload='none' src='"
                  f"data:audio/flac;base64,{_flac(sample)}'></audio></figure>" for sample in same]
    return parts


def _flac(sample: Sample) -> str:
    import soundfile

    file = io.BytesIO()
    audio = np.clip(sample.audio[:, :SECONDS * sample.sample_rate], -1, 1)
    soundfile.write(file, audio.T, sample.sample_rate, format="FLAC", subtype="PCM_16")
    return base64.b64encode(file.getvalue()).decode()


def _forced_figure(numbers: Mapping[str, Any]):
    """Loss, accuracy and perplexity of each codebook; None where there are no codebooks."""
    series = [(kind, {"": _codebooks(numbers, kind)}) for kind in ("loss", "accuracy", "perplexity")]
    return _figure([(kind, lines) for kind, lines in series if lines[""]], [""])


def _songs_figure(found: Mapping[str, Any]):
    """What metrics say of each codebook; None where there are no codebooks."""
    panels = []
    for metric in found["about"]:
        lines = {some["name"]: _codebooks(some["metrics"], metric) for some in found["judged"]}
        lines = {name: points for name, points in lines.items() if len(points) > 1}
        if lines:
            panels.append((metric, lines))
    return _figure(panels, [some["name"] for some in found["judged"]])


def _codebooks(numbers: Mapping[str, Any], kind: str) -> dict[int, Mapping[str, Any]]:
    """The estimates of each codebook."""
    matches = [(_OF_CODEBOOK.fullmatch(name), estimate) for name, estimate in numbers.items()]
    return {int(match[2]): estimate for match, estimate in matches
            if match and match[1] == kind and estimate["value"] is not None}


def _figure(panels: Sequence[tuple[str, Mapping[str, Mapping[int, Mapping[str, Any]]]]], names: Sequence[str]):
    """Panels of (title, by name of a line its points with intervals by codebook); None of none.

    Args:
      names: of the lines, in the order of their colours.
    """
    if not panels:
        return None
    from matplotlib.figure import Figure  # no pyplot: no window, no global state
    from matplotlib.ticker import MaxNLocator

    columns = min(len(panels), 3)
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(3.2 * columns, 2.6 * rows + 0.4), dpi=130, layout="constrained")
    all_axes, handles = list(figure.subplots(rows, columns, squeeze=False).flat), {}
    for axes, (title, lines) in zip(all_axes, panels, strict=False):
        for name, points in lines.items():
            place = names.index(name)
            values = np.array([[point[part] for part in ("value", "low", "high")] for point in points.values()], float)
            shift = 0.12 * (place - (len(names) - 1) / 2)
            handles[place] = axes.errorbar(
                np.array(list(points)) + shift, values[:, 0], np.abs(values[:, 1:].T - values[:, 0]), fmt="o",
                markersize=4, capsize=3, color=COLOURS[place % len(COLOURS)],
                label=cli.printable(name).replace("$", r"\$"))
        axes.set_title(title, loc="left", fontsize=10, fontweight="bold")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("codebook", fontsize=8)
        axes.tick_params(labelsize=8)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="#e6e6e6")
    for axes in all_axes[len(panels):]:
        axes.axis("off")
    if len(names) > 1:
        figure.legend(handles=[handles[place] for place in sorted(handles)], loc="outside upper left",
                      ncols=min(len(names), 3), fontsize=8, frameon=False)
    return figure


def _picture(figure: Any, what: str) -> str:
    """A figure as part of the file."""
    if figure is None:
        return ""
    file = io.BytesIO()
    figure.savefig(file, format="png", metadata={"Software": None})
    return f"<img alt='{_text(what)}' src='data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}'>"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Of texts above and HTML in the cells."""
    lines = ["<div class='wide'><table>", "<tr>" + "".join(f"<th>{_text(name)}</th>" for name in head) + "</tr>"]
    lines += ["<tr>" + "".join(f"<{tag}>{cell}</{tag}>" for tag, cell in
                               zip(["th"] + ["td"] * (len(row) - 1), row, strict=True)) + "</tr>" for row in rows]
    return "\n".join([*lines, "</table></div>"])


def _cell(estimate: Mapping[str, Any] | None) -> str:
    """ "0.123 [0.1, 0.15]" """
    if estimate is None or estimate["value"] is None:
        return "–"
    low, high = (_number(estimate[name]) for name in ("low", "high"))
    return f"{_number(estimate['value'])} <small>[{low}, {high}]</small>"


def _plain(estimate: Mapping[str, Any]) -> str:
    """ "0.123 [0.1, 0.15]", or "unknown"."""
    if estimate["value"] is None:
        return "unknown"
    return f"{_number(estimate['value'])} [{_number(estimate['low'])}, {_number(estimate['high'])}]"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"


def _text(text: Any) -> str:
    """Text as HTML, in which nothing is a tag, nor steers anything."""
    return html.escape(cli.printable(str(text)))
