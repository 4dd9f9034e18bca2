"""What each part measures: thin over the benchmarks' own functions, a row for each thing measured, raw numbers only.

Shares of the bandwidth and of the peak are made from them in the report.
"""

import contextlib
import gc
import os
import shutil
import time
import unittest.mock
from collections.abc import Iterator, Sequence
from typing import Any

from benchmarks.accelerator.measurement import Measurement, Skipped, last_line


def ceilings(measurement: Measurement, toy: bool) -> None:
    """The bandwidth and the peak of a product of matrices; all else stands beside them."""
    device = measurement.device()
    from autosong_jax.models.build import compute_dtype
    from autosong_jax.training.metrics import PEAK_FLOPS
    from benchmarks import ceilings as limits
    from benchmarks.accelerator.plan import scale_of

    scale = scale_of(device["platform"], device["memory"], toy)
    speed = limits.bandwidth(scale.array or limits.array_size())
    measurement.row(what="bandwidth", bytes=speed.size, read=speed.read, copied=speed.copied, best=speed.best)
    dtype = compute_dtype("auto")
    measurement.row(what="matrix", width=scale.matrix, dtype=dtype, flops=limits.matrix_peak(scale.matrix, dtype))
    measurement.row(what="data sheet", flops=PEAK_FLOPS.get(device["device"]))


def decoding(measurement: Measurement, mode: str, size: str, batch: int, begins: Sequence[int], steps: int,
             repeats: int) -> None:
    """Turns of `steps` steps of a 30 s song, each anew from step `begin` on; `mode` is what the environment is for."""
    measurement.device()
    from benchmarks.decode import Ours

    ours = Ours(size, batch)
    for begin in begins:
        started = time.perf_counter()
        taken = []
        for turn in range(1 + repeats):
            ours.begin(begin)
            taken.append(ours.turn(begin + steps))
            if turn == 0:
                compiled = time.perf_counter() - started
        measurement.row(mode=mode, size=size, batch=batch, begin=begin, steps=steps, seconds=taken[1:],
                        first_seconds=compiled, bytes=ours.bytes_read(begin + steps / 2), weights=ours.weights)


def eager_peer(measurement: Measurement, platform: str, size: str, batch: int, begins: Sequence[int], steps: int,
               repeats: int) -> None:
    """transformers' own `generate`, from step `begin` on in turns of `steps` steps."""
    device = torch_device(platform)
    from benchmarks.decode import Peer

    peer = Peer(size, batch, len(os.sched_getaffinity(0)), device)
    for begin in begins:
        taken: list[float] = []
        peer.sing(begin, 1 + repeats, steps, taken.append)
        measurement.row(size=size, batch=batch, begin=begin, steps=steps, seconds=taken[1:])


def compiled_peer(measurement: Measurement, platform: str, size: str, batch: int, begins: Sequence[int], steps: int,
                  repeats: int, backend: str) -> None:
    """transformers' decoder with a static cache, its step compiled by PyTorch."""
    device = torch_device(platform)
    from benchmarks.compiled_peer import CompiledPeer, refused

    peer = CompiledPeer(size, batch, device, backend)
    for begin in begins:
        started = time.perf_counter()
        taken = peer.turns(begin, steps, repeats)
        measurement.row(size=size, batch=batch, begin=begin, steps=steps, seconds=taken, backend=backend,
                        graphs_refused=refused(),
                        first_seconds=time.perf_counter() - started - sum(taken))


def torch_device(platform: str) -> str:
    """PyTorch's name of what JAX calls `platform`. JAX is not asked: it would take the device's memory.

    Raises:
      Skipped: if this PyTorch does not know it.
    """
    import torch
    import transformers  # noqa: F401, so that a package that is missing is named before anything is measured

    if platform == "gpu" and not torch.cuda.is_available():
        raise Skipped(f"PyTorch {torch.__version__} sees no GPU")
    if platform not in ("cpu", "gpu"):
        raise Skipped(f"PyTorch has no {platform}")
    return "cuda" if platform == "gpu" else "cpu"


def training(measurement: Measurement, size: str, steps: int, runs: Sequence[Sequence[Any]], repeats: int,
             cudnn: bool = True, mode: str = "default") -> None:
    """Training steps of one size. A run that fails, for want of memory say, is a row that says so.

    Args:
      mode: what the environment is for.
      steps: of each song.
      runs: (what is recomputed, songs a step on each device), one after another.
      cudnn: whether attention may be cuDNN's; of no meaning elsewhere than on an NVIDIA GPU.
    """
    devices = measurement.device()["devices"]
    from benchmarks import train_step

    for remat, songs in runs:
        batch = songs * devices
        about = {"size": size, "remat": remat, "batch": batch, "steps": steps, "cudnn": cudnn, "mode": mode,
                 "devices": devices}
        try:
            with contextlib.nullcontext() if cudnn else without_cudnn():
                step = train_step.make_ours(size, batch, steps, remat)
            _rows_of_steps(measurement, step, repeats, about)
        except Exception as error:
            measurement.row(**about, failed=last_line(error))
        step = None
        gc.collect()


@contextlib.contextmanager
def without_cudnn() -> Iterator[None]:
    """Programs traced inside have our own attention, block by block, in place of cuDNN's."""
    from autosong_jax.layers import attention

    def own(q, k, v, causal, lengths):
        import jax.numpy as jnp

        counts = jnp.full(q.shape[0], k.shape[1]) if lengths is None else lengths
        return attention.blockwise(q, k, v, counts, causal, attention._block_size(k.shape[1]))

    with unittest.mock.patch.object(attention, "_cudnn", own):
        yield


def _rows_of_steps(measurement: Measurement, step: Any, repeats: int, about: dict[str, Any]) -> None:
    started, losses = time.perf_counter(), [step.step()]
    first = time.perf_counter() - started
    taken = []
    for _ in range(repeats):
        started = time.perf_counter()
        losses.append(step.step())
        taken.append(time.perf_counter() - started)
    measurement.row(**about, seconds=taken, operations=step.operations, parameters=step.parameters, losses=losses,
                    compile_seconds=step.compile_seconds, first_seconds=first, state_bytes=step.state_bytes,
                    temporary_bytes=step.temporary_bytes)


def masked(measurement: Measurement, size: str, seconds: float, steps: Sequence[int], batches: Sequence[int],
           repeats: int) -> None:
    """Clips by the masked sampler and step by step."""
    measurement.device()
    from benchmarks.masked import measure

    for batch in batches:
        for sampler, (taken, passes) in measure(size, seconds, tuple(steps), batch, repeats).items():
            measurement.row(size=size, clip=seconds, batch=batch, sampler=sampler, passes=passes, seconds=taken)


def attention(measurement: Measurement, cases: Sequence[dict[str, Any]], repeats: int) -> None:
    """Attention alone: each of `cases` is arguments of `benchmarks.attention.measure`."""
    measurement.device()
    from benchmarks.attention import measure

    for case in cases:
        try:
            for way, cost in zip(("forward", "both"), measure(repeats=repeats, **case), strict=True):
                measurement.row(**case, way=way, seconds=cost.seconds, memory=cost.memory)
        except Exception as error:
            measurement.row(**case, failed=last_line(error))


def encodec(measurement: Measurement, platform: str, model: str, seconds: float, repeats: int,
            settings: dict[str, Any]) -> None:
    """EnCodec both ways beside PyTorch's; `settings` go before those of the released model."""
    device = torch_device(platform)
    measurement.device()
    from benchmarks.codecs import measure

    for row in measure(model, settings, seconds, repeats, device):
        measurement.row(model=model, audio=seconds, **row._asdict())


def first_step(measurement: Measurement, size: str, batch: int, steps: int, cold: bool) -> None:
    """From the start of the process to the end of the first training step, by what was done by then.

    Args:
      batch: songs a step on each device.
      cold: without compiled programs; those that there are of such a run are removed.
    """
    kept = measurement.output / "compiled-first-step"
    if cold:
        shutil.rmtree(kept, ignore_errors=True)
    os.environ |= {"JAX_COMPILATION_CACHE_DIR": str(kept), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1"}

    def mark(what: str) -> None:
        measurement.row(what=what, since_start=time.time() - measurement.spawned)

    devices = measurement.device()["devices"]
    mark("JAX has its device")
    from benchmarks import train_step

    step = train_step.make_ours(size, batch * devices, steps, "full")
    mark("step compiled, weights made")
    step.step()
    mark("first step done")
    step.step()
    mark("second step done")


def whole_songs(measurement: Measurement, length: int, batches: Sequence[int], repeats: int, shape: dict[str, int]
                ) -> None:
    """Training steps of `configs/lyric2music.py` on whole songs of `length` steps."""
    devices = measurement.device()["devices"]
    from benchmarks import train_step
    from benchmarks.whole_songs import prepare

    for songs in batches:
        batch = songs * devices
        about = {"size": "lyric2music", "remat": "full", "batch": batch, "steps": length, "cudnn": True,
                 "mode": "default", "devices": devices}
        try:
            _rows_of_steps(measurement, train_step.step_of(*prepare(length, batch, shape)), repeats, about)
        except Exception as error:
            measurement.row(**about, failed=last_line(error))
        gc.collect()
