"""Other models that help one to sing: a leader begins its songs, a rescorer judges its codes."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from autosong_jax.codecs.codec import Codec
from autosong_jax.codecs.info import CodecInfo
from autosong_jax.sampling.samplers import Judgement
from autosong_jax.sampling.windows import Leg


@dataclasses.dataclass(frozen=True)
class Helper:
    """Another model over the same codec, with the conditions of the songs as it reads them; from `Singer.helper`.

    Attributes:
      lead: (options, frame) -> how it sings songs step by step up to that frame.
      judgement: what it says of codes.
    """

    lead: Callable[[Mapping[str, Any], int], Leg]
    judgement: Judgement


def same_codec(infos: tuple[CodecInfo, CodecInfo], load: Callable[[], tuple[Codec, Codec]]) -> bool:
    """Whether frames mean the same to both of two codecs; of those without a digest some are tried.

    Args:
      infos: what is known of them.
      load: gives them, where that is needed.
    """
    info, other = infos
    if info != other or info.digest is not None:
        return info == other
    frames = np.random.default_rng(0).integers(*info.frames.bounds, size=(8, info.frames.width), endpoint=True)
    one, two = (codec.decode(frames) for codec in load())
    return np.array_equal(one, two)
