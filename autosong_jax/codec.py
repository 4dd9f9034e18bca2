"""Audio files to the frames of a codec and back, in memory that does not grow with their length.

python -m autosong_jax.codec encode --codec encodec_32khz --input song.wav --output codes.npy
python -m autosong_jax.codec decode --codec encodec_32khz --input codes.npy --output song.wav
python -m autosong_jax.codec roundtrip --codec encodec_32khz --input song.wav --output coded.wav
"""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np
from absl import flags

from autosong_jax import cli, compiled, inputs, outputs

if TYPE_CHECKING:
    from autosong_jax.codecs.codec import Codec

FLAGS = flags.FLAGS
VERBS = ("encode", "decode", "roundtrip")
_CODES, _AUDIO = (".npy",), (".wav", ".flac")
_BLOCK = 4096  # frames


def define_flags() -> None:
    """In a function, so that several commands can be imported into one process."""
    flags.DEFINE_string("codec", None, "encodec_24khz, encodec_32khz, encodec_48khz, dac_16khz, dac_24khz or "
                        "dac_44khz; mel or pcm, also with settings, as data_prep.export has them; the directory "
                        "of a codec, as a dataset and a workdir have one in codec/; a dataset or a workdir; or the "
                        "directory or hub id of another EnCodec or DAC.")
    flags.DEFINE_float("bandwidth", None, "Kbit/s of an EnCodec, which decides how many codebooks there are. Default: "
                       "that of the codec's directory, or the lowest.")
    flags.DEFINE_string("input", None, "Audio file (wav, flac, ogg, mp3, ...), or .npy of frames to decode.")
    flags.DEFINE_string("output", None, "File for the frames, .npy, integers [frames, codebooks] or [frames, values], "
                        "or for audio, .wav or .flac.")
    flags.mark_flags_as_required(["codec", "input", "output"])


def main(verb: str) -> None:
    inputs.stat_regular(FLAGS.input, "--input")
    outputs.check_file(FLAGS.output, _CODES if verb == "encode" else _AUDIO, read=[FLAGS.input])
    compiled.keep()
    from autosong_jax.codecs.codec import open_codec, read_frames

    codec = open_codec(FLAGS.codec, FLAGS.bandwidth)
    if verb == "decode":
        frames = read_frames(FLAGS.input, codec.info.frames)
        blocks = (frames[start:start + _BLOCK] for start in range(0, len(frames), _BLOCK))
        _write(codec.decode_blocks(blocks), codec, len(frames) / codec.frame_rate)
        return
    from autosong_jax.audio import io

    seconds = io.duration(FLAGS.input)
    loudness = codec.loudness(io.read_blocks(FLAGS.input, codec.sample_rate, codec.channels))
    blocks = codec.encode_blocks(io.read_blocks(FLAGS.input, codec.sample_rate, codec.channels), loudness)
    if verb == "encode":
        frames = np.concatenate(list(_counted(blocks, seconds, codec.frame_rate)))
        np.save(FLAGS.output, frames)
        cli.say(f"{FLAGS.output}: {len(frames)} frames of {frames.shape[1]} {codec.info.frames.noun} "
                f"({len(frames) / codec.frame_rate:.2f} s)")
    else:
        samples = max(1, round(seconds * codec.sample_rate))
        _write(codec.decode_blocks(blocks, loudness=loudness), codec, seconds, samples)


def _write(blocks: Iterable[np.ndarray], codec: "Codec", seconds: float, samples: int | None = None) -> None:
    """Writes audio in blocks, at most so many samples of it."""
    from autosong_jax.audio import io

    def cut() -> Iterator[np.ndarray]:
        left = samples
        for block in _counted((block.T for block in blocks), seconds, codec.sample_rate):
            yield block[:left].T
            left = None if left is None else max(0, left - len(block))

    clipped = io.write_blocks(FLAGS.output, cut(), codec.sample_rate, codec.channels)
    cli.say(f"{FLAGS.output}: {seconds:.2f} s" + (f", {clipped} samples clipped" if clipped else ""))


def _counted(blocks: Iterable[np.ndarray], seconds: float, rate: float) -> Iterator[np.ndarray]:
    """The blocks [any, ...], `rate` a second, and a progress bar beside them."""
    with cli.progress(total=round(seconds, 1), unit="s") as bar:
        for block in blocks:
            bar.update(round(len(block) / rate, 1))
            yield block


if __name__ == "__main__":
    define_flags()
    cli.run(main, verbs=VERBS)
