"""The files of a released checkpoint: where they are, and their tensors, read one by one.

A checkpoint is a directory as the Hugging Face hub holds it: `config.json` beside `model.safetensors`, or beside
several such files and `model.safetensors.index.json`, which says what is in which.
"""

import contextlib
import dataclasses
import hashlib
import json
import logging
import os
import pathlib
import re
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from autosong_jax import inputs
from autosong_jax.cli import log
from autosong_jax.errors import UserError
from autosong_jax.outputs import check_directory

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
# What is fetched from the hub. Where a repository holds its weights twice, as pickles too, those stay there.
PATTERNS = ("*.json", "*.safetensors", "spiece.model", "vocab.txt")
_PICKLE_STARTS = (b"PK\x03\x04", b"\x80\x02")  # of PyTorch's zip files and of bare pickles


def locate(source: str | pathlib.Path, flag: str, patterns: Iterable[str] = PATTERNS) -> pathlib.Path:
    """The directory of a checkpoint: `source` itself, or a copy of the hub's repository of that id.

    Args:
      source: a directory or a hub id, such as facebook/musicgen-small.
      flag: what `source` was given by, for errors.
      patterns: of the files to fetch from the hub.

    Raises:
      UserError: there is no such directory, and nothing could be fetched.
    """
    text = str(source)
    try:
        path = pathlib.Path(source).expanduser()
        if path.is_dir():
            return path
        # A typing error in a path is none of the hub's business.
        on_disk = os.path.lexists(path) or (text.count("/") == 1 and path.parent.is_dir())
    except (OSError, ValueError, RuntimeError) as error:
        why = inputs.reason(error) if isinstance(error, (OSError, ValueError)) else str(error).lower()
        raise UserError(f"{flag}={source} cannot be read: {why}") from error
    if on_disk or not re.fullmatch(r"[\w.-]{1,96}(/[\w.-]{1,96})?", text, re.ASCII) or text.startswith((".", "-")):
        raise UserError(f"{flag}={source} is not a directory here: expected that of a checkpoint, or a hub id, "
                        "OWNER/NAME")
    import huggingface_hub

    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # what fails is said below
    options = {"repo_id": text, "allow_patterns": list(patterns)}
    try:
        # Asked first, since it fails at once where there is no network, and a download only after many attempts.
        options["revision"] = huggingface_hub.HfApi().model_info(text, timeout=10).sha
    except Exception as error:  # of the library, of its HTTP client, of the system
        reason = (str(error).strip() or repr(error)).split("\n")[0]
        try:
            return pathlib.Path(huggingface_hub.snapshot_download(**options, local_files_only=True))
        except (OSError, ValueError):  # not in the hub's cache either
            raise UserError(f"{flag}={source} is no directory here and could not be fetched from the hub ({reason}): "
                            f"where there is a network, run `hf download {shlex.quote(text)} --local-dir DIR`, and "
                            "give DIR") from error
    log.info("%s=%s is no directory here: it is fetched from the hub", flag, source)
    try:
        return pathlib.Path(huggingface_hub.snapshot_download(**options))
    except OSError as error:
        raise UserError(f"{flag}={source} could not be fetched from the hub whole ({error}): run the same again, which "
                        "fetches only what is missing") from error


def digest(source: str | pathlib.Path) -> str:
    """A digest of the name and the contents of a file, or of each file in a directory; of else, the text itself."""
    place = pathlib.Path(source)
    if not place.exists():
        return str(source)
    total = hashlib.sha256()
    for path in [place] if place.is_file() else sorted(path for path in place.iterdir() if path.is_file()):
        total.update(f"{path.name}\n{file_digest(path)}\n".encode())
    return total.hexdigest()[:16]


def file_digest(path: str | pathlib.Path) -> str:
    """SHA-256 of a file's contents, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_json(path: str | pathlib.Path) -> dict[str, Any]:
    """A JSON object. Raises UserError where there is none."""
    return inputs.read_json(path, dict[str, Any], "the checkpoint's")


@dataclasses.dataclass(frozen=True)
class _Index:
    """What is read of `model.safetensors.index.json`: the file of each tensor."""

    weight_map: dict[str, str]


class Tensors(Mapping):
    """Named tensors of a checkpoint; nothing is in memory before `read`.

    As a mapping it gives, for each name, the shape.
    """

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], read: Callable, origin: Callable[[str], str]):
        """Args: the shapes; (name, index) -> array; name -> the file, for errors."""
        self._shapes, self._read, self.origin = dict(shapes), read, origin

    @classmethod
    def open(cls, directory: str | pathlib.Path) -> "Tensors":
        """The tensors of a checkpoint's directory.

        Raises:
          UserError: the directory has no safetensors, or one of its files is missing, cut off or something else.
        """
        directory = pathlib.Path(directory)
        if (directory / INDEX).exists():
            placed = inputs.read_json(directory / INDEX, _Index, "the checkpoint's").weight_map
            for name in set(placed.values()):
                if pathlib.PurePath(name).name != name or "\0" in name:
                    raise UserError(f"{directory / INDEX} names the file {name[:100]!r}, expected one beside it")
            for name in sorted(set(placed.values())):
                if not (directory / name).is_file():
                    raise UserError(f"{directory / name} is missing, although {INDEX} names it: copy or download the "
                                    "whole checkpoint again")
            shards = {name: _open(directory / name) for name in sorted(set(placed.values()))}
        elif (directory / SINGLE).exists():
            shards = {SINGLE: _open(directory / SINGLE)}
            placed = dict.fromkeys(shards[SINGLE].keys(), SINGLE)
        else:
            pickles = sorted(path.name for path in directory.glob("*.bin"))
            found = f"only pickles ({', '.join(pickles)})" if pickles else "neither"
            raise UserError(f"{directory} holds {found}, expected {SINGLE} or {INDEX}")
        held = {name: set(shard.keys()) for name, shard in shards.items()}
        for name, shard in placed.items():
            if name not in held[shard]:
                raise UserError(f"{directory / shard} lacks the tensor {name}, although {INDEX} says it is there: copy "
                                "or download the whole checkpoint again")
        slices = {name: shards[shard].get_slice(name) for name, shard in placed.items()}

        def read(name: str, index: tuple[slice, ...]) -> np.ndarray:
            try:
                return shards[placed[name]].get_tensor(name) if index == () else slices[name][index]
            except Exception as error:  # of a dtype that NumPy does not have, ...
                raise UserError(f"{directory / placed[name]} holds the tensor {name}, which cannot be read ({error})"
                                ) from error

        return cls({name: tuple(s.get_shape()) for name, s in slices.items()}, read,
                   lambda name: str(directory / placed.get(name, "")))

    @classmethod
    def of(cls, arrays: Mapping[str, np.ndarray], origin: str) -> "Tensors":
        """Tensors that are in memory, and what to call where they are from."""
        return cls({name: array.shape for name, array in arrays.items()}, lambda name, index: arrays[name][index],
                   lambda name: origin)

    def __getitem__(self, name: str) -> tuple[int, ...]:
        return self._shapes[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._shapes)

    def __len__(self) -> int:
        return len(self._shapes)

    def read(self, name: str, index: tuple[slice, ...] = ()) -> np.ndarray:
        """A tensor, or the part of it at `index`, in the file's dtype (bfloat16 as ml_dtypes has it)."""
        return self._read(name, index)

    def __or__(self, other: "Tensors") -> "Tensors":
        """These tensors and `other`'s, which win."""
        def of(name):
            return other if name in other else self

        return Tensors(dict(self) | dict(other), lambda name, index: of(name).read(name, index),
                       lambda name: of(name).origin(name))

    def under(self, prefix: str) -> "Tensors":
        """The tensors whose names begin with `prefix`, called without it."""
        return self.renamed(lambda name: name.removeprefix(prefix) if name.startswith(prefix) else None)

    def renamed(self, rename: Callable[[str], str | None]) -> "Tensors":
        """The same tensors under other names; those for which `rename` gives None are left out."""
        names = {new: old for old in self if (new := rename(old)) is not None}
        return Tensors({new: self[old] for new, old in names.items()},
                       lambda name, index: self.read(names[name], index),
                       lambda name: self.origin(names.get(name, name)))


def _open(path: pathlib.Path):
    """`safetensors.safe_open` after a look at the file, so that what is wrong can be said."""
    import safetensors

    size = inputs.stat_regular(path, "the checkpoint's").st_size
    with open(path, "rb") as file:
        start = file.read(8)
        length = int.from_bytes(start, "little")
        if start.startswith(_PICKLE_STARTS):
            raise UserError(f"{path} is a pickle, expected safetensors: save the model with safe_serialization=True")
        if len(start) == 8 and length <= size - 8:
            try:
                header = json.loads(file.read(length))
                expected = 8 + length + max((t["data_offsets"][1] for n, t in header.items() if n != "__metadata__"),
                                            default=0)
            except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
                expected = size  # the library says what is wrong
        else:
            expected = 8 + length
    if size < expected:
        raise UserError(f"{path} is cut off: found {size} bytes, expected {expected}: copy or download it again")
    try:
        return safetensors.safe_open(path, "numpy")
    except Exception as error:  # its own, the system's
        raise UserError(f"{path} is not a safetensors file ({str(error)[:100]}): copy or download it again") from error


@contextlib.contextmanager
def writing(directory: pathlib.Path, flag: str) -> Iterator[None]:
    """For what makes a model's directory, a new or empty one.

    Args:
      directory: where the body is to write.
      flag: what it was given by, for errors.

    Raises:
      UserError: there is something in it already, or the system does not let the body write.
    """
    import safetensors

    check_directory(directory, flag, empty=True)
    try:
        yield
    except (OSError, safetensors.SafetensorError) as error:
        raise UserError(f"{flag}={directory} cannot be written ({error}): choose another directory") from error


def write(directory: str | pathlib.Path, tensors: Iterable[tuple[str, np.ndarray]],
          max_shard_bytes: int = 5_000_000_000) -> None:
    """Writes tensors as `model.safetensors`, or as several such files and an index; holds one file's in memory."""
    import safetensors.numpy

    directory = pathlib.Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    shards, held, size, total = [], {}, 0, 0

    def flush() -> None:
        nonlocal held, size
        path = directory / f".shard-{len(shards)}"
        # The metadata is what transformers looks for.
        safetensors.numpy.save_file(held, path, metadata={"format": "pt"})
        shards.append((path, list(held)))
        held, size = {}, 0

    for name, array in tensors:
        if held and size + array.nbytes > max_shard_bytes:
            flush()
        held[name] = np.ascontiguousarray(array)
        size += array.nbytes
        total += array.nbytes
    flush()
    for old in [*directory.glob("model-*-of-*.safetensors"), directory / SINGLE, directory / INDEX]:
        old.unlink(missing_ok=True)
    if len(shards) == 1:
        shards[0][0].replace(directory / SINGLE)
        return
    placed = {}
    for i, (path, names) in enumerate(shards):
        final = f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors"
        path.replace(directory / final)
        placed |= dict.fromkeys(names, final)
    index = {"metadata": {"total_size": total}, "weight_map": placed}
    (directory / INDEX).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n", encoding="utf-8")
