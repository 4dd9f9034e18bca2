"""What a command is to write: whether it can be, asked before any work is done that could be lost."""

import contextlib
import os
import pathlib
from collections.abc import Iterable, Iterator, Sequence

from autosong_jax.errors import UserError
from autosong_jax.inputs import reason


def check_file(path: str | None, suffixes: Sequence[str], flag: str = "output",
               read: Iterable[str | None] = ()) -> None:
    """Raises UserError unless `path`, if one is given, can be written: looked at before the work is done.

    Args:
      suffixes: one of which it must end in.
      flag: what it was given by, for errors.
      read: files that are read, none of which it may be.
    """
    if not path:
        return
    output = pathlib.Path(path).absolute()
    if output.suffix.lower() not in suffixes:
        raise UserError(f"{flag} {path}: expected a name that ends in {' or '.join(suffixes)}")
    try:
        if not output.parent.is_dir():
            raise UserError(f"{flag} {path}: there is no directory {output.parent}; make it first")
        with contextlib.suppress(FileNotFoundError):
            os.stat(output.with_name(f".unfinished-00000{output.name}"))  # the longest name that it has on the way
        if output.is_dir():
            raise UserError(f"{flag} {path} is a directory: expected the name of a file")
        if os.path.lexists(output) and not output.is_file():
            raise UserError(f"{flag} {path} is no file that could be replaced")
        for name in filter(None, read):
            if os.path.exists(name) and output.exists() and os.path.samefile(name, output):
                raise UserError(f"{flag} {path} is {name}, which is read: choose another name")
    except (OSError, ValueError) as error:
        raise UserError(f"{flag} {path} cannot be written: {reason(error)}") from error
    if not os.access(output if output.exists() else output.parent, os.W_OK):
        raise UserError(f"{flag} {path} cannot be written: permission denied")


def check_directory(path: pathlib.Path, flag: str, *, empty: bool = False) -> None:
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
    except (OSError, ValueError) as error:
        raise UserError(f"{flag}={path} cannot be written: {reason(error)}") from error


@contextlib.contextmanager
def writing(workdir: pathlib.Path) -> Iterator[None]:
    """Makes a failure to write there a UserError that says what to do."""
    try:
        yield
    except OSError as error:
        raise UserError(f"workdir {workdir} cannot be written any more ({error}): make room there, or repair it, and "
                        "start the same command again, which goes on from the newest checkpoint") from error
