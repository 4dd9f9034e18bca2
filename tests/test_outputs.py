"""What a command is to write, looked at before the work."""

import os
from pathlib import Path

import pytest

from autosong_jax import outputs
from autosong_jax.errors import UserError


def test_outputs_are_looked_at_before_the_work(tmp_path):
    os.mkfifo(tmp_path / "pipe.wav")
    (tmp_path / "circle.wav").symlink_to(tmp_path / "circle.wav")
    (tmp_path / "folder.wav").mkdir()
    (tmp_path / "song.wav").write_bytes(b"x")
    cases = {"song.mp3": "ends in .wav", "no/song.wav": "no directory", "song.wav/x.wav": "no directory",
             "folder.wav": "is a directory", "pipe.wav": "no file that could be replaced",
             "circle.wav": "circle|no file that could be replaced", "x" * 240 + ".wav": "longer than",
             "nul\0.wav": "NUL", "song.wav": "is .*song.wav, which is read"}
    for name, found in cases.items():
        with pytest.raises(UserError, match=found):
            outputs.check_file(f"{tmp_path}/{name}", (".wav",), read=[str(tmp_path / "song.wav"), None])
    outputs.check_file(str(tmp_path / "song.wav"), (".wav",), read=["nothing"])
    outputs.check_file(None, (".wav",))


def test_directories_are_looked_at_before_the_work(tmp_path):
    (tmp_path / "file").write_bytes(b"x")
    cases = {"file": "is a file", "file/x": "lies below .*file, which is a file", "x" * 300: "longer than",
             "nul\0": "longer than|NUL"}
    for name, found in cases.items():
        with pytest.raises(UserError, match=found):
            outputs.check_directory(tmp_path / name, "--workdir")
    for name in ("", "new", "new/below"):
        outputs.check_directory(tmp_path / name, "--workdir")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "song.wav").touch()
    outputs.check_directory(tmp_path / "full", "--workdir")
    with pytest.raises(UserError, match="full is not empty"):
        outputs.check_directory(tmp_path / "full", "--workdir", empty=True)
    with pytest.raises(UserError, match="HOME in place of ~"):
        outputs.check_directory(Path("~/new"), "--workdir")
