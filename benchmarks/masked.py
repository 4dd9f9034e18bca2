"""The masked sampler's speed beside the autoregressive one's: the same model, machine and run, with random weights.

python -m benchmarks.masked --size=small

Clips of 10 and 30 s at MusicGen's shapes, guided, conditioned on 32 states of T5; passes of the masked sampler are
MAGNeT's. Turns alternate, so that whatever else the machine does meets both samplers; a table cell is a median.
Compilation is not counted.
"""

import functools
import statistics

import numpy as np
from absl import flags

from autosong_jax import cli
from benchmarks.shapes import CODEC, SHAPES, TEXT, config_of, random_params, random_states, sources_of
from benchmarks.timing import alternate

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
        (autoregressive, long), (masked, short) = (
            (statistics.median(taken), passes)
            for taken, passes in measure(FLAGS.size, seconds, steps, FLAGS.batch, FLAGS.repeats).values())
        made = FLAGS.batch * seconds
        print(f"{seconds:3} s {long:5} {short:6} {autoregressive:10.2f} {masked:9.2f} {made / autoregressive:10.2f} "
              f"{made / masked:9.2f} {autoregressive / masked:13.2f}", flush=True)


def measure(size: str, seconds: float, steps: tuple[int, ...], batch: int, repeats: int
            ) -> dict[str, tuple[list[float], int]]:
    """By sampler, "next_step" and "masked_spans": what a batch of clips took each time, and its forward passes."""
    import jax
    from flax import nnx

    from autosong_jax.codebooks.patterns import get_pattern
    from autosong_jax.layers.declaration import declarations, held_in
    from autosong_jax.models.build import abstract_model, compute_dtype
    from autosong_jax.sampling.samplers import Judgement, SampledModel, get_samplers
    from autosong_jax.sampling.windows import Window

    config = make_config(size, seconds, steps)
    frames, num_codebooks = round(seconds * CODEC.frame_rate), CODEC.num_codebooks
    pattern = get_pattern(config.model.pattern, frames, num_codebooks)
    graph, abstract = abstract_model(config, CODEC, TEXT)
    dtype = compute_dtype(config.model.dtype)
    params = random_params(held_in(dtype, abstract, declarations(graph, abstract)))
    model = nnx.merge(graph, params).unstacked(consume=True)
    graph, params = nnx.split(model)
    window = Window(0, jax.random.split(jax.random.key(0), batch), np.zeros((batch, frames, num_codebooks), np.int32),
                    np.zeros((batch, frames), bool), np.full(batch, frames, np.int32))
    autoregressive, masked = get_samplers(SampledModel(graph, config, pattern, model.source_names))
    samplers = autoregressive.prepare({}), masked.prepare({}, frames, Judgement())
    sources = sources_of(random_states(batch, TEXT_LENGTH))
    taken = alternate([functools.partial(_sing, sampler, params, sources, window) for sampler in samplers], repeats)
    # Step 0 of a pattern holds nothing that is made.
    return {"next_step": (taken[0], pattern.num_steps - 1), "masked_spans": (taken[1], sum(steps))}


def _sing(sampler, params, sources, window) -> None:
    for _ in sampler.sing(params, sources, window, None):
        pass


def make_config(size: str, seconds: float, steps: tuple[int, ...]):
    """Trained for both."""
    config = config_of(size, TEXT_LENGTH)
    config.objective.name = "both"
    config.data.seconds = float(seconds)
    config.sampling.masked.steps = steps
    return config


if __name__ == "__main__":
    define_flags()
    cli.run(main)
