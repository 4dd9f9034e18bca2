"""What kinds of models there are: what an objective is for, a model of that kind can be trained for.

Each kind is a module beside this one, whose `KIND` says all there is to know of it.
"""

import dataclasses
import importlib
from collections.abc import Callable, Iterable
from typing import Any

import ml_collections
from flax import nnx

from autosong_jax.codebooks.patterns import Pattern
from autosong_jax.codecs.info import CodecInfo
from autosong_jax.errors import UserError

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


@dataclasses.dataclass(frozen=True)
class Component:
    """A trained model that another kind of models contains, whose parameters are not trained any more.

    Attributes:
      field: of a config, which names the workdir of such a model.
      kind: of that model.
      adopt: (config, that model's config) -> None; describes it in the config of a model that contains it.
      path: where its parameters stand in the model that contains it.
      parameters: (config, codec, its parameters, batches of songs) -> those at `path`.
    """

    field: str
    kind: "Kind"
    adopt: Callable[[ml_collections.ConfigDict, ml_collections.ConfigDict], None]
    path: tuple[str, ...]
    parameters: Callable[[ml_collections.ConfigDict, CodecInfo, dict[str, Any], Iterable[dict[str, Any]]],
                         dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of models.

    Attributes:
      name: what a message calls one.
      made_by: the config that makes one.
      build: (config, codec, text encoder, dtype, *, rngs) -> the model that `config` describes, computing in `dtype`;
        other arguments as of `build.build_model`.
      steps: (config, codec, num_frames) -> how a window of about so many frames is read. Raises UserError where the
        codec's frames are no such thing.
      component: the trained model that one contains, if any.
      used: what is done with a trained one, with {workdir} and {dataset} to be filled in; None: it sings.
    """

    name: str
    made_by: str
    build: Callable[..., nnx.Module]
    steps: Callable[[ml_collections.ConfigDict, CodecInfo, int], Pattern | Steps]
    component: Component | None = None
    used: str | None = None


def kind_of(config: ml_collections.ConfigDict) -> Kind:
    """The kind of the model that `config` describes. Raises UserError for an objective that is unknown."""
    if config.objective.name not in KINDS:
        raise UserError(f"objective.name {config.objective.name!r}: expected one of {', '.join(KINDS)}")
    return importlib.import_module(f"autosong_jax.models.{KINDS[config.objective.name]}").KIND
