"""What attention within a window costs beside full attention, by the length of the song: time and memory, both ways.

python -m benchmarks.attention

Memory is what the compiled program asks for beside its arguments and results.
"""

import statistics
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from absl import flags

from autosong_jax import cli
from autosong_jax.layers.attention import attention
from benchmarks.timing import repeat

FLAGS = flags.FLAGS
STEPS = (1500, 3000, 6000, 12_000, 18_000)
FULL = 6000  # longest song of which full attention is timed
MIB = 2**20


def define_flags() -> None:
    """In a function, so that several commands can be imported into one process."""
    flags.DEFINE_integer("window", 5, "Steps that are seen on each side.", lower_bound=1)
    flags.DEFINE_integer("heads", 16, "Heads, each of width 64.", lower_bound=1)
    flags.DEFINE_integer("repeats", 5, "Times that each is measured; the median counts.", lower_bound=1)


def main() -> None:
    print("| steps | window, forward | window, both | full, forward | full, both |\n| --- | --- | --- | --- | --- |")
    for steps in STEPS:
        cells = [cell(cost) for window in (FLAGS.window, None)
                 for cost in measure(steps, FLAGS.repeats if window or steps <= FULL else 0, heads=FLAGS.heads,
                                     window=window)]
        print(f"| {steps:,} | " + " | ".join(cells) + " |", flush=True)


class Cost(NamedTuple):
    """Of one program: the seconds that it took each time, and bytes beside its arguments and results."""

    seconds: list[float]
    memory: int


def cell(cost: Cost) -> str:
    """"12 ms, 3 MiB", without the time where none was taken."""
    memory = f"{cost.memory / MIB:.0f} MiB"
    return f"{1000 * statistics.median(cost.seconds):.0f} ms, {memory}" if cost.seconds else memory


def measure(steps: int, repeats: int, *, heads: int, batch: int = 1, window: int | None = None, causal: bool = False
            ) -> tuple[Cost, Cost]:
    """Attention of heads of width 64, forward, and forward and backward."""
    def attend(q, k, v):
        return attention(q, k, v, causal=causal, window=window)

    def both(q, k, v):
        out, gradients = jax.vjp(attend, q, k, v)
        return gradients(out)

    dtype = jnp.float32 if jax.default_backend() == "cpu" else jnp.bfloat16
    arguments = [jax.random.normal(jax.random.key(i), (batch, steps, heads, 64), dtype) for i in range(3)]

    def cost(function: Callable) -> Cost:
        compiled = jax.jit(function).lower(*arguments).compile()
        seconds = repeat(lambda: jax.block_until_ready(compiled(*arguments)), repeats) if repeats else []
        return Cost(seconds, compiled.memory_analysis().temp_size_in_bytes)

    return cost(attend), cost(both)


if __name__ == "__main__":
    define_flags()
    cli.run(main)
