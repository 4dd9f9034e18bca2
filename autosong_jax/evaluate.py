"""Says how good a trained model is: its loss of songs that it has not learned from, and how good the songs are that it
sings.

python -m autosong_jax.evaluate --workdir=runs/mine --dataset=dataset --output=runs/mine/evaluated
python -m autosong_jax.evaluate --workdir=runs/mine --dataset=dataset --output=E --settings=temperature=0 \\
    --settings=temperature=1,top_k=250 --songs=50
python -m autosong_jax.evaluate --audio=SONGS --dataset=dataset --output=E      # songs that were made elsewhere

In the output are then metrics.json, with a confidence interval for every number, report.html, which needs no other
file, and samples/. The command may be stopped at any time: called again, it goes on song by song.
"""

import pathlib
import re
from typing import Any

import numpy as np
from absl import flags

from autosong_jax import cli, compiled
from autosong_jax.errors import UserError

FLAGS = flags.FLAGS
WORDS = ("arrangement", "confidence")  # options that are no numbers


def define_flags() -> None:
    """In a function, so that several commands can be imported into one process."""
    flags.DEFINE_string("workdir", None, "Workdir of a trained model; its newest weights are judged.")
    flags.DEFINE_string("dataset", None, "Dataset of the true songs, with the model's codec and text encoder.")
    flags.DEFINE_string("split", "validation", "Split of the dataset.")
    flags.DEFINE_string("output", None, "Folder for the results; that of an earlier call to go on with it.")
    flags.DEFINE_multi_string("settings", [], "How songs are sung, such as temperature=1,top_k=250 or temperature=0; "
                              "give it several times to compare. Default: the config's sampling.")
    flags.DEFINE_integer("songs", 100, "Songs to sing, with what the first songs of the split are sung to.",
                         lower_bound=1)
    flags.DEFINE_integer("seed", 0, "Seed of the first song; the next has the next seed.", lower_bound=0,
                         upper_bound=2**31)
    flags.DEFINE_integer("batch_size", 16, "Songs that are sung at once; changes nothing but memory and speed.",
                         lower_bound=1)
    flags.DEFINE_multi_string("embedder", ["spectral"], "What makes vectors of songs for distances between "
                              "distributions: spectral (which needs no weights), codec, or clap:ID of a released CLAP; "
                              "may be given several times.")
    flags.DEFINE_bool("memorisation", False, "Look for the songs' codes in those of the split `train`: how much is as "
                      "there, of these songs and of the true ones.")
    flags.DEFINE_string("transcriber", None, "whisper:ID of a Whisper, hub id or directory, that hears how much of the "
                        "lyrics is sung. Needs PyTorch, and a GPU for many songs.")
    flags.DEFINE_string("language", None, "Code of the language of all lyrics, such as en, for --transcriber. By "
                        "default it is found for each song.")
    flags.DEFINE_string("codes", None, "Folder of songs as .npy files of codes, judged in place of a model's.")
    flags.DEFINE_string("audio", None, "Folder of songs as audio files, likewise. Files that are named as songs of the "
                        "dataset are compared with those.")
    flags.DEFINE_integer("samples", 4, "Songs to listen to, of each settings.", lower_bound=0, upper_bound=100)
    flags.mark_flags_as_required(["dataset", "output"])


def main() -> None:
    given = [name for name in ("workdir", "codes", "audio") if FLAGS[name].value]
    if len(given) != 1:
        raise UserError(f"{' and '.join(f'--{name}' for name in given) or 'nothing to judge'}: expected one of "
                        "--workdir, --codes and --audio")
    if FLAGS.settings and not FLAGS.workdir:
        raise UserError(f"--settings={FLAGS.settings[0]} with --{given[0]}: it is for songs that a --workdir sings")
    if FLAGS.language and not FLAGS.transcriber:
        raise UserError(f"--language={FLAGS.language} without --transcriber: it says what that is to hear")
    settings = {text: parse_settings(text) for text in FLAGS.settings or [""]}
    compiled.keep()

    from autosong_jax.data.dataset import SongDataset
    from autosong_jax.evaluation.embedders import get_embedder
    from autosong_jax.evaluation.suite import Suite

    check_settings(settings)
    suite = Suite(SongDataset(FLAGS.dataset, FLAGS.split), FLAGS.split, pathlib.Path(FLAGS.output), FLAGS.songs,
                  table())
    embedders = [get_embedder(name, lambda: suite.codec) for name in dict.fromkeys(FLAGS.embedder)]
    found: dict[str, Any] = {"dataset": FLAGS.dataset, "split": FLAGS.split, "songs": len(suite.dataset)}
    if FLAGS.workdir:
        found, judged = judge_model(suite, found, settings)
    else:
        folder = FLAGS.codes or FLAGS.audio
        judged = [suite.given(pathlib.Path(folder), codes=bool(FLAGS.codes))]
    suite.report(found, judged, embedders, FLAGS.samples)


def table():
    """The metrics: those that need nothing, and those that are asked for."""
    from autosong_jax.data.dataset import SongDataset
    from autosong_jax.evaluation.memorisation import memorisation_metric
    from autosong_jax.evaluation.metrics import METRICS
    from autosong_jax.evaluation.recognition import lyrics_metric
    from autosong_jax.evaluation.suite import RESULTS

    asked = [memorisation_metric(SongDataset(FLAGS.dataset, "train"))] if FLAGS.memorisation else []
    if FLAGS.transcriber:
        folder = pathlib.Path(FLAGS.output) / RESULTS / "transcripts"
        asked.append(lyrics_metric(FLAGS.transcriber, FLAGS.language, folder))
    return (*METRICS, *asked)


def judge_model(suite, found: dict[str, Any], settings: dict[str, dict[str, Any]]):
    """What teacher forcing says of a model, added to `found`, and the songs that it sings."""
    from autosong_jax.evaluation.suite import weights_digest
    from autosong_jax.evaluation.teacher_forced import TeacherForced
    from autosong_jax.objectives.table import samplers_of
    from autosong_jax.sampling.singer import Singer

    workdir = open_workdir(suite.dataset)
    model, step = workdir.load_trained()
    forced = TeacherForced(workdir.context, model, suite.dataset)
    weights = weights_digest(forced.params)
    found |= {"workdir": FLAGS.workdir, "step": step, "weights": weights,
              "teacher_forced": suite.teacher_forced(forced, weights)}
    choices = suite.forced_choices(forced, weights)
    del forced  # which holds the weights that the next line uses up
    if not samplers_of(workdir.config.objective.name):
        return found, []
    singer = Singer(workdir.context, model.unstacked(consume=True))
    given = (singer.conditions_of(suite.dataset[i]) for i in range(suite.count))
    if missing := set(singer.arguments).difference(*given):
        cli.log.warning("no song that is judged says which %s it should have: they are sung without",
                        " and ".join(sorted(missing)))
    return found, [sing(suite, singer, weights, text, options, choices) for text, options in settings.items()]


def open_workdir(dataset):
    """The model to be judged. Raises UserError where it reads other songs than those of the dataset."""
    from autosong_jax.pretrained import released
    from autosong_jax.workdir.runs import same_codec, same_text_encoder
    from autosong_jax.workdir.workdir import Workdir

    directory = pathlib.Path(FLAGS.workdir)
    if not directory.is_dir():
        raise UserError(f"--workdir={FLAGS.workdir} is no directory: expected the --workdir of a training run")
    if released.is_released(directory):
        raise UserError(f"--workdir={FLAGS.workdir} is a released model: first make a workdir of it, with `python -m "
                        f"autosong_jax.convert --source={FLAGS.workdir} --workdir=DIR`")
    workdir = Workdir(directory)
    if not same_codec(directory / "codec", dataset.path / "codec"):
        raise UserError(f"--workdir={FLAGS.workdir} has another codec ({workdir.codec.name}, {workdir.codec.frames}) "
                        f"than --dataset={FLAGS.dataset} ({dataset.codec.name}, {dataset.codec.frames}): export the "
                        f"songs with --codec={FLAGS.workdir}/codec")
    if not same_text_encoder(workdir.text, dataset.text):
        raise UserError(f"--workdir={FLAGS.workdir} reads texts by {workdir.text.name}, --dataset={FLAGS.dataset} "
                        f"holds them as {dataset.text.name}: export the songs with the text encoder of the former")
    return workdir


def sing(suite, singer, weights: str, text: str, options: dict[str, Any], choices):
    """The songs that a model sings with some options."""
    from autosong_jax.evaluation.suite import Judged
    from autosong_jax.sampling.whole_songs import limit, longest, sing_to

    dataset = suite.dataset
    options = {"duration": longest(singer.config, dataset, suite.count)} | options
    name = text or "the config's settings"
    results = suite.results("sung", weights=weights, options=options, seed=FLAGS.seed)

    def sing(songs):
        return sing_to(singer, dataset, songs, seed=FLAGS.seed, show_progress=True, **options)

    made = suite.sung(name, results, sing, FLAGS.batch_size)
    most = limit(singer.config, dataset, options["duration"])
    songs = [suite.song(i, frames, limit=most, forced=choices and choices[i]) for i, frames in enumerate(made)]
    return Judged(name, songs, results)


def parse_settings(text: str) -> dict[str, Any]:
    """ "temperature=1,top_k=250,steps=20/10/10" -> the options. Raises UserError where they are none."""
    options = {}
    for item in filter(None, text.split(",")):
        name, equals, value = item.partition("=")
        if not equals or not re.fullmatch(r"\w+", name) or name in options:
            raise UserError(f"--settings={text}: expected NAME=VALUE,... with each name once, such as "
                            "temperature=1,top_k=250")
        options[name] = _value(value)
        if name not in WORDS and any(isinstance(one, str) for one in np.ravel(options[name]).tolist()):
            raise UserError(f"--settings={text}: {name} is {value!r}, expected a number")
    return options


def check_settings(settings: dict[str, dict[str, Any]]) -> None:
    """Raises UserError for an option that no sampler takes."""
    from autosong_jax.sampling.samplers import ALL_OPTIONS

    for text, options in settings.items():
        for name in options.keys() - ALL_OPTIONS:
            raise UserError(f"--settings={text}: {name} is no option, expected one of {', '.join(sorted(ALL_OPTIONS))}")


def _value(text: str) -> Any:
    if "/" in text:
        return [_value(part) for part in text.split("/")]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text


if __name__ == "__main__":
    define_flags()
    cli.run(main)
