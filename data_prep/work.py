"""What unfinished work keeps in its output, under `.partial`, so that the next start goes on where it stopped.

Every result is a file named by a digest of all that it was made from. So a changed song or option finds nothing under
its new name and is done again, and nothing else is. A file has its name only once it is complete.
"""

import fcntl
import hashlib
import json
import os
import pathlib
import shutil
import uuid
from collections.abc import Callable
from typing import Any, TypeVar

from autosong_jax import inputs
from autosong_jax.errors import UserError

T = TypeVar("T")

# Raised whenever the same songs and options come to give other bytes: what older code left unfinished is not used then.
_REVISION = 1
_UNFINISHED = ".unfinished"


def digest(*made_from: Any) -> str:
    """A name for what this version of the code makes from these JSON values."""
    return hashlib.sha256(json.dumps([_REVISION, *made_from], sort_keys=True).encode()).hexdigest()[:32]


def location(output: pathlib.Path) -> pathlib.Path:
    """The work directory of an output, for processes that have another current directory, too."""
    return (output / ".partial").absolute()


def unfinished_name(path: pathlib.Path) -> pathlib.Path:
    """Where to write what is to be `path`. Never the same twice: a cluster may do an item twice at once, and songs with
    the same audio share a check."""
    return path.with_name(f"{path.name}.{uuid.uuid4().hex}{_UNFINISHED}")


class Results:
    """The results in a work directory. Any number of processes, on any machine that sees it, may write them at once."""

    def __init__(self, path: pathlib.Path):
        self.path = path

    def file(self, kind: str, key: str) -> pathlib.Path:
        """Where the result `key` of that kind is or would be."""
        return self.path / kind / key

    def keys(self, kind: str) -> set[str]:
        """Those of all results of that kind."""
        try:
            return {name for name in os.listdir(self.path / kind) if not name.endswith(_UNFINISHED)}
        except FileNotFoundError:
            return set()

    def read_json(self, kind: str, key: str, expected: type[T]) -> T:
        """A result that there is, of the type expected. Raises UserError if it is damaged."""
        path = self.file(kind, key)
        try:
            return inputs.read_json(path, expected, "the result")
        except UserError as error:
            raise UserError(f"{error}; a start that was stopped left it: delete {self.path} and start again") from error

    def write(self, kind: str, key: str, data: bytes) -> None:
        """Keeps a result."""
        path = self.file(kind, key)
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = unfinished_name(path)
        unfinished.write_bytes(data)
        os.replace(unfinished, path)

    def make_directory(self, kind: str, key: str, fill: Callable[[pathlib.Path], None]) -> None:
        """Keeps, as the result `key`, a directory that `fill` is given to fill; none where it raises."""
        path = self.file(kind, key)
        unfinished = unfinished_name(path)
        unfinished.mkdir(parents=True)
        try:
            fill(unfinished)
            os.replace(unfinished, path)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)


class WorkDirectory(Results):
    """`OUTPUT/.partial`, locked for as long as this process lives."""

    def __init__(self, output: pathlib.Path, what: str = "export"):
        """Raises UserError if another start of the command, which is `what` to its user, is at work in `output`."""
        super().__init__(location(output))
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = os.open(self.path / "lock", os.O_WRONLY | os.O_CREAT | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
            self._lock = os.fdopen(lock, "w")  # held open, and with it the lock
        except OSError as error:
            raise UserError(f"--output={output} cannot be written: {inputs.reason(error)}") from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(f"another {what} is writing to --output={output}: wait for it or end it") from error
        except OSError:  # a file system without locks
            pass

    def directory(self, kind: str, key: str, fill: Callable[[pathlib.Path], None]) -> pathlib.Path:
        """The directory that is the result `key`; where there is none yet, `fill` is given a new one to fill."""
        path = self.file(kind, key)
        if not path.exists():
            path.parent.mkdir(exist_ok=True)
            unfinished = self.empty_directory(kind + _UNFINISHED)
            fill(unfinished)
            os.replace(unfinished, path)
        return path

    def empty_directory(self, name: str) -> pathlib.Path:
        """A directory with nothing in it, whatever an earlier start left there."""
        path = self.path / name
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir()
        return path

    def remove_unfinished(self) -> None:
        """Removes what starts that were stopped left half-made."""
        for path in list(self.path.rglob(f"*{_UNFINISHED}")):
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    def remove(self) -> None:
        """Removes all of it."""
        shutil.rmtree(self.path)
        self._lock.close()
