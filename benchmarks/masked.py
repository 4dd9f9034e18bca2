"""The masked sampler's speed beside the autoregressive one's: the same model, machine and run, with random weights.

python -m benchmarks.masked --size=small

Clips of 10 and 30 s at MusicGen's shapes, guided, conditioned on 32 states of T5; passes of the masked sampler are
MAGNeT's. Turns alternate, so that whatever else the machine does meets both samplers; a table cell is a median.
Compilation is not counted.
"""

import statistics
import time

import numpy as np
from absl import flags

from autosong_jax import cli
from benchmarks.shapes import CODEC, SHAPES, TEXT, config_of, random_states, sources_of

FLAGS = flags.FLAGS
STEPS = {10: (20, 10, 10, 10), 30: (60, 10, 10, 10)}  # of MAGNeT's models, by the seconds of their clips
TEXT_LENGTH = 32


def define_flags() -> None:
    """In a function, so that several commands can be imported into one process."""
    flags.DEFINE_enum("size", "small", list(SHAPES), "Size of the model.")
    flags.DEFINE_integer("batch", 1, "Songs at once.", lower_bound=1)
    flags.DEFINE_integer("repeats", 3, "Of each measurement.", lower_bound=1)


def main() -> None:
    import jax

    print(f"{FLAGS.size} ({SHAPES[FLAGS.size]}), {FLAGS.batch} song(s) at once, on "
          f"{jax.devices()[0].device_kind}; median of {FLAGS.repeats}\n")
    print(f"{'clip':>5} {'passes':>12} {'seconds':>20} {'x real time':>20} {'times faster':>13}")
    for seconds, steps in STEPS.items():
        (autoregressive, long), (masked, short) = measure(seconds, steps)
        made = FLAGS.batch * seconds
        print(f"{seconds:3} s {long:5} {short:6} {autoregressive:10.2f} {masked:9.2f} {made / autoregressive:10.2f} "
              f"{made / masked:9.2f} {autoregressive / masked:13.2f}", flush=True)


def measure(seconds: int, steps: tuple[int, ...]) -> list[tuple[float, int]]:
    """(seconds that a batch of clips takes, forward passes) of the autoregressive and of the masked sampler."""
    import jax
    from flax import nnx

    from autosong_jax.models.build import build_model, compute_dtype, held_in
    from autosong_jax.sampling.options import DEFAULTS
    from autosong_jax.sampling.song import window_pattern
    from autosong_jax.sampling.windows import WINDOWS

    config, batch = make_config(seconds, steps), FLAGS.batch
    pattern = window_pattern(config, CODEC)
    model = build_model(config, CODEC, TEXT, rngs=nnx.Rngs(0)).unstacked()
    graph, params = nnx.split(model)
    params = nnx.to_pure_dict(params)
    abstract = held_in(compute_dtype(config.model.dtype), jax.eval_shape(lambda: params))
    params = jax.tree.map(lambda x, like: x.astype(like.dtype), params, abstract)
    sources = sources_of(random_states(batch, TEXT_LENGTH))
    frames, num_codebooks = len(pattern.steps), CODEC["num_codebooks"]
    arguments = (params, sources, jax.random.split(jax.random.key(0), batch),
                 np.zeros((batch, frames, num_codebooks), np.int32), np.zeros((batch, frames), bool),
                 np.full(batch, frames, np.int32), None)
    samplers = [WINDOWS[name](graph, config, pattern).prepare(model.source_names, DEFAULTS)
                for name in ("next_step", "masked_spans")]
    times = [[] for _ in samplers]
    for turn in range(FLAGS.repeats + 1):
        for (sample, _), measured in zip(samplers, times, strict=True):
            started = time.perf_counter()
            jax.block_until_ready(sample(*arguments))
            if turn > 0:  # the first compiles
                measured.append(time.perf_counter() - started)
    # Step 0 of a pattern holds nothing that is made.
    passes = pattern.num_steps - 1, sum(steps)
    return [(statistics.median(measured), count) for measured, count in zip(times, passes, strict=True)]


def make_config(seconds: int, steps: tuple[int, ...]):
    """Trained for both."""
    config = config_of(FLAGS.size, TEXT_LENGTH)
    config.objective.name = "both"
    config.data.seconds = float(seconds)
    config.sampling.masked.steps = steps
    return config


if __name__ == "__main__":
    define_flags()
    cli.run(main)
