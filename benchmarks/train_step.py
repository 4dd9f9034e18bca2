"""A training step beside PyTorch's: the same shape, batch, device and run, random weights.

python -m benchmarks.train_step --size=xsmall --peer=transformers

A step is forward, backward, clipping by global norm and AdamW, at MusicGen's shapes, conditioned on states of T5. The
peer is the decoder of `transformers` with PyTorch's fused AdamW. Turns alternate, so that whatever else the machine
does meets both sides; a time is a median, the ratio that of the turns. Compilation and the first step of each turn are
not counted.
"""

import dataclasses
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
from benchmarks.timing import alternate

FLAGS = flags.FLAGS
TEXT_LENGTH = 64


def define_flags() -> None:
    """In a function, so that several commands can be imported into one process."""
    flags.DEFINE_enum("size", "xsmall", list(SHAPES), "Size of the model.")
    flags.DEFINE_integer("batch", 2, "Songs a step.", lower_bound=1)
    flags.DEFINE_integer("steps", 504, "Length of each song.", lower_bound=8)
    flags.DEFINE_enum("remat", "none", ["none", "dots", "full"], "What the backward pass computes again.")
    flags.DEFINE_bool("unroll", False, "Compile every layer by itself.")
    flags.DEFINE_enum("peer", "transformers", ["transformers", "none"], "What to measure beside it.")
    flags.DEFINE_integer("repeats", 7, "Of each measurement.", lower_bound=1)


def main() -> None:
    import jax

    ours = make_ours(FLAGS.size, FLAGS.batch, FLAGS.steps, FLAGS.remat, FLAGS.unroll)
    sides = [ours.step] + ([make_torch(FLAGS.size, FLAGS.batch, FLAGS.steps)] if FLAGS.peer != "none" else [])
    print(f"{FLAGS.size} ({SHAPES[FLAGS.size]}), {FLAGS.batch} x {FLAGS.steps} steps, on "
          f"{jax.devices()[0].device_kind}; median of {FLAGS.repeats}\n{ours}")
    # The second of two calls counts: training is one step after another, and the first one after the other side's turn
    # touches memory that the system has meanwhile taken back.
    turns = alternate(sides, FLAGS.repeats, before=1)
    names = ["ours", "transformers"]
    for name, taken in zip(names, turns, strict=False):
        low, middle, high = min(taken), statistics.median(taken), max(taken)
        print(f"{name:13} {1e3 * middle:9.1f} ms a step ({1e3 * low:.1f} to {1e3 * high:.1f}), "
              f"{ours.operations / middle / 1e12:7.2f} TFLOP/s{utilization(ours.operations, middle)}")
    if len(turns) == 2:
        print(f"our time over theirs: {statistics.median(a / b for a, b in zip(*turns, strict=True)):.2f}")


def utilization(operations: float, seconds: float) -> str:
    """", MFU 50.0 %", or nothing on a device whose peak is not known."""
    from autosong_jax.training.metrics import model_flops_utilization

    share = model_flops_utilization(operations, seconds)
    return "" if share is None else f", MFU {100 * share:.1f} %"


@dataclasses.dataclass(frozen=True)
class Step:
    """A compiled training step with a state that it changes.

    Attributes:
      step: does one, and returns the loss when it is done.
      operations: floating-point operations of one (`training.operations`).
      parameters: their number.
      compile_seconds: what compiling took.
      state_bytes, temporary_bytes: memory by what the compiler says: of what goes in, and of intermediate results.
    """

    step: Callable[[], float]
    operations: float
    parameters: int
    compile_seconds: float
    state_bytes: int
    temporary_bytes: int

    def __str__(self) -> str:
        return (f"compiled in {self.compile_seconds:.1f} s; state {self.state_bytes / 2**30:.2f} GiB, intermediate "
                f"results {self.temporary_bytes / 2**30:.2f} GiB")


def make_ours(size: str, batch: int, steps: int, remat: str, unroll: bool = False) -> Step:
    """Our step of `batch` songs of so many steps each; the state is random."""
    from autosong_jax.codebooks.patterns import get_pattern
    from autosong_jax.models.build import build_model
    from autosong_jax.parallel.sharding import make_mesh, put_batch
    from autosong_jax.training.step import make_trainer

    config = shapes.config_of(size, TEXT_LENGTH)
    config.data.batch_size = batch
    config.train.update(remat=remat, unroll=unroll)
    pattern = get_pattern("delay", steps + 1 - CODEC.num_codebooks, CODEC.num_codebooks)
    trainer = make_trainer(config, lambda rngs: build_model(config, CODEC, TEXT, rngs=rngs), pattern,
                           make_mesh(config.mesh))
    frames = len(pattern.steps)
    return step_of(trainer, config, put_batch({
        "frames": shapes.random_codes(batch, frames), "num_frames": np.full(batch, frames, np.int32),
        "song_ends": np.zeros(batch, bool),
        "sources": shapes.sources_of(shapes.random_states(batch, TEXT_LENGTH))}, trainer.mesh))


def step_of(trainer: Any, config: Any, batch: Any) -> Step:
    """The compiled step of a trainer, done again and again with one batch."""
    import jax

    from autosong_jax.training.operations import step_operations

    started = time.perf_counter()
    compiled = trainer.train_step.lower(trainer.abstract, trainer.frozen, batch).compile()
    seconds = time.perf_counter() - started
    memory = compiled.memory_analysis()
    state = trainer.init(trainer.fresh(0, {}))

    def step() -> float:
        nonlocal state
        state, sums = compiled(state, {}, batch)
        jax.block_until_ready(state)
        return float(sums["loss"])

    return Step(step, step_operations(trainer, config), sum(x.size for x in jax.tree.leaves(trainer.abstract.params)),
                seconds, memory.argument_size_in_bytes, memory.temp_size_in_bytes)


def make_torch(size: str, batch: int, steps: int) -> Callable[[], None]:
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
        **shapes.released(size), dropout=0.0, attention_dropout=0.0, activation_dropout=0.0,
        use_cache=False)).to(device).train()
    projection = torch.nn.Linear(TEXT.width, SHAPES[size].width).to(device)
    parameters = [*model.parameters(), *projection.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    labels = torch.from_numpy(shapes.random_codes(batch, steps)).long().to(device)
    inputs = labels.transpose(1, 2).reshape(-1, steps)
    states = torch.from_numpy(shapes.random_states(batch, TEXT_LENGTH)).to(device)
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
