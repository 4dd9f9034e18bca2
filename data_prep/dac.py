"""DAC in PyTorch: songs of any length to codes, in windows, exactly as if in one piece."""

import math
import pathlib
from collections.abc import Iterator

import numpy as np
import torch
import transformers
from torch import nn

from autosong_jax.codecs.codec import Codec
from autosong_jax.codecs.dac.settings import DacConfig, DacInfo
from data_prep import hub
from data_prep.windows import convolve

_FLAG = "--codec"


def load(name: str) -> "Dac":
    """Loads a DAC of `transformers` onto the GPU, if there is one.

    Args:
      name: a key of `DacInfo.hub_ids`, a directory that a codec was saved in or that `save_pretrained` wrote, or a hub
        id.

    Raises:
      UserError: there is no such model, or it is another kind of model.
    """
    source = DacInfo.hub_ids.get(name, name)
    config = DacConfig.of(hub.read_config(source, _FLAG, "dac"), f"{_FLAG}={name}")
    return Dac(hub.load(transformers.DacModel, source, _FLAG, config), source)


class Dac(Codec):
    """The model of `transformers`, in fp32, where it is to run."""

    def __init__(self, model: transformers.DacModel, source: str = "", *, window_seconds: float = 10.0,
                 windows_at_once: int | None = None):
        """Args:
          model: the model.
          source: what it was loaded from.
          window_seconds, windows_at_once: how much audio goes through the convolutions together.
        """
        self.model, self.device, self._source = model, model.device, source
        self.config = DacConfig.of(model.config.to_dict())
        entries = [quantizer.codebook.weight.detach().cpu().numpy() for quantizer in model.quantizer.quantizers]
        self.info = DacInfo.of(self.config, entries)
        self._window = max(1, round(window_seconds * self.sample_rate / self.config.hop))  # frames
        self._batch = windows_at_once or (8 if model.device.type == "cuda" else 1)

    def made_from(self) -> list:
        """JSON of all that decides what it gives."""
        return ["dac", hub.revision(self._source)]

    @torch.inference_mode()
    def encode(self, audio: np.ndarray) -> np.ndarray:
        """float32 [1, samples] -> uint16 [T, K]; one frame for each hop that has begun, the last filled up."""
        x_1x1xN = torch.from_numpy(np.pad(audio, ((0, 0), (0, -audio.shape[1] % self.config.hop))))[None]
        return np.concatenate([self.info.frames.none, *self._encode(x_1x1xN)]).astype(np.uint16)

    def _encode(self, x_1x1xN: torch.Tensor) -> Iterator[np.ndarray]:
        encoder = self.model.encoder
        layers = [encoder.conv1, *encoder.block, encoder.snake1, encoder.conv2]
        for x_BxDxT in convolve(layers, x_1x1xN, reach(layers), self._window, self._batch, self.device):
            codes_BxKxT = self.model.quantizer(x_BxDxT)[1]
            yield codes_BxKxT.transpose(1, 2).flatten(0, 1).cpu().numpy()

    @torch.inference_mode()
    def decode(self, codes: np.ndarray) -> np.ndarray:
        """Integers [T, K] -> float32 [1, samples], in one piece: for excerpts."""
        codes_1xKxT = torch.from_numpy(self.checked(codes).astype(np.int64)).T[None].to(self.device)
        return self.model.decode(audio_codes=codes_1xKxT).audio_values.cpu().numpy()

    def save(self, directory: str | pathlib.Path) -> None:
        """Writes `codec.json` beside the model as `save_pretrained` writes it (`config.json`, `model.safetensors`)."""
        self.model.save_pretrained(directory)
        self.info.save(directory)


def reach(layers: list[nn.Module]) -> tuple[int, int, int]:
    """Of convolutions that pad themselves: samples a frame, and the whole frames before and after one that reach it."""
    hop, before, after = 1, 0, 0
    for conv in (module for layer in layers for module in layer.modules() if isinstance(module, nn.Conv1d)):
        (width,), (stride,), (dilation,), (padding,) = conv.kernel_size, conv.stride, conv.dilation, conv.padding
        before += padding * hop
        after += ((width - 1) * dilation - padding - (stride - 1)) * hop
        hop *= stride
    return hop, math.ceil(before / hop), math.ceil(after / hop)
