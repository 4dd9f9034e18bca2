"""Checksums of what is stored, beside it: Orbax would read flipped bytes of an array as weights, without a word."""

import json
import pathlib
from collections.abc import Callable, Collection

import google_crc32c
import jax
import numpy as np

from autosong_jax import inputs
from autosong_jax.errors import UserError

_NAME = "digests.json"
_BLOCK = 1 << 20  # bytes


def write(directory: pathlib.Path) -> None:
    """Writes the size and the CRC-32C of every file in the folders of `directory` to `digests.json` there."""
    files = (path for path in sorted(directory.glob("*/**/*")) if path.is_file())
    digests = {path.relative_to(directory).as_posix(): _digest(path) for path in files}
    partial = directory / f"{_NAME}.tmp"
    partial.write_text(json.dumps(digests, indent=1), encoding="utf-8")
    partial.replace(directory / _NAME)


def are_known(directory: pathlib.Path) -> bool:
    """Whether there are checksums; of what was cut off before them, or comes from an older version, there are none."""
    return (directory / _NAME).exists()


def find_damage(directory: pathlib.Path,
                choose: Callable[[set[str]], Collection[str]] = lambda items: items) -> str | None:
    """What is no file, or differs from `digests.json`, in a few words; None if nothing does, or without checksums.

    Several processes read a share each and all return the same, but for the words.

    Args:
      directory: of a checkpoint.
      choose: the folders in it that matter, of those that it had.
    """
    damage = find_irregular(directory)
    if damage is None and are_known(directory):
        try:
            digests = inputs.read_json(directory / _NAME, dict[str, tuple[int, int]], "the checksums")
            items = choose({name.partition("/")[0] for name in digests})
            names = [name for name in digests if name.partition("/")[0] in items]
            for name in sorted(names)[jax.process_index() :: jax.process_count()]:
                if not (directory / name).is_file():
                    damage = f"{name} is missing"
                elif _digest(directory / name) != list(digests[name]):
                    damage = f"{name} differs from its checksum"
                if damage:
                    break
            # Of what is not read, the size alone: a checkpoint that was cut off while it was copied is none to sing
            # from, even if that part of it is whole.
            for name in digests.keys() - set(names):
                if not damage and (path := directory / name).is_file() and path.stat().st_size != digests[name][0]:
                    damage = f"{name} is cut off"
        except (OSError, ValueError, UserError) as error:
            damage = f"{_NAME} or what it lists cannot be read ({error})"
    if jax.process_count() == 1:
        return damage
    from jax.experimental import multihost_utils

    found = multihost_utils.process_allgather(np.array(damage is not None))
    return damage or ("another process found damage" if found.any() else None)


def find_irregular(directory: pathlib.Path) -> str | None:
    """The first pipe, socket, device or broken link, in a few words: Orbax would wait for what comes out of a pipe."""
    for path in sorted(directory.rglob("*")):
        if not path.is_file() and not path.is_dir():
            return f"{path.relative_to(directory)} is no regular file"
    return None


def _digest(path: pathlib.Path) -> list[int]:
    """[bytes, CRC-32C]."""
    size, checksum = 0, 0
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            size, checksum = size + len(block), google_crc32c.extend(checksum, block)
    return [size, checksum]
