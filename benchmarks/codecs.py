"""The speed of pretrained codecs beside PyTorch's, on one machine in one run, at the released shapes, random weights.

python -m benchmarks.codecs --threads=2
python -m benchmarks.codecs --model=dac_44khz --seconds=4

Both sides code the same audio with the same weights: ours as songs are coded, in windows, and the model of
`transformers`. Their turns alternate, so that whatever else the machine does meets both; a table cell is a median.
"""

import os
import statistics
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from absl import flags

from autosong_jax import cli
from autosong_jax.errors import UserError
from benchmarks.timing import alternate

FLAGS = flags.FLAGS
# Settings as `transformers` has them; the kind of codec is the first word of the name.
MODELS = {
    "encodec_24khz": {},
    "encodec_32khz": {
        "sampling_rate": 32_000, "upsampling_ratios": [8, 5, 4, 4], "num_filters": 64, "codebook_size": 2048,
        "target_bandwidths": [2.2], "use_causal_conv": False, "use_conv_shortcut": False},
    "encodec_48khz": {
        "sampling_rate": 48_000, "audio_channels": 2, "norm_type": "time_group_norm", "use_causal_conv": False,
        "normalize": True, "chunk_length_s": 1.0, "overlap": 0.01, "target_bandwidths": [3.0, 6.0, 12.0, 24.0]},
    "dac_44khz": {"sampling_rate": 44_100},
}


def define_flags() -> None:
    """In a function, so that several commands can be imported into one process."""
    flags.DEFINE_multi_enum("model", list(MODELS), list(MODELS), "Which; may be given several times.")
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
    print(f"{'':14} {'':7} {'kbit/s':>7} {'ours':>9} {'PyTorch':>9} {'ratio':>7}")
    for name in FLAGS.model:
        for row in measure(name, {}, FLAGS.seconds, FLAGS.repeats, "cpu"):
            ours, theirs = (statistics.median(taken) for taken in (row.ours, row.theirs))
            print(f"{name:14} {row.work:7} {row.bandwidth:7.3g} {FLAGS.seconds / ours:8.1f}x "
                  f"{FLAGS.seconds / theirs:8.1f}x {ours / theirs:7.2f}", flush=True)


class Row(NamedTuple):
    """What was done at so many kbit/s, and the seconds that each side took each time."""

    work: str
    bandwidth: float
    ours: list[float]
    theirs: list[float]


class Sides(NamedTuple):
    """A codec at so many kbit/s: ours, and what `transformers` does with the same audio."""

    bandwidth: float
    codec: Any
    encode: Callable[[], Any]
    decode: Callable[[], Any]


def measure(name: str, settings: dict[str, Any], seconds: float, repeats: int, device: str) -> list[Row]:
    """Both ways, where a model has several bandwidths at the lowest and the highest.

    Args:
      name: one of `MODELS`.
      settings: go before those of the model.
      seconds: of audio.
      repeats: of each measurement.
      device: PyTorch's name of the device that JAX has.
    """
    import torch

    torch.manual_seed(0)
    settings = MODELS[name] | settings
    sides = _encodec(settings, seconds, device) if name.startswith("encodec") else _dac(settings, seconds, device)
    rows = []
    with torch.inference_mode():
        for audio, side in sides:
            codes = side.codec.encode(audio)
            encoding = alternate([lambda side=side, audio=audio: side.codec.encode(audio), side.encode], repeats)
            decoding = alternate([lambda side=side, codes=codes: side.codec.decode(codes), side.decode], repeats)
            rows += [Row("encode", side.bandwidth, *encoding), Row("decode", side.bandwidth, *decoding)]
    return rows


def _encodec(settings: dict[str, Any], seconds: float, device: str) -> Iterator[tuple[np.ndarray, Sides]]:
    import transformers

    from autosong_jax.codecs.encodec.codec import EncodecCodec

    config = transformers.EncodecConfig(**settings)
    model = transformers.EncodecModel(config).eval()
    for layer in model.quantizer.layers:
        layer.codebook.embed.normal_()
    tensors, audio, theirs = _placed(model, config.audio_channels, config.sampling_rate, seconds, device)
    for bandwidth in sorted({config.target_bandwidths[0], config.target_bandwidths[-1]}):
        coded = model.encode(theirs, bandwidth=bandwidth)
        yield audio, Sides(
            bandwidth, EncodecCodec(config.to_dict(), tensors, bandwidth),
            lambda bandwidth=bandwidth: model.encode(theirs, bandwidth=bandwidth).audio_codes.cpu(),
            lambda coded=coded: model.decode(coded.audio_codes, coded.audio_scales,
                                             last_frame_pad_length=coded.last_frame_pad_length).audio_values.cpu())


def _dac(settings: dict[str, Any], seconds: float, device: str) -> Iterator[tuple[np.ndarray, Sides]]:
    import transformers

    from autosong_jax.codecs.dac.codec import DacCodec

    config = transformers.DacConfig(**settings)
    model = transformers.DacModel(config).eval()
    tensors, audio, theirs = _placed(model, 1, config.sampling_rate, seconds, device)
    codec, coded = DacCodec(config.to_dict(), tensors), model.encode(theirs).audio_codes
    bandwidth = codec.frame_rate * codec.info.num_codebooks * np.log2(codec.info.codebook_size) / 1000
    yield audio, Sides(bandwidth, codec, lambda: model.encode(theirs).audio_codes.cpu(),
                       lambda: model.decode(audio_codes=coded).audio_values.cpu())


def _placed(model: Any, channels: int, sample_rate: int, seconds: float, device: str) -> tuple[Any, np.ndarray, Any]:
    """The tensors of a model, which goes to the device, and audio for both sides."""
    import torch

    from autosong_jax.weights import files

    tensors = files.Tensors.of({name: value.numpy() for name, value in model.state_dict().items()}, "random weights")
    model.to(device)
    shape = channels, round(seconds * sample_rate)
    audio = 0.1 * np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    return tensors, audio, torch.from_numpy(audio)[None].to(device)


if __name__ == "__main__":
    define_flags()
    cli.run(main)
