"""What a run would take on devices that are not here: bytes of each kind, from shapes and from the traced step.

Parameters, moving average and optimizer are counted as training cuts them. What a step needs beside them is followed
through its jaxpr (`planning.memory`).
"""

import dataclasses
import functools
import math
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import ml_collections
import numpy as np
from jax.extend.core import ClosedJaxpr
from jax.sharding import AbstractMesh

from autosong_jax.codecs.info import CodecInfo, CodesInfo
from autosong_jax.codecs.table import plain_info
from autosong_jax.data import schema
from autosong_jax.data.dataset import batch_layout
from autosong_jax.layers.platform import planned_for
from autosong_jax.models.build import build_model
from autosong_jax.parallel.sharding import AXES, partition_spec, tree_shardings
from autosong_jax.planning.devices import Kind, abstract_mesh
from autosong_jax.planning.memory import GRADIENTS, KEPT, WORKING, Buffer, Cuts, peak, total
from autosong_jax.sources.spec import source_specs
from autosong_jax.sources.text.encoders import DIRECTORY, TextEncoderInfo, get_text_encoder
from autosong_jax.training.step import Trainer, make_trainer, state_shardings
from autosong_jax.weights.parameters import leaves
from autosong_jax.weights.trainable import combine
from autosong_jax.workdir.workdir import window_pattern

GIB = 2**30
# By platform: for each byte of the working set, what the compiler takes beside it for copies, softmaxes that it does
# not fuse and gaps between arrays. Fitted to the figures of benchmarks/RESULTS.md: the step's own arrays (gradients,
# kept, working set, allowance) then come to 0.98 to 1.38 of what XLA allocates for H200s, without what cuDNN itself
# works in, and to 1.02 to 1.41 for TPUs v5e; not fitted, on CPUs, to 0.96 to 1.1 (configs/small.py with 4 songs, remat
# full and dots; a toy on meshes 1 x 8 x 1 and 2 x 2 x 2).
ALLOWANCES = {"cpu": 0.5, "gpu": 0.55, "tpu": 1.5}
ONE = {"data": 1, "fsdp": 1, "tensor": 1}


@dataclasses.dataclass(frozen=True)
class Songs:
    """What a model reads and writes.

    Attributes:
      codec: what the songs are coded by.
      text: the text encoder.
      description: both in words, and where they are known from.
      encoder_bytes: of a frozen text encoder that runs in training; else 0.
    """

    codec: CodecInfo
    text: TextEncoderInfo
    description: str
    encoder_bytes: int = 0


def songs_of(config: ml_collections.ConfigDict) -> Songs:
    """Codec and text encoder: those of the dataset, of the model to start from, or else those of `config.assumed`.

    Raises:
      UserError: if the dataset or the model cannot be read.
    """
    path = pathlib.Path(config.data.path or config.init.workdir)
    encoder_bytes = 0
    if path.parts:
        if config.data.path:
            schema.read_dataset_info(path)  # says how to make one where there is none
        codec, text, known = CodecInfo.load(path / "codec"), TextEncoderInfo.load(path), f"those of {path}"
        codec_name = codec.name
        if text.kind == "tokens":
            encoder_bytes = sum(file.stat().st_size for file in (path / DIRECTORY).glob("*.safetensors"))
    else:
        assumed, known = config.assumed, "assumed; --config.data.path=DATASET tells"
        codec_name = assumed.codec
        codec = plain_info(codec_name, "assumed.codec") or CodesInfo(
            codec_name, assumed.sample_rate, 1, assumed.frame_rate, assumed.num_codebooks, assumed.codebook_size)
        text = (TextEncoderInfo(assumed.text_encoder, "", "states", width=assumed.text_width) if assumed.text_width
                else get_text_encoder(assumed.text_encoder).info)
    states = f"frozen states of width {text.width}" if text.frozen else "ids, read by the model"
    return Songs(codec, text, f"{codec_name} ({codec.frames}, "
                 f"{codec.frame_rate:g} Hz), {text.name} ({states}); {known}", encoder_bytes)


@dataclasses.dataclass(frozen=True)
class Step:
    """A training step, traced for one device, with a prime number of songs in each of its parts.

    Attributes:
      program: the step.
      trainer: what it is of.
      batch: its last argument, shapes and dtypes.
      songs: the prime.
    """

    program: ClosedJaxpr
    trainer: Trainer
    batch: Any
    songs: int


@dataclasses.dataclass(frozen=True)
class Estimate:
    """Bytes on one device, by what they are; the buffers are those of the fullest moment, beside the rest.

    Attributes:
      rows: bytes by name.
      buffers: what the step makes.
      songs: of a part of the batch, on one device.
      parts: `train.accumulation`.
    """

    rows: dict[str, int]
    buffers: Sequence[Buffer]
    songs: int
    parts: int

    @property
    def total(self) -> int:
        return sum(self.rows.values())

    def fits(self, kind: Kind) -> bool:
        return self.total <= kind.usable * GIB


class Planner:
    """Plans of one config; the same step is traced once.

    Args:
      config: see `autosong_jax/defaults.py`.
      songs: from `songs_of`.
    """

    def __init__(self, config: ml_collections.ConfigDict, songs: Songs):
        self.config, self.songs = config, songs
        self.pattern = window_pattern(config, songs.codec)
        self._step = functools.cache(self._trace)
        self._estimate = functools.cache(self._measure)

    def step(self, platform: str, remat: str | None = None, parts: int = 1) -> Step:
        """The traced step. One of several parts is the same for any number of them."""
        return self._step(platform, remat or self.config.train.remat, min(parts, 2))

    def estimate(self, kind: Kind, mesh: AbstractMesh, *, remat: str | None = None,
                 parts: int | None = None) -> Estimate | None:
        """What training takes, with another `train.remat` or `train.accumulation` if one is given.

        None if the batch cannot be shared: it must be a multiple of devices along data and fsdp, times parts.
        """
        parts = parts or self.config.train.accumulation
        shares = mesh.shape["data"] * mesh.shape["fsdp"] * parts
        if self.config.data.batch_size % shares:
            return None
        return self._estimate(kind.platform, tuple(mesh.shape.values()), remat or self.config.train.remat,
                              min(parts, 2), self.config.data.batch_size // shares, parts)

    def _measure(self, platform: str, sizes: tuple[int, ...], remat: str, parts: int, songs: int,
                 true_parts: int) -> Estimate:
        mesh = abstract_mesh(dict(zip(AXES, sizes, strict=True)), math.prod(sizes))
        step = self.step(platform, remat, parts)
        state, frozen = step.trainer.abstract, step.trainer.frozen
        declared = step.trainer.declarations
        shardings, of_frozen = state_shardings(state, declared, mesh), tree_shardings(frozen, declared, mesh)
        cuts = Cuts(songs, step.songs, _pieces(state.params, shardings.params, mesh), mesh.shape["tensor"])
        arguments = [*map(_tensor_axis, jax.tree.leaves((shardings, of_frozen))),
                     *[None] * len(jax.tree.leaves(step.batch))]
        buffers = peak(step.program, arguments, cuts)
        of_song = sum(math.prod(x.shape[1:]) * np.dtype(x.dtype).itemsize for x in jax.tree.leaves(step.batch))
        made = {kind: total([b for b in buffers if b.kind == kind]) for kind in (GRADIENTS, KEPT, WORKING)}
        return Estimate({
            "parameters": _bytes_of(state.params, shardings.params),
            "frozen parameters": _bytes_of(frozen, of_frozen),
            "moving average": _bytes_of(state.ema, shardings.ema),
            "optimizer": _bytes_of(state.optimizer, shardings.optimizer),
            "text encoder": self.songs.encoder_bytes,
            "batch": 2 * of_song * songs * true_parts,  # the next one is on its way while a step runs
            "gradients": made[GRADIENTS],
            "kept for the backward pass": made[KEPT],
            "working set": made[WORKING],
            "allowance for the compiler": round(ALLOWANCES[platform] * made[WORKING]),
        }, buffers, songs, true_parts)

    def smallest(self, kind: Kind) -> tuple[int, Estimate] | None:
        """The fewest devices, of the usual numbers, that it fits on, all along `fsdp`; None if it fits on none."""
        for count in kind.counts:
            estimate = self.estimate(kind, fsdp_mesh(count))
            if estimate and estimate.fits(kind):
                return count, estimate
        return None

    def fewest_parts(self, kind: Kind, mesh: AbstractMesh, remat: str | None = None) -> Estimate | None:
        """With the smallest `train.accumulation`, from the config's on, with which it fits; None if there is none."""
        shares = mesh.shape["data"] * mesh.shape["fsdp"]
        choices = [parts for parts in range(self.config.train.accumulation, self.config.data.batch_size // shares + 1)
                   if self.config.data.batch_size % (shares * parts) == 0]
        if not choices or not self.estimate(kind, mesh, remat=remat, parts=choices[-1]).fits(kind):
            return None  # what does not fit one song at a time does not fit several
        estimates = (self.estimate(kind, mesh, remat=remat, parts=parts) for parts in choices)
        return next(estimate for estimate in estimates if estimate.fits(kind))

    def _trace(self, platform: str, remat: str, parts: int) -> Step:
        config = self.config.copy_and_resolve_references()
        with config.unlocked():
            config.train.update(remat=remat, accumulation=parts)
        codec, text = self.songs.codec, self.songs.text
        with planned_for(platform):
            trainer = make_trainer(config, lambda rngs: build_model(config, codec, text, rngs=rngs), self.pattern,
                                   abstract_mesh(ONE, 1))
            songs = self._prime(trainer)
            batch = self.batch(songs * parts)
            program = jax.make_jaxpr(trainer.train_step)(trainer.abstract, trainer.frozen, batch)
        return Step(program, trainer, batch, songs)

    def batch(self, songs: int) -> dict[str, Any]:
        """Shapes and dtypes of a batch, as the step takes it."""
        specs = source_specs(self.config.sources, self.songs.text.as_read, self.songs.codec)
        layout = batch_layout(self.pattern.num_frames, self.songs.codec.frames, specs)
        return jax.tree.map(lambda array: jax.ShapeDtypeStruct((songs, *array.shape), array.dtype), layout)

    def _prime(self, trainer: Trainer) -> int:
        """A prime that divides no size that the model has: in a shape, it stands for the songs."""
        lengths = [source.max_length for source in self.config.sources.values()]
        steps = [self.pattern.num_steps - 1, self.pattern.num_steps, self.pattern.num_frames]
        sizes = {*lengths, sum(lengths), *steps, *(sum(lengths) + n for n in steps)}
        sizes |= {n for x in jax.tree.leaves((trainer.abstract.params, trainer.frozen)) for n in x.shape}
        return next(prime for prime in (1009, 1013, 1019, 1021, 1031) if all(n % prime or n == 0 for n in sizes))


def whole_parameters(trainer: Trainer, mesh: AbstractMesh) -> list[str]:
    """The parameters that an axis of the mesh should cut but does not divide, each with why."""
    found = []
    declared = leaves(trainer.declarations)
    for name, leaf in leaves(combine(trainer.abstract.params, trainer.frozen)).items():
        axes = declared[name].axes
        meant = partition_spec(axes, leaf.shape, abstract_mesh(ONE, 1))
        for size, axis, got in zip(leaf.shape, meant, partition_spec(axes, leaf.shape, mesh), strict=True):
            if axis and not got:
                found.append(f"{name} {list(leaf.shape)}: {size} is no multiple of {axis}={mesh.shape[axis]}")
    return found


def fsdp_mesh(count: int) -> AbstractMesh:
    """So many devices, all of them along `fsdp`."""
    return abstract_mesh({**ONE, "fsdp": -1}, count)


def mesh_text(mesh: AbstractMesh) -> str:
    """ "data=1, fsdp=8, tensor=1" """
    return ", ".join(f"{axis}={mesh.shape[axis]}" for axis in AXES)


def _bytes_of(tree: Any, shardings: Any) -> int:
    return sum(math.prod(sharding.shard_shape(x.shape)) * np.dtype(x.dtype).itemsize
               for x, sharding in zip(jax.tree.leaves(tree), jax.tree.leaves(shardings), strict=True))


def _pieces(params: Any, shardings: Any, mesh: AbstractMesh) -> dict[tuple[int, ...], int]:
    """In how many pieces `fsdp` cuts the parameters of each shape that are more than vectors."""
    return {x.shape: mesh.shape["fsdp"] if "fsdp" in sharding.spec else 1
            for x, sharding in zip(jax.tree.leaves(params), jax.tree.leaves(shardings), strict=True) if x.ndim > 1}


def _tensor_axis(sharding: jax.sharding.NamedSharding) -> int | None:
    return tuple(sharding.spec).index("tensor") if "tensor" in sharding.spec else None
