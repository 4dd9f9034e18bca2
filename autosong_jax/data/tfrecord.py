"""TFRecord files: write one, find where its records start, read any record.

A record is its length (uint64), a checksum of those 8 bytes, its payload and a checksum of the payload, all
little-endian. The checksum is TensorFlow's "masked" CRC-32C, rotated and shifted.
"""

import contextlib
import io
import os
import pathlib
import struct
from collections.abc import Iterable

import google_crc32c
import numpy as np

from autosong_jax import inputs
from autosong_jax.errors import UserError

_HEADER = struct.Struct("<QI")  # length, checksum of the length
_CHECKSUM = struct.Struct("<I")


def write_records(path: str | pathlib.Path, records: Iterable[bytes]) -> int:
    """Writes a whole file and returns how many records it holds.

    The file has its name only once it is complete and on the disk: a crash leaves the old file or none.
    """
    count = 0
    with _replacing(pathlib.Path(path)) as file:
        for payload in records:
            count += 1
            length = len(payload).to_bytes(8, "little")
            file.write(length + _CHECKSUM.pack(_masked_crc(length)) + payload + _CHECKSUM.pack(_masked_crc(payload)))
    return count


def record_offsets(path: str | pathlib.Path) -> np.ndarray:
    """Where the records of a file are: int64 [records, 2], the offset of a payload and its length, both in bytes.

    Reads the headers only, one after another, and checks their checksums. The answer is kept in a hidden file beside
    the records and holds while their size and modification time stay the same; where that file cannot be written, the
    next call scans again.

    Raises:
      UserError: the file is missing, or a record is cut short or has a broken header; names file and offset.
    """
    path = pathlib.Path(path)
    try:
        if path.exists():
            inputs.stat_regular(path, "the dataset's")
        stat = path.stat()
        cached = _cached_offsets(path, stat)
        if cached is not None:
            return cached
        with open(path, "rb") as file:
            offsets = _scan(file, stat.st_size, path)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    with contextlib.suppress(OSError), _replacing(_cache_path(path)) as file:
        np.save(file, np.concatenate([[[stat.st_size, stat.st_mtime_ns]], offsets]))
    return offsets


def read_record(path: str | pathlib.Path, offset: int, length: int) -> bytes:
    """The payload of `length` bytes at `offset`, as `record_offsets` gave them.

    Raises:
      UserError: the file cannot be read, or the payload is cut short or differs from its checksum; names file and
        offset.
    """
    try:
        with open(path, "rb") as file:
            file.seek(offset)
            payload, checksum = file.read(length), file.read(_CHECKSUM.size)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    if checksum != _CHECKSUM.pack(_masked_crc(payload)):
        raise _damaged(path, offset - _HEADER.size, "differs from its checksum")
    return payload


def _scan(file: io.BufferedReader, size: int, path: pathlib.Path) -> np.ndarray:
    offsets, start = [], 0
    while start < size:
        file.seek(start)
        header = file.read(_HEADER.size)
        if len(header) < _HEADER.size:
            raise _damaged(path, start, "is cut short")
        length, checksum = _HEADER.unpack(header)
        if checksum != _masked_crc(header[:8]):
            raise _damaged(path, start, "has a broken header")
        offsets.append((start + _HEADER.size, length))
        start += _HEADER.size + length + _CHECKSUM.size
        if start > size:
            raise _damaged(path, offsets[-1][0] - _HEADER.size, "is cut short")
    return np.array(offsets, np.int64).reshape(-1, 2)


def _cache_path(path: pathlib.Path) -> pathlib.Path:
    return path.with_name(f".{path.name}.offsets.npy")


def _cached_offsets(path: pathlib.Path, stat: os.stat_result) -> np.ndarray | None:
    """The offsets kept for a file of this size and modification time, if any."""
    with contextlib.suppress(OSError, ValueError, EOFError, UserError, LookupError, MemoryError):
        inputs.stat_regular(_cache_path(path), "")
        table = np.load(_cache_path(path), allow_pickle=False)
        whole = table.ndim == 2 and table.shape[1] == 2 and table.dtype == np.int64 and (table >= 0).all()
        if whole and table[0].tolist() == [stat.st_size, stat.st_mtime_ns] and (
                table[1:].sum(axis=1) <= stat.st_size).all():
            return table[1:]
    return None


@contextlib.contextmanager
def _replacing(path: pathlib.Path):
    """A new binary file, which takes the name `path` if all goes well.

    Its temporary name is always the same, so what a killed process left there is overwritten by the next attempt.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        with open(partial, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def _masked_crc(data: bytes) -> int:
    crc = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _damaged(path: str | pathlib.Path, offset: int, what: str) -> UserError:
    return UserError(f"{path}: the record at byte {offset} {what}: copy this file again from where the dataset came "
                     "from, or delete it and export again")
