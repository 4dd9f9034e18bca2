"""What a whole song in one context costs: memory of a training step by length, and a few real steps at the full length.

python -m benchmarks.whole_songs

The table is read off the program that XLA compiles for this machine's CPU, of `configs/lyric2music.py` as it is (300
million parameters, one song a step, float32), at three lengths: whatever is quadratic in the length would quadruple
from one row to the next. Then a small model of the same kind is trained at the full length, in this process, whose
largest memory is printed.
"""

import os
import re
import resource
import statistics
import time
from typing import Any

import numpy as np
from absl import flags

from autosong_jax import cli
from autosong_jax.codecs.info import CodesInfo
from benchmarks import train_step

FLAGS = flags.FLAGS
CODEC = CodesInfo("encodec", 24_000, 1, 75.0, 2, 1024)  # EnCodec 24 kHz at 1.5 kbit/s
TEXT_WIDTH = 768  # of BERT's states
SMALL = {"width": 512, "heads": 8, "layers": 6, "mlp_width": 2048}
GIB = 2**30


def define_flags() -> None:
    """In a function, so that several commands can be imported into one process."""
    flags.DEFINE_list("lengths", ["4500", "9000", "18000"], "Steps of a song.")
    flags.DEFINE_integer("train_steps", 3, "Of the small model, at the greatest length; 0 for none.", lower_bound=0)


def main() -> None:
    os.environ["JAX_PLATFORMS"] = "cpu"
    lengths = [int(length) for length in FLAGS.lengths]
    print(f"{'steps':>7} {'state':>10} {'intermediate results':>22} {'largest array among them':>40}")
    before = None
    for length in lengths:
        program = compile_step(length, {})
        memory = program.memory_analysis()
        shape, size = largest_array(program.as_text(), length)
        growth = f" (x{memory.temp_size_in_bytes / before:.2f})" if before else ""
        before = memory.temp_size_in_bytes
        print(f"{length:7} {memory.argument_size_in_bytes / GIB:6.2f} GiB "
              f"{before / GIB:10.2f} GiB{growth:8} {shape:>28} {size / GIB:7.3f} GiB", flush=True)
    if FLAGS.train_steps:
        train(lengths[-1])


def train(length: int) -> None:
    """Steps of the small model."""
    import jax

    trainer, config, batch = prepare(length, jax.device_count(), SMALL)
    step = train_step.step_of(trainer, config, batch)
    print(f"\n{step.parameters / 1e6:.0f} million parameters, one song of {length} steps:")
    seconds = []
    for number in range(FLAGS.train_steps):
        started = time.perf_counter()
        loss = step.step()
        seconds.append(time.perf_counter() - started)
        print(f"step {number + 1}: loss {loss:.3f}, {seconds[-1]:.1f} s", flush=True)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(f"median {statistics.median(seconds):.1f} s a step; the whole process, compilation included, took at most "
          f"{peak / GIB:.2f} GiB")


def compile_step(length: int, shape: dict[str, int]) -> Any:
    """The compiled training step for one song of `length` steps a device."""
    import jax

    trainer, _, batch = prepare(length, jax.device_count(), shape)
    return trainer.train_step.lower(trainer.abstract, {}, jax.tree.map(np.asarray, batch)).compile()


def prepare(length: int, songs: int, shape: dict[str, int]) -> tuple[Any, Any, Any]:
    """The trainer of `configs/lyric2music.py` with another shape, its config, and a batch of songs of `length` steps.

    Args:
      length: of each song.
      songs: of the batch.
      shape: what of `config.model` differs.
    """
    import ml_dtypes

    from autosong_jax.codebooks.patterns import get_pattern
    from autosong_jax.models.build import build_model
    from autosong_jax.parallel.sharding import make_mesh, put_batch
    from autosong_jax.sources.text.encoders import TextEncoderInfo
    from autosong_jax.training.step import make_trainer
    from configs import lyric2music

    config = lyric2music.get_config()
    config.model.update(shape)
    codebooks = CODEC.num_codebooks
    frames = length // codebooks
    config.data.update(seconds=frames / CODEC.frame_rate, batch_size=songs)
    text = TextEncoderInfo("bert:bert-base-multilingual-cased", "", "states", width=TEXT_WIDTH)
    trainer = make_trainer(config, lambda rngs: build_model(config, CODEC, text, rngs=rngs),
                           get_pattern(config.model.pattern, frames, codebooks), make_mesh(config.mesh))
    generator = np.random.default_rng(0)
    return trainer, config, put_batch({
        "frames": generator.integers(CODEC.codebook_size, size=(songs, frames, codebooks)).astype(np.int32),
        "num_frames": np.full(songs, frames, np.int32), "song_ends": np.zeros(songs, bool),
        "sources": {name: {
            "states": generator.normal(size=(songs, source.max_length, TEXT_WIDTH)).astype(ml_dtypes.bfloat16),
            "length": np.full(songs, source.max_length, np.int32)} for name, source in config.sources.items()}},
        trainer.mesh)


def largest_array(program: str, length: int) -> tuple[str, int]:
    """The shape of the largest array that has an axis as long as the song in it, and its bytes."""
    sizes = {"f32": 4, "bf16": 2, "s32": 4, "u32": 4, "pred": 1}
    found = {}
    for dtype, dims in re.findall(r"\b(f32|bf16|s32|u32|pred)\[([\d,]+)\]", program):
        shape = [int(n) for n in dims.split(",")]
        if max(shape) >= length:
            found[f"{dtype}[{dims}]"] = sizes[dtype] * int(np.prod(shape, dtype=np.int64))
    return max(found.items(), key=lambda item: item[1])


if __name__ == "__main__":
    define_flags()
    cli.run(main)
