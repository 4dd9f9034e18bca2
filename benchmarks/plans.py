"""How near `train --plan` comes to what compilers allocate, for devices that are not here.

python -m benchmarks.plans --devices=h200       # with the `cuda` extra installed; no GPU is needed
python -m benchmarks.plans --devices=v5p        # with the `tpu` extra, no TPU

XLA compiles the training step of each config ahead of time, for an H200 from a description of it, for TPUs by libtpu.
What it then allocates beside the state (parameters, moving average, optimizer) stands beside what the plan has, without
and with its allowance for the compiler.
"""

import contextlib
import importlib
import os
import time
import unittest.mock
from collections.abc import Iterator
from typing import Any

import numpy as np
from absl import flags

from autosong_jax import cli
from autosong_jax.errors import UserError

FLAGS = flags.FLAGS
# Config, devices, songs of a batch.
RUNS = {
    "h200": (("xsmall", 1, 8), ("small", 1, 24), ("lyric2music", 1, 8), ("large", 8, 192), ("xlarge", 8, 64)),
    "v5e": (("small", 16, 192), ("lyric2music", 4, 8), ("large", 16, 192)),
    "v5p": (("small", 4, 192), ("lyric2music", 4, 32)),
}
TPUS = {("v5e", 4): "v5e:2x2", ("v5e", 16): "v5e:4x4", ("v5p", 4): "v5p:2x2x1"}
# After XLA's own description of the card, xla/backends/gpu/target_config/specs/h200.txtpb.
H200 = """
gpu_device_info {
  threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152 shared_memory_per_core: 233472
  threads_per_core_limit: 2048 core_count: 132 fpus_per_core: 128 block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535 block_dim_limit_z: 65535 memory_bandwidth: 4800000000000 l2_cache_size: 52428800
  clock_rate_ghz: 1.98 device_memory_size: 151397597184 shared_memory_per_block_optin: 232448
  cuda_compute_capability { major: 9 } registers_per_core_limit: 65536 registers_per_block_limit: 65536
  thread_dim_limit_x: 1024 thread_dim_limit_y: 1024 thread_dim_limit_z: 64 name: "NVIDIA H200 141GB HBM3e"
  driver_version: "13.0.0" runtime_version: "12.8.0" compile_time_toolkit_version: "12.8.0" dnn_version: "9.10.0"
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 10 patch: 0 }
device_description_str: "NVIDIA H200 141GB HBM3e"
"""
GIB = 2**30


def define_flags() -> None:
    """In a function, so that several commands can be imported into one process."""
    flags.DEFINE_enum("devices", "h200", list(RUNS), "What to compile for.")


def main() -> None:
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ |= {"TPU_SKIP_MDS_QUERY": "1", "TPU_WORKER_HOSTNAMES": "localhost",
                   "TPU_ACCELERATOR_TYPE": "v5litepod-4"}  # libtpu would ask what it is part of
    print("| config | devices | songs on each | state | the rest, planned | with the allowance | compiled | planned / "
          "compiled | in all |\n" + "| --- " * 9 + "|", flush=True)
    for name, count, songs in RUNS[FLAGS.devices]:
        planner, estimate, memory = measure(name, count, songs)
        rest = sum(estimate.rows[row] for row in ("gradients", "kept for the backward pass", "working set"))
        roomy = rest + estimate.rows["allowance for the compiler"]
        state = memory.argument_size_in_bytes
        sizes = " | ".join(f"{size / GIB:.2f}" for size in (state, rest, roomy, memory.temp_size_in_bytes))
        ratios = f"{rest / memory.temp_size_in_bytes:.2f}, {roomy / memory.temp_size_in_bytes:.2f}"
        print(f"| `{name}`, remat {planner.config.train.remat} | {FLAGS.devices}-{count} | {songs // count} | "
              f"{sizes} | {ratios} | {(state + memory.temp_size_in_bytes) / GIB:.2f} |", flush=True)


def measure(name: str, count: int, songs: int) -> tuple[Any, Any, Any]:
    """The planner of a config, what it estimates, and what the compiler says of the step's memory."""
    import jax
    from jax.sharding import NamedSharding

    from autosong_jax.models.build import build_model
    from autosong_jax.parallel.sharding import BATCH, make_mesh
    from autosong_jax.planning.devices import KINDS
    from autosong_jax.planning.plan import Planner, fsdp_mesh, songs_of
    from autosong_jax.training.step import make_trainer

    config = importlib.import_module(f"configs.{name}").get_config()
    config.data.batch_size, config.model.dtype = songs, "bfloat16"
    planner = Planner(config, songs_of(config))
    kind = KINDS[FLAGS.devices]
    estimate = planner.estimate(kind, fsdp_mesh(count))
    config.mesh.update(data=1, fsdp=count, tensor=1)
    mesh = make_mesh(config.mesh, np.array(absent_devices(FLAGS.devices, count)))

    def shaped(x: Any, sharding: Any) -> Any:
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)

    with as_if_on(kind.platform):
        trainer = make_trainer(
            config, lambda rngs: build_model(config, planner.songs.codec, planner.songs.text, rngs=rngs),
            planner.pattern, mesh)
        state = jax.tree.map(shaped, trainer.abstract, trainer.shardings)
        batch = jax.tree.map(lambda x: shaped(x, NamedSharding(mesh, BATCH)), planner.batch(songs))
        started = time.perf_counter()
        program = trainer.train_step.lower(state, trainer.frozen, batch).compile()
    cli.log.info("%s compiled in %.0f s", name, time.perf_counter() - started)
    return planner, estimate, program.memory_analysis()


def absent_devices(kind: str, count: int) -> list[Any]:
    """`count` devices of a kind ("h200", "v5e" or "v5p") that programs can be compiled for.

    Raises:
      UserError: if what compiles for them is not installed.
    """
    from jax.experimental import topologies

    try:
        if kind != "h200":
            return topologies.get_topology_desc(TPUS[kind, count], platform="tpu").devices[:count]
        shape = f"1x1x{count}"
        return topologies.get_topology_desc(shape, platform="cuda", target_config=H200, topology=shape).devices
    except (RuntimeError, NotImplementedError, ImportError) as error:
        extra = "cuda" if kind == "h200" else "tpu"
        raise UserError(f"{kind}: nothing here compiles for it ({str(error).splitlines()[0]}); "
                        f"install the `{extra}` extra: pip install -c constraints.txt -e \".[{extra}]\"") from error


@contextlib.contextmanager
def as_if_on(platform: str) -> Iterator[None]:
    """Tracing takes what it would take there."""
    from jax._src.cudnn import fused_attention_stablehlo as cudnn

    with contextlib.ExitStack() as stack:
        if platform == "gpu":
            # What JAX would ask of a device that it has.
            stack.enter_context(unittest.mock.patch.object(cudnn, "check_compute_capability", lambda _: True))
            stack.enter_context(
                unittest.mock.patch.object(cudnn, "is_cuda_compute_capability_equal", lambda _: False))
        yield


if __name__ == "__main__":
    define_flags()
    cli.run(main)
