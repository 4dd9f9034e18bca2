"""A plan as text: what a run takes, whether it fits, and what to change where it does not."""

import math
from collections.abc import Iterator, Sequence

import jax
import ml_collections
from jax.sharding import AbstractMesh

from autosong_jax.errors import UserError
from autosong_jax.parallel.sharding import check_batch
from autosong_jax.planning.devices import KINDS, Kind, parse_mesh
from autosong_jax.planning.memory import Buffer
from autosong_jax.planning.plan import (
    GIB,
    Estimate,
    Planner,
    fsdp_mesh,
    mesh_text,
    songs_of,
    whole_parameters,
)

LARGEST = 8  # buffers to name
JAX_SHARE = 0.75  # of a GPU's memory, which JAX takes unless XLA_PYTHON_CLIENT_MEM_FRACTION says otherwise


def report(config: ml_collections.ConfigDict, config_file: str, mesh: str | None) -> Iterator[str]:
    """The lines of a plan: for the devices that `mesh` names, or without it for a few of each kind.

    Args:
      config: see `autosong_jax/defaults.py`.
      config_file: its name, "configs/small.py:runlocal".
      mesh: see `devices.parse_mesh`.

    Raises:
      UserError: if the mesh, the batch or the dataset is not what it should be; after the last line, if training does
        not fit the devices that `mesh` names.
    """
    named = parse_mesh(mesh, config.mesh) if mesh else None
    if named:
        check_batch(config, named[1])
    planner = Planner(config, songs_of(config))
    yield from _model(planner, config_file, named[0].platform if named else "tpu")
    yield ""
    yield from _one(planner, *named) if named else _table(planner)


def _model(planner: Planner, config_file: str, platform: str) -> Iterator[str]:
    config, trainer = planner.config, planner.step(platform, parts=planner.config.train.accumulation).trainer
    trained, frozen = _count(trainer.abstract.params), _count(trainer.frozen)
    yield config_file
    of_them = f", of them {trained / 1e6:,.0f} M trained" if frozen else ""
    yield f"  parameters   {(trained + frozen) / 1e6:,.0f} M{of_them}"
    yield f"  songs        {planner.songs.description}"
    parts = f", in {config.train.accumulation} parts" if config.train.accumulation > 1 else ""
    yield (f"  batch        {config.data.batch_size} songs of {config.data.seconds:g} s ({planner.pattern.num_steps:,} "
           f"steps each){parts}, remat {config.train.remat}")


def _one(planner: Planner, kind: Kind, mesh: AbstractMesh) -> Iterator[str]:
    estimate = planner.estimate(kind, mesh)
    count = math.prod(mesh.shape.values())
    yield (f"{count} x {kind.title}, {kind.memory:.0f} GiB each ({mesh_text(mesh)}): {_songs(estimate)} at a time on "
           "each device")
    yield ""
    yield "  GiB on each device"
    for name, size in estimate.rows.items():
        if size >= 0.005 * GIB:
            yield f"  {size / GIB:9.2f}   {name}"
    verdict = "fits" if estimate.fits(kind) else "DOES NOT FIT"
    yield f"  {estimate.total / GIB:9.2f}   in all, of {kind.usable:.1f} that arrays can take: {verdict}"
    yield ""
    yield "  largest arrays of the step at its fullest moment, on each device"
    yield from _largest(estimate.buffers)
    whole = whole_parameters(planner.step(kind.platform, parts=planner.config.train.accumulation).trainer, mesh)
    if whole:
        yield ""
        yield "  kept whole on every device of an axis that does not divide them"
        yield from (f"    {line}" for line in whole)
    if not estimate.fits(kind):
        yield ""
        yield from _advice(planner, kind, mesh)
        raise UserError(f"training as configured does not fit {count} x {kind.title}")
    elif kind.platform == "gpu" and estimate.total > JAX_SHARE * kind.memory * GIB:
        yield ""
        yield ("  JAX takes 75 % of a GPU's memory unless told otherwise: set XLA_PYTHON_CLIENT_MEM_FRACTION=0.92 in "
               "the environment.")


def _songs(estimate: Estimate) -> str:
    return f"{estimate.songs} song{'s' if estimate.songs > 1 else ''}"


def _largest(buffers: Sequence[Buffer]) -> Iterator[str]:
    same: dict[tuple, list[int]] = {}
    for b in buffers:
        same.setdefault((b.kind, str(b.dtype), b.shape, b.source), []).append(b.size)
    for (kind, dtype, shape, source), sizes in sorted(same.items(), key=lambda item: -sum(item[1]))[:LARGEST]:
        times = f"{len(sizes)} x " if len(sizes) > 1 else ""
        yield f"  {sum(sizes) / GIB:9.2f}   {kind}: {times}{dtype}{list(shape)} {source and f'of {source}'}".rstrip()


def _advice(planner: Planner, kind: Kind, mesh: AbstractMesh) -> Iterator[str]:
    """What would fit, the cheapest first."""
    config, found = planner.config, []
    if config.train.remat != "full":
        estimate = planner.estimate(kind, mesh, remat="full")
        if estimate.fits(kind):
            found.append(("--config.train.remat=full", estimate))
    for remat in dict.fromkeys((config.train.remat, "full")):
        best = planner.fewest_parts(kind, mesh, remat)
        if best and best.parts > config.train.accumulation:
            more = "" if remat == config.train.remat else " --config.train.remat=full"
            found.append((f"--config.train.accumulation={best.parts}{more}", best))
    count = math.prod(mesh.shape.values())
    if mesh.shape["fsdp"] != count:
        estimate = planner.estimate(kind, fsdp_mesh(count))
        if estimate and estimate.fits(kind):
            found.append(("--config.mesh.data=1 --config.mesh.fsdp=-1 --config.mesh.tensor=1", estimate))
    more = planner.smallest(kind)
    if more and more[0] > count:
        found.append((f"{more[0]} devices of the kind", more[1]))
    if not found:
        yield ("  Nothing makes it fit here: choose more or larger devices (without --mesh a table says which), "
               "shorter windows (--config.data.seconds) or a smaller model.")
        return
    yield "  GiB     it fits with any of these"
    for change, estimate in found:
        yield f"  {estimate.total / GIB:9.2f}   {change}"


def _table(planner: Planner) -> Iterator[str]:
    yield "The fewest devices that it fits on, all of them along fsdp, with GiB and songs at a time on each:"
    yield ""
    yield f"  {'':<19}{'usable':>7}   {'as configured':<28} with --config.train.accumulation"
    for name, kind in KINDS.items():
        plain, in_parts = planner.smallest(kind), _smallest_in_parts(planner, kind)
        cells = [_cell(name, plain), _cell(name, in_parts) if in_parts != plain else ""]
        more = f", accumulation={in_parts[1].parts}" if cells[1] and in_parts else ""
        yield f"  {kind.title:<19}{kind.usable:7.1f}   {cells[0]:<28} {cells[1]}{more}".rstrip()
    yield ""
    yield "--mesh=KIND-COUNT, such as --mesh=h100-8, says where the memory goes."


def _smallest_in_parts(planner: Planner, kind: Kind) -> tuple[int, Estimate] | None:
    for count in kind.counts:
        estimate = planner.fewest_parts(kind, fsdp_mesh(count))
        if estimate:
            return count, estimate
    return None


def _cell(name: str, found: tuple[int, Estimate] | None) -> str:
    return f"{name}-{found[0]}: {found[1].total / GIB:.1f}, {_songs(found[1])}" if found else "-"


def _count(tree) -> int:
    return sum(math.prod(x.shape) for x in jax.tree.leaves(tree))
