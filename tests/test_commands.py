"""The documented way, as a user goes it: songs, dataset, model, song; in processes without PyTorch and TensorFlow."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

import autosong_jax
from autosong_jax.errors import UserError
from autosong_jax.evaluation.timed import read_songs

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def command(environment_without):
    """`command("autosong_jax.train", ...)` runs a command to its end without PyTorch and TensorFlow."""
    environment = environment_without("torch", "tensorflow", "transformers")

    def run(module, *arguments):
        return subprocess.run([sys.executable, "-m", module, *map(str, arguments)], cwd=ROOT, env=environment,
                              capture_output=True, text=True)

    return run


@pytest.fixture(scope="module")
def trained(command, tmp_path_factory):
    """A directory with songs/, dataset/ and workdir/, made by the documented commands."""
    directory = tmp_path_factory.mktemp("my songs")
    for module, *arguments in [
        ("data_prep.songbook", "--songs=6", "--seconds=5", f"--output={directory / 'songs'}"),
        ("data_prep.export", f"--input={directory / 'songs'}", f"--output={directory / 'dataset'}",
         "--codec=melrvq:codebook_size=32"),
        ("autosong_jax.train", "--config=configs/xsmall.py:runlocal", f"--config.data.path={directory / 'dataset'}",
         f"--workdir={directory / 'workdir'}", "--config.train.steps=4", "--config.data.batch_size=8"),
    ]:
        process = command(module, *arguments)
        assert process.returncode == 0, process.stderr
    return directory


def test_generate_writes_the_same_song_for_the_same_seed(command, trained, tmp_path):
    lyrics = trained / "songs" / "song_00000" / "lyrics.txt"
    for name, seed, *more in [
            ("one", 3), ("three", 4, f"--lrc={tmp_path}/three.lrc", f"--alignment={tmp_path}/three.json",
                                     "--candidates=3", "--rank_by=likelihood", "--temperature=1")]:
        process = command(
            "autosong_jax.generate", f"--workdir={trained / 'workdir'}", f"--lyrics={lyrics}", "--genre=pop",
            "--duration=2", f"--seed={seed}", f"--output={tmp_path / name}.wav",
            f"--codes_output={tmp_path / name}.npy", *more)
        assert process.returncode == 0, process.stderr
    ranked = json.loads((tmp_path / "three.scores.json").read_text())["candidates"]
    assert [one["seed"] for one in ranked] == [4, 5, 6]
    assert [one["kept"] for one in ranked] == [one["score"] == max(two["score"] for two in ranked) for one in ranked]
    marked = [line.split() for line in process.stdout.splitlines() if line.startswith("  seed ")]
    assert [line[1] for line in marked] == ["4", "5", "6"] and [line[-1] == "kept" for line in marked] == [
        one["kept"] for one in ranked]
    lines = [line for line in lyrics.read_text().splitlines() if line and line[0] != "["]
    assert re.findall(r"\[00:0[012]\.\d\d\](.+)", (tmp_path / "three.lrc").read_text()) == lines
    assert [line["text"] for line in json.loads((tmp_path / "three.json").read_text())["lines"]] == lines
    one, three = (np.load(tmp_path / f"{name}.npy") for name in ("one", "three"))
    same = autosong_jax.load(trained / "workdir").generate(lyrics=lyrics.read_text(), genre="pop", duration=2, seed=3)
    np.testing.assert_array_equal(one, same.codes)
    assert one.shape != three.shape or np.any(one != three)
    assert one.shape[1] == 4 and one.shape[0] <= 50 and one.dtype == np.uint16
    audio, rate = soundfile.read(tmp_path / "one.wav")
    assert rate == 16000 and len(audio) == len(one) * 640


def test_generate_continues_a_prompt_past_the_window(trained):
    singer = autosong_jax.load(trained / "workdir")
    prompt = np.random.default_rng(0).integers(0, 32, (30, 4))
    sources = singer.encode_conditions([{"lyrics": "la la"}])

    codes = singer.sing(sources, [0], prompt=prompt, duration=9.0)[0]
    np.testing.assert_array_equal(codes[:30], prompt)
    assert 30 < len(codes) <= 225 and codes.max() < 32  # a window is 100 frames


def test_several_lyrics_at_once_are_the_songs_made_alone(trained):
    singer = autosong_jax.load(trained / "workdir")
    songs = singer.generate(lyrics=["la lo", "mi mu"], genre="rock", seed=5, duration=1.5)
    alone = singer.generate(lyrics="mi mu", genre="rock", seed=6, duration=1.5)
    np.testing.assert_array_equal(songs[1].codes, alone.codes)
    np.testing.assert_array_equal(songs[1].audio, alone.audio)
    assert not np.array_equal(songs[0].codes, songs[1].codes)


def test_recordings_are_aligned_by_heads_that_songs_with_known_times_chose(command, trained, tmp_path):
    singer = autosong_jax.load(trained / "workdir")
    songs = read_songs(trained / "songs", 2, "--calibrate")
    with (trained / "songs" / "song_00000" / "notes.json").open() as file:
        notes = json.load(file)
    assert [second for _, second in songs[0].times] == [note["start"] for note in notes]
    assert [songs[0].lyrics[at:at + 2] for at in songs[0].characters] == [note["syllable"] for note in notes]
    found = singer.calibrate([(singer.read(str(song.audio)), {"lyrics": song.lyrics, "genre": song.genre}, song.times)
                              for song in songs])
    assert found.songs == 2 and found.syllables == sum(len(song.times) for song in songs)
    found.save(trained / "workdir")
    song = trained / "songs" / "song_00001"  # longer than a window
    process = command("autosong_jax.align", f"--workdir={trained / 'workdir'}", f"--lyrics={song / 'lyrics.txt'}",
                      f"--audio={song / 'audio.wav'}", f"--alignment={tmp_path / 'song.json'}")
    (trained / "workdir" / "alignment.json").unlink()
    assert process.returncode == 0, process.stderr
    written = json.loads((tmp_path / "song.json").read_text())
    assert written["heads"] == [list(head) for head in found.heads]
    assert written["duration"] == pytest.approx(soundfile.info(song / "audio.wav").duration, abs=0.1) and (
        0 <= min(line["start"] for line in written["lines"]) <= written["lines"][-1]["end"] <= written["duration"])


@pytest.mark.parametrize(("arguments", "words"), [
    ({"description": "a slow waltz"}, ["description", "not trained with it", "genre, lyrics"]),
    ({"lyrics": ["a", "b"], "genre": ["x", "y", "z"]}, ["2, 3", "one length"]),
    ({"lyrics": "la", "temperature": -1.0}, ["temperature -1.0", ">= 0"]),
    ({"lyrics": "la", "cfg_scales": {"mood": 2.0}}, ["'mood'", "genre, lyrics"]),
    ({"lyrics": "la", "duration": 0.0}, ["duration 0.0", "more than 0 s"]),
    ({"lyrics": "la", "seed": -1}, ["-1", "0 to 2**32 - 1"]),
])
def test_what_cannot_be_sung_is_named(trained, arguments, words):
    with pytest.raises(UserError) as error:
        autosong_jax.load(trained / "workdir").generate(**arguments)
    assert all(word in str(error.value) for word in words), error.value


@pytest.mark.parametrize(("module", "arguments", "words"), [
    ("autosong_jax.train", ["--config=configs/small.py", "--workdir=x"], ["--config.data.path", "data_prep.export"]),
    ("autosong_jax.train", ["--config=configs/nowhere.py", "--workdir=x"],
     ["configs/nowhere.py", "cannot be loaded", "one of accompaniment, ", ", xsmall"]),
    ("autosong_jax.train", ["--config=configs/smal.py", "--workdir=x"], ["did you mean configs/small.py?"]),
    ("autosong_jax.train", ["--config=configs/small.py:tiny", "--workdir=x"], ["'tiny'", "runlocal"]),
    ("autosong_jax.train", ["--config=configs/small.py", "--config.model.depth=3", "--workdir=x"], ["no field depth:"]),
    ("autosong_jax.train", ["--config=configs/small.py", "--config.train.step=3", "--workdir=x"], ['"steps"']),
    ("autosong_jax.train", ["--config=configs/nowhere.py", "--config.seed=3", "--workdir=x"], ["cannot be loaded"]),
    ("autosong_jax.train", ["--workdir=x"], ["config"]),
    ("autosong_jax.train", ["--config=configs/finetune.py", "--workdir=x"], ["base=WORKDIR", "convert"]),
    ("autosong_jax.generate", ["--workdir=nowhere", "--output=x.wav"], ["nowhere", "workdir"]),
    ("autosong_jax.generate", ["--workdir=nowhere", "--output=x.mp3"], ["x.mp3", ".flac"]),
    ("autosong_jax.generate", ["--workdir=nowhere"], ["--output"]),
    ("autosong_jax.generate", ["--workdir=x", "--lyrics=nowhere.txt", "--output=x.wav"], ["nowhere.txt"]),
    ("autosong_jax.generate", ["--workdir=x", "song.wav"], ["song.wav", "--help"]),
    ("autosong_jax.generate", ["--workdir=x", "--lrc=x.lrc"], ["--lrc=x.lrc without --lyrics"]),
    ("autosong_jax.generate", ["--workdir=x", "--lyrics=README.md", "--alignment=nowhere/x.png"],
     ["nowhere/x.png", "there is no directory"]),
    ("autosong_jax.generate", ["--workdir=x", "--output=x.wav", "--candidates=2"], ["without --rank_by", "likelihood"]),
    ("autosong_jax.generate", ["--workdir=x", "--output=x.wav", "--rank_by=loud"], ["'loud'", "likelihood, notes or"]),
    ("autosong_jax.align", ["--workdir=x", "--lyrics=README.md", "--lrc=x.lrc"], ["--audio is missing", "--calibrate"]),
])
def test_a_wrong_command_line_is_one_plain_line(command, module, arguments, words):
    process = command(module, *arguments)
    assert process.returncode == 2, process.stderr
    assert "Traceback" not in process.stderr and process.stderr.startswith("error: ")
    assert process.stderr.count("\n") == 1 and all(word in process.stderr for word in words), process.stderr


def test_what_may_not_be_written_is_one_plain_line():
    script = """
from autosong_jax import cli

def main():
    raise PermissionError(13, "Permission denied", "out/song")

cli.run(main)
"""
    process = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert process.returncode == 2
    assert process.stderr == "error: out/song cannot be read or written (Permission denied)\n"


def test_who_reads_no_more_is_told_no_more():
    script = """
from autosong_jax import cli

def main():
    for i in range(100_000):
        cli.say(f"line {i}")

cli.run(main)
"""
    with subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, text=True, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE) as process:
        assert process.stdout.readline() == "line 0\n"
        process.stdout.close()
        assert (process.stderr.read(), process.wait()) == ("", 1)
