"""Makes a dataset to train on from a folder of songs or a manifest.

    python -m data_prep.export --input songs --output dataset

The folder holds a folder a song:

    songs/NAME/lyrics.txt       UTF-8; lines such as [verse] or [Chorus 2] name sections
    songs/NAME/audio.flac       or .wav, .mp3, .ogg
    songs/NAME/genre.txt        if wanted; also description.txt, and group.txt, which names the album, work, ... that
                                must not stand in both the training and the validation split
    songs/NAME/backing.flac     with --sources=text,backing: what goes with audio.flac, from its beginning to its end

A manifest is a text file with a JSON object a line: {"id": "song 1", "audio": "a.mp3", "lyrics": "..." or
"lyrics_file": "a.txt", "genre": "pop", "group": "album 7", "description": "...", "backing": "b.mp3"}; all but the first
three are optional.

Stopped at any moment and started again, an export goes on where it was. Songs that cannot be used are left out and
named, with the reason, at the end and in report.json.
"""

import os
import shlex

from absl import flags

from autosong_jax import cli, inputs
from autosong_jax.errors import UserError

FLAGS = flags.FLAGS


def define_flags() -> None:
    """In a function, so that several commands can be imported into one process."""
    flags.DEFINE_string("input", None, "Folder of songs, or JSONL manifest.", required=True)
    flags.DEFINE_string("output", None, "Directory of the dataset, to be made.", required=True)
    flags.DEFINE_string(
        "codec", "melrvq", "melrvq (fitted to your songs here, no download; melrvq:hop=1280,num_codebooks=8 and the "
        "like change its settings), mel or pcm (spectrograms, or the samples themselves, for models of continuous "
        "frames; mel:sample_rate=16000,hop=64,n_mels=64 and the like), encodec_24khz, encodec_32khz, encodec_48khz, "
        "dac_16khz, dac_24khz, dac_44khz, or the directory or hub id of any EnCodec or DAC in the format of "
        "transformers.")
    flags.DEFINE_enum(
        "codec_backend", "transformers", ["transformers", "encodec"], "The package that computes an EnCodec; the codes "
        "are the same. encodec is Meta's own, for which --codec is encodec_24khz or encodec_48khz, to fetch Meta's "
        "checkpoint, or the .th file of one, or the directory that holds it.")
    flags.DEFINE_float(
        "bandwidth", None, "Of EnCodec, in kbit/s: decides the number of codebooks. By default the lowest of the "
        "model.")
    flags.DEFINE_string(
        "text_encoder", "bytes", "bytes (any language), pinyin (Mandarin), or bert:ID, t5:ID, mt5:ID, umt5:ID for "
        "frozen states of a pretrained encoder; ID is a hub id or a directory.")
    flags.DEFINE_enum(
        "text_states", "stored", ["stored", "on_the_fly"], "Of a frozen encoder: store its states, which may take more "
        "disk than all else, or only its ids, and run it in training.")
    flags.DEFINE_list(
        "sources", ["text"], "What songs are to hold that models are conditioned on: text; text,chroma also for models "
        "that follow the melody of a recording; text,backing also for models that accompany, of songs with a backing.")
    flags.DEFINE_float(
        "validation_fraction", 0.05, "Share of the groups held out to choose checkpoints by: at least one group, if "
        "there are two. A song that names no group is one of its own.", lower_bound=0, upper_bound=1)
    flags.DEFINE_float(
        "test_fraction", 0.0, "Share of the groups held out for the end: if above 0, at least one group, if there are "
        "three.", lower_bound=0, upper_bound=1)
    flags.DEFINE_integer("shards", None, "Files per split. By default about one per 128 MiB.", lower_bound=1)
    flags.DEFINE_float(
        "max_minutes", 30.0, "Longer songs are left out. A worker holds a whole song in memory.", lower_bound=0)
    flags.DEFINE_bool("require_lyrics", True, "Leave out songs without lyrics.")
    flags.DEFINE_enum(
        "runner", "local", ["local", "beam"], "What does the work on each song: processes of this machine, or Apache "
        "Beam, which has to be installed and may run on a cluster. The dataset is the same.")
    flags.DEFINE_multi_string(
        "beam_options", [], "Options of the pipeline, as Beam has them, such as --beam_options='--runner=FlinkRunner "
        "--flink_master=HOST:8081'. May be given several times. By default Beam's DirectRunner, with --workers "
        "workers.")
    flags.DEFINE_integer(
        "workers", None, "Processes that read and encode; without a GPU, each holds the pretrained models. By default "
        "one per core. The dataset is the same.", lower_bound=1)
    flags.DEFINE_bool("strict", False, "End with an error, before encoding, if any song has to be left out.")
    flags.DEFINE_bool("overwrite", False, "Replace a dataset made from other songs or with other options.")


def main() -> None:
    from data_prep import pipeline, report

    options = pipeline.Options(
        input=FLAGS.input, output=FLAGS.output, codec=FLAGS.codec, codec_backend=FLAGS.codec_backend,
        bandwidth=FLAGS.bandwidth, text_encoder=FLAGS.text_encoder, text_states=FLAGS.text_states,
        sources=tuple(dict.fromkeys(FLAGS.sources)),
        validation_fraction=FLAGS.validation_fraction, test_fraction=FLAGS.test_fraction, shards=FLAGS.shards,
        max_minutes=FLAGS.max_minutes, require_lyrics=FLAGS.require_lyrics, runner=FLAGS.runner,
        beam_options=tuple(option for text in FLAGS.beam_options for option in _split(text)),
        workers=FLAGS.workers or os.cpu_count(), strict=FLAGS.strict, overwrite=FLAGS.overwrite)
    try:
        finished, speed = pipeline.export(options)
    except OSError as error:  # a full disk, for one
        raise UserError(f"{error.filename or options.output} cannot be read or written: {inputs.reason(error)}"
                        ) from error
    cli.say(report.summary(finished, options.output, speed))


def _split(text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError as error:
        raise UserError(f"--beam_options={text}: {str(error).lower()}") from error


if __name__ == "__main__":
    define_flags()
    cli.run(main)
