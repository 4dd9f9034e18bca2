"""From recordings to songs: what comes out, what is left out, and what a stop at any moment costs."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from autosong_jax.audio import io
from autosong_jax.audio.loudness import Meter
from autosong_jax.errors import UserError
from data_prep import splits
from data_prep.songs import find_songs
from data_prep.stems import report, stages
from data_prep.stems.pipeline import make_songs
from data_prep.stems.tracks import Track
from tests.data_prep.stops import stopped_before_and_after_each_step

pytestmark = pytest.mark.usefixtures("one_thread")

ROOT = Path(__file__).resolve().parents[3]
STEMS = {"vocals": 440.0, "drums": 100.0, "bass": 60.0, "other": 700.0}


@pytest.fixture(scope="module")
def band(tmp_path_factory, write_sound):
    """A folder with two recordings of given stems, whose names are near; the lead of the second pauses."""
    root = tmp_path_factory.mktemp("some") / "band"
    for name, seconds in (("a b", 2.0), ("a_b", 3.0)):
        for stem, pitch in STEMS.items():
            write_sound(root / name / f"{stem}.wav", seconds, pitch + (name == "a_b"))
    for stem in ("vocals", "other"):
        audio, rate = soundfile.read(root / "a_b" / f"{stem}.wav")
        audio[rate:2 * rate] = 0
        soundfile.write(root / "a_b" / f"{stem}.wav", audio, rate)
    (root / "a b" / "lyrics.txt").write_text("la la")
    (root / "a_b" / "lyrics.txt").write_text("lo lo")
    (root / "a b" / "genre.txt").write_text("pop")
    (root / "a_b" / "description.txt").write_text("a duo")
    write_sound(root / "a_b" / "mixture.wav", 3.0)  # their sum is no stem
    return root


@pytest.fixture(scope="module")
def mixes(tmp_path_factory, write_sound):
    root = tmp_path_factory.mktemp("some") / "mixes"
    write_sound(root / "one.wav", 2.2, 300.0)
    write_sound(root / "album" / "two.flac", 1.2, 400.0)
    (root / "album" / "lyrics.txt").write_text("la la")
    return root


def contents(directory):
    return {str(path.relative_to(directory)): path.read_bytes() for path in sorted(directory.rglob("*"))
            if path.is_file()}


def songs_of(target):
    """What is in each folder: lead and backing float32 [channels, samples], the group, and other texts."""
    found = {}
    for folder in sorted(path for path in target.iterdir() if path.is_dir() and not path.name.startswith(".")):
        (lead, rate), (backing, backing_rate) = (io.read(folder / f"{name}.flac") for name in ("audio", "backing"))
        assert lead.shape == backing.shape and rate == backing_rate == 8000
        texts = {path.stem: path.read_text().strip() for path in folder.glob("*.txt")}
        found[folder.name] = {"lead": lead, "backing": backing, **texts}
    return found


def test_given_stems(band, small, tmp_path, in_process):
    target = tmp_path / "songs"
    finished, new = make_songs(small(band, target, rms_threshold=0.02, rms_stride=0.1))
    assert [entry.name for entry in finished.recordings] == ["a b", "a_b"] and new.recordings == 2
    songs = songs_of(target)
    # One clip of the first, two of the second, each with four copies.
    assert [len(entry.windows) for entry in finished.recordings] == [1, 2] and len(songs) == 5 * 3
    assert sorted(song for entry in finished.recordings for song in entry.songs) == sorted(songs)
    first, second = finished.recordings
    clip = songs[first.songs[0]]
    assert clip["lyrics"] == "la la" and clip["genre"] == "pop" and clip["lead"].shape == (1, 16_000)
    assert first.windows == [[0.0, 2.0]]
    for name in second.songs:
        assert "lyrics" not in songs[name] and songs[name]["description"] == "a duo"
    (start, end), (again, until) = second.windows
    assert start == 0 and abs(end - 1) < 0.26 and abs(again - 2) < 0.26 and until == 3
    lengths = {name[len(first.songs[0]):]: song["lead"].shape[1] for name, song in songs.items()
               if name.startswith(first.songs[0])}
    assert lengths == {"": 16_000, "-pitch-2": 16_000, "-pitch+2": 16_000, "-tempo0.9": 17_778, "-tempo1.1": 14_545}
    assert not (target / ".partial").exists()


def test_lead_and_backing_are_the_sums_of_their_stems_at_one_gain(band, small, tmp_path, in_process):
    target = tmp_path / "songs"
    finished, _ = make_songs(small(band / "a b", target, pitch=(), tempo=(), sample_rate=16_000, channels=2))
    [folder] = [path for path in target.iterdir() if path.is_dir()]
    stems = {name: io.read(band / "a b" / f"{name}.wav")[0] for name in STEMS}
    lead, backing = (io.read(folder / f"{name}.flac")[0] for name in ("audio", "backing"))
    wanted_lead, wanted_backing = stems["vocals"] + stems["other"], stems["drums"] + stems["bass"]
    inside = slice(500, -500)  # where resampling has no edge; it takes away noise above 7 kHz
    gain = np.vdot(lead, wanted_lead) / np.vdot(wanted_lead, wanted_lead)
    for made, wanted in ((lead, wanted_lead), (backing, wanted_backing)):
        np.testing.assert_allclose(made[:, inside], gain * wanted[:, inside], atol=0.05)
        assert np.corrcoef(made[0], wanted[0])[0, 1] > 0.998
    meter = Meter(16_000, 2)
    meter.add(lead + backing)
    assert meter.loudness() == pytest.approx(-14, abs=0.1)
    assert finished.recordings[0].notes == [] and max(np.abs(lead).max(), np.abs(backing).max()) < 10 ** (-1 / 20)


def test_what_would_clip_is_brought_to_less(small, tmp_path, write_sound, in_process):
    for stem, pitch in STEMS.items():
        path = write_sound(tmp_path / "peaks" / f"{stem}.wav", 2.0, pitch)
        audio, rate = soundfile.read(path)
        audio *= 0.01
        audio[8000:8100] = 0.24  # all together, and a loudness of much less
        soundfile.write(path, audio, rate)
    finished, _ = make_songs(small(tmp_path / "peaks", tmp_path / "songs"))
    assert len(finished.recordings[0].notes) == 1 and "--peak=-1" in finished.recordings[0].notes[0]
    for song in songs_of(tmp_path / "songs").values():
        assert max(np.abs(song["lead"]).max(), np.abs(song["backing"]).max()) < 1
    clip = songs_of(tmp_path / "songs")[finished.recordings[0].songs[0]]
    assert np.abs(clip["lead"] + clip["backing"]).max() == pytest.approx(10 ** (-1 / 20), abs=1e-3)


def test_clips_are_cut_from_one_resampling(band, small, tmp_path, in_process):
    """Two clips that touch, put together, are the one clip of a window that was not cut."""
    made = {}
    for name, most in (("whole", 300.0), ("parts", 1.1)):
        finished, _ = make_songs(small(band / "a b", tmp_path / name, max_seconds=most, pitch=(), tempo=()))
        songs = songs_of(tmp_path / name)
        made[name] = [np.concatenate([songs[song][track] for song in finished.recordings[0].songs], axis=1)
                      for track in ("lead", "backing")]
        assert len(songs) == (1 if name == "whole" else 2)
    np.testing.assert_array_equal(made["whole"], made["parts"])


@pytest.fixture(scope="module")
def separated(mixes, small, tmp_path_factory):
    """Songs of the mixes, taken apart by random weights, with all that was made on the way."""
    from data_prep.stems import pipeline
    from tests.data_prep.stems.conftest import InProcess

    pytest.importorskip("demucs")
    target = tmp_path_factory.mktemp("separated") / "songs"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "Workers", InProcess)
        finished, _ = make_songs(small(mixes, target, keep=True))
    return target, finished


def test_mixes_go_through_every_stage(separated):
    target, finished = separated
    counts = {kind: len(list((target / ".partial" / kind).iterdir()))
              for kind in ("separators", "loaded", "pieces", "mixed", "windows")}
    assert counts == {"separators": 1, "loaded": 2, "pieces": 2, "mixed": 2, "windows": 2}
    assert [entry.name for entry in finished.recordings] == ["album/two.flac", "one.wav"]
    songs = songs_of(target)
    assert len(songs) == 10 and finished.left_out == []
    assert all((song.get("lyrics") == "la la") == name.startswith("two") for name, song in songs.items())


@pytest.mark.parametrize("lead", [("vocals", "saxophone"), ("vocals", "other", "drums", "bass")])
def test_the_lead_must_be_some_of_the_separators_stems(lead, mixes, small, tmp_path, in_process):
    with pytest.raises(UserError, match=f"--lead={','.join(lead)}.*drums, bass, other, vocals; expected some"):
        make_songs(small(mixes, tmp_path / "songs", lead=lead))


def test_stems_are_those_of_demucs(separated, mixes):
    """Read from the pieces, and made by Demucs's own command for one recording."""
    torch = pytest.importorskip("torch")
    api = pytest.importorskip("demucs.api")
    target, _ = separated
    [mixed] = [path for path in (target / ".partial" / "mixed").iterdir()
               if Track(path / "track.f32", 2).samples == round(2.2 * 8000)]
    torch.manual_seed(0)
    separator = api.Separator("demucs_unittest", shifts=0, segment=1.0)
    audio = io.read(mixes / "one.wav", 44_100, 2)[0]
    _, stems = separator.separate_tensor(torch.from_numpy(audio))
    lead = (stems["vocals"] + stems["other"]).numpy().mean(0)
    made = Track(mixed / "track.f32", 2).read(0, 10**6)[0]
    import soxr

    expected = soxr.resample(lead, 44_100, 8000)
    made = made[:len(expected)]
    scale = np.vdot(made, expected) / np.vdot(expected, expected)
    np.testing.assert_allclose(made, scale * expected, atol=1e-4 * np.abs(made).max())


def test_groups_keep_recordings_in_one_split(band, separated, small, tmp_path, in_process):
    target = tmp_path / "songs"
    make_songs(small(band, target, rms_threshold=0.02, rms_stride=0.1))
    for place in separated[0].iterdir():
        if place.is_dir() and place.name != ".partial":
            shutil.copytree(place, target / place.name)
    songs, left_out = find_songs(target, require_lyrics=False)
    assert len(songs) == 25 and not left_out
    groups = splits.join_same_audio({song.id: song.group for song in songs}, {song.id: song.id for song in songs})
    recording = {song: re.split(r"-\d{3}", song)[0] for song in groups}
    assert len(set(recording.values())) == 4
    for fraction in np.linspace(0.05, 0.6, 12):
        split_of = splits.assign_splits(groups, fraction, 0.3)
        for one in set(recording.values()):
            assert len({split_of[song] for song in groups if recording[song] == one}) == 1
    assert len(set(groups.values())) == 4


def test_the_same_recording_twice(small, tmp_path, write_sound, in_process):
    for stem in ("vocals", "drums"):
        first = write_sound(tmp_path / "in" / "x" / f"{stem}.wav", 1.0, STEMS[stem])
        (tmp_path / "in" / "y").mkdir(exist_ok=True)
        shutil.copy(first, tmp_path / "in" / "y")
    finished, _ = make_songs(small(tmp_path / "in", tmp_path / "songs", pitch=(), tempo=()))
    assert len(finished.recordings) == 1
    assert [(one.recording, one.reason) for one in finished.left_out] == [("y", "the same audio as x")]


def test_stopped_before_and_after_each_step(band, mixes, small, tmp_path, monkeypatch, in_process):
    pytest.importorskip("demucs")
    source = tmp_path / "in"
    shutil.copytree(band / "a b", source / "a b")
    shutil.copytree(mixes / "album", source / "album")
    few = {"pitch": (2.0,), "tempo": ()}
    make_songs(small(source, tmp_path / "in peace", **few))
    perform, done = stages.Stages.perform, set()

    def once(self, job):
        assert job not in done
        perform(self, job)
        done.add(job)

    monkeypatch.setattr(stages.Stages, "perform", once)
    starts = stopped_before_and_after_each_step(lambda: make_songs(small(source, tmp_path / "songs", **few)))
    assert starts > 20 and len(done) > 5
    assert contents(tmp_path / "songs") == contents(tmp_path / "in peace")


def command(source, target, *arguments):
    return [sys.executable, "-m", "data_prep.stems", f"--input={source}", f"--output={target}", "--sample_rate=8000",
            "--rms_frame=0.5", "--rms_threshold=0.0001", "--min_seconds=0.5", "--n_fft=512", "--hop=128", "--workers=2",
            *arguments]


def test_killed_and_started_again(band, small, tmp_path, in_process, monkeypatch, environment_without):
    """SIGKILL while it loads and cuts: the same bytes as in peace, by other processes; no PyTorch is needed."""
    options = small(band, tmp_path / "in peace", separator="hf://htdemucs_6s", segment=None)
    make_songs(options)
    target = tmp_path / "songs"
    environment = environment_without("torch", "demucs", "jax")
    for kind, count in (("loaded", 1), ("songs", 1)):
        with subprocess.Popen(command(band, target), cwd=ROOT, env=environment, stdout=subprocess.PIPE) as process:
            while len(list((target / ".partial").glob(f"{kind}/*"))) < count and process.poll() is None:
                time.sleep(0.001)
            process.send_signal(signal.SIGKILL)
            process.stdout.read()  # ends with its workers
    process = subprocess.run(command(band, target), cwd=ROOT, env=environment, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    assert "15 songs of 2 recordings" in process.stdout
    assert contents(target) == contents(tmp_path / "in peace")


def test_a_second_start_adds_what_is_new(band, small, tmp_path, in_process):
    source, target = tmp_path / "in", tmp_path / "songs"
    few = {"pitch": (), "tempo": ()}
    shutil.copytree(band / "a b", source / "a b")
    make_songs(small(source, target, **few))
    before = {path: path.stat().st_mtime_ns for path in target.rglob("*") if path.name != report.FILE}
    _, new = make_songs(small(source, target, **few))
    assert new is None
    shutil.copytree(band / "a_b", source / "a_b")
    finished, new = make_songs(small(source, target, **few))
    assert new.recordings == 1 and len(finished.recordings) == 2
    assert before.items() <= {path: path.stat().st_mtime_ns for path in target.rglob("*")}.items()
    make_songs(small(source, tmp_path / "at once", **few))
    assert contents(target) == contents(tmp_path / "at once")
    with pytest.raises(UserError, match="--overwrite"):
        make_songs(small(source, target, **few, loudness=-20.0))
    make_songs(small(source, target, **few, loudness=-20.0, overwrite=True))
    make_songs(small(source, tmp_path / "quiet", **few, loudness=-20.0))
    assert contents(target) == contents(tmp_path / "quiet")


def test_what_was_refused_is_not_tried_again(mixes, small, tmp_path, monkeypatch, in_process):
    """Nor taken apart: that may have taken hours."""
    few = {"pitch": (), "tempo": ()}
    finished, _ = make_songs(small(mixes, tmp_path, **few, min_seconds=2.0))
    assert [one.recording for one in finished.left_out] == ["album/two.flac"]
    before = contents(tmp_path)
    monkeypatch.setattr(stages.Stages, "perform", lambda self, job: pytest.fail(job.kind))
    assert make_songs(small(mixes, tmp_path, **few, min_seconds=2.0))[1] is None
    assert contents(tmp_path) == before


def test_what_is_kept_is_used_again(separated, mixes, small, tmp_path, monkeypatch, in_process):
    target = tmp_path / "songs"
    shutil.copytree(separated[0], target)
    performed = []
    perform = stages.Stages.perform
    monkeypatch.setattr(stages.Stages, "perform", lambda self, job: performed.append(job.kind) or perform(self, job))
    make_songs(small(mixes, target, keep=True, overwrite=True, lead=("bass",)))
    assert set(performed) == {"mixed", "windows", "songs"}
    performed.clear()
    make_songs(small(mixes, target, keep=True, overwrite=True))  # back again
    assert set(performed) == {"songs"}
    assert contents(target).keys() >= contents(separated[0]).keys() - {".partial/lock"}


def test_bad_input_never_stops_the_rest(band, small, tmp_path, make_sound, write_sound, in_process):
    source = tmp_path / "in"
    shutil.copytree(band / "a b", source / "good")
    whole = write_sound(source / "cut.wav").read_bytes()
    (source / "cut.wav").write_bytes(whole[:len(whole) // 2])
    (source / "empty.wav").write_bytes(b"")
    (source / "text.mp3").write_text("no audio")
    with_nan = make_sound(1.0)
    with_nan[100] = np.nan
    soundfile.write(source / "nan.wav", with_nan, 16_000, subtype="FLOAT")
    soundfile.write(source / "silent.wav", 0 * make_sound(1.0), 16_000)
    soundfile.write(source / "1hz.wav", make_sound(1.0), 1)
    os.mkfifo(source / "pipe.wav")
    for stem in ("drums", "bass"):
        write_sound(source / "no lead" / f"{stem}.wav")
        write_sound(source / "twice" / f"{stem}.wav")
    write_sound(source / "twice" / "vocals.wav")
    write_sound(source / "twice" / "vocals.flac")
    for stem in ("vocals", "drums"):
        write_sound(source / "broken stem" / f"{stem}.wav", 1.0, 200.0)
    (source / "broken stem" / "drums.wav").write_bytes(whole[:len(whole) // 3])
    write_sound(source / "bad text" / "drums.wav", 1.0, 210.0)
    write_sound(source / "bad text" / "other.wav", 1.0, 220.0)
    (source / "bad text" / "genre.txt").write_bytes(b"\xff\xfe\xff")
    finished, _ = make_songs(small(source, tmp_path / "songs"))
    assert [entry.name for entry in finished.recordings] == ["good"]
    left_out = {one.recording: one.reason for one in finished.left_out}
    expected = {"cut.wav": "ends early", "empty.wav": "cannot be read", "text.mp3": "cannot be read", "nan.wav": "NaN",
                "silent.wav": "silent", "1hz.wav": "1 Hz", "pipe.wav": "pipe", "no lead": "none of its stems",
                "twice": "several files", "broken stem": "drums: audio ends early", "bad text": "genre.txt"}
    assert left_out.keys() == expected.keys()
    assert all(part in left_out[name] for name, part in expected.items()), left_out
    assert "left out  11:" in report.summary(finished, "songs", None)


def test_playlists_and_urls(band, small, tmp_path, write_sound, in_process):
    pytest.importorskip("demucs")
    for name, pitch in (("one.wav", 300.0), ("sub/two words.wav", 310.0), ("far.wav", 320.0)):
        write_sound(tmp_path / "in" / name, 1.0, pitch)
    (tmp_path / "in" / "list.m3u8").write_text(
        f"#EXTM3U\none.wav\n# a comment\nsub/two words.wav\none.wav\nnowhere.wav\n{band / 'a b'}\n"
        "https://host/far.wav\nhttps://host/none.wav\n")
    fetcher = tmp_path / "fetch me"
    fetcher.write_text(f"#!/bin/sh\n[ $1 = https://host/far.wav ] || {{ echo >&2 'no such song'; exit 3; }}\n"
                       f"cp '{tmp_path}/in/far.wav' \"$2.wav\"\n")
    fetcher.chmod(0o755)
    few = {"pitch": (), "tempo": (), "fetch": f"'{fetcher}' {{url}} {{output}}"}
    finished, _ = make_songs(small(tmp_path / "in" / "list.m3u8", tmp_path / "songs", **few))
    assert [entry.name for entry in finished.recordings] == ["a b", "https://host/far.wav", "one.wav", "two words.wav"]
    left_out = {one.recording: one.reason for one in finished.left_out}
    assert left_out == {"nowhere.wav": "list.m3u8 names it, but it does not exist",
                        "https://host/none.wav": "--fetch ended with status 3: no such song"}
    with pytest.raises(UserError, match="--fetch says"):
        (tmp_path / "urls.txt").write_text("https://host/far.wav\n")
        make_songs(small(tmp_path / "urls.txt", tmp_path / "none"))


@pytest.mark.parametrize(("arguments", "config", "words"), [
    (["--input=nowhere"], None, ["--input", "nowhere"]),
    (["--input=."], None, ["--output", "lies within"]),
    ([], None, ["--input is missing"]),
    (["--input=in", "--config=c.yaml"], "loudnes: -20", ["c.yaml", "'loudnes'", "did you mean loudness?"]),
    (["--input=in", "--config=c.yaml"], "loudness: loud", ["c.yaml", "loudness 'loud'"]),
    (["--input=in", "--config=c.yaml"], "pitch: [1, two]", ["c.yaml", "pitch.1 'two'"]),
    (["--input=in", "--config=c.yaml"], "[", ["c.yaml", "not YAML"]),
    (["--input=in", "--config=c.yaml"], "- pitch", ["c.yaml", "NAME: VALUE"]),
    (["--input=in", "--config=c.yaml"], "channels: 3", ["--channels=3", "1 to 2"]),
    (["--input=in", "--config=gone.yaml"], None, ["gone.yaml"]),
    (["--input=in", "--tempo=0.9,x"], None, ["--tempo=0.9,x", "numbers"]),
    (["--input=in", "--tempo=1"], None, ["--tempo=1", "as it is"]),
    (["--input=in", "--max_seconds=40"], None, ["--max_seconds=40", "--min_seconds=30"]),
    (["--input=in", "--separator=htdemucs"], None, ["--separator=htdemucs", "hf://NAME"]),
    (["--input=in", "--fetch=curl"], None, ["--fetch=curl", "{url}"]),
    (["--input=in"], None, ["none can be used", "there are none"]),
])
def test_a_wrong_command_line_is_one_plain_line(arguments, config, words, tmp_path, environment_without):
    (tmp_path / "in").mkdir()
    if config:
        (tmp_path / "c.yaml").write_text(config)
    process = subprocess.run([sys.executable, "-m", "data_prep.stems", "--output=songs", *arguments], cwd=tmp_path,
                             env=environment_without("torch", "jax"), capture_output=True, text=True)
    assert process.returncode == 2, process.stderr
    assert process.stderr.startswith("error: ") and process.stderr.count("\n") == 1, process.stderr
    assert all(word in process.stderr for word in words), process.stderr


def test_flags_win_over_the_config(tmp_path):
    (tmp_path / "c.yaml").write_text("input: in\nloudness: -20\npitch: [-1, 1.5]\ntempo: []\nlead: [vocals]\n")
    script = ("import sys\nfrom absl import flags\nfrom data_prep.stems.__main__ import define_flags, read_options\n"
              "define_flags()\nflags.FLAGS(sys.argv)\noptions = read_options()\n"
              "print(options.input, options.loudness, options.peak, options.pitch, options.tempo, options.lead)")
    arguments = ["--output=x", f"--config={tmp_path / 'c.yaml'}", "--peak=-2", "--loudness=-18"]
    process = subprocess.run([sys.executable, "-c", script, *arguments], cwd=ROOT, capture_output=True, text=True)
    assert process.stdout == "('in',) -18.0 -2.0 (-1.0, 1.5) () ('vocals',)\n", process.stderr


def test_the_documented_options_are_those_there_are():
    from data_prep.stems.options import OPTIONS

    text = (ROOT / "docs" / "recordings.md").read_text()
    documented = dict(re.findall(r"^\| `--(\w+)` \| ([^|]*) \|", text, re.M))
    defaults = {}
    for option in OPTIONS:
        value = option.default
        if isinstance(value, tuple):
            value = ",".join(f"{one:g}" if isinstance(one, float) else one for one in value)
        defaults[option.name] = f"`{value:g}`" if isinstance(value, float) else f"`{value}`" if value not in (
            None, "", False) else ""
    assert documented == {"config": "", **defaults}
