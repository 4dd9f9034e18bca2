"""Which kind of accelerator a program is for: the one that it will run on, or one that a run is planned for."""

import contextlib
import functools
import os
from collections.abc import Iterator, Mapping

import jax

from autosong_jax.cli import log
from autosong_jax.errors import UserError

# JAX keeps what it has traced by this value, too, so no program is taken for one of another platform.
_PLANNED = jax.make_user_context()
LOOP_GRAPH = "AUTOSONG_LOOP_GRAPH"
# XLA's own default is the first of these without WHILE, and graphs of at least 5 operations.
ONE_GRAPH = {
    "xla_gpu_enable_command_buffer":
        "FUSION,CUBLAS,CUBLASLT,CUDNN,CUSTOM_CALL,CONDITIONAL,DYNAMIC_SLICE_FUSION,WHILE",
    "xla_gpu_graph_min_graph_size": "1",
}


def platform() -> str:
    """"cpu", "gpu" or "tpu": of the plan, the mesh, or the process's default device, the first that there is."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    return _PLANNED.value or (device.platform if device else jax.default_backend())


def lacks_flash_attention() -> bool:
    """Whether programs run on an NVIDIA GPU for which cuDNN has none: one older than Ampere, such as a T4."""
    return _on_cuda() and float(jax.devices()[0].compute_capability) < 8


def planned() -> bool:
    """Whether the program is only planned: it will be neither compiled nor run."""
    return _PLANNED.value is not None


@contextlib.contextmanager
def planned_for(name: str) -> Iterator[None]:
    """Programs traced inside are those of that platform. They tell how much memory they take, but need not run."""
    with _PLANNED(name):
        yield


def loop_options() -> dict[str, str] | None:
    """The `compiler_options` of `jax.jit` for a loop of many short kernels; None for XLA's defaults.

    An NVIDIA GPU runs a CUDA graph without the host. By default XLA makes a graph of a loop's body alone: at
    every step the host waits to learn whether there is another, and starts the graph anew. With these options the whole
    loop is one graph. (With WHILE alone there would be none: so little is left of a program that is all loop that XLA
    thinks it too small for a graph.)

    The environment variable AUTOSONG_LOOP_GRAPH=default leaves XLA its defaults, in case a driver or a version of XLA
    cannot do with these; "while" is what happens without it.

    Raises:
      UserError: if the environment variable says something else.
    """
    wanted = os.environ.get(LOOP_GRAPH, "while")
    if wanted not in ("while", "default"):
        raise UserError(f"{LOOP_GRAPH}={wanted}: expected while (a loop is one CUDA graph) or default (as XLA does it)")
    return _accepted(tuple(ONE_GRAPH.items())) if wanted == "while" and _on_cuda() else None


def _on_cuda() -> bool:
    """Whether programs run on an NVIDIA GPU; JAX calls others "gpu", too."""
    return jax.default_backend() == "gpu" and "cuda" in jax.devices()[0].client.platform_version


@functools.cache
def _accepted(options: tuple[tuple[str, str], ...]) -> Mapping[str, str] | None:
    """The options, or None and a line in the log if this XLA does not know one of them."""
    try:
        jax.jit(lambda: 0, compiler_options=dict(options)).lower().compile()
    except jax.errors.JaxRuntimeError as error:
        log.warning("Loops are not made one CUDA graph: %s", str(error).splitlines()[0])
        return None
    return dict(options)
