"""One transformer for everything: decoder with or without cross-attention, bidirectional encoder.

Training applies the blocks by a scan over stacked parameters, each block rematerialised by the policy of the config.
Sampling applies the same blocks one by one over separate arrays (`Transformer.unstacked`); `layers.decoding` does so
step by step, with a cache.

Letters: B batch, S steps, M memory length, D width, H heads, Dh width of a head.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from autosong_jax.errors import UserError
from autosong_jax.layers.attention import attention
from autosong_jax.layers.declaration import declared
from autosong_jax.layers.lora import Linear, merged_kernel
from autosong_jax.parallel.sharding import split_by_song

# The exact GELU by erf: jax.nn's by erfc takes twice as long on a CPU, and its derivative with it.
ACTIVATIONS = {"gelu": lambda x: 0.5 * x * (1 + jax.lax.erf(x * 0.5**0.5)), "relu": jax.nn.relu}
NORMS = ("pre", "post")
POSITIONS = ("sinusoidal", "learned", "rotary")
REMAT_POLICIES = {
    "none": None,
    "full": jax.checkpoint_policies.nothing_saveable,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}


@dataclasses.dataclass(frozen=True)
class TransformerConfig:
    """The shape of a transformer. Field meanings are in `autosong_jax/defaults.py`.

    `window`, in steps on each side, is that of calls which are `local`.
    """

    width: int
    heads: int
    layers: int
    mlp_width: int
    norm: str = "pre"
    activation: str = "gelu"
    positions: str = "sinusoidal"
    max_positions: int = 4096
    bias: bool = False
    dropout: float = 0.0
    causal: bool = True
    window: int | None = None
    cross_attention: bool = False
    remat: str = "none"
    unroll: bool = False
    dtype: str = "float32"

    def __post_init__(self):
        for name, allowed in [("norm", NORMS), ("activation", ACTIVATIONS), ("positions", POSITIONS),
                              ("remat", REMAT_POLICIES)]:
            if getattr(self, name) not in allowed:
                raise UserError(f"model {name} {getattr(self, name)!r}: expected one of {', '.join(allowed)}")
        if self.width % (2 * self.heads):
            raise UserError(f"model width {self.width} with {self.heads} heads: expected an even width for each head")


class KeysValues(NamedTuple):
    """What attention attends to: k and v [B, N, H, Dh], or in a cache [B, H, N, Dh]."""

    k: Array
    v: Array


def _split_outputs(inputs: int, outputs: int, config: TransformerConfig, rngs: nnx.Rngs) -> Linear:
    """A linear layer whose outputs (heads, the middle of an MLP) `tensor` cuts."""
    return _linear(inputs, outputs, config, rngs, declared("matrix", "fsdp", "tensor", cast=True),
                   declared("vector", "tensor"))


def _split_inputs(inputs: int, outputs: int, config: TransformerConfig, rngs: nnx.Rngs) -> Linear:
    """A linear layer that reads what `_split_outputs` gives, and sums over the devices along `tensor`."""
    return _linear(inputs, outputs, config, rngs, declared("matrix", "tensor", "fsdp", cast=True), declared("vector"))


def _linear(inputs: int, outputs: int, config: TransformerConfig, rngs: nnx.Rngs, kernel: Mapping[str, Any],
            bias: Mapping[str, Any]) -> Linear:
    init = nnx.initializers.variance_scaling(1.0, "fan_in", "truncated_normal")
    return Linear(inputs, outputs, use_bias=config.bias, dtype=config.dtype, kernel_init=init, kernel_metadata=kernel,
                  bias_metadata=bias, rngs=rngs)


def projection(inputs: int, outputs: int, dtype: str, rngs: nnx.Rngs) -> nnx.Linear:
    """The linear layer that brings what a source holds to the width of a decoder."""
    return nnx.Linear(inputs, outputs, dtype=dtype, kernel_metadata=declared("matrix", "fsdp", None, cast=True),
                      bias_metadata=declared("vector"), rngs=rngs)


def layer_norm(width: int, dtype: str, rngs: nnx.Rngs) -> nnx.LayerNorm:
    """Layer normalisation with the epsilon of the released checkpoints (flax's default is 1e-6)."""
    return nnx.LayerNorm(width, epsilon=1e-5, dtype=dtype, use_fast_variance=False, rngs=rngs,
                         scale_metadata=declared("vector"), bias_metadata=declared("vector"))


def dropout(x: Array, rate: float, key: Array | None) -> Array:
    """Inverted dropout; none without a key."""
    if key is None or rate == 0.0:
        return x
    return jnp.where(jax.random.bernoulli(key, 1.0 - rate, x.shape), x / (1.0 - rate), 0).astype(x.dtype)


def sinusoidal(positions: Array, width: int) -> Array:
    """[..., S] -> [..., S, width]: cosines, then sines, of p 10000^(-i / (width / 2 - 1)), as in MusicGen."""
    half = width // 2
    frequencies = jnp.exp(-math.log(10000.0) * jnp.arange(half) / max(half - 1, 1))
    angles = positions[..., None].astype(jnp.float32) * frequencies
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)


def rotate(x: Array, positions: Array) -> Array:
    """Rotary positions (Su et al. 2021) for x [B, S, H, Dh] at `positions` [S] or [B, S]."""
    half = x.shape[-1] // 2
    angles = positions[..., None].astype(jnp.float32) * 10000.0 ** (-jnp.arange(half) / half)
    cos, sin = jnp.cos(angles)[..., None, :], jnp.sin(angles)[..., None, :]
    x1, x2 = x[..., :half].astype(jnp.float32), x[..., half:].astype(jnp.float32)
    return jnp.concatenate([x1 * cos - x2 * sin, x2 * cos + x1 * sin], axis=-1).astype(x.dtype)


class Attention(nnx.Module):
    """The projections of multi-head attention; what attends to what is the caller's."""

    def __init__(self, config: TransformerConfig, *, rngs: nnx.Rngs):
        self.heads = config.heads
        self.q = _split_outputs(config.width, config.width, config, rngs)
        self.k = _split_outputs(config.width, config.width, config, rngs)
        self.v = _split_outputs(config.width, config.width, config, rngs)
        self.out = _split_inputs(config.width, config.width, config, rngs)

    def queries(self, x: Array) -> Array:
        """[B, S, D] -> [B, S, H, Dh]."""
        return _split(self.q(x), self.heads)

    def keys_values(self, x: Array) -> KeysValues:
        """[B, N, D] -> keys and values [B, N, H, Dh]."""
        return KeysValues(_split(self.k(x), self.heads), _split(self.v(x), self.heads))

    def queries_keys_values(self, x: Array) -> tuple[Array, KeysValues]:
        """Both of one x, [B, S, D]."""
        return self.queries(x), self.keys_values(x)

    def output(self, x: Array) -> Array:
        """[B, S, H, Dh] -> [B, S, D]."""
        return self.out(x.reshape(*x.shape[:2], -1))


class FusedAttention(nnx.Module):
    """`Attention` of x to itself, its three projections by one matrix, which is read faster than three."""

    def __init__(self, config: TransformerConfig, *, rngs: nnx.Rngs):
        self.heads = config.heads
        self.qkv = _split_outputs(config.width, 3 * config.width, config, rngs)
        self.out = _split_inputs(config.width, config.width, config, rngs)

    def queries_keys_values(self, x: Array) -> tuple[Array, KeysValues]:
        """[B, S, D] -> three of [B, S, H, Dh]."""
        q, k, v = (_split(part, self.heads) for part in jnp.split(self.qkv(x), 3, axis=-1))
        return q, KeysValues(k, v)

    def output(self, x: Array) -> Array:
        """[B, S, H, Dh] -> [B, S, D]."""
        return self.out(x.reshape(*x.shape[:2], -1))


def _split(x: Array, heads: int) -> Array:
    """[B, S, D] -> [B, S, H, Dh]."""
    return x.reshape(*x.shape[:2], heads, -1)


class MLP(nnx.Module):
    """Two linear layers with the activation between them."""

    def __init__(self, config: TransformerConfig, *, rngs: nnx.Rngs):
        self.activation = config.activation
        self.up = _split_outputs(config.width, config.mlp_width, config, rngs)
        self.down = _split_inputs(config.mlp_width, config.width, config, rngs)

    def __call__(self, x: Array) -> Array:
        return self.down(ACTIVATIONS[self.activation](self.up(x)))


class Block(nnx.Module):
    """Self-attention, cross-attention if the config asks for it, MLP; each a residual with a norm before or after."""

    def __init__(self, config: TransformerConfig, attention: type[nnx.Module] = Attention, *, rngs: nnx.Rngs):
        self.config = config
        self.self_attention = attention(config, rngs=rngs)
        self.self_norm = layer_norm(config.width, config.dtype, rngs)
        if config.cross_attention:
            self.cross_attention = Attention(config, rngs=rngs)
            self.cross_norm = layer_norm(config.width, config.dtype, rngs)
        self.mlp = MLP(config, rngs=rngs)
        self.mlp_norm = layer_norm(config.width, config.dtype, rngs)

    def __call__(self, x: Array, positions: Array, *, lengths: Array | None = None, local: Array | None = None,
                 memory: KeysValues | None = None, memory_lengths: Array | None = None, key: Array | None = None
                 ) -> Array:
        """Applies the block; see `Transformer.__call__` for the arguments."""
        attend_self = functools.partial(self.attend_self, positions=positions, lengths=lengths, local=local)
        return self.residuals(x, attend_self, lambda q: attention(q, *memory, lengths=memory_lengths), key)

    def attend_self(self, x: Array, positions: Array, *, lengths: Array | None = None, local: Array | None = None
                    ) -> Array:
        """Self-attention of normed x [B, S, D] -> [B, S, H, Dh]; see `Transformer.__call__` for the arguments."""
        q, (k, v) = self.queries_keys_values(x, positions)
        if local is not None:
            return attention(q, k, v, window=self.config.window, local=local, lengths=lengths)
        return attention(q, k, v, causal=self.config.causal, lengths=lengths)

    def queries_keys_values(self, x: Array, positions: Array) -> tuple[Array, KeysValues]:
        """Queries, keys and values of self-attention for normed x [B, S, D]; rotated, if positions are rotary."""
        q, (k, v) = self.self_attention.queries_keys_values(x)
        if self.config.positions == "rotary":
            q, k = rotate(q, positions), rotate(k, positions)
        return q, KeysValues(k, v)

    def residuals(self, x: Array, attend_self: Callable[[Array], Array], attend_memory: Callable[[Array], Array],
                  key: Array | None = None) -> Array:
        """The sublayers around what attends to what.

        Args:
          x: [B, S, D].
          attend_self: [B, S, D], normed -> [B, S, H, Dh].
          attend_memory: queries [B, S, H, Dh] -> [B, S, H, Dh].
          key: PRNG key of dropout; None for none.
        """
        keys = (None,) * 3 if key is None else jax.random.split(key, 3)

        def residual(x, norm, sublayer, key):
            if self.config.norm == "pre":
                return x + dropout(sublayer(norm(x)), self.config.dropout, key)
            return norm(x + dropout(sublayer(x), self.config.dropout, key))

        x = residual(x, self.self_norm, lambda x: self.self_attention.output(attend_self(x)), keys[0])
        if self.config.cross_attention:
            across = self.cross_attention
            x = residual(x, self.cross_norm, lambda x: across.output(attend_memory(across.queries(x))), keys[1])
        return residual(x, self.mlp_norm, self.mlp, keys[2])


def _initial_block(config: TransformerConfig, layer: Array, rngs: nnx.Rngs) -> Block:
    """Block `layer`, counted from 0. With pre-norm its kernels are divided by sqrt(2 (layer + 1)), as in MusicGen."""
    block = Block(config, rngs=rngs)
    if config.norm == "pre":
        for path, parameter in nnx.to_flat_state(nnx.state(block, nnx.Param)):
            if path[-1] == "kernel":
                parameter[...] = parameter[...] * (2.0 * (layer + 1)) ** -0.5
    return block


class Transformer(nnx.Module):
    """A stack of blocks with positions before and, for pre-norm, a norm after.

    Attributes:
      blocks: one `Block` whose every parameter has a leading axis of layers; or, once `unstacked`, a list of blocks.
    """

    def __init__(self, config: TransformerConfig, *, rngs: nnx.Rngs):
        self.config = config
        if config.positions == "learned":
            self.position_table = nnx.Embed(
                config.max_positions, config.width, embedding_init=nnx.initializers.normal(0.02),
                embedding_metadata=declared("table", "fsdp"), rngs=rngs)
        # One block after another: drawn all at once, a CPU holds the random bits of all of them beside the parameters.
        create = nnx.scan(functools.partial(_initial_block, config), in_axes=(0, 0), out_axes=0)
        self.blocks = create(jnp.arange(config.layers), rngs.split(config.layers))
        if config.norm == "pre":
            self.norm = layer_norm(config.width, config.dtype, rngs)

    def __call__(self, x: Array, positions: Array | None = None, *, lengths: Array | None = None,
                 local: Array | None = None, memory: Array | None = None, memory_lengths: Array | None = None,
                 key: Array | None = None) -> Array:
        """Applies the stack.

        Args:
          x: [B, S, D].
          positions: int [S] or [B, S], where each step stands; default 0 .. S - 1.
          lengths: int [B], the keys of self-attention that count; None for all.
          local: bool [], may be traced: self-attention sees all steps, or if true those within the config's window.
            None: what comes before a step if the config is causal, all steps if not.
          memory: [B, M, D] for cross-attention.
          memory_lengths: int [B], how many memory slots of each example count.
          key: PRNG key of dropout; None for none.

        Returns:
          [B, S, D].
        """
        steps = x.shape[1]
        positions = jnp.arange(steps) if positions is None else positions
        x = self.placed(x, positions)
        if steps % 2 and self.config.causal and local is None:
            # One more step, which no other sees: cuDNN takes even numbers. Here it is added once, not in each layer.
            x = jnp.pad(x, ((0, 0), (0, 1), (0, 0)))
            positions = jnp.concatenate([positions, positions[..., -1:]], axis=-1)

        def apply(block, layer, x):
            layer_memory = block.cross_attention.keys_values(memory) if self.config.cross_attention else None
            return block(x, positions, lengths=lengths, local=local, memory=layer_memory, memory_lengths=memory_lengths,
                         key=None if key is None else jax.random.fold_in(key, layer))

        if isinstance(self.blocks, nnx.List):
            for layer, block in enumerate(self.blocks):
                x = apply(block, layer, x)
        else:
            x = self._scan(apply, x)
        return self.normed(x)[:, :steps]

    def placed(self, x: Array, positions: Array) -> Array:
        """x [B, S, D] in the compute dtype and with what `positions` add to it."""
        x = x.astype(self.config.dtype)
        if self.config.positions == "sinusoidal":
            return x + sinusoidal(positions, self.config.width).astype(x.dtype)
        if self.config.positions == "learned":
            return x + self.position_table(positions).astype(x.dtype)
        return x

    def normed(self, x: Array) -> Array:
        """The output of the last block after the last norm, if there is one."""
        return self.norm(x) if self.config.norm == "pre" else x

    def _scan(self, apply: Callable[[Block, Array, Array], Array], x: Array) -> Array:
        graph, parameters = nnx.split(self.blocks)

        def body(x, layer):
            index, layer_parameters = layer
            # x alone: returning the layer would stack its parameters anew.
            return apply(nnx.merge(graph, layer_parameters), index, split_by_song(x)), None

        if self.config.remat != "none":
            body = jax.checkpoint(body, policy=REMAT_POLICIES[self.config.remat], prevent_cse=False)
        return jax.lax.scan(body, x, (jnp.arange(self.config.layers), parameters), unroll=self.config.unroll or 1)[0]

    def unstacked(self, *, consume: bool = False) -> "Transformer":
        """This transformer for sampling: a list of blocks with separate arrays, LoRA merged, queries, keys and values
        of self-attention by one matrix, all matrices in the compute dtype.

        Indexing stacked weights costs several times reading separate ones.

        Args:
          consume: this transformer is not used any more; its arrays are freed one after another, so that beside the
            result few of them are in memory twice.
        """
        graph, shapes = nnx.split(nnx.eval_shape(lambda: Block(self.config, FusedAttention, rngs=nnx.Rngs(0))))
        stacked = dict(nnx.iter_modules(self.blocks))
        layers = [{} for _ in range(self.config.layers)]
        for path, _ in nnx.to_flat_state(shapes):
            *module, name = path
            sources = [(*module[:-1], part) for part in "qkv"] if module[-1] == "qkv" else [tuple(module)]
            linears = [stacked[source] for source in sources]
            arrays = [getattr(linear, name)[...] for linear in linears]
            if name == "kernel":
                arrays = [merged_kernel(linear).astype(self.config.dtype) for linear in linears]
            for i, layer in enumerate(layers):
                layer[path] = jnp.concatenate([array[i] for array in arrays], axis=-1)
            if consume:
                for linear in linears:
                    getattr(linear, name)[...].delete()
        copy = nnx.clone(self)
        copy.blocks = nnx.List([nnx.merge(graph, nnx.from_flat_state(layer.items())) for layer in layers])
        return copy
