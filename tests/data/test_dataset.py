import collections
import json
import os
import re
import shutil
import threading

import numpy as np
import pytest

from autosong_jax import defaults
from autosong_jax.codecs.mel.settings import MelConfig, MelInfo
from autosong_jax.codecs.pcm.settings import PcmConfig, PcmInfo
from autosong_jax.data.dataset import SongDataset, batch_layout, eval_batches, iterate, train_batches
from autosong_jax.errors import UserError

LENGTHS = (4, 9, 23, 40, 5)


def text_sources(**lengths):
    """As the sources of a config, texts of these lengths."""
    return {name: defaults.source(max_length=length) for name, length in lengths.items()}


SOURCES = text_sources(lyrics=6, genre=2)
OPTIONS = {"batch_size": 4, "frames": 8, "sources": SOURCES, "end_of_song": True}


@pytest.fixture
def records(make_record, text):
    return [make_record(name, frames, text, length=i + 1) for i, (name, frames) in
            enumerate(zip("abcde", LENGTHS, strict=True))]


@pytest.fixture
def directory(write_dataset, records, text):
    return write_dataset({"train": [records[:2], [], records[2:]], "test": [[]]}, text)


@pytest.fixture
def dataset(directory):
    return SongDataset(directory, "train")


def assert_equal(a, b):
    """Two batches have the same names, shapes, dtypes and values."""
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        for name in a:
            assert_equal(a[name], b[name])
    else:
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        assert np.array_equal(a, b)


def rows(batch):
    """Yields each example of a batch: its window (frames, how many count, whether the song ends) and its sources."""
    for b in range(len(batch["num_frames"])):
        sources = {source: {k: v[b] for k, v in arrays.items()} for source, arrays in batch["sources"].items()}
        yield (batch["frames"][b], int(batch["num_frames"][b]), bool(batch["song_ends"][b])), sources


def places(window, records, end_of_song=True):
    """Every (song, start) of which that is the window: with its end, a song is one frame longer; after it is 0."""
    frames, num_frames, song_ends = window
    found = []
    for song, record in enumerate(records):
        codes = record["codes"]
        for start in range(max(len(codes) + end_of_song - len(frames), 0) + 1):
            part = codes[start : start + len(frames)]
            ends = end_of_song and start + len(frames) > len(codes)
            padded = np.concatenate([part, np.zeros((len(frames) - len(part), codes.shape[1]), codes.dtype)])
            if (len(part), ends) == (num_frames, song_ends) and np.array_equal(padded, frames):
                found.append((song, start))
    return found


def stream(batches, records, steps):
    """(song, start) of every example of the first steps, one after another."""
    examples = [example for step in range(steps) for example in rows(batches[step])]
    found = [places(window, records) for window, _ in examples]
    assert all(len(place) == 1 for place in found), "each window is one place in one song"
    return [place for (place,) in found]


def test_songs_are_the_records_in_order(dataset, records, assert_same_record):
    assert len(dataset) == len(records)
    for i, record in enumerate(records):
        expected = dict(record)
        expected["frames"] = expected.pop("codes")
        assert_same_record(dataset[i], expected)
    for beyond in (-1, len(records)):
        with pytest.raises(IndexError, match=f"song {beyond} of 5"):
            dataset[beyond]


def test_what_describes_it(dataset, text):
    assert (str(dataset.codec.frames), dataset.frame_rate) == ("3 codebooks x 50", 50.0)
    assert dataset.codec.name == "melrvq"
    assert dataset.text == text


def test_shapes_and_dtypes(dataset, text):
    batch = train_batches(dataset, seed=0, **OPTIONS)[0]
    assert batch["frames"].shape == (4, 8, 3)
    assert batch["frames"].dtype == batch["num_frames"].dtype == np.int32
    assert batch["song_ends"].dtype == bool
    lyrics, genre = batch["sources"]["lyrics"], batch["sources"]["genre"]
    described = {name: (value.shape, value.dtype.name) for name, value in lyrics.items()}
    assert described.pop("length") == ((4,), "int32")
    if text.kind == "ids":
        assert described == dict.fromkeys(("ids", "sections", "lines"), ((4, 6), "int32"))
        assert genre.keys() == {"ids", "length"}
    else:
        assert described == {"states": ((4, 6, 8), "bfloat16")}
        assert genre.keys() == {"states", "length"}


def test_every_epoch_has_every_song_once_in_a_new_order(dataset, records):
    songs = [song for song, _ in stream(train_batches(dataset, seed=3, **OPTIONS), records, steps=25)]
    epochs = [tuple(songs[i : i + 5]) for i in range(0, 100, 5)]
    assert all(sorted(epoch) == [0, 1, 2, 3, 4] for epoch in epochs)
    assert len(set(epochs)) > 10


def test_windows_start_anywhere_up_to_the_end_of_the_song(write_dataset, make_record):
    record = make_record("a", 20)
    record["codes"][:] = np.arange(20)[:, None]
    dataset = SongDataset(write_dataset({"train": [[record]]}), "train")
    batch = train_batches(dataset, batch_size=2000, frames=8, sources={}, end_of_song=True, seed=0)[0]
    starts = collections.Counter(batch["frames"][:, 0, 0].tolist())
    assert starts.keys() == set(range(14)), "start 13 is the window of 7 frames and the end"
    assert all(abs(count - 2000 / 14) < 5 * (2000 / 14) ** 0.5 for count in starts.values())
    assert (batch["num_frames"] == np.where(batch["song_ends"], 7, 8)).all()


def test_windows_may_be_the_beginnings_alone(dataset, records):
    for song, start in stream(train_batches(dataset, seed=3, beginnings=True, **OPTIONS), records, steps=10):
        assert start == 0, song


def test_without_end_of_song_every_frame_that_counts_is_the_songs(dataset, records):
    batches = train_batches(dataset, seed=0, **(OPTIONS | {"end_of_song": False}))
    for step in range(20):
        for window, _ in rows(batches[step]):
            (place,) = places(window, records, end_of_song=False)
            assert window[1] == min(LENGTHS[place[0]], 8)
            assert not window[2]


def test_texts_are_those_of_the_song_cut_or_padded(dataset, records, text, caplog):
    names = {"ids": "text_ids", "sections": "section_ids", "lines": "line_ids", "states": "text_states"}
    batches = train_batches(dataset, seed=0, **(OPTIONS | {"sources": text_sources(genre=2, lyrics=3)}))
    examples = [example for step in range(5) for example in rows(batches[step])]
    (warning,) = caplog.messages  # one for the source, not one a song
    assert re.match(r"the lyrics of song '[de]' has length [45] and is cut to 3", warning)
    for window, sources in examples:
        ((song, _),) = places(window, records)
        length = min(song + 1, 3)
        assert sources["lyrics"].pop("length") == length
        assert sources["genre"]["length"] == 0
        for name, value in sources["lyrics"].items():
            assert np.array_equal(value[:length], records[song][names[name]][:length])
            assert not value[length:].any()


@pytest.mark.parametrize("slots", [1, 3, 11])
def test_chroma_and_position_are_those_of_the_window_s_start(write_dataset, make_record, slots):
    """Frames are 20 ms long and pitch classes 256; behind its end a song's chroma begins again."""
    lengths = (4, 30, 101, 64, 39)
    records = [make_record(name, frames, chroma=1 + frames // 13) for name, frames in
               zip("abcde", lengths, strict=True)]
    dataset = SongDataset(write_dataset({"train": [records]}, sources=("text", "chroma")), "train")
    sources = {kind: defaults.source(kind=kind, max_length=length)
               for kind, length in (("chroma", slots), ("position", 1))}
    batches = train_batches(dataset, seed=0, **(OPTIONS | {"sources": sources}))
    starts = set()
    for window, cut in [example for step in range(30) for example in rows(batches[step])]:
        ((song, start),) = places(window, records)
        classes, first = records[song]["chroma"].tolist(), round(start * 0.02 / 0.256)
        assert cut["chroma"]["chroma"].tolist() == [classes[i % len(classes)] for i in range(first, first + slots)]
        assert cut["chroma"]["chroma"].dtype == np.int32 and cut["chroma"]["length"] == slots
        assert cut["position"]["seconds"].tolist() == [np.float32(start / 50)] and cut["position"]["length"] == 1
        starts.add(start)
    assert len(starts) > 30
    assert_equal(eval_batches(dataset, **(OPTIONS | {"sources": sources}))[1]["sources"]["chroma"]["length"],
                 np.array([slots, 0, 0, 0], np.int32))


def test_a_backing_is_that_of_the_window_and_a_style_is_from_elsewhere_in_the_song(write_dataset, make_record):
    lengths, slots = (4, 9, 101, 64, 20), 5
    records = [make_record(name, frames, backing=True) for name, frames in zip("abcde", lengths, strict=True)]
    dataset = SongDataset(write_dataset({"train": [records]}, sources=("text", "backing")), "train")
    sources = {"backing": defaults.source(kind="backing", max_length=8),
               "style": defaults.source(kind="style", max_length=slots)}
    options = OPTIONS | {"sources": sources}
    batches = train_batches(dataset, seed=0, **options)
    sides = collections.Counter()
    for (frames, count, ends), cut in [example for step in range(60) for example in rows(batches[step])]:
        ((song, start),) = places((frames, count, ends), records)
        codes, backing = records[song]["codes"], np.zeros((8, 3), np.uint16)
        backing[:count] = records[song]["backing_codes"][start:start + count]
        assert cut["backing"]["length"] == count
        np.testing.assert_array_equal(cut["backing"]["codes"], backing)
        length, before, after = cut["style"]["length"], start, len(codes) - start - count
        assert length == min(max(before, after), slots)
        excerpt, rest = cut["style"]["codes"][:length], cut["style"]["codes"][length:]
        assert not rest.any()
        if length:
            (place,) = [i for i in range(len(codes) - length + 1) if np.array_equal(codes[i:i + length], excerpt)]
            assert place + length <= start or place >= start + count
            sides[song, "before" if place < start else "after"] += 1
    assert sides.keys() >= {(song, side) for song in (2, 3, 4) for side in ("before", "after")}
    assert_equal(train_batches(dataset, seed=0, **options)[7], batches[7])
    for batch in range(2):
        assert_equal(eval_batches(dataset, **options)[batch], eval_batches(dataset, **options)[batch])
    beginnings = eval_batches(dataset, beginnings=True, **options)[0]
    np.testing.assert_array_equal(beginnings["frames"][2], records[2]["codes"][:8])
    np.testing.assert_array_equal(beginnings["sources"]["backing"]["codes"][2], records[2]["backing_codes"][:8])


def test_codes_of_a_backing_that_its_codec_does_not_have_are_named(write_dataset, make_record):
    record = make_record("a", 9, backing=True)
    record["backing_codes"][3, 1] = 50
    dataset = SongDataset(write_dataset({"train": [[record]]}, sources=("text", "backing")), "train")
    with pytest.raises(UserError, match="holds the code 50, but its codec has 50"):
        dataset[0]


@pytest.mark.parametrize("info", [MelInfo.of(MelConfig(sample_rate=4000, hop=80, n_mels=5)),
                                  PcmInfo.of(PcmConfig(sample_rate=4000, hop=80))], ids=["mel", "pcm"])
def test_frames_of_values_stay_as_they_are_stored(write_dataset, make_record, info):
    """All numbers of the dtype are values, none too large; windows, padding and ends are those of codes."""
    frames, records = info.frames, [make_record(name, count) for name, count in zip("abc", (4, 8, 30), strict=True)]
    dataset = SongDataset(write_dataset({"train": [records]}), "train")
    batches = train_batches(dataset, seed=0, **OPTIONS)
    codes = [batches[step] for step in range(6)]
    of_values, generator = [], np.random.default_rng(0)
    for record in records:
        kept = {name: value for name, value in record.items() if name != "codes"}
        values = generator.integers(*frames.bounds, (len(record["codes"]), frames.width), frames.dtype, endpoint=True)
        of_values.append(kept | {frames.feature: values})
    shutil.rmtree(dataset.path)
    dataset = SongDataset(write_dataset({"train": [of_values]}, codec=info), "train")
    np.testing.assert_array_equal(dataset[2]["frames"], of_values[2][frames.feature])
    batches, layout = train_batches(dataset, seed=0, **OPTIONS), batch_layout(8, frames, {})
    seen = []
    for step, of_codes in enumerate(codes):
        batch = batches[step]
        assert (batch["frames"].shape, batch["frames"].dtype) == ((4, 8, frames.width), frames.dtype)
        assert layout["frames"].shape == batch["frames"].shape[1:] and layout["frames"].dtype == frames.dtype
        for name in ("num_frames", "song_ends", "sources"):
            assert_equal(batch[name], of_codes[name])
        for window, _ in rows(batch):
            seen += places(window, [record | {"codes": record[frames.feature]} for record in of_values])
    assert len(seen) == 24 and {song for song, _ in seen} == {0, 1, 2}


@pytest.mark.parametrize("kind", ["chroma", "backing"])
def test_a_dataset_without_a_source_says_how_to_make_one_with_it(dataset, kind):
    sources = SOURCES | {kind: defaults.source(kind=kind, max_length=3)}
    with pytest.raises(UserError, match=f"nothing for the source '{kind}': export them again .* --sources=text,{kind}"):
        train_batches(dataset, seed=0, **(OPTIONS | {"sources": sources}))


def test_any_step_first_and_in_any_order(directory):
    steps = [7, 0, 1000, 3]
    a = [train_batches(SongDataset(directory, "train"), seed=5, **OPTIONS)[step] for step in steps]
    batches = train_batches(SongDataset(directory, "train"), seed=5, **OPTIONS)
    for step, batch in sorted(zip(steps, a, strict=True), key=lambda pair: pair[0]):
        assert_equal(batches[step], batch)


def test_seeds_differ(dataset, records):
    first, second = (stream(train_batches(dataset, seed=seed, **OPTIONS), records, steps=5) for seed in (0, 1))
    assert first != second


@pytest.mark.parametrize("start", [0, 6, 10**6])
@pytest.mark.parametrize("threads", [1, 3])
def test_iteration_is_random_access(start, threads, dataset):
    batches = train_batches(dataset, seed=2, **OPTIONS)
    iterator = iterate(batches, start, threads=threads, prefetch=4)
    for step in range(start, start + 9):
        assert_equal(next(iterator), batches[step])
    iterator.close()


def test_batches_of_one_song(dataset):
    batches = train_batches(dataset, seed=2, **(OPTIONS | {"batch_size": 1}))
    iterator = iterate(batches, 3)
    assert_equal(next(iterator), batches[3])
    iterator.close()


@pytest.mark.parametrize("hosts", [2, 4])
def test_hosts_read_rows_of_one_batch(hosts, directory, monkeypatch):
    whole = train_batches(SongDataset(directory, "train"), seed=2, **OPTIONS)
    songs_read = []
    monkeypatch.setattr(SongDataset, "__getitem__", counting(SongDataset.__getitem__, songs_read))
    parts = [train_batches(SongDataset(directory, "train"), seed=2, rows=rows, **OPTIONS)
             for rows in np.array_split(range(4), hosts)]
    for step in (0, 1, 8):
        songs_read.clear()
        slices = [part[step] for part in parts]
        assert len(songs_read) == 4, "each host reads its own songs only"
        assert_equal(concatenate(slices), whole[step])


def counting(method, calls):
    def counted(self, index):
        calls.append(index)
        return method(self, index)

    return counted


def concatenate(batches):
    if isinstance(batches[0], dict):
        return {name: concatenate([batch[name] for batch in batches]) for name in batches[0]}
    return np.concatenate(batches)


def test_evaluation_has_every_song_once_then_padding(dataset, records):
    batches = eval_batches(dataset, **OPTIONS)
    assert len(batches) == 2
    assert [song for song, _ in stream(batches, records, steps=1)] == [0, 1, 2, 3]
    (last, *padding) = rows(batches[1])
    assert places(last[0], records)[0][0] == 4
    assert len(padding) == 3
    for (frames, num_frames, song_ends), sources in padding:
        assert num_frames == 0 and not song_ends and not frames.any()
        assert not any(array.any() for arrays in sources.values() for array in arrays.values())


def test_evaluation_is_always_the_same_also_on_several_hosts(directory):
    whole = list(iterate(eval_batches(SongDataset(directory, "train"), **OPTIONS)))
    hosts = [eval_batches(SongDataset(directory, "train"), rows=rows, **OPTIONS) for rows in ((0, 1), (2, 3))]
    assert len(whole) == 2
    for step, batch in enumerate(whole):
        assert_equal(concatenate([host[step] for host in hosts]), batch)


def test_one_song_alone(write_dataset, make_record):
    record = make_record("a", 4)
    dataset = SongDataset(write_dataset({"train": [[record]]}), "train")
    assert stream(train_batches(dataset, seed=0, **OPTIONS), [record], steps=3) == [(0, 0)] * 12


def test_a_closed_iterator_leaves_no_thread(dataset):
    before = threading.active_count()
    iterator = iterate(train_batches(dataset, seed=0, **OPTIONS))
    next(iterator)
    iterator.close()
    for thread in threading.enumerate():
        if "grain" in thread.name:
            thread.join(timeout=10)
    assert threading.active_count() == before


def test_damaged_song_is_named_by_file_and_offset(directory):
    shard = directory / "autosong-train.tfrecord-00000-of-00003"
    data = bytearray(shard.read_bytes())
    data[-10] ^= 1
    shard.write_bytes(data)
    iterator = iterate(eval_batches(SongDataset(directory, "train"), **OPTIONS))
    with pytest.raises(UserError, match=r"autosong-train.tfrecord-00000-of-00003: the record at byte [1-9]\d* differs"):
        next(iterator)


def test_dataset_that_cannot_be_written_to(directory, monkeypatch):
    def refuse(*args, **options):
        raise PermissionError("read-only")

    monkeypatch.setattr(os, "replace", refuse)
    assert len(SongDataset(directory, "train")) == 5
    assert not list(directory.glob(".*"))


@pytest.mark.parametrize("split", ["validation", "test"])
def test_split_without_songs(split, directory):
    with pytest.raises(UserError, match=rf"no songs in the split '{split}', but these splits: .*train \(5 songs\)"):
        SongDataset(directory, split)


def test_parts_that_contradict_each_other(directory):
    path = directory / "codec" / "codec.json"
    codec = json.loads(path.read_text())
    path.write_text(json.dumps(codec | {"num_codebooks": 4}))
    with pytest.raises(UserError, match="have frames of 3 codes, but its codec has 4 codebooks x 50: export"):
        SongDataset(directory, "train")
    path.write_text(json.dumps({"name": "melrvq"}))
    with pytest.raises(UserError, match=r"codec.json lacks sample_rate"):
        SongDataset(directory, "train")
    path.unlink()
    with pytest.raises(UserError, match=r"codec.json cannot be read: it does not exist"):
        SongDataset(directory, "train")
    path.write_text(json.dumps(codec))
    first, _, third = sorted(directory.glob("autosong-train*"))
    first.write_bytes(third.read_bytes())
    with pytest.raises(UserError, match=r"00000-of-00003 holds 3 songs, but dataset_info.json says 2"):
        SongDataset(directory, "train")
    first.unlink()
    with pytest.raises(UserError, match=r"cannot read .*00000-of-00003: No such file"):
        SongDataset(directory, "train")


def test_codes_that_the_codec_does_not_have(write_dataset, make_record):
    record = make_record("a", 4)
    record["codes"][3, 1] = 50
    dataset = SongDataset(write_dataset({"train": [[record]]}), "train")
    with pytest.raises(UserError, match=r"song 'a' in .* holds the code 50, but its codec has 50 per codebook"):
        dataset[0]


def test_missing_directory(tmp_path):
    with pytest.raises(UserError, match=r"songs is not a dataset .*data_prep.export"):
        SongDataset(tmp_path / "songs", "train")


def test_wrong_requests(dataset):
    with pytest.raises(UserError, match=r"a source 'melody' of kind text: expected one of lyrics, genre, desc"):
        train_batches(dataset, seed=0, **(OPTIONS | {"sources": text_sources(melody=3)}))
    with pytest.raises(UserError, match="the seed is -1, expected 0 to 4294967295"):
        train_batches(dataset, seed=-1, **OPTIONS)
    with pytest.raises(UserError, match="batch size is 0, expected at least 1"):
        train_batches(dataset, seed=0, **(OPTIONS | {"batch_size": 0}))
