"""Sings lyrics with a trained model.

python -m autosong_jax.generate --workdir=DIR --lyrics=lyrics.txt --genre=pop --output=song.wav
"""

import pathlib
from typing import Any

import numpy as np
from absl import flags

from autosong_jax import cli
from autosong_jax.errors import UserError

FLAGS = flags.FLAGS


def define_flags() -> None:
    """In a function, so that several commands can be imported into one process."""
    flags.DEFINE_string("workdir", None, "Workdir of a trained model, or the directory or hub id of a released one.")
    flags.DEFINE_multi_string("lyrics", [], "Text file with the lyrics; give it several times for several songs.")
    flags.DEFINE_string("genre", None, "Genre of the song.")
    flags.DEFINE_string("text", None, "Description of the music.")
    flags.DEFINE_integer("seed", 0, "Seed of the first song; the next has the next seed.", lower_bound=0,
                         upper_bound=2**32 - 1)
    flags.DEFINE_integer("num_samples", 1, "Songs to make of each lyrics file.", lower_bound=1)
    flags.DEFINE_string("output", None, "Audio file, .wav or .flac. Of several songs each name gets a number.")
    flags.DEFINE_string("codes_output", None, "File for the codes, .npy, integers [frames, codebooks].")
    flags.DEFINE_float("duration", None, "Longest duration in seconds, a prompt included. Default: one window.")
    flags.DEFINE_float("temperature", None, "Temperature; 0 is greedy. Default: the config's.")
    flags.DEFINE_integer("top_k", None, "Choose among the k most probable codes; 0 for all. Default: the config's.")
    flags.DEFINE_float("top_p", None, "Choose within the nucleus of this probability. Default: the config's.")
    flags.DEFINE_float("cfg_scale", None, "Guidance scale; 1 is none. Default: the config's.")
    flags.DEFINE_list("cfg_scales", [], "Guidance scales of single sources, such as lyrics=4,genre=2.")
    flags.DEFINE_bool("greedy", False, "Always the most probable code; the same as --temperature=0.")
    flags.DEFINE_string("prompt_audio", None, "Audio file that the song begins with.")
    flags.DEFINE_string("melody", None, "Audio file whose melody the song follows; best without drums and bass.")
    flags.mark_flag_as_required("workdir")


def main() -> None:
    if not (FLAGS.output or FLAGS.codes_output):
        raise UserError("nothing to write: give --output=song.wav or --codes_output=codes.npy, or both")
    cli.check_output(FLAGS.output, (".wav", ".flac"))
    cli.check_output(FLAGS.codes_output, (".npy",))
    songs = _conditions()

    import autosong_jax
    from autosong_jax.audio import io
    from autosong_jax.sampling.song import SamplingOptions

    singer = autosong_jax.load(FLAGS.workdir, "--workdir")
    codec = singer.codec if FLAGS.output or FLAGS.prompt_audio or FLAGS.melody else None
    prompt = None
    if FLAGS.prompt_audio:
        prompt = codec.encode(io.read(FLAGS.prompt_audio, codec.sample_rate, codec.channels)[0])
    if FLAGS.melody:
        melody = io.read(FLAGS.melody, codec.sample_rate, 1)[0]
        songs = [song | {"chroma": melody} for song in songs]
    options = SamplingOptions(
        duration=FLAGS.duration, temperature=0.0 if FLAGS.greedy else FLAGS.temperature, top_k=FLAGS.top_k,
        top_p=FLAGS.top_p, cfg_scale=FLAGS.cfg_scale, cfg_scales=_scales(FLAGS.cfg_scales))
    all_codes = singer.sing(singer.encode_conditions(songs), range(FLAGS.seed, FLAGS.seed + len(songs)), prompt=prompt,
                            show_progress=True, options=options)
    for i, codes in enumerate(all_codes):
        seconds = len(codes) / singer.frame_rate
        if FLAGS.codes_output:
            path = _numbered(FLAGS.codes_output, i, len(songs))
            np.save(path, codes)
            print(f"{path}: {len(codes)} frames ({seconds:.2f} s)")
        if FLAGS.output:
            path = _numbered(FLAGS.output, i, len(songs))
            io.write(path, codec.decode(codes), codec.sample_rate)
            print(f"{path}: {seconds:.2f} s")


def _conditions() -> list[dict[str, Any]]:
    """The texts of each song to make."""
    shared = {"genre": FLAGS.genre, "description": FLAGS.text}
    shared = {name: text for name, text in shared.items() if text is not None}
    songs = [{"lyrics": _read(path)} | shared for path in FLAGS.lyrics] or [shared]
    return [song for song in songs for _ in range(FLAGS.num_samples)]


def _read(path: str) -> str:
    try:
        return pathlib.Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--lyrics={path} cannot be read ({error}): expected a text file in UTF-8") from error


def _scales(items: list[str]) -> dict[str, float]:
    try:
        return {name: float(scale) for name, scale in (item.split("=") for item in items)}
    except ValueError:
        raise UserError(f"--cfg_scales={','.join(items)}: expected SOURCE=SCALE,...") from None


def _numbered(path: str, index: int, count: int) -> pathlib.Path:
    """song.wav as it is for one song; song-0.wav, song-1.wav, ... for several."""
    path = pathlib.Path(path)
    return path if count == 1 else path.with_stem(f"{path.stem}-{index}")


if __name__ == "__main__":
    define_flags()
    cli.run(main)
