"""Compiled programs kept between commands: where, how many, and what a kill or a full disk leaves."""

import os
import subprocess
import sys
import time
import zlib

import pytest

from autosong_jax import compiled

FIRST_PROGRAM = "import jax; print(jax.jit(lambda x: (x @ x).sum(), keep_unused=True)(jax.numpy.ones((64, 64))))"


@pytest.fixture
def clean(monkeypatch, tmp_path):
    """The environment of a user who has set nothing; caches are in tmp_path."""
    for name in ("JAX_COMPILATION_CACHE_DIR", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS",
                 "JAX_ENABLE_COMPILATION_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.MonkeyPatch.context() as patch:  # what `keep` sets is taken back
        patch.setattr(os, "environ", dict(os.environ))
        yield os.environ


def test_programs_are_kept_and_found_again(clean):
    code = f"from autosong_jax import compiled; compiled.keep(); {FIRST_PROGRAM}"
    environment = clean | {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0", "JAX_EXPLAIN_CACHE_MISSES": "true",
                           "PYTHONPATH": os.getcwd()}
    outputs = [subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
               for _ in range(2)]
    folder, = compiled.cache_folder().iterdir()
    kept = [path.name for path in folder.glob("*-cache")]
    assert any("lambda" in name for name in kept)
    assert outputs[0].stdout == outputs[1].stdout
    assert "PERSISTENT COMPILATION CACHE MISS" in outputs[0].stderr
    assert "PERSISTENT COMPILATION CACHE MISS" not in outputs[1].stderr


@pytest.mark.parametrize("name, value", [("JAX_COMPILATION_CACHE_DIR", "elsewhere"), ("JAX_COMPILATION_CACHE_DIR", ""),
                                         ("JAX_ENABLE_COMPILATION_CACHE", "false")])
def test_who_decides_for_themselves_is_left_alone(clean, tmp_path, name, value):
    clean[name] = value
    before = dict(clean)
    compiled.keep()
    assert clean == before and list(tmp_path.iterdir()) == []


def test_where_nothing_can_be_written_nothing_is_kept(clean, tmp_path):
    (tmp_path / "autosong_jax").write_text("a file, where a folder should be")
    compiled.keep()
    assert "JAX_COMPILATION_CACHE_DIR" not in clean


def test_the_folder_is_the_platforms(clean, monkeypatch):
    clean["HOME"] = "/home/me"
    monkeypatch.setattr(os.path, "expanduser", lambda path: str(path).replace("~", "/home/me"))
    del clean["XDG_CACHE_HOME"]
    monkeypatch.setattr(sys, "platform", "linux")
    assert str(compiled.cache_folder()) == "/home/me/.cache/autosong_jax/compiled"
    monkeypatch.setattr(sys, "platform", "darwin")
    assert str(compiled.cache_folder()) == "/home/me/Library/Caches/autosong_jax/compiled"


def test_programs_that_were_cut_off_are_removed_and_whole_ones_stay(clean):
    compiled.keep()
    folder, = compiled.cache_folder().iterdir()
    program = zlib.compress(os.urandom(1000))
    for name, data in [("whole", program), ("cut", program[:500]), ("empty", b""), ("zstd", b"\x28\xb5\x2f\xfd12")]:
        (folder / f"{name}-cache").write_bytes(data)
    del clean["JAX_COMPILATION_CACHE_DIR"]
    compiled.keep()
    assert {path.name for path in folder.glob("*-cache")} == {"whole-cache", "zstd-cache"}


def test_the_programs_longest_unused_make_room(clean, monkeypatch):
    compiled.keep()
    folder, = compiled.cache_folder().iterdir()
    other = folder.with_name("another version")
    other.mkdir()
    now = time.time()
    for days, path in [(9, other / "a-cache"), (1, other / "b-cache"), (5, folder / "c-cache"),
                       (3, folder / "d-cache")]:
        path.write_bytes(zlib.compress(os.urandom(100), 0))
        os.utime(path, (now - days * 86400,) * 2)
    monkeypatch.setattr(compiled, "MAX_BYTES", 250)
    del clean["JAX_COMPILATION_CACHE_DIR"]
    compiled.keep()
    assert {path.name for path in compiled.cache_folder().glob("*/*-cache")} == {"b-cache", "d-cache"}
