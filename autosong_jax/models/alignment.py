"""What a song model looks at: cross-attention weights of songs that are finished.

The model reads a song again, by the attention that it always has; beside it, the weights of some heads are computed.

Letters: B batch, S steps, M memory length, H heads, Dh width of a head, N chosen heads.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from autosong_jax.errors import UserError
from autosong_jax.layers.attention import attention
from autosong_jax.layers.transformer import Block
from autosong_jax.models.song import SongModel
from autosong_jax.sources.memory import Memory


def cross_attention_weights(model: SongModel, steps: Array, memory: Memory, heads: Sequence[tuple[int, int]], *,
                            local: Array | None = None) -> Array:
    """How much each step attends to each slot of the memory.

    Of one layer after another, only the weights of the heads that are asked for are ever in memory: ask for a few.

    Args:
      model: one that attends to its memory (fusion cross), `unstacked` or not.
      steps: int [B, S, K], the whole song: steps of a pattern, or if `local` is given frames; see `SongModel.__call__`.
      memory: from `SongModel.encode`; its `source` and `position` say what the slots are.
      heads: (layer, head), each counted from 0.
      local: as of `SongModel.__call__`.

    Returns:
      float32 [B, N, S, M], in the order of `heads`. The weights of a step sum to 1, or where no slot counts to 0. What
      a model reads at step s decides step s + 1 of a pattern, and frame s itself if `local` is given.

    Raises:
      UserError: if the model does not attend to a memory, or has no such head.
    """
    config = model.decoder.config
    if not config.cross_attention:
        raise UserError("attention to the memory: expected a model of model.fusion 'cross' with sources")
    for layer, head in heads:
        if not (0 <= layer < config.layers and 0 <= head < config.heads):
            raise UserError(f"head {head} of layer {layer}: expected one of {config.heads} heads, from 0, of one of "
                            f"{config.layers} layers")
    positions = jnp.arange(steps.shape[1])
    x = model.decoder.placed(model.frames.embed(steps), positions)
    weights = {}
    for layer in range(1 + max((layer for layer, _ in heads), default=-1)):
        wanted = tuple(head for of, head in heads if of == layer)
        graph, parameters = nnx.split(_block(model.decoder.blocks, layer))
        x, found = _read(graph, parameters, x, positions, memory, local, wanted)
        weights |= {(layer, head): found[:, i] for i, head in enumerate(wanted)}
    return jnp.stack([weights[pair] for pair in heads], axis=1)


def _block(blocks: Block | nnx.List, layer: int) -> Block:
    if isinstance(blocks, nnx.List):
        return blocks[layer]
    graph, parameters = nnx.split(blocks)
    return nnx.merge(graph, jax.tree.map(lambda x: x[layer], parameters))


@functools.partial(jax.jit, static_argnames=("graph", "heads"))
def _read(graph: nnx.GraphDef, parameters: Any, x: Array, positions: Array, memory: Memory, local: Array | None,
          heads: tuple[int, ...]) -> tuple[Array, Array]:
    """What a block makes of x [B, S, D], and the weights [B, N, S, M] of some of its heads."""
    block = nnx.merge(graph, parameters)
    keys, values = block.cross_attention.keys_values(memory.states)
    weights = []

    def attend_memory(q):
        weights.extend(_weights(q[:, :, head], keys[:, :, head], memory.lengths) for head in heads)
        return attention(q, keys, values, lengths=memory.lengths)

    x = block.residuals(x, functools.partial(block.attend_self, positions=positions, local=local), attend_memory)
    return x, jnp.stack(weights, axis=1) if weights else jnp.zeros((x.shape[0], 0))


def _weights(q: Array, k: Array, lengths: Array) -> Array:
    """Of one head: queries [B, S, Dh] and keys [B, M, Dh] -> float32 [B, S, M]."""
    scores = jnp.einsum("bsd,bmd->bsm", q, k, preferred_element_type=jnp.float32) * q.shape[-1] ** -0.5
    counts = (jnp.arange(k.shape[1]) < lengths[:, None])[:, None]
    return jnp.where(counts, jax.nn.softmax(jnp.where(counts, scores, -1e30), axis=-1), 0)
