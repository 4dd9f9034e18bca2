"""How much memory a program takes at its fullest moment, from its jaxpr: nothing is compiled, no device is needed.

The program is followed as XLA runs it. What XLA fuses, such as additions and casts, takes no memory until something
that cannot be fused reads it: a product, a loop, a result. An array is alive from the operation that makes it to the
last one that reads it. A loop takes what one turn takes, and what it stacks up beside that. The compiler may do better
or worse than that; planning/plan.py says how near this has been.

Arrays are cut as the mesh has it: the program is traced with the songs of one device, arrays with the shape of a
parameter are cut along `fsdp` as that parameter is, and which axis is cut along `tensor` is followed from the
parameters through the program. Where it cannot be followed, the array counts as whole.
"""

import collections
import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal

GRADIENTS, KEPT, WORKING = "gradients", "kept", "working"

# What the compiler computes where it is read. Reductions read such values without having them in memory.
FUSED = frozenset((
    "abs", "acos", "add", "add_any", "and", "asin", "atan2", "bitcast_convert_type", "broadcast_in_dim", "cbrt", "ceil",
    "clamp", "concatenate", "convert_element_type", "copy", "cos", "div", "dynamic_slice", "eq", "erf", "erf_inv",
    "erfc", "exp", "exp2", "expm1", "floor", "ge", "gt", "integer_pow", "iota", "is_finite", "le", "log", "log1p",
    "logistic", "lt", "max", "min", "mul", "ne", "neg", "nextafter", "not", "optimization_barrier", "or", "pad", "pow",
    "random_bits", "random_clone", "random_fold_in", "random_seed", "random_split", "random_unwrap", "random_wrap",
    "reduce_precision", "rem", "rev", "round", "rsqrt", "select_n", "shift_left", "shift_right_arithmetic",
    "shift_right_logical", "sign", "sin", "slice", "split", "sqrt", "square", "stop_gradient", "sub", "tan", "tanh",
    "threefry2x32", "xor"))
# What it computes once, into memory, where more than one operation reads it.
EXPENSIVE = frozenset((
    "acos", "asin", "atan2", "cbrt", "erf", "erf_inv", "erfc", "exp", "exp2", "expm1", "log", "log1p", "logistic",
    "pow", "random_bits", "rsqrt", "sqrt", "tan", "tanh", "threefry2x32"))
# The same numbers under other indices.
ALIASES = frozenset(("expand_dims", "reshape", "sharding_constraint", "squeeze", "transpose"))
CALLS = ("scan", "while", "cond")
LANES = 128  # of a TPU: its kernels have arrays in rows of a multiple of so many numbers


@dataclasses.dataclass(eq=False)
class Buffer:
    """An array in memory.

    Attributes:
      shape, dtype: of the whole array, but with the songs of one device.
      size: bytes on one device.
      kind: GRADIENTS, KEPT (by a loop, one slice a turn) or WORKING.
      source: the function of this package that makes it.
      first, last: the moments between which it is alive.
    """

    shape: tuple[int, ...]
    dtype: Any
    size: int
    kind: str
    source: str
    first: int
    last: int


@dataclasses.dataclass
class Value:
    """What a variable stands for.

    Attributes:
      cell: its buffer, once it has one, and until then the buffers that it is computed from.
      cut: the axis that is cut along `tensor`, or None.
      source: the function of this package that makes it.
    """

    cell: list[frozenset[Buffer] | Buffer]
    cut: int | None = None
    source: str = ""

    @property
    def buffers(self) -> frozenset[Buffer]:
        inside = self.cell[0]
        return frozenset([inside]) if isinstance(inside, Buffer) else inside


@dataclasses.dataclass(frozen=True)
class Cuts:
    """How large the arrays of a traced program are on one device of a mesh.

    Attributes:
      songs: of a part of the batch, on one device.
      stands_for_songs: the number that stands in the program's shapes for them, a prime that divides nothing else.
      fsdp: in how many pieces arrays of a parameter's shape are cut along `fsdp`, by shape.
      tensor: devices along that axis.
    """

    songs: int
    stands_for_songs: int
    fsdp: Mapping[tuple[int, ...], int]
    tensor: int

    def shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """A shape of the program with the songs of a device in it."""
        prime = self.stands_for_songs
        return tuple(n if n % prime else n // prime * self.songs for n in shape)

    def size(self, aval: Any, cut: int | None, *, gathered: bool = False) -> int:
        """Bytes of an array on one device, or if `gathered` what it takes once it is put together along `fsdp`."""
        pieces = (1 if gathered else self.fsdp.get(aval.shape, 1)) * (self.tensor if cut is not None else 1)
        return -(-math.prod(self.shape(aval.shape)) * getattr(aval.dtype, "itemsize", 8) // pieces)


def peak(program: ClosedJaxpr, arguments: Sequence[int | None], cuts: Cuts) -> list[Buffer]:
    """The arrays in memory at the fullest moment, beside the arguments.

    Args:
      program: its results are taken to be written in place of arguments.
      arguments: for each argument, which axis is cut along `tensor`.
    """
    follower = _Follower(cuts)
    follower.run(program.jaxpr, [follower.outer(cut) for cut in arguments])
    return follower.fullest()


class _Follower:
    """Follows one program, or one turn of a loop."""

    def __init__(self, cuts: Cuts):
        self._cuts, self._now, self._buffers = cuts, 0, []
        self._laid_out: set[Buffer | frozenset[Buffer]] = set()  # as kernels have them
        self._inside: dict[int, list[Buffer]] = {}  # by moment: what a loop or a branch has at its fullest moment

    def fullest(self) -> list[Buffer]:
        changes: dict[int, int] = {0: 0}
        for buffer in self._buffers:
            changes[buffer.first] = changes.get(buffer.first, 0) + buffer.size
            changes[buffer.last + 1] = changes.get(buffer.last + 1, 0) - buffer.size
        alive, best, when = 0, -1, 0
        for moment in sorted(changes.keys() | self._inside.keys()):
            alive += changes.get(moment, 0)
            total = alive + sum(buffer.size for buffer in self._inside.get(moment, ()))
            if total > best:
                best, when = total, moment
        return [b for b in self._buffers if b.first <= when <= b.last and b.size] + self._inside.get(when, [])

    def outer(self, cut: int | None = None) -> Value:
        """A value whose memory is counted elsewhere."""
        return Value([Buffer((), None, 0, WORKING, "", 0, 0)], cut)

    def run(self, jaxpr: Jaxpr, arguments: Sequence[Value]) -> list[Value]:
        values = dict(zip(jaxpr.invars, arguments, strict=True))
        values |= {variable: self.outer() for variable in jaxpr.constvars}

        def read(variable):
            return self.outer() if isinstance(variable, Literal) else values[variable]

        readers = collections.Counter(v for e in jaxpr.eqns for v in e.invars if not isinstance(v, Literal))
        for equation in jaxpr.eqns:
            values |= zip(equation.outvars, self._apply(equation, [read(v) for v in equation.invars]), strict=True)
            if equation.primitive.name in EXPENSIVE and readers[equation.outvars[0]] > 1:
                self._now += 1
                self._materialize(equation.outvars[0].aval, values[equation.outvars[0]])
        results = [read(variable) for variable in jaxpr.outvars]
        for value in results:
            self._use(value)
        return results

    def _apply(self, equation: JaxprEqn, inputs: list[Value]) -> list[Value]:
        name = equation.primitive.name
        if name == "cond" and len(equation.params["branches"]) == 1:
            return self.run(equation.params["branches"][0].jaxpr, inputs[1:])
        called = None if name in CALLS else _called(equation)
        if called is not None:
            return self.run(called, inputs)
        if name in CALLS:
            return getattr(self, f"_{name}")(equation, inputs)
        if name == "pallas_call":
            return self._kernel(equation, inputs)
        cuts = _follow_cut(equation, [value.cut for value in inputs], self._cuts.tensor)
        source = _source(equation)
        if name in ALIASES:
            return [Value(inputs[0].cell, cuts, inputs[0].source or source)]
        if name in FUSED:
            buffers = frozenset().union(*(value.buffers for value in inputs))
            return [Value([buffers], cuts, source) for _ in equation.outvars]
        self._now += 1
        for variable, value in zip(equation.invars, inputs, strict=True):
            if name == "dot_general":
                self._materialize(variable.aval, value)
            self._use(value)
        if name == "dot_general":  # of a parameter outside of the layers, or its gradient before it is distributed
            for variable in (*equation.invars, *equation.outvars):
                if self._cuts.fsdp.get(variable.aval.shape, 1) > 1:
                    size = self._cuts.size(variable.aval, None, gathered=True)
                    self._inside.setdefault(self._now, []).append(self._buffer(variable.aval, size, WORKING, source))
        return [self._new(variable.aval, cuts, source) for variable in equation.outvars]

    def _kernel(self, equation: JaxprEqn, inputs: list[Value]) -> list[Value]:
        """A TPU's kernel: what it reads is copied into its layout, unless another kernel has written or read it."""
        self._now += 1
        source, heads = _source(equation), None
        for variable, value in zip(equation.invars, inputs, strict=True):
            self._use(value)
            if value.cell[0] not in self._laid_out:
                value.cell = self._new(_in_lanes(variable.aval), value.cut, source).cell
                self._laid_out.add(value.cell[0])
            self._use(value)
            if value.cut is not None:  # counted from the end: the axes in front may be others
                heads = value.cut - len(variable.aval.shape), variable.aval.shape[value.cut]
        outputs = []
        for variable in equation.outvars:
            shape, cut = variable.aval.shape, None
            if heads and len(shape) >= -heads[0] and shape[heads[0]] == heads[1]:
                cut = heads[0] + len(shape)
            outputs.append(self._new(_in_lanes(variable.aval), cut, source))
            self._laid_out.add(outputs[-1].cell[0])
        return outputs

    def _scan(self, equation: JaxprEqn, inputs: list[Value]) -> list[Value]:
        body = equation.params["jaxpr"]

        def passed_whole(outside, inside):  # what is not cut into one slice a turn; how scan says so depends on JAX
            return sum(o.aval.shape == i.aval.shape for o, i in zip(outside, inside, strict=True))

        carries = passed_whole(equation.outvars, body.jaxpr.outvars)
        consts = passed_whole(equation.invars, body.jaxpr.invars) - carries
        return self._loop(equation, inputs, body, consts, carries)

    def _while(self, equation: JaxprEqn, inputs: list[Value]) -> list[Value]:
        skipped, consts = equation.params["cond_nconsts"], equation.params["body_nconsts"]
        carries = len(inputs) - skipped - consts
        return self._loop(equation, inputs[skipped:], equation.params["body_jaxpr"], consts, carries, skipped)

    def _loop(self, equation: JaxprEqn, inputs: list[Value], body: ClosedJaxpr, consts: int, carries: int,
              skipped: int = 0) -> list[Value]:
        self._now += 1
        variables = equation.invars[skipped:]
        for i, (variable, value) in enumerate(zip(variables, inputs, strict=True)):
            if not consts <= i < consts + carries:
                self._materialize(variable.aval, value)
            self._use(value)
        one = _Follower(self._cuts)
        arguments = [one.outer(value.cut) for value in inputs[:consts + carries]]
        for variable, value in zip(variables[consts + carries:], inputs[consts + carries:], strict=True):
            slice_ = one.outer(None if value.cut in (None, 0) else value.cut - 1)
            if self._cuts.fsdp.get(variable.aval.shape, 1) > 1:
                slice_.cell[0] = frozenset()  # of one layer: a product needs it whole, in memory of its own
            arguments.append(slice_)
        results = one.run(body.jaxpr, arguments)
        for variable, value in zip(body.jaxpr.outvars[:carries], results[:carries], strict=True):
            if not isinstance(variable, Literal) and variable not in body.jaxpr.invars:
                one._materialize(variable.aval, value)
        self._inside.setdefault(self._now, []).extend(one.fullest())
        source, outputs = _source(equation), []
        for i, (variable, value) in enumerate(zip(equation.outvars, results, strict=True)):
            before = inputs[consts + i].cell[0] if i < carries else None
            if isinstance(before, Buffer) and before.size:  # changed in place
                outputs.append(Value([before], value.cut, source))
            else:
                cut = value.cut if i < carries or value.cut is None else value.cut + 1
                outputs.append(self._new(variable.aval, cut, value.source, WORKING if i < carries else KEPT))
        return outputs

    def _cond(self, equation: JaxprEqn, inputs: list[Value]) -> list[Value]:
        self._now += 1
        for variable, value in zip(equation.invars, inputs, strict=True):
            self._materialize(variable.aval, value)
            self._use(value)
        fullest, results = [], []
        for branch in equation.params["branches"]:
            one = _Follower(self._cuts)
            results = one.run(branch.jaxpr, [one.outer(value.cut) for value in inputs[1:]])
            for variable, value in zip(branch.jaxpr.outvars, results, strict=True):
                if not isinstance(variable, Literal):
                    one._materialize(variable.aval, value)
            fullest = max(fullest, one.fullest(), key=total)
        self._inside.setdefault(self._now, []).extend(fullest)
        self._now += 1  # until here the results are among those of the branch
        source = _source(equation)
        return [self._new(v.aval, value.cut, source) for v, value in zip(equation.outvars, results, strict=True)]

    def _use(self, value: Value) -> None:
        for buffer in value.buffers:
            buffer.last = max(buffer.last, self._now)

    def _materialize(self, aval: Any, value: Value) -> None:
        if not isinstance(value.cell[0], Buffer):
            self._use(value)
            value.cell[0] = self._new(aval, value.cut, value.source).cell[0]

    def _new(self, aval: Any, cut: int | None, source: str, kind: str = WORKING) -> Value:
        if aval.shape in self._cuts.fsdp:
            kind = GRADIENTS
        buffer = self._buffer(aval, self._cuts.size(aval, cut), kind, source)
        self._buffers.append(buffer)
        return Value([buffer], cut, source)

    def _buffer(self, aval: Any, size: int, kind: str, source: str) -> Buffer:
        return Buffer(self._cuts.shape(aval.shape), aval.dtype, size, kind, source, self._now, self._now)


def total(buffers: Sequence[Buffer]) -> int:
    """Bytes of them all."""
    return sum(buffer.size for buffer in buffers)


def _called(equation: JaxprEqn) -> Jaxpr | None:
    """The jaxpr that an equation does nothing but call."""
    for parameter in equation.params.values():
        jaxpr = parameter.jaxpr if isinstance(parameter, ClosedJaxpr) else parameter
        if isinstance(jaxpr, Jaxpr) and len(jaxpr.invars) == len(equation.invars):
            return jaxpr
    return None


def _in_lanes(aval: Any) -> jax.ShapeDtypeStruct:
    """An array as kernels have it, what fills its rows included."""
    *shape, row = aval.shape
    return jax.ShapeDtypeStruct((*shape, -(-row // LANES) * LANES), aval.dtype)


def _source(equation: JaxprEqn) -> str:
    """The innermost function of this package that the equation comes from, without the linear layer and the planner."""
    traceback = equation.source_info.traceback
    for frame in traceback.frames if traceback else ():
        if "autosong_jax" in frame.file_name and not frame.file_name.endswith(("lora.py", "memory.py", "plan.py")):
            return frame.function_name.replace(".<locals>", "").replace(".__call__", "")
    return ""


def _follow_cut(equation: JaxprEqn, cuts: Sequence[int | None], tensor: int) -> int | None:
    """Which axis of the result is cut along `tensor`, given that of each operand."""
    shapes = [variable.aval.shape for variable in equation.invars]
    shape, parameters = equation.outvars[0].aval.shape, equation.params
    if tensor == 1 or all(cut is None for cut in cuts):
        return None
    match equation.primitive.name:
        case "dot_general":
            return _follow_product(shapes, cuts, parameters["dimension_numbers"])
        case "transpose":
            return parameters["permutation"].index(cuts[0])
        case "broadcast_in_dim":
            return None if cuts[0] is None else parameters["broadcast_dimensions"][cuts[0]]
        case "reshape" | "squeeze" | "expand_dims":
            before = math.prod(shapes[0][:cuts[0]])
            return next((axis for axis, n in enumerate(shape)
                         if math.prod(shape[:axis]) == before and n > 1 and n % tensor == 0), None)
        case name if name.startswith(("reduce_", "arg")) and "axes" in parameters:
            axes = parameters["axes"]
            return None if cuts[0] is None or cuts[0] in axes else cuts[0] - sum(axis < cuts[0] for axis in axes)
    found = [cut for cut, other in zip(cuts, shapes, strict=True)
             if cut is not None and len(other) == len(shape) and other[cut] == shape[cut]]
    return found[0] if found else None


def _follow_product(shapes, cuts, numbers) -> int | None:
    """`_follow_cut` of a product: its axes are those of the batch, then the free ones of the left, of the right."""
    contracted, batch = numbers
    for side in (0, 1):
        if cuts[side] in batch[side]:
            return batch[side].index(cuts[side])
    before = len(batch[0])
    for side in (0, 1):
        free = [axis for axis in range(len(shapes[side])) if axis not in (*contracted[side], *batch[side])]
        if cuts[side] in free:
            return before + free.index(cuts[side])
        before += len(free)
    return None


