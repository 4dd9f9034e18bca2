"""What attention within a window costs beside full attention, by the length of the song: time and memory, both ways.

python -m benchmarks.attention

Memory is what the compiled program asks for beside its arguments and results.
"""

import statistics
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
from absl import flags

from autosong_jax import cli
from autosong_jax.models.attention import attention

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
        cells = [measure(steps, window) for window in (FLAGS.window, None)]
        print(f"| {steps:,} | " + " | ".join(cell for row in cells for cell in row) + " |", flush=True)


def measure(steps: int, window: int | None) -> tuple[str, str]:
    """Time and memory of attention, forward, and forward and backward."""
    def attend(q, k, v):
        return attention(q, k, v, window=window)

    def both(q, k, v):
        out, gradients = jax.vjp(attend, q, k, v)
        return gradients(out)

    return cost(attend, steps, window), cost(both, steps, window)


def cost(function: Callable, steps: int, window: int | None) -> str:
    """ "12 ms, 3 MiB", without the time where that would take too long."""
    dtype = jnp.float32 if jax.default_backend() == "cpu" else jnp.bfloat16
    arguments = [jax.random.normal(jax.random.key(i), (1, steps, FLAGS.heads, 64), dtype) for i in range(3)]
    compiled = jax.jit(function).lower(*arguments).compile()
    memory = f"{compiled.memory_analysis().temp_size_in_bytes / MIB:.0f} MiB"
    if window is None and steps > FULL:
        return memory
    seconds = []
    for _ in range(1 + FLAGS.repeats):
        started = time.perf_counter()
        jax.block_until_ready(compiled(*arguments))
        seconds.append(time.perf_counter() - started)
    return f"{1000 * statistics.median(seconds[1:]):.0f} ms, {memory}"


if __name__ == "__main__":
    define_flags()
    cli.run(main)
