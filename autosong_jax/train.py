"""Trains a song model.

python -m autosong_jax.train --config=configs/small.py --config.data.path=DATASET --workdir=DIR

Any field of the config can be set with --config.field=value; autosong_jax/defaults.py explains them all. The same
command again goes on from the newest checkpoint. Ctrl+C and SIGTERM save before they stop. Where there is no file
configs/NAME.py, the one that is installed with this package is taken.

Several hosts train one model if each runs this command, on a TPU pod, under SLURM or Open MPI, or with
JAX_COORDINATOR_ADDRESS=HOST:PORT, JAX_NUM_PROCESSES and JAX_PROCESS_ID set. They must share the workdir.

python -m autosong_jax.train --plan --config=configs/large.py --mesh=h100-8

says beforehand, on any machine and without a dataset, how much memory that takes on each device, and what to change
where it does not fit. --mesh is KIND-COUNT, such as v5e-16, with a kind of v5e, v6e, v5p, l4, a100, h100, h200 and the
number of chips, which --config.mesh.* lays out; sizes of axes may also follow a colon: v5p-128:fsdp=32,tensor=4.
Without --mesh it says for each kind how many are enough.
"""

import pathlib
import shlex
import sys

from absl import flags
from ml_collections import config_flags

from autosong_jax import cli, compiled, outputs
from autosong_jax import config as config_file
from autosong_jax.errors import UserError

FLAGS = flags.FLAGS
# What a model sings of, by source.
_GIVEN = {"lyrics": "--lyrics=lyrics.txt", "backing": "--backing=track.wav", "style": "--style_audio=clip.wav"}


def define_flags() -> None:
    """In a function, so that several commands can be imported into one process."""
    config_flags.DEFINE_config_file("config", None, "A file of configs/, or one of your own.", lock_config=True)
    parser = FLAGS["config"].parser
    load = parser.parse
    parser.parse = lambda name: load(cli.config_file(name))
    flags.DEFINE_string("workdir", None, "Where checkpoints, metrics and samples go.")
    flags.DEFINE_boolean("plan", False, "Only say how much memory training would take, and on what.")
    flags.DEFINE_string("mesh", None, "With --plan: the devices, KIND-COUNT[:AXIS=SIZE,...], such as h100-8.")
    flags.mark_flag_as_required("config")
    flags.register_multi_flags_validator(
        ["workdir", "plan"], lambda given: given["workdir"] or given["plan"], "--workdir=DIR must be given")
    flags.register_multi_flags_validator(
        ["mesh", "plan"], lambda given: given["plan"] or given["mesh"] is None,
        "--mesh goes with --plan; training takes all devices, laid out by --config.mesh.*")


def main() -> int:
    config = FLAGS.config
    try:
        dataset = config.data.path
    except OSError as error:  # the file could not be loaded; ml_collections says so at the first use
        raise UserError(cli.config_error(error)) from error
    config_file.check(config)
    if FLAGS.plan:
        return _plan(config)
    if not dataset:
        raise UserError("no dataset: give --config.data.path=DATASET; `python -m data_prep.export --input SONGS "
                        "--output DATASET` makes one from a folder of songs")
    outputs.check_directory(pathlib.Path(FLAGS.workdir), "--workdir")
    compiled.keep()
    from autosong_jax.parallel import distributed
    from autosong_jax.sampling.samples import SampleWriter
    from autosong_jax.training import loop

    with distributed.joined():
        try:
            step = loop.train(config, pathlib.Path(FLAGS.workdir), cli.STARTED, SampleWriter, make_listener)
            cli.log.info("Trained to step %d; %s", step, _next(config))
        except loop.Stopped as stopped:
            command = shlex.join(["python", "-m", "autosong_jax.train", *sys.argv[1:]])
            cli.log.info("%s; go on with\n  %s", stopped, command)
            return 130
    return 0


def make_listener(config, workdir: pathlib.Path, graph):
    """What judges the songs that a model sings while it trains; see `loop.train`."""
    from autosong_jax.data.dataset import SongDataset
    from autosong_jax.evaluation.sung import Listener
    from autosong_jax.sampling.samplers import check_config
    from autosong_jax.sampling.samples import TrainingSinger
    from autosong_jax.sampling.whole_songs import limit, longest, sing_to

    songs = SongDataset(config.data.path, "validation")
    check_config(config, songs.codec, "evaluations")
    duration = longest(config, songs, min(config.train.sing_songs, len(songs)))
    singing = TrainingSinger(config, workdir, graph)

    def sing(params, numbers):
        return singing(params, lambda singer: sing_to(singer, songs, numbers, seed=config.seed, duration=duration))

    return Listener(config, workdir, songs, sing, limit(config, songs, duration))


def _next(config) -> str:
    """What is done with a trained model."""
    from autosong_jax.models.kinds import kind_of

    workdir = shlex.quote(FLAGS.workdir)
    if used := kind_of(config).used:
        return used.format(workdir=workdir, dataset=shlex.quote(config.data.path))
    given = " ".join(flag for source, flag in _GIVEN.items() if source in config.sources)
    return f"let it sing with\n  python -m autosong_jax.generate --workdir={workdir} {given} --output=song.wav"


def _plan(config) -> int:
    import jax

    jax.config.update("jax_platforms", "cpu")  # the accelerator may be busy with a run
    from autosong_jax.planning.report import report

    for line in report(config, config_flags.get_config_filename(FLAGS["config"]), FLAGS.mesh):
        cli.say(line)
    return 0


if __name__ == "__main__":
    define_flags()
    cli.run(main)
