"""One mesh, and one table from parameter paths to the mesh axes.

The axes are `data` (copies of the model), `fsdp` (parameters, optimizer state and batch all cut along it) and `tensor`
(heads and MLP widths cut along it).
"""

import math
import re
from typing import Any

import jax
import ml_collections
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from autosong_jax.errors import UserError

AXES = ("data", "fsdp", "tensor")
BATCH = PartitionSpec(("data", "fsdp"))

# The first pattern found in a parameter's path decides. A spec names the last dimensions of the array, so the leading
# axis of stacked layers needs no rule of its own; a dimension that the axis does not divide is kept whole.
RULES = (
    (r"(q|k|v|up)/kernel", ("fsdp", "tensor")),
    (r"(out|down)/kernel", ("tensor", "fsdp")),
    (r"(q|k|v|up)/bias", ("tensor",)),
    (r"(q|k|v|up)/lora_a", ("fsdp", None)),
    (r"(q|k|v|up)/lora_b", (None, "tensor")),
    (r"(out|down)/lora_a", ("tensor", None)),
    (r"(out|down)/lora_b", (None, "fsdp")),
    (r"projection/kernel", ("fsdp", None)),
    (r"(^|/)heads$", ("fsdp", "tensor")),
    (r"(^|/)embeddings$|/embedding$", ("fsdp",)),
)


def make_mesh(config: ml_collections.ConfigDict) -> Mesh:
    """A mesh of all devices from `config.data`, `config.fsdp`, `config.tensor`, one of which may be -1: what is left.

    Raises:
      UserError: if the axes do not multiply to the number of devices.
    """
    sizes = [config[axis] for axis in AXES]
    devices = jax.device_count()
    rest = math.prod(size for size in sizes if size != -1)
    if sizes.count(-1) == 1 and devices % rest == 0:
        sizes[sizes.index(-1)] = devices // rest
    if math.prod(sizes) != devices or min(sizes) < 1:
        shape = ", ".join(f"{axis}={config[axis]}" for axis in AXES)
        raise UserError(f"mesh {shape} does not fit {devices} devices: expected sizes whose product is {devices}; "
                        "one of them may be -1")
    return jax.make_mesh(sizes, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def partition_spec(path: str, shape: tuple[int, ...], mesh: Mesh) -> PartitionSpec:
    """The spec of the array at `path` ("decoder/blocks/mlp/up/kernel", with whatever an optimizer puts before it)."""
    for pattern, axes in RULES:
        if re.search(pattern, path) and len(axes) <= len(shape):
            axes = (None,) * (len(shape) - len(axes)) + axes
            return PartitionSpec(*(a if a and size % mesh.shape[a] == 0 else None
                                   for a, size in zip(axes, shape, strict=True)))
    return PartitionSpec()


def tree_shardings(tree: Any, mesh: Mesh) -> Any:
    """The sharding of every array of a tree (parameters, optimizer state), by `RULES`."""
    def sharding(path, leaf):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        return NamedSharding(mesh, partition_spec(name, leaf.shape, mesh))

    return jax.tree_util.tree_map_with_path(sharding, tree)


def put_batch(batch: Any, mesh: Mesh) -> Any:
    """This host's share of a batch, on its devices, as part of the global batch."""
    sharding = NamedSharding(mesh, BATCH)
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, np.asarray(x)), batch)
