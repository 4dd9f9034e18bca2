"""The records of a dataset: one whole song each, and the files that describe them to TFDS.

A dataset is a directory that `tfds.builder_from_directory` reads: `dataset_info.json`, `features.json`, the shards
`autosong-SPLIT.tfrecord-0000i-of-0000n`, and beside them `codec/`, `text_encoder.json`, for a frozen text encoder also
`text_encoder/`, and `report.json`.

Letters: T frames, each of some width.
"""

import pathlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from autosong_jax import inputs
from autosong_jax.codecs.info import CodecInfo
from autosong_jax.errors import UserError
from autosong_jax.sources.spec import IN_RECORDS, record_specs
from autosong_jax.sources.text.encoders import TextEncoderInfo

DATASET_NAME = "autosong"
# The version in dataset_info.json. Its first number changes when older code can no longer read what newer code writes.
FORMAT_VERSION = "1.0.0"


def song_features(codec: CodecInfo, text: TextEncoderInfo, sources: Iterable[str] = IN_RECORDS
                  ) -> tfds.features.FeaturesDict:
    """The features of one record.

    `id`; `group` (songs of one group are in one split); the frames, such as `codes` uint16 [T, K] or `mel` uint8
    [T, bands], see `codecs.info.Frames`; `frame_rate` (frames a second); `lyrics`, `genre`, `description` (as given,
    empty where missing); `text_encoder`, `text_encoder_revision`; and what each source is made of, see
    `SourceSpec.features`.

    Args:
      codec: what songs are coded by.
      text: the encoder that the texts went through.
      sources: the kinds of sources that the record holds.
    """
    texts = ("id", "group", "lyrics", "genre", "description", "text_encoder", "text_encoder_revision")
    frames = codec.frames
    of_sources = {name: feature for spec in record_specs(text, codec, sources)
                  for name, feature in spec.features().items()}
    return tfds.features.FeaturesDict({
        **{name: tfds.features.Text() for name in texts},
        frames.feature: tfds.features.Tensor(shape=(None, frames.width), dtype=frames.dtype, encoding="bytes"),
        "frame_rate": np.float32,
        **{name: tfds.features.Tensor(shape=feature.shape, dtype=feature.dtype, encoding=feature.encoding)
           for name, feature in of_sources.items()},
    })


def serialize(features: tfds.features.FeaturesDict, record: Mapping[str, Any]) -> bytes:
    """A record as the bytes of a `tf.train.Example`; the same record gives the same bytes.

    Raises:
      ValueError: a feature is missing, not expected, or has another dtype or shape than `song_features` says.
    """
    if record.keys() != features.keys():
        raise ValueError(f"features of the record that are missing or not expected: "
                         f"{sorted(record.keys() ^ features.keys())}")
    example = features.encode_example(record)
    proto = tfds.core.example_serializer.ExampleSerializer(features.get_serialized_info()).get_tf_example(example)
    return proto.SerializeToString(deterministic=True)


def deserialize(features: tfds.features.FeaturesDict, data: bytes) -> dict[str, Any]:
    """The record in `data`: texts as str, `frame_rate` as float, all else as arrays."""
    record = features.deserialize_example_np(data)
    return {name: value.decode() if isinstance(value, bytes) else value for name, value in record.items()}


def shard_path(directory: str | pathlib.Path, split: str, shard: int, num_shards: int) -> pathlib.Path:
    """Where shard `shard` of `num_shards` is, counted from 0."""
    return pathlib.Path(directory) / f"{DATASET_NAME}-{split}.tfrecord-{shard:05d}-of-{num_shards:05d}"


def write_dataset_info(directory: str | pathlib.Path, features: tfds.features.FeaturesDict,
                       shard_lengths: Mapping[str, Sequence[int]]) -> None:
    """Writes `dataset_info.json` and `features.json`.

    Args:
      directory: holds the shards already.
      shard_lengths: for each split the number of records in each of its shards.
    """
    # `tfds.folder_dataset.write_metadata` would do the same, but reads the dataset back with TensorFlow.
    directory = pathlib.Path(directory)
    info = tfds.core.DatasetInfo(
        builder=tfds.core.dataset_info.DatasetIdentity(
            name=DATASET_NAME, version=tfds.core.Version(FORMAT_VERSION), data_dir=str(directory), module_name=""),
        description="Songs as frames of an audio codec, with lyrics and genre; one record is one whole song.",
        features=features,
    )
    info.set_file_format("tfrecord")
    template = tfds.core.ShardedFileTemplate(
        data_dir=directory, dataset_name=DATASET_NAME, filetype_suffix="tfrecord")
    info.set_splits(tfds.core.splits.SplitDict([
        tfds.core.SplitInfo(
            name=split, shard_lengths=list(lengths), filename_template=template,
            num_bytes=sum(shard_path(directory, split, i, len(lengths)).stat().st_size for i in range(len(lengths))))
        for split, lengths in sorted(shard_lengths.items())]))
    info.write_to_directory(directory)


def read_dataset_info(directory: str | pathlib.Path) -> tuple[tfds.features.FeaturesDict, dict[str, list[int]]]:
    """The features of a dataset's records, and for each split the number of records in each shard.

    Raises:
      UserError: the directory is not a dataset, or one of a format that this version cannot read.
    """
    directory = pathlib.Path(directory)
    for name in ("dataset_info.json", "features.json"):
        path = directory / name
        try:
            inputs.read_json(path, dict[str, Any], "the dataset's")
        except UserError as error:
            raise UserError(f"{directory} is not a dataset ({error}): make one with `python -m data_prep.export "
                            f"--input SONGS --output {directory}`") from error
    try:
        proto = tfds.core.dataset_info.read_proto_from_builder_dir(directory)
        features = tfds.features.FeaturesDict.from_config(str(directory))
    except Exception as error:  # whatever the parsers behind tfds raise, some of it theirs alone
        raise UserError(f"{directory} is not a dataset ({error}): make one with `python -m data_prep.export "
                        f"--input SONGS --output {directory}`") from error
    if proto.name != DATASET_NAME or proto.version.split(".")[0] != FORMAT_VERSION.split(".")[0]:
        raise UserError(f"{directory} holds the dataset {proto.name!r} of format {proto.version}, expected "
                        f"{DATASET_NAME!r} of format {FORMAT_VERSION}: export the songs again with this version")
    lengths = {split.name: list(split.shard_lengths) for split in proto.splits}
    for name, counts in lengths.items():
        if not re.fullmatch(r"\w{1,100}", name) or any(count < 0 for count in counts):
            raise UserError(f"{directory}/dataset_info.json has the split {name!r} with shards of {counts[:10]} songs: "
                            "export the songs again")
    return features, lengths
