"""Trains a song model.

python -m autosong_jax.train --config=configs/small.py --config.data.path=DATASET --workdir=DIR

Any field of the config can be set with --config.field=value; configs/default.py explains them all. The same command
again goes on from the newest checkpoint. Ctrl+C and SIGTERM save before they stop.

Several hosts train one model if each runs this command, on a TPU pod, under SLURM or Open MPI, or with
JAX_COORDINATOR_ADDRESS=HOST:PORT, JAX_NUM_PROCESSES and JAX_PROCESS_ID set. They must share the workdir.
"""

import pathlib
import shlex
import sys

from absl import flags
from ml_collections import config_flags

from autosong_jax import cli, compiled
from autosong_jax.errors import UserError

FLAGS = flags.FLAGS


def define_flags() -> None:
    """In a function, so that several commands can be imported into one process."""
    config_flags.DEFINE_config_file("config", None, "A file of configs/.", lock_config=True)
    flags.DEFINE_string("workdir", None, "Where checkpoints, metrics and samples go.")
    flags.mark_flags_as_required(["config", "workdir"])


def main() -> int:
    config = FLAGS.config
    try:
        dataset = config.data.path
    except OSError as error:  # the file could not be loaded; ml_collections says so at the first use
        name = config_flags.get_config_filename(FLAGS["config"])
        raise UserError(f"the config {name} cannot be loaded: {str(error).splitlines()[-1].strip()}") from error
    if not dataset:
        raise UserError("no dataset: give --config.data.path=DATASET; `python -m data_prep.export --input SONGS "
                        "--output DATASET` makes one from a folder of songs")
    compiled.keep()
    from autosong_jax.parallel import distributed
    from autosong_jax.training import loop

    with distributed.joined():
        try:
            loop.train(config, pathlib.Path(FLAGS.workdir), cli.STARTED)
        except loop.Stopped as stopped:
            command = shlex.join(["python", "-m", "autosong_jax.train", *sys.argv[1:]])
            cli.log.info("%s; go on with\n  %s", stopped, command)
            return 130
    return 0


if __name__ == "__main__":
    define_flags()
    cli.run(main)
