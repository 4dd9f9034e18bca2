"""The package as others install it: what its wheel holds, and that it trains and sings far from the checkout."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from autosong_jax import cli

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("autosong_jax", "configs", "data_prep")
# The environment of the tests has the checkout on its path (`pip install -e .`), that of a user has not.
WITHOUT_CHECKOUT = """
import sys
from pathlib import Path

sys.path[:] = [p for p in sys.path if p == {installed!r} or not (Path(p) / "autosong_jax").exists()]
"""
CONFIG = """
from configs import xsmall


def get_config(arg=None):
    config = xsmall.get_config("runlocal")
    config.model.update(width=16, mlp_width=32)
    config.sources = {}
    config.data.update(batch_size=2, seconds=0.48)
    config.train.update(steps=2, log_every=1, checkpoint_every=2, eval_every=0)
    return config
"""
# Two commands in one process, which imports JAX once.
TRAIN_AND_SING = """
import runpy
import sys

from absl import flags

for module, arguments in [
    ("train", sys.argv[1:]), ("generate", ["--workdir=workdir", "--duration=0.4", "--output=song.wav"]),
]:
    sys.argv[1:] = arguments
    try:
        runpy.run_module(f"autosong_jax.{module}", run_name="__main__", alter_sys=True)
    except SystemExit as end:
        assert not end.code, end.code
    for name in list(flags.FLAGS):
        if name == "workdir" or name.startswith("config"):
            delattr(flags.FLAGS, name)
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The folder into which the wheel is installed, built from a copy: a build leaves things in the tree it is of."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in (*FOLDERS, "benchmarks", "tests"):
        shutil.copytree(ROOT / name, folder / "source" / name, ignore=shutil.ignore_patterns("__pycache__", "raw"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / "source")
    subprocess.run([sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "wheel", "--no-deps",
                    "--no-build-isolation", "--wheel-dir", folder, folder / "source"], check=True)
    [wheel] = folder.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(folder / "installed")  # all that there is to installing one of Python alone
    return folder / "installed"


def test_the_wheel_holds_every_file_of_its_packages_and_nothing_else(installed):
    def files(root, folders):
        return {path.relative_to(root) for folder in folders for path in (root / folder).rglob("*")
                if path.is_file() and "__pycache__" not in path.parts}

    assert files(installed, FOLDERS) == files(ROOT, FOLDERS)
    others = {path.name for path in installed.iterdir()} - set(FOLDERS)
    assert all(name.endswith(".dist-info") for name in others), others


def test_an_installed_package_trains_and_sings_without_the_checkout(installed, toy_dataset, tmp_path):
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(WITHOUT_CHECKOUT.format(installed=str(installed)))
    (tmp_path / "mine.py").write_text(CONFIG)
    (tmp_path / "both.py").write_text(TRAIN_AND_SING)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path / "site"), str(installed)]),
                                "XLA_FLAGS": "--xla_cpu_use_fusion_emitters=false"}  # one device, as users have

    def run(*arguments):
        return subprocess.run([sys.executable, *arguments], cwd=tmp_path, env=environment, capture_output=True,
                              text=True)

    process = run("both.py", "--config=mine.py", f"--config.data.path={toy_dataset}", "--workdir=workdir")
    assert process.returncode == 0, process.stderr
    assert (tmp_path / "song.wav").stat().st_size > 1000
    # The shipped config is found and takes its argument: what is missing next is the dataset.
    process = run("-m", "autosong_jax.train", "--config=configs/large.py:runlocal", "--workdir=x")
    assert "no dataset" in process.stderr, process.stderr
    process = run("-c", "import data_prep.export, importlib.util as u; print(u.find_spec('benchmarks'))")
    assert process.stdout == "None\n", process.stderr


def test_a_config_of_the_working_directory_comes_before_the_shipped_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("configs/large.py", "./configs/large.py", "configs/large.py:runlocal"):
        assert cli.config_file(name) == f"{ROOT}/configs/large.py{name.partition('.py')[2]}"
    for name in ("", "configs", "configs/nowhere.py", "large.py", "other/large.py", str(tmp_path / "configs/large.py")):
        assert cli.config_file(name) == name
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "large.py").touch()
    assert cli.config_file("configs/large.py:runlocal") == "configs/large.py:runlocal"
