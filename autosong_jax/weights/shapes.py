"""What is read of other packages' `config.json`, with types and bounds; whatever else they say is ignored.

The bounds are far beyond any released model: they are there for files that are damaged, or made to do harm.
"""

import dataclasses
from typing import Annotated, Any, Literal

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
class Clap:
    """Of CLAP. Here and in its parts, what a file leaves out is as transformers' classes have it."""

    model_type: str
    text_config: dict[str, Any]
    audio_config: dict[str, Any]
    projection_dim: Width = 512
    projection_hidden_act: str = "relu"


@dataclasses.dataclass(frozen=True)
class SpecialIds:
    """Of RoBERTa."""

    bos_token_id: Annotated[int, pydantic.Field(ge=0, le=2**22)]
    pad_token_id: Annotated[int, pydantic.Field(ge=0, le=2**10)]
    eos_token_id: Annotated[int, pydantic.Field(ge=0, le=2**22)]


@dataclasses.dataclass(frozen=True)
class ClapAudio:
    """Of CLAP's audio tower."""

    num_mel_bins: Annotated[int, pydantic.Field(ge=1, le=2**12)] = 64
    spec_size: Annotated[int, pydantic.Field(ge=1, le=2**12)] = 256
    patch_size: int | list[int] = 4
    patch_stride: int | list[int] = 4
    patch_embeds_hidden_size: Width = 96
    depths: Annotated[list[Layers], pydantic.Field(min_length=1, max_length=8)] = dataclasses.field(
        default_factory=lambda: [2, 2, 6, 2])
    num_attention_heads: list[Heads] = dataclasses.field(default_factory=lambda: [4, 8, 16, 32])
    window_size: Annotated[int, pydantic.Field(ge=1, le=2**8)] = 8
    hidden_size: Width = 768
    mlp_ratio: Annotated[float, pydantic.Field(gt=0, le=64)] = 4.0
    hidden_act: str = "gelu"
    layer_norm_eps: Epsilon = 1e-5
    enable_fusion: bool = False
    enable_patch_layer_norm: Literal[True] = True
    flatten_patch_embeds: Literal[True] = True
    qkv_bias: Literal[True] = True
    patch_embed_input_channels: Literal[1] = 1


@dataclasses.dataclass(frozen=True)
class ClapFeatures:
    """Of CLAP's `preprocessor_config.json`; the released ones differ from the class in the lowest frequency."""

    feature_size: Annotated[int, pydantic.Field(ge=1, le=2**12)] = 64
    sampling_rate: Annotated[int, pydantic.Field(ge=100, le=768_000)] = 48_000
    hop_length: Annotated[int, pydantic.Field(ge=1, le=2**16)] = 480
    fft_window_size: Annotated[int, pydantic.Field(ge=2, le=2**16)] = 1024
    max_length_s: Annotated[int, pydantic.Field(ge=1, le=600)] = 10
    frequency_min: Annotated[float, pydantic.Field(ge=0, le=384_000)] = 0
    frequency_max: Annotated[float, pydantic.Field(gt=0, le=384_000)] = 14_000
    truncation: str = "fusion"
    padding: str = "repeatpad"


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
