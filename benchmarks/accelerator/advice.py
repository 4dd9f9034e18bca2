"""What to try next, by rules over what was measured. Each says its numbers, its threshold, and what it points to."""

from collections.abc import Iterator, Mapping

from benchmarks.accelerator import results
from benchmarks.accelerator.records import Record

BANDWIDTH = 0.60  # of it is the aim of decoding; so it is of products read from memory
PER_KERNEL = 1.5e-6  # seconds; above it, what a kernel costs beside its bytes is more than starting it should
BETWEEN = 0.10  # of a step may pass between kernels
UTILIZATION = 0.50  # of the measured peak is the aim of training
PEER = 8.0  # times the speed of eager transformers is the aim
NOISE = 1.03  # smaller ratios are no difference


def advice(records: Mapping[str, Record]) -> list[str]:
    """Sentences, in the order of the report."""
    return [*_modes(records), *_decoding(records), *_profile(records), *_peers(records), *_training(records),
            *_first_step(records)]


def _modes(records: Mapping[str, Record]) -> Iterator[str]:
    """Which way to run the loop is the best of each size."""
    found: dict[tuple, dict[str, float]] = {}
    for row in results.decoding_rows(records):
        found.setdefault((row["size"], row["batch"], row["begin"]), {})[row["mode"]] = row["step_seconds"]
    for (size, batch, begin), modes in found.items():
        best = min(modes, key=modes.__getitem__)
        others = [f"{mode} takes {seconds / modes[best]:.2f} times as long" for mode, seconds in modes.items()
                  if mode != best]
        if others:
            kept = modes["while"] / modes[best] <= NOISE if "while" in modes else True
            yield (f"Decoding `{size}` with {batch} song(s) from step {begin} is fastest with `{best}`; "
                   f"{', '.join(others)}." + ("" if kept else f" `while` is what we take: make it `{best}`."))


def _decoding(records: Mapping[str, Record]) -> Iterator[str]:
    """Sizes below the aim."""
    best: dict[tuple, float] = {}
    for row in results.decoding_rows(records):
        key = row["size"], row["batch"]
        best[key] = max(best.get(key, 0.0), row["share"] or 0.0)
    for (size, batch), share in best.items():
        if share < BANDWIDTH:
            yield (f"Decoding `{size}` with {batch} song(s) reads at {100 * share:.0f} % of the bandwidth at best; "
                   f"the aim is {100 * BANDWIDTH:.0f} %.")


def _profile(records: Mapping[str, Record]) -> Iterator[str]:
    """What a profile of decoding or training points to."""
    speed = results.bandwidth_of(records)
    for name in ("profile-decoding", "profile-training"):
        rows = records[name]["rows"] if name in records else []
        if not rows or not speed:
            continue
        whole = rows[0]
        what, between = f"{whole['of']} `{whole['size']}`", whole["wall"] - whole["busy"]
        if between > BETWEEN * whole["wall"]:
            yield (f"In {what}, {100 * between / whole['wall']:.0f} % of a step passes between kernels with graphs off "
                   f"(above {100 * BETWEEN:.0f} %): it is the host that starts them late; graphs, or fewer kernels.")
        if whole["of"] == "decoding":
            yield from _costs(records, whole, what, speed)
        else:
            floor = whole["operations"] / whole["peak"]
            if whole["products"] > floor / 0.8:
                yield (f"In {what}, products take {1e3 * whole['products']:.1f} ms for {1e3 * floor:.1f} ms of "
                       "arithmetic at the measured peak: recomputation, narrow products, or attention.")
            rest = whole["busy"] - whole["products"]
            if rest > 0.25 * whole["busy"]:
                longest = next((row["kernel"] for row in rows[1:] if not row["product"]), "-")
                yield (f"In {what}, {100 * rest / whole['busy']:.0f} % of the kernels' time is no product (above "
                       f"25 %): passes over memory to fuse or spare; the longest is `{longest}`.")


def _costs(records: Mapping[str, Record], whole: dict, what: str, speed: float) -> Iterator[str]:
    """c, what a kernel costs beside the bytes of the step: (seconds - bytes / bandwidth) / kernels."""
    fastest = min((row["step_seconds"] for row in results.decoding_rows(records)
                   if row["size"] == whole["size"] and row["batch"] == 1 and row["begin"] == 0),
                  default=whole["alone"])
    cost = (fastest - whole["bytes"] / speed) / whole["kernels"]
    verdict = ("merge kernels: the cache's writes, the activation, reductions, the choice of ids" if cost > PER_KERNEL
               else "their number is not what is in the way")
    yield (f"In {what}, each of {whole['kernels']:.0f} kernels costs {1e6 * cost:.2f} us beside the bytes of the step "
           f"in the fastest mode (threshold {1e6 * PER_KERNEL:.1f}): {verdict}.")
    if whole["products"]:
        share = whole["bytes"] / speed / whole["products"]
        if share < BANDWIDTH:
            yield (f"In {what}, the products alone read at {100 * share:.0f} % of the bandwidth (below "
                   f"{100 * BANDWIDTH:.0f} %): other tilings, split-K, the other library of products.")


def _peers(records: Mapping[str, Record]) -> Iterator[str]:
    best: dict[tuple, float] = {}
    for row in results.decoding_rows(records):
        key = row["size"], row["batch"], row["begin"]
        best[key] = min(best.get(key, float("inf")), row["step_seconds"])
    for row in results.peer_rows(records):
        ours = best.get((row["size"], row["batch"], row["begin"]))
        if ours is None:
            continue
        ratio = row["step_seconds"] / ours
        if row["mode"] == "eager" and ratio < PEER:
            yield f"Decoding `{row['size']}` is {ratio:.1f} times as fast as eager `transformers`; the aim is {PEER:g}."
        if row["mode"] == "compiled" and ratio < 1 / NOISE:
            yield (f"Decoding `{row['size']}`: the compiled peer takes {ratio:.2f} of our time. Profile it, too; what "
                   "it does better can be done.")


def _training(records: Mapping[str, Record]) -> Iterator[str]:
    best: dict[str, dict] = {}
    rows = [row for row in results.training_rows(records) if row["mfu"]]
    for row in rows:
        if row["cudnn"] and row["mfu"] > best.get(row["size"], {"mfu": 0.0})["mfu"]:
            best[row["size"]] = row
    for size, row in best.items():
        if row["mfu"] < UTILIZATION:
            yield (f"Training `{size}` reaches {100 * row['mfu']:.0f} % of the measured peak at best (recomputed: "
                   f"{row['remat']}, {row['batch']} songs, {row['mode']}); the aim is {100 * UTILIZATION:.0f} %.")
    for row in rows:
        with_cudnn = [other for other in rows if other["cudnn"] and not row["cudnn"]
                      and all(other[key] == row[key] for key in ("size", "remat", "batch", "steps"))]
        if with_cudnn and row["step_seconds"] * NOISE < with_cudnn[0]["step_seconds"]:
            yield f"Training `{row['size']}` is faster without cuDNN's attention: take our own there."
    for function in ("training", "whole_songs"):
        for row in results.rows_of(records, function):
            if "failed" in row and "RESOURCE_EXHAUSTED" in row["failed"]:
                yield (f"Training `{row['size']}` with {row['batch']} songs, recomputed: {row['remat']}, does not fit: "
                       "compare with what `python -m autosong_jax.train --plan` says.")


def _first_step(records: Mapping[str, Record]) -> Iterator[str]:
    cold, warm = (records.get(f"first-step-{name}", {"rows": []})["rows"] for name in ("cold", "warm"))
    ends = [row["since_start"] for rows in (cold, warm) for row in rows if row["what"] == "first step done"]
    if len(ends) == 2 and ends[1] > 0.75 * ends[0]:
        yield (f"A warm first step takes {ends[1]:.0f} s, a cold one {ends[0]:.0f}: the kept programs spare little; "
               "look at what else happens before it.")
