"""Several processes that train one model: how they find each other, agree, and never wait for one that is gone.

With a single process nothing here does anything. With several, `joined` starts `jax.distributed`, and a thread in each
process tells the others, through the key-value store of its coordinator (process 0), that it is alive, or why it fails:
they would otherwise wait inside a collective operation for a process that will never take part.
"""

import contextlib
import dataclasses
import itertools
import json
import logging
import os
import pathlib
import re
import signal
import sys
import threading
import time
import traceback
import uuid
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax._src import distributed as jax_distributed  # its key-value store has no public name; Orbax, too, takes it here
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from autosong_jax.cli import log
from autosong_jax.errors import UserError
from autosong_jax.parallel import clusters

START_SECONDS = 300  # for all processes to meet
ALIVE_SECONDS = 90  # without a sign of life, a process counts as dead; JAX aborts after 100
SHARED_SECONDS = 15  # network filesystems take their time to show a new file
_POLL_SECONDS = 1.0
_FOREVER = 7 * 24 * 3600 * 1000  # ms; a process that is gone ends the waiting anyway
_KEY = "autosong_jax/"
_AGAIN = "see what it said last, and start all processes again to go on from the newest checkpoint"
# What an operation ends with that a process takes no more part in.
_LOST = re.compile(r"Gloo \w+ failed|Connection (reset|refused|closed)|Socket closed|NCCL|UNAVAILABLE")
_barriers = itertools.count()


@contextlib.contextmanager
def joined() -> Iterator[None]:
    """One of several processes while entered, if the environment says so; to be entered before JAX sees a device.

    An exception in one of them ends all, each with a line that says what happened where. This process then does not
    come back from here: the status of all is 2 after a `UserError`, which another start would meet again, 130 after
    Ctrl+C, otherwise 1.
    """
    arguments = clusters.find(os.environ)
    if arguments is None:
        yield
        return
    _connect(arguments)
    if not is_first():
        log.setLevel(logging.ERROR)  # what all would say is said once
    watch = _Watch()
    try:
        yield
    except BaseException as error:
        watch.fail(error)
    watch.close()
    jax.distributed.shutdown()


def _connect(arguments: Mapping[str, Any]) -> None:
    # JAX would take SIGTERM for a notice to itself, and the process would not end by it.
    jax.config.update("jax_enable_preemption_service", False)
    who = "of " + arguments["cluster_detection_method"]
    if "process_id" in arguments:
        who = (f"this is process {arguments['process_id']} of {arguments['num_processes']}, the coordinator "
               f"{arguments['coordinator_address']}")

    def give_up():  # before JAX does, which would abort with a stack trace
        _say(f"the processes did not meet within {START_SECONDS} s ({who}): start every one of them, and let the "
             "coordinator's address be one of process 0's host that the others can reach")
        _end(1)  # another may only be late

    log.info("Waiting for the other processes, up to %d s (%s)", START_SECONDS, who)
    timer = threading.Timer(START_SECONDS, give_up)
    timer.daemon = True
    timer.start()
    before = signal.getsignal(signal.SIGINT)
    if before is signal.default_int_handler:  # which would run only after the waiting
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        jax.distributed.initialize(**arguments, initialization_timeout=START_SECONDS + 60)
    except (RuntimeError, ValueError) as error:
        raise UserError(f"the processes cannot be joined ({who}): {str(error).splitlines()[0]}") from error
    finally:
        timer.cancel()
        signal.signal(signal.SIGINT, before)


def _say(message: str) -> None:
    from tqdm import tqdm

    with contextlib.suppress(OSError):  # whoever read it may be gone as well
        tqdm.write("error: " + " ".join(message.split()), file=sys.stderr)


def _end(status: int) -> None:
    """Ends the process at once: nothing may wait any more for processes that do not answer."""
    with contextlib.suppress(OSError):
        sys.stderr.flush()
        sys.stdout.flush()
    os._exit(status)


def _is_lost(error: BaseException) -> bool:
    """Whether `error` is of a process that is gone; a checkpoint that all write says so in a `UserError` of its own."""
    return isinstance(error, jax.errors.JaxRuntimeError | ValueError | UserError) and bool(_LOST.search(str(error)))


class _Watch:
    """The thread that says that this process is alive, and ends it when another fails."""

    def __init__(self):
        state = jax_distributed.global_state
        self._client, self._coordinates = state.client, state.process_id == 0
        self._index, self._count = jax.process_index(), jax.process_count()
        self._ending = threading.Lock()  # held, and never released, by whoever ends the process
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def fail(self, error: BaseException) -> None:
        """Tells the others of `error` and ends the process."""
        self._ending.acquire()
        if _is_lost(error):
            self._end_if_other_failed(3.0)  # it may have said why
            message, status = f"the connection to another process is lost, which must have ended: {_AGAIN}", 1
        elif isinstance(error, UserError):
            message, status = str(error), 2
        elif isinstance(error, KeyboardInterrupt):
            message, status = "interrupted", 130
        else:
            if isinstance(error, jax.errors.JaxRuntimeError):
                self._end_if_other_failed(3.0)  # what an operation with a process that is gone ends with
            with contextlib.suppress(OSError):
                traceback.print_exception(error)
            message, status = f"{type(error).__name__}: {error}", 1
        with contextlib.suppress(jax.errors.JaxRuntimeError):  # another may have failed first
            self._client.key_value_set(_KEY + "failed", json.dumps([self._index, " ".join(message.split()), status]))
        _say(message)
        self._wait_for_all()
        _end(status)

    def close(self) -> None:
        """Stops the thread, once all processes have come here: none then takes another's end for its death."""
        barrier()
        self._closed.set()
        self._thread.join()

    def _run(self) -> None:
        # The last sign of life of each process, and when it was new.
        seen = {f"{_KEY}alive/{index}": ("", time.monotonic()) for index in range(self._count)}
        for beat in itertools.count():
            if self._closed.wait(_POLL_SECONDS):
                return
            try:
                self._client.key_value_set(f"{_KEY}alive/{self._index}", str(beat), allow_overwrite=True)
                signs = dict(self._client.key_value_dir_get(_KEY + "alive/"))
            except jax.errors.JaxRuntimeError:
                if self._ending.acquire(blocking=False):
                    self._end_without_coordinator()
                return
            if not self._ending.acquire(blocking=False):
                return  # this process ends by itself
            self._end_if_other_failed()
            now = time.monotonic()
            seen |= {key: (sign, now) for key, sign in signs.items() if seen[key][0] != sign}
            silent = [key.rpartition("/")[2] for key, (_, when) in seen.items() if now - when > ALIVE_SECONDS]
            if silent:
                _say(f"process {', '.join(sorted(silent))} of {self._count} has given no sign of life for "
                     f"{ALIVE_SECONDS} s: {_AGAIN}")
                _end(1)
            self._ending.release()

    def _end_without_coordinator(self) -> None:
        _say(f"process 0, which coordinates the others, does not answer any more: {_AGAIN}")
        _end(1)

    def _end_if_other_failed(self, seconds: float = 0.0) -> None:
        """Ends this process if another has failed, or does so within `seconds`."""
        until = time.monotonic() + seconds
        while True:
            try:
                index, message, status = json.loads(self._client.key_value_try_get(_KEY + "failed"))
                if index != self._index:
                    _say(f"process {index} of {self._count} failed: {message}")
                    self._wait_for_all()
                    _end(status)
            except jax.errors.JaxRuntimeError as error:
                if "NOT_FOUND" not in str(error):
                    self._end_without_coordinator()
            if time.monotonic() >= until:
                return
            time.sleep(0.1)

    def _wait_for_all(self) -> None:
        """Until all know of the failure: the store of keys ends with the process that coordinates."""
        with contextlib.suppress(jax.errors.JaxRuntimeError):
            self._client.wait_at_barrier(_KEY + "failed", 10_000)
        if self._coordinates:
            time.sleep(0.5)


def is_first() -> bool:
    """Whether this is the process that writes and speaks for all."""
    return jax.process_index() == 0


def barrier() -> None:
    """Waits until all processes are here, without the devices, which may have much to do or nothing for long."""
    if jax.process_count() > 1:
        jax_distributed.global_state.client.wait_at_barrier(f"{_KEY}barrier/{next(_barriers)}", _FOREVER)


def compile_together(function: Any, *arguments: Any) -> None:
    """Compiles a jitted function for a first call, and waits until all processes have.

    A collective operation on CPUs gives up after 30 s on a process that still compiles.
    """
    if jax.process_count() > 1:
        function.lower(*arguments).compile()
        barrier()


def from_first(value: str) -> str:
    """The `value` of process 0, on all."""
    if jax.process_count() == 1:
        return value
    client, key = jax_distributed.global_state.client, f"{_KEY}value/{next(_barriers)}"
    if is_first():
        client.key_value_set(key, value)
        return value
    return client.blocking_key_value_get(key, _FOREVER)


def check_same(values: Mapping[str, Any]) -> None:
    """Makes sure that all processes were started alike.

    Raises:
      UserError: names the first of `values` that differs from process 0's.
    """
    if jax.process_count() == 1:
        return
    mine = json.loads(json.dumps(values))
    first = json.loads(from_first(json.dumps(values)))
    for name in sorted(mine.keys() | first.keys()):
        if mine.get(name) != first.get(name):
            raise UserError(f"process {jax.process_index()} has {name} {mine.get(name)!r}, process 0 has "
                            f"{first.get(name)!r}: start all processes with the same command, packages and dataset")


def check_shared(directory: pathlib.Path) -> None:
    """Makes sure that all processes see the same `directory`, which exists on process 0.

    Raises:
      UserError: if one does not see what process 0 writes there.
    """
    if jax.process_count() == 1:
        return
    path = directory / f".shared-{from_first(uuid.uuid4().hex)}"
    if is_first():
        path.touch()
    barrier()
    until = time.monotonic() + SHARED_SECONDS
    while not path.exists():
        if time.monotonic() > until:
            raise UserError(f"{directory} on process {jax.process_index()} is not the directory that process 0 writes "
                            "to: give a --workdir on a filesystem that all hosts share")
        time.sleep(0.2)
    barrier()
    if is_first():
        path.unlink(missing_ok=True)


@dataclasses.dataclass
class Vote:
    """Asks all processes whether any of them wants to stop.

    With several processes the answer is that of the call before: it travels behind the step that is under way, so
    nobody waits for it, and all processes get the same answer at the same call. All of them must call equally often.
    """

    mesh: Mesh

    def __post_init__(self):
        self._sharding = NamedSharding(self.mesh, PartitionSpec(self.mesh.axis_names))
        self._any = jax.jit(jnp.any, out_shardings=NamedSharding(self.mesh, PartitionSpec()))
        self._last = None

    def __call__(self, wanted: bool) -> bool:
        if jax.process_count() == 1:
            return wanted
        mine = np.full(len(self._sharding.addressable_devices), wanted)
        last, self._last = self._last, self._any(jax.make_array_from_process_local_data(
            self._sharding, mine, (self.mesh.size,)))
        return last is not None and bool(last)
