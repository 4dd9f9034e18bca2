"""How a model reads a text.

Letters: B batch, L length of a text, D width of the decoder.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import ml_collections
from flax import nnx
from jax import Array

from autosong_jax.layers.declaration import declared
from autosong_jax.layers.transformer import Transformer, TransformerConfig, projection
from autosong_jax.parallel.sharding import split_by_song

if TYPE_CHECKING:
    from autosong_jax.sources.text.spec import TextSpec


class IdSource(nnx.Module):
    """Characters or bytes, with their sections and lines where there are any, through a bidirectional transformer.

    Args:
      vocab_size: ids are in [0, vocab_size).
      num_sections, num_lines: sizes of the section and line tables; 0 for a source that has none, such as a genre.
      config: the bidirectional transformer.
      width: D of the memory.
    """

    def __init__(self, vocab_size: int, num_sections: int, num_lines: int, config: TransformerConfig, width: int, *,
                 rngs: nnx.Rngs):
        def table(size):
            return nnx.Embed(size, config.width, embedding_init=nnx.initializers.normal(config.width**-0.5),
                             embedding_metadata=declared("table"), rngs=rngs)

        self.ids = table(vocab_size)
        if num_sections:
            self.sections = table(num_sections)
            self.lines = table(num_lines)
        self.encoder = Transformer(config, rngs=rngs)
        self.projection = projection(config.width, width, config.dtype, rngs)

    def __call__(self, source: Mapping[str, Array], key: Array | None = None) -> Array:
        """{"ids": int [B, L], "length": int [B], for lyrics also "sections", "lines": int [B, L]} -> [B, L, D]."""
        x = self.ids(source["ids"])
        if hasattr(self, "sections"):
            x = x + self.sections(source["sections"]) + self.lines(source["lines"])
        x = self.encoder(split_by_song(x), lengths=source["length"], key=key)
        return self.projection(x)


class StateSource(nnx.Module):
    """The states of a frozen encoder through one linear layer."""

    def __init__(self, state_width: int, width: int, dtype: str, *, rngs: nnx.Rngs):
        self.projection = projection(state_width, width, dtype, rngs)

    def __call__(self, source: Mapping[str, Array], key: Array | None = None) -> Array:
        """{"states": [B, L, width of the states], "length": int [B]} -> [B, L, D]."""
        return self.projection(source["states"])


def build(spec: "TextSpec", config: ml_collections.ConfigDict, dtype: str, *, rngs: nnx.Rngs) -> IdSource | StateSource:
    """What reads the source; see `SourceSpec.module`."""
    model, source, text = config.model, config.sources[spec.name], spec.text
    if text.frozen:
        return StateSource(text.width, model.width, dtype, rngs=rngs)
    # Rotary: what a letter sounds like is decided by its neighbours, wherever in the song it stands.
    encoder = TransformerConfig(
        width=source.width, heads=source.heads, layers=source.layers, mlp_width=4 * source.width,
        positions="rotary", dropout=model.dropout, causal=False, remat=config.train.remat,
        unroll=config.train.unroll, dtype=dtype)
    sections, lines = (text.num_sections, text.num_lines) if spec.structured else (0, 0)
    return IdSource(text.vocab_size, sections, lines, encoder, model.width, rngs=rngs)
