"""EnCodec from a released checkpoint, coding songs of any length in bounded memory.

Letters: B batch, T frames, K codebooks, C channels, V entries of a codebook.
"""

import functools
import itertools
import json
import pathlib
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
from flax import nnx

from autosong_jax.codecs import blocks as cut
from autosong_jax.codecs.codec import Codec
from autosong_jax.codecs.encodec import settings
from autosong_jax.codecs.encodec.module import Carry, Encodec
from autosong_jax.codecs.encodec.settings import EncodecConfig, EncodecInfo
from autosong_jax.codecs.folding import plain
from autosong_jax.codecs.info import FILE
from autosong_jax.errors import UserError
from autosong_jax.weights import files, parameters
from autosong_jax.weights.files import Tensors
from autosong_jax.weights.parameters import Recipe

_MIRRORED = 16  # frames; the released decoders mirror 6
_UNUSED = r"codebook\.(inited|cluster_size|embed_avg)$"  # what only training needs
_LSTM = {"input": "weight_ih", "hidden": "weight_hh", "bias": "bias"}
_LEAVES = {"kernel": "conv.weight", "bias": "conv.bias", "norm/scale": "norm.weight", "norm/bias": "norm.bias"}


def load(directory: str | pathlib.Path, bandwidth: float | None = None) -> "EncodecCodec":
    """Loads the codec in a directory: `config.json` and its tensors, and `codec.json` if it is a codec's own.

    Args:
      directory: as `EncodecCodec.save` or transformers' `save_pretrained` writes it.
      bandwidth: kbit/s, one of the model's own; None takes that of `codec.json`, or the lowest.

    Raises:
      UserError: a file is missing, damaged, or of another model.
    """
    directory = pathlib.Path(directory)
    if not (directory / FILE).exists():
        return EncodecCodec(files.read_json(directory / "config.json"), Tensors.open(directory), bandwidth,
                            source=str(directory))
    saved = EncodecInfo.load(directory)
    wanted = saved.bandwidth if bandwidth is None else bandwidth
    codec = EncodecCodec(files.read_json(directory / "config.json"), Tensors.open(directory), wanted,
                         stereo=saved.stereo, source=str(directory))
    if wanted == saved.bandwidth and codec.info != saved:
        raise UserError(f"{directory / FILE} says other things than the codec beside it: save it again")
    return codec


class EncodecCodec(Codec):
    """An EnCodec, used at one bandwidth.

    A model that codes chunks (48 kHz: 1 s, normalised over time) keeps its chunks, whose frames are put one after the
    other; but loudness is normalised over the song rather than the chunk, since codes carry no loudness and a level
    that jumps every second would be heard. Such a model decodes every song to the same loudness.
    """

    def __init__(self, config: Mapping[str, Any], tensors: Tensors, bandwidth: float | None = None, *,
                 stereo: bool = False, window: int | None = None, source: str = "the checkpoint"):
        """Reads the parameters.

        Args:
          config: the contents of `config.json`.
          tensors: under the names of Hugging Face.
          bandwidth: kbit/s, one of the model's own; None takes the lowest.
          stereo: whether a model of one channel is to code left and right, whose codebooks then alternate.
          window: frames that go through the convolutions together; by default few on a CPU, which gains nothing by
            more, and many elsewhere.
          source: what to call the place where they are from, for errors.

        Raises:
          UserError: the tensors are not those of the config, or the model cannot code songs.
        """
        self.config, self._raw, self._tensors = EncodecConfig.of(config, source), dict(config), tensors
        if self.config.chunk_length_s is None and self.config.norm_type != "weight_norm":
            raise UserError(f"{source} is a model that normalises over a whole song ({self.config.norm_type}), and its "
                            "config.json has no chunk_length_s: such a model cannot code long songs")
        model = nnx.eval_shape(lambda: Encodec(self.config, rngs=nnx.Rngs(0)))
        self._encoder, self._decoder = model.encoder, model.decoder
        self._graph, abstract = nnx.split(model)
        abstract = nnx.to_pure_dict(abstract)
        of_all = recipes(parameters.leaves(abstract), self.config)
        self._params = parameters.load(abstract, of_all, plain(tensors), what="EnCodec",
                                       dtype=np.float32, ignored=_UNUSED)
        bandwidth = settings.pick_bandwidth(self.config, bandwidth, source)
        self._levels, self._sides = self.config.codebooks_for(bandwidth), 2 if stereo else 1
        codebooks = np.asarray(self._params["quantizer"]["codebooks"][:self._levels])
        self.info = EncodecInfo.of(self.config, bandwidth, stereo, settings.digest(codebooks))
        on_cpu = jax.default_backend() == "cpu"
        self._window = window or (512 if on_cpu else 4096)
        self._batch = 8 if on_cpu else 32  # chunks

    # Songs.

    def loudness(self, blocks: Iterable[np.ndarray]) -> float | None:
        """See `Codec`: the root mean square of the mean of the channels, if the model normalises it."""
        return settings.loudness(blocks) if self.config.normalize else None

    def encode_blocks(self, blocks: Iterable[np.ndarray], loudness: float | None = None) -> Iterator[np.ndarray]:
        """See `Codec`: in memory that does not grow with the song; one frame for each hop that has begun."""
        scale = 1.0
        if self.config.normalize:
            if loudness is None:
                raise ValueError("a codec that normalises loudness needs to be told that of the whole song")
            scale = loudness + 1e-8
        streams = (self._streams(block) / np.float32(scale) for block in blocks)
        for codes in self._encode_chunks(streams) if self.config.chunk_length_s else self._encode_whole(streams):
            yield settings.interleave(codes).astype(np.uint16)

    def decode_blocks(self, blocks: Iterable[np.ndarray], block_frames: int | None = None,
                      loudness: float | None = None) -> Iterator[np.ndarray]:
        """See `Codec`: in memory that does not grow with the song.

        At least 16 frames are decoded at a time, which padding may mirror where a song begins; of a model that codes
        chunks at least a chunk.
        """
        streams = (settings.separate(self.checked(block), self._sides) for block in blocks)
        level = np.float32(1)
        if self.config.normalize:
            level = np.float32(settings.LEVEL if loudness is None else loudness)
        if self.config.chunk_length_s is not None:
            decoded = self._decode_chunks(streams, block_frames and max(1, block_frames // self.config.chunk_frames))
        else:
            decoded = self._decode_whole(streams, block_frames and max(_MIRRORED, block_frames))
        for audio in decoded:
            yield level * np.moveaxis(audio, 2, 1).reshape(self.channels, audio.shape[1])

    def latents(self, frames: np.ndarray) -> np.ndarray:
        """See `Codec`: what the decoder reads; in stereo of one side after the other."""
        streams = settings.separate(self.checked(frames), self._sides)
        decoded = np.asarray(nnx.merge(self._graph, self._params).quantizer.decode(streams))
        return np.moveaxis(decoded, 0, 1).reshape(len(frames), -1)

    def _streams(self, audio: np.ndarray) -> np.ndarray:
        """[channels, samples] -> [B, samples, C]: in stereo two streams of one channel, else one of all."""
        audio = np.asarray(audio, np.float32)
        if audio.ndim != 2 or len(audio) != self.channels:
            raise ValueError(f"audio has the shape {audio.shape}, expected [{self.channels}, samples]")
        return np.moveaxis(audio.reshape(self._sides, self.config.audio_channels, audio.shape[1]), 1, 2)

    def save(self, directory: str | pathlib.Path) -> None:
        """Writes `codec.json` beside `config.json` and the tensors as they were read."""
        directory = pathlib.Path(directory)
        files.write(directory, ((name, self._tensors.read(name)) for name in self._tensors))
        config = {"model_type": "encodec", "architectures": ["EncodecModel"]} | self._raw
        (directory / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        self.info.save(directory)

    # Batches, as transformers' EncodecModel codes them.

    def encode_batch(self, audio: np.ndarray) -> tuple[np.ndarray, np.ndarray | None, int]:
        """Codes each chunk at its own loudness, which is handed on beside the codes.

        Args:
          audio: float32 [B, C, samples], with C as the model has it, whatever `stereo` says.

        Returns:
          codes uint16 [chunks, B, K, T]; the loudness of the chunks [chunks, B, 1], if the model normalises it; how
          many frames of the last chunk are zeros that fill it up.
        """
        x = np.moveaxis(np.asarray(audio, np.float32), 1, 2)
        if self.config.chunk_length_s is None:
            codes = np.concatenate(list(self._encode_whole([x])), axis=1)
            return np.moveaxis(codes, 1, 2)[None].astype(np.uint16), None, 0
        length, stride = self.config.chunk_length, self.config.chunk_stride
        chunks = [x[:, start:start + length] for start in range(0, x.shape[1], stride)]
        scales = None
        if self.config.normalize:
            scales = np.stack([np.sqrt(np.square(chunk.mean(2)).mean(1, keepdims=True)) + 1e-8 for chunk in chunks])
            chunks = [chunk / scale[:, None] for chunk, scale in zip(chunks, scales, strict=True)]
        codes = [self._encode_chunk(chunk) for chunk in chunks]
        missing = codes[0].shape[1] - codes[-1].shape[1]
        codes[-1] = np.pad(codes[-1], ((0, 0), (0, missing), (0, 0)))
        return np.moveaxis(np.stack(codes), 2, 3).astype(np.uint16), scales, missing

    def decode_batch(self, codes: np.ndarray, scales: np.ndarray | None = None, missing: int = 0) -> np.ndarray:
        """The inverse of `encode_batch`: float32 [B, C, samples]."""
        pieces = list(np.moveaxis(np.asarray(codes, np.int32), 2, 3))
        pieces[-1] = pieces[-1][:, :pieces[-1].shape[1] - missing]
        if self.config.chunk_length_s is None:
            audio = self._decode_whole(pieces)
        else:
            scales = itertools.repeat(np.float32(1)) if scales is None else scales[:, :, None]
            decoded = (self._decode_chunk(piece) * scale for piece, scale in zip(pieces, scales, strict=False))
            audio = cut.overlap_add(decoded, self.config.chunk_length, self.config.chunk_stride)
        return np.moveaxis(np.concatenate(list(audio), axis=1), 2, 1)

    # Streams [B, any, C] and codes [B, any, K].

    def _encode_whole(self, blocks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        yield from self._run(_encode, self._encoder, blocks, self._window, levels=self._levels)

    def _decode_whole(self, blocks: Iterable[np.ndarray], window: int | None = None) -> Iterator[np.ndarray]:
        yield from self._run(_decode, self._decoder, blocks, window or self._window)

    def _run(self, function, network, blocks: Iterable[np.ndarray], window: int, **options) -> Iterator[np.ndarray]:
        """Window after window, of so many frames, of one signal."""
        carry = None
        for x, seen, rest in cut.with_context(blocks, window, network.before, network.after, network.rate_in):
            carry = network.start(len(x)) if carry is None else carry
            y, carry = function(self._graph, self._params, x, carry, min(seen, network.before + network.back_before),
                                min(rest, x.shape[1]), **options)
            yield np.asarray(y)[:, :-(-rest // network.rate_in) * network.rate_out]

    def _encode_chunks(self, blocks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """The last chunk is filled up with silence, and its surplus frames are dropped."""
        for group in _groups(cut.chunks(blocks, self.config.chunk_length, self.config.chunk_stride), self._batch):
            lengths = [chunk.shape[1] for chunk in group]
            filled = [np.pad(chunk, ((0, 0), (0, self.config.chunk_length - n), (0, 0)))
                      for chunk, n in zip(group, lengths, strict=True)]
            codes = self._encode_chunk(np.concatenate(filled))
            for chunk, samples in zip(codes, lengths, strict=True):
                yield chunk[None, :-(-samples // self.config.hop)]

    def _decode_chunks(self, blocks: Iterable[np.ndarray], batch: int | None = None) -> Iterator[np.ndarray]:
        frames = self.config.chunk_frames

        def decoded() -> Iterator[np.ndarray]:
            for group in _groups(cut.chunks(blocks, frames, frames), batch or self._batch):
                yield from np.split(self._decode_chunk(np.concatenate(group)), len(group))

        return cut.overlap_add(decoded(), self.config.chunk_length, self.config.chunk_stride)

    def _encode_chunk(self, x: np.ndarray) -> np.ndarray:
        """[B, up to chunk_length, C] -> codes [B, T, K]."""
        frames = -(-x.shape[1] // self._encoder.rate_in)
        return self._chunk(_encode, self._encoder, x, frames, levels=self._levels)

    def _decode_chunk(self, codes: np.ndarray) -> np.ndarray:
        """[B, up to chunk_frames, K] -> audio [B, samples, C]."""
        return self._chunk(_decode, self._decoder, codes, codes.shape[1])

    def _chunk(self, function, network, x: np.ndarray, frames: int, **options) -> np.ndarray:
        """Chunks by themselves, all of one length, as one window that holds the whole signal."""
        before, after = network.before * network.rate_in, network.after * network.rate_in
        missing = self.config.chunk_frames * network.rate_in - x.shape[1]
        padded = np.pad(x, ((0, 0), (before, missing + after), (0, 0)))
        y, _ = function(self._graph, self._params, padded, network.start(len(x)), 0, x.shape[1], **options)
        return np.asarray(y)[:, :frames * network.rate_out]


@functools.partial(jax.jit, static_argnames=("graph", "levels"))
def _encode(graph, params, x, carry: Carry, seen, rest, levels: int):
    return nnx.merge(graph, params).encode(x, carry, seen, rest, levels)


@functools.partial(jax.jit, static_argnames="graph")
def _decode(graph, params, codes, carry: Carry, seen, rest):
    return nnx.merge(graph, params).decode(codes, carry, seen, rest)


def _groups(chunks: Iterable[np.ndarray], size: int) -> Iterator[list[np.ndarray]]:
    """As many chunks of one length as `size`, or else single ones: two shapes to compile for."""
    chunks = iter(chunks)
    while group := list(itertools.islice(chunks, size)):
        together = len(group) == size and group[-1].shape == group[0].shape
        yield from [group] if together else ([chunk] for chunk in group)


def recipes(paths: Iterable[str], config: EncodecConfig) -> dict[str, Recipe]:
    """How the parameters at `paths` are made of the tensors that `plain` gives."""
    levels = range(config.num_codebooks)
    codebooks = Recipe(tuple(f"quantizer.layers.{level}.codebook.embed" for level in levels), stacked=True)
    return {path: codebooks if path == "quantizer/codebooks" else Recipe((_name(path),), transpose=True)
            for path in paths}


def _name(path: str) -> str:
    if lstm := re.fullmatch(r"(.+/layers/\d+)/layers/(\d+)/(\w+)", path):
        module, layer, leaf = lstm.groups()
        return f"{module}.lstm.{_LSTM[leaf]}_l{layer}".replace("/", ".")
    module, leaf = re.fullmatch(r"(.+?)/(norm/\w+|\w+)", path).groups()
    return f"{module}.{_LEAVES[leaf]}".replace("/", ".")
