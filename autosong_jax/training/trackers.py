"""Experiment trackers, W&B and Trackio: each in a process of its own, so that none can slow, hang or end a run.

They wait for networks, start threads and processes, ask for logins and clean up when Python ends. Here all of that
happens to a process that reads from a pipe, and that is ended if it takes nothing any more. Who logs in where is their
own business: by `wandb login`, and by their environment variables, such as WANDB_MODE=offline or TRACKIO_SPACE_ID.
"""

import contextlib
import dataclasses
import json
import os
import pathlib
import pickle
import queue
import secrets
import signal
import subprocess
import sys
import threading
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from autosong_jax import inputs
from autosong_jax.cli import log

PENDING = 1000  # lines and songs that may wait to be taken
CLOSE_SECONDS = 30.0  # how long the end of a run waits for what they have still to send
_SAID = 3  # the exit status of a process that has said why it gave up


class WandB:
    """A run of Weights & Biases. Its x-axis is a value of every line, "step": its own count of steps never goes back,
    which a run that was killed between two lines of a step would have to.

    Attributes:
      where: what to tell the user.
    """

    def __init__(self, project: str, name: str, id: str, workdir: str, config: dict[str, Any]):
        import wandb

        self._make_audio = wandb.Audio
        self._run = wandb.init(project=project, name=name, id=id, resume="allow", dir=workdir, config=config,
                               settings=wandb.Settings(silent=True, console="off", finish_timeout=CLOSE_SECONDS))
        self._run.define_metric("*", step_metric="step")
        offline = f"offline in {self._run.settings.sync_dir}, which `wandb sync` uploads"
        self.where = offline if self._run.offline else self._run.url

    def write(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log({"step": step, **values})

    def write_audio(self, step: int, name: str, audio: np.ndarray, rate: int) -> None:
        self._run.log({"step": step, name: self._make_audio(audio, sample_rate=rate)})

    def close(self, status: int) -> None:
        self._run.finish(exit_code=status)


class Trackio:
    """A run of Trackio. It knows runs by their names, so `id` is a part of it.

    Attributes:
      where: what to tell the user.
    """

    def __init__(self, project: str, name: str, id: str, workdir: str, config: dict[str, Any]):
        import trackio

        self._make_audio = trackio.Audio
        self._run = trackio.init(project=project, name=f"{name}-{id}", resume="allow", config=config, embed=False)
        self.where = f"see `trackio show --project {project}`"

    def write(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def write_audio(self, step: int, name: str, audio: np.ndarray, rate: int) -> None:
        self._run.log({name: self._make_audio(audio, sample_rate=rate, format="wav")}, step=step)

    def close(self, status: int) -> None:
        self._run.finish()


_TRACKERS = {"wandb": WandB, "trackio": Trackio}


class Tracker:
    """The writer that hands everything on to a process with a tracker in it. If that fails, it is said once.

    Args:
      name: "wandb" or "trackio".
      arguments: of its class.
      reported: step and kind of what it has been told before, which is passed over.
    """

    def __init__(self, name: str, arguments: Mapping[str, Any], reported: Collection[tuple[int, str]]):
        self._name, self._reported = name, frozenset(reported)
        self._last = max((step for step, _ in reported), default=0)
        self._dropped = threading.Lock()  # held from then on
        self._calls: queue.Queue = queue.Queue(PENDING)
        self._calls.put((name, dict(arguments)))
        self._process = subprocess.Popen(
            [sys.executable, "-c", "from autosong_jax.training.trackers import serve; serve()"], stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            start_new_session=True)  # Ctrl+C is for the run alone, which says what follows
        threading.Thread(target=self._hand_on, daemon=True).start()
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def write(self, step: int, kind: str, values: Mapping[str, float]) -> None:
        if (step, kind) not in self._reported:
            self._put("write", step, {f"{kind}/{name}": value for name, value in values.items()})

    def write_audio(self, step: int, name: str, audio: np.ndarray, rate: int) -> None:
        if step >= self._last:  # of the last step itself nobody knows
            samples = np.clip(32767 * audio.T, -32768, 32767).astype(np.int16)  # [samples, channels]
            self._put("write_audio", step, name, samples, rate)

    def close(self) -> None:
        """Waits for what it has still to send, but not for longer than `CLOSE_SECONDS`."""
        self._put("close", 0)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(2.0)
        if self._process.poll() is None:
            log.info("%s: sending the rest, for at most %.0f s", self._name, CLOSE_SECONDS)
            try:
                self._process.wait(CLOSE_SECONDS)
            except subprocess.TimeoutExpired:
                self._drop(f"has not sent everything within {CLOSE_SECONDS:.0f} s")
        self._listener.join(1.0)  # for its last words

    def _put(self, *call: Any) -> None:
        if self._dropped.locked():
            return
        try:
            self._calls.put_nowait(call)
        except queue.Full:
            self._drop("takes nothing any more")

    def _hand_on(self) -> None:
        call = [""]
        with contextlib.suppress(OSError), self._process.stdin as pipe:  # of a process that has ended
            while call[0] != "close":
                call = self._calls.get()
                pickle.dump(call, pipe)
                pipe.flush()

    def _listen(self) -> None:
        for line in self._process.stdout:
            log.info("%s: %s", self._name, line.decode(errors="replace").rstrip())
        status = self._process.wait()
        if status == _SAID:
            self._dropped.acquire(blocking=False)
        elif status:
            self._drop(f"has ended with status {status}")

    def _drop(self, why: str) -> None:
        if self._dropped.acquire(blocking=False):
            log.warning("%s: its process %s; the run goes on without it", self._name, why)
            with contextlib.suppress(OSError):
                os.killpg(self._process.pid, signal.SIGKILL)


def serve() -> None:
    """Has a tracker do what comes through stdin, in a process of its own; prints where it is to be seen, or why not."""
    for number in (signal.SIGINT, signal.SIGTERM):  # which schedulers send to every process of a job
        signal.signal(number, signal.SIG_IGN)
    # The pipes are for this process alone: not for what is started here, nor for what libraries print.
    calls, said = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "w", buffering=1)
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor in range(3):
        os.dup2(nowhere, descriptor)
    try:
        name, arguments = pickle.load(calls)
        tracker = _TRACKERS[name](**arguments)
        said.write(f"{tracker.where}\n")
        method = ""
        while method != "close":
            try:
                method, *values = pickle.load(calls)
            except EOFError:  # the run was killed
                method, values = "close", [1]
            getattr(tracker, method)(*values)
    except BaseException as error:
        first = (str(error) or type(error).__name__).splitlines()[0]
        said.write(f"{first}; the run goes on without it\n")
        said.flush()
        os._exit(_SAID)  # without what the tracker would wait for at the end


@dataclasses.dataclass
class _Kept:
    id: str
    reported: dict[str, list[tuple[int, str]]]


def recall(workdir: pathlib.Path, names: Collection[str], first_step: int, cut: Collection[tuple[int, str]]
           ) -> tuple[str, dict[str, list[tuple[int, str]]]]:
    """What `workdir/trackers.json` keeps of a run for when it goes on: under which id, and what each has been told.

    Args:
      workdir: of the run.
      names: of the trackers.
      first_step: from which it goes on.
      cut: step and kind of what has been reported after that since it was last started.

    Returns:
      The id, a new one of a new run, and by name of the tracker the step and kind of what it knows of later steps.

    Raises:
      UserError: the file holds something else.
      OSError: it cannot be written.
    """
    path = workdir / "trackers.json"
    kept = inputs.read_json(path, _Kept, "trackers") if path.exists() else _Kept(secrets.token_hex(4), {})
    known = {name: {*kept.reported[name], *cut} for name in names if name in kept.reported}  # a new one knows nothing
    reported = {name: sorted(pair for pair in known.get(name, ()) if pair[0] > first_step) for name in names}
    unfinished = path.with_suffix(".tmp")
    unfinished.write_text(json.dumps({"id": kept.id, "reported": reported}) + "\n", encoding="utf-8")
    unfinished.replace(path)
    return kept.id, reported
