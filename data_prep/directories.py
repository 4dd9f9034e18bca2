"""Directories that a command is to write: whether they can be, asked before any work is done that could be lost."""

import os
import pathlib

from autosong_jax import inputs
from autosong_jax.errors import UserError


def check(path: pathlib.Path, flag: str, *, empty: bool = False) -> None:
    """Raises UserError unless `path` is a directory that can be written, or can be made one; makes nothing.

    Args:
      path: as the user gave it.
      flag: what it was given by, for errors.
      empty: whether there may be nothing in it.
    """
    if str(path).startswith("~"):  # a shell expands it only at the beginning of a word
        raise UserError(f"{flag}={path}: expected $HOME in place of ~, which would be a directory of that name here")
    nearest, missing = path.absolute(), []
    try:
        while not os.path.lexists(nearest):
            missing.append(nearest.name)
            nearest = nearest.parent
        if not nearest.is_dir():
            what = "a file" if nearest.is_file() else "no directory"
            where = f"lies below {nearest}, which is" if missing else "is"
            raise UserError(f"{flag}={path} {where} {what}, expected a directory or a new name")
        longest = max((len(os.fsencode(name)) for name in missing), default=0)
        if longest > os.pathconf(nearest, "PC_NAME_MAX") or "\0" in str(path):
            raise UserError(f"{flag}={path} cannot be made: its name is longer than this system allows")
        if not os.access(nearest, os.W_OK | os.X_OK):
            raise UserError(f"{flag}={path} cannot be written: {nearest} is somebody else's or read-only")
        if empty and not missing and any(path.iterdir()):
            raise UserError(f"{flag}={path} is not empty: choose another directory")
    except OSError as error:
        raise UserError(f"{flag}={path} cannot be written: {inputs.reason(error)}") from error
