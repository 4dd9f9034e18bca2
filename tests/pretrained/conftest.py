"""Toy MusicGens with random weights, saved as the hub holds released ones."""

import dataclasses
import pathlib
from typing import Any

import numpy as np
import pytest

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


@pytest.fixture(scope="session")
def make_musicgen():
    """`make_musicgen("mono", folder, width=64)` saves a toy and gives it: 50 frames/s, 64 entries a codebook."""
    import torch
    import transformers

    torch.set_num_threads(1)
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -4.0), *(("▁" + word, -2.0) for word in WORDS)]

    def make(kind, folder, *, shard="1GB", seed=0, **changes):
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

    return make


@pytest.fixture(scope="session", params=SHAPES)
def musicgen(request, make_musicgen, tmp_path_factory):
    """A toy of each kind, in several shards."""
    return make_musicgen(request.param, tmp_path_factory.mktemp("musicgen") / request.param, shard="40KB")


@pytest.fixture(scope="session")
def imported(musicgen, tmp_path_factory):
    """The workdir that `musicgen` becomes."""
    from autosong_jax.pretrained import released

    workdir = tmp_path_factory.mktemp("imported") / musicgen.kind
    released.read(str(musicgen.directory)).write(workdir)
    return workdir
