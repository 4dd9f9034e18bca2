"""Serves a page to sing from: write lyrics, listen while they are sung, sing parts anew.

python -m autosong_jax.studio --workdir=runs/mine
python -m autosong_jax.studio --workdir=runs/mine --workdir=runs/masked --output=songs --port=8765

Only this machine reaches it, unless --host says otherwise; then it asks for a token, which it prints. Songs are kept in
--output and are there again the next time.
"""

import importlib.util
import ipaddress
import os
import pathlib
import secrets
import socket

from absl import flags

from autosong_jax import cli, compiled, outputs
from autosong_jax.errors import UserError

FLAGS = flags.FLAGS
CONNECTIONS = 100  # at a time


def define_flags() -> None:
    """In a function, so that several commands can be imported into one process."""
    flags.DEFINE_multi_string("workdir", [], "Workdir of a trained model, or the directory or hub id of a released "
                              "one; may be given several times.")
    flags.DEFINE_string("output", "studio", "Folder that songs are kept in.")
    flags.DEFINE_string("host", "127.0.0.1", "Address to listen at; 0.0.0.0 is every address of this machine.")
    flags.DEFINE_integer("port", 8765, "Port to listen at; 0 for a free one.", lower_bound=0, upper_bound=65_535)
    flags.DEFINE_multi_string("allowed_host", [], "Name that browsers may call the studio by, such as that of this "
                              "machine in the network; may be given several times.")
    flags.DEFINE_integer("queue", 8, "Songs that may wait.", lower_bound=1, upper_bound=1000)
    flags.DEFINE_float("max_seconds", 600.0, "Longest song, and longest recording that can be sent.", lower_bound=1.0,
                       upper_bound=3600.0)
    flags.DEFINE_integer("max_upload_mb", 64, "Largest recording that can be sent, in megabytes.", lower_bound=1,
                         upper_bound=4096)


def main() -> None:
    workdirs = [workdir for workdir in FLAGS.workdir if workdir]
    if not workdirs:
        raise UserError("--workdir is missing: expected that of a trained model")
    output = pathlib.Path(FLAGS.output or "studio")
    outputs.check_directory(output, "--output")
    _check_installed()
    listening = _listen(FLAGS.host, FLAGS.port)
    compiled.keep()

    import uvicorn

    from autosong_jax.studio import guard, models
    from autosong_jax.studio.app import Studio
    from autosong_jax.studio.library import Library
    from autosong_jax.studio.worker import Worker

    loaded = models.load(workdirs, FLAGS.max_seconds)
    library = Library(output)
    studio = Studio(Worker(loaded, library, FLAGS.queue), library, FLAGS.max_upload_mb * 2**20)
    token = None if guard.is_loopback(FLAGS.host) else secrets.token_urlsafe(24)
    names = [*FLAGS.allowed_host, *([] if token is None else [FLAGS.host, socket.gethostname()])]
    app = guard.Guard(studio.app(), names, token)
    class Server(uvicorn.Server):
        def handle_exit(self, *signal) -> None:  # which comes twice from whoever is in a hurry
            studio.worker.changes.end()  # or the streams would go on, and the server wait for them
            self.should_exit = True

    server = Server(uvicorn.Config(
        app, log_level="warning", access_log=False, server_header=False, proxy_headers=False, lifespan="on",
        limit_concurrency=CONNECTIONS, timeout_graceful_shutdown=1))
    _say(listening.getsockname()[1], token, list(loaded), output)
    server.run(sockets=[listening])


def _check_installed() -> None:
    for name in ("starlette", "uvicorn"):
        if importlib.util.find_spec(name) is None:
            raise UserError(f"the studio needs the package {name}: pip install -c constraints.txt -e '.[studio]'")


def _listen(host: str, port: int) -> socket.socket:
    """A socket that listens. Raises UserError where it cannot."""
    try:
        family = socket.AF_INET6 if ":" in host and ipaddress.ip_address(host) else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=128)
    except (OSError, ValueError) as error:
        number = getattr(error, "errno", None) or 0  # below 0 of a name that leads nowhere
        why = os.strerror(number).lower() if number > 0 else "there is no such address"
        raise UserError(f"--host={host} --port={port} cannot be listened at ({why}): choose another port, or an "
                        "address of this machine") from error


def _say(port: int, token: str | None, names: list[str], output: pathlib.Path) -> None:
    host = f"[{FLAGS.host}]" if ":" in FLAGS.host else FLAGS.host
    if FLAGS.host in ("0.0.0.0", "::"):
        host = socket.gethostname()
    cli.say(f"Singing with {', '.join(names)}; songs are kept in {output}/. Ctrl+C ends it.")
    if token is None:
        cli.say(f"Open http://{host}:{port}")
    else:
        cli.say(f"Open http://{host}:{port}/?token={token}")
        cli.say("The token is as good as a password, and what is sent is not "
                "encrypted: in a network that others use, go through a tunnel (ssh -L) to 127.0.0.1 instead.")


if __name__ == "__main__":
    define_flags()
    cli.run(main)
