"""Sings lyrics with a trained model, or to a backing track, or sings parts of a song anew.

python -m autosong_jax.generate --workdir=DIR --lyrics=lyrics.txt --genre=pop --output=song.wav
python -m autosong_jax.generate --workdir=DIR --lyrics=lyrics.txt --output=song.wav --candidates=4 --rank_by=likelihood
python -m autosong_jax.generate --workdir=DIR --backing=track.wav --output=lead.wav --mix=both.wav
python -m autosong_jax.generate --workdir=DIR --edit=song.wav --from=10.0 --to=14.5 --lyrics=new.txt --output=new.wav
"""

import functools
import pathlib
import re
from typing import Any

import numpy as np
from absl import flags

from autosong_jax import cli, compiled, inputs, outputs, rankers
from autosong_jax.errors import UserError

FLAGS = flags.FLAGS
SCORES = ".scores.json"
AT_ONCE = 64  # songs that are made together, candidates among them, whatever is asked for
MAX_SONGS = 10_000  # of one command, candidates among them
MAX_STEPS = 10_000  # passes of a codebook
CLIPS = {"prompt_audio": None, "melody": 1, "backing": None, "style_audio": None}  # channels; None for the codec's
OPTIONS = ("duration", "latent_steps", "top_k", "top_p", "cfg_scale", "cfg_scale_min", "arrangement", "confidence",
           "hybrid_seconds", "rescore_weight")  # flags that are handed on as they are


def define_flags() -> None:
    """In a function, so that several commands can be imported into one process."""
    flags.DEFINE_string("workdir", None, "Workdir of a trained model, or the directory or hub id of a released one.")
    flags.DEFINE_multi_string("lyrics", [], "Text file with the lyrics; give it several times for several songs.")
    flags.DEFINE_string("genre", None, "Genre of the song.")
    flags.DEFINE_string("text", None, "Description of the music.")
    flags.DEFINE_integer("seed", 0, "Seed of the first song; the next has the next seed.", lower_bound=0,
                         upper_bound=2**32 - 1)
    flags.DEFINE_integer("num_samples", 1, "Songs to make of each lyrics file.", lower_bound=1)
    flags.DEFINE_integer("candidates", 1, "Songs to make for each that is asked for, of which the best by --rank_by is "
                         "kept. Those of song i, counted from 0, have as many seeds from --seed + i * --candidates on; "
                         "each is the song that its seed gives alone.", lower_bound=1)
    flags.DEFINE_string("rank_by", None, "What the best is: likelihood, the song that the model itself finds the most "
                        "probable; notes, the one whose notes are the nearest to the lyrics of a songbook; clap:ID, "
                        "the one that a CLAP (a directory or hub id) finds the nearest to --text and --genre. The "
                        "scores are printed, and written beside song.wav to song.scores.json.")
    flags.DEFINE_string("output", None, "Audio file, .wav or .flac. Of several songs each name gets a number.")
    flags.DEFINE_string("codes_output", None, "File for the codes, .npy, integers [frames, codebooks].")
    flags.DEFINE_string("lrc", None, "File for when each line of --lyrics is sung, .lrc, as players of karaoke read "
                        "it. It shows where the model attends, which is no proof of what is heard.")
    flags.DEFINE_multi_string("alignment", [], "File for when each line, word and character of --lyrics is sung, with "
                              "confidence, .json, or for a picture of that, .png; may be given twice.")
    flags.DEFINE_float("duration", None, "Longest duration in seconds, a prompt included. Default: one window.")
    flags.DEFINE_float("temperature", None, "Temperature; 0 is greedy. Default: the config's.")
    flags.DEFINE_integer("top_k", None, "Choose among the k most probable codes; 0 for all. Default: the config's.")
    flags.DEFINE_float("top_p", None, "Choose within the nucleus of this probability. Default: the config's.")
    flags.DEFINE_integer("latent_steps", None, "Models of latents: steps from noise to a latent. Default: the "
                         "config's.")
    flags.DEFINE_float("cfg_scale", None, "Guidance scale; 1 is none. Default: the config's.")
    flags.DEFINE_list("cfg_scales", [], "Guidance scales of single sources, such as lyrics=4,genre=2.")
    flags.DEFINE_bool("greedy", False, "Always the most probable code; the same as --temperature=0. Masked models "
                      "judge spans by the probabilities at temperature 1.")
    flags.DEFINE_string("prompt_audio", None, "Audio file, or .npy file of codes, that the song begins with.")
    flags.DEFINE_string("melody", None, "Audio file whose melody the song follows; best without drums and bass.")
    flags.DEFINE_string("backing", None, "Audio file, or .npy file of codes, that the song goes with. Without a "
                        "--duration the song has as many samples.")
    flags.DEFINE_string("style_audio", None, "Audio file, or .npy file of codes, that the song is to sound like: a few "
                        "seconds.")
    flags.DEFINE_string("mix", None, "Audio file, .wav or .flac, for the song together with --backing.")
    flags.DEFINE_list("steps", None, "Masked models: passes of each codebook, such as 60,10,10,10.")
    flags.DEFINE_float("cfg_scale_min", None, "Masked models: guidance scale of the last pass of each codebook; "
                       "--cfg_scale is that of the first. Default: the config's.")
    flags.DEFINE_enum("arrangement", None, ["nonoverlap", "stride1"], "Masked models: spans that are made anew stand "
                      "side by side, or begin at any frame. Default: the config's.")
    flags.DEFINE_enum("confidence", None, ["max", "product"], "Masked models: a span of nonoverlap is as certain as "
                      "its most probable code, or as all of its codes together. Default: the config's.")
    flags.DEFINE_float("hybrid_seconds", None, "Masked models: seconds that are sung step by step before the rest is "
                       "filled in. Default: the config's.")
    flags.DEFINE_string("leader", None, "Workdir of the model that sings those seconds. Default: --workdir.")
    flags.DEFINE_string("rescorer", None, "Masked models: workdir of a model over the same codec that sings step by "
                        "step, which judges codes together with --workdir.")
    flags.DEFINE_float("rescore_weight", None, "Its weight, from 0 to 1. Default: the config's.")
    flags.DEFINE_multi_string("edit", [], "Masked models: audio file, or .npy file of codes, to edit; give it several "
                              "times for clips in a row.")
    flags.DEFINE_multi_float("from", [], "Where to begin to sing --edit anew, in seconds; several times for several "
                             "spans. The codes of the rest stay as they are.")
    flags.DEFINE_multi_float("to", [], "Where to stop, one for each --from.")
    flags.DEFINE_float("before", 0.0, "Seconds to add before --edit.")
    flags.DEFINE_float("between", 0.0, "Seconds to add between two clips of --edit.")
    flags.DEFINE_float("after", 0.0, "Seconds to add after --edit.")
    flags.mark_flag_as_required("workdir")


def main() -> None:
    times = [path for path in [FLAGS.lrc, *FLAGS.alignment] if path]
    if not (FLAGS.output or FLAGS.codes_output or FLAGS.mix or times):
        raise UserError("nothing to write: give --output=song.wav or --codes_output=codes.npy, or both")
    if FLAGS.mix and not FLAGS.backing:
        raise UserError(f"--mix={FLAGS.mix} without --backing: it is the song together with that")
    clips = {name: FLAGS[name].value for name in CLIPS if FLAGS[name].value}
    read = [*FLAGS.lyrics, *FLAGS.edit, *clips.values()]
    outputs.check_file(FLAGS.output, (".wav", ".flac"), read=read)
    outputs.check_file(FLAGS.mix, (".wav", ".flac"), "mix", read=read)
    if FLAGS.mix and FLAGS.output and pathlib.Path(FLAGS.mix).absolute() == pathlib.Path(FLAGS.output).absolute():
        raise UserError(f"--mix and --output are both {FLAGS.mix}: expected two files")
    outputs.check_file(FLAGS.codes_output, (".npy",), "codes_output", read=read)
    outputs.check_file(FLAGS.lrc, (".lrc",), "lrc", read=read)
    for path in FLAGS.alignment:
        outputs.check_file(path, (".json", ".png"), "alignment", read=read)
    if times and not FLAGS.lyrics:
        raise UserError(f"--{'lrc' if FLAGS.lrc else 'alignment'}={times[0]} without --lyrics: it is for when they are "
                        "sung")
    scored = _check_ranking([FLAGS.output, FLAGS.codes_output, FLAGS.mix, *times], read)
    _check_edit()
    scales, steps = _scales(FLAGS.cfg_scales), _steps(FLAGS.steps)
    count = _count()
    songs = _conditions()
    for path in (*FLAGS.edit, *clips.values()):
        inputs.stat_regular(path, "audio file")
    compiled.keep()

    import autosong_jax

    singer = autosong_jax.load(FLAGS.workdir, "--workdir")
    asked = {name: FLAGS[name].value for name in OPTIONS} | {"cfg_scales": scales or None, "steps": steps}
    asked |= {"temperature": 0.0 if FLAGS.greedy else FLAGS.temperature, "show_progress": True}
    asked |= {name: autosong_jax.load(FLAGS[name].value, f"--{name}") for name in ("leader", "rescorer")
              if FLAGS[name].value}
    asked |= {name: singer.read(path, CLIPS[name]) for name, path in clips.items()}
    if FLAGS.rank_by:
        asked |= {"candidates": FLAGS.candidates, "rank_by": autosong_jax.ranker(FLAGS.rank_by, "--rank_by")}
    if times:
        for song in songs:
            singer.check_align(**song)
    sing = functools.partial(singer.edit, _edit(singer)) if FLAGS.edit else singer.generate
    at_once = max(AT_ONCE // FLAGS.candidates, 1)
    for first in range(0, count, at_once):
        some = [songs[i // FLAGS.num_samples] for i in range(first, min(first + at_once, count))]
        conditions = {name: [song.get(name) for song in some] for name in ("lyrics", "genre", "description")}
        made = sing(seed=FLAGS.seed + first * FLAGS.candidates, **conditions, **asked)
        for i in range(len(made)):
            if FLAGS.rank_by:
                _say_ranking(made[i].ranking, _numbered(scored, first + i, count).with_suffix(SCORES))
            _write(made[i], singer.frame_rate, first + i, count)
            if FLAGS.mix:
                _mix(made[i], asked["backing"], singer, _numbered(FLAGS.mix, first + i, count))
            if times and not len(made[i].frames):
                cli.log.warning("%s: not written, since the song is empty", ", ".join(times))
            elif times:
                known = {name: asked[name] for name in clips if name != "prompt_audio"}
                _align(singer.align(made[i].frames, **some[i], **known), times, first + i, count)
            made[i] = None  # and its audio


def _write(song, frame_rate: float, i: int, count: int) -> None:
    """Writes song `i` of `count`, and says so."""
    from autosong_jax.audio import io

    if FLAGS.codes_output:
        path = _numbered(FLAGS.codes_output, i, count)
        np.save(path, song.frames)
        cli.say(f"{path}: {len(song.frames)} frames ({len(song.frames) / frame_rate:.2f} s)")
    if FLAGS.output:
        path = _numbered(FLAGS.output, i, count)
        clipped = io.write(path, song.audio, song.sample_rate)
        seconds = song.audio.shape[1] / song.sample_rate
        cli.say(f"{path}: {seconds:.2f} s" + (f", {clipped} samples clipped" if clipped else ""))


def _say_ranking(ranking, path: pathlib.Path) -> None:
    """Writes how the candidates of a song were ranked, and says so."""
    ranking.write(path)
    cli.say(f"{path}: {len(ranking.candidates)} candidates by {ranking.ranker}, the {ranking.best_is} is kept")
    for line in ranking.lines():
        cli.say(f"  {line}")


def _mix(song, backing: np.ndarray, singer, path: pathlib.Path) -> None:
    """Writes a song together with its backing, audio or codes, and says so."""
    from autosong_jax.audio import io
    from autosong_jax.sampling import sound

    backing = singer.codec.decode(backing) if backing.dtype.kind in "iu" else backing
    audio = sound.mixed(song.audio, backing)
    io.write(path, audio, song.sample_rate)
    cli.say(f"{path}: {audio.shape[1] / song.sample_rate:.2f} s, with the backing")


def _align(alignment, paths: list[str], i: int, count: int) -> None:
    """Writes when the lyrics of song `i` of `count` are sung, and says so."""
    for path in (_numbered(path, i, count) for path in paths):
        alignment.write(path)
        cli.say(f"{path}: {alignment.summary}")


def _count() -> int:
    """How many songs are asked for. Raises UserError where more are to be made than anybody waits for."""
    count = max(len(FLAGS.lyrics), 1) * FLAGS.num_samples
    made = count * FLAGS.candidates
    if made > MAX_SONGS:
        of_each = f" and --candidates={FLAGS.candidates}" if FLAGS.candidates > 1 else ""
        raise UserError(f"--num_samples={FLAGS.num_samples}{of_each} of {max(len(FLAGS.lyrics), 1)} songs: expected at "
                        f"most {MAX_SONGS} in all")
    if FLAGS.seed + made > 2**32:
        raise UserError(f"--seed={FLAGS.seed} of the first of {made} songs: expected that of the last to be at most "
                        f"{2**32 - 1}")
    return count


def _check_ranking(written: list[str | None], read: list[str]) -> str | None:
    """The first file that is written, beside which the scores of candidates go. Raises UserError where they cannot, or
    the flags do not go together."""
    if FLAGS.rank_by is None:
        if FLAGS.candidates > 1:
            raise UserError(f"--candidates={FLAGS.candidates} without --rank_by: expected what to choose the best by, "
                            f"{', '.join(rankers.RANKERS)}")
        return None
    rankers.check(FLAGS.rank_by, "--rank_by")
    beside = next(filter(None, written))
    path = pathlib.Path(beside).with_suffix(SCORES)
    if path.absolute() in [pathlib.Path(name).absolute() for name in written if name]:
        raise UserError(f"--alignment={path} is where the scores of --rank_by go: expected another name")
    outputs.check_file(str(path), (".json",), "the scores of --rank_by", read=read)
    return beside


def _conditions() -> list[dict[str, Any]]:
    """The texts of each song to make, of which there may be several samples."""
    shared = {"genre": FLAGS.genre, "description": FLAGS.text}
    shared = {name: text for name, text in shared.items() if text is not None}
    return [{"lyrics": _read(path)} | shared for path in FLAGS.lyrics] or [shared]


def _read(path: str) -> str:
    text = inputs.read_text(path, "--lyrics")
    if not re.sub(r"\[[^\[\]]*\]", "", text).strip():
        cli.log.warning("--lyrics=%s holds no words to sing", path)
    return text


def _scales(items: list[str]) -> dict[str, float]:
    try:
        pairs = [(name, float(scale)) for name, scale in (item.split("=") for item in items)]
        if len(dict(pairs)) < len(pairs) or not np.isfinite([scale for _, scale in pairs]).all():
            raise ValueError("a source twice, or a scale that is no number")
    except ValueError:
        raise UserError(f"--cfg_scales={','.join(items)}: expected SOURCE=SCALE,... with each source once") from None
    return dict(pairs)


def _steps(items: list[str] | None) -> list[int] | None:
    try:
        steps = None if items is None else [int(item) for item in items]
        if steps is not None and not (steps and 1 <= min(steps) <= max(steps) <= MAX_STEPS):
            raise ValueError("none, or out of range")
    except ValueError:
        raise UserError(f"--steps={','.join(items)}: expected for each codebook a number of passes from 1 to "
                        f"{MAX_STEPS}") from None
    return steps


def _edit(singer):
    """The edit that is asked for."""
    from autosong_jax.sampling.edits import Edit

    return Edit([singer.read(path) for path in FLAGS.edit], list(zip(FLAGS["from"].value, FLAGS.to, strict=True)),
                FLAGS.before, FLAGS.between, FLAGS.after)


def _check_edit() -> None:
    """Raises UserError where the flags of edits do not go together."""
    starts, stops = FLAGS["from"].value, FLAGS.to
    for name in ("temperature", "top_k", "top_p"):
        if FLAGS.greedy and FLAGS[name].value is not None:
            raise UserError(f"--{name} with --greedy, which takes the most probable code: expected one of them")
    if FLAGS.rescore_weight is not None and not FLAGS.rescorer:
        raise UserError(f"--rescore_weight={FLAGS.rescore_weight:g} without --rescorer: it is the weight of that model")
    if len(starts) != len(stops):
        raise UserError(f"{len(starts)} --from and {len(stops)} --to: expected one --to for each --from")
    if not FLAGS.edit and (starts or FLAGS.before or FLAGS.between or FLAGS.after):
        raise UserError("--from, --to, --before, --between and --after are for edits: expected --edit=SONG")
    for name in ("prompt_audio", "duration", "leader", "hybrid_seconds"):
        if FLAGS.edit and FLAGS[name].value is not None:
            raise UserError(f"--{name} with --edit: expected one of them; --edit keeps the length of the song, and "
                            "--before and --after add to it")
    if len(FLAGS.edit) < 2 and FLAGS.between:
        raise UserError(f"--between={FLAGS.between}: expected several --edit to be between")


def _numbered(path: str, index: int, count: int) -> pathlib.Path:
    """song.wav as it is for one song; song-0.wav, song-1.wav, ... for several."""
    path = pathlib.Path(path)
    return path if count == 1 else path.with_stem(f"{path.stem}-{index}")


if __name__ == "__main__":
    define_flags()
    cli.run(main)
