"""CLAP as the Hugging Face hub holds it: its config, its settings of features, and the names of its tensors."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from autosong_jax import inputs
from autosong_jax.errors import UserError
from autosong_jax.evaluation.clap.features import LogMel
from autosong_jax.evaluation.clap.towers import AudioConfig, ClapConfig
from autosong_jax.sources.text import bert_names as bert
from autosong_jax.sources.text.biased_attention import ACTIVATIONS
from autosong_jax.weights import shapes
from autosong_jax.weights.parameters import Recipe

RELEASED = "laion/clap-htsat-unfused"
# What only training needs, and constants.
IGNORED = r"\.(num_batches_tracked|relative_position_index|position_ids|token_type_ids)$"
_TEXT = {"vocab_size": 50265, "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12,
         "intermediate_size": 3072, "hidden_act": "gelu", "max_position_embeddings": 514, "type_vocab_size": 1,
         "layer_norm_eps": 1e-12, "bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2}  # where a file is silent


def read_features(settings: Mapping[str, Any], where: str) -> LogMel:
    """From a `preprocessor_config.json`, which errors call `where`. Raises UserError for what cannot be used."""
    shape = inputs.check(dict(settings), shapes.ClapFeatures, where)
    if (shape.truncation, shape.padding) != ("rand_trunc", "repeatpad"):
        raise UserError(f"{where} has truncation {shape.truncation!r} and padding {shape.padding!r}, expected "
                        f"'rand_trunc' and 'repeatpad', those of a CLAP without feature fusion: use {RELEASED}")
    if not shape.frequency_min < shape.frequency_max <= shape.sampling_rate / 2:
        raise UserError(f"{where} has bands from {shape.frequency_min} to {shape.frequency_max} Hz, expected within 0 "
                        f"to {shape.sampling_rate / 2:g}")
    samples = shape.max_length_s * shape.sampling_rate
    if shape.fft_window_size > samples:
        raise UserError(f"{where} has fft_window_size {shape.fft_window_size}, expected at most the {samples} samples "
                        "of a window")
    return LogMel(shape.sampling_rate, samples, shape.fft_window_size, shape.hop_length, shape.feature_size,
                  shape.frequency_min, shape.frequency_max)


def read_config(config: Mapping[str, Any], features: LogMel, where: str) -> ClapConfig:
    """From a `config.json`, which errors call `where`, and the features that the audio tower reads.

    Raises:
      UserError: it is of another kind of model, or says what no CLAP without feature fusion has.
    """
    if config.get("model_type") != "clap":
        raise UserError(f"{where} is of a model of type {config.get('model_type')!r}, expected 'clap', such as "
                        f"{RELEASED}")
    shape = inputs.check(dict(config), shapes.Clap, where)
    text = _TEXT | shape.text_config
    special = inputs.check(text, shapes.SpecialIds, f"{where}: text_config")
    audio = inputs.check(shape.audio_config, shapes.ClapAudio, f"{where}: audio_config")
    if audio.enable_fusion:
        raise UserError(f"{where} is of a CLAP with feature fusion, which reads random cuts: use one without, such as "
                        f"{RELEASED}")
    for name, value in (("projection_hidden_act", shape.projection_hidden_act), ("hidden_act", audio.hidden_act)):
        if value not in ACTIVATIONS:
            raise UserError(f"{where} has {name} {value!r}, expected one of {', '.join(ACTIVATIONS)}")
    try:
        encoder = bert.read_config(text, special.bos_token_id, special.eos_token_id, f"{where}: text_config",
                                   special.pad_token_id + 1)
    except ValueError as error:
        raise UserError(f"{where}: text_config: {error}") from error
    return ClapConfig(_audio(audio, features, where), encoder, shape.projection_dim, shape.projection_hidden_act)


def _audio(shape: shapes.ClapAudio, features: LogMel, where: str) -> AudioConfig:
    """The audio tower, if its parts fit each other and the features."""
    def expect(name: str, value: Any, fits: bool, expected: str) -> None:
        if not fits:
            raise UserError(f"{where}: audio_config has {name} {value!r}, expected {expected}")

    patch, stride = _side(shape.patch_size), _side(shape.patch_stride)
    stages, image, bands = len(shape.depths), shape.spec_size, shape.num_mel_bins
    expect("patch_stride", shape.patch_stride, stride is not None and stride > 0, "one number, or the same one twice")
    expect("patch_size", shape.patch_size, patch is not None and patch >= stride and (patch - stride) % 2 == 0,
           f"patch_stride {stride} or an even number more, once or twice")
    expect("num_mel_bins", bands, bands == features.bands, f"feature_size {features.bands} of the features beside it")
    expect("spec_size", image, image % bands == 0 and features.frames <= image**2 // bands,
           f"a multiple of num_mel_bins {bands} that holds {features.frames} frames")
    expect("num_attention_heads", shape.num_attention_heads, len(shape.num_attention_heads) == stages,
           f"one for each of the {stages} depths")
    config = AudioConfig(
        frames=features.frames, bands=bands, image=image, patch=patch, stride=stride,
        width=shape.patch_embeds_hidden_size, depths=tuple(shape.depths), heads=tuple(shape.num_attention_heads),
        window=shape.window_size, mlp_ratio=shape.mlp_ratio, activation=shape.hidden_act, epsilon=shape.layer_norm_eps)
    side, last = image // stride, config.sides()[-1]
    expect("spec_size", image, side % 2**(stages - 1) == 0 and last >= shape.window_size,
           f"one of which {stages} stages make at least window_size {shape.window_size} patches")
    expect("hidden_size", shape.hidden_size, shape.hidden_size == config.widths()[-1],
           f"{config.widths()[-1]}, the width of the last stage")
    expect("num_attention_heads", shape.num_attention_heads,
           all(width % heads == 0 for width, heads in zip(config.widths(), config.heads, strict=True)),
           f"divisors of the widths {config.widths()}")
    return config


def _side(size: int | list[int]) -> int | None:
    """The side of a square that a config gives once or twice; None if it is no square."""
    sides = {size} if isinstance(size, int) else set(size)
    return sides.pop() if len(sides) == 1 else None


def recipes(config: ClapConfig) -> dict[str, Recipe]:
    """What each parameter of `towers.ClapTowers` is made of."""
    table = {"log_scales": Recipe(("logit_scale_a", "logit_scale_t"), stacked=True)}

    def add(ours: str, theirs: str, **leaves: tuple[str, bool]) -> None:
        for leaf, (name, transpose) in leaves.items():
            table[f"{ours}/{leaf}"] = Recipe((f"{theirs}.{name}",), transpose)

    def linear(ours: str, theirs: str) -> None:
        add(ours, theirs, kernel=("weight", True), bias=("bias", False))

    def norm(ours: str, theirs: str) -> None:
        add(ours, theirs, scale=("weight", False), bias=("bias", False))

    for path, recipe in bert.recipes(config.text).items():
        table[f"text/{path}"] = dataclasses.replace(recipe, names=tuple(f"text_model.{name}" for name in recipe.names))
    linear("pooler", "text_model.pooler.dense")
    for tower in ("audio", "text"):
        linear(f"{tower}_projection/first", f"{tower}_projection.linear1")
        linear(f"{tower}_projection/second", f"{tower}_projection.linear2")

    encoder = "audio_model.audio_encoder"
    norm("audio/batch_norm", f"{encoder}.batch_norm")
    add("audio/batch_norm", f"{encoder}.batch_norm", mean=("running_mean", False), var=("running_var", False))
    table["audio/patches"] = Recipe((f"{encoder}.patch_embed.proj.weight",))
    table["audio/patches_bias"] = Recipe((f"{encoder}.patch_embed.proj.bias",))
    norm("audio/patches_norm", f"{encoder}.patch_embed.norm")
    norm("audio/norm", f"{encoder}.norm")
    for stage, depth in enumerate(config.audio.depths):
        for number in range(depth):
            ours, theirs = f"audio/stages/{stage}/{number}", f"{encoder}.layers.{stage}.blocks.{number}"
            norm(f"{ours}/attention_norm", f"{theirs}.layernorm_before")
            norm(f"{ours}/mlp_norm", f"{theirs}.layernorm_after")
            for part, name in {"q": "query", "k": "key", "v": "value"}.items():
                linear(f"{ours}/{part}", f"{theirs}.attention.self.{name}")
            add(f"{ours}/bias", f"{theirs}.attention.self", embedding=("relative_position_bias_table", False))
            linear(f"{ours}/out", f"{theirs}.attention.output.dense")
            linear(f"{ours}/up", f"{theirs}.intermediate.dense")
            linear(f"{ours}/down", f"{theirs}.output.dense")
        if stage + 1 < len(config.audio.depths):
            norm(f"audio/mergings/{stage}/norm", f"{encoder}.layers.{stage}.downsample.norm")
            add(f"audio/mergings/{stage}/linear", f"{encoder}.layers.{stage}.downsample.reduction",
                kernel=("weight", True))
    return table
