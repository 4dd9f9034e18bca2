"""report.md: everything measured so far as tables, made anew from the records."""

import pathlib
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from benchmarks.accelerator import records as files
from benchmarks.accelerator import results
from benchmarks.accelerator.advice import advice
from benchmarks.accelerator.records import Record

GIB = 2**30
Records = Mapping[str, Record]


def write(output: pathlib.Path, parts: Sequence[str]) -> None:
    """Writes `output`/report.md. `parts`: all that there are, of which some may not be measured yet."""
    path = output / "report.md"
    new = path.with_suffix(".tmp")
    new.write_text(text(files.read_all(output), parts), encoding="utf-8")
    new.replace(path)


def text(records: Records, parts: Sequence[str]) -> str:
    """The report."""
    sections = [machine, decoding, training, profile, masked, attention, encodec, first_step, whole_songs, songs]
    body = [_made(section, records) for section in sections]
    return "\n\n".join(filter(None, [
        "# Measured on this machine\n\nMade by `python -m benchmarks.accelerator` from the records beside it; "
        "docs/performance.md says how to go on.", *body,
        "## What to try next\n\nBy rules over the numbers above (`benchmarks/accelerator/advice.py`).\n\n"
        + _made(tried, records),
        state(records, parts)])) + "\n"


def _made(section: Callable[[Records], str], records: Records) -> str:
    """A section. Records of another version, or halves of one, cost that section and nothing else."""
    try:
        return section(records)
    except (ArithmeticError, LookupError, TypeError, ValueError) as error:
        return f"The section `{section.__name__}` cannot be made of these records: {type(error).__name__}: {error}"


def tried(records: Records) -> str:
    """What the rules say."""
    lines = advice(records)
    return "\n".join(f"- {line}" for line in lines) if lines else "Nothing is measured that a rule speaks of."


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "/") for cell in line) + " |" for line in lines)


def number(value: float | None, unit: float = 1.0, digits: int = 2) -> str:
    """A number in a unit, or a hyphen for none."""
    return "-" if value is None else f"{value / unit:,.{digits}f}"


def percent(value: float | None) -> str:
    """A share."""
    return "-" if value is None else f"{100 * value:.1f} %"


def milliseconds(seconds: float, spread: Sequence[float]) -> str:
    """A median with the least and the most."""
    return f"{1e3 * seconds:.3f} ({1e3 * spread[0]:.3f} to {1e3 * spread[1]:.3f})"


def machine(records: Records) -> str:
    """The device, the versions, and what all shares are of."""
    record = records.get("ceilings")
    if record is None:
        return "Nothing is measured yet."
    details = record["machine"]
    shown = details.get("nvidia-smi") or {}
    driver = f", driver {shown['driver_version']}" if "driver_version" in shown else ""
    memory = f" of {details['memory'] / GIB:.0f} GiB for arrays" if details.get("memory") else ""
    versions = ", ".join(f"{name} {details[name]}" for name in ("jax", "jaxlib", "flax", "torch", "transformers")
                         if details.get(name))
    toy = "**Toy sizes: these numbers say nothing of any real one.**\n\n" if record["arguments"].get("toy") else ""
    speed = [row for row in record["rows"] if row["what"] == "bandwidth"]
    peak, nominal = results.peak_of(records), results.nominal_peak(records)
    lines = [f"{toy}{details.get('devices')} x {details.get('device')}{memory}{driver}; {details.get('runtime')}; "
             f"{versions}; Python {details.get('python')}, {details.get('processors')} "
             f"processors. First measured {record['date']}."]
    if speed and peak:
        row = speed[0]
        rows = [
            ("bandwidth, read", f"{row['read'] / 1e9:,.1f} GB/s", f"{row['bytes'] / GIB:.2f} GiB summed"),
            ("bandwidth, copied", f"{row['copied'] / 1e9:,.1f} GB/s", "half of it negated, what is read and written"),
            ("peak of a product", f"{peak / 1e12:,.2f} TFLOP/s",
             "; ".join(f"{one['width']}^3, {one['dtype']}" for one in record["rows"] if one["what"] == "matrix")),
            ("peak by the data sheet", f"{nominal / 1e12:,.0f} TFLOP/s" if nominal else "not known here", "bfloat16")]
        lines.append("All shares below are of the larger bandwidth and of the measured peak.\n\n"
                     + table(("what", "at most", "how"), rows))
    return "\n\n".join(lines)


def decoding(records: Records) -> str:
    """Steps of decoding beside the peer's."""
    rows = results.decoding_rows(records)
    peers = results.peer_rows(records)
    if not rows and not peers:
        return ""
    cells = [(row["size"], row["batch"], f"{row['begin']} to {row['begin'] + row['steps']}", row["mode"],
              milliseconds(row["step_seconds"], row["spread"]), number(row["bytes"], 1e9), percent(row["share"]),
              number(row["first_seconds"], digits=1)) for row in rows]
    parts = ["## Decoding\n\nOne step of a 30 s song of MusicGen's shape, random weights, guided, 250 most probable "
             "ids: the median of turns, least and most. Bytes are what it must read: weights, keys and values. "
             "\"First\" is the first turn, compilation included. Modes on an NVIDIA GPU: `while` is the whole loop as "
             "one CUDA graph, `default` XLA's own graphs, `off` none.\n\n"
             + table(("size", "songs", "steps", "mode", "ms a step", "GB a step", "of the bandwidth", "first, s"),
                     cells)]
    if peers:
        ours: dict[tuple, float] = {}
        for row in rows:
            key = row["size"], row["batch"], row["begin"]
            ours[key] = min(ours.get(key, float("inf")), row["step_seconds"])
        cells = []
        for row in peers:
            best = ours.get((row["size"], row["batch"], row["begin"]))
            how = f"{row['mode']} by {row['backend']}" if "backend" in row else row["mode"]
            if row.get("graphs_refused"):
                how += f", {row['graphs_refused']} times without a CUDA graph"
            cells.append((row["size"], row["batch"], how, milliseconds(row["step_seconds"], row["spread"]),
                          f"{row['step_seconds'] / best:.2f}" if best else "-"))
        parts.append("Beside it `transformers`: `generate` as it is (eager), and a whole step compiled by PyTorch with "
                     "a static cache (compiled). The last column is its time over our best mode's.\n\n"
                     + table(("size", "songs", "peer", "ms a step", "times ours"), cells))
    return "\n\n".join(parts)


def _training_table(records: Records, *functions: str) -> str:
    nominal = results.nominal_peak(records)
    rows = results.training_rows(records, *functions)
    cells = [(row["size"], number(row["parameters"], 1e6, 0), row["mode"], row["remat"],
              "yes" if row["cudnn"] else "no", f"{row['batch']} x {row['steps']}", number(row["step_seconds"], 1e-3, 1),
              number(row["flops"], 1e12), percent(row["mfu"]), percent(row["flops"] / nominal if nominal else None),
              f"{number(row['state_bytes'], GIB)} + {number(row['temporary_bytes'], GIB)}",
              number(row["compile_seconds"], digits=1)) for row in rows]
    failed = [(row["size"], "-", row["mode"], row["remat"], "yes" if row["cudnn"] else "no",
               f"{row['batch']} x {row['steps']}", f"failed: {row['failed'][:120]}", *["-"] * 5)
              for function in functions for row in results.rows_of(records, function) if "failed" in row]
    if not cells and not failed:
        return ""
    return table(("size", "M parameters", "mode", "recomputed", "cuDNN allowed", "songs x steps", "ms a step",
                  "TFLOP/s", "MFU, measured peak", "MFU, data sheet", "GiB: state + results", "compiled, s"),
                 cells + failed)


def training(records: Records) -> str:
    """Training steps."""
    found = _training_table(records, "training")
    return found and (
        "## Training\n\nForward, backward, clipping and AdamW. MFU counts 6 operations for each number of a matrix and "
        "each position that goes through it (embedding tables are looked up and count nothing), and 12 D for each "
        "layer and each pair of positions of which one sees the other; nothing for what is recomputed.\n\n" + found)


def profile(records: Records) -> str:
    """Kernels."""
    parts = []
    for name in ("profile-decoding", "profile-training"):
        rows = records[name]["rows"] if name in records else []
        if not rows:
            continue
        whole, *kernels = rows
        what = " ".join(str(whole[key]) for key in ("of", "size", "batch", "remat") if key in whole)
        parts.append(
            f"### {what}\n\n{whole['kernels']:.0f} kernels a step, {1e3 * whole['wall']:.3f} ms with the profiler, "
            f"{1e3 * whole['alone']:.3f} without; some kernel runs during {1e3 * whole['busy']:.3f} ms, so "
            f"{1e3 * (whole['wall'] - whole['busy']):.3f} ms are between kernels. Products of matrices take "
            f"{1e3 * whole['products']:.3f} ms.\n\n" + table(
                ("kernel", "a step", "ms a step", "of all kernels", "product"),
                [(f"`{row['kernel']}`", number(row["count"], digits=1), number(row["seconds"], 1e-3, 3),
                  percent(row["share"]), "yes" if row["product"] else "") for row in kernels]))
    return parts and "## Profile\n\nOf what is furthest from its ceiling, graphs off, by names of kernels.\n\n" + \
        "\n\n".join(parts)


def masked(records: Records) -> str:
    """Clips at once."""
    rows = list(results.rows_of(records, "masked"))
    return rows and "## Masked sampling\n\n" + table(
        ("size", "clip, s", "songs", "sampler", "passes", "seconds", "times real time"),
        [(row["size"], row["clip"], row["batch"], row["sampler"], row["passes"],
          number(statistics.median(row["seconds"]), digits=3),
          number(row["batch"] * row["clip"] / statistics.median(row["seconds"]))) for row in rows])


def attention(records: Records) -> str:
    """Attention alone."""
    rows = list(results.rows_of(records, "attention"))
    return rows and "## Attention alone\n\nHeads of width 64. A window is of 5 steps on each side.\n\n" + table(
        ("steps", "songs", "heads", "sees", "way", "ms", "MiB beside arguments"),
        [(row["steps"], row["batch"], row["heads"], "a window" if row.get("window") else "what is before",
          row.get("way", "-"), row["failed"] if "failed" in row
          else number(statistics.median(row["seconds"]), 1e-3, 3), number(row.get("memory"), 2**20, 1))
         for row in rows])


def encodec(records: Records) -> str:
    """EnCodec."""
    rows = list(results.rows_of(records, "encodec"))
    return rows and "## EnCodec\n\nSeconds of audio a second, from and to the host's memory.\n\n" + table(
        ("model", "kbit/s", "way", "ours", "PyTorch", "our time over PyTorch's"),
        [(row["model"], row["bandwidth"], row["work"], number(row["audio"] / statistics.median(row["ours"]), digits=1),
          number(row["audio"] / statistics.median(row["theirs"]), digits=1),
          number(statistics.median(row["ours"]) / statistics.median(row["theirs"]))) for row in rows])


def first_step(records: Records) -> str:
    """Cold and warm."""
    names = [name for name in ("first-step-cold", "first-step-warm") if name in records and records[name]["rows"]]
    if not names:
        return ""
    arguments = records[names[0]]["arguments"]
    return (f"## Time to the first step\n\nSeconds from the start of the process: `{arguments['size']}`, "
            f"{arguments['batch']} x {arguments['steps']} steps; cold without compiled programs, warm with those of "
            "the cold run.\n\n" + table(
                ("", *(row["what"] for row in records[names[0]]["rows"])),
                [(name.rpartition("-")[2], *(number(row["since_start"], digits=1) for row in records[name]["rows"]))
                 for name in names]))


def whole_songs(records: Records) -> str:
    """Songs in one context."""
    found = _training_table(records, "whole_songs")
    return found and "## Whole songs in one context\n\nTraining steps of `configs/lyric2music.py`.\n\n" + found


def songs(records: Records) -> str:
    """A real run."""
    rows = list(results.rows_of(records, "train_and_sing", "songs"))
    return rows and (
        "## Does it sing?\n\nTrained here on a songbook, then judged by the notes that are heard; control: the same "
        "audio against the lyrics of other songs.\n\n" + table(
            ("config", "trained, s", "songs", "sung in, s", "note error rate", "no wrong note", "control", "ceiling"),
            [(row["config"], number(row["train_seconds"], digits=0), row["songs"],
              number(row["sing_seconds"], digits=1),
              f"{row['note_error_rate']:.3f} +- {row['standard_error']:.3f}", percent(row["right"]),
              number(row["control"], digits=3), number(row["ceiling"], digits=3)) for row in rows]))


def state(records: Records, parts: Sequence[str]) -> str:
    """What is measured, what failed and why, what is left."""
    def line(name: str) -> Sequence[Any]:
        record = records.get(name)
        if record is None:
            return name, "to be measured", "-", "-"
        variables = record.get("environment", {})
        shown = " ".join(f"{key}={value}" for key, value in variables.items()
                         if key in ("AUTOSONG_LOOP_GRAPH", "XLA_FLAGS", "JAX_OPTIMIZATION_LEVEL"))
        return (name, record["status"] + (f": {record['reason']}" if record.get("reason") else ""),
                number(record["seconds"], digits=0), f"`{shown}`" if shown else "-")

    return ("## Parts\n\nThe raw numbers of each are in PART.json, what it said in PART.log. Compiled programs are "
            "kept beside them, so what is measured again compiles faster.\n\n") + table(
        ("part", "status", "seconds in all", "environment"), map(line, parts))
