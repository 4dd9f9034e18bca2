"""What kinds of models there are: what an objective is for, a model of that kind can be trained for.

Each kind is a module beside this one, with two functions, `build` and `steps`: see `Kind`.
"""

import dataclasses
import importlib
from typing import Protocol

import ml_collections
from flax import nnx

from autosong_jax.codebooks.patterns import Pattern
from autosong_jax.codecs.info import CodecInfo
from autosong_jax.errors import UserError
from autosong_jax.sources.text.encoders import TextEncoderInfo

KINDS = {"next_step": "of_codes", "masked_spans": "of_codes", "both": "of_codes", "next_latent": "of_latents",
         "reconstruction": "of_mels", "vocoding": "of_samples"}
"""The modules by the name of an objective in a config."""


@dataclasses.dataclass(frozen=True)
class Steps:
    """How a window is read by a model that has no pattern of codebooks.

    Attributes:
      num_frames: T, of the window.
      num_steps: S, what of it a decoder reads one after another.
      codec: what its frames are of.
    """

    num_frames: int
    num_steps: int
    codec: CodecInfo


class Kind(Protocol):
    """A kind of models."""

    def build(self, config: ml_collections.ConfigDict, codec: CodecInfo, text: TextEncoderInfo, dtype: str, *,
              rngs: nnx.Rngs) -> nnx.Module:
        """The model that `config` describes, computing in `dtype`; other arguments as of `build.build_model`."""

    def steps(self, config: ml_collections.ConfigDict, codec: CodecInfo, num_frames: int) -> Pattern | Steps:
        """How a window of about so many frames is read. Raises UserError where the codec's frames are no such thing."""


def kind_of(config: ml_collections.ConfigDict) -> Kind:
    """The kind of the model that `config` describes. Raises UserError for an objective that is unknown."""
    if config.objective.name not in KINDS:
        raise UserError(f"objective.name {config.objective.name!r}: expected one of {', '.join(KINDS)}")
    return importlib.import_module(f"autosong_jax.models.{KINDS[config.objective.name]}")
