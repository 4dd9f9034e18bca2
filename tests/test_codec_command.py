"""`python -m autosong_jax.codec` on files, in processes without PyTorch."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import transformers

from autosong_jax.audio import io
from autosong_jax.codecs.codec import load_codec, open_codec
from autosong_jax.codecs.melrvq.codec import MelRVQ

ROOT = Path(__file__).resolve().parent.parent
torch.set_num_threads(1)


@pytest.fixture(scope="module")
def run(environment_without):
    environment = environment_without("torch", "tensorflow", "transformers") | {"HF_HUB_OFFLINE": "1"}

    def run(*arguments):
        return subprocess.run([sys.executable, "-m", "autosong_jax.codec", *map(str, arguments)], cwd=ROOT,
                              env=environment, capture_output=True, text=True)

    return run


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """An EnCodec that codes chunks at a loudness of their song, as transformers saves it; a MelRVQ; three seconds."""
    folder = tmp_path_factory.mktemp("codecs")
    torch.manual_seed(0)
    config = transformers.EncodecConfig(
        num_filters=4, hidden_size=8, codebook_size=64, upsampling_ratios=[5, 4], sampling_rate=1000,
        audio_channels=2, target_bandwidths=[0.6, 1.2], norm_type="time_group_norm", use_causal_conv=False,
        normalize=True, chunk_length_s=1.0, overlap=0.01)
    model = transformers.EncodecModel(config)
    for layer in model.quantizer.layers:
        layer.codebook.embed.normal_()
    model.save_pretrained(folder / "encodec")
    noise = 0.1 * np.random.default_rng(0).standard_normal((1, 48000)).astype(np.float32)
    MelRVQ.fit([noise], codebook_size=16).save(folder / "dataset" / "codec")
    soundfile.write(folder / "song.wav", noise[0], 16000)
    np.save(folder / "text.npy", np.array(["codes"]))
    np.save(folder / "wide.npy", np.zeros((5, 7), np.uint16))
    np.save(folder / "large.npy", np.full((5, 2), 64))
    np.savez(folder / "several.npz", codes=np.zeros((5, 2), np.uint16))
    for name in ("empty", "taken.npy"):
        (folder / name).mkdir()
    return folder


@pytest.fixture
def command(monkeypatch):
    """`command(*arguments)` runs it in this process, which is sooner, and gives its exit status."""
    from absl import flags

    from autosong_jax import cli, codec

    values = flags.FlagValues()
    monkeypatch.setattr(flags, "FLAGS", values)
    monkeypatch.setattr(codec, "FLAGS", values)
    for name, define in [("codec", flags.DEFINE_string), ("bandwidth", flags.DEFINE_float),
                         ("input", flags.DEFINE_string), ("output", flags.DEFINE_string)]:
        define(name, None, "", flag_values=values)
    flags.mark_flags_as_required(["codec", "input", "output"], values)

    def command(*arguments):
        values.unparse_flags()
        with pytest.raises(SystemExit) as ended:
            cli.run(codec.main, ["codec", *arguments], verbs=codec.VERBS)
        return ended.value.code

    return command


def test_codes_in_a_file_are_the_songs(run, folder, tmp_path):
    """At the bandwidth asked for; decoded they are the codec's audio; at once, at the song's own loudness."""
    from autosong_jax.codecs.encodec import codec as encodec

    common = ("--codec", folder / "encodec", "--bandwidth=1.2")
    process = run("encode", *common, "--input", folder / "song.wav", "--output", tmp_path / "codes.npy")
    assert process.returncode == 0, process.stderr
    codec = encodec.load(folder / "encodec", 1.2)
    audio, _ = io.read(folder / "song.wav", 1000, 2)
    codes = np.load(tmp_path / "codes.npy")
    assert codes.dtype == np.uint16 and codes.shape == (152, 4)
    np.testing.assert_array_equal(codes, codec.encode(audio))
    process = run("decode", *common, "--input", tmp_path / "codes.npy", "--output", tmp_path / "song.wav")
    assert process.returncode == 0, process.stderr
    decoded, rate = io.read(tmp_path / "song.wav")
    assert rate == 1000
    np.testing.assert_allclose(decoded, np.clip(codec.decode(codes), -1, 1), atol=1e-4)
    process = run("roundtrip", *common, "--input", folder / "song.wav", "--output", tmp_path / "coded.wav")
    assert process.returncode == 0, process.stderr
    coded, _ = io.read(tmp_path / "coded.wav")
    assert coded.shape == audio.shape
    gain = codec.loudness([audio]) / 0.1
    np.testing.assert_allclose(coded, np.clip(gain * codec.decode(codes)[:, :3000], -1, 1), atol=1e-4)


def test_the_codec_of_a_dataset(run, folder, tmp_path):
    process = run("encode", "--codec", folder / "dataset", "--input", folder / "song.wav", "--output",
                  tmp_path / "codes.npy")
    assert process.returncode == 0, process.stderr
    codec = load_codec(folder / "dataset" / "codec")
    np.testing.assert_array_equal(np.load(tmp_path / "codes.npy"), codec.encode(io.read(folder / "song.wav")[0]))


@pytest.mark.parametrize("name", ["mel:sample_rate=16000,hop=64,n_mels=64", "pcm:sample_rate=16000,hop=64"])
def test_frames_of_values(command, folder, tmp_path, capsys, name):
    """By the directory and by the name of a codec that has nothing but settings; in blocks, as at once."""
    codec = open_codec(name)
    codec.save(tmp_path / "dataset" / "codec")
    audio = io.read(folder / "song.wav")[0]
    assert not command("encode", f"--codec={name}", f"--input={folder}/song.wav", f"--output={tmp_path}/frames.npy")
    assert "frames.npy: 750 frames of 64 values (3.00 s)" in capsys.readouterr().out
    frames = np.load(tmp_path / "frames.npy")
    assert frames.dtype == codec.info.frames.dtype
    np.testing.assert_array_equal(frames, codec.encode(audio))
    for verb, source in (("decode", tmp_path / "frames.npy"), ("roundtrip", folder / "song.wav")):
        assert not command(verb, f"--codec={tmp_path}/dataset", f"--input={source}", f"--output={tmp_path}/{verb}.wav")
        decoded, rate = io.read(tmp_path / f"{verb}.wav")
        assert rate == 16000
        np.testing.assert_allclose(decoded, np.clip(codec.decode(frames), -1, 1), atol=1e-4)


@pytest.mark.parametrize(("arguments", "words"), [
    (["play"], ["encode, decode, roundtrip", "'play'"]),
    ([], ["encode, decode, roundtrip", "nothing"]),
    (["encode", "--codec=encodec", "--input=song.wav", "--output=x.npy", "more"], ["'more'", "--help"]),
    (["encode", "--codec=encodec", "--input=song.wav"], ["--output"]),
    (["encode", "--codec=encodec", "--input=song.wav", "--output=x.wav"], ["x.wav", ".npy"]),
    (["encode", "--codec=encodec", "--input=song.wav", "--output=taken.npy"], ["taken.npy is a directory"]),
    (["decode", "--codec=encodec", "--input=wide.npy", "--output=nowhere/x.wav"], ["nowhere", "make it first"]),
    (["encode", "--codec=encodec", "--input=none.wav", "--output=x.npy"], ["none.wav", "does not exist"]),
    (["encode", "--codec=encodec", "--input=text.npy", "--output=x.npy"], ["text.npy", "not readable audio"]),
    (["encode", "--codec=empty", "--input=song.wav", "--output=x.npy"], ["empty/config.json"]),
    (["encode", "--codec=./none", "--input=song.wav", "--output=x.npy"], ["--codec=./none", "not a directory"]),
    (["encode", "--codec=encodec_24khz", "--input=song.wav", "--output=x.npy"],
     ["hf download facebook/encodec_24khz --local-dir DIR"]),
    (["encode", "--codec=encodec", "--bandwidth=3", "--input=song.wav", "--output=x.npy"], ["3.0", "0.6, 1.2 kbit/s"]),
    (["encode", "--codec=melrvq", "--input=song.wav", "--output=x.npy"], ["--codec=melrvq is fitted", "DATASET/codec"]),
    (["encode", "--codec=dataset", "--bandwidth=3", "--input=song.wav", "--output=x.npy"],
     ["--bandwidth=3", "dataset/codec holds a melrvq"]),
    (["decode", "--codec=encodec", "--input=several.npz", "--output=x.wav"], ["several.npz", ".npy file of codes"]),
    (["decode", "--codec=encodec", "--input=song.wav", "--output=x.wav"], ["song.wav", ".npy"]),
    (["decode", "--codec=encodec", "--input=text.npy", "--output=x.wav"], ["text.npy", "integers [frames, 2]"]),
    (["decode", "--codec=encodec", "--input=wide.npy", "--output=x.wav"], ["[5, 7]", "bandwidth"]),
    (["decode", "--codec=encodec", "--input=large.npy", "--output=x.wav"], ["64", "[0, 64)"]),
    (["decode", "--codec=mel", "--input=wide.npy", "--output=x.wav"], ["[5, 7]", "integers [frames, 256] in [0, 256)"]),
    (["encode", "--codec=mel:hop=1", "--input=song.wav", "--output=x.npy"], ["hop is 1, expected at most n_fft"]),
])
def test_a_wrong_command_line_is_one_plain_line(command, folder, monkeypatch, capsys, arguments, words):
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert command(*arguments) == 2
    stderr = capsys.readouterr().err
    assert stderr.startswith("error: ") and stderr.count("\n") == 1
    assert all(word in stderr for word in words), stderr
    assert not (folder / "x.npy").exists() and not (folder / "x.wav").exists()
