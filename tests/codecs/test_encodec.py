"""EnCodec from checkpoints with random weights against transformers and the encodec package."""

import contextlib
import dataclasses
import functools
import json
import re

import numpy as np
import pytest
import torch
import transformers

from autosong_jax.codecs.codec import load_codec
from autosong_jax.codecs.encodec import codec as encodec
from autosong_jax.codecs.encodec import names as encodec_names
from autosong_jax.errors import UserError
from autosong_jax.weights import files
from data_prep import encodec as prep
from tests.parity import Exact

torch.set_num_threads(1)
RATIOS, HOP = [5, 4], 20
KINDS = {
    "24khz": {"sampling_rate": 100 * HOP},
    "32khz": {"sampling_rate": 100 * HOP, "use_causal_conv": False, "use_conv_shortcut": False,
              "pad_mode": "constant", "target_bandwidths": [2.4]},
    "48khz": {"sampling_rate": 40 * HOP, "use_causal_conv": False, "norm_type": "time_group_norm", "audio_channels": 2,
              "normalize": True, "chunk_length_s": 1.0, "overlap": 0.01, "target_bandwidths": [0.48, 0.96]},
}
LENGTHS = [1, HOP - 1, HOP, HOP + 1, 16 * HOP + 1, 39 * HOP + 7, 40 * HOP, 61 * HOP - 1]


@dataclasses.dataclass(frozen=True)
class Toy:
    """A model of transformers, and ours with the same weights; windows of 16 frames, so that there are several."""

    model: transformers.EncodecModel

    @property
    def tensors(self):
        return files.Tensors.of({name: value.numpy() for name, value in self.model.state_dict().items()}, "a toy")

    def codec(self, bandwidth=None, **options):
        options = {"window": 16} | options
        return encodec.EncodecCodec(self.model.config.to_dict(), self.tensors, bandwidth, **options)

    @functools.cached_property
    def exact(self):
        return Exact(self.model)

    def vectors(self, audio):
        """What is coded of a song [channels, samples], as an export codes it: float64 [T or more, D]."""
        def encode(model):
            return prep.Encodec(prep.Transformers(model), model.config.target_bandwidths[0]).encode(audio.astype(float))

        return np.concatenate([x.reshape(-1, x.shape[2]) for x in self.exact.vectors(encode)])


@torch.inference_mode()
def fit_codebooks(model):
    """Makes the entries of a random model what is left of some audio, so that codes vary."""
    fades = torch.linspace(0.01, 1, 100 * HOP)
    audio = torch.cat([torch.randn(1, model.config.audio_channels, 100 * HOP) * fades, torch.from_numpy(
        sweep(model.config.audio_channels, 100 * HOP)[:1])], dim=2)
    left = model.encoder(audio)
    for layer in model.quantizer.layers:
        layer.codebook.embed.copy_(left[0].T[torch.randperm(left.shape[2])[:layer.codebook.codebook_size]])
        left = left - layer.decode(layer.encode(left))


@pytest.fixture(scope="module")
def toys():
    """One of each kind."""
    made = {}
    for kind, settings in KINDS.items():
        torch.manual_seed(0)
        config = transformers.EncodecConfig(**{
            "num_filters": 4, "hidden_size": 8, "codebook_size": 64, "upsampling_ratios": RATIOS,
            "target_bandwidths": [1.2, 2.4]} | settings)
        model = transformers.EncodecModel(config).eval()
        fit_codebooks(model)
        made[kind] = Toy(model)
    return made


def noise(channels, samples, batch=1):
    return np.random.default_rng(samples).standard_normal((batch, channels, samples)).astype(np.float32)


def sweep(channels, samples):
    """All frequencies up to half the rate, one after the other."""
    return np.tile(0.5 * np.sin(np.pi / 2 * np.arange(samples) ** 2 / samples).astype(np.float32), (2, channels, 1))


def rows(codes, vectors):
    """Codes [B, K, T] of each chunk, of which the first frames are those of vectors [B, t, D], as [frames, K]."""
    return np.concatenate([np.moveaxis(np.asarray(chunk)[..., :x.shape[1]], 1, 2).reshape(-1, chunk.shape[1])
                           for chunk, x in zip(codes, vectors, strict=True)])


@pytest.mark.parametrize("kind", KINDS)
def test_codes_and_audio_are_those_of_transformers(toys, kind, same_codes):
    """Of noise of any length and of a sweep, in batches, at every bandwidth."""
    model, exact = toys[kind].model, toys[kind].exact
    channels = model.config.audio_channels
    signals = [noise(channels, samples, 2) for samples in LENGTHS] + [sweep(channels, 2000)]
    for bandwidth in model.config.target_bandwidths:
        codec = toys[kind].codec(bandwidth)
        for audio in signals:
            with torch.inference_mode():
                out = model.encode(torch.from_numpy(audio), bandwidth=bandwidth)
            codes, scales, missing = codec.encode_batch(audio)
            vectors = exact.vectors(functools.partial(
                type(model).encode, input_values=torch.from_numpy(audio).double(), bandwidth=bandwidth))
            assert codes.shape == out.audio_codes.shape
            same_codes(rows(codes, vectors), rows(out.audio_codes, vectors),
                       np.concatenate([x.reshape(-1, x.shape[2]) for x in vectors]), exact.codebooks)
            filled = vectors[-1].shape[1]
            assert not codes[-1][..., filled:].any() and not out.audio_codes[-1][..., filled:].any()
            with torch.inference_mode():
                decoded = model.decode(torch.from_numpy(codes.astype(np.int64)), out.audio_scales,
                                       last_frame_pad_length=out.last_frame_pad_length).audio_values
            assert missing == out.last_frame_pad_length
            assert len(np.unique(codes)) > 16 or audio.shape[2] < 300  # the comparison is of something
            if model.config.normalize:
                np.testing.assert_allclose(scales, torch.stack(list(out.audio_scales)), rtol=1e-5)
            np.testing.assert_allclose(codec.decode_batch(codes, scales, missing), decoded, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_songs_are_coded_as_an_export_codes_them(toys, kind, same_codes):
    """In one piece, and in blocks of any length; chunks at the loudness of the song."""
    model = toys[kind].model
    codec, reference = toys[kind].codec(), prep.Encodec(prep.Transformers(model), model.config.target_bandwidths[0])
    assert codec.info == reference.info
    for samples in LENGTHS:
        audio = noise(codec.channels, samples)[0]
        codes = codec.encode(audio)
        assert codes.dtype == np.uint16
        same_codes(codes, reference.encode(audio), toys[kind].vectors(audio)[:len(codes)], toys[kind].exact.codebooks)
        np.testing.assert_allclose(codec.decode(codes), reference.decode(codes), atol=1e-5)
        blocks = np.array_split(audio, 5, axis=1)
        loudness = codec.loudness(blocks)
        np.testing.assert_array_equal(np.concatenate(list(codec.encode_blocks(blocks, loudness))), codes)
        pieces = list(codec.decode_blocks(np.array_split(codes, 5)))
        np.testing.assert_allclose(np.concatenate(pieces, axis=1), codec.decode(codes), atol=1e-6)
        pieces = list(toys[kind].codec(window=64).decode_blocks([codes], block_frames=3))
        assert codec.exact_blocks and (len(pieces) > 1 or len(codes) <= 40)
        np.testing.assert_allclose(np.concatenate(pieces, axis=1), codec.decode(codes), atol=1e-5)
    assert codec.encode(audio[:, :0]).shape == (0, codec.info.num_codebooks)
    assert codec.decode(codes[:0]).shape == (codec.channels, 0)


def test_programs_are_few_and_blocks_are_not_held(toys):
    """However many lengths there are; and codes come before the song has ended."""
    codec = toys["24khz"].codec()
    for samples in (1, 100 * HOP):
        codec.encode(noise(1, samples)[0])
    before = encodec._encode._cache_size()
    for samples in range(1, 100 * HOP, 97):
        codec.encode(noise(1, samples)[0])
    assert encodec._encode._cache_size() <= before + 1
    taken = []

    def endless():
        while True:
            taken.append(HOP)
            yield np.zeros((1, HOP), np.float32)

    codes = codec.encode_blocks(endless())
    assert len(next(codes)) == 16 and len(taken) < 40


def test_stereo_of_a_mono_model(toys, tmp_path, same_codes):
    toy = toys["32khz"]
    codec, alone = toy.codec(stereo=True), toy.codec()
    assert (codec.channels, codec.info.num_codebooks) == (2, 2 * alone.info.num_codebooks)
    audio = noise(2, 777)[0]
    codes = codec.encode(audio)
    reference = prep.Encodec(prep.Transformers(toy.model), 2.4, stereo=True)
    codec.save(tmp_path)
    np.testing.assert_array_equal(load_codec(tmp_path).encode(audio), codes)
    exported, loaded = reference.encode(audio), prep.load(str(tmp_path)).encode(audio)
    for side in range(2):
        vectors = toy.vectors(audio[side:side + 1])
        for others in exported[:, side::2], loaded[:, side::2], alone.encode(audio[side:side + 1]):
            same_codes(codes[:, side::2], others, vectors, toy.exact.codebooks)
        np.testing.assert_allclose(codec.decode(codes)[side:side + 1], alone.decode(codes[:, side::2]), atol=1e-5)
        with torch.inference_mode():
            latents = toy.model.quantizer.decode(torch.from_numpy(codes[:, side::2].astype(np.int64)).T[:, None])[0].T
        np.testing.assert_allclose(alone.latents(codes[:, side::2]), latents, atol=1e-5)
        np.testing.assert_allclose(np.split(codec.latents(codes), 2, axis=1)[side], latents, atol=1e-5)
    with pytest.raises(UserError, match="one channel"):
        toys["48khz"].codec(stereo=True)


@pytest.mark.parametrize("bandwidth", [1.2, 2.4])
def test_both_sides_write_the_same_codec(toys, tmp_path, bandwidth, same_codes):
    """Either reads what the other wrote, its bandwidth included."""
    toy = toys["24khz"]
    prep.Encodec(prep.Transformers(toy.model), bandwidth).save(tmp_path / "theirs")
    ours = load_codec(tmp_path / "theirs")
    ours.save(tmp_path / "ours")
    assert ((tmp_path / "ours" / "codec.json").read_text() == (tmp_path / "theirs" / "codec.json").read_text())
    assert ours.info.digest == toy.codec(bandwidth).info.digest
    audio = noise(1, 999)[0]
    codes = ours.encode(audio)
    np.testing.assert_array_equal(load_codec(tmp_path / "ours").encode(audio), codes)
    same_codes(codes, prep.load(str(tmp_path / "ours")).encode(audio), toy.vectors(audio), toy.exact.codebooks)


def test_digest_is_of_the_codebooks_used(toys):
    digests = {toys[kind].codec(bandwidth).info.digest
               for kind, bandwidth in [("24khz", 1.2), ("24khz", 2.4), ("32khz", 2.4)]}
    assert len(digests) == 3


def old_names(name):
    """As PyTorch called the parts of a weight-normed weight before it had parametrizations."""
    return name.replace("parametrizations.weight.original0", "weight_g").replace(
        "parametrizations.weight.original1", "weight_v")


def package_names(name):
    """From the names of Hugging Face to those of the encodec package."""
    name = re.sub(r"quantizer\.layers\.(\d+)\.codebook", r"quantizer.vq.layers.\1._codebook", old_names(name))
    transposed = re.fullmatch(r"decoder\.layers\.(3|6)\.(conv|norm)\.\w+", name)
    name = re.sub(r"\.layers\.(\d+)\.(?=.*(conv|norm|lstm)\.)", r".model.\1.", name, count=1)
    return re.sub(r"\.(conv|norm)\.", r".convtr.\1." if transposed else r".conv.\1.", name).replace(
        "convtr.conv.", "convtr.convtr.")


def test_old_names_and_shards(toys, tmp_path, same_codes):
    toy = toys["24khz"]
    toy.model.config.save_pretrained(tmp_path)
    files.write(tmp_path, ((old_names(name), toy.tensors.read(name)) for name in toy.tensors), max_shard_bytes=20_000)
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    audio = noise(1, 999)[0]
    codes = toy.codec().encode(audio)
    np.testing.assert_array_equal(encodec.load(tmp_path).encode(audio), codes)
    encodec.load(tmp_path).save(tmp_path / "saved")
    same_codes(codes, prep.load(str(tmp_path / "saved")).encode(audio), toy.vectors(audio), toy.exact.codebooks)


@pytest.mark.parametrize("kind", KINDS)
def test_package_names(toys, kind):
    """The config is what the shapes and the kind of model say."""
    toy = toys[kind]
    renamed = files.Tensors.of({package_names(name): toy.tensors.read(name) for name in toy.tensors}, "a package")
    assert "decoder.model.3.convtr.convtr.bias" in renamed and "quantizer.vq.layers.1._codebook.embed" in renamed
    settings = {"sampling_rate": toy.model.config.sampling_rate}
    config, tensors = encodec_names.from_package(renamed, **settings)
    expected = toy.model.config.to_dict()
    assert set(config) - {"architectures"} <= set(expected)
    config["target_bandwidths"], bandwidths = expected["target_bandwidths"], config["target_bandwidths"]
    assert all(config[name] == expected[name] for name in config if name != "architectures")
    assert bandwidths[-1] == expected["target_bandwidths"][-1]
    codec = encodec.EncodecCodec(config, tensors, window=16)
    audio = noise(codec.channels, 999)[0]
    np.testing.assert_array_equal(codec.encode(audio), toy.codec().encode(audio))


@pytest.mark.encodec
@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")  # the package's way to normalise weights
@pytest.mark.parametrize("kind", ["24khz", "48khz"])
def test_the_package_itself(kind, same_codes):
    import encodec as package

    torch.manual_seed(0)
    model = getattr(package.EncodecModel, f"encodec_model_{kind}")(pretrained=False).eval()
    audio = 0.1 * noise(model.channels, model.sample_rate + 77)
    with torch.inference_mode():
        for layer in model.quantizer.vq.layers:
            layer._codebook.embed.normal_()
            layer._codebook.inited.fill_(1)
        model.set_target_bandwidth(6.0)
        frames = model.encode(torch.from_numpy(audio))
    plain = getattr(package.EncodecModel, f"encodec_model_{kind}")(pretrained=False).eval()
    plain.load_state_dict(model.state_dict())
    plain.set_target_bandwidth(6.0)
    for module in plain.modules():  # its way to normalise weights cannot be copied
        with contextlib.suppress(ValueError):
            torch.nn.utils.remove_weight_norm(module)
    exact = Exact(plain)
    vectors = exact.vectors(lambda model: model.encode(torch.from_numpy(audio).double()))
    state = files.Tensors.of({name: value.numpy() for name, value in model.state_dict().items()}, "the package")
    codec = encodec.EncodecCodec(*encodec_names.from_package(state), 6.0)
    codes, scales, missing = codec.encode_batch(audio)
    same_codes(rows(codes, vectors), rows([theirs for theirs, _ in frames], vectors),
               np.concatenate([x.reshape(-1, x.shape[2]) for x in vectors]), exact.codebooks)
    with torch.inference_mode():
        decoded = model.decode([(torch.from_numpy(ours[..., :x.shape[1]].astype(np.int64)), scale)
                                for ours, x, (_, scale) in zip(codes, vectors, frames, strict=True)])
    np.testing.assert_allclose(codec.decode_batch(codes, scales, missing), decoded, atol=1e-4)


@pytest.fixture
def saved(toys, tmp_path):
    toys["24khz"].codec().save(tmp_path)
    return tmp_path


@pytest.mark.parametrize(("change", "words"), [
    ({"model_type": "t5"}, ["'t5' model", "expected encodec"]),
    ({"num_filters": 8}, ["model.safetensors", "decoder.layers.0.conv.bias", "[16]", "[32]"]),
    ({"use_conv_shortcut": False}, ["shortcut", "no place"]),
    ({"num_residual_layers": 2}, ["lacks the tensor", "EnCodec"]),
    ({"norm_type": "layer_norm"}, ["norm_type", "layer_norm", "time_group_norm"]),
    ({"pad_mode": "replicate"}, ["pad_mode", "replicate", "reflect"]),
    ({"upsampling_ratios": "many"}, ["upsampling_ratios", "'many'", "(8, 5, 4, 2)"]),
    ({"num_filters": None}, ["num_filters", "None", "32"]),
    ({"norm_type": "time_group_norm"}, ["chunk_length_s"]),
])
def test_other_models_are_refused(saved, change, words):
    config = json.loads((saved / "config.json").read_text())
    (saved / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(UserError) as error:
        load_codec(saved)
    assert "\n" not in str(error.value) and all(word in str(error.value) for word in words), error.value


def test_damaged_files_are_named(saved):
    path = saved / "model.safetensors"
    whole = path.read_bytes()
    for contents, words in [(whole[:-9], "cut off"), (b"PK\x03\x04" + whole, "pickle"), (b"", "cut off")]:
        path.write_bytes(contents)
        with pytest.raises(UserError, match=words):
            load_codec(saved)
    path.unlink()
    with pytest.raises(UserError, match=r"expected model\.safetensors"):
        load_codec(saved)


def test_bandwidths_and_codes_that_there_are_not(toys, saved):
    with pytest.raises(UserError, match=r"bandwidth=3.0 .* one of 1.2, 2.4 kbit/s"):
        encodec.load(saved, 3.0)
    codec = toys["24khz"].codec()
    for codes, words in [(np.zeros((4, 3), int), "expected .frames, 2"), (np.full((4, 2), 64), "expected 0 to 63")]:
        with pytest.raises(ValueError, match=words):
            codec.decode(codes)
    with pytest.raises(ValueError, match=r"expected \[1, samples"):
        codec.encode(np.zeros((2, 100), np.float32))
    with pytest.raises(ValueError, match="loudness"):
        list(toys["48khz"].codec().encode_blocks([np.zeros((2, 100), np.float32)]))
    with pytest.raises(UserError, match="not a checkpoint of the encodec package"):
        encodec_names.from_package(files.Tensors.of({"model.layers.0.weight": np.zeros(3)}, "x.bin"))
