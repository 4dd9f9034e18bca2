"""One transformer for everything: decoder with or without cross-attention, bidirectional encoder.

Training applies the blocks by a scan over stacked parameters, each block rematerialised by the policy of the config.
Decoding applies the same blocks one by one over separate arrays (`Transformer.unstacked`), with a key-value cache.

Letters: B batch, S steps, M memory length, D width, H heads, Dh width of a head.
"""

import dataclasses
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from autosong_jax.errors import UserError
from autosong_jax.models.attention import attention
from autosong_jax.models.lora import Linear

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
    """The shape of a transformer. Field meanings are in `configs/default.py`; `window`, in steps on each side, is that
    of calls which are `local`.
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
    dtype: str = "float32"

    def __post_init__(self):
        for name, allowed in [("norm", NORMS), ("activation", ACTIVATIONS), ("positions", POSITIONS),
                              ("remat", REMAT_POLICIES)]:
            if getattr(self, name) not in allowed:
                raise UserError(f"model {name} {getattr(self, name)!r}: expected one of {', '.join(allowed)}")
        if self.width % (2 * self.heads):
            raise UserError(f"model width {self.width} with {self.heads} heads: expected an even width for each head")


class KeysValues(NamedTuple):
    """What attention attends to: k and v [B, N, H, Dh]."""

    k: Array
    v: Array


def _linear(inputs: int, outputs: int, config: TransformerConfig, rngs: nnx.Rngs) -> Linear:
    init = nnx.initializers.variance_scaling(1.0, "fan_in", "truncated_normal")
    return Linear(inputs, outputs, use_bias=config.bias, dtype=config.dtype, kernel_init=init, rngs=rngs)


def layer_norm(width: int, dtype: str, rngs: nnx.Rngs) -> nnx.LayerNorm:
    """Layer normalisation with the epsilon of the released checkpoints (flax's default is 1e-6)."""
    return nnx.LayerNorm(width, epsilon=1e-5, dtype=dtype, use_fast_variance=False, rngs=rngs)


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
        self.q = _linear(config.width, config.width, config, rngs)
        self.k = _linear(config.width, config.width, config, rngs)
        self.v = _linear(config.width, config.width, config, rngs)
        self.out = _linear(config.width, config.width, config, rngs)

    def queries(self, x: Array) -> Array:
        """[B, S, D] -> [B, S, H, Dh]."""
        return self._split(self.q(x))

    def keys_values(self, x: Array) -> KeysValues:
        """[B, N, D] -> keys and values [B, N, H, Dh]."""
        return KeysValues(self._split(self.k(x)), self._split(self.v(x)))

    def output(self, x: Array) -> Array:
        """[B, S, H, Dh] -> [B, S, D]."""
        return self.out(x.reshape(*x.shape[:2], -1))

    def _split(self, x: Array) -> Array:
        return x.reshape(*x.shape[:2], self.heads, -1)


class MLP(nnx.Module):
    """Two linear layers with the activation between them."""

    def __init__(self, config: TransformerConfig, *, rngs: nnx.Rngs):
        self.activation = config.activation
        self.up = _linear(config.width, config.mlp_width, config, rngs)
        self.down = _linear(config.mlp_width, config.width, config, rngs)

    def __call__(self, x: Array) -> Array:
        return self.down(ACTIVATIONS[self.activation](self.up(x)))


class Block(nnx.Module):
    """Self-attention, cross-attention if the config asks for it, MLP; each a residual with a norm before or after."""

    def __init__(self, config: TransformerConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.self_attention = Attention(config, rngs=rngs)
        self.self_norm = layer_norm(config.width, config.dtype, rngs)
        if config.cross_attention:
            self.cross_attention = Attention(config, rngs=rngs)
            self.cross_norm = layer_norm(config.width, config.dtype, rngs)
        self.mlp = MLP(config, rngs=rngs)
        self.mlp_norm = layer_norm(config.width, config.dtype, rngs)

    def __call__(self, x: Array, positions: Array, *, lengths: Array | None = None, local: Array | None = None,
                 memory: KeysValues | None = None, memory_lengths: Array | None = None, cache: KeysValues | None = None,
                 index: Array | None = None, key: Array | None = None) -> tuple[Array, KeysValues | None]:
        """Applies the block; see `Transformer.__call__` for the arguments. Returns the new x and the new cache."""
        keys = (None,) * 3 if key is None else jax.random.split(key, 3)

        def residual(x, norm, sublayer, key):
            if self.config.norm == "pre":
                return x + dropout(sublayer(norm(x)), self.config.dropout, key)
            return norm(x + dropout(sublayer(x), self.config.dropout, key))

        def attend_self(x):
            nonlocal cache
            q, (k, v) = self.self_attention.queries(x), self.self_attention.keys_values(x)
            if self.config.positions == "rotary":
                q, k = rotate(q, positions), rotate(k, positions)
            if cache is not None:
                cache = KeysValues(_write(cache.k, k, index), _write(cache.v, v, index))
            if cache is not None and x.shape[1] == 1:
                seen = jnp.broadcast_to(index + 1, x.shape[:1])
                return self.self_attention.output(attention(q, *cache, lengths=seen))
            if local is not None:
                return self.self_attention.output(
                    attention(q, k, v, window=self.config.window, local=local, lengths=lengths))
            return self.self_attention.output(attention(q, k, v, causal=self.config.causal, lengths=lengths))

        def attend_memory(x):
            q = self.cross_attention.queries(x)
            return self.cross_attention.output(attention(q, *memory, lengths=memory_lengths))

        x = residual(x, self.self_norm, attend_self, keys[0])
        if self.config.cross_attention:
            x = residual(x, self.cross_norm, attend_memory, keys[1])
        return residual(x, self.mlp_norm, self.mlp, keys[2]), cache


def _write(cache: Array, new: Array, index: Array) -> Array:
    """Writes new [B, S, H, Dh] into cache [B, N, H, Dh] at `index`, one for all (a slice) or one an example."""
    new = new.astype(cache.dtype)
    if jnp.ndim(index) == 0:
        return jax.lax.dynamic_update_slice_in_dim(cache, new, index, axis=1)
    return jax.vmap(lambda c, n, i: jax.lax.dynamic_update_slice_in_dim(c, n, i, axis=0))(cache, new, index)


class Transformer(nnx.Module):
    """A stack of blocks with positions before and, for pre-norm, a norm after.

    Attributes:
      blocks: one `Block` whose every parameter has a leading axis of layers; or, once `unstacked`, a list of blocks.
    """

    def __init__(self, config: TransformerConfig, *, rngs: nnx.Rngs):
        self.config = config
        if config.positions == "learned":
            self.position_table = nnx.Embed(
                config.max_positions, config.width, embedding_init=nnx.initializers.normal(0.02), rngs=rngs)
        create = nnx.vmap(lambda rngs: Block(config, rngs=rngs), in_axes=0, out_axes=0)
        self.blocks = create(rngs.split(config.layers))
        if config.norm == "pre":
            self._scale_with_depth()
            self.norm = layer_norm(config.width, config.dtype, rngs)

    def _scale_with_depth(self):
        """Divides the initial kernels of layer l by sqrt(2 (l + 1)), as MusicGen's training does."""
        scale = (2.0 * jnp.arange(1, self.config.layers + 1)) ** -0.5
        for path, parameter in nnx.to_flat_state(nnx.state(self.blocks, nnx.Param)):
            if path[-1] == "kernel":
                parameter[...] = parameter[...] * scale[:, None, None]

    def __call__(self, x: Array, positions: Array | None = None, *, lengths: Array | None = None,
                 local: Array | None = None, memory: Array | list[KeysValues] | None = None,
                 memory_lengths: Array | None = None, cache: list[KeysValues] | None = None,
                 index: Array | None = None, key: Array | None = None) -> tuple[Array, list[KeysValues] | None]:
        """Applies the stack.

        Args:
          x: [B, S, D].
          positions: int [S] or [B, S], where each step stands; default 0 .. S - 1.
          lengths: int [B], the keys of self-attention that count; None for all.
          local: bool [], may be traced: self-attention sees all steps, or if true those within the config's window.
            None: what comes before a step if the config is causal, all steps if not.
          memory: [B, M, D] for cross-attention, or what `project_memory` made of it.
          memory_lengths: int [B], how many memory slots of each example count.
          cache: for decoding (unstacked only), one `KeysValues` [B, N, H, Dh] a layer. A single step (S = 1) attends to
            everything up to `index`; several steps fill an empty cache from its start and attend among themselves.
          index: int [] or [B], where in the cache the first step goes.
          key: PRNG key of dropout; None for none.

        Returns:
          [B, S, D] and the new cache (None without one).
        """
        config = self.config
        positions = jnp.arange(x.shape[1]) if positions is None else positions
        x = x.astype(config.dtype)
        if config.positions == "sinusoidal":
            x = x + sinusoidal(positions, config.width).astype(x.dtype)
        elif config.positions == "learned":
            x = x + self.position_table(positions).astype(x.dtype)
        shared = {"lengths": lengths, "local": local, "memory_lengths": memory_lengths, "index": index}
        if isinstance(self.blocks, nnx.List):
            new_cache = []
            for layer, block in enumerate(self.blocks):
                layer_memory = memory
                if config.cross_attention:
                    layer_memory = (memory[layer] if isinstance(memory, list)
                                    else block.cross_attention.keys_values(memory))
                x, layer_cache = block(x, positions, memory=layer_memory, cache=cache and cache[layer],
                                       key=None if key is None else jax.random.fold_in(key, layer), **shared)
                new_cache.append(layer_cache)
            cache = new_cache if cache is not None else None
        else:
            x = self._scan(x, positions, memory, key, shared)
        return (self.norm(x) if config.norm == "pre" else x), cache

    def _scan(self, x, positions, memory, key, shared) -> Array:
        graph, parameters = nnx.split(self.blocks)

        def body(x, layer):
            index, layer_parameters = layer
            block = nnx.merge(graph, layer_parameters)
            layer_memory = block.cross_attention.keys_values(memory) if self.config.cross_attention else None
            x, _ = block(x, positions, memory=layer_memory,
                         key=None if key is None else jax.random.fold_in(key, index), **shared)
            return x, None  # x alone: returning the layer would stack its parameters anew.

        if self.config.remat != "none":
            body = jax.checkpoint(body, policy=REMAT_POLICIES[self.config.remat], prevent_cse=False)
        return jax.lax.scan(body, x, (jnp.arange(self.config.layers), parameters))[0]

    def project_memory(self, memory: Array) -> list[KeysValues]:
        """Keys and values of cross-attention for each layer (unstacked only): what decoding computes once a song."""
        return [block.cross_attention.keys_values(memory) for block in self.blocks]

    def empty_cache(self, batch: int, steps: int) -> list[KeysValues]:
        """A cache for `batch` songs of `steps` steps, in the compute dtype."""
        config = self.config
        shape = (batch, steps, config.heads, config.width // config.heads)
        empty = jnp.zeros(shape, config.dtype)
        return [KeysValues(empty, empty) for _ in range(config.layers)]

    def unstacked(self) -> "Transformer":
        """This transformer with separate arrays a layer, for decoding: indexing stacked weights costs several reads."""
        graph, parameters = nnx.split(self.blocks)
        layers = [nnx.merge(graph, jax.tree.map(lambda p, i=i: p[i], parameters)) for i in range(self.config.layers)]
        copy = nnx.clone(self)
        copy.blocks = nnx.List(layers)
        return copy
