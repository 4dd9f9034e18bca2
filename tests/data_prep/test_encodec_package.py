"""Meta's encodec package beside transformers and our own EnCodec; random weights, in files as Meta's checkpoints are.

Codes are judged by distance: where two ways differ, both entries must be equally near, up to the rounding of fp32.
"""

import dataclasses
import hashlib
import io
import json
import pathlib
import shutil
import sys
import tarfile

import numpy as np
import pytest
import soundfile
import torch

from autosong_jax.codecs.codec import load_codec
from autosong_jax.data.dataset import SongDataset
from autosong_jax.errors import UserError
from data_prep import codecs, encodec, encodec_package
from data_prep.pipeline import Options, export

torch.set_num_threads(1)
KINDS = ["24khz", "48khz"]
SECONDS = {"24khz": 20, "48khz": 8}  # of the recordings; two windows at 24 kHz, nine chunks at 48 kHz
pytestmark = pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")  # the package's way to normalise weights
# How far fp32 may be off in a frame's features, as a share of their length; ten times what it is in these networks.
ROUNDING = 1e-5
TIES = 0.01  # share of frames in which one of the entries may be as near as another


@pytest.fixture
def no_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "encodec", None)


@pytest.mark.parametrize(("codec", "words"), [
    ("melrvq", ["--codec_backend=encodec", "for EnCodec", "leave it out"]),
    ("encodec_32khz", ["--codec=encodec_32khz", "expected encodec_24khz, encodec_48khz", ".th file"]),
    ("facebook/encodec_24khz", ["--codec=facebook/encodec_24khz", "expected encodec_24khz, encodec_48khz"]),
    ("{tmp}", ["--codec={tmp}", "no checkpoint", "encodec_24khz-d7cc33bc.th"]),
    ("{tmp}/both", ["--codec={tmp}/both", "several", "encodec_24khz-x.th, encodec_48khz-x.th", "give the file"]),
    ("{tmp}/encodec_24khz-d7cc33bc.th", ["encodec_24khz-d7cc33bc.th is damaged", "says d7cc33bc", "download it again"]),
    ("{tmp}/code.th", ["--codec {tmp}/code.th", "holds more than weights", "pathlib"]),
    ("{tmp}/other.th", ["not a checkpoint of the encodec package"]),
    ("{tmp}/32khz", ["--codec={tmp}/32khz", "an encodec_32khz", "leave --codec_backend out"]),
    ("encodec_24khz", ["--codec_backend=encodec", "encodec", "pip install 'autosong_jax[encodec]'"]),
])
def test_what_cannot_be_had_is_one_line(codec, words, tmp_path, no_package):
    (tmp_path / "encodec_24khz-d7cc33bc.th").write_bytes(b"cut off")
    (tmp_path / "both").mkdir()
    for kind in KINDS:
        (tmp_path / "both" / f"encodec_{kind}-x.th").touch()
    (tmp_path / "both" / "encodec_lm_24khz-1608e3c0.th").touch()  # of the package, but no codec
    torch.save({"weights": pathlib.PurePosixPath("x")}, tmp_path / "code.th")
    torch.save({"weights": torch.zeros(3)}, tmp_path / "other.th")
    (tmp_path / "32khz").mkdir()
    (tmp_path / "32khz" / "config.json").write_text(json.dumps({"model_type": "encodec", "sampling_rate": 32000}))
    (tmp_path / "32khz" / "model.safetensors").write_bytes(b"\x02\0\0\0\0\0\0\0{}")
    if codec == "{tmp}":
        (tmp_path / "encodec_24khz-d7cc33bc.th").unlink()
    with pytest.raises(UserError) as error:
        codecs.get_codec(codec.format(tmp=tmp_path), None, "encodec")
    assert "\n" not in str(error.value)
    assert all(word.format(tmp=tmp_path) in str(error.value) for word in words), error.value


def test_torchaudio_that_does_not_load(tmp_path, monkeypatch):
    """The index's build of it for CUDA beside a CPU build of torch."""
    (tmp_path / "encodec.py").write_text("raise OSError('Could not load this library: _torchaudio.abi3.so')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "encodec", raising=False)
    with pytest.raises(UserError, match=r"torchaudio does not go with torch 2.*_torchaudio.abi3.so.*CPU, or both"):
        codecs.get_codec("encodec_24khz", None, "encodec")


# What follows needs the package.


@pytest.fixture(scope="module")
def clips():
    """The two recordings in the package's source distribution, float32 [channels, samples], by the kind of model."""
    found = sorted(pathlib.Path(sys.prefix).glob("encodec-*.tar.gz"))
    if not found:
        pytest.skip("no source distribution of the encodec package, which holds the recordings: make test-encodec")
    audio = {}
    with tarfile.open(found[-1]) as archive:
        for kind in KINDS:
            name = next(name for name in archive.getnames() if name.endswith(f"test_{kind[:-2]}.wav"))
            samples, rate = soundfile.read(io.BytesIO(archive.extractfile(name).read()), dtype="float32",
                                           always_2d=True)
            assert rate == 1000 * int(kind[:2])
            audio[kind] = np.ascontiguousarray(samples.T[:, :SECONDS[kind] * rate])
    return audio


def pieces(kind, audio):
    """A batch [B, C, samples] of what the encoder sees at once: all, or chunks at the loudness of the song."""
    if kind == "24khz":
        return torch.from_numpy(audio[None])
    scaled = audio / (np.sqrt(np.mean(audio.mean(axis=0) ** 2)) + 1e-8)
    chunks = 1 + -(-(audio.shape[1] - 48_000) // 47_520)
    scaled = np.pad(scaled, ((0, 0), (0, (chunks - 1) * 47_520 + 48_000 - audio.shape[1])))
    return torch.from_numpy(np.stack([scaled[:, start:start + 48_000] for start in range(0, chunks * 47_520, 47_520)]))


def random_model(kind, clip):
    """A model of the package whose features follow what it hears; its entries are drawn at random, half as far from the
    mean as what is left for them."""
    import encodec as package

    torch.manual_seed(0)
    model = getattr(package.EncodecModel, f"encodec_model_{kind}")(pretrained=False)
    with torch.inference_mode():
        for name, parameter in model.named_parameters():
            if name.endswith("weight_g"):
                parameter.mul_(2)
        left = model.encoder(pieces(kind, clip[:, :8 * model.sample_rate])).transpose(1, 2).flatten(0, 1)
        for layer in model.quantizer.vq.layers:
            mean, weights = left.mean(0), torch.randn(layer.codebook_size, len(left)) / len(left)**0.5
            layer._codebook.embed.copy_(mean + 0.5 * weights @ (left - mean))
            layer._codebook.inited.fill_(1)
            left = left - layer.codebook[layer._codebook.quantize(left)]
    return model


@pytest.fixture(scope="module")
def checkpoints(clips, tmp_path_factory):
    """Files of random weights as the package's own, each with the beginning of its hash in its name, in a directory."""
    directory = tmp_path_factory.mktemp("checkpoints")
    paths = {}
    for kind in KINDS:
        torch.save(random_model(kind, clips[kind]).state_dict(), directory / "new")
        hashed = hashlib.sha256((directory / "new").read_bytes()).hexdigest()[:8]
        paths[kind] = (directory / "new").rename(directory / f"encodec_{kind}-{hashed}.th")
    return paths


def float64_of(kind, checkpoint):
    import encodec as package

    model = getattr(package.EncodecModel, f"encodec_model_{kind}")(pretrained=False)
    model.load_state_dict(torch.load(checkpoint, weights_only=True))
    return model.double()


def count_ties(ours, theirs, features, codebooks):
    """How many frames differ; each must do so first where both entries are equally near.

    Args:
      ours, theirs: codes [T, K].
      features, codebooks: float64 [T, D] and [K, V, D].
    """
    assert ours.shape == theirs.shape
    frames = np.flatnonzero(np.any(ours != theirs, axis=1))
    for frame in frames:
        level = np.flatnonzero(ours[frame] != theirs[frame])[0]
        left = features[frame] - sum(codebooks[k, ours[frame, k]] for k in range(level))
        one, other = codebooks[level, ours[frame, level]], codebooks[level, theirs[frame, level]]
        apart = abs(np.square(left - one).sum() - np.square(left - other).sum())
        # Moved by as much as rounding may, the residual comes nearer to one and goes from the other.
        allowed = 2 * ROUNDING * np.linalg.norm(features[frame]) * np.linalg.norm(one - other)
        assert apart <= allowed, (frame, level, apart, allowed)
    return len(frames)


@pytest.mark.encodec
@pytest.mark.parametrize("kind", KINDS)
def test_all_ways_give_the_same_codes(kind, clips, checkpoints, tmp_path):
    """The package by itself, through an export's windows, transformers and JAX, at the highest bandwidth."""
    clip = clips[kind]
    codec = encodec_package.load(str(checkpoints[kind]), 24.0)
    codes = codec.encode(clip)
    assert codes.shape[1] == codec.info.num_codebooks == {"24khz": 32, "48khz": 16}[kind]
    assert all(len(np.unique(level)) > 100 for level in codes.T)  # the comparison is of something
    codec.save(tmp_path)
    batch, frames = pieces(kind, clip), len(codes)
    with torch.inference_mode():
        model = codec.network.model
        model.set_target_bandwidth(24.0)
        model.normalize = False  # `pieces` has done so, for the song rather than for each chunk
        whole = model.encode(batch)[0][0]  # [B, K, T]; what may follow is what overlaps with the next chunk alone
        exact = float64_of(kind, checkpoints[kind])
        features = exact.encoder(batch.double()).transpose(1, 2).flatten(0, 1).numpy()
    codebooks = np.stack([layer.codebook.numpy() for layer in exact.quantizer.vq.layers])
    with pytest.raises(AssertionError):  # the judge knows a code that is merely another one
        count_ties(codes.astype(int), (codes.astype(int) + 1) % 1024, features, codebooks)
    others = {"the package in one piece": whole.transpose(1, 2).flatten(0, 1).numpy()[:frames],
              "transformers": encodec.load(str(tmp_path)).encode(clip), "JAX": load_codec(tmp_path).encode(clip)}
    for name, theirs in others.items():
        ties = count_ties(codes.astype(int), theirs.astype(int), features, codebooks)
        print(f"{kind}, {name}: {ties} of {frames} frames differ, between entries equally near")
        assert ties <= TIES * frames


@pytest.mark.encodec
@pytest.mark.parametrize("kind", KINDS)
def test_decode_is_that_of_transformers(kind, clips, checkpoints, tmp_path):
    codec = encodec_package.load(str(checkpoints[kind]))
    codes = codec.encode(clips[kind][:, :3 * codec.sample_rate // 2])
    codec.save(tmp_path)
    expected = encodec.load(str(tmp_path)).decode(codes)
    assert expected.shape[0] == codec.channels and np.abs(expected).max() > 0.01
    np.testing.assert_allclose(codec.decode(codes), expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.encodec
@pytest.mark.parametrize("kind", KINDS)
def test_checkpoints_are_those_of_the_package(kind, checkpoints, monkeypatch, tmp_path):
    """Fetched by the name and from the place that the package has, once, and kept where it keeps them."""
    import encodec as package

    asked = []
    monkeypatch.setattr(package.EncodecModel, "_get_pretrained",
                        lambda name, repository: asked.append(name) or torch.load(checkpoints[kind]))
    theirs = getattr(package.EncodecModel, f"encodec_model_{kind}")(pretrained=True)
    assert asked == [encodec_package.CHECKPOINTS[f"encodec_{kind}"]]

    name = f"encodec_{kind}"
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(package.model, "ROOT_URL", checkpoints[kind].parent.as_uri() + "/")
    with pytest.raises(UserError, match=rf"{name} could not be fetched .*download file:.*{asked[0]}.* as --codec"):
        encodec_package.load(name)
    monkeypatch.setitem(encodec_package.CHECKPOINTS, name, checkpoints[kind].name)
    ours = encodec_package.load(name)
    assert ours.bandwidth == theirs.target_bandwidths[0] and ours.sample_rate == theirs.sample_rate
    for tensor, expected in zip(ours.network.model.state_dict().values(), theirs.state_dict().values(), strict=True):
        assert torch.equal(tensor, expected)
    kept = tmp_path / "hub" / "checkpoints" / checkpoints[kind].name
    monkeypatch.setattr(package.model, "ROOT_URL", "file:///nowhere/")
    encodec_package.load(name)
    kept.write_bytes(kept.read_bytes()[:-1])
    with pytest.raises(UserError, match=rf"{kept} is damaged"):
        encodec_package.load(name)


def test_a_directory_is_as_good_as_the_file_in_it(tmp_path):
    file = tmp_path / f"encodec_48khz-{hashlib.sha256(b'weights').hexdigest()[:8]}.th"
    file.write_bytes(b"weights")
    assert encodec_package.locate(str(tmp_path)) == encodec_package.locate(str(file)) == file


@pytest.mark.encodec
def test_weights_of_another_model(checkpoints, tmp_path):
    """A tensor too few, and one of another shape."""
    state = torch.load(checkpoints["24khz"])
    bias = state.pop("encoder.model.15.conv.conv.bias")
    torch.save(state, tmp_path / "few.th")
    torch.save(state | {"encoder.model.15.conv.conv.bias": bias[:-1]}, tmp_path / "short.th")
    with pytest.raises(UserError, match=r"few.th is not the encodec package's encodec_24khz.*15.conv.bias"):
        encodec_package.load(str(tmp_path / "few.th"))
    with pytest.raises(UserError, match=r"short.th is not the encodec package's encodec_24khz.*15.conv.conv.bias") as e:
        encodec_package.load(str(tmp_path / "short.th"))
    assert "\n" not in str(e.value)


@pytest.mark.encodec
@pytest.mark.parametrize("kind", KINDS)
def test_exports_of_both_backends(kind, clips, checkpoints, tmp_path):
    """The same but for the line that says what encoded."""
    folder = tmp_path / "songs" / "song"
    folder.mkdir(parents=True)
    (folder / "lyrics.txt").write_text("[verse]\nla la")
    rate = 1000 * int(kind[:2])
    soundfile.write(folder / "audio.wav", clips[kind][:, rate:4 * rate].T, rate, subtype="FLOAT")
    options = Options(str(tmp_path / "songs"), str(tmp_path / "meta"), codec=str(checkpoints[kind]), bandwidth=6.0,
                      codec_backend="encodec")
    finished, _ = export(options)
    codec = tmp_path / "meta" / "codec"
    assert finished["codec"]["backend"] == finished["options"]["codec_backend"] == "encodec"
    assert json.loads((codec / "codec.json").read_text())["backend"] == "encodec"
    moved = shutil.copy(checkpoints[kind], tmp_path)
    assert export(dataclasses.replace(options, codec=moved))[1] is None, "the same file in another place"
    plain, _ = export(Options(str(tmp_path / "songs"), str(tmp_path / "plain"), codec=str(codec)))
    assert "backend" not in plain["codec"] and "codec_backend" not in plain["options"]
    assert plain["codec"]["digest"] == finished["codec"]["digest"] and plain["codec"]["bandwidth"] == 6.0
    assert plain["codec"]["quality"] == pytest.approx(finished["codec"]["quality"], rel=1e-3)
    codes, theirs = (SongDataset(tmp_path / name, "train")[0]["frames"] for name in ("meta", "plain"))
    assert codes.shape[0] > 200 and codes.shape == theirs.shape
    assert np.any(codes != theirs, axis=1).mean() <= TIES
    # A model that sings decodes them; and the package encodes with what transformers saved.
    assert load_codec(codec).decode(codes[:80]).shape[0] == {"24khz": 1, "48khz": 2}[kind]
    audio = clips[kind][:, rate:4 * rate]
    np.testing.assert_array_equal(encodec_package.load(str(tmp_path / "plain" / "codec")).encode(audio), codes)
