"""The directory that an export makes: what may be in it before, and how the dataset gets there, all at once.

`dataset_info.json` comes last, so a directory that holds it holds a whole dataset.
"""

import json
import os
import pathlib
import shutil

from autosong_jax.data import schema, tfrecord
from autosong_jax.data.text import DIRECTORY as TEXT_ENCODER
from autosong_jax.errors import UserError
from data_prep import report, splits
from data_prep.work import WorkDirectory

_DONE = "dataset_info.json"
_SHARD_BYTES = 128 * 2**20


def check(output: str, source: str) -> pathlib.Path:
    """The path of the output. Raises UserError if it is no place for a dataset made from `source`."""
    target, songs = pathlib.Path(output), pathlib.Path(source)
    if target.exists() and not target.is_dir():
        raise UserError(f"--output={output} is a file, expected a directory or a new name")
    if songs.is_dir() and target.resolve().is_relative_to(songs.resolve()):
        raise UserError(f"--output={output} lies within --input={source}: give a directory outside of it")
    ours = (".partial", _DONE, report.FILE)
    if target.is_dir() and any(target.iterdir()) and not any((target / name).exists() for name in ours):
        raise UserError(f"--output={output} holds other files: give an empty directory or a new name")
    return target


def finished_report(target: pathlib.Path, fingerprint: str, *, overwrite: bool) -> dict | None:
    """The report of the dataset in `target` if it was made from the same songs and options; None if there is no dataset
    or it may be overwritten.

    Raises:
      UserError: it was made from others.
    """
    if not (target / _DONE).exists():
        return None
    try:
        finished = json.loads((target / report.FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        finished = {}
    if finished.get("fingerprint") == fingerprint:
        shutil.rmtree(target / ".partial", ignore_errors=True)  # an export stopped just before its very end
        return finished
    if not overwrite:
        raise UserError(f"--output={target} holds a dataset made from other songs or with other options: give another "
                        "--output, or --overwrite to replace it")
    return None


def write_report(target: pathlib.Path, finished: dict) -> None:
    """Writes a report without a dataset, so that its reader can mend the songs; never over that of a dataset."""
    if not (target / _DONE).exists():
        target.mkdir(parents=True, exist_ok=True)
        _write_json(target / report.FILE, finished)


def write(target: pathlib.Path, work: WorkDirectory, items, features, encoder, codec: pathlib.Path, finished: dict,
          shards: int | None) -> None:
    """Writes the dataset within the work directory, puts it in the place of whatever dataset there was, and removes the
    work directory.

    Args:
      target: the output.
      work: its work directory.
      items: the songs, `pipeline.Item`s with `split` and `record`.
      features: of a record.
      encoder: the text encoder that the records went through; a frozen one is saved too.
      codec: the directory of the codec, to be copied.
      finished: the report.
      shards: the number of shards of each split; None for about one per 128 MiB.
    """
    directory = work.empty_directory("dataset")
    lengths = {}
    for split in splits.SPLITS:
        records = [item.record for item in items if item.split == split]
        if records:
            lengths[split] = _write_shards(directory, split, records, shards)
    schema.write_dataset_info(directory, features, lengths)
    shutil.copytree(codec, directory / "codec", copy_function=shutil.copyfile)
    encoder.info.save(directory)
    if encoder.info.frozen:
        encoder.save(directory / TEXT_ENCODER)
    _write_json(directory / report.FILE, finished)
    (target / _DONE).unlink(missing_ok=True)
    for pattern in (f"{schema.DATASET_NAME}-*", f".{schema.DATASET_NAME}-*"):
        for old in target.glob(pattern):
            old.unlink()
    for name in ("codec", TEXT_ENCODER):
        shutil.rmtree(target / name, ignore_errors=True)
    for path in sorted(directory.iterdir(), key=lambda path: path.name == _DONE):
        os.replace(path, target / path.name)
    work.remove()


def _write_shards(directory: pathlib.Path, split: str, records: list[pathlib.Path], shards: int | None) -> list[int]:
    """Writes the records in order, about as many into each shard, and returns how many are in each."""
    if shards is None:
        shards = round(sum(record.stat().st_size for record in records) / _SHARD_BYTES)
    shards = min(max(1, shards), len(records))
    bounds = [len(records) * i // shards for i in range(shards + 1)]
    return [tfrecord.write_records(schema.shard_path(directory, split, i, shards),
                                   (record.read_bytes() for record in records[bounds[i]:bounds[i + 1]]))
            for i in range(shards)]


def _write_json(path: pathlib.Path, value: dict) -> None:
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False, sort_keys=True) + "\n", encoding="utf-8")
