"""Says when each line of the lyrics is sung in a recording, from where a trained model attends in them.

python -m autosong_jax.align --workdir=DIR --lyrics=lyrics.txt --audio=song.wav --lrc=song.lrc --alignment=song.png
python -m autosong_jax.align --workdir=DIR --calibrate=SONGS

The model reads the recording as if it had sung it. Its times show where it attends, which is no proof of what is heard:
where the confidence is low, do not trust them. --calibrate chooses the attention heads by songs whose times are known
(folders with notes.json, such as data_prep.songbook makes) and keeps them in the workdir; without it, they are those
that go through the lyrics the most steadily.
"""

import pathlib

from absl import flags

from autosong_jax import cli, compiled, inputs, outputs
from autosong_jax.errors import UserError

FLAGS = flags.FLAGS


def define_flags() -> None:
    """In a function, so that several commands can be imported into one process."""
    flags.DEFINE_string("workdir", None, "Workdir of a trained model that attends to lyrics.")
    flags.DEFINE_string("lyrics", None, "Text file with the lyrics.")
    flags.DEFINE_string("audio", None, "Audio file, or .npy file of codes, in which they are sung.")
    flags.DEFINE_string("genre", None, "Genre of the song.")
    flags.DEFINE_string("text", None, "Description of the music.")
    flags.DEFINE_string("lrc", None, "File for the times of the lines, .lrc, as players of karaoke read it.")
    flags.DEFINE_multi_string("alignment", [], "File for the times of lines, words and characters with their "
                              "confidence, .json, or for a picture of them, .png; may be given twice.")
    flags.DEFINE_string("calibrate", None, "Folder of songs with known times, by which to choose the heads.")
    flags.DEFINE_integer("songs", 16, "With --calibrate: at most so many songs.", lower_bound=1, upper_bound=1000)
    flags.mark_flag_as_required("workdir")


def main() -> None:
    written = [path for path in [FLAGS.lrc, *FLAGS.alignment] if path]
    asked = {name: FLAGS[name].value for name in ("lyrics", "audio")}
    if FLAGS.calibrate and (written or any(asked.values())):
        raise UserError(f"--calibrate={FLAGS.calibrate} with a song: expected one of them; first calibrate, then align")
    if not FLAGS.calibrate:
        for name, value in asked.items():
            if not value:
                raise UserError(f"--{name} is missing: expected --lyrics=lyrics.txt and --audio=song.wav, or "
                                "--calibrate=SONGS")
        if not written:
            raise UserError("nothing to write: give --lrc=song.lrc, --alignment=song.json or --alignment=song.png")
        outputs.check_file(FLAGS.lrc, (".lrc",), "lrc", read=asked.values())
        for path in FLAGS.alignment:
            outputs.check_file(path, (".json", ".png"), "alignment", read=asked.values())
        inputs.stat_regular(FLAGS.audio, "audio file")
        lyrics = inputs.read_text(FLAGS.lyrics, "--lyrics")
    compiled.keep()

    import autosong_jax

    if FLAGS.calibrate:
        return calibrate(autosong_jax)
    singer = autosong_jax.load(FLAGS.workdir, "--workdir")
    conditions = {"lyrics": lyrics, "genre": FLAGS.genre, "description": FLAGS.text}
    singer.check_align(**conditions)
    alignment = singer.align(singer.read(FLAGS.audio), **conditions)
    for path in written:
        alignment.write(path)
        cli.say(f"{path}: {alignment.summary}")


def calibrate(autosong_jax) -> None:
    """Chooses the heads and keeps them in the workdir."""
    from autosong_jax.evaluation.timed import read_songs

    outputs.check_directory(pathlib.Path(FLAGS.workdir), "--workdir")
    songs = read_songs(FLAGS.calibrate, FLAGS.songs, "--calibrate")
    singer = autosong_jax.load(FLAGS.workdir, "--workdir")
    found = singer.calibrate(
        [(singer.read(str(song.audio)), {"lyrics": song.lyrics, "genre": song.genre}, song.times) for song in songs],
        show_progress=True)
    found.save(FLAGS.workdir)
    heads = ", ".join(f"{layer}.{head}" for layer, head in found.heads)
    cli.say(f"{FLAGS.workdir}/alignment.json: layer.head {heads}; over {found.syllables} syllables of {found.songs} "
            f"songs their beginnings are off by {found.mean_error:.3f} s on average")


if __name__ == "__main__":
    define_flags()
    cli.run(main)
