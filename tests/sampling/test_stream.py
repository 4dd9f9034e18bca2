"""Streams are the songs of `generate`, chunk by chunk, however many are gone through in turns."""

import itertools

import numpy as np
import pytest
import torch
import transformers

from autosong_jax.codecs.codec import load_codec
from autosong_jax.codecs.encodec.codec import EncodecCodec
from autosong_jax.errors import UserError
from autosong_jax.sampling import sound
from autosong_jax.weights.files import Tensors

WINDOW, K, V, RATE = 12, 3, 16, 25.0
SONG = {"lyrics": "la la", "genre": "pop"}
SAMPLERS = {
    "step by step": {"objective.name": "next_step"},
    "flattened": {"objective.name": "next_step", "model.pattern": "flatten"},
    "coarse first": {"objective.name": "next_step", "model.pattern": "coarse_first"},
    "filled in": {"objective.name": "masked_spans", "model.pattern": "parallel"},
    "hybrid": {"objective.name": "both", "sampling.masked.hybrid_seconds": 0.32},
}


@pytest.fixture(scope="module")
def singers(make_singer):
    return {name: make_singer(**changes) for name, changes in SAMPLERS.items()}


def joined(chunks):
    """The codes of chunks, each of which begins where the audio before it ends."""
    seconds = 0.0
    for chunk in chunks:
        assert chunk.start == pytest.approx(seconds) and chunk.audio.dtype == np.float32
        seconds += chunk.audio.shape[1] / chunk.sample_rate
    return np.concatenate([chunk.codes for chunk in chunks])


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize(("duration", "prompt", "chunk"), [(0.48, 0, 0.12), (1.2, 5, 0.2), (0.28, 2, 9.0)])
def test_a_stream_is_the_song_of_generate(singers, name, duration, prompt, chunk):
    """Within one window and over several, with and without a prompt, in small and large chunks."""
    begin = np.random.default_rng(1).integers(V, size=(prompt, K)) if prompt else None
    asked = SONG | {"duration": duration, "seed": 3, "prompt_audio": begin}
    song = singers[name].generate(**asked)
    chunks = list(singers[name].stream(chunk_seconds=chunk, **asked))
    np.testing.assert_array_equal(joined(chunks), song.codes)
    assert sum(chunk.audio.shape[1] for chunk in chunks) == song.audio.shape[1]
    assert len(song.codes) == round(duration * RATE)


def test_frames_come_as_soon_as_they_are_complete(singers):
    """Step by step in strides; filled in, a window at a time."""
    def lengths(name, **asked):
        pieces = []
        singer = singers[name]
        codec, singer.codec = singer.codec, Listening(singer.codec, pieces)
        list(singer.stream(**SONG, **asked))
        singer.codec = codec
        return [len(piece) for piece in pieces]

    assert lengths("step by step", duration=0.48, chunk_seconds=0.2) == [5, 5, 2]
    assert lengths("filled in", duration=0.96, chunk_seconds=0.2)[0] == WINDOW
    assert lengths("hybrid", duration=0.48, chunk_seconds=0.2) == [5, 3, 4]


class Listening:
    """A codec that notes the pieces that it is to decode."""

    def __init__(self, codec, pieces):
        self._codec, self._pieces = codec, pieces

    def __getattr__(self, name):
        return getattr(self._codec, name)

    def decode_blocks(self, blocks, block_frames=None):
        return self._codec.decode_blocks((self._pieces.append(block) or block for block in blocks), block_frames)


@pytest.mark.parametrize("name", ["step by step", "filled in"])
def test_streams_in_turns_are_those_alone(singers, name):
    asked = [{"seed": 1, "duration": 0.9}, {"seed": 2, "duration": 0.6}, {"seed": 3, "lyrics": "mi"}]
    alone = [joined(list(singers[name].stream(chunk_seconds=0.16, **SONG | song))) for song in asked]
    streams = [singers[name].stream(chunk_seconds=0.16, **SONG | song) for song in asked]
    turns = list(itertools.zip_longest(*streams))
    for i, codes in enumerate(alone):
        np.testing.assert_array_equal(joined([turn[i] for turn in turns if turn[i] is not None]), codes)


@pytest.mark.parametrize("changes", [{"objective.name": "next_step"}, SAMPLERS["hybrid"]], ids=["one", "hybrid"])
def test_songs_that_end_early_end_in_their_streams(make_singer, changes):
    singer = make_singer(**{"data.end_of_song": True} | changes)
    ends = set()
    for seed in range(6):
        asked = SONG | {"seed": seed, "duration": 1.2, "temperature": 3.0}
        codes = singer.generate(**asked).codes
        np.testing.assert_array_equal(joined(list(singer.stream(chunk_seconds=0.16, **asked))), codes)
        ends.add(len(codes))
    assert min(ends) < round(1.2 * RATE)


@pytest.fixture(scope="module")
def codecs(toy_dataset):
    """Of each kind one; the EnCodec has random weights and takes windows of 16 frames by itself."""
    torch.manual_seed(0)
    config = transformers.EncodecConfig(num_filters=4, hidden_size=8, codebook_size=V, upsampling_ratios=[5, 4],
                                        sampling_rate=500, target_bandwidths=[0.3])
    model = transformers.EncodecModel(config).eval()
    tensors = Tensors.of({name: value.numpy() for name, value in model.state_dict().items()}, "a toy")
    return {"encodec": EncodecCodec(config.to_dict(), tensors, window=16), "melrvq": load_codec(toy_dataset / "codec")}


@pytest.mark.parametrize("block_frames", [1, 4, 100])
def test_audio_of_a_stream_is_that_of_the_whole_song(codecs, block_frames):
    codec = codecs["encodec"]
    codes = np.random.default_rng(0).integers(V, size=(50, codec.info.num_codebooks), dtype=np.uint16)
    chunks = list(sound.decoded(codec, (codes[i:i + 3] for i in range(0, 50, 3)), block_frames))
    np.testing.assert_array_equal(joined(chunks), codes)
    audio = np.concatenate([chunk.audio for chunk in chunks], axis=1)
    np.testing.assert_allclose(audio, codec.decode(codes), atol=1e-6)


@pytest.mark.parametrize(("asked", "words"), [
    ({"lyrics": ["la", "lo"]}, "a stream is of one song"), ({"chunk_seconds": 0.0}, "chunk_seconds 0.0"),
    ({"duration": -1.0}, "duration -1.0"), ({"description": "calm"}, "description was given"),
    ({"steps": [1, 1, 1]}, "steps: this model can only sing step by step; .* fill in .*masked_spans or both"),
])
def test_what_cannot_be_streamed_is_named_at_once(singers, asked, words):
    with pytest.raises(UserError, match=words):
        singers["step by step"].stream(**SONG | asked)
