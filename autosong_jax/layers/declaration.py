"""What each parameter of a model is, said where it is made: `nnx.Param(x, **declared("matrix", "fsdp"))`.

How it is cut over a mesh, how fast it learns, whether weight decay shrinks it, what it costs and in which dtype it is
held follow from that, whatever its path.
"""

import dataclasses
from typing import Any

import jax
from flax import nnx
from flax.traverse_util import unflatten_dict

KINDS = ("matrix", "table", "vector")


@dataclasses.dataclass(frozen=True)
class Declaration:
    """What a parameter is beside its shape.

    Attributes:
      kind: what it is used for, one of `KINDS`. All that comes is multiplied by a matrix; of a table rows are looked
        up, by ids or positions; a vector is added, or scales.
      axes: the mesh axes that cut its last dimensions, None for a dimension that stays whole. The dimensions before
        them, such as that of stacked layers, stay whole.
      cast: whether the model casts it to the dtype of the computation before any use. While it is not trained it may
        then be held in that dtype: the model computes the same from half the memory.
    """

    kind: str
    axes: tuple[str | None, ...] = ()
    cast: bool = False

    def __post_init__(self):
        if self.kind not in KINDS:
            raise ValueError(f"a parameter's kind {self.kind!r}: expected one of {', '.join(KINDS)}")

    @property
    def decay(self) -> bool:
        """Whether weight decay shrinks it."""
        return self.kind != "vector"


def declared(kind: str, *axes: str | None, cast: bool = False) -> dict[str, Declaration]:
    """A `Declaration` as the metadata of an `nnx.Param`, or of what makes one (`kernel_metadata` and its like)."""
    return {"declaration": Declaration(kind, axes, cast)}


def declaration_of(parameter: nnx.Variable) -> Declaration:
    """What was declared of a parameter. Raises ValueError if nothing was."""
    found = parameter.get_metadata().get("declaration")
    if found is None:
        raise ValueError(f"a parameter of shape {list(parameter.shape)} does not say what it is: make it with metadata "
                         "`declared(...)`")
    return found


def declarations(graph: nnx.GraphDef, params: dict[str, Any]) -> dict[str, Any]:
    """The declarations of a model's parameters, as a tree like `params`; of these, any arrays or shapes will do."""
    state = nnx.to_flat_state(nnx.state(nnx.merge(graph, params), nnx.Param))
    return unflatten_dict({path: declaration_of(parameter) for path, parameter in state})


def held_in(dtype: str, params: dict[str, Any], declarations: dict[str, Any]) -> dict[str, Any]:
    """Shapes and dtypes of parameters that are not trained: those that the model casts in `dtype`, the dtype of its
    computation, the others in their own.
    """
    return jax.tree.map(lambda leaf, what: jax.ShapeDtypeStruct(leaf.shape, dtype if what.cast else leaf.dtype),
                        params, declarations)
