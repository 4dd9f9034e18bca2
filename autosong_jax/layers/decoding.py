"""Decoding: a transformer applied step by step, with a cache of keys and values.

At every step the whole cache is read, so it is kept no longer than it has to be: it is made for some steps, and `grown`
when they are full. (Work that follows what is filled inside of one program was measured at half the speed on a CPU, and
on a GPU would wait for the host.)

Letters: B batch, S steps, N length of the cache, M memory length, D width, H heads, Dh width of a head, P what an array
holds: 2 for keys and values, 1 for one of them.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jax import Array
from jax.experimental.layout import Layout, with_layout_constraint

from autosong_jax.layers.attention import attention
from autosong_jax.layers.platform import platform
from autosong_jax.layers.transformer import Block, KeysValues, Transformer


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Cache:
    """What decoding keeps from step to step.

    Attributes:
      layers: keys and values of the steps so far, for each layer arrays [B, P, H, N, Dh]; see `_held`.
      memory: keys and values [B, H, M, Dh] of the memory, one pair a layer; empty without cross-attention.
      memory_lengths: int32 [B], how many slots of the memory count.
      offset: int32 [] or [B], where step 0 stands in `layers`.
      before: the largest that `offset` may be.
    """

    layers: list[tuple[Array, ...]]
    memory: list[KeysValues]
    memory_lengths: Array
    offset: Array
    before: int = dataclasses.field(default=0, metadata={"static": True})

    @property
    def room(self) -> int:
        """The steps that it has room for."""
        return self.layers[0][0].shape[3] - self.before


def start(decoder: Transformer, x: Array, length: int, memory: Array | None = None,
          memory_lengths: Array | None = None) -> Cache:
    """The cache after some steps, which are read at once.

    Args:
      decoder: `unstacked`.
      x: [B, S, D], what stands first; S may be 0.
      length: N, at least S.
      memory: [B, M, D], for cross-attention.
      memory_lengths: int [B].
    """
    batch, config = x.shape[0], decoder.config
    across = [block.cross_attention.keys_values(memory) for block in decoder.blocks] if config.cross_attention else []
    empty = jnp.zeros((batch, config.heads, 0, config.width // config.heads), config.dtype)
    layers = [KeysValues(empty, empty)] * config.layers
    if x.shape[1]:
        layers = _read(decoder, x, across, memory_lengths)
    lengths = jnp.zeros(batch, jnp.int32) if memory_lengths is None else memory_lengths
    return Cache([_padded(_held(layer), length) for layer in layers], [_heads_first(layer) for layer in across],
                 lengths, jnp.int32(0))


def _read(decoder: Transformer, x: Array, across: list[KeysValues], memory_lengths: Array | None) -> list[KeysValues]:
    """Keys and values [B, H, S, Dh] of each layer for x [B, S, D]."""
    positions, layers = jnp.arange(x.shape[1]), []

    def attend_self(block, x):
        q, kept = block.queries_keys_values(x, positions)
        layers.append(_heads_first(kept))
        return attention(q, *kept, causal=True)

    x = decoder.placed(x, positions)
    for layer, block in enumerate(decoder.blocks):
        x = block.residuals(x, functools.partial(attend_self, block),
                            lambda q, layer=layer: attention(q, *across[layer], lengths=memory_lengths))
    return layers


def grown(cache: Cache, room: int) -> Cache:
    """The cache with room for so many steps; `cache` is used up, layer by layer, so that never both are in memory."""
    def grow(layer: tuple[Array, ...]) -> tuple[Array, ...]:
        longer = _padded(layer, cache.before + room)
        for x in layer:
            x.delete()
        return longer

    return dataclasses.replace(cache, layers=[grow(layer) for layer in cache.layers])


@functools.partial(jax.jit, static_argnames="length")
def _padded(layer: tuple[Array, ...], length: int) -> tuple[Array, ...]:
    return tuple(jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, length - x.shape[3]), (0, 0))) for x in layer)


def _held(layer: KeysValues, arrays: int | None = None) -> tuple[Array, ...]:
    """Keys and values [B, H, S, Dh] as a cache holds them: arrays [B, P, H, S, Dh], two with P = 1 or one with P = 2.

    One array is written by one kernel where two take two, which counts on a GPU; XLA on a CPU would copy the half that
    a product reads.
    """
    arrays = arrays or (1 if platform() == "gpu" else 2)
    return tuple(jnp.split(jnp.stack(layer, axis=1), arrays, axis=1))


def step(decoder: Transformer, x: Array, index: Array, cache: Cache) -> tuple[Array, Cache]:
    """One step.

    Args:
      decoder: `unstacked`.
      x: [B, 1, D].
      index: int [], the number of the step.
      cache: with room for it.

    Returns:
      [B, 1, D] and the new cache.
    """
    at = cache.offset + index
    x = decoder.placed(x, at[..., None])
    layers = []
    for layer, block in enumerate(decoder.blocks):
        x, kept = _step(block, x, at, cache.layers[layer], cache.memory[layer] if cache.memory else None,
                        cache.memory_lengths)
        layers.append(kept)
    return decoder.normed(x), dataclasses.replace(cache, layers=layers)


def _step(block: Block, x: Array, at: Array, kept: tuple[Array, ...], memory: KeysValues | None, memory_lengths: Array
          ) -> tuple[Array, tuple[Array, ...]]:
    def attend_self(x):
        nonlocal kept
        q, new = block.queries_keys_values(x, at[..., None])
        new = _held(_heads_first(new), len(kept))
        kept = tuple(_write(x, one, at) for x, one in zip(kept, new, strict=True))
        return _attend(q, KeysValues(*(x[:, i] for x in kept for i in range(x.shape[1]))), at + 1)

    def attend_memory(q):
        return jnp.where((memory_lengths > 0)[:, None, None, None], _attend(q, memory, memory_lengths), 0)

    return block.residuals(x, attend_self, attend_memory), kept


def _attend(q: Array, kept: KeysValues, lengths: Array) -> Array:
    """Attention of one query q [B, 1, H, Dh] to the first `lengths` ([] or [B]) of keys and values [B, H, N, Dh]."""
    scores = jnp.einsum("bhd,bhnd->bhn", q[:, 0], kept.k, preferred_element_type=jnp.float32) * q.shape[-1] ** -0.5
    seen = jnp.arange(scores.shape[-1]) < lengths[..., None, None]
    # A finite stand-in for -inf: a row that sees nothing stays finite.
    weights = jax.nn.softmax(jnp.where(seen, scores, -1e30), axis=-1).astype(q.dtype)
    return jnp.einsum("bhn,bhnd->bhd", weights, kept.v)[:, None]


def _write(cache: Array, new: Array, at: Array) -> Array:
    """Writes new [B, P, H, 1, Dh] into cache [B, P, H, N, Dh] at `at`, one for all (a slice) or one an example."""
    new = new.astype(cache.dtype)
    if jnp.ndim(at) == 0:
        cache = jax.lax.dynamic_update_slice_in_dim(cache, new, at, axis=3)
    else:
        cache = jax.vmap(lambda c, n, i: jax.lax.dynamic_update_slice_in_dim(c, n, i, axis=2))(cache, new, at)
    # As the arrays come: XLA would have keys and values of a step side by side, and so turn the cache around before
    # every loop and after it.
    return with_layout_constraint(cache, Layout(major_to_minor=tuple(range(cache.ndim))))


def _heads_first(layer: KeysValues) -> KeysValues:
    """[B, N, H, Dh] -> [B, H, N, Dh]."""
    return KeysValues(*(x.swapaxes(1, 2) for x in layer))
