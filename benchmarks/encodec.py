"""EnCodec's speed beside PyTorch's, on one machine in one run, at the released shapes with random weights.

python -m benchmarks.encodec --threads=2

Both sides code the same audio with the same weights: ours as songs are coded, in windows, and `transformers`' own
EncodecModel. Their turns alternate, so that whatever else the machine does meets both; a table cell is a median.
"""

import os
import statistics
from typing import NamedTuple

import numpy as np
from absl import flags

from autosong_jax import cli
from autosong_jax.errors import UserError
from benchmarks.timing import alternate

FLAGS = flags.FLAGS
MODELS = {
    "24 kHz": {},
    "32 kHz": {"sampling_rate": 32_000, "upsampling_ratios": [8, 5, 4, 4], "num_filters": 64, "codebook_size": 2048,
               "target_bandwidths": [2.2], "use_causal_conv": False, "use_conv_shortcut": False},
    "48 kHz": {"sampling_rate": 48_000, "audio_channels": 2, "norm_type": "time_group_norm", "use_causal_conv": False,
               "normalize": True, "chunk_length_s": 1.0, "overlap": 0.01, "target_bandwidths": [3.0, 6.0, 12.0, 24.0]},
}


def define_flags() -> None:
    """In a function, so that several commands can be imported into one process."""
    flags.DEFINE_float("seconds", 10.0, "Of audio.", lower_bound=1.0)
    flags.DEFINE_integer("repeats", 5, "Of each measurement.", lower_bound=5)
    flags.DEFINE_integer("threads", 2, "For both sides.", lower_bound=1)


def main() -> None:
    if FLAGS.threads > len(os.sched_getaffinity(0)):
        raise UserError(f"--threads={FLAGS.threads}: there are {len(os.sched_getaffinity(0))} processors")
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:FLAGS.threads])  # XLA has a thread for each processor
    os.environ["JAX_PLATFORMS"] = "cpu"
    import torch

    torch.set_num_threads(FLAGS.threads)
    print(f"{FLAGS.seconds:g} s of audio, {FLAGS.threads} threads, median of {FLAGS.repeats}; x: seconds of audio a "
          "second; ratio: our time over PyTorch's\n")
    print(f"{'':8} {'':7} {'kbit/s':>7} {'ours':>9} {'PyTorch':>9} {'ratio':>7}")
    for name, settings in MODELS.items():
        for row in measure(settings, FLAGS.seconds, FLAGS.repeats, "cpu"):
            ours, theirs = (statistics.median(taken) for taken in (row.ours, row.theirs))
            print(f"{name:8} {row.work:7} {row.bandwidth:7g} {FLAGS.seconds / ours:8.1f}x "
                  f"{FLAGS.seconds / theirs:8.1f}x {ours / theirs:7.2f}", flush=True)


class Row(NamedTuple):
    """What was done at so many kbit/s, and the seconds that each side took each time."""

    work: str
    bandwidth: float
    ours: list[float]
    theirs: list[float]


def measure(settings: dict, seconds: float, repeats: int, device: str) -> list[Row]:
    """Both ways at the lowest and the highest bandwidth of a model.

    Args:
      settings: of the model, as `transformers` has them.
      seconds: of audio.
      repeats: of each measurement.
      device: PyTorch's name of the device that JAX has.
    """
    import torch
    import transformers

    from autosong_jax.codecs.encodec import codec as encodec
    from autosong_jax.weights import files

    torch.manual_seed(0)
    model = transformers.EncodecModel(transformers.EncodecConfig(**settings)).eval()
    for layer in model.quantizer.layers:
        layer.codebook.embed.normal_()
    config = model.config
    tensors = files.Tensors.of({name: value.numpy() for name, value in model.state_dict().items()}, "random weights")
    model.to(device)
    samples = round(seconds * config.sampling_rate)
    audio = 0.1 * np.random.default_rng(0).standard_normal((config.audio_channels, samples)).astype(np.float32)
    theirs = torch.from_numpy(audio)[None].to(device)
    rows = []
    for bandwidth in sorted({config.target_bandwidths[0], config.target_bandwidths[-1]}):
        codec = encodec.EncodecCodec(config.to_dict(), tensors, bandwidth)
        with torch.inference_mode():
            coded = model.encode(theirs, bandwidth=bandwidth)
            codes = codec.encode(audio)

            def encode(bandwidth=bandwidth):
                return model.encode(theirs, bandwidth=bandwidth).audio_codes.cpu()

            def decode(coded=coded):
                return model.decode(coded.audio_codes, coded.audio_scales,
                                    last_frame_pad_length=coded.last_frame_pad_length).audio_values.cpu()

            encoding = alternate([lambda codec=codec: codec.encode(audio), encode], repeats)
            decoding = alternate([lambda codec=codec, codes=codes: codec.decode(codes), decode], repeats)
        rows += [Row("encode", bandwidth, *encoding), Row("decode", bandwidth, *decoding)]
    return rows


if __name__ == "__main__":
    define_flags()
    cli.run(main)
