"""Between the tensors of a checkpoint and the parameters of a model, in both directions, by one table a model.

The table is a `Recipe` for every parameter. Reading checks all names and shapes before it reads anything, and then
reads of each tensor only what a device is to hold.
"""

import dataclasses
import re
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np

from autosong_jax.errors import UserError
from autosong_jax.weights.files import Tensors

_ADAPTER = "frames"  # the name of the frame adapter in `models.song.SongModel`


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a parameter is made of tensors.

    Attributes:
      names: the tensor; or, `stacked`, several, which stand one after another on a new first axis.
      transpose: the axes of a tensor are those of the parameter in reverse: PyTorch's kernels are [out, in, ...].
      stacked: whether the first axis counts tensors.
    """

    names: tuple[str, ...]
    transpose: bool = False
    stacked: bool = False

    def tensor_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of each tensor of a parameter of `shape`."""
        shape = shape[1:] if self.stacked else shape
        return shape[::-1] if self.transpose else shape

    def read(self, tensors: Tensors, index: tuple[slice, ...]) -> np.ndarray:
        """The part of the parameter at `index`, a slice for each axis."""
        names, rest = (self.names[index[0]], index[1:]) if self.stacked else (self.names, index)
        parts = (tensors.read(name, rest[::-1] if self.transpose else rest) for name in names)
        parts = [part.T if self.transpose else part for part in parts]
        return np.stack(parts) if self.stacked else parts[0]


def leaves(tree: Any) -> dict[str, Any]:
    """The leaves of a tree of dictionaries by path: {"a/b/kernel": leaf}."""
    flat, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in flat}


def as_filed(tree: Any) -> Any:
    """A tree as our own files have it: what the frame adapter of a model holds stands in them beside the decoder, as
    it did before there were adapters.

    Args:
      tree: parameters, or a tree of which they are parts, such as the state of an optimizer.
    """
    def filed(params):
        return {name: x for name, x in params.items() if name != _ADAPTER} | params.get(_ADAPTER, {})

    return jax.tree.map(lambda part: filed(part) if isinstance(part, dict) else part, tree, is_leaf=_is_dict)


def from_filed(tree: Any, like: Any) -> Any:
    """The inverse of `as_filed`; `like` is a tree as the result."""
    def unfiled(params, like):
        inside = like.get(_ADAPTER, {}).keys()
        rest = {name: x for name, x in params.items() if name not in inside}
        return rest | ({_ADAPTER: {name: params[name] for name in inside}} if inside else {})

    return jax.tree.map(lambda part, like: unfiled(part, like) if isinstance(part, dict) else part, tree, like,
                        is_leaf=_is_dict)


def _is_dict(part: Any) -> bool:
    return isinstance(part, dict)


def own_recipes(tree: Any) -> dict[str, Recipe]:
    """Our own names: the tensor of a parameter is called by its path in files, with dots; see `as_filed`."""
    return {path: Recipe((path.removeprefix(f"{_ADAPTER}/").replace("/", "."),)) for path in leaves(tree)}


def load(abstract: Any, recipes: Mapping[str, Recipe], tensors: Tensors, *, what: str, dtype: Any = None,
         shardings: Any = None, ignored: str = "$^") -> Any:
    """Reads the parameters of a model.

    Args:
      abstract: their tree, of shapes and dtypes.
      recipes: one for each path.
      tensors: of the checkpoint.
      what: what the model is, for errors.
      dtype: of the arrays; None is that of `abstract`.
      shardings: a tree of shardings; None puts everything on the first device of this process.
      ignored: a regular expression, found in the names of tensors that a checkpoint may hold and the model has no use
        for.

    Returns:
      The tree of jax arrays. Beside it, at most one parameter is in memory twice.

    Raises:
      UserError: a tensor is missing, has another shape than it should, or has no place in the model.
    """
    _check(leaves(abstract), recipes, tensors, what, ignored)

    def read(path, leaf, sharding):
        recipe = recipes[jax.tree_util.keystr(path, simple=True, separator="/")]

        def part(index):
            return recipe.read(tensors, index).astype(dtype or leaf.dtype)

        return jax.make_array_from_callback(leaf.shape, sharding, part)

    if shardings is None:
        device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        shardings = jax.tree.map(lambda _: device, abstract)
    return jax.tree_util.tree_map_with_path(read, abstract, shardings)


def _check(shapes: Mapping[str, Any], recipes: Mapping[str, Recipe], tensors: Tensors, what: str, ignored: str) -> None:
    used = set()
    for path, leaf in shapes.items():
        expected = recipes[path].tensor_shape(leaf.shape)
        for name in recipes[path].names:
            used.add(name)
            if name not in tensors:
                raise UserError(f"{tensors.origin(name)} lacks the tensor {name}, expected one of shape "
                                f"{list(expected)}: is it the checkpoint of {what}?")
            if tensors[name] != expected:
                raise UserError(f"{tensors.origin(name)} holds the tensor {name} of shape {list(tensors[name])}, "
                                f"expected {list(expected)}: its config.json belongs to another model")
    for name in tensors:
        if name not in used and not re.search(ignored, name):
            raise UserError(f"{tensors.origin(name)} holds the tensor {name}, which {what} has no place for: its "
                            "config.json belongs to another model")


def unload(params: Any, recipes: Mapping[str, Recipe]) -> Iterator[tuple[str, np.ndarray]]:
    """The tensors that `load` would make `params` of, in the parameters' dtype, one by one."""
    for path, leaf in leaves(params).items():
        recipe = recipes[path]
        for i, name in enumerate(recipe.names):
            array = np.asarray(leaf[i] if recipe.stacked else leaf)
            yield name, array.T if recipe.transpose else array
