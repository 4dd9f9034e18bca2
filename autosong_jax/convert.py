"""Brings released models in, and trained ones out.

python -m autosong_jax.convert --source=facebook/musicgen-small --workdir=DIR
python -m autosong_jax.convert --workdir=DIR --export=OUT

A source is a directory or a hub id: MusicGen (text, stereo or melody) as transformers has it, or MusicGen or MAGNeT as
audiocraft released it. DIR then is a workdir like any other: `generate` sings from it, and configs/finetune.py starts
training from it. With a single file as source, a checkpoint of the encodec package, --export=OUT makes it a codec
directory.
"""

import os
import pathlib
import shlex

from absl import flags

from autosong_jax import cli, compiled, inputs, outputs
from autosong_jax.errors import UserError

FLAGS = flags.FLAGS


def define_flags() -> None:
    """In a function, so that several commands can be imported into one process."""
    flags.DEFINE_string("source", None, "Directory or hub id of a released model.")
    flags.DEFINE_string("workdir", None, "Workdir to make of --source, or whose model to --export.")
    flags.DEFINE_string("export", None, "Directory to write a model to.")
    flags.DEFINE_enum("format", "auto", ["auto", "musicgen", "autosong"],
                      "Of --export: musicgen, which transformers loads; autosong, which autosong_jax loads; auto is "
                      "musicgen for a model that is one.")
    flags.DEFINE_string("text_encoder", None, "Directory or hub id of the T5 that a release of audiocraft was trained "
                                              "with. Default: the one that it names.")


def main() -> None:
    given = {name for name in ("source", "workdir", "export") if FLAGS[name].value}
    if FLAGS.format != "auto" and given != {"workdir", "export"}:
        raise UserError(f"--format={FLAGS.format} is of --export: expected it with --workdir and --export")
    if FLAGS.text_encoder and given != {"source", "workdir"}:
        raise UserError(f"--text_encoder={FLAGS.text_encoder} is of a release of audiocraft: expected it with --source "
                        "and --workdir")
    compiled.keep()
    if given == {"source", "workdir"}:
        from autosong_jax.pretrained import released

        outputs.check_directory(pathlib.Path(FLAGS.workdir), "--workdir", empty=True)
        released.read(FLAGS.source, text_encoder=FLAGS.text_encoder).write(pathlib.Path(FLAGS.workdir))
        cli.say(f"{FLAGS.workdir}: sing from it with `python -m autosong_jax.generate "
              f"--workdir={shlex.quote(FLAGS.workdir)}`")
    elif given == {"workdir", "export"}:
        from autosong_jax.pretrained import export

        form = export.export(pathlib.Path(FLAGS.workdir), pathlib.Path(FLAGS.export), FLAGS.format)
        cli.say(f"{FLAGS.export}: written as {form}")
    elif given == {"source", "export"}:
        source = pathlib.Path(FLAGS.source)
        if os.path.isdir(source):
            raise UserError(f"--source={source} is a directory, which needs --workdir: to --export, expected a file, a "
                            "checkpoint of the encodec package")
        inputs.stat_regular(source, "--source")
        from autosong_jax.pretrained import audiocraft
        from autosong_jax.weights import files

        with files.writing(pathlib.Path(FLAGS.export), "--export"):
            audiocraft.read_codec(source).save(FLAGS.export)
        cli.say(f"{FLAGS.export}: a codec directory")
    else:
        raise UserError("expected two of --source, --workdir and --export: --source and --workdir bring a model in, "
                        "--workdir and --export out, --source=FILE and --export a codec of the encodec package")


if __name__ == "__main__":
    define_flags()
    cli.run(main)
