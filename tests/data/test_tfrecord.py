import numpy as np
import pytest

from autosong_jax.data.tfrecord import read_record, record_offsets, write_records
from autosong_jax.errors import UserError

PAYLOADS = [b"first", b"", bytes(range(256)) * 3]


def masked_crc32c(data: bytes) -> int:
    """Bit by bit, from the polynomial (RFC 3720, appendix B.4), and masked as TensorFlow's record_writer says."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17 & 0xFFFFFFFF) + 0xA282EAD8) % 2**32


def record_bytes(payload: bytes) -> bytes:
    length = len(payload).to_bytes(8, "little")
    return (length + masked_crc32c(length).to_bytes(4, "little") + payload
            + masked_crc32c(payload).to_bytes(4, "little"))


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "songs.tfrecord-00000-of-00001"
    assert write_records(path, PAYLOADS) == 3
    return path


def read_all(path) -> list[bytes]:
    return [read_record(path, int(offset), int(length)) for offset, length in record_offsets(path)]


def test_file_is_what_the_format_says(path):
    assert path.read_bytes() == b"".join(map(record_bytes, PAYLOADS))


def test_offsets_lead_to_the_payloads(path):
    data = path.read_bytes()
    assert [data[offset : offset + length] for offset, length in record_offsets(path)] == PAYLOADS
    assert read_all(path) == PAYLOADS


def test_file_without_records(tmp_path):
    assert write_records(tmp_path / "none", iter(())) == 0
    assert record_offsets(tmp_path / "none").shape == (0, 2)


def test_every_flipped_bit_is_found_in_its_record(path):
    data = path.read_bytes()
    starts = np.cumsum([0, *(len(payload) + 16 for payload in PAYLOADS)])
    for position in [*range(60), *range(60, len(data), 37), *range(len(data) - 5, len(data))]:
        path.write_bytes(data[:position] + bytes([data[position] ^ 1 << position % 8]) + data[position + 1 :])
        start = max(start for start in starts[:-1] if start <= position)
        with pytest.raises(UserError, match=f"00000-of-00001: the record at byte {start} .*export again"):
            read_all(path)


def test_every_cut_is_found_unless_it_is_between_records(path):
    data = path.read_bytes()
    starts = np.cumsum([0, *(len(payload) + 16 for payload in PAYLOADS)]).tolist()
    for size in range(0, len(data), 7):
        path.write_bytes(data[:size])
        if size in starts:
            assert len(read_all(path)) == starts.index(size)
            continue
        start = max(start for start in starts if start < size)
        with pytest.raises(UserError, match=f"the record at byte {start} is cut short"):
            record_offsets(path)


def test_missing_file(tmp_path):
    with pytest.raises(UserError, match=r"cannot read .*gone: No such file"):
        record_offsets(tmp_path / "gone")
    with pytest.raises(UserError, match=r"cannot read .*gone: No such file"):
        read_record(tmp_path / "gone", 12, 1)


def cache_of(path):
    (cache,) = path.parent.glob(".*.npy")
    return cache


def test_second_call_reads_no_headers(path, monkeypatch):
    offsets = record_offsets(path)
    monkeypatch.setattr("autosong_jax.data.tfrecord._scan", None)
    assert np.array_equal(record_offsets(path), offsets)


def test_offsets_of_another_file_are_not_used(path):
    record_offsets(path)
    write_records(path, [b"another"])
    assert read_all(path) == [b"another"]


def test_damaged_cache_is_ignored(path):
    record_offsets(path)
    for content in (b"", b"nonsense", cache_of(path).read_bytes()[:-8]):
        cache_of(path).write_bytes(content)
        assert read_all(path) == PAYLOADS


def test_offsets_that_cannot_be_kept_are_found_again(path):
    record_offsets(path)
    cache = cache_of(path)
    cache.unlink()
    cache.mkdir()  # no file can take this name
    assert read_all(path) == PAYLOADS


def test_interrupted_write_leaves_the_old_file(path):
    def payloads():
        yield b"new"
        raise KeyboardInterrupt

    before = path.read_bytes()
    with pytest.raises(KeyboardInterrupt):
        write_records(path, payloads())
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.tensorflow
def test_tensorflow_reads_it(path):
    import tensorflow as tf

    assert [record.numpy() for record in tf.data.TFRecordDataset(str(path))] == PAYLOADS
