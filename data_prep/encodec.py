"""EnCodec in PyTorch: songs of any length to codes, in windows, exactly as if in one piece.

Shape letters: T frames, K codebooks, C channels or features. All arithmetic is in fp32: a nearest neighbour that
differs in the first codebook changes every later one.
"""

import dataclasses
import math
import pathlib
from collections.abc import Iterable, Iterator
from typing import Any, Protocol

import numpy as np
import torch
import transformers
from torch import nn

from autosong_jax.codecs.codec import Codec
from autosong_jax.codecs.encodec import settings
from autosong_jax.codecs.encodec.settings import EncodecConfig, EncodecInfo
from autosong_jax.codecs.info import FILE
from autosong_jax.errors import UserError
from data_prep import hub
from data_prep.windows import convolve

_FLAG = "--codec"


class Network(Protocol):
    """The model of one package, in fp32, where it is to run."""

    config: dict[str, Any]  # the contents of `config.json`
    device: torch.device
    layers: list[nn.Module]  # of the encoder, which maps [B, C, samples] to [B, C', T]; one holds an `lstm`
    codebooks: list[torch.Tensor]  # float32 [V, C'] each
    revision: str  # what pins it: the hub's commit, or a digest of the files
    backend: str | None  # the package, as `EncodecInfo` has it

    def quantize(self, features_BxCxT: torch.Tensor, bandwidth: float) -> torch.Tensor:
        """Codes [K, B, T]."""

    def decode(self, chunks: list[torch.Tensor], scale: float | None) -> torch.Tensor:
        """Codes [B, K, T] of each chunk, the last of which may be shorter -> audio [B, C, samples], `scale` as loud."""

    def save(self, directory: pathlib.Path) -> None:
        """Writes `config.json` and the tensors, as the hub has them."""


class Transformers:
    """The model of `transformers`. Satisfies `Network`."""

    def __init__(self, model: transformers.EncodecModel, source: str = ""):
        """Args: in fp32, where it is to run; what it was loaded from."""
        self.model, self.config, self.device = model, model.config.to_dict(), model.device
        self.backend, self._source = None, source
        self.layers, self.save = list(model.encoder.layers), model.save_pretrained
        self.codebooks = [layer.codebook.embed for layer in model.quantizer.layers]

    @property
    def revision(self):
        return hub.revision(self._source)

    def quantize(self, features_BxCxT, bandwidth):
        return self.model.quantizer.encode(features_BxCxT, bandwidth)

    def decode(self, chunks, scale):
        missing = chunks[0].shape[2] - chunks[-1].shape[2]
        codes = torch.stack([*chunks[:-1], nn.functional.pad(chunks[-1], (0, missing))])
        scale = None if scale is None else torch.full((1, 1), scale, device=self.device)
        return self.model.decode(codes, [scale] * len(chunks), last_frame_pad_length=missing)[0]


def load(name: str, bandwidth: float | None = None) -> "Encodec":
    """Loads an EnCodec of `transformers` onto the GPU, if there is one.

    Args:
      name: a key of `EncodecInfo.hub_ids`, a directory that a codec was saved in or that `save_pretrained` wrote, or a
        hub id.
      bandwidth: kbit/s, one of the model's own, which decides the number of codebooks; None takes that of the
        directory's `codec.json`, or the lowest.

    Raises:
      UserError: there is no such model, it is another kind of model, or it has no such bandwidth.
    """
    source = EncodecInfo.hub_ids.get(name, name)
    config = EncodecConfig.of(hub.read_config(source, _FLAG, "encodec"), f"{_FLAG}={name}")
    model = hub.load(transformers.EncodecModel, source, _FLAG, config)
    return of(Transformers(model, source), name, bandwidth)


def of(network: Network, name: str, bandwidth: float | None) -> "Encodec":
    """The codec of a network loaded from `name`, used as `load` says. Raises UserError where it cannot be used so."""
    saved = EncodecInfo.load(name) if (pathlib.Path(name) / FILE).exists() else None
    if bandwidth is None and saved:
        bandwidth = saved.bandwidth
    config = EncodecConfig.of(network.config, name)
    bandwidth = settings.pick_bandwidth(config, bandwidth, name)
    if config.chunk_length_s is None and config.norm_type != "weight_norm":
        raise UserError(f"{_FLAG}={name} normalises over a whole song ({config.norm_type}) and names no "
                        "chunk_length_s: such a model cannot code long songs")
    return Encodec(network, bandwidth, stereo=bool(saved and saved.stereo))


class Encodec(Codec):
    """An EnCodec, used at one bandwidth.

    A model that codes chunks of its own (48 kHz: 1 s, normalised over time) keeps its chunks, whose frames are put one
    after the other; but loudness is normalised over the song rather than the chunk, since codes carry no loudness and
    a level that jumps every second would be heard. Such a model decodes every song to the same loudness.
    """

    def __init__(self, network: Network, bandwidth: float, *, stereo: bool = False, window_seconds: float = 10.0,
                 windows_at_once: int | None = None):
        """Args:
          network: the model.
          bandwidth: kbit/s, one of the model's.
          stereo: whether a model of one channel is to code left and right, whose codebooks then alternate.
          window_seconds, windows_at_once: how much audio goes through the convolutions together. By default that is 8
            windows on a GPU and 1 on a CPU, where more are no faster.
        """
        config = EncodecConfig.of(network.config)
        self.network, self.config, self.bandwidth = network, config, bandwidth
        used = network.codebooks[:config.codebooks_for(bandwidth)]
        digest = settings.digest(codebook.cpu().numpy() for codebook in used)
        self.info = dataclasses.replace(EncodecInfo.of(config, bandwidth, stereo, digest), backend=network.backend)
        self.device = network.device
        self._sides = 2 if stereo else 1
        self._chunked = config.chunk_length is not None
        self._window = max(1, round(window_seconds * self.sample_rate / config.hop))  # frames
        self._batch = windows_at_once or (8 if network.device.type == "cuda" else 1)

    @torch.inference_mode()
    def encode(self, audio: np.ndarray) -> np.ndarray:
        """float32 [channels, samples] -> uint16 [T, K]; one frame for each hop that has begun."""
        if not audio.shape[1]:
            return self.info.frames.none
        sides = []
        for x_CxN in torch.from_numpy(np.ascontiguousarray(audio)).chunk(self._sides):
            codes = self._encode_chunks(x_CxN[None]) if self._chunked else self._encode_whole(x_CxN[None])
            sides.append(np.concatenate([part.T.cpu().numpy() for part in codes]))
        return settings.interleave(np.stack(sides)).astype(np.uint16)

    def _encode_whole(self, x_1xCxN: torch.Tensor) -> Iterator[torch.Tensor]:
        """Yields codes [K, frames]. The convolutions before the LSTM see overlapping windows, several at once; the LSTM
        goes through the song once, its state carried along; what follows sees overlapping windows again."""
        layers = self.network.layers
        middle = next(i for i, layer in enumerate(layers) if hasattr(layer, "lstm"))
        lstm, state, features = layers[middle].lstm, None, []
        for x_BxCxT in self._convolve(layers[:middle], x_1xCxN):
            x_TxC = x_BxCxT.transpose(1, 2).flatten(0, 1)
            y_TxC, state = lstm(x_TxC, state)
            features.append((x_TxC + y_TxC).T)
        features_1xCxT = torch.cat(features, 1)[None]
        for x_BxCxT in self._convolve(layers[middle + 1:], features_1xCxT):
            yield self.network.quantize(x_BxCxT, self.bandwidth).flatten(1)

    def _convolve(self, layers: list[nn.Module], x_1xCxN: torch.Tensor) -> Iterator[torch.Tensor]:
        return convolve(layers, x_1xCxN, reach(layers), self._window, self._batch, self.network.device)

    def _encode_chunks(self, x_1xCxN: torch.Tensor) -> Iterator[torch.Tensor]:
        """Yields codes [K, frames], chunk by chunk; the last is filled up with silence and its surplus dropped."""
        length, stride, samples = self.config.chunk_length, self.config.chunk_stride, x_1xCxN.shape[-1]
        if self.config.normalize:
            x_1xCxN = x_1xCxN / (x_1xCxN.mean(1).square().mean().sqrt() + 1e-8)
        chunks = 1 + max(0, math.ceil((samples - length) / stride))
        x_1xCxN = nn.functional.pad(x_1xCxN, (0, (chunks - 1) * stride + length - samples))
        frames = math.ceil((samples - (chunks - 1) * stride) / self.config.hop)
        for first in range(0, chunks, self._batch):
            starts = range(first * stride, min(chunks, first + self._batch) * stride, stride)
            x_BxCxT = torch.cat([x_1xCxN[..., start:start + length] for start in starts]).to(self.network.device)
            for layer in self.network.layers:
                x_BxCxT = layer(x_BxCxT)
            codes_KxBxT = self.network.quantize(x_BxCxT, self.bandwidth)
            is_last = first + self._batch >= chunks
            codes = codes_KxBxT.flatten(1)
            yield codes[:, :codes.shape[1] - (codes_KxBxT.shape[2] - frames)] if is_last else codes

    @torch.inference_mode()
    def decode(self, codes: np.ndarray) -> np.ndarray:
        """Integers [T, K] -> float32 [channels, samples], in one piece: for excerpts."""
        codes_BxTxK = settings.separate(np.asarray(codes, np.int64), self._sides)
        codes_BxKxT = torch.from_numpy(codes_BxTxK).transpose(1, 2).to(self.network.device)
        if not self._chunked:
            return self.network.decode([codes_BxKxT], None).flatten(0, 1).cpu().numpy()
        chunks = codes_BxKxT.split(self.config.chunk_frames, dim=2)
        return self.network.decode(list(chunks), settings.LEVEL if self.config.normalize else None)[0].cpu().numpy()

    def loudness(self, blocks: Iterable[np.ndarray]) -> float | None:
        """See `Codec`."""
        return settings.loudness(blocks) if self.config.normalize else None

    def made_from(self) -> list:
        """JSON of all that decides what it gives."""
        return ["encodec", self.network.revision, self.bandwidth, *filter(None, [self.network.backend])]

    def save(self, directory: str | pathlib.Path) -> None:
        """Writes `codec.json` beside the model as `save_pretrained` writes it (`config.json`, `model.safetensors`)."""
        directory = pathlib.Path(directory)
        self.network.save(directory)
        self.info.save(directory)


def reach(layers: list[nn.Module]) -> tuple[int, int, int]:
    """Of convolutional layers: samples a frame, and the whole frames before and after a frame that can reach it.

    Both packages have a module that pads, as its `causal` says, around each `Conv1d`.
    """
    hop, before, after = 1, 0, 0
    for conv in (module for layer in layers for module in layer.modules() if hasattr(module, "causal")):
        inner = next(module for module in conv.modules() if isinstance(module, nn.Conv1d))
        stride = inner.stride[0]
        padding = (inner.kernel_size[0] - 1) * inner.dilation[0] + 1 - stride
        right = 0 if conv.causal else padding // 2
        # Where the song ends, the padding may mirror what is further back than the convolution looks otherwise.
        before += max(padding - right, right + stride - 1) * hop
        after += right * hop
        hop *= stride
    return hop, math.ceil(before / hop), math.ceil(after / hop)
