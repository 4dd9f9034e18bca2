"""Which parameters are trained, and trees of parameters taken apart and put together again."""

from collections.abc import Sequence
from typing import Any

from flax.traverse_util import flatten_dict, unflatten_dict

from autosong_jax import inputs
from autosong_jax.errors import UserError

Parameters = dict[str, Any]


def partition(params: Parameters, patterns: Sequence[str]) -> tuple[Parameters, Parameters]:
    """The parameters in whose path ("decoder/blocks/mlp/up/kernel") one of the patterns is found, and the others.

    Raises:
      UserError: if a pattern is found in no path.
    """
    names = {path: "/".join(map(str, path)) for path in flatten_dict(params)}
    compiled = inputs.patterns("train.trainable", patterns)
    for pattern in compiled:
        if not any(map(pattern.search, names.values())):
            raise UserError(f"train.trainable {pattern.pattern!r} is found in no parameter's path: expected a regular "
                            f"expression found in paths such as {', '.join(sorted(names.values())[:3])}")
    trained = {path for path, name in names.items() if any(pattern.search(name) for pattern in compiled)}
    return _select(params, trained), _select(params, names.keys() - trained)


def combine(one: Parameters, other: Parameters) -> Parameters:
    """The parameters of both."""
    return unflatten_dict(flatten_dict(one) | flatten_dict(other))


def without(params: Parameters, known: Parameters) -> Parameters:
    """The parameters that `known` lacks."""
    return _select(params, flatten_dict(params).keys() - flatten_dict(known).keys())


def _select(params: Parameters, paths: set) -> Parameters:
    return unflatten_dict({path: leaf for path, leaf in flatten_dict(params).items() if path in paths})
