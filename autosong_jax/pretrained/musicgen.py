"""MusicGen as the Hugging Face hub holds it (Copet et al. 2023): text, stereo and melody models, to ours and back.

MAGNeT (Ziv et al. 2024) has the decoder of the text models, without a causal mask. The text and stereo models attend to
the states of T5 by cross-attention. The melody models read a prefix: the chroma of a recording, then the states of T5;
a source that is dropped stays in the prefix as empty slots.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from autosong_jax import defaults, inputs
from autosong_jax.codecs.info import CodecInfo
from autosong_jax.errors import UserError
from autosong_jax.sources.text.encoders import TextEncoderInfo
from autosong_jax.weights import parameters, shapes
from autosong_jax.weights.files import Tensors
from autosong_jax.weights.parameters import Recipe

CROSS, PREFIX = "musicgen", "musicgen_melody"  # values of "model_type"
MASKED = "magnet"  # which the hub does not know: it holds MAGNeT as audiocraft released it
# Tables of sines that old files hold beside the weights.
IGNORED = r"embed_positions\.weights$"
_DECODER = "decoder.model.decoder."
_ATTENTION = {"cross_attention": "encoder_attn", "self_attention": "self_attn"}
_NORMS = {"self_norm": "self_attn_layer_norm", "cross_norm": "encoder_attn_layer_norm", "mlp_norm": "final_layer_norm"}
_DESCRIPTION, _CHROMA = "enc_to_dec_proj", "audio_enc_to_dec_proj"
MIN_TEMPERATURE = 0.01  # of MAGNeT
_MAX_DESCRIPTION = 256  # tokens; the released models were trained on descriptions far shorter


def model_config(released: Mapping[str, Any], codec: CodecInfo) -> ml_collections.ConfigDict:
    """Our config of a released model.

    Args:
      released: its `config.json`.
      codec: its EnCodec.

    Raises:
      UserError: a setting has a value that no MusicGen has.
    """
    decoder = dataclasses.asdict(inputs.check(released["decoder"], shapes.Decoder, "config.json of the decoder"))
    if decoder["hidden_size"] % (2 * decoder["num_attention_heads"]):
        raise UserError(f"config.json says hidden_size {decoder['hidden_size']} of the decoder, expected an even width "
                        f"for each of its {decoder['num_attention_heads']} heads")
    _expect(decoder, {"scale_embedding": (False,), "activation_function": ("gelu", "relu"),
                      "audio_channels": (codec.channels,), "num_codebooks": (codec.num_codebooks,),
                      "vocab_size": (codec.codebook_size,)}, "config.json", "the decoder")
    melody = released["model_type"] == PREFIX
    config = defaults.base()
    config.model.update(
        width=decoder["hidden_size"], heads=decoder["num_attention_heads"], layers=decoder["num_hidden_layers"],
        mlp_width=decoder["ffn_dim"], norm="pre", activation=decoder["activation_function"], positions="sinusoidal",
        bias=False, fusion="prefix" if melody else "cross", dropped="null" if melody else "absent", pattern="delay",
        delays=delays(decoder["num_codebooks"], decoder["audio_channels"]))
    config.data.update(seconds=30.0, end_of_song=False)
    # The sizes are of encoders that are learned with the model; these sources have none.
    sizes = {"width": 0, "heads": 0, "layers": 0, "dropout": 0.3}
    config.sources = {"description": defaults.source(max_length=_MAX_DESCRIPTION, **sizes)}
    if melody:
        config.sources["chroma"] = defaults.source(kind="chroma", max_length=released["chroma_length"], **sizes)
    config.optimizer.update(learning_rate=1e-4, warmup_steps=4000)
    config.sampling.update(temperature=1.0, top_k=250, top_p=1.0, cfg_scale=3.0, overlap=0.4)
    if released["model_type"] == MASKED:
        _make_masked(config, released, codec.frame_rate)
    return config


def _make_masked(config: ml_collections.ConfigDict, released: Mapping[str, Any], frame_rate: float) -> None:
    """What MAGNeT has besides, with its own defaults of sampling."""
    parts = ("seconds", "span_length", "subcodes_context", "sampling")
    masked = inputs.check({name: released[name] for name in parts}, shapes.Masked, "the training config")
    if masked.subcodes_context == 0:
        raise UserError("the training config says subcodes_context 0, codebooks whose frames see themselves alone: "
                        "expected at least 1 frame on each side, or -1 for the whole song")
    config.model.update(pattern="parallel", delays=())
    config.data.seconds = float(masked.seconds)
    config.objective.update(name="masked_spans", span_length=masked.span_length,
                            context_ms=1000.0 * max(masked.subcodes_context, 0) / frame_rate)
    sampling = masked.sampling
    _expect(dataclasses.asdict(sampling), {"span_scoring": ("max", "prod"),
                                           "span_arrangement": ("nonoverlap", "stride1")},
            "the training config", "generate.lm")
    if not sampling.use_sampling:  # greedy, but spans are judged at the temperature of their pass
        top_k, top_p = 1, 1.0
    elif sampling.top_p:  # which counts alone; 0 is off
        top_k, top_p = 0, float(sampling.top_p)
    else:
        top_k, top_p = sampling.top_k, 1.0
    config.sampling.masked.update(
        steps=tuple(sampling.decoding_steps), top_k=top_k, top_p=top_p, anneal=sampling.anneal_temp,
        temperature=max(float(sampling.temp), MIN_TEMPERATURE),  # 0, too, is hardly greedy there
        cfg_scale=float(sampling.max_cfg_coef), cfg_scale_min=float(sampling.min_cfg_coef),
        arrangement=sampling.span_arrangement, confidence={"max": "max", "prod": "product"}[sampling.span_scoring],
        trim=True)


def delays(num_codebooks: int, channels: int) -> list[int]:
    """Frames by which each codebook is late; left and right of a stereo model go together: 0, 0, 1, 1, ..."""
    return [k // channels for k in range(num_codebooks)]


def _expect(settings: Mapping[str, Any], allowed: Mapping[str, tuple], where: str, part: str) -> None:
    for name, values in allowed.items():
        if name in settings and settings[name] not in values:
            raise UserError(f"{where} says {name} {settings[name]!r} of {part}, expected "
                            f"{' or '.join(map(repr, values))}: this is no MusicGen that can be read here")


def recipes(config: ml_collections.ConfigDict, num_codebooks: int) -> dict[str, Recipe]:
    """Where each parameter of a song model is in a MusicGen checkpoint; all but the type vectors of the sources."""
    table = {
        "frames/embeddings": Recipe(
            tuple(f"{_DECODER}embed_tokens.{k}.weight" for k in range(num_codebooks)), stacked=True),
        "frames/heads": Recipe(tuple(f"decoder.lm_heads.{k}.weight" for k in range(num_codebooks)), transpose=True,
                        stacked=True),
    }

    def per_layer(ours: str, theirs: str, transpose: bool = False) -> None:
        names = tuple(f"{_DECODER}layers.{i}.{theirs}" for i in range(config.model.layers))
        table[f"decoder/blocks/{ours}"] = Recipe(names, transpose, stacked=True)

    attentions = ["self_attention"] + ["cross_attention"] * (config.model.fusion == "cross")
    for ours in attentions:
        for part in ("q", "k", "v", "out"):
            per_layer(f"{ours}/{part}/kernel", f"{_ATTENTION[ours]}.{part}_proj.weight", transpose=True)
    for ours in ["self_norm", "mlp_norm"] + ["cross_norm"] * (config.model.fusion == "cross"):
        per_layer(f"{ours}/scale", f"{_NORMS[ours]}.weight")
        per_layer(f"{ours}/bias", f"{_NORMS[ours]}.bias")
    per_layer("mlp/up/kernel", "fc1.weight", transpose=True)
    per_layer("mlp/down/kernel", "fc2.weight", transpose=True)
    table["decoder/norm/scale"] = Recipe((f"{_DECODER}layer_norm.weight",))
    table["decoder/norm/bias"] = Recipe((f"{_DECODER}layer_norm.bias",))
    for source, name in (("description", _DESCRIPTION), ("chroma", _CHROMA)):
        table[f"conditions/sources/{source}/projection/kernel"] = Recipe((f"{name}.weight",), transpose=True)
        table[f"conditions/sources/{source}/projection/bias"] = Recipe((f"{name}.bias",))
    return table


def load(abstract: Any, config: ml_collections.ConfigDict, tensors: Tensors, shardings: Any) -> Any:
    """The parameters of the model that `model_config` describes.

    Args:
      abstract: their tree, of shapes and dtypes; it decides the dtypes.
      tensors: of the whole checkpoint, as it names them.
      shardings: a tree of shardings.

    Raises:
      UserError: a tensor is missing or has another shape than the config says.
    """
    decoder = tensors.renamed(lambda name: None if name.startswith(("text_encoder.", "audio_encoder.")) else name)
    abstract, shardings = dict(abstract), dict(shardings)
    conditions, of_conditions = dict(abstract["conditions"]), dict(shardings["conditions"])
    types, of_types = conditions.pop("types"), of_conditions.pop("types")
    abstract["conditions"], shardings["conditions"] = conditions, of_conditions
    num_codebooks, _, width = abstract["frames"]["embeddings"].shape
    if f"{_DESCRIPTION}.weight" not in decoder:  # left out where T5 is as wide as the decoder
        identity = {f"{_DESCRIPTION}.weight": np.eye(width, dtype=np.float32),
                    f"{_DESCRIPTION}.bias": np.zeros(width, np.float32)}
        decoder = decoder | Tensors.of(identity, decoder.origin(""))
    params = parameters.load(abstract, recipes(config, num_codebooks), decoder, what="a MusicGen of this shape",
                             shardings=shardings, ignored=IGNORED)
    zeros = jax.tree.map(lambda x, s: jax.device_put(jnp.zeros(x.shape, x.dtype), s), types, of_types)
    params["conditions"]["types"] = zeros
    return params


def unload(params: Any, config: ml_collections.ConfigDict) -> Iterator[tuple[str, np.ndarray]]:
    """The tensors of the decoder and its projections, as a MusicGen checkpoint names them; the inverse of `load`.

    Raises:
      UserError: transformers has no place for the projection.
    """
    params = params | {"conditions": dict(params["conditions"])}
    types = params["conditions"].pop("types")
    states, width = params["conditions"]["sources"]["description"]["projection"]["kernel"].shape
    # MusicGen has no type vectors. With cross-attention they are just more of the projection's bias.
    sources = {name: {"projection": source["projection"] | {"bias": source["projection"]["bias"] + types[name]}}
               for name, source in params["conditions"]["sources"].items()}
    params["conditions"]["sources"] = sources
    for name, array in parameters.unload(params, recipes(config, params["frames"]["embeddings"].shape[0])):
        if name.startswith(_DESCRIPTION) and width == states:
            if not np.array_equal(array, np.eye(width) if array.ndim == 2 else np.zeros(width)):
                raise UserError("this is no MusicGen: its projection of the text's states has been trained, but "
                                "transformers applies none where the text encoder is as wide as the decoder; export "
                                "with --format=autosong")
        else:
            yield name, array


def difference(config: ml_collections.ConfigDict, codec: CodecInfo, text: TextEncoderInfo) -> str:
    """Why a model of ours is no text or stereo MusicGen; empty if it is one."""
    model = config.model
    expected = {
        "model.norm": (model.norm, "pre"), "model.positions": (model.positions, "sinusoidal"),
        "model.bias": (model.bias, False), "model.fusion": (model.fusion, "cross"),
        "model.pattern": (model.pattern, "delay"), "objective.name": (config.objective.name, "next_step"),
        "data.end_of_song": (config.data.end_of_song, False),
        "sources": (sorted(config.sources), ["description"]), "its codec": (codec.name, "encodec"),
        "its text encoder": (text.name.partition(":")[0], "t5"),
    }
    for name, (found, wanted) in expected.items():
        if found != wanted:
            return f"{name} is {found!r}, not {wanted!r}"
    own = list(model.delays) or list(range(codec.num_codebooks))
    if own != delays(codec.num_codebooks, codec.channels):
        return f"model.delays are {own}"
    return ""


def released_files(config: ml_collections.ConfigDict, codec: CodecInfo,
                   parts: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """The JSON files that transformers wants beside the weights of a text or stereo MusicGen.

    Args:
      config: of the model.
      codec: its EnCodec.
      parts: `text_encoder` and `audio_encoder`, each as its own `config.json`.
    """
    model, special = config.model, codec.codebook_size
    decoder = {"model_type": "musicgen_decoder", "vocab_size": special, "hidden_size": model.width,
               "num_attention_heads": model.heads, "num_hidden_layers": model.layers, "ffn_dim": model.mlp_width,
               "num_codebooks": codec.num_codebooks, "audio_channels": codec.channels,
               "activation_function": model.activation, "dropout": model.dropout, "scale_embedding": False,
               "pad_token_id": special, "bos_token_id": special, "tie_word_embeddings": False}
    ids = {"pad_token_id": special, "bos_token_id": special, "decoder_start_token_id": special}
    frames = round(config.data.seconds * codec.frame_rate)
    return {
        "config.json": {"model_type": CROSS, "architectures": ["MusicgenForConditionalGeneration"], "dtype": "float32",
                        "is_encoder_decoder": True, "decoder": decoder, **parts},
        "generation_config.json": {**ids, "do_sample": config.sampling.temperature > 0, "max_length": frames,
                                   "guidance_scale": config.sampling.cfg_scale, "top_k": config.sampling.top_k},
        "preprocessor_config.json": {"feature_extractor_type": "EncodecFeatureExtractor", "padding_value": 0.0,
                                     "feature_size": codec.channels, "sampling_rate": codec.sample_rate,
                                     "padding_side": "left", "processor_class": "MusicgenProcessor"},
        "tokenizer_config.json": {"tokenizer_class": "T5Tokenizer", "processor_class": "MusicgenProcessor",
                                  "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"},
    }
