"""Tensors that PyTorch keeps in two parts, put together; imports neither JAX nor PyTorch."""

import re

import numpy as np

from autosong_jax.weights.files import Tensors


def plain(tensors: Tensors) -> Tensors:
    """The tensors with weight norm folded into the weights, and the two biases of each LSTM layer added up.

    Weight norm keeps a weight as its direction v and its length g, one for each index on the first axis; there are two
    ways in which PyTorch names them.
    """
    made = {}
    for pattern, other, name, make in [
        (r"(.+)\.weight_g", r"\1.weight_v", r"\1.weight", _weight),
        (r"(.+)\.parametrizations\.weight\.original0", r"\1.parametrizations.weight.original1", r"\1.weight", _weight),
        (r"(.+)\.bias_ih_(l\d+)", r"\1.bias_hh_\2", r"\1.bias_\2", np.add),
    ]:
        for first in tensors:
            if (match := re.fullmatch(pattern, first)) and (second := match.expand(other)) in tensors:
                made[match.expand(name)] = make, first, second
    used = {name for _, *pair in made.values() for name in pair}
    shapes = {name: tensors[name] for name in tensors if name not in used}
    shapes |= {name: tensors[second] for name, (_, _, second) in made.items()}

    def read(name: str, index: tuple[slice, ...]) -> np.ndarray:
        if name not in made:
            return tensors.read(name, index)
        make, *pair = made[name]
        return make(*(tensors.read(part).astype(np.float32) for part in pair))[index]

    return Tensors(shapes, read, lambda name: tensors.origin(made[name][1] if name in made else name))


def _weight(g: np.ndarray, v: np.ndarray) -> np.ndarray:
    length = np.sqrt(np.square(v, dtype=np.float64).sum(axis=tuple(range(1, v.ndim)), keepdims=True))
    return v * (g / length).astype(np.float32)
