"""Small datasets on the disk, written with the project's own writer, and the records that went in."""


import ml_dtypes
import numpy as np
import pytest

from autosong_jax.codecs.melrvq.settings import MelRVQConfig, MelRVQInfo
from autosong_jax.data import schema, tfrecord
from autosong_jax.sources.spec import record_specs
from autosong_jax.sources.text.encoders import TextEncoderInfo, get_text_encoder

IDS = get_text_encoder("bytes").info
STATES = TextEncoderInfo("t5:some/model", "0a1b2c", "states", width=8)
NUM_CODEBOOKS, CODEBOOK_SIZE = 3, 50
CODEC = MelRVQInfo.of(MelRVQConfig(hop=320, num_codebooks=NUM_CODEBOOKS, codebook_size=CODEBOOK_SIZE), 1e-3)


@pytest.fixture(params=[IDS, STATES], ids=["ids", "states"])
def text(request):
    return request.param


@pytest.fixture
def make_record():
    """`make_record(name, frames, text=IDS, length=5, chroma=0, backing=False)`: a song of random codes and texts,
    different for each name, and if wanted of so many random pitch classes, and with the random codes of a backing."""

    def make(name: str, frames: int, text: TextEncoderInfo = IDS, length: int = 5, chroma: int = 0,
             backing: bool = False) -> dict:
        generator = np.random.default_rng(list(name.encode()))
        record = {
            "id": name, "group": f"group of {name}", "frame_rate": 50.0,
            "codes": generator.integers(CODEBOOK_SIZE, size=(frames, NUM_CODEBOOKS), dtype=np.uint16),
            "lyrics": f"la la {name} é 歌", "genre": "", "description": "a song",
            "text_encoder": text.name, "text_encoder_revision": text.revision,
        }
        for spec in record_specs(text, CODEC):
            source_length = 0 if spec.name == "genre" else length
            for feature in spec.features():
                if text.kind == "ids":
                    record[feature] = generator.integers(1, 15, size=source_length, dtype=np.int32)
                else:
                    record[feature] = generator.normal(size=(source_length, text.width)).astype(ml_dtypes.bfloat16)
        if chroma:
            record["chroma"] = generator.integers(12, size=chroma, dtype=np.uint8)
        if backing:
            record["backing_codes"] = generator.integers(CODEBOOK_SIZE, size=(frames, NUM_CODEBOOKS), dtype=np.uint16)
        return record

    return make


@pytest.fixture
def write_dataset(tmp_path):
    """`write_dataset({"train": [[record, ...] of shard 0, ...]}, text=IDS, sources=("text",), codec=CODEC)` -> the
    dataset's directory."""

    def write(splits: dict[str, list[list[dict]]], text: TextEncoderInfo = IDS, sources=("text",), codec=CODEC):
        directory = tmp_path / "dataset"
        (directory / "codec").mkdir(parents=True)
        codec.save(directory / "codec")
        features = schema.song_features(codec, text, sources)
        shard_lengths = {
            split: [
                tfrecord.write_records(schema.shard_path(directory, split, i, len(shards)),
                                       [schema.serialize(features, record) for record in records])
                for i, records in enumerate(shards)
            ]
            for split, shards in splits.items()
        }
        schema.write_dataset_info(directory, features, shard_lengths)
        text.save(directory)
        return directory

    return write


@pytest.fixture
def assert_same_record():
    def check(got: dict, expected: dict):
        assert got.keys() == expected.keys()
        for name, value in expected.items():
            assert type(got[name]) is type(value), name
            if isinstance(value, np.ndarray):
                assert (got[name].dtype, got[name].shape) == (value.dtype, value.shape), name
            assert np.array_equal(got[name], value), name

    return check
