"""The directory that an export makes: what may be in it before, and how the dataset gets there, all at once.

`dataset_info.json` comes last, so a directory that holds it holds a whole dataset.
"""

import contextlib
import dataclasses
import json
import os
import pathlib
import shutil
from collections.abc import Callable
from typing import Any

from autosong_jax import cli, inputs, outputs
from autosong_jax.data import schema
from autosong_jax.errors import UserError
from autosong_jax.sources.text.encoders import DIRECTORY as TEXT_ENCODER
from data_prep import report, splits
from data_prep.records import Recorder, Shard
from data_prep.work import WorkDirectory
from data_prep.workers import WorkerDied, Workers

_DONE = "dataset_info.json"
_SHARD_BYTES = 128 * 2**20
_REPORT_LIMIT = 2**30  # bytes: of a million songs


def check(output: str, source: str, is_ours: Callable[[pathlib.Path], bool] | None = None) -> pathlib.Path:
    """The path of the output. Raises UserError if it is no place for what is made from `source`: it may be a directory
    that has something in it already only if `is_ours` says so; by default, if an export has been at work there."""
    target = pathlib.Path(output)
    outputs.check_directory(target, "--output")
    inside, outside = target.resolve(), pathlib.Path(source).resolve()
    if outside.is_dir() and inside.is_relative_to(outside):
        raise UserError(f"--output={output} lies within --input={source}: give a directory outside of it")
    if outside.is_relative_to(inside):
        raise UserError(f"--input={source} lies within --output={output}: give a directory that holds nothing else")
    if target.is_dir() and any(target.iterdir()) and not (is_ours or _is_ours)(target):
        raise UserError(f"--output={output} holds other files: give an empty directory or a new name")
    return target


def _is_ours(target: pathlib.Path) -> bool:
    """Whether an export has been at work in a directory. Names alone do not say so: others have a report.json, too."""
    if (target / ".partial" / "lock").is_file() or [path.name for path in target.iterdir()] == [".partial"]:
        return True
    for name, kind in ((report.FILE, _Report), (_DONE, _Info)):
        with contextlib.suppress(UserError):
            found = inputs.read_json(target / name, kind, "", limit=_REPORT_LIMIT)
            return kind is _Report or found.name == schema.DATASET_NAME
    return False


@dataclasses.dataclass(frozen=True)
class _Report:
    """What every `report.json` holds, of a dataset or of none."""

    splits: dict[str, Any]
    songs: dict[str, Any]
    left_out: list[Any]
    fingerprint: str | None = None


@dataclasses.dataclass(frozen=True)
class _Info:
    name: str


def finished_report(target: pathlib.Path, fingerprint: str, *, overwrite: bool) -> dict | None:
    """The report of the dataset in `target` if it was made from the same songs and options; None if there is no dataset
    or it may be overwritten.

    Raises:
      UserError: it was made from others.
    """
    if not (target / _DONE).exists():
        return None
    with contextlib.suppress(UserError):  # where it is damaged, nobody knows what the dataset was made from
        found = report.read(target / report.FILE, _REPORT_LIMIT)
        if found["fingerprint"] == fingerprint:
            shutil.rmtree(target / ".partial", ignore_errors=True)  # an export stopped just before its very end
            return found
    if not overwrite:
        raise UserError(f"--output={target} holds a dataset made from other songs or with other options: give another "
                        "--output, or --overwrite to replace it")
    return None


def write_report(target: pathlib.Path, finished: dict) -> None:
    """Writes a report without a dataset, so that its reader can mend the songs; never over that of a dataset."""
    if not (target / _DONE).exists():
        target.mkdir(parents=True, exist_ok=True)
        write_json(target / report.FILE, finished)


def write(target: pathlib.Path, work: WorkDirectory, workers: Workers, items, features, recorder: Recorder,
          finished: dict, shards: int | None) -> None:
    """Writes the dataset within the work directory, puts it in the place of whatever dataset there was, and removes the
    work directory.

    Args:
      target: the output.
      work: its work directory.
      workers: what is to write the files of records.
      items: the songs, `pipeline.Item`s with `split` and `record`.
      features: of a record.
      recorder: what the records were made with, whose codec and frozen text encoder are copied.
      finished: the report.
      shards: the number of shards of each split; None for about one per 128 MiB.
    """
    directory = work.empty_directory("dataset")
    written = work.empty_directory("shards")
    planned = {split: _shards(written, split, [item.record for item in items if item.split == split], shards)
               for split in splits.SPLITS}
    lengths = _write_shards([shard for members in planned.values() for shard in members], workers)
    for path in lengths:
        os.replace(path, directory / path.name)
    schema.write_dataset_info(directory, features, {split: [lengths[shard.path] for shard in members]
                                                    for split, members in planned.items() if members})
    shutil.copytree(recorder.codec, directory / "codec", copy_function=shutil.copyfile)
    recorder.text.save(directory)
    if recorder.text_directory:
        shutil.copytree(recorder.text_directory, directory / TEXT_ENCODER, copy_function=shutil.copyfile)
    write_json(directory / report.FILE, finished)
    (target / _DONE).unlink(missing_ok=True)
    for pattern in (f"{schema.DATASET_NAME}-*", f".{schema.DATASET_NAME}-*"):
        for old in target.glob(pattern):
            old.unlink()
    for name in ("codec", TEXT_ENCODER):
        shutil.rmtree(target / name, ignore_errors=True)
    for path in sorted(directory.iterdir(), key=lambda path: path.name == _DONE):
        os.replace(path, target / path.name)
    work.remove()


def _shards(directory: pathlib.Path, split: str, records: list[pathlib.Path], shards: int | None) -> list[Shard]:
    """The records in order, about as many in each shard."""
    if not records:
        return []
    if shards is None:
        shards = round(sum(record.stat().st_size for record in records) / _SHARD_BYTES)
    shards = min(max(1, shards), len(records))
    bounds = [len(records) * i // shards for i in range(shards + 1)]
    return [Shard(schema.shard_path(directory, split, i, shards), tuple(records[bounds[i]:bounds[i + 1]]))
            for i in range(shards)]


def _write_shards(shards: list[Shard], workers: Workers) -> dict[pathlib.Path, int]:
    """How many records are in each, by its path."""
    lengths = {}
    for shard, result in workers.map(Shard.write, shards):
        if isinstance(result, WorkerDied):
            raise UserError(f"the process that wrote {shard.path} was killed (not enough memory?): start again")
        lengths[shard.path] = result
    return lengths


def write_json(path: pathlib.Path, value: dict) -> None:
    """Readable in every language; but what would steer a terminal, and JSON does not escape, is escaped."""
    text = json.dumps(value, indent=1, ensure_ascii=False, sort_keys=True) + "\n"
    path.write_text(cli.STEERING.sub(lambda found: f"\\u{ord(found[0]):04x}", text), encoding="utf-8")
