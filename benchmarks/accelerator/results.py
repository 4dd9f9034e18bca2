"""From records to numbers that say something: times a step, shares of the bandwidth, utilization.

All of it is made anew from the records whenever it is wanted, so that a better rule needs no new measurement.
"""

import statistics
from collections.abc import Iterable, Mapping
from typing import Any

from benchmarks.accelerator.records import Record

Row = dict[str, Any]


def rows_of(records: Mapping[str, Record], function: str, module: str = "measure") -> Iterable[Row]:
    """All rows that a function of a module of this package has written, with the names of their parts."""
    for name, record in records.items():
        if record.get("measure") == f"benchmarks.accelerator.{module}:{function}":
            yield from ({"part": name, **row} for row in record["rows"])


def bandwidth_of(records: Mapping[str, Record]) -> float | None:
    """Bytes a second, as measured."""
    return next((row["best"] for row in rows_of(records, "ceilings") if row["what"] == "bandwidth"), None)


def peak_of(records: Mapping[str, Record]) -> float | None:
    """FLOP/s of one device, as measured."""
    return next((row["flops"] for row in rows_of(records, "ceilings") if row["what"] == "matrix"), None)


def nominal_peak(records: Mapping[str, Record]) -> float | None:
    """FLOP/s of one device by the vendor's data sheet, in bfloat16; None for one whose sheet is not known."""
    return next((row["flops"] for row in rows_of(records, "ceilings") if row["what"] == "data sheet"), None)


def decoding_rows(records: Mapping[str, Record]) -> list[Row]:
    """Rows of decoding with "step_seconds", their spread, and "share": of the bandwidth, by what a step must read."""
    speed = bandwidth_of(records)
    return [_timed(row) | {"share": row["bytes"] / speed / _timed(row)["step_seconds"] if speed else None}
            for row in rows_of(records, "decoding")]


def peer_rows(records: Mapping[str, Record]) -> list[Row]:
    """Rows of the peer, eager and compiled, likewise."""
    return [_timed(row) | {"mode": mode} for mode in ("eager", "compiled") for row in rows_of(records, f"{mode}_peer")]


def _timed(row: Row) -> Row:
    steps = [seconds / row["steps"] for seconds in row["seconds"]]
    return row | {"step_seconds": statistics.median(steps), "spread": (min(steps), max(steps))}


def training_rows(records: Mapping[str, Record], *functions: str) -> list[Row]:
    """Rows of training steps that did not fail, with "step_seconds", "flops" of one device and "mfu" of its peak."""
    peak = peak_of(records)
    found = []
    for function in functions or ("training",):
        for row in rows_of(records, function):
            if "failed" not in row:
                seconds = statistics.median(row["seconds"])
                flops = row["operations"] / seconds / row["devices"]
                found.append(row | {"step_seconds": seconds, "flops": flops, "mfu": flops / peak if peak else None})
    return found
