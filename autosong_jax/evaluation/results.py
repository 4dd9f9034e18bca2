"""What has been found out of songs, kept song by song, so that work that was cut off goes on where it was.

Everything lies in a folder that is named by what it was made from: another model, setting or dataset has another one.
Files are written beside, flushed to the disk and renamed, so that what has a song's name is whole.
"""

import hashlib
import json
import os
import pathlib
import urllib.parse
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO

import numpy as np

from autosong_jax.errors import UserError
from autosong_jax.inputs import reason

_LONGEST = 150  # bytes of a name


class Results:
    """The results of one kind.

    Args:
      directory: of all results; made if need be.
      kind: what they are, the beginning of the folder's name.
      made_from: whatever decides them, as JSON has it.

    Attributes:
      folder: where they are.
    """

    def __init__(self, directory: pathlib.Path, kind: str, made_from: Mapping[str, Any]):
        text = json.dumps(made_from, sort_keys=True, ensure_ascii=False, indent=1)
        self.folder = directory / f"{kind}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
        self.folder.mkdir(parents=True, exist_ok=True)
        write(self.folder / "made_from.json", lambda file: file.write(text.encode()))

    def numbers(self, song: str) -> dict[str, Any] | None:
        """What `keep_numbers` kept of a song; None if there is nothing, or it is damaged."""
        try:
            found = json.loads((self.folder / f"{file_name(song)}.json").read_bytes())
        except (OSError, ValueError, RecursionError):
            return None
        return found if isinstance(found, dict) else None

    def keep_numbers(self, song: str, numbers: Mapping[str, Any]) -> None:
        """Keeps JSON of a song; arrays become lists, and floats come back as they were."""
        text = json.dumps(numbers, default=lambda array: np.asarray(array).tolist(), separators=(",", ":"))
        write(self.folder / f"{file_name(song)}.json", lambda file: file.write(text.encode()))

    def array(self, song: str) -> np.ndarray | None:
        """What `keep_array` kept of a song; None if there is nothing, or it is damaged."""
        try:
            return np.load(self.folder / f"{file_name(song)}.npy", allow_pickle=False)
        except (OSError, ValueError, EOFError):
            return None

    def keep_array(self, song: str, array: np.ndarray) -> None:
        """Keeps an array of a song."""
        write(self.folder / f"{file_name(song)}.npy", lambda file: np.save(file, array, allow_pickle=False))


def write(path: pathlib.Path, put: Callable[[BinaryIO], Any]) -> None:
    """Writes a file in one move: whoever looks sees what was there before or all that is new.

    Raises:
      UserError: it cannot be written.
    """
    unfinished = path.with_name(f".unfinished-{os.getpid()}-{path.name}")
    try:
        with unfinished.open("wb") as file:
            put(file)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    except OSError as error:
        raise UserError(f"{path} cannot be written ({reason(error)}): make room there, or repair it, and start the "
                        "same command again, which goes on from here") from error
    finally:
        unfinished.unlink(missing_ok=True)


def file_name(song: str) -> str:
    """The name of files of a song, whatever it is called."""
    name = urllib.parse.quote(song, safe=" ")
    if len(name) <= _LONGEST and not name.startswith(".") and name:
        return name
    return f"{name[:_LONGEST - 17].lstrip('.')}-{hashlib.sha256(song.encode()).hexdigest()[:16]}"
