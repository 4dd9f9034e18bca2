"""How well does a model without codebooks sing? Its three parts, trained on a songbook and judged by numbers.

python -m benchmarks.continuous --output continuous
python -m benchmarks.continuous --output continuous --parts=autoencoders --clips=FOLDER

It runs the commands that a user runs, and then measures. What is measured stands in results/ as JSON; started again it
goes on where it was stopped, measures what there is not yet, and prints all of it. Parts:

vocoder       sound of true mel spectrograms: the vocoder beside Griffin-Lim
autoencoders  what comes back through them, of few channels and of many
song          lyrics never seen, sung by each variant of the song model, over one of the autoencoders
drift         minutes of free run of each variant: do they fade?
speed         what each variant costs beside a model of codes
"""

import pathlib

from absl import flags

from autosong_jax import cli
from autosong_jax.errors import UserError
from benchmarks.continuous.scene import Scene

FLAGS = flags.FLAGS
PARTS = ("vocoder", "autoencoders", "song", "drift", "speed")


def define_flags() -> None:
    """In a function, so that several commands can be imported into one process."""
    flags.DEFINE_string("output", "continuous", "Where songs, datasets, models and results go.")
    flags.DEFINE_list("parts", list(PARTS), "What to measure; songs are heard by the vocoder, if it is there.")
    flags.DEFINE_integer("songs", 2000, "Songs to learn from.", lower_bound=100)
    flags.DEFINE_float("seconds", 6.0, "That a song lasts at most.", lower_bound=5.0, upper_bound=6.4)
    flags.DEFINE_enum("hop", "128", ["64", "128"], "Samples a frame of a mel spectrogram: columns of 128 or 64 ms.")
    flags.DEFINE_integer("heard", 64, "At most so many held-out songs are listened to.", lower_bound=2)
    flags.DEFINE_integer("vocoder_steps", 2500, "Steps of training of the vocoder.", lower_bound=1)
    flags.DEFINE_list("autoencoders", ["c4", "c8", "c16", "c4-gan"], "Autoencoders: cN has N channels, cN-gan is "
                      "trained against a discriminator, cN-level has a decoder that keeps how loud a block is.")
    flags.DEFINE_integer("autoencoder_steps", 800, "Steps of training of each.", lower_bound=4)
    flags.DEFINE_string("clips", None, "Folder of audio files, which go through the autoencoders, too.")
    flags.DEFINE_list("variants", ["given", "regression", "mixture", "flow", "distilled", "flow-nonoise",
                                   "flow-nocontext"], "Song models: given, the system as it was first built, or a head "
                      "of latents, with -nonoise trained on clean histories, with -nocontext without short context.")
    flags.DEFINE_string("autoencoder", "c8", "The one whose latents they sing; it is trained if it is not yet.")
    flags.DEFINE_integer("song_steps", 800, "Steps of training of each.", lower_bound=1)
    flags.DEFINE_list("drift_variants", None, "Those that run freely. By default --variants.")
    flags.DEFINE_integer("drift_steps", 400, "Steps of training of each.", lower_bound=1)
    flags.DEFINE_integer("drift_songs", 200, "Songs of a minute to learn from for that.", lower_bound=40)
    flags.DEFINE_float("drift_seconds", 180.0, "Of a free run.", lower_bound=30.0)
    flags.DEFINE_integer("drift_seeds", 3, "Free runs of each.", lower_bound=1)
    flags.DEFINE_integer("speed_steps", 60, "Steps of training by which the speed is measured.", lower_bound=20)


def main() -> None:
    from benchmarks.continuous import autoencoders, drift, songs, speed, vocoder

    if unknown := set(FLAGS.parts) - set(PARTS):
        raise UserError(f"--parts={','.join(sorted(unknown))}: expected some of {', '.join(PARTS)}")
    drifting = FLAGS.drift_variants or FLAGS.variants
    for name in (*FLAGS.autoencoders, FLAGS.autoencoder):
        autoencoders.channels_of(name)
    for name in (*FLAGS.variants, *drifting):
        songs.check(name)
    if FLAGS.clips and not pathlib.Path(FLAGS.clips).is_dir():
        raise UserError(f"--clips={FLAGS.clips} is no folder")
    scene = Scene(pathlib.Path(FLAGS.output), FLAGS.songs, FLAGS.seconds, int(FLAGS.hop), FLAGS.heard)
    if "vocoder" in FLAGS.parts:
        vocoder.print_table(vocoder.measure(scene, FLAGS.vocoder_steps))
    if "autoencoders" in FLAGS.parts:
        for folder in [None, FLAGS.clips] if FLAGS.clips else [None]:
            found = autoencoders.measure(scene, FLAGS.autoencoders, FLAGS.autoencoder_steps, folder)
            autoencoders.print_table(found, f"the clips in {folder}" if folder else "held-out songs")
            autoencoders.draw(scene, FLAGS.autoencoders, folder)
    if {"song", "drift", "speed"} & set(FLAGS.parts):
        restored = autoencoders.measure(scene, [FLAGS.autoencoder], FLAGS.autoencoder_steps, None)
    if "song" in FLAGS.parts:
        found = songs.measure(scene, FLAGS.variants, FLAGS.autoencoder, FLAGS.song_steps)
        songs.print_table(found, restored["none"], restored[FLAGS.autoencoder])
    if "drift" in FLAGS.parts:
        drift.print_table(drift.measure(
            scene, drifting, FLAGS.autoencoder, FLAGS.drift_steps, FLAGS.drift_seconds, FLAGS.drift_seeds,
            FLAGS.drift_songs), FLAGS.drift_seconds)
    if "speed" in FLAGS.parts:
        speed.print_table(speed.measure(scene, FLAGS.variants, FLAGS.autoencoder, FLAGS.speed_steps))


if __name__ == "__main__":
    define_flags()
    cli.run(main)
