"""DAC from a released checkpoint, coding songs of any length in bounded memory."""

import functools
import json
import pathlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
from flax import nnx

from autosong_jax.codecs.blocks import with_context
from autosong_jax.codecs.codec import Codec
from autosong_jax.codecs.dac.module import Dac
from autosong_jax.codecs.dac.settings import DacConfig, DacInfo
from autosong_jax.codecs.folding import plain
from autosong_jax.codecs.info import FILE
from autosong_jax.errors import UserError
from autosong_jax.weights import files, parameters
from autosong_jax.weights.files import Tensors
from autosong_jax.weights.parameters import Recipe

_PROJECTIONS = {"in_kernel": "in_proj.weight", "in_bias": "in_proj.bias", "out_kernel": "out_proj.weight",
                "out_bias": "out_proj.bias", "codebooks": "codebook.weight"}


def load(directory: str | pathlib.Path) -> "DacCodec":
    """Loads the codec in a directory: `config.json` and its tensors, and `codec.json` if it is a codec's own.

    Args:
      directory: as `DacCodec.save` or transformers' `save_pretrained` writes it.

    Raises:
      UserError: a file is missing, damaged, or of another model.
    """
    directory = pathlib.Path(directory)
    codec = DacCodec(files.read_json(directory / "config.json"), Tensors.open(directory), source=str(directory))
    if (directory / FILE).exists() and codec.info != DacInfo.load(directory):
        raise UserError(f"{directory / FILE} says other things than the codec beside it: save it again")
    return codec


class DacCodec(Codec):
    """A DAC. Where a ratio is odd (16 and 24 kHz), audio is a few samples shorter than its frames, as released."""

    def __init__(self, config: Mapping[str, Any], tensors: Tensors, *, window: int | None = None,
                 source: str = "the checkpoint"):
        """Reads the parameters.

        Args:
          config: the contents of `config.json`.
          tensors: under the names of Hugging Face, weight norm in two parts or folded.
          window: frames that go through the convolutions together; by default few on a CPU, and more elsewhere.
          source: what to call the place where they are from, for errors.

        Raises:
          UserError: the tensors are not those of the config.
        """
        self.config, self._raw, self._tensors = DacConfig.of(config, source), dict(config), tensors
        model = nnx.eval_shape(lambda: Dac(self.config, rngs=nnx.Rngs(0)))
        self._encoder, self._decoder = model.encoder, model.decoder
        self._graph, abstract = nnx.split(model)
        abstract = nnx.to_pure_dict(abstract)
        self._params = parameters.load(abstract, recipes(parameters.leaves(abstract), self.config), plain(tensors),
                                       what="DAC", dtype=np.float32)
        self.info = DacInfo.of(self.config, np.asarray(self._params["quantizer"]["codebooks"]))
        self._window = window or (64 if jax.default_backend() == "cpu" else 512)

    def encode_blocks(self, blocks: Iterable[np.ndarray], loudness: float | None = None) -> Iterator[np.ndarray]:
        """See `Codec`: in memory that does not grow with the song; one frame for each hop that has begun."""
        streams = (np.asarray(block, np.float32)[..., None] for block in blocks)
        network, hop = self._encoder, self.config.hop
        for x, seen, rest in with_context(streams, self._window, network.before, network.after, hop):
            frames = -(-rest // hop)  # silence fills the last one up
            codes = _encode(self._graph, self._params, x, min(seen, network.before), min(frames * hop, x.shape[1]))
            yield np.asarray(codes)[0, :frames].astype(np.uint16)

    def decode_blocks(self, blocks: Iterable[np.ndarray], block_frames: int | None = None,
                      loudness: float | None = None) -> Iterator[np.ndarray]:
        """See `Codec`: in memory that does not grow with the song."""
        streams = (self.checked(block)[None] for block in blocks)
        network = self._decoder
        for x, seen, rest in with_context(streams, block_frames or self._window, network.before, network.after, 1):
            audio = _decode(self._graph, self._params, x, min(seen, network.before), min(rest, x.shape[1]))
            yield np.asarray(audio)[0, :rest * self.config.hop - self.config.lost].T

    def latents(self, frames: np.ndarray) -> np.ndarray:
        """See `Codec`: what the decoder reads."""
        return np.asarray(nnx.merge(self._graph, self._params).quantizer.decode(self.checked(frames)[None]))[0]

    def save(self, directory: str | pathlib.Path) -> None:
        """Writes `codec.json` beside `config.json` and the tensors as they were read."""
        directory = pathlib.Path(directory)
        files.write(directory, ((name, self._tensors.read(name)) for name in self._tensors))
        config = {"model_type": "dac", "architectures": ["DacModel"]} | self._raw
        (directory / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        self.info.save(directory)


@functools.partial(jax.jit, static_argnames="graph")
def _encode(graph, params, x, seen, rest):
    return nnx.merge(graph, params).encode(x, seen, rest)


@functools.partial(jax.jit, static_argnames="graph")
def _decode(graph, params, codes, seen, rest):
    return nnx.merge(graph, params).decode(codes, seen, rest)


def recipes(paths: Iterable[str], config: DacConfig) -> dict[str, Recipe]:
    """How the parameters at `paths` are made of the tensors that `plain` gives."""
    return {path: _recipe(path, config.n_codebooks) for path in paths}


def _recipe(path: str, levels: int) -> Recipe:
    module, _, leaf = path.rpartition("/")
    if module == "quantizer":
        names = tuple(f"quantizer.quantizers.{level}.{_PROJECTIONS[leaf]}" for level in range(levels))
        return Recipe(names, transpose=leaf.endswith("kernel"), stacked=True)
    return Recipe((f"{module}/{leaf.replace('kernel', 'weight')}".replace("/", "."),), transpose=True)
