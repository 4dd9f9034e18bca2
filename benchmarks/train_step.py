"""A training step beside PyTorch's: the same shape, batch, device and run, random weights.

python -m benchmarks.train_step --size=xsmall --peer=transformers

A step is forward, backward, clipping by global norm and AdamW, at MusicGen's shapes, conditioned on states of T5. The
peer is the decoder of `transformers` with PyTorch's fused AdamW. Turns alternate, so that whatever else the machine
does meets both sides; a time is a median, the ratio that of the turns. Compilation and the first step of each turn are
not counted.
"""

import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from absl import flags

from autosong_jax import cli
from autosong_jax.errors import UserError
from benchmarks import shapes
from benchmarks.shapes import CODEC, SHAPES, TEXT

FLAGS = flags.FLAGS
TEXT_LENGTH = 64


def define_flags() -> None:
    """In a function, so that several commands can be imported into one process."""
    flags.DEFINE_enum("size", "xsmall", list(SHAPES), "Size of the model.")
    flags.DEFINE_integer("batch", 2, "Songs a step.", lower_bound=1)
    flags.DEFINE_integer("steps", 504, "Length of each song.", lower_bound=8)
    flags.DEFINE_enum("remat", "none", ["none", "dots", "full"], "What the backward pass computes again.")
    flags.DEFINE_enum("peer", "transformers", ["transformers", "none"], "What to measure beside it.")
    flags.DEFINE_integer("repeats", 7, "Of each measurement.", lower_bound=1)


def main() -> None:
    import jax

    ours, operations, about = make_ours()
    sides = [ours] + ([make_torch()] if FLAGS.peer != "none" else [])
    print(f"{FLAGS.size} ({SHAPES[FLAGS.size]}), {FLAGS.batch} x {FLAGS.steps} steps, on "
          f"{jax.devices()[0].device_kind}; median of {FLAGS.repeats}\n{about}")
    turns = alternate(sides, FLAGS.repeats)
    names = ["ours", "transformers"]
    for name, taken in zip(names, turns, strict=False):
        low, middle, high = min(taken), statistics.median(taken), max(taken)
        print(f"{name:13} {1e3 * middle:9.1f} ms a step ({1e3 * low:.1f} to {1e3 * high:.1f}), "
              f"{operations / middle / 1e12:7.2f} TFLOP/s{utilization(operations, middle)}")
    if len(turns) == 2:
        print(f"our time over theirs: {statistics.median(a / b for a, b in zip(*turns, strict=True)):.2f}")


def utilization(operations: float, seconds: float) -> str:
    """", MFU 50.0 %", or nothing on a device whose peak is not known."""
    from autosong_jax.training.metrics import model_flops_utilization

    share = model_flops_utilization(operations, seconds)
    return "" if share is None else f", MFU {100 * share:.1f} %"


def alternate(functions: list[Callable[[], Any]], repeats: int) -> list[list[float]]:
    """Seconds that each takes, turn by turn, after a turn that is not counted.

    A turn is two calls, the second of which counts: training is one step after another, and the first one after the
    other's turn touches memory that the system has meanwhile taken back.
    """
    seconds = [[] for _ in functions]
    for _ in range(1 + repeats):
        for function, taken in zip(functions, seconds, strict=True):
            function()
            started = time.perf_counter()
            function()
            taken.append(time.perf_counter() - started)
    return [taken[1:] for taken in seconds]


def make_ours() -> tuple[Callable[[], None], float, str]:
    """A function that does a step, the floating-point operations of one, and lines about the compiled program."""
    import jax

    from autosong_jax.codebooks.patterns import get_pattern
    from autosong_jax.models.build import build_model
    from autosong_jax.parallel.sharding import make_mesh, put_batch
    from autosong_jax.training.step import make_trainer

    config = shapes.config_of(FLAGS.size, TEXT_LENGTH)
    config.data.batch_size = FLAGS.batch
    config.train.remat = FLAGS.remat
    pattern = get_pattern("delay", FLAGS.steps + 1 - CODEC["num_codebooks"], CODEC["num_codebooks"])
    trainer = make_trainer(config, lambda rngs: build_model(config, CODEC, TEXT, rngs=rngs), pattern,
                           make_mesh(config.mesh))
    state = trainer.init(trainer.fresh(0, {}))
    frames = len(pattern.steps)
    batch = put_batch({
        "codes": shapes.random_codes(FLAGS.batch, frames), "num_frames": np.full(FLAGS.batch, frames, np.int32),
        "sources": shapes.sources_of(shapes.random_states(FLAGS.batch, TEXT_LENGTH))}, trainer.mesh)
    started = time.perf_counter()
    compiled = trainer.train_step.lower(state, {}, batch).compile()
    about = f"compiled in {time.perf_counter() - started:.1f} s"
    memory = compiled.memory_analysis()
    if memory is not None:
        about += (f"; state {memory.argument_size_in_bytes / 2**30:.2f} GiB, "
                  f"intermediate results {memory.temp_size_in_bytes / 2**30:.2f} GiB")

    def step() -> None:
        nonlocal state
        state, sums = compiled(state, {}, batch)
        jax.block_until_ready((state, sums))

    params = trainer.abstract.params
    return step, flops(params, pattern.num_steps - 1, config), about


def flops(params: Any, steps: int, config: Any) -> float:
    """Floating-point operations of a step, forward and twice as many backward, without recomputation.

    A multiply and an add for each number of a matrix and each position that goes through it, and for each pair of
    positions of which one sees the other, in the scores and in the weighted sum.
    """
    from flax.traverse_util import flatten_dict

    matrices = {path: leaf.size for path, leaf in flatten_dict(params).items() if path[-1] in ("kernel", "heads")}
    of_memory = sum(size for path, size in matrices.items()
                    if path[0] == "conditions" or ("cross_attention" in path and path[-2] in ("k", "v")))
    matmuls = (sum(matrices.values()) - of_memory) * steps + of_memory * TEXT_LENGTH
    pairs = steps * (steps + 1) / 2 + steps * TEXT_LENGTH
    return 6 * FLAGS.batch * (matmuls + 2 * config.model.layers * config.model.width * pairs)


def make_torch() -> Callable[[], None]:
    """A function that does a step of the peer, on a GPU in bfloat16 where there is one."""
    try:
        import torch
        import transformers
    except ImportError as error:
        raise UserError(f"--peer=transformers: {error}; install the `prep` extra, or give --peer=none") from error
    import jax

    on_gpu = jax.default_backend() == "gpu"
    if on_gpu and not torch.cuda.is_available():
        raise UserError("--peer=transformers: PyTorch sees no GPU; install its CUDA build, or give --peer=none")
    device = "cuda" if on_gpu else "cpu"
    transformers.set_seed(0)
    model = transformers.MusicgenForCausalLM(transformers.MusicgenDecoderConfig(
        **shapes.released(FLAGS.size), dropout=0.0, attention_dropout=0.0, activation_dropout=0.0,
        use_cache=False)).to(device).train()
    projection = torch.nn.Linear(TEXT.width, SHAPES[FLAGS.size].width).to(device)
    parameters = [*model.parameters(), *projection.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    labels = torch.from_numpy(shapes.random_codes(FLAGS.batch, FLAGS.steps)).long().to(device)
    inputs = labels.transpose(1, 2).reshape(-1, FLAGS.steps)
    states = torch.from_numpy(shapes.random_states(FLAGS.batch, TEXT_LENGTH)).to(device)
    mask = torch.ones(states.shape[:2], device=device)

    def step() -> None:
        with torch.autocast(device, torch.bfloat16, enabled=on_gpu):
            loss = model(inputs, encoder_hidden_states=projection(states), encoder_attention_mask=mask,
                         labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if on_gpu:
            torch.cuda.synchronize()

    return step


if __name__ == "__main__":
    define_flags()
    cli.run(main)
