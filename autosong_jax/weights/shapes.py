"""What is read of other packages' `config.json`, with types and bounds; whatever else they say is ignored.

The bounds are far beyond any released model: they are there for files that are damaged, or made to do harm.
"""

import dataclasses
from typing import Annotated, Any

import pydantic

Width = Annotated[int, pydantic.Field(ge=1, le=2**16)]
Heads = Annotated[int, pydantic.Field(ge=1, le=2**12)]
Layers = Annotated[int, pydantic.Field(ge=1, le=2**10)]
Inner = Annotated[int, pydantic.Field(ge=1, le=2**18)]
Entries = Annotated[int, pydantic.Field(ge=1, le=2**22)]
Epsilon = Annotated[float, pydantic.Field(gt=0, le=1)]
Scale = Annotated[float, pydantic.Field(ge=-1000, le=1000)]


@dataclasses.dataclass(frozen=True)
class T5:
    """Of T5, mT5 and umT5."""

    model_type: str
    vocab_size: Entries
    d_model: Width
    d_kv: Width
    d_ff: Inner
    num_heads: Heads
    num_layers: Layers
    feed_forward_proj: str | None = None
    relative_attention_num_buckets: Annotated[int, pydantic.Field(ge=4, le=2**12)] = 32
    relative_attention_max_distance: Annotated[int, pydantic.Field(ge=4, le=2**20)] = 128
    layer_norm_epsilon: Epsilon = 1e-6


@dataclasses.dataclass(frozen=True)
class Bert:
    """Of BERT."""

    vocab_size: Entries
    max_position_embeddings: Annotated[int, pydantic.Field(ge=4, le=2**20)]
    hidden_size: Width
    num_attention_heads: Heads
    num_hidden_layers: Layers
    intermediate_size: Inner
    hidden_act: str
    type_vocab_size: Annotated[int, pydantic.Field(ge=1, le=2**10)] = 2
    layer_norm_eps: Epsilon = 1e-12
    position_embedding_type: str = "absolute"


@dataclasses.dataclass(frozen=True)
class Decoder:
    """Of MusicGen's decoder."""

    hidden_size: Width
    num_attention_heads: Heads
    num_hidden_layers: Layers
    ffn_dim: Inner
    num_codebooks: Annotated[int, pydantic.Field(ge=1, le=256)]
    vocab_size: Annotated[int, pydantic.Field(ge=1, le=2**16)]
    activation_function: str = "gelu"
    audio_channels: Annotated[int, pydantic.Field(ge=1, le=2)] = 1
    scale_embedding: bool = False


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How MAGNeT samples, as audiocraft's training config says it."""

    decoding_steps: Annotated[list[Annotated[int, pydantic.Field(ge=1, le=10_000)]], pydantic.Field(min_length=1)]
    temp: Annotated[float, pydantic.Field(ge=0, le=1e6)]
    top_k: Annotated[int, pydantic.Field(ge=0, lt=2**31)]
    top_p: Annotated[float, pydantic.Field(ge=0, le=1)]
    max_cfg_coef: Scale
    min_cfg_coef: Scale
    span_arrangement: str
    span_scoring: str
    use_sampling: bool = True
    anneal_temp: bool = True


@dataclasses.dataclass(frozen=True)
class Masked:
    """What of MAGNeT is beside its decoder."""

    seconds: Annotated[float, pydantic.Field(gt=0, le=3600)]
    span_length: Annotated[int, pydantic.Field(ge=1, le=2**16)]
    subcodes_context: Annotated[int, pydantic.Field(ge=-1, le=2**16)]
    sampling: Sampling


@dataclasses.dataclass(frozen=True)
class MusicGen:
    """Of a whole MusicGen."""

    model_type: str
    decoder: dict[str, Any]
    audio_encoder: dict[str, Any]
    text_encoder: dict[str, Any]
    chroma_length: Annotated[int, pydantic.Field(ge=1, le=2**16)] | None = None
