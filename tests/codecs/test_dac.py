"""DAC from checkpoints with random weights against transformers."""

import copy
import dataclasses
import functools

import numpy as np
import pytest
import torch
import transformers

from autosong_jax.codecs import codec as codecs
from autosong_jax.codecs.dac import codec as dac
from autosong_jax.codecs.dac.settings import DacConfig
from autosong_jax.errors import UserError
from autosong_jax.weights import files
from data_prep import dac as prep
from tests.parity import not_nearest_direction

torch.set_num_threads(1)
HOP = 10
KINDS = {"even": [2, 4], "odd": [2, 5]}
LENGTHS = [1, HOP - 1, HOP, HOP + 1, 25 * HOP + 7, 90 * HOP]


@dataclasses.dataclass(frozen=True)
class Toy:
    """A model of transformers, and ours with the same weights; windows of 16 frames, so that there are several."""

    model: transformers.DacModel

    @property
    def tensors(self):
        return files.Tensors.of({name: value.numpy() for name, value in self.model.state_dict().items()}, "a toy")

    @functools.cached_property
    def codec(self):
        return dac.DacCodec(self.model.config.to_dict(), self.tensors, window=16)

    @functools.cached_property
    def exact(self):
        return copy.deepcopy(self.model).double()

    @property
    def levels(self):
        for quantizer in self.exact.quantizer.quantizers:
            parts = (quantizer.codebook.weight, quantizer.in_proj.weight[..., 0], quantizer.in_proj.bias,
                     quantizer.out_proj.weight[..., 0], quantizer.out_proj.bias)
            yield [part.detach().numpy() for part in parts]

    def filled(self, audio):
        """[1, 1, samples] up to the end of a frame."""
        return torch.from_numpy(np.pad(audio, ((0, 0), (0, -audio.shape[1] % self.codec.config.hop))))[None]

    @torch.inference_mode()
    def vectors(self, audio):
        """What is coded: float64 [T, D]."""
        return self.exact.encoder(self.filled(audio).double())[0].T.numpy()


@torch.inference_mode()
def make(ratios):
    """A model in which everything counts: alphas, biases, entries of any length."""
    torch.manual_seed(0)
    model = transformers.DacModel(transformers.DacConfig(
        encoder_hidden_size=4, decoder_hidden_size=16, downsampling_ratios=ratios, n_codebooks=3, codebook_size=32,
        codebook_dim=4, sampling_rate=1000)).eval()
    for name, parameter in model.named_parameters():
        if name.endswith("alpha"):
            parameter.uniform_(0.5, 2)
        elif name.endswith("bias"):
            parameter.normal_(std=0.1)
        elif "codebook" in name:
            parameter.normal_()
        else:
            parameter.normal_(std=parameter[0].numel() ** -0.5)
    model.decoder.conv2.weight.mul_(0.05)  # else tanh is 1 almost everywhere
    return model


@pytest.fixture(scope="module")
def toys():
    return {kind: Toy(make(ratios)) for kind, ratios in KINDS.items()}


def noise(samples):
    fades = np.linspace(0.01, 1, samples, dtype=np.float32)
    return fades * np.random.default_rng(samples).standard_normal((1, samples)).astype(np.float32)


@pytest.mark.parametrize("kind", KINDS)
def test_codes_and_audio_are_those_of_transformers(toys, kind, same_codes):
    """At once, in blocks of any length, and as an export codes them."""
    toy, codec = toys[kind], toys[kind].codec
    reference = prep.Dac(toy.model, window_seconds=0.1)
    assert codec.info == reference.info and codec.exact_blocks and codec.loudness([]) is None
    seen = set()
    for samples in LENGTHS:
        audio = noise(samples)
        with torch.inference_mode():
            expected = toy.model.encode(toy.filled(audio)).audio_codes[0].T.numpy()
        codes = codec.encode(audio)
        assert codes.dtype == np.uint16 and len(codes) == -(-samples // codec.config.hop)
        for others in expected, reference.encode(audio):
            same_codes(codes, others, toy.vectors(audio), list(toy.levels), not_nearest=not_nearest_direction)
        blocks = codec.encode_blocks(np.array_split(audio, 5, axis=1))
        np.testing.assert_array_equal(np.concatenate(list(blocks)), codes)
        with torch.inference_mode():
            decoded = toy.model.decode(audio_codes=torch.from_numpy(codes.astype(np.int64)).T[None]).audio_values
        assert decoded.shape[1] == len(codes) * codec.config.hop - codec.config.lost
        ours = codec.decode(codes)
        np.testing.assert_allclose(ours, decoded, atol=1e-4)
        np.testing.assert_allclose(reference.decode(codes), decoded, atol=1e-5)
        for options in {}, {"block_frames": 3}:
            pieces = list(codec.decode_blocks(np.array_split(codes, 5), **options))
            np.testing.assert_allclose(np.concatenate(pieces, axis=1), ours, atol=1e-5)
        seen |= set(codes[:, 0])
    assert len(seen) > 8 and np.abs(decoded).max() > 0.1, "the comparison is of something"
    with torch.inference_mode():
        latents = toy.model.quantizer.from_codes(torch.from_numpy(codes.astype(np.int64)).T[None])[0][0].T
    np.testing.assert_allclose(codec.latents(codes), latents, atol=1e-5)
    assert codec.encode(audio[:, :0]).shape == (0, 3) and codec.decode(codes[:0]).shape == (1, 0)


def test_odd_ratios_lose_samples():
    """As long as transformers' audio of a frame is, at the released ratios."""
    for ratios in ([2, 4, 8, 8], [2, 4, 5, 8], [3, 5], [5, 3]):
        model = make(ratios) if len(ratios) == 2 else make(ratios[:3])
        config = DacConfig.of(model.config.to_dict())
        with torch.inference_mode():
            audio = model.decode(audio_codes=torch.zeros((1, 3, 2), dtype=torch.long)).audio_values
        assert audio.shape[1] == 2 * config.hop - config.lost
    assert DacConfig(downsampling_ratios=(2, 4, 5, 8)).lost == 8 and DacConfig().lost == 0


def test_both_sides_write_the_same_codec(toys, tmp_path):
    """Either reads what the other wrote, weight norm folded or not, and the command opens a released checkpoint."""
    toy, audio = toys["odd"], noise(333)
    prep.Dac(toy.model).save(tmp_path / "theirs")
    ours = codecs.load_codec(tmp_path / "theirs")
    ours.save(tmp_path / "ours")
    assert (tmp_path / "ours" / "codec.json").read_text() == (tmp_path / "theirs" / "codec.json").read_text()
    codes = toy.codec.encode(audio)
    normed = copy.deepcopy(toy.model)
    normed.apply_weight_norm()
    tensors = {name: value.numpy() for name, value in normed.state_dict().items()}
    assert any("parametrizations" in name for name in tensors)
    files.write(tmp_path / "released", iter(tensors.items()))
    toy.model.config.save_pretrained(tmp_path / "released")
    for other in (codecs.load_codec(tmp_path / "ours"), prep.load(str(tmp_path / "ours")),
                  codecs.open_codec(str(tmp_path / "released"))):
        np.testing.assert_array_equal(other.encode(audio), codes)
    with pytest.raises(UserError, match=r"--bandwidth=3 .* holds a dac"):
        codecs.open_codec(str(tmp_path / "released"), 3.0)


@pytest.mark.parametrize(("change", "words"), [
    ({"model_type": "encodec"}, "is a 'encodec' model, expected dac"), ({"hidden_size": 17}, "hidden_size 17, "),
    ({"n_codebooks": 0}, "n_codebooks 0"), ({"downsampling_ratios": []}, "downsampling_ratios"),
    ({"decoder_hidden_size": 18}, "decoder_hidden_size 18"), ({"codebook_size": "many"}, "codebook_size 'many'")])
def test_configs_that_cannot_be_used(toys, change, words):
    config = toys["even"].model.config.to_dict()
    with pytest.raises(UserError, match=words):
        dac.DacCodec(config | change, toys["even"].tensors)


def test_tensors_of_another_model(toys):
    with pytest.raises(UserError, match=r"decoder\.block\.0\.conv_t1\.weight of shape"):
        dac.DacCodec(toys["odd"].model.config.to_dict(), toys["even"].tensors)
