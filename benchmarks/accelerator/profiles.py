"""Where the time of a step goes: a profile of what is furthest from its ceiling, kernel by kernel.

On an NVIDIA GPU a graph is one launch to the profiler, so profiles are made with graphs off; how long a step takes is
measured with them on.
"""

import collections
import itertools
import pathlib
import re
import shutil
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from benchmarks.accelerator import records
from benchmarks.accelerator.measurement import Measurement, Skipped
from benchmarks.accelerator.results import decoding_rows, peak_of, training_rows

MOST = 25  # names of kernels that are kept
# What multiplies matrices, by its name: of cuBLAS, of cuDNN's and XLA's own kernels, XLA's names of products, and the
# library that XLA gives most of them to on a CPU.
PRODUCTS = re.compile(r"gemm|gemv|nvjet|cutlass|cublas|xmma|wgmma|dot|conv(?!ert)|flash|fmha|sdpa|ynn", re.IGNORECASE)


class Kernel(NamedTuple):
    """One run of one kernel; nanoseconds."""

    name: str
    start: float
    duration: float


def decoding(measurement: Measurement, steps: int) -> None:
    """Steps of the size of decoding that reads at the lowest share of the bandwidth, with one song."""
    best: dict[str, float] = {}
    for row in decoding_rows(records.read_all(measurement.output)):
        if row["batch"] == 1:
            best[row["size"]] = max(best.get(row["size"], 0.0), row["share"])
    if not best:
        raise Skipped("no decoding has been measured")
    size = min(best, key=best.__getitem__)
    measurement.device()
    from benchmarks.decode import Ours

    ours = Ours(size, 1)

    def work() -> float:
        ours.begin(0)
        return ours.turn(steps)

    work()
    alone = work()
    ours.begin(0)
    kernels = trace(measurement, lambda: ours.turn(steps))
    describe(measurement, kernels, steps, {"of": "decoding", "size": size, "alone": alone / steps,
                                           "bytes": ours.bytes_read(steps / 2)})


def training(measurement: Measurement, steps: int) -> None:
    """Training steps of the size with the lowest utilization, by the best of its runs."""
    best: dict[str, dict[str, Any]] = {}
    found = records.read_all(measurement.output)
    for row in training_rows(found):
        if row["cudnn"] and row["mfu"] > best.get(row["size"], {"mfu": 0.0})["mfu"]:
            best[row["size"]] = row
    if not best:
        raise Skipped("no training step has been measured")
    run = min(best.values(), key=lambda row: row["mfu"])
    measurement.device()
    from benchmarks import train_step

    step = train_step.make_ours(run["size"], run["batch"], run["steps"], run["remat"])  # of all devices, as measured
    step.step()
    kernels = trace(measurement, lambda: [step.step() for _ in range(steps)])
    about = {name: run[name] for name in ("size", "batch", "remat")}
    describe(measurement, kernels, steps, {"of": "training", **about, "alone": run["step_seconds"],
                                           "operations": step.operations, "peak": peak_of(found)})


def trace(measurement: Measurement, work: Callable[[], Any]) -> list[Kernel]:
    """The kernels that `work` runs, in order. The trace stays beside the records."""
    import jax

    folder = measurement.output / "traces" / measurement.part
    shutil.rmtree(folder, ignore_errors=True)
    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0
    jax.profiler.start_trace(str(folder), profiler_options=options)
    try:
        work()
    finally:
        jax.profiler.stop_trace()
    found = read(folder)
    if not found:
        raise Skipped("the trace has no kernels in it: this machine does not let its profiler see them")
    return found


def read(folder: pathlib.Path) -> list[Kernel]:
    """The kernels of the newest trace in a folder, those that contain others left out.

    They are on an accelerator's own plane, on lines for its streams; a CPU's are marked as operations of a program.
    """
    import jax

    path = max(folder.rglob("*.xplane.pb"), key=lambda path: path.stat().st_mtime)
    planes = list(jax.profiler.ProfileData.from_file(str(path)).planes)
    devices = [plane for plane in planes if plane.name.startswith("/device:") and "CUSTOM" not in plane.name]
    found = []
    for plane in devices or planes:
        lines = list(plane.lines)
        streams = [line for line in lines if line.name.startswith("Stream")]  # of a GPU; a TPU has one line of them all
        for line in streams or [line for line in lines if not devices or line.name == "XLA Ops"]:
            kernels = [Kernel(event.name, event.start_ns, event.duration_ns) for event in line.events
                       if devices or "hlo_op" in dict(event.stats)]
            found += innermost(kernels)
    return sorted(found, key=lambda kernel: kernel.start)


def innermost(kernels: Sequence[Kernel]) -> list[Kernel]:
    """Those of one line within which no other one begins: a loop contains what it runs."""
    ordered = sorted(kernels, key=lambda kernel: (kernel.start, -kernel.duration))
    return [kernel for kernel, after in itertools.pairwise([*ordered, None])
            if after is None or after.start >= kernel.start + kernel.duration]


def busy(kernels: Sequence[Kernel]) -> float:
    """Nanoseconds during which some kernel ran."""
    total, until = 0.0, float("-inf")
    for kernel in sorted(kernels, key=lambda kernel: kernel.start):
        end = kernel.start + kernel.duration
        total += max(0.0, end - max(kernel.start, until))
        until = max(until, end)
    return total


def family(name: str) -> str:
    """A kernel's name without what numbers it: "loop_add_fusion_12" is a "loop_add_fusion"."""
    return re.sub(r"(?:[._]\d+)+(?=$|[._]kernel|\()|<.*", "", name)[:80] or name[:80]


def describe(measurement: Measurement, kernels: Sequence[Kernel], steps: int, about: dict[str, Any]) -> None:
    """A row for the whole, then one for each kind of kernel, the longest first; seconds a step."""
    wall = max(k.start + k.duration for k in kernels) - kernels[0].start
    by_name = collections.defaultdict(list)
    for kernel in kernels:
        by_name[family(kernel.name)].append(kernel.duration)
    total = sum(kernel.duration for kernel in kernels)
    products = sum(sum(taken) for name, taken in by_name.items() if PRODUCTS.search(name))
    measurement.row(**about, steps=steps, kernels=len(kernels) / steps, wall=1e-9 * wall / steps,
                    busy=1e-9 * busy(kernels) / steps, products=1e-9 * products / steps)
    for name, taken in sorted(by_name.items(), key=lambda item: -sum(item[1]))[:MOST]:
        measurement.row(kernel=name, count=len(taken) / steps, seconds=1e-9 * sum(taken) / steps,
                        share=sum(taken) / total, product=bool(PRODUCTS.search(name)))
