"""Checkpoints as audiocraft releases them, read as if the Hugging Face hub held them.

Such a directory has `state_dict.bin`, the decoder with its training config in YAML, and `compression_state_dict.bin`,
the EnCodec or the name of one. Both are pickles, so PyTorch reads them, in a process of its own that takes only
weights. T5, which was never trained, is not among them.
"""

import pathlib
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from typing import Any

from autosong_jax.codecs.encodec import names as encodec_names
from autosong_jax.codecs.encodec.codec import EncodecCodec
from autosong_jax.errors import UserError
from autosong_jax.pretrained import musicgen
from autosong_jax.weights import files
from autosong_jax.weights.files import Tensors

DECODER, COMPRESSION = "state_dict.bin", "compression_state_dict.bin"
_CONFIG = "xp.cfg"  # the training config, in YAML
# Our decoder is these and has no parameter for anything else.
_EXPECTED = {"norm_first": True, "bias_ff": False, "bias_attn": False, "bias_proj": False, "norm": "layer_norm",
             "positional_embedding": "sin", "layer_scale": None, "qk_layer_norm": False, "qk_layer_norm_cross": False,
             "kv_repeat": 1, "past_context": None, "positional_scale": 1, "max_period": 10_000}
# What the fuser may do beside prepending and cross-attention: nothing.
_FUSED = {"sum": [], "input_interpolate": [], "cross_attention_pos_emb": False}
_MASKED = "transformer_lm_magnet"  # MAGNeT's decoder, by "lm_model"
# Buffers of the melody conditioner that hold filters, not weights.
IGNORED = r"\.self_wav\.(?!output_proj)"
_NAMES = (
    (r"^emb\.", "decoder.model.decoder.embed_tokens."),
    (r"^linears\.", "decoder.lm_heads."),
    (r"^out_norm\.", "decoder.model.decoder.layer_norm."),
    (r"^transformer\.layers\.", "decoder.model.decoder.layers."),
    (r"\.norm1\.", ".self_attn_layer_norm."),
    (r"\.norm_cross\.", ".encoder_attn_layer_norm."),
    (r"\.norm2\.", ".final_layer_norm."),
    (r"\.linear1\.", ".fc1."),
    (r"\.linear2\.", ".fc2."),
    (r"\.cross_attention\.", ".encoder_attn."),
    (r"^condition_provider\.conditioners\.description\.output_proj\.", "enc_to_dec_proj."),
    (r"^condition_provider\.conditioners\.self_wav\.output_proj\.", "audio_enc_to_dec_proj."),
)


def unpickle(path: pathlib.Path) -> tuple[Tensors, dict[str, Any]]:
    """The tensors of a pickle, and its numbers and texts.

    Raises:
      UserError: it is missing, holds more than weights, or PyTorch is not installed.
    """
    # What is open stays readable when the directory is gone.
    with tempfile.TemporaryDirectory() as directory:
        command = [sys.executable, "-m", "data_prep.unpickle", f"--input={path.absolute()}", f"--output={directory}"]
        done = subprocess.run(command, capture_output=True, text=True, cwd=pathlib.Path(__file__).parents[2])
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1].removeprefix("error: ")
            raise UserError(f"{path} cannot be read: {reason.removeprefix(f'--input {path.absolute()} ')}")
        tensors = Tensors.open(directory)
        tensors = Tensors(tensors, tensors.read, lambda name: str(path))
        return tensors, files.read_json(pathlib.Path(directory) / "metadata.json")


def read_codec(path: pathlib.Path, *, stereo: bool = False) -> EncodecCodec:
    """The EnCodec of a checkpoint of audiocraft, or of the encodec package, or the one on the hub that it names.

    Raises:
      UserError: it is missing or holds another kind of model.
    """
    tensors, metadata = unpickle(path)
    if "pretrained" in metadata:
        directory = files.locate(metadata["pretrained"], str(path))
        return EncodecCodec(files.read_json(directory / "config.json"), Tensors.open(directory), stereo=stereo)
    settings = {}
    if _CONFIG in metadata:  # the encodec package's own checkpoints hold tensors alone
        try:
            config = _read_config(metadata)
            network, codec = config["seanet"], config["encodec"]
            settings = {"sampling_rate": config["sample_rate"], "normalize": codec["renormalize"],
                        "use_causal_conv": codec["causal"], "pad_mode": network["pad_mode"],
                        "trim_right_ratio": network["decoder"]["trim_right_ratio"],
                        "dilation_growth_rate": network["dilation_base"]}
        except (KeyError, TypeError) as error:
            raise UserError(f"{path} lacks a part of its training config ({error}): expected an EnCodec that "
                            "audiocraft exported") from error
    config, tensors = encodec_names.from_package(tensors, **settings)
    bandwidth = config["target_bandwidths"][-1] if settings else None
    return EncodecCodec(config, tensors, bandwidth, stereo=stereo, source=str(path))


def _read_config(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The training config, references such as ${sample_rate} resolved. Raises KeyError or TypeError for none."""
    import yaml

    try:
        config = yaml.safe_load(metadata[_CONFIG])
    except yaml.YAMLError as error:
        raise TypeError(str(error)) from error

    def resolve(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: resolve(part) for name, part in value.items()}
        if isinstance(value, str) and (match := re.fullmatch(r"\$\{([\w.]+)\}", value)):
            found = config
            for name in match[1].split("."):
                found = found[name]
            return resolve(found)
        return value

    return resolve(config)


def settings(metadata: Mapping[str, Any], path: pathlib.Path) -> dict[str, Any]:
    """What a `config.json` on the hub would say of the decoder, from the training config.

    Raises:
      UserError: it is of another kind of model.
    """
    try:
        config = _read_config(metadata)
        transformer, conditioners, fuser = config["transformer_lm"], config["conditioners"], config["fuser"]
        pattern, seconds = config["codebooks_pattern"], config["dataset"]["segment_duration"]
        masked = config.get("lm_model") == _MASKED
        filling = {} if not masked else {
            "model_type": musicgen.MASKED, "seconds": seconds, "span_length": config["masking"]["span_len"],
            "subcodes_context": transformer["subcodes_context"], "sampling": config["generate"]["lm"]}
    except (KeyError, TypeError) as error:
        raise UserError(f"{path} lacks a part of its training config ({error}): expected a MusicGen that audiocraft "
                        "exported") from error
    for part, found, expected in [("decoder", transformer, _EXPECTED), ("fuser", fuser, _FUSED)]:
        for name, value in expected.items():
            if found.get(name, value) != value:
                raise UserError(f"{path} has a {part} with {name} {found[name]!r}, expected {value!r}: this is no "
                                "MusicGen that can be read here")
    stereo = config.get("interleave_stereo_codebooks", {}).get("use", False)
    num_codebooks, channels = transformer["n_q"], 2 if stereo else 1
    delays = None if masked else [k // channels for k in range(num_codebooks)]
    found = (pattern["modeling"], pattern["delay"]["delays"] if pattern["modeling"] == "delay" else None)
    if found != ("parallel" if masked else "delay", delays):
        raise UserError(f"{path} has the pattern {pattern}, expected "
                        f"{'parallel' if masked else f'delay with delays {delays}'}")
    if transformer.get("causal", not masked) == masked:
        raise UserError(f"{path} has a decoder with causal {masked}, expected {not masked}")
    fused = {(): ["description"], ("self_wav", "description"): []}
    if fused.get(tuple(fuser["prepend"])) != fuser["cross"]:
        raise UserError(f"{path} has the fuser {fuser}, expected the description by cross-attention, or self_wav and "
                        "description prepended")
    result = {
        "model_type": musicgen.CROSS, "text_encoder_name": conditioners["description"]["t5"]["name"],
        "decoder": {"hidden_size": transformer["dim"], "num_attention_heads": transformer["num_heads"],
                    "num_hidden_layers": transformer["num_layers"], "activation_function": transformer["activation"],
                    "ffn_dim": int(transformer["hidden_scale"] * transformer["dim"]), "num_codebooks": num_codebooks,
                    "vocab_size": transformer["card"], "audio_channels": channels}}
    if fuser["prepend"]:
        chroma = conditioners["self_wav"]["chroma_stem"]
        frames = 1 + int(seconds * chroma["sample_rate"]) // 2 ** (chroma["radix2_exp"] - 2)
        result |= {"model_type": musicgen.PREFIX, "chroma_length": frames}
    return result | filling


def standard_names(tensors: Tensors) -> Tensors:
    """The tensors under the names of the hub, with the fused projections of attention taken apart."""
    return split_projections(tensors.renamed(lambda name: None if re.search(IGNORED, name) else name)).renamed(_rename)


def _rename(name: str) -> str:
    for pattern, replacement in _NAMES:
        name = re.sub(pattern, replacement, name)
    return name


def split_projections(tensors: Tensors) -> Tensors:
    """`in_proj_weight` [3 D, D] as `q_proj.weight`, `k_proj.weight` and `v_proj.weight` [D, D], in this order."""
    parts = {name.removesuffix("in_proj_weight") + f"{part}_proj.weight": (name, i)
             for name in tensors if name.endswith("in_proj_weight") for i, part in enumerate("qkv")}
    whole = {name: (name, None) for name in tensors if not name.endswith("in_proj_weight")}
    places = whole | parts

    def shape(name: str, part: int | None) -> tuple[int, ...]:
        return tensors[name] if part is None else (tensors[name][0] // 3, *tensors[name][1:])

    def read(new: str, index: tuple[slice, ...]):
        name, part = places[new]
        if part is None:
            return tensors.read(name, index)
        rows = shape(name, part)[0]
        begin, end, _ = (index[0] if index else slice(None)).indices(rows)
        return tensors.read(name, (slice(part * rows + begin, part * rows + end), *index[1:]))

    return Tensors({new: shape(*place) for new, place in places.items()}, read,
                   lambda new: tensors.origin(places[new][0] if new in places else new))
