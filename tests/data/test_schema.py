import json

import ml_dtypes
import numpy as np
import pytest
from tensorflow_datasets.proto import tf_example_pb2

from autosong_jax.codecs.info import CodesInfo
from autosong_jax.data import schema
from autosong_jax.errors import UserError
from autosong_jax.sources.text.encoders import get_text_encoder

CODEBOOKS = 3
CODEC = CodesInfo("melrvq", 16000, 1, 50.0, CODEBOOKS, 50)


def test_a_record_comes_back_as_it_went_in(text, make_record, assert_same_record):
    features = schema.song_features(CODEC, text)
    for record in (make_record("a", 7, text), make_record("empty", 0, text, length=0)):
        assert_same_record(schema.deserialize(features, schema.serialize(features, record)), record)


def test_same_record_same_bytes_in_any_order_of_its_features(text, make_record):
    features, record = schema.song_features(CODEC, text), make_record("a", 7, text)
    reverse = dict(reversed(record.items()))
    assert schema.serialize(features, record) == schema.serialize(features, reverse)


def test_codes_are_little_endian_bytes_in_an_example_proto(make_record, text):
    record = make_record("a", 7, text)
    example = tf_example_pb2.Example.FromString(schema.serialize(schema.song_features(CODEC, text), record))
    (data,) = example.features.feature["codes"].bytes_list.value
    assert data == b"".join(int(code).to_bytes(2, "little") for code in record["codes"].flat)
    if text.kind == "states":
        (data,) = example.features.feature["text_states"].bytes_list.value
        # bfloat16 is the upper half of a float32.
        assert data == b"".join(np.float32(x).astype("<f4").tobytes()[2:] for x in record["text_states"].flat)
    else:
        assert list(example.features.feature["text_ids"].int64_list.value) == record["text_ids"].tolist()


@pytest.mark.parametrize("change", [
    {"codes": np.zeros((4, CODEBOOKS + 1), np.uint16)},
    {"codes": np.zeros((4, CODEBOOKS), np.int32)},
    {"text_ids": np.zeros((4, 1), np.int32)},
    {"text_ids": None},
    {"genre_states": np.zeros((4, 8), ml_dtypes.bfloat16)},
])
def test_wrong_records_are_refused(change, make_record):
    record = {name: value for name, value in (make_record("a", 7) | change).items() if value is not None}
    features = schema.song_features(CODEC, get_text_encoder("bytes").info)
    with pytest.raises(ValueError, match=next(iter(change))):
        schema.serialize(features, record)


def test_dataset_info(write_dataset, make_record, text):
    a, b, c, d = (make_record(name, 5, text) for name in "abcd")
    directory = write_dataset({"train": [[a, b], [c]], "test": [[d]]}, text)
    features, shard_lengths = schema.read_dataset_info(directory)
    assert shard_lengths == {"train": [2, 1], "test": [1]}
    assert repr(features) == repr(schema.song_features(CODEC, text))
    names = {path.name for path in directory.glob("*tfrecord*")}
    assert names == {"autosong-train.tfrecord-00000-of-00002", "autosong-train.tfrecord-00001-of-00002",
                     "autosong-test.tfrecord-00000-of-00001"}


def test_no_dataset(tmp_path):
    for directory in (tmp_path / "missing", tmp_path):
        with pytest.raises(UserError, match=r"is not a dataset .*python -m data_prep.export"):
            schema.read_dataset_info(directory)


@pytest.mark.parametrize(("change", "seen"), [
    ({"version": "2.0.0"}, "'autosong' of format 2.0.0"),
    ({"name": "mnist"}, "'mnist' of format 1.0.0"),
])
def test_dataset_of_another_format(change, seen, write_dataset, make_record):
    directory = write_dataset({"train": [[make_record("a", 5)]]})
    info = json.loads((directory / "dataset_info.json").read_text())
    (directory / "dataset_info.json").write_text(json.dumps(info | change))
    with pytest.raises(UserError, match=f"{seen}, expected 'autosong' of format 1.0.0: export the songs again"):
        schema.read_dataset_info(directory)


def test_damaged_description(write_dataset, make_record):
    directory = write_dataset({"train": [[make_record("a", 5)]]})
    for name in ("features.json", "dataset_info.json"):
        (directory / name).write_text("{")
        with pytest.raises(UserError, match="is not a dataset"):
            schema.read_dataset_info(directory)


@pytest.mark.tensorflow
def test_tensorflow_datasets_reads_it(write_dataset, make_record, text):
    import tensorflow_datasets as tfds

    records = [make_record("a", 5, text, length=3), make_record("b", 9, text, length=0), make_record("c", 1, text)]
    builder = tfds.builder_from_directory(write_dataset({"train": [records[:2], records[2:]]}, text))
    assert builder.info.splits["train"].num_examples == 3
    examples = list(tfds.as_numpy(builder.as_dataset(split="train")))
    for example, record in zip(examples, records, strict=True):
        assert example.keys() == record.keys()
        for name, value in record.items():
            value = value.encode() if isinstance(value, str) else value
            assert np.array_equal(example[name], value), name
            if isinstance(value, np.ndarray):
                assert example[name].dtype == value.dtype
