"""Folders and manifests of songs, whole and broken."""

import json
import os

import pytest

from autosong_jax.errors import UserError
from data_prep.songs import LeftOut, Song, find_songs


def make_song(root, name, **files):
    """A song's folder with what a song needs and `files`: contents by name with "_" for "."; None for no such file."""
    folder = root / name
    folder.mkdir(parents=True)
    for file, content in ({"lyrics_txt": "words", "audio_wav": b"sound"} | files).items():
        if content is not None:
            path = folder / file.replace("_", ".")
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def reasons(left_out):
    return {song.song: song.reason for song in left_out}


def write_manifest(path, *lines):
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))
    return path


def test_folder(tmp_path):
    make_song(tmp_path, "b", lyrics_txt="\ufeff[verse]\r\nuno\rdos\n\n", genre_txt="pop\n", group_txt="album")
    make_song(tmp_path, "a", description_txt="slow")
    (tmp_path / ".hidden").mkdir()
    (tmp_path / "README.md").write_text("not a song")
    songs, left_out = find_songs(tmp_path)
    assert left_out == []
    assert songs == [
        Song("a", tmp_path / "a" / "audio.wav", "a", "words", "", "slow"),
        Song("b", tmp_path / "b" / "audio.wav", "album", "[verse]\nuno\ndos", "pop", ""),
    ]


def test_which_file_is_the_audio(tmp_path):
    make_song(tmp_path, "named", audio_wav=b"x", **{"demo.mp3": b"y"})
    make_song(tmp_path, "only", audio_wav=None, **{"My Song.MP3": b"x"})
    make_song(tmp_path, "two", audio_mp3=b"y")
    make_song(tmp_path, "none", audio_wav=None)
    (tmp_path / "loose.flac").write_bytes(b"x")
    songs, left_out = find_songs(tmp_path)
    assert {song.id: song.audio.name for song in songs} == {"named": "audio.wav", "only": "My Song.MP3"}
    assert reasons(left_out).keys() == {"two", "none", "loose.flac"}
    assert "audio.mp3, audio.wav" in reasons(left_out)["two"]


def test_lyrics_that_cannot_be_read_are_never_guessed(tmp_path):
    make_song(tmp_path, "latin1", lyrics_txt="corazón".encode("latin-1"))
    make_song(tmp_path, "binary", lyrics_txt=b"RIFF\0\0")
    make_song(tmp_path, "utf16", lyrics_txt="corazón".encode("utf-16"))
    songs, left_out = find_songs(tmp_path)
    assert [(song.id, song.lyrics) for song in songs] == [("utf16", "corazón")]
    assert left_out == [LeftOut("binary", "lyrics.txt is not a text file: it holds NUL"),
                        LeftOut("latin1", "lyrics.txt is not UTF-8 (byte 5): save it as UTF-8")]


def test_missing_lyrics(tmp_path):
    make_song(tmp_path, "none", lyrics_txt=None)
    make_song(tmp_path, "blank", lyrics_txt=" \n\n")
    songs, left_out = find_songs(tmp_path)
    assert songs == [] and reasons(left_out).keys() == {"none", "blank"}
    songs, left_out = find_songs(tmp_path, require_lyrics=False)
    assert [song.lyrics for song in songs] == ["", ""] and left_out == []


def test_links(tmp_path):
    outside, songs_dir = tmp_path / "outside", tmp_path / "songs"
    make_song(outside, "x")
    inside = make_song(songs_dir, "inside")
    os.symlink(outside / "x", songs_dir / "folder_out")
    os.symlink(inside, songs_dir / "folder_in")
    os.symlink(outside / "x" / "audio.wav", make_song(songs_dir, "audio_out", audio_wav=None) / "audio.wav")
    os.symlink(outside / "x" / "lyrics.txt", make_song(songs_dir, "lyrics_out", lyrics_txt=None) / "lyrics.txt")
    os.symlink(songs_dir, tmp_path / "songs_link")
    for root in (songs_dir, tmp_path / "songs_link"):
        songs, left_out = find_songs(root)
        assert [song.id for song in songs] == ["folder_in", "inside"]
        assert reasons(left_out).keys() == {"folder_out", "audio_out", "lyrics_out"}
        assert all("link out of the songs folder" in reason for reason in reasons(left_out).values())


def test_manifest(tmp_path):
    (tmp_path / "words.txt").write_text("from a file")
    manifest = write_manifest(
        tmp_path / "songs.jsonl",
        {"id": "b", "audio": "b.mp3", "lyrics": "inline", "genre": "pop", "group": "g", "description": "d", "year": 99},
        "",
        {"id": 7, "audio": "/else/where.wav", "lyrics_file": "words.txt"},
    )
    songs, left_out = find_songs(manifest)
    assert left_out == []
    assert songs[0].audio.is_absolute() and str(songs[0].audio) == "/else/where.wav"
    assert songs == [Song("7", songs[0].audio, "7", "from a file"),
                     Song("b", tmp_path / "b.mp3", "g", "inline", "pop", "d")]


def test_broken_manifest_lines(tmp_path):
    good = {"id": "good", "audio": "a.wav", "lyrics": "la"}
    manifest = write_manifest(
        tmp_path / "songs.jsonl",
        good,
        '{"id": "cut',
        "[1, 2]",
        good | {"audio": "other.wav"},
        {"audio": "a.wav", "lyrics": "la"},
        good | {"id": "no audio", "audio": None},
        good | {"id": "number", "genre": 3},
        good | {"id": "both", "lyrics_file": "a.txt"},
        good | {"id": "missing", "lyrics": None, "lyrics_file": "a.txt"},
        '{"id": "half", "audio": "a.wav", "lyrics": "\\ud800"}',
    )
    songs, left_out = find_songs(manifest)
    assert [song.id for song in songs] == ["good"] and songs[0].audio.name == "a.wav"
    found = reasons(left_out)
    assert found.keys() == {"line 2", "line 3", "good", "line 5", "no audio", "number", "both", "missing", "line 10"}
    assert "not a JSON object" in found["line 2"] and "already been used" in found["good"]
    assert found["number"] == "in the manifest, the line has genre 3: input should be a valid string"
    assert "hex escape" in found["line 10"]


@pytest.mark.parametrize(("line", "reason"), [
    ('{"id": "a\\u0000", "audio": "a.wav", "lyrics": "la"}', "its id holds NUL"),
    ('{"id": "a", "audio": "a.wav", "lyrics": "l\\u0000a"}', "its lyrics holds NUL"),
    ('{"id": "%s", "audio": "a.wav", "lyrics": "la"}' % ("a" * 20000), "its id is 20000 characters long"),
    ('{"id": "a", "audio": "a.wav", "lyrics": "%s"}' % ("la" * 2**20), "its lyrics is 2097152 characters long"),
    ('{"id": "a", "audio": ["a.wav"], "lyrics": "la"}', "has audio ['a.wav']"),
    ('{"id": true, "audio": "a.wav", "lyrics": "la"}', "has id True"),
    ('{"id": %s, "audio": "a.wav", "lyrics": "la"}' % ("9" * 5000), "number out of range"),
    ('{"id": "a", "audio": "a.wav", "lyrics_file": "%s"}' % ("a" * 300), "its name is longer than"),
    ('{"id": "a", "audio": "a.wav", "lyrics_file": "a\\u0000"}', "NUL"),
    ('{"id": "a", "audio": "a.wav", "lyrics_file": "/dev/zero"}', "a pipe, socket or device"),
    ('{"id": "a", "audio": "a.wav", "lyrics_file": "pipe"}', "pipe is a pipe"),
    ('{"id": "a", "audio": "a.wav", "lyrics_file": "."}', "is a directory"),
    ('{"id": "a", "audio": "a.wav", "lyrics": NaN}', "not a JSON object"),
    ("[" * 100_000, "not a JSON object"),
    ('{"id":' * 100_000, "not a JSON object"),
    ('{"id": "a", "audio": "a.wav", "lyrics": "%s"}' % (" " * 9 * 2**20), "longer than 8388608 bytes"),
])
def test_a_line_that_cannot_be_used_is_left_out(tmp_path, line, reason):
    os.mkfifo(tmp_path / "pipe")
    manifest = write_manifest(tmp_path / "songs.jsonl", line, {"id": "good", "audio": "a.wav", "lyrics": "la"})
    songs, [left_out] = find_songs(manifest)
    assert [song.id for song in songs] == ["good"]
    assert reason in left_out.reason and len(left_out.reason) < 300 and "\n" not in left_out.reason


def test_what_is_no_file_in_a_folder(tmp_path):
    """Nothing waits for a pipe, nothing goes round in circles."""
    os.mkfifo(make_song(tmp_path, "pipe", lyrics_txt=None) / "lyrics.txt")
    (make_song(tmp_path, "circle", lyrics_txt=None) / "lyrics.txt").symlink_to("lyrics.txt")
    (make_song(tmp_path, "nowhere", lyrics_txt=None) / "lyrics.txt").symlink_to("other.txt")
    (make_song(tmp_path, "directory", lyrics_txt=None) / "lyrics.txt").mkdir()
    make_song(tmp_path, "large", lyrics_txt="la" * 2**20)
    (tmp_path / "loop").symlink_to("loop")
    songs, left_out = find_songs(tmp_path)
    found = reasons(left_out)
    assert songs == [] and found.keys() == {"pipe", "circle", "nowhere", "directory", "large", "loop"}
    assert "a pipe" in found["pipe"] and "in a circle" in found["circle"] and "does not exist" in found["nowhere"]
    assert "a directory" in found["directory"] and "at most 1048576" in found["large"]


def test_a_file_that_is_no_manifest(tmp_path):
    (tmp_path / "songs.csv").write_text("a,b\n" * 5000)
    with pytest.raises(UserError, match="none of its first 1000 lines is a JSON object"):
        find_songs(tmp_path / "songs.csv")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    for source in (tmp_path / "pipe", tmp_path / "loop", "/dev/zero", tmp_path / ("a" * 300)):
        with pytest.raises(UserError, match="--input"):
            find_songs(source)
    with open(tmp_path / "huge.jsonl", "wb") as file:
        file.truncate(2**40)  # a hole: it takes no disk
    with pytest.raises(UserError, match="at most"):
        find_songs(tmp_path / "huge.jsonl")


def test_a_name_that_is_no_text(tmp_path):
    make_song(tmp_path, os.fsdecode(b"caf\xe9"))
    songs, left_out = find_songs(tmp_path)
    assert songs == [] and left_out[0].song.encode() == b"caf?"


def test_input_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        find_songs(tmp_path / "songs")
