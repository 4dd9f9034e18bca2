"""One mesh, and how parameters and batches are cut over it.

The axes are `data` (copies of the model), `fsdp` (parameters, optimizer state and batch all cut along it) and `tensor`
(heads and MLP widths cut along it).
"""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import ml_collections
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from autosong_jax.errors import UserError

AXES = ("data", "fsdp", "tensor")
BATCH = PartitionSpec(("data", "fsdp"))


def make_mesh(config: ml_collections.ConfigDict, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh of `devices`, by default all of all processes.

    Its shape is `config.data`, `config.fsdp`, `config.tensor`, one of which may be -1: what is left.

    Raises:
      UserError: if the axes do not multiply to the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    sizes = mesh_sizes(config, len(devices))
    return Mesh(_arranged(devices, sizes), AXES, axis_types=(AxisType.Auto,) * len(AXES))


def mesh_sizes(config: Mapping[str, int] | ml_collections.ConfigDict, devices: int) -> tuple[int, ...]:
    """The sizes of `AXES` on so many devices; see `make_mesh`."""
    sizes = [config[axis] for axis in AXES]
    rest = math.prod(size for size in sizes if size != -1)
    if sizes.count(-1) == 1 and devices % rest == 0:
        sizes[sizes.index(-1)] = devices // rest
    if math.prod(sizes) != devices or min(sizes) < 1:
        shape = ", ".join(f"{axis}={config[axis]}" for axis in AXES)
        raise UserError(f"mesh {shape} does not fit {devices} devices: expected sizes whose product is {devices}; "
                        "one of them may be -1")
    return tuple(sizes)


def _arranged(devices: Sequence[jax.Device], sizes: Sequence[int]) -> np.ndarray:
    """The devices as an array of `sizes`, the last axis along the fastest connections.

    `jax.make_mesh` refuses devices of several slices, which for GPUs are those of several hosts.
    """
    slices = {getattr(device, "slice_index", 0) for device in devices}
    if devices[0].platform == "tpu" and len(slices) == 1:
        return jax.make_mesh(sizes, AXES, devices=devices).devices
    # Hosts one after another: `tensor` lies within them where it fits, `data` across.
    def place(device):
        return getattr(device, "slice_index", 0), device.process_index, device.id

    return np.array(sorted(devices, key=place)).reshape(sizes)


def check_batch(config: ml_collections.ConfigDict, mesh: Mesh | AbstractMesh) -> None:
    """Raises UserError if the devices of a mesh cannot share the batches of `config`."""
    shares = mesh.shape["data"] * mesh.shape["fsdp"] * config.train.accumulation
    if config.data.batch_size % shares:
        raise UserError(f"data.batch_size {config.data.batch_size}: expected a multiple of {shares} "
                        "(data x fsdp devices x train.accumulation)")


def partition_spec(axes: Sequence[str | None], shape: tuple[int, ...], mesh: Mesh | AbstractMesh) -> PartitionSpec:
    """The spec of an array whose last dimensions `axes` cut; one that its axis does not divide is kept whole."""
    axes = (None,) * (len(shape) - len(axes)) + tuple(axes)
    return PartitionSpec(*(a if a and size % mesh.shape[a] == 0 else None for a, size in zip(axes, shape, strict=True)))


def tree_shardings(params: dict[str, Any], declarations: dict[str, Any], mesh: Mesh | AbstractMesh) -> dict[str, Any]:
    """The sharding of every parameter of a tree.

    Args:
      params: nested dictionaries of arrays, or of their shapes.
      declarations: what each of them is (`layers.declaration`), and maybe of others.
      mesh: where.
    """
    declared = flatten_dict(declarations)
    return unflatten_dict({path: NamedSharding(mesh, partition_spec(declared[path].axes, leaf.shape, mesh))
                           for path, leaf in flatten_dict(params).items()})


def batch_rows(batch_size: int, mesh: Mesh) -> list[int]:
    """Which rows of a global batch this process puts onto its devices: those that one of them holds, in order."""
    parts = NamedSharding(mesh, BATCH).addressable_devices_indices_map((batch_size,)).values()
    return sorted({row for part, in parts for row in range(batch_size)[part]})


def split_by_song(x: jax.Array) -> jax.Array:
    """`x` [B, ...], in a program for a mesh (`jax.sharding.use_abstract_mesh`) cut along B as the batch is.

    Without this the partitioner may follow the parameters, which are cut along the same axis, and have every device
    compute the whole batch.
    """
    return x if jax.sharding.get_abstract_mesh().empty else jax.lax.with_sharding_constraint(x, BATCH)


def whole(x: jax.Array) -> jax.Array:
    """`x` on every device, in a program for a mesh; for tables in which each device looks up ids of its own songs."""
    return x if jax.sharding.get_abstract_mesh().empty else jax.lax.with_sharding_constraint(x, PartitionSpec())


def put_batch(batch: Any, mesh: Mesh) -> Any:
    """The `batch_rows` of a batch, on this process's devices, as part of the global batch."""
    sharding = NamedSharding(mesh, BATCH)
    shares = mesh.shape["data"] * mesh.shape["fsdp"]
    local_shares = len(batch_rows(shares, mesh))

    def put(x):
        x = np.asarray(x)
        shape = (len(x) * shares // local_shares, *x.shape[1:])
        return jax.make_array_from_process_local_data(sharding, x, shape)

    return jax.tree.map(put, batch)


def put(array: Any, sharding: jax.sharding.Sharding) -> jax.Array:
    """An array of the host's memory, the same in all processes, onto the devices. No alias of it: it may be donated."""
    return jax.make_array_from_callback(array.shape, sharding, lambda index: np.array(array[index]))


def on_first_process(params: dict[str, Any], declarations: dict[str, Any]) -> dict[str, Any] | None:
    """The parameters on the devices of process 0, cut along them; None for the other processes. See `tree_shardings`.

    All processes must call it. One array at a time is whole on every device.
    """
    if jax.process_count() == 1:
        return params
    mesh = Mesh(np.array(jax.local_devices()).reshape(1, -1, 1), AXES, axis_types=(AxisType.Auto,) * len(AXES))

    def fetch(leaf, sharding):
        whole = jax.block_until_ready(_gather(NamedSharding(leaf.sharding.mesh, PartitionSpec()))(leaf))
        return put(np.asarray(whole), sharding) if jax.process_index() == 0 else None

    fetched = jax.tree.map(fetch, params, tree_shardings(params, declarations, mesh))
    return fetched if jax.process_index() == 0 else None


@functools.cache
def _gather(sharding: NamedSharding) -> Callable[[jax.Array], jax.Array]:
    return jax.jit(lambda x: x, out_shardings=sharding)
