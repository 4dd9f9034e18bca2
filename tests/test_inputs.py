"""Files that a user names, and names on their way to a terminal."""

import dataclasses
import os
import threading
from typing import Annotated, Any

import pydantic
import pytest

from autosong_jax import cli, inputs
from autosong_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Shape:
    name: str
    rate: Annotated[int, pydantic.Field(ge=1, le=1000)]
    ratios: tuple[int, ...] = ()
    level: float | None = None


def test_texts_are_read_as_people_save_them(tmp_path):
    path = tmp_path / "lyrics.txt"
    for data in (b" la\r\nlo\r", b"\xef\xbb\xbfla\nlo", "la\nlo".encode("utf-16")):
        path.write_bytes(data)
        assert inputs.read_text(path, "--lyrics") == "la\nlo"


@pytest.mark.parametrize(("data", "found"), [(b"\xe9t\xe9", "not UTF-8 (byte 0)"), (b"la\0", "holds NUL"),
                                             (b"la" * 2**20, "holds 2097152 bytes, expected at most 1048576")])
def test_what_is_no_text_is_refused(tmp_path, data, found):
    path = tmp_path / "lyrics.txt"
    path.write_bytes(data)
    with pytest.raises(UserError) as error:
        inputs.read_text(path, "--lyrics")
    assert found in str(error.value) and str(path) in str(error.value)


def test_what_is_no_file_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    cases = {"pipe": "is a pipe", "circle": "in a circle", "missing": "does not exist", "": "is a directory",
             "x" * 300: "longer than", "nul\0": "NUL", "half\ud800": "half a character"}
    for name, found in cases.items():
        with pytest.raises(UserError) as error:
            inputs.read_text(f"{tmp_path}/{name}", "--lyrics")
        assert found in str(error.value)
    with pytest.raises(UserError, match="device"):
        inputs.read_text("/dev/zero", "--lyrics")


def test_a_pipe_that_takes_the_place_of_a_file_does_not_wait(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe")
    monkeypatch.setattr(inputs, "stat_regular", lambda path, what: os.stat(path))
    reader = threading.Thread(target=inputs.read_bytes, args=(tmp_path / "pipe", "--lyrics", 10), daemon=True)
    reader.start()
    reader.join(10)
    assert not reader.is_alive()


def test_json_becomes_what_is_expected():
    text = '{"name": "a", "rate": 5, "ratios": [1, 2], "level": 1, "other": 0}'
    assert inputs.parse_json(text, Shape, "x") == Shape("a", 5, (1, 2), 1.0)
    assert inputs.check({"name": "a", "rate": 5, "ratios": [1, 2]}, Shape, "x") == Shape("a", 5, (1, 2))


@pytest.mark.parametrize(("text", "found"), [
    ('{"name": "a", "rate": "5"}', "has rate '5': input should be a valid integer"),
    ('{"name": "a", "rate": 5.5}', "has rate 5.5"),
    ('{"name": "a", "rate": true}', "has rate True"),
    ('{"name": "a", "rate": 0}', "has rate 0: input should be greater than or equal to 1"),
    ('{"name": "a", "rate": 5, "ratios": [1, "2"]}', "has ratios.1 '2'"),
    ('{"name": 5, "rate": 5}', "has name 5"),
    ('{"rate": 5}', "lacks name"),
    ('{"name": "a", "rate": 5, "level": NaN}', "is not JSON"),
    ('{"name": "a"', "is not JSON"),
    ("[]", "holds []"),
    ("[" * 100_000, "is not JSON: recursion limit exceeded"),
])
def test_json_of_another_shape_is_refused_in_one_line(text, found):
    with pytest.raises(UserError) as error:
        inputs.parse_json(text, Shape, "codec.json")
    assert str(error.value).startswith("codec.json ") and found in str(error.value)
    assert "\n" not in str(error.value) and len(str(error.value)) < 200


def test_json_of_any_shape_is_an_object():
    assert inputs.parse_json('{"a": [1, {}]}', dict[str, Any], "x") == {"a": [1, {}]}
    with pytest.raises(UserError, match="holds 5"):
        inputs.parse_json("5", dict[str, Any], "x")


def test_names_cannot_steer_the_terminal(capsys):
    with pytest.raises(SystemExit):
        cli.fail("song \x1b[2J\x07 \u202egnp.exe \ud800 爱 é")
    cli.say("\x9b31m\nünï")
    out, err = capsys.readouterr()
    assert err == "error: song \\x1b[2J\\x07 \\u202egnp.exe \\ud800 爱 é\n"
    assert out == "\\x9b31m\nünï\n"
