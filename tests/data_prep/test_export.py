"""Exports from end to end: what a dataset holds, what is left out and why, and what a stop at any moment costs."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import soundfile

from autosong_jax.audio import io
from autosong_jax.codecs.codec import load_codec
from autosong_jax.data.dataset import SongDataset
from autosong_jax.errors import UserError
from autosong_jax.sources.chroma.pitch_classes import strongest_pitch_class
from autosong_jax.sources.spec import record_specs
from autosong_jax.sources.text.encoders import get_text_encoder
from data_prep import codecs, pipeline, report, tasks, texts
from data_prep.pipeline import Options, export
from data_prep.records import encode
from data_prep.songs import Song
from data_prep.workers import Workers
from tests.data_prep.stops import Stop, stopped_before_and_after_each_step

ROOT = Path(__file__).resolve().parents[2]
SONGS = 7


def make_tone(seconds=1.0, rate=16000, channels=1, pitch=440.0):
    samples = np.arange(round(seconds * rate))
    noise = 0.01 * np.random.default_rng(int(pitch)).standard_normal((len(samples), channels))
    return (0.3 * np.sin(2 * np.pi * pitch * samples / rate)[:, None] + noise).astype(np.float32)


def make_song(root, name, audio=None, rate=16000, suffix="wav", lyrics="[verse]\nla la\n", **options):
    folder = root / name
    folder.mkdir(parents=True)
    (folder / "lyrics.txt").write_text(lyrics)
    if audio is not None:
        soundfile.write(folder / f"audio.{suffix}", audio, rate, **options)
    return folder


@pytest.fixture(scope="module")
def songs(tmp_path_factory):
    root = tmp_path_factory.mktemp("some") / "songs"
    for i in range(SONGS):
        folder = make_song(root, f"song {i}", make_tone(1 + i / 10, pitch=200 + 50 * i), lyrics=f"[verse]\nla {i}\nño")
        (folder / "genre.txt").write_text("pop" if i % 2 else "rock")
    return root


@pytest.fixture
def one_thread():
    """As in the workers: codes of toys, where entries of a codebook are equal, may hang on how sums are rounded."""
    with pytest.importorskip("threadpoolctl").threadpool_limits(1):
        yield


@pytest.fixture(scope="module")
def exported(songs, tmp_path_factory, environment_without):
    """A dataset as the command makes it by default, without PyTorch and JAX, and what the command printed."""
    target = tmp_path_factory.mktemp("exported") / "data set"
    environment = environment_without("torch", "transformers", "jax")
    process = subprocess.run(command(songs, target), env=environment, cwd=ROOT, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    return target, process.stdout


def command(songs, target, *flags):
    return [sys.executable, "-m", "data_prep.export", f"--input={songs}", f"--output={target}", "--workers=2", *flags]


def contents(directory):
    """All files under a directory and what they hold, but for the reader's caches."""
    return {str(path.relative_to(directory)): path.read_bytes() for path in sorted(directory.rglob("*"))
            if path.is_file() and not path.name.endswith(".offsets.npy")}


def records(target):
    found = {}
    for split in (split for split, held in report_of(target)["splits"].items() if held["songs"]):
        dataset = SongDataset(target, split)
        found |= {dataset[i]["id"]: dataset[i] | {"split": split} for i in range(len(dataset))}
    assert len(found) == len(report_of(target)["songs"])
    return found


def report_of(target):
    return json.loads((target / report.FILE).read_text())


def test_records(songs, exported, one_thread):
    target, _ = exported
    found = records(target)
    assert found.keys() == {f"song {i}" for i in range(SONGS)}
    codec, encoder = load_codec(target / "codec"), get_text_encoder("bytes")
    for name, record in found.items():
        audio = io.read(songs / name / "audio.wav", codec.sample_rate, 1)[0]
        np.testing.assert_array_equal(record["frames"], codec.encode(audio))
        assert record["frame_rate"] == codec.frame_rate and record["group"] == name
        assert record["lyrics"] == f"[verse]\nla {name[-1]}\nño" and record["genre"] in ("pop", "rock")
        assert record["text_encoder"] == "bytes" and record["description"] == ""
        lyrics = encoder.encode_lyrics(record["lyrics"])
        np.testing.assert_array_equal(record["text_ids"], lyrics.ids)
        np.testing.assert_array_equal(record["section_ids"], lyrics.sections)
        np.testing.assert_array_equal(record["line_ids"], lyrics.lines)
        np.testing.assert_array_equal(record["genre_ids"], encoder.encode(record["genre"]))
    assert not (target / ".partial").exists()


def test_chroma_of_songs(songs, exported, tmp_path):
    target = tmp_path / "with chroma"
    export(Options(str(songs), str(target), sources=("text", "chroma"), workers=2))
    found = records(target)
    sample_rate, without = load_codec(target / "codec").sample_rate, records(exported[0])
    for name, record in found.items():
        chroma = record.pop("chroma")
        audio = io.read(songs / name / "audio.wav", sample_rate, 1)[0]
        assert chroma.dtype == np.uint8
        np.testing.assert_array_equal(chroma, strongest_pitch_class(audio, sample_rate))
        np.testing.assert_equal(record, without[name])
    with pytest.raises(UserError, match="--sources=chroma: expected text and what else is wanted of text,chroma"):
        Options(str(songs), str(target), sources=("chroma",))


@pytest.fixture(scope="module")
def songs_with_backing(songs, tmp_path_factory):
    """Those songs, with backings as users have them; song i lasts 1 + i / 10 s."""
    root = tmp_path_factory.mktemp("with") / "songs"
    shutil.copytree(songs, root)
    backings = {0: (make_tone(1.0, pitch=700), 16000), 1: (make_tone(1.15, 44100, 2, 710), 44100),
                2: (make_tone(0.9, pitch=720), 16000), **{i: (np.zeros((16000 + 1600 * i, 1)), 16000) for i in (3, 4)}}
    for i, (audio, rate) in backings.items():
        soundfile.write(root / f"song {i}" / "backing.wav", audio, rate)
    (root / "song 5" / "backing.wav").write_bytes(b"RIFF nonsense" * 100)
    return root


@pytest.fixture
def with_backing(songs_with_backing, tmp_path):
    return Options(str(songs_with_backing), str(tmp_path / "with backing"), sources=("text", "backing"), workers=2)


def test_a_backing_is_coded_frame_for_frame_beside_its_song(songs_with_backing, with_backing, one_thread):
    finished, _ = export(with_backing)
    target = Path(with_backing.output)
    codec, found = load_codec(target / "codec"), records(target)
    for name, record in found.items():
        audio, backing = (io.read(songs_with_backing / name / f"{file}.wav", codec.sample_rate, 1)[0]
                          for file in ("audio", "backing"))
        beside = np.zeros_like(audio)
        length = min(audio.shape[1], backing.shape[1])
        beside[:, :length] = backing[:, :length]
        np.testing.assert_array_equal(record["frames"], codec.encode(audio))
        np.testing.assert_array_equal(record["backing_codes"], codec.encode(beside))
        assert record["backing_codes"].shape == record["frames"].shape
    notes = {name: song["notes"] for name, song in finished["songs"].items()}
    assert notes == {"song 0": [], "song 1": [], **{f"song {i}": ["its backing is silent"] for i in (3, 4)},
                     "song 2": ["its backing lasts 0.90 s, the song 1.20 s: it is followed by silence"]}
    left_out = {song["song"]: song["reason"] for song in finished["left_out"]}
    assert left_out.keys() == {"song 5", "song 6"}
    assert left_out["song 5"].startswith("its backing: audio cannot be read")
    assert left_out["song 6"] == "no backing file (backing.wav, .flac, .ogg or .mp3), which --sources asks for"
    assert "configs/accompaniment.py" in report.summary(finished, "data", None)


def test_nobody_who_does_not_ask_for_backings_gets_another_dataset(songs_with_backing, exported, tmp_path):
    export(Options(str(songs_with_backing), str(tmp_path / "data"), workers=2))
    assert contents(tmp_path / "data") == contents(exported[0])


def test_backings_in_a_manifest_coded_by_the_main_process_and_stopped_halfway(
        songs_with_backing, with_backing, tmp_path, monkeypatch, one_thread):
    """The same bytes as from a folder; of two starts, the second does again what has changed."""
    monkeypatch.setattr(pipeline, "Workers", InProcess)
    manifest, lines = tmp_path / "songs.jsonl", []
    for i in range(SONGS):
        folder = songs_with_backing / f"song {i}"
        files = {name: str(folder / f"{name}.wav") for name in ("audio", "backing") if i < 6 or name == "audio"}
        texts_of = {"lyrics": f"[verse]\nla {i}\nño", "genre": "pop" if i % 2 else "rock"}
        lines.append({"id": folder.name, **texts_of, **files})
    manifest.write_text("\n".join(map(json.dumps, lines)))
    other = dataclasses.replace(with_backing, input=str(manifest), output=str(tmp_path / "other"))
    export(with_backing)
    monkeypatch.setattr(codecs._FittedMelRVQ, "in_workers", False)
    with monkeypatch.context() as patch:
        patch.setattr(pipeline.output, "write", lambda *_: (_ for _ in ()).throw(Stop))
        with pytest.raises(Stop):
            export(other)
    finished, speed = export(other)
    assert (speed.songs, speed.earlier) == (0, 5)
    assert "in the manifest, the line has no backing" in str(finished["left_out"])
    folder = report_of(Path(with_backing.output))
    assert folder["splits"] == finished["splits"] and folder["codec"] == finished["codec"]
    a, b = records(Path(with_backing.output)), records(tmp_path / "other")
    np.testing.assert_equal(a, b)
    backing = songs_with_backing / "song 0" / "backing.wav"
    before = backing.read_bytes()
    soundfile.write(backing, make_tone(1.0, pitch=900), 16000)
    with pytest.raises(UserError, match="--overwrite"):
        export(with_backing)
    backing.write_bytes(before)


def test_the_same_backing_keeps_songs_in_one_split(tmp_path):
    for i in range(8):
        folder = make_song(tmp_path / "songs", f"s{i}", make_tone(0.6, pitch=200 + 10 * i))
        soundfile.write(folder / "backing.wav", make_tone(0.6, pitch=500 + 10 * (i // 4)), 16000)
    export(Options(str(tmp_path / "songs"), str(tmp_path / "data"), sources=("text", "backing"),
                   validation_fraction=0.4))
    songs = report_of(tmp_path / "data")["songs"]
    assert [len({songs[f"s{i}"]["split"] for i in half}) for half in (range(4), range(4, 8))] == [1, 1]
    assert songs["s0"]["split"] != songs["s4"]["split"]
    assert songs["s1"]["notes"] == ["the same backing as s0, so kept in the same split"]


def test_report_and_summary(exported):
    target, printed = exported
    written = report_of(target)
    assert {name: song["split"] for name, song in written["songs"].items()} == {
        name: record["split"] for name, record in records(target).items()}
    assert sum(split["songs"] for split in written["splits"].values()) == SONGS
    assert written["splits"]["validation"]["songs"] == 1 and written["left_out"] == []
    seconds = sum(split["seconds"] for split in written["splits"].values())
    assert seconds == pytest.approx(sum(1 + i / 10 for i in range(SONGS)))
    assert 0 < written["codec"]["quality"]["round_trip_db"] < 40 and written["codec"]["quality"]["held_out"]
    assert "x real time" in printed and f"{SONGS} songs encoded" in printed
    assert printed.endswith(f"python -m autosong_jax.train --config=configs/xsmall.py '--config.data.path={target}' "
                            "--workdir=runs/mine\n")


def test_the_same_bytes_for_any_number_of_workers(songs, exported, tmp_path):
    export(Options(str(songs), str(tmp_path / "one"), workers=1))
    export(Options(str(songs), str(tmp_path / "three"), workers=3))
    assert contents(tmp_path / "one") == contents(tmp_path / "three") == contents(exported[0])


def test_the_codec_is_fitted_to_training_songs_alone(songs, exported, tmp_path):
    changed = tmp_path / "songs"
    shutil.copytree(songs, changed)
    held_out = [name for name, record in records(exported[0]).items() if record["split"] != "train"]
    for name in held_out:
        soundfile.write(changed / name / "audio.wav", make_tone(2, pitch=3000), 16000)
    export(Options(str(changed), str(tmp_path / "data")))
    assert contents(tmp_path / "data" / "codec") == contents(exported[0] / "codec")


def test_a_saved_codec_is_used_as_it_is(songs, exported, tmp_path):
    """As for songs that come later, which are to have codes of the same meaning."""
    later = tmp_path / "songs"
    shutil.copytree(songs / "song 1", later / "song 1")
    export(Options(str(later), str(tmp_path / "data"), codec=str(exported[0] / "codec"), validation_fraction=0.0))
    assert contents(tmp_path / "data" / "codec") == contents(exported[0] / "codec")
    one, other = (records(dataset)["song 1"]["frames"] for dataset in (tmp_path / "data", exported[0]))
    np.testing.assert_array_equal(one, other)


def test_groups_and_equal_audio_stay_in_one_split(tmp_path):
    for i in range(12):
        folder = make_song(tmp_path / "songs", f"s{i}", make_tone(0.6, pitch=200 + 10 * (i // 2)))
        (folder / "group.txt").write_text(f"album {i % 4}" if i < 8 else f"single {i}")
    export(Options(str(tmp_path / "songs"), str(tmp_path / "data"), validation_fraction=0.4, test_fraction=0.2))
    split_of = {name: song["split"] for name, song in report_of(tmp_path / "data")["songs"].items()}
    # Albums 0 and 1 share audio, as do albums 2 and 3, and the singles 8 and 9, 10 and 11.
    for same in ((0, 1, 4, 5), (2, 3, 6, 7), (8, 9), (10, 11)):
        assert len({split_of[f"s{i}"] for i in same}) == 1
    assert set(split_of.values()) == {"train", "validation", "test"}


def test_shards(songs, tmp_path):
    export(Options(str(songs), str(tmp_path), shards=4))
    assert len(list(tmp_path.glob("autosong-train.tfrecord-*-of-00004"))) == 4
    assert len(list(tmp_path.glob("autosong-validation.tfrecord-*"))) == 1  # one song
    assert len(records(tmp_path)) == SONGS


def test_nothing_to_do_the_second_time(songs, exported):
    target, _ = exported
    before = {path: path.stat().st_mtime_ns for path in target.rglob("*")}
    finished, speed = export(Options(str(songs), str(target)))
    assert speed is None and finished == report_of(target)
    assert {path: path.stat().st_mtime_ns for path in target.rglob("*")} == before
    assert "nothing to do" in report.summary(finished, str(target), speed)


def test_other_songs_or_options_need_overwrite(songs, exported, tmp_path):
    target, changed = tmp_path / "data", tmp_path / "songs"
    shutil.copytree(exported[0], target)
    shutil.copytree(songs, changed)
    with pytest.raises(UserError, match="--overwrite"):
        export(Options(str(songs), str(target), shards=2))
    (changed / "song 1" / "lyrics.txt").write_text("other words")
    with pytest.raises(UserError, match="--overwrite"):
        export(Options(str(changed), str(target)))
    assert contents(target) == contents(exported[0])
    export(Options(str(changed), str(target), shards=2, overwrite=True))
    assert records(target)["song 1"]["lyrics"] == "other words"
    assert not list(target.glob("*-of-00001")) or len(list(target.glob("autosong-train*"))) == 2


def test_killed_and_started_again(songs, exported, tmp_path):
    """SIGKILL while it checks, encodes, and once more: the same bytes, and nothing is encoded twice."""
    target = tmp_path / "data set"
    ready = {}
    for kind, count in (("checks", 2), ("records", 1), ("records", 3)):
        with subprocess.Popen(command(songs, target), cwd=ROOT, stdout=subprocess.PIPE) as process:
            while len(list((target / ".partial").glob(f"{kind}/*"))) < count and process.poll() is None:
                time.sleep(0.001)
            process.send_signal(signal.SIGKILL)
            process.stdout.read()  # ends with its workers, which finish the song that they are at
        kept = {path: path.stat().st_mtime_ns for path in (target / ".partial").glob("records/*")
                if path.suffix != ".unfinished"}
        assert kept.items() >= ready.items()
        ready = kept
    process = subprocess.run(command(songs, target), cwd=ROOT, capture_output=True, text=True, check=True)
    assert f"{len(ready)} songs had been encoded before" in process.stdout
    assert contents(target) == contents(exported[0])


class InProcess(Workers):
    """Workers without processes, so that hundreds of starts take seconds."""

    def __init__(self, count):
        pass

    def __exit__(self, *_):
        pass

    def map(self, function, items):
        return ((item, function(item)) for item in items)


def test_stopped_before_and_after_each_step(songs, exported, tmp_path, monkeypatch, one_thread):
    monkeypatch.setattr(pipeline, "Workers", InProcess)
    encoded = []
    encode = tasks.encode
    monkeypatch.setattr(tasks, "encode", lambda file, codec_directory: encoded.append(file.song) or encode(
        file, codec_directory))
    target = tmp_path / "data"

    def start():
        kept = len([path for path in target.glob(".partial/records/*") if path.suffix != ".unfinished"])
        encoded.clear()
        try:
            export(Options(str(songs), str(target)))
        finally:
            assert len(encoded) <= SONGS - kept

    assert stopped_before_and_after_each_step(start) > 20
    assert contents(target) == contents(exported[0])


def test_a_song_that_changes_between_two_starts_is_done_again(songs, tmp_path, monkeypatch):
    changed = tmp_path / "songs"
    shutil.copytree(songs, changed)
    options = Options(str(changed), str(tmp_path / "data"))
    monkeypatch.setattr(pipeline, "Workers", InProcess)
    with monkeypatch.context() as patch:
        patch.setattr(pipeline.output, "write", lambda *_: (_ for _ in ()).throw(Stop))
        with pytest.raises(Stop):
            export(options)
    (changed / "song 3" / "lyrics.txt").write_text("new words")
    _, speed = export(options)
    assert (speed.songs, speed.earlier) == (1, SONGS - 1)
    assert records(tmp_path / "data")["song 3"]["lyrics"] == "new words"


@pytest.fixture
def bad_songs(tmp_path):
    root = tmp_path / "songs"
    for i in range(3):
        make_song(root, f"good {i}", make_tone(pitch=300 + i))
    make_song(root, "ogg", make_tone(1, 44100, 2), 44100, "ogg")
    make_song(root, "mp3", make_tone(1, 48000, 2), 48000, "mp3")
    make_song(root, "phone", make_tone(1, 8000), 8000)
    make_song(root, "surround", make_tone(1, 48000, 6), 48000)
    make_song(root, "tags", make_tone(), lyrics="[zzz]\nla")
    with_nan = make_tone()
    with_nan[5000] = np.nan
    make_song(root, "nan", with_nan, subtype="FLOAT")
    make_song(root, "silent", np.zeros((16000, 1)))
    make_song(root, "no samples", np.zeros((0, 1)))
    make_song(root, "short", make_tone(0.1))
    make_song(root, "long", make_tone(62, 8000), 8000, "flac")
    (make_song(root, "corrupt") / "audio.wav").write_bytes(b"RIFF nonsense" * 100)
    (make_song(root, "empty") / "audio.wav").write_bytes(b"")
    whole = (root / "good 1" / "audio.wav").read_bytes()
    (make_song(root, "cut") / "audio.wav").write_bytes(whole[:len(whole) // 2])
    return root


def test_bad_input_never_stops_the_rest(bad_songs, tmp_path):
    finished, speed = export(Options(str(bad_songs), str(tmp_path / "data"), max_minutes=1.0))
    left_out = {song["song"]: song["reason"] for song in finished["left_out"]}
    expected = {"nan": "NaN", "silent": "silent", "no samples": "no samples", "short": "0.10 s long",
                "long": "--max_minutes=1", "corrupt": "cannot be read", "empty": "cannot be read", "cut": "ends early"}
    assert left_out.keys() == expected.keys()
    assert all(part in left_out[name] for name, part in expected.items())
    notes = {name: " ".join(song["notes"]) for name, song in finished["songs"].items() if song["notes"]}
    assert notes.keys() == {"phone", "surround", "tags"}
    assert "8000 Hz" in notes["phone"] and "6 channels" in notes["surround"] and "[zzz]" in notes["tags"]
    assert records(tmp_path / "data").keys() == finished["songs"].keys()
    summary = report.summary(finished, str(tmp_path / "data"), speed)
    assert "left out  8:" in summary and "  corrupt: audio cannot be read" in summary and "report.json" in summary


def test_strict(bad_songs, tmp_path):
    strict = command(bad_songs, tmp_path / "data", "--strict")
    process = subprocess.run(strict, cwd=ROOT, capture_output=True, text=True)
    assert process.returncode == 2
    [line] = [line for line in process.stderr.splitlines() if line.startswith("error: ")]
    assert "--strict" in line and "corrupt: " in line and "Traceback" not in process.stderr
    assert len(report_of(tmp_path / "data")["left_out"]) == 7
    assert not (tmp_path / "data" / "dataset_info.json").exists()


def test_nothing_usable(tmp_path):
    (tmp_path / "songs").mkdir()
    with pytest.raises(UserError, match="none can be used: it holds none"):
        export(Options(str(tmp_path / "songs"), str(tmp_path / "data")))
    make_song(tmp_path / "songs", "silent", np.zeros((16000, 1)))
    with pytest.raises(UserError, match="none can be used: silent: audio is silent"):
        export(Options(str(tmp_path / "songs"), str(tmp_path / "data")))
    make_song(tmp_path / "songs", "good", make_tone())
    export(Options(str(tmp_path / "songs"), str(tmp_path / "data")))
    assert records(tmp_path / "data").keys() == {"good"}


def test_outputs_that_are_refused(songs, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("important")
    (tmp_path / "file").write_text("important")
    for target, why in ((tmp_path / "full", "other files"), (tmp_path / "file", "is a file"), (songs / "x", "within")):
        with pytest.raises(UserError, match=why):
            export(Options(str(songs), str(target), overwrite=True))


def test_outputs_that_cannot_be_made(songs, tmp_path):
    """Found before any work, and nothing of somebody else's is touched."""
    (tmp_path / "theirs" / "codec").mkdir(parents=True)
    (tmp_path / "theirs" / "codec" / "a.py").write_text("important")
    (tmp_path / "theirs" / "report.json").write_text('{"title": "of another kind"}')
    (tmp_path / "theirs" / "dataset_info.json").write_text('{"name": "mnist"}')
    (tmp_path / "loop").symlink_to("loop")
    before = contents(tmp_path)
    for target, why in ((tmp_path / "theirs", "other files"), (tmp_path / "theirs" / "report.json" / "x", "lies below"),
                        (tmp_path / ("x" * 300), "longer than"), (tmp_path / "x" / ("x" * 300), "longer than"),
                        (tmp_path / "loop", "no directory"), (tmp_path / "loop" / "x", "lies below"),
                        (songs.parent, "lies within"), (songs, "lies within"), ("/dev/null", "no directory")):
        with pytest.raises(UserError, match=why):
            export(Options(str(songs), str(target), overwrite=True))
    assert contents(tmp_path) == before


@pytest.mark.parametrize(("option", "value"), [
    ("bandwidth", float("nan")), ("bandwidth", -1.0), ("max_minutes", float("nan")), ("max_minutes", float("inf")),
    ("max_minutes", 1e12), ("validation_fraction", float("nan")), ("test_fraction", float("nan")),
    ("test_fraction", -0.1), ("shards", 10**9), ("shards", 0), ("workers", 10**6), ("workers", 0),
    ("beam_options", ("--a=b",))])
def test_options_out_of_range(option, value):
    with pytest.raises(UserError, match=f"--{option}"):
        Options("songs", "data", **{option: value})


def test_a_damaged_report_is_as_good_as_none(songs, exported, tmp_path):
    shutil.copytree(exported[0], tmp_path / "data")
    whole = report_of(tmp_path / "data")
    for damaged in ("[" * 100_000, "[]", json.dumps(whole | {"codec": 5}), json.dumps(whole | {"songs": {"a": 5}})):
        (tmp_path / "data" / "report.json").write_text(damaged)
        with pytest.raises(UserError, match="--overwrite"):
            export(Options(str(songs), str(tmp_path / "data")))


def test_a_damaged_work_directory(songs, tmp_path, monkeypatch):
    monkeypatch.setattr(pipeline, "Workers", InProcess)
    with monkeypatch.context() as patch:
        patch.setattr(pipeline.output, "write", lambda *_: (_ for _ in ()).throw(Stop))
        with pytest.raises(Stop):
            export(Options(str(songs), str(tmp_path)))
    for kind, damaged in (("notes", "{}"), ("checks", ""), ("checks", '{"seconds": "1"}')):
        path = next((tmp_path / ".partial" / kind).iterdir())
        before = path.read_bytes()
        path.write_text(damaged)
        with pytest.raises(UserError, match=r"delete .*\.partial"):
            export(Options(str(songs), str(tmp_path)))
        path.write_bytes(before)


def test_names_cannot_steer_a_terminal(tmp_path):
    """Neither that of the command nor one that shows the report, from which the names come back as they are."""
    name = "song \x1b[2J\x9b31m \u202e 爱"
    make_song(tmp_path / "songs", name, make_tone(), lyrics="[\x1b[31mzzz]\nla")
    make_song(tmp_path / "songs", f"bad {name}", np.zeros((16000, 1)))
    process = subprocess.run(command(tmp_path / "songs", tmp_path / "data"), cwd=ROOT, capture_output=True, text=True)
    assert process.returncode == 0 and "song \\x1b[2J\\x9b31m \\u202e 爱" in process.stdout
    for text in (process.stdout, process.stderr, (tmp_path / "data" / "report.json").read_text()):
        assert not set(text) & set("\x1b\x9b\u202e")
    assert "爱" in (tmp_path / "data" / "report.json").read_text()
    assert report_of(tmp_path / "data")["songs"].keys() == {name}
    assert report_of(tmp_path / "data")["left_out"][0]["song"] == f"bad {name}"


def test_audio_without_end(tmp_path):
    """What would wait for ever, or become days of sound, is left out before it is read."""
    os.mkfifo(make_song(tmp_path / "songs", "pipe") / "audio.wav")
    (make_song(tmp_path / "songs", "device") / "audio.wav").symlink_to("/dev/zero")
    make_song(tmp_path / "songs", "slow", make_tone(1, 16000), 1)
    make_song(tmp_path / "songs", "slower", make_tone(1, 100), 7)
    with open(make_song(tmp_path / "songs", "hole") / "audio.wav", "wb") as file:
        file.truncate(2**40)
    header = bytearray((make_song(tmp_path / "songs", "hours", make_tone(), suffix="flac") / "audio.flac").read_bytes())
    header[8 + 13] |= 0x0f  # the number of samples, 36 bits of it
    header[8 + 14:8 + 18] = b"\xff" * 4
    (tmp_path / "songs" / "hours" / "audio.flac").write_bytes(header)
    make_song(tmp_path / "songs", "good", make_tone())
    finished, _ = export(Options(str(tmp_path / "songs"), str(tmp_path / "data"), codec="melrvq:codebook_size=8"))
    found = {song["song"]: song["reason"] for song in finished["left_out"]}
    assert finished["songs"].keys() == {"good"}
    assert found.keys() == {"pipe", "device", "slow", "slower", "hole", "hours"}
    assert "is a pipe" in found["pipe"] and "link out of" in found["device"] and "1 Hz" in found["slow"]
    assert "bytes, more than" in found["hole"] and "minutes long" in found["hours"]


def test_texts_with_thousands_of_strange_tags():
    lyrics = "\n".join(f"[q{chr(97 + i % 26)}{chr(97 + i // 26)} {'z' * 1000}]" for i in range(600))
    encoder, song = get_text_encoder("bytes"), Song("a", Path("a"), "a", lyrics)
    _, notes = encode(record_specs(encoder.info, codec=None), encoder, song, audio=None, recordings={})
    assert len(notes) == 11 and notes[-1] == "... and 590 more of the kind" and max(map(len, notes)) <= 300


def test_a_song_that_is_too_much_for_the_codec(songs, tmp_path, monkeypatch):
    def encode(self, audio):
        raise (MemoryError if audio.shape[1] > 24000 else RuntimeError)("not enough memory: you tried\nto allocate")

    monkeypatch.setattr(pipeline, "Workers", InProcess)
    tasks.codec.cache_clear()
    monkeypatch.setattr("autosong_jax.codecs.melrvq.codec.MelRVQ.encode", encode)
    with pytest.raises(UserError, match=r"none can be used: song 0: cannot be encoded: not enough memory"):
        export(Options(str(songs), str(tmp_path / "data")))
    reasons = {song["reason"] for song in report_of(tmp_path / "data")["left_out"]}
    assert reasons == {"cannot be encoded: not enough memory: you tried", "there is not enough memory for it"}


def test_settings_of_the_codec(songs, tmp_path):
    finished, _ = export(Options(str(songs), str(tmp_path), codec="melrvq:codebook_size=16,hop=1280"))
    assert finished["codec"]["codebook_size"] == 16 and finished["codec"]["frame_rate"] == 12.5
    assert all(record["frames"].max() < 16 for record in records(tmp_path).values())
    for codec in ("melrvq:size=16", "melrvq:hop=long", "melrvq:hop"):
        with pytest.raises(UserError, match="SETTING=NUMBER"):
            export(Options(str(songs), str(tmp_path / "data"), codec=codec))


@pytest.mark.parametrize("name", ["mel:sample_rate=16000,hop=64,n_mels=20", "pcm:sample_rate=16000,hop=64"])
def test_codecs_of_settings_alone(songs, tmp_path, name, one_thread):
    """In several workers or in one, by name or by the directory of one: the records hold what it makes of songs."""
    kind, target = name.partition(":")[0], tmp_path / "data"
    options = Options(str(songs), str(target), codec=name, workers=2)
    finished, speed = export(options)
    assert finished["codec"]["name"] == kind and finished["codec"]["frame_rate"] == 250
    assert 0 <= finished["codec"]["quality"]["round_trip_db"] < (10 if kind == "mel" else 0.01)
    words = report.summary(finished, str(target), speed)
    assert f"{kind}: 16000 Hz mono, 250 frames/s of {20 if kind == 'mel' else 64} values" in words
    assert f"--config=configs/{'autosong_autoencoder' if kind == 'mel' else 'vocoder'}.py" in words
    codec = load_codec(target / "codec")
    for song, record in records(target).items():
        expected = codec.encode(io.read(songs / song / "audio.wav", 16000, 1)[0])
        assert record["frames"].dtype == expected.dtype == codec.info.frames.dtype
        np.testing.assert_array_equal(record["frames"], expected)
    assert export(options)[1] is None
    saved = dataclasses.replace(options, output=str(tmp_path / "saved"), codec=str(target / "codec"), workers=1)
    export(saved)
    found = contents(tmp_path / "saved")
    assert {path: data for path, data in found.items() if path != report.FILE} == {
        path: data for path, data in contents(target).items() if path != report.FILE}


def test_fractions_must_leave_songs_to_train_on():
    with pytest.raises(UserError, match="leave songs to train on"):
        Options("songs", "data", validation_fraction=0.5, test_fraction=0.5)


def test_two_exports_at_once(songs, tmp_path):
    work = pipeline.WorkDirectory(tmp_path / "data")
    with pytest.raises(UserError, match="another export"):
        export(Options(str(songs), str(tmp_path / "data")))
    work.remove()


def test_pretrained_codec_and_text_encoder(songs, tmp_path, monkeypatch):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = transformers.EncodecModel(transformers.EncodecConfig(
        num_filters=2, hidden_size=8, codebook_size=16, upsampling_ratios=[8, 5, 4], sampling_rate=16000,
        target_bandwidths=[0.8])).eval()
    for layer in model.quantizer.layers:
        layer.codebook.embed.normal_(std=0.1)
    model.save_pretrained(tmp_path / "encodec")
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁la", -1.0), ("▁", -2.0)]
    transformers.T5Tokenizer(vocab=pieces, extra_ids=0).save_pretrained(tmp_path / "t5")
    transformers.T5EncoderModel(transformers.T5Config(
        vocab_size=8, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2)).save_pretrained(tmp_path / "t5")

    target = tmp_path / "data"
    options = Options(str(songs), str(target), codec=str(tmp_path / "encodec"), text_encoder=f"t5:{tmp_path / 't5'}")
    finished, _ = export(options)
    assert finished["codec"]["name"] == "encodec" and finished["codec"]["num_codebooks"] == 2
    assert (target / "codec" / "model.safetensors").exists()
    for name, record in records(target).items():
        audio = io.read(songs / name / "audio.wav")[0]
        with torch.inference_mode():
            codes = model.encode(torch.from_numpy(audio)[None], bandwidth=0.8).audio_codes[0, 0].T.numpy()
        np.testing.assert_array_equal(record["frames"], codes)
        assert record["text_states"].dtype == ml_dtypes.bfloat16 and record["text_states"].shape[1] == 8
        assert record["description_states"].shape == (0, 8)
    assert export(options)[1] is None
    monkeypatch.setattr(pipeline, "Workers", InProcess)
    for codec_in_workers, text_in_workers in ((False, False), (False, True), (True, False)):  # as where there is a GPU
        monkeypatch.setattr(codecs._Pretrained, "in_workers", codec_in_workers)
        monkeypatch.setattr(texts, "in_workers", lambda _, answer=text_in_workers: answer)
        other = tmp_path / f"{codec_in_workers} {text_in_workers}"
        export(dataclasses.replace(options, output=str(other)))
        assert contents(other) == contents(target)


def test_beam_that_is_not_installed(songs, tmp_path, environment_without):
    process = subprocess.run(command(songs, tmp_path / "data", "--runner=beam"), env=environment_without("apache_beam"),
                             cwd=ROOT, capture_output=True, text=True)
    assert process.returncode == 2 and process.stderr.count("\n") == 1
    assert "pip install 'autosong_jax[beam]'" in process.stderr


def test_flags_and_options_have_the_same_defaults():
    program = ("import sys; from absl import flags; from data_prep import export, pipeline, report\n"
               "pipeline.export = lambda options: (print(options), None)\n"
               "report.summary = lambda *_: ''\n"
               "export.define_flags(); flags.FLAGS(sys.argv); export.main()")
    process = subprocess.run([sys.executable, "-c", program, "--input=a", "--output=b", "--workers=1"], cwd=ROOT,
                             capture_output=True, text=True)
    assert process.stdout.strip() == str(Options("a", "b")), process.stderr
