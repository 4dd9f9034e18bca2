"""A pool of processes for reading and encoding audio, which outlives a crash of one and never outlives its parent."""

import concurrent.futures
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures.process import BrokenProcessPool
from typing import Any

_START = "spawn"  # forking would copy locks that another thread holds


class WorkerDied:
    """The result of an item whose process died over it."""


class Workers:
    """`count` processes of one thread each, so that no result depends on `count`."""

    remote = False  # whether they may be on other machines, which have GPUs of their own and see files alone

    def __init__(self, count: int):
        self.count = count
        self._start()

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, *_) -> None:
        self._pool.shutdown(cancel_futures=True)

    def map(self, function: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[tuple[Any, Any]]:
        """Yields (item, function(item)) in the order in which results come; only a few items are in flight.

        When a process dies, by a signal or for want of memory, the items that were in flight are done again, one at a
        time; one that kills its process alone comes back with a `WorkerDied` as its result.
        """
        waiting = iter(items)
        running: dict[concurrent.futures.Future, Any] = {}
        while True:
            for item in waiting:
                running[self._submit(function, item)] = item
                if len(running) > self.count:
                    break
            if not running:
                return
            done, _ = concurrent.futures.wait(running, return_when=concurrent.futures.FIRST_COMPLETED)
            if any(isinstance(future.exception(), BrokenProcessPool) for future in done):
                again, running = list(running.values()), {}
                self._start()
                for item in again:
                    yield item, self._alone(function, item)
            else:
                for future in done:
                    yield running.pop(future), future.result()

    def map_reading(self, function: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[tuple[Any, Any]]:
        """`map` for what waits for the disk rather than computes: in threads of this process, since processes take
        longer to start."""
        with concurrent.futures.ThreadPoolExecutor() as pool:
            running = {pool.submit(function, item): item for item in items}
            for future in concurrent.futures.as_completed(running):
                yield running[future], future.result()

    def _start(self) -> None:
        self._pool = concurrent.futures.ProcessPoolExecutor(self.count, multiprocessing.get_context(_START), _prepare)

    def _submit(self, function: Callable[[Any], Any], item: Any) -> concurrent.futures.Future:
        try:
            return self._pool.submit(function, item)
        except BrokenProcessPool as error:  # it broke since the last result
            future = concurrent.futures.Future()
            future.set_exception(error)
            return future

    def _alone(self, function: Callable[[Any], Any], item: Any) -> Any:
        try:
            return self._submit(function, item).result()
        except BrokenProcessPool:
            self._start()
            return WorkerDied()


def _prepare() -> None:
    """In a new process: one thread for arithmetic, nothing on stderr, Ctrl+C left to the parent, and no life after the
    parent's."""
    for library in ("OMP", "OPENBLAS", "MKL"):  # read by numpy, scipy and torch when they are first imported
        os.environ[f"{library}_NUM_THREADS"] = "1"
    if "numpy" in sys.modules:  # by the main program, which a new process imports first
        import threadpoolctl

        threadpoolctl.threadpool_limits(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Decoders write notes there by themselves; what is wrong with a song comes back as its result.
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.close(nowhere)
    parent = multiprocessing.parent_process()

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
