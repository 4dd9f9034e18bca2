"""The kernels of a step of decoding on an H200 that need not be here: how many, of what kind, and in how many graphs.

python -m benchmarks.kernels --size=large       # with the `cuda` extra installed; no GPU is needed

XLA compiles the sampler's loop ahead of time from a description of the card: a guided song of 30 s in bfloat16 with the
cache of its last steps. What a layer has is the difference between loops of two and of three layers. Where there is a
device, XLA chooses the tilings of products by measuring; here it takes defaults, so which products are split and then
summed by a second kernel may differ.
"""

import collections
import dataclasses
import math
import os
import pathlib
import re
import tempfile
from typing import Any

import numpy as np
from absl import flags

from autosong_jax import cli
from benchmarks import plans
from benchmarks.shapes import CODEC, SHAPES, TEXT, random_codes, random_states, released, sources_of

FLAGS = flags.FLAGS
TEXT_LENGTH, SECONDS = 32, 30
KINDS = {  # by what stands in the name of a kernel, the first that does
    "product": r"gemm|cublas|\bdot",
    "write into a cache": r"dynamic.update.slice",
    "reduction": r"reduce",
    "elementwise": r"^(wrapped|loop)",
    "copy": r"^copy",
    "fused norm or softmax": r"fusion|triton",
    "other": "",
}
BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "f32": 4, "s64": 8, "u64": 8}
FREE = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast"}
SLICES = {"bitcast", "slice", "dynamic-slice", "gather"}
MEGABYTES = "MB read and written"
COMPUTATION = re.compile(r"(?m)^(?:ENTRY )?%(\S+) .*\{\n((?:  .*\n)+)")
INSTRUCTION = re.compile(r"(?m)^  (?:ROOT )?%(\S+) = (.*?) ([a-z][a-z-]*)\((.*?)\)(?=,|$)(.*)$")
NAME = re.compile(r"%([\w.-]+)")


def define_flags() -> None:
    """In a function, so that several commands can be imported into one process."""
    flags.DEFINE_enum("size", "small", list(SHAPES), "Size of the model.")
    flags.DEFINE_integer("batch", 1, "Songs at once.", lower_bound=1)
    flags.DEFINE_integer("text", TEXT_LENGTH, "States of text that songs are conditioned on.", lower_bound=1)
    flags.DEFINE_enum("loop", "while", ["while", "default"], "One graph for the loop, or what XLA does by default.")


def main() -> None:
    os.environ |= {"JAX_PLATFORMS": "cpu", "JAX_ENABLE_COMPILATION_CACHE": "false"}
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + f" --xla_dump_to={folder}"
        fewer, more = (count(compiled(layers)) for layers in (2, 3))
        threads = [path.read_text() for path in pathlib.Path(folder).glob("*_advanced*after_thunk_passes.txt")]
    layers = SHAPES[FLAGS.size].layers
    layer = collections.Counter({kind: more[kind] - fewer[kind] for kind in more})
    rest = collections.Counter({kind: fewer[kind] - 2 * layer[kind] for kind in fewer})
    print(f"{FLAGS.size} ({SHAPES[FLAGS.size]}), {FLAGS.batch} song(s), --loop={FLAGS.loop}: {graphs(threads[-1])}\n\n"
          "| kernels of a step | a layer | beside the layers | in all |\n| --- | --- | --- | --- |")
    for kind in (*KINDS, MEGABYTES):
        if fewer[kind]:
            show = "{:,.1f}".format if kind == MEGABYTES else "{:d}".format
            counts = layer[kind], rest[kind], layers * layer[kind] + rest[kind]
            print("|", " | ".join([kind, *map(show, counts)]), "|")
    total = {name: sum(kernels[kind] for kind in KINDS) for name, kernels in [("layer", layer), ("rest", rest)]}
    print(f"| kernels | {total['layer']} | {total['rest']} | {layers * total['layer'] + total['rest']} |")


def compiled(layers: int) -> str:
    """XLA's program for the last loop of a song, as text."""
    import jax
    import jax.numpy as jnp
    from flax import nnx

    from autosong_jax.layers.declaration import declarations, held_in
    from autosong_jax.layers.platform import ONE_GRAPH
    from autosong_jax.models.build import abstract_model
    from autosong_jax.pretrained import musicgen
    from autosong_jax.sampling.autoregressive import Request, Sampler
    from autosong_jax.sampling.guidance import branches
    from autosong_jax.sampling.samplers import encode
    from autosong_jax.sampling.tokens import Choice
    from autosong_jax.workdir.workdir import window_pattern

    device = jax.sharding.SingleDeviceSharding(plans.absent_devices("h200", 1)[0])
    config = musicgen.model_config({"model_type": "musicgen", "decoder": released(FLAGS.size)}, CODEC)
    config.data.seconds, config.model.dtype, config.model.layers = float(SECONDS), "bfloat16", layers
    pattern = window_pattern(config, CODEC)
    graph, params = abstract_model(config, CODEC, TEXT)
    with plans.as_if_on("gpu"):
        model = nnx.eval_shape(lambda params: nnx.merge(graph, params).unstacked(),
                               held_in("bfloat16", params, declarations(graph, params)))
        graph, params = nnx.split(model)
        keep, weights = branches(model.source_names, dict.fromkeys(model.source_names, 3.0))
        frames, songs = len(pattern.steps), FLAGS.batch

        def begin(params: Any, keys: Any) -> tuple[Any, Request]:
            sources = jax.tree.map(jnp.asarray, sources_of(random_states(songs, FLAGS.text)))
            memory = encode(nnx.merge(graph, params), sources, keep, songs)
            # With nearly all frames given, so that the cache is the longest.
            request = Request(weights, keys, random_codes(songs, frames), np.full(songs, frames - 1),
                              np.full(songs, frames), Choice(jnp.float32(1), jnp.int32(250), jnp.float32(1)))
            return sampler.begin(params, memory, request), request

        sampler = Sampler(graph, pattern)
        keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), songs))
        arguments = (params, *jax.eval_shape(begin, params, keys), jax.ShapeDtypeStruct((), jnp.int32))
        arguments = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device), arguments)
        lowered = sampler._advance.lower(*arguments)
        return lowered.compile(compiler_options=ONE_GRAPH if FLAGS.loop == "while" else None).as_text()


@dataclasses.dataclass(frozen=True)
class Instruction:
    """A line of a program: what it gives, such as "bf16[2,1024]{1,0}"; of what; the names of other computations."""

    shape: str
    opcode: str
    operands: list[str]
    calls: list[str]


def count(program: str) -> collections.Counter:
    """The kernels by kind, and the megabytes, of one turn of a program's largest loop.

    Of a conditional all branches are counted, and it is a kernel itself.
    """
    computations = {found[1]: instructions(found[2]) for found in COMPUTATION.finditer(program)}
    bodies = re.findall(r" while\(.*body=%([\w.-]+)", program)
    return _count(computations, max(bodies, key=lambda name: len(computations[name])))


def instructions(lines: str) -> dict[str, Instruction]:
    """The instructions of a computation by name."""
    return {found[1]: Instruction(found[2], found[3], NAME.findall(found[4]), NAME.findall(found[5]))
            for found in INSTRUCTION.finditer(lines)}


def _count(computations: dict[str, dict[str, Instruction]], name: str) -> collections.Counter:
    counted = collections.Counter()
    for kernel, one in computations[name].items():
        if one.opcode in FREE:
            continue
        counted[next(kind for kind, pattern in KINDS.items() if re.search(pattern, kernel))] += 1
        if one.opcode == "conditional":
            for branch in one.calls:
                counted += _count(computations, branch)
        elif one.opcode == "fusion":
            counted[MEGABYTES] += _fused(computations[one.calls[0]]) / 1e6
        else:
            counted[MEGABYTES] += 2 * _size(one) / 1e6
    return counted


def _fused(computation: dict[str, Instruction]) -> int:
    """Bytes that a fusion reads and writes: of what it slices or writes into, the slice alone."""
    def read(name: str) -> int:
        size, total = _size(computation[name]), 0
        for other, user in computation.items():
            if name in user.operands and not (user.opcode == "dynamic-update-slice" and user.operands[0] == name):
                total += read(other) if user.opcode in SLICES else size
        return min(total, size)

    total = 0
    for name, one in computation.items():
        if one.opcode == "parameter":
            total += read(name)
        elif one.opcode == "dynamic-update-slice":
            total += _size(computation[one.operands[1]])
        elif one.opcode not in ("tuple", "bitcast") and not any(name in user.operands for user in computation.values()):
            total += _size(one)  # its result
    return total


def _size(one: Instruction) -> int:
    """Bytes of its result."""
    return sum(BYTES.get(dtype, 4) * math.prod(int(n) for n in sizes.split(",") if n)
               for dtype, sizes in re.findall(r"([a-z]+\d*)\[([\d,]*)\]", one.shape))


def graphs(thunks: str) -> str:
    """Where a program's loop is run, from the list of what XLA runs."""
    lines = thunks.splitlines()
    depth = [len(line) - len(line.lstrip(" 0123456789:")) for line in lines]
    commands = sum("kCommandBuffer" in line for line in lines)
    loop = next(i for i, line in enumerate(lines) if "kWhile" in line)
    return f"{commands} graph(s); the loop itself is {'' if depth[loop] > 5 else 'not '}in one"


if __name__ == "__main__":
    define_flags()
    cli.run(main)
