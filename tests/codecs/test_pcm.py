"""PCM frames: the samples themselves, hop by hop, beside the mel of the same hops."""

import numpy as np
import pytest

from autosong_jax.codecs.codec import load_codec, open_codec
from autosong_jax.codecs.mel.codec import Mel
from autosong_jax.codecs.mel.settings import MelConfig
from autosong_jax.codecs.pcm.codec import Pcm
from autosong_jax.codecs.pcm.settings import PcmConfig


@pytest.fixture(scope="module")
def codec():
    return Pcm(PcmConfig(sample_rate=16_000, hop=64))


@pytest.mark.parametrize("samples", [0, 1, 63, 64, 65, 1000])
def test_audio_of_16_bits_comes_back(codec, samples):
    audio = np.random.default_rng(0).integers(-2**15, 2**15, samples).astype(np.int16)
    frames = codec.encode((audio / 2**15).astype(np.float32)[None])
    assert (frames.shape, frames.dtype) == ((-(-samples // 64), 64), np.int16)
    np.testing.assert_array_equal(frames.reshape(-1)[:samples], audio)
    decoded = codec.decode(frames)
    assert decoded.dtype == np.float32
    np.testing.assert_array_equal(decoded, np.pad(audio, (0, -samples % 64))[None] / 2**15)


def test_blocks_are_the_whole_and_audio_beyond_full_scale_is_clipped(codec):
    audio = np.random.default_rng(0).standard_normal((1, 777)).astype(np.float32)
    frames = codec.encode(audio)
    assert frames.min() == -2**15 and frames.max() == 2**15 - 1 and not frames[-1, 777 - 12 * 64:].any()
    np.testing.assert_array_equal(np.concatenate(list(codec.encode_blocks(np.array_split(audio, 9, axis=1)))), frames)
    decoded = np.concatenate(list(codec.decode_blocks(np.array_split(frames, 4), block_frames=1)), axis=1)
    np.testing.assert_array_equal(decoded, codec.decode(frames))
    assert codec.exact_blocks and np.abs(decoded[:, :777] - np.clip(audio, -1, 1)).max() <= 2**-15
    with pytest.raises(ValueError, match=r"expected \[1, samples\]"):
        codec.encode(np.zeros((2, 640), np.float32))


def test_its_frames_are_those_of_mel(codec):
    """Of a click in hop 20: the samples are in frame 20, around which mel has its energy."""
    mel = Mel(MelConfig(sample_rate=16_000, hop=64, n_mels=64))
    audio = np.zeros((1, 3001), np.float32)
    audio[0, 20 * 64 + 31] = 0.5
    frames, bands = codec.encode(audio), mel.bands(audio)
    assert len(frames) == len(bands) and np.flatnonzero(frames.any(axis=1)).tolist() == [20]
    assert bands.sum(axis=1).argmax() == 20


def test_saved_and_named(codec, tmp_path):
    codec.save(tmp_path)
    assert load_codec(tmp_path).info == open_codec("pcm:sample_rate=16000,hop=64").info == codec.info
    assert str(codec.info.frames) == "64 values" and codec.info.frames.bounds == (-2**15, 2**15 - 1)
    assert codec.quality([np.full((1, 5000), 0.1, np.float32)])["round_trip_db"] < 0.01
