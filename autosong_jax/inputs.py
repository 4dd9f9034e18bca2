"""What users give, read in one place: regular files of bounded size, text in UTF-8, JSON of the shape that is expected.

Nothing else opens a file that a user named without knowing what it is. A pipe would wait for ever, `/dev/zero` never
ends, a file of gigabytes takes the memory, and JSON may hold a text where a number belongs or be nested a hundred
thousand deep: each is a `UserError` here, before anything is done with it.
"""

import codecs
import errno
import json
import os
import pathlib
import re
import stat
from collections.abc import Iterable
from typing import Any, TypeVar

from autosong_jax.errors import UserError

T = TypeVar("T")

TEXT_LIMIT = 2**20  # bytes of a text: hundreds of times a song's lyrics
JSON_LIMIT = 2**26  # bytes of a description: an index of the largest released checkpoints takes a hundredth


def stat_regular(path: str | pathlib.Path, what: str) -> os.stat_result:
    """What the system says of a regular file.

    Args:
      path: as the user gave it.
      what: what it was given by or what it is, for errors, such as `--lyrics`.

    Raises:
      UserError: there is none of that name, the name cannot be one, or it is a directory, a pipe, a device, ...
    """
    try:
        status = os.stat(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{what} {path} cannot be read: {reason(error)}") from error
    if not stat.S_ISREG(status.st_mode):
        kind = "a directory" if stat.S_ISDIR(status.st_mode) else "a pipe, socket or device"
        raise UserError(f"{what} {path} is {kind}, expected a file")
    return status


def read_bytes(path: str | pathlib.Path, what: str, limit: int) -> bytes:
    """The contents of a regular file of at most `limit` bytes.

    Raises:
      UserError: as `stat_regular`; also if it is larger or cannot be read.
    """
    size = stat_regular(path, what).st_size
    try:
        # Without O_NONBLOCK, a pipe that took the file's place since then would wait for a writer.
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise UserError(f"{what} {path} cannot be read: {reason(error)}") from error
    if len(data) > limit:
        raise UserError(f"{what} {path} holds {max(size, len(data))} bytes, expected at most {limit}")
    return data


def read_text(path: str | pathlib.Path, what: str, limit: int = TEXT_LIMIT) -> str:
    """A text in UTF-8, or in UTF-16 with a byte order mark, with "\\n" between lines and no blanks around.

    Other encodings are refused: guessing garbles lyrics.

    Raises:
      UserError: as `read_bytes`; also if it is no such text.
    """
    data = read_bytes(path, what, limit)
    utf16 = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = data.decode("utf-16" if utf16 else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{what} {path} is not UTF-8 (byte {error.start}): save it as UTF-8") from error
    if "\0" in text:
        raise UserError(f"{what} {path} is not a text file: it holds NUL")
    return text.replace("\r\n", "\n").replace("\r", "\n").strip()


def read_json(path: str | pathlib.Path, kind: type[T], what: str, *, limit: int = JSON_LIMIT) -> T:
    """The JSON in a file, as `parse_json` reads it. Raises UserError as `read_bytes` and `parse_json` do."""
    return parse_json(read_bytes(path, what, limit), kind, f"{what} {path}")


def parse_json(data: str | bytes, kind: type[T], where: str) -> T:
    """JSON of the shape that `kind` says.

    Args:
      data: the JSON.
      kind: a type, such as `dict[str, Any]`, or a dataclass, whose fields' types say what is expected of them:
        `Annotated[int, pydantic.Field(ge=1)]` has bounds. A field without a default must be there, others are ignored.
        Numbers are numbers and texts are texts: none is made of the other.
      where: what the JSON is, for errors.

    Raises:
      UserError: it is not JSON, or of another shape.
    """
    import pydantic
    import pydantic_core

    try:
        pydantic_core.from_json(data, allow_inf_nan=False)  # which bounds the depth, too
        return pydantic.TypeAdapter(kind).validate_json(data, strict=True)
    except pydantic.ValidationError as error:
        raise UserError(f"{where} {_explain(error)}") from error
    except ValueError as error:
        raise UserError(f"{where} is not JSON: {error}") from error


def check(values: Any, kind: type[T], where: str) -> T:
    """What `parse_json` gives of values that came out of JSON already, such as a part of a file's."""
    return parse_json(json.dumps(values), kind, where)


def reason(error: OSError | ValueError) -> str:
    """Why the system would not, without the path that the message names already."""
    if isinstance(error, OSError):
        known = {errno.ENOENT: "it does not exist", errno.ELOOP: "its links lead in a circle",
                 errno.ENAMETOOLONG: "its name is longer than this system allows"}
        return known.get(error.errno, (error.strerror or str(error)).lower())
    return "its name holds NUL or half a character"


def _explain(error: Any) -> str:
    """The first of what pydantic found, in one line."""
    found = error.errors(include_url=False)[0]
    place = ".".join(map(str, found["loc"]))
    if found["type"] == "missing":
        return f"lacks {place}"
    value = repr(found["input"])
    value = value if len(value) <= 60 else f"{value[:57]}..."
    message = found["msg"][:1].lower() + found["msg"][1:]
    return f"has {place} {value}: {message}" if place else f"holds {value}: {message}"


def patterns(field: str, expressions: Iterable[str]) -> list[re.Pattern]:
    """Regular expressions of a field. Raises UserError for one that is none."""
    try:
        return [re.compile(expression) for expression in expressions]
    except re.error as error:
        raise UserError(f"{field} {error.pattern!r} is no regular expression: {error}") from error
