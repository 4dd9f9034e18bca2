"""Accelerators that a run may be planned for, none of which need be here: how much memory each has, and its name."""

import dataclasses
import re

import ml_collections
from jax.sharding import AbstractMesh, AxisType

from autosong_jax.errors import UserError
from autosong_jax.parallel.sharding import AXES, mesh_sizes


@dataclasses.dataclass(frozen=True)
class Kind:
    """One kind of accelerator.

    Attributes:
      title: its name in full.
      platform: what JAX calls its backend, "tpu" or "gpu".
      memory: of one, GiB.
      counts: how many of them make a usual machine or slice.
    """

    title: str
    platform: str
    memory: float
    counts: tuple[int, ...]

    @property
    def usable(self) -> float:
        """GiB that arrays can take: the TPU runtime keeps about 2 %, of a GPU driver and idle gaps take 8 %."""
        return self.memory * (0.98 if self.platform == "tpu" else 0.92)


SLICES = (1, 4, 8, 16, 32, 64, 128, 256)
SERVERS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
# Memory of one chip from the vendors' data sheets: cloud.google.com/tpu/docs/v5e, /v5p and /v6e (16, 95 and 32 GB of
# HBM, counted as GiB: its compiler allows 15.75, 95.74 and 31.25); NVIDIA's data sheets of H100 SXM (80 GB), H200
# (141 GB), A100 (80 GB) and L4 (24 GB), counted as 10**9 bytes.
KINDS = {
    "v5e": Kind("TPU v5e", "tpu", 16, SLICES),
    "v6e": Kind("TPU v6e", "tpu", 32, SLICES),
    "v5p": Kind("TPU v5p", "tpu", 95, SLICES),
    "l4": Kind("NVIDIA L4", "gpu", 24e9 / 2**30, SERVERS),
    "a100": Kind("NVIDIA A100 80 GB", "gpu", 80e9 / 2**30, SERVERS),
    "h100": Kind("NVIDIA H100", "gpu", 80e9 / 2**30, SERVERS),
    "h200": Kind("NVIDIA H200", "gpu", 141e9 / 2**30, SERVERS),
}
MAX_COUNT = 256
WANTED = (f"KIND-COUNT such as v5e-16 or h100-8, a kind of {', '.join(KINDS)} and 1 to {MAX_COUNT} chips, and after a "
          "colon any axes, such as v5p-128:fsdp=32,tensor=4")


def parse_mesh(text: str, config: ml_collections.ConfigDict) -> tuple[Kind, AbstractMesh]:
    """The devices that `--mesh=TEXT` names, as a mesh without devices.

    Args:
      text: KIND-COUNT, or KIND for one; after a colon sizes of axes, which go before those of `config`.
      config: `config.mesh`.

    Raises:
      UserError: if it is no such text, or the axes do not multiply to the number of devices.
    """
    found = re.fullmatch(r"([a-z][a-z0-9]*)(?:-(\d{1,6}))?(?::(.*))?", text.strip().lower())
    if not found or found[1] not in KINDS or not 1 <= int(found[2] or 1) <= MAX_COUNT:
        raise UserError(f"--mesh={text}: expected {WANTED}")
    sizes = {axis: config[axis] for axis in AXES}
    for item in filter(None, (found[3] or "").split(",")):
        axis, _, size = item.partition("=")
        if axis not in sizes or not re.fullmatch(r"-1|[1-9]\d{0,5}", size):
            raise UserError(f"--mesh={text}: {item!r} is no axis with its size, expected {WANTED}")
        sizes[axis] = int(size)
    return KINDS[found[1]], abstract_mesh(sizes, int(found[2] or 1))


def abstract_mesh(sizes: dict[str, int] | ml_collections.ConfigDict, count: int) -> AbstractMesh:
    """A mesh of `count` devices that are not here; see `sharding.mesh_sizes`."""
    return AbstractMesh(mesh_sizes(sizes, count), AXES, axis_types=(AxisType.Auto,) * len(AXES))
