"""Makes songs from recordings: the lead of each, and its backing, in clips and copies of other pitch and tempo.

    python -m data_prep.stems --input recordings --output songs
    python -m data_prep.export --input songs --output dataset --sources=text,backing --norequire_lyrics

Every recording is brought to one loudness and taken apart by Demucs, unless its stems lie in a folder by themselves
(vocals.wav, drums.wav, ...). The chosen stems are the lead, the sum of the others its backing. Where the lead plays
long enough, both are cut into songs:

    songs/NAME/audio.flac      the lead
    songs/NAME/backing.flac    what else plays, of exactly the same length
    songs/NAME/group.txt       the recording: all that comes from it stands in one split

genre.txt and description.txt beside a recording come along, and lyrics.txt of one that is not cut. Options may stand in
a file, by their names: --config=pipeline.yaml; flags win over it.

Stopped at any moment and started again, it goes on where it was. What cannot be used is left out and named, with the
reason, at the end and in songs/report.json.
"""

import types
import typing

from absl import flags

from autosong_jax import cli, inputs
from autosong_jax.errors import UserError
from data_prep.stems import options as table

FLAGS = flags.FLAGS


def define_flags() -> None:
    """In a function, so that several commands can be imported into one process."""
    flags.DEFINE_string("config", None, "YAML file with options by name.")
    for option in table.OPTIONS:
        define = {str: flags.DEFINE_string, float: flags.DEFINE_float, int: flags.DEFINE_integer,
                  bool: flags.DEFINE_bool, tuple: flags.DEFINE_list}[_kind(option.type)]
        default = option.default
        if option.name in table.NUMBERS:
            default = [f"{number:g}" for number in default]
        elif option.name == "input":
            define = flags.DEFINE_multi_string
        define(option.name, list(default) if isinstance(default, tuple) else default, option.metadata["help"])


def _kind(annotation: typing.Any) -> type:
    """float of `float | None`, tuple of `tuple[float, ...]`."""
    if isinstance(annotation, types.UnionType):
        return typing.get_args(annotation)[0]
    return typing.get_origin(annotation) or annotation


def read_options() -> table.Options:
    """Those of the flags, then of the config file, then the defaults. Raises UserError."""
    values = table.read_config(FLAGS.config) if FLAGS.config else {}
    for option in table.OPTIONS:
        if FLAGS[option.name].present:
            value = FLAGS[option.name].value
            if option.name in table.NUMBERS:
                value = table.parse_numbers(option.name, value)
            values[option.name] = tuple(value) if isinstance(value, list) else value
    return table.Options(**values)


def main() -> None:
    options = read_options()

    from data_prep.stems import pipeline, report

    try:
        finished, new = pipeline.make_songs(options)
    except OSError as error:  # a full disk, for one
        raise UserError(f"{error.filename or options.output} cannot be read or written: {inputs.reason(error)}"
                        ) from error
    cli.say(report.summary(finished, options.output, new))


if __name__ == "__main__":
    define_flags()
    cli.run(main)
