"""Toy MusicGens and MAGNeTs with random weights, in the files that released ones come in."""

import dataclasses
import pathlib
import re
from typing import Any

import numpy as np

WORDS = ["love", "rain", "night", "blue"]
SHAPES = {
    "mono": {"channels": 1, "width": 32, "heads": 4, "layers": 3, "text_width": 24},
    "stereo": {"channels": 2, "width": 32, "heads": 2, "layers": 2, "text_width": 32},  # as wide: no projection
    "melody": {"channels": 1, "width": 48, "heads": 3, "layers": 2, "text_width": 24},
}


@dataclasses.dataclass(frozen=True)
class Toy:
    """A model of transformers, and the directory that it was saved to."""

    kind: str
    model: Any
    directory: pathlib.Path

    @property
    def num_codebooks(self) -> int:
        return self.model.config.decoder.num_codebooks

    def token_ids(self, texts):
        """ids and mask [B, L] of texts of the toy's words."""
        ids = [[4 + WORDS.index(word) for word in text.split()] + [1] for text in texts]
        length = max(map(len, ids))
        return (np.array([row + [0] * (length - len(row)) for row in ids]),
                np.array([[1] * len(row) + [0] * (length - len(row)) for row in ids]))


def make_musicgen(kind, folder, *, shard="1GB", seed=0, **changes):
    """Saves a toy of a kind of `SHAPES` as the hub holds it, and gives it: 50 frames/s, 64 entries a codebook."""
    import torch
    import transformers

    torch.set_num_threads(1)
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -4.0), *(("▁" + word, -2.0) for word in WORDS)]
    shape, size = SHAPES[kind] | changes, 64
    torch.manual_seed(seed)
    text = transformers.T5Config(vocab_size=len(pieces), d_model=shape["text_width"], d_kv=8, d_ff=40, num_layers=2,
                                 num_heads=3, decoder_start_token_id=0)
    audio = transformers.EncodecConfig(
        sampling_rate=800, target_bandwidths=[1.2], num_filters=4, hidden_size=8, codebook_size=size,
        codebook_dim=8, upsampling_ratios=[4, 4], use_causal_conv=False, use_conv_shortcut=False)
    melody = kind == "melody"
    names = ("MusicgenMelody", {"chroma_length": 9}) if melody else ("Musicgen", {})
    decoder = getattr(transformers, f"{names[0]}DecoderConfig")(
        vocab_size=size, hidden_size=shape["width"], num_attention_heads=shape["heads"], dropout=0.0,
        num_hidden_layers=shape["layers"], ffn_dim=3 * shape["width"], num_codebooks=4 * shape["channels"],
        audio_channels=shape["channels"], pad_token_id=size, bos_token_id=size)
    config = getattr(transformers, f"{names[0]}Config")(
        text_encoder=text, audio_encoder=audio, decoder=decoder, **names[1])
    model = getattr(transformers, f"{names[0]}ForConditionalGeneration")(config).eval()
    with torch.no_grad():
        for parameter in model.decoder.parameters():  # initial weights hardly tell one code from another
            parameter.copy_(0.2 * torch.randn_like(parameter) + (parameter if parameter.ndim == 1 else 0))
        for level, layer in enumerate(model.audio_encoder.quantizer.layers):
            layer.codebook.embed.normal_(std=1 / 2**level)
    model.generation_config.update(decoder_start_token_id=size, pad_token_id=size, bos_token_id=size)
    model.save_pretrained(folder, max_shard_size=shard)
    transformers.T5Tokenizer(vocab=pieces, extra_ids=0).save_pretrained(folder)
    return Toy(kind, model, pathlib.Path(folder))


def their_names(name):
    """A name of the hub as audiocraft has it; q, k and v are put together elsewhere."""
    for pattern, replacement in [
            (r"^decoder\.model\.decoder\.embed_tokens\.", "emb."), (r"^decoder\.lm_heads\.", "linears."),
            (r"^decoder\.model\.decoder\.layer_norm\.", "out_norm."),
            (r"^decoder\.model\.decoder\.layers\.", "transformer.layers."), (r"self_attn_layer_norm", "norm1"),
            (r"encoder_attn_layer_norm", "norm_cross"), (r"final_layer_norm", "norm2"), (r"\.fc(\d)", r".linear\1"),
            (r"encoder_attn", "cross_attention"),
            (r"^enc_to_dec_proj", "condition_provider.conditioners.description.output_proj"),
            (r"^audio_enc_to_dec_proj", "condition_provider.conditioners.self_wav.output_proj")]:
        name = re.sub(pattern, replacement, name)
    return name


def codec_names(name):
    name = re.sub(r"^(encoder|decoder)\.layers\.(\d+)\.conv\.", r"\1.model.\2.conv.conv.", name)
    name = re.sub(r"^(encoder|decoder)\.layers\.(\d+)\.(block\.\d+)\.conv\.", r"\1.model.\2.\3.conv.conv.", name)
    name = re.sub(r"^(encoder|decoder)\.layers\.", r"\1.model.", name)
    name = name.replace("parametrizations.weight.original0", "weight_g").replace(
        "parametrizations.weight.original1", "weight_v")
    return re.sub(r"^quantizer\.layers\.(\d+)\.codebook\.", r"quantizer.vq.layers.\1._codebook.", name)


def save_as_audiocraft(toy, folder, masked=False, t5="t5-base", seconds=21, **changes):
    """Writes what audiocraft would have released of a toy, as a MusicGen or as a MAGNeT, that names this T5."""
    import torch
    import yaml

    folder.mkdir()
    state = toy.model.state_dict()
    theirs = {}
    for name, tensor in state.items():
        if name.startswith(("text_encoder.", "audio_encoder.")):
            continue
        if match := re.fullmatch(r"(.*)\.q_proj\.weight", name):
            parts = [state[f"{match[1]}.{part}_proj.weight"] for part in "qkv"]
            theirs[their_names(match[1]) + ".in_proj_weight"] = torch.cat(parts)
        elif not re.search(r"\.[kv]_proj\.weight", name):
            theirs[their_names(name)] = tensor
    decoder, melody = toy.model.config.decoder, toy.kind == "melody"
    if melody:  # buffers that are no weights
        theirs["condition_provider.conditioners.self_wav.chroma.fbanks"] = torch.zeros(12, 9)
    conditioners = {"description": {"model": "t5", "t5": {"name": t5}}}
    if melody:  # 9 frames of chroma
        conditioners["self_wav"] = {"model": "chroma_stem", "chroma_stem": {
            "sample_rate": "${sample_rate}", "n_chroma": 12, "radix2_exp": 13}}
    config = {
        "transformer_lm": {
            "dim": decoder.hidden_size, "num_heads": decoder.num_attention_heads, "n_q": decoder.num_codebooks,
            "num_layers": decoder.num_hidden_layers, "hidden_scale": decoder.ffn_dim / decoder.hidden_size,
            "card": decoder.vocab_size, "activation": "gelu", "norm_first": True, "bias_ff": False, "bias_attn": False,
            "bias_proj": False, "positional_embedding": "sin", "norm": "layer_norm", "kv_repeat": 1} | changes,
        "codebooks_pattern": {"modeling": "delay", "delay": {
            "delays": [k // decoder.audio_channels for k in range(decoder.num_codebooks)]}},
        "fuser": {"prepend": ["self_wav", "description"] if melody else [], "cross": [] if melody else ["description"]},
        "interleave_stereo_codebooks": {"use": decoder.audio_channels == 2}, "conditioners": conditioners,
        "sample_rate": 800, "dataset": {"segment_duration": seconds}}
    if masked:
        config |= {"lm_model": "transformer_lm_magnet", "codebooks_pattern": {"modeling": "parallel"},
                   "masking": {"span_len": 3}, "generate": {"lm": {
                       "temp": 3.5, "top_k": 0, "top_p": 0.8, "max_cfg_coef": 20.0, "min_cfg_coef": 1.0,
                       "decoding_steps": [6, 2, 2, 2], "span_scoring": "prod", "span_arrangement": "nonoverlap"}}}
        config["transformer_lm"] |= {"causal": False, "subcodes_context": 5}
    torch.save({"best_state": theirs, "xp.cfg": yaml.safe_dump(config), "version": "1.3.0", "exported": True},
               folder / "state_dict.bin")
    codec = {codec_names(name): tensor for name, tensor in toy.model.audio_encoder.state_dict().items()}
    config = {"sample_rate": 800, "encodec": {"causal": False, "renormalize": False, "sample_rate": "${sample_rate}"},
              "seanet": {"pad_mode": "reflect", "dilation_base": 2, "decoder": {"trim_right_ratio": 1.0}}}
    torch.save({"best_state": codec, "xp.cfg": yaml.safe_dump(config)}, folder / "compression_state_dict.bin")
    return folder
