"""The notebooks, run from top to bottom as a user runs them, at the size of a toy; and their files."""

import os
import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from colab import notebooks
from tests import musicgens

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Where the notebooks find what they would fetch."""
    folder = tmp_path_factory.mktemp("hub")
    toy = musicgens.make_musicgen("mono", folder / "musicgen")
    toy.model.text_encoder.save_pretrained(folder / "t5")
    (folder / "t5" / "tokenizer.json").write_bytes((toy.directory / "tokenizer.json").read_bytes())
    musicgens.save_as_audiocraft(toy, folder / "magnet", masked=True, t5=str(folder / "t5"), seconds=1)
    musicgens.make_musicgen("melody", folder / "melody")
    return {"AUTOSONG_MUSICGEN": str(folder / "musicgen"), "AUTOSONG_MUSICGEN_MELODY": str(folder / "melody"),
            "AUTOSONG_MAGNET": str(folder / "magnet")}


@pytest.mark.timeout(1800)  # on a busy machine; each imports JAX and compiles several models
@pytest.mark.parametrize("name", notebooks.NAMES)
def test_every_cell_runs(name, models, tmp_path):
    notebook = nbformat.read(notebooks.notebook_path(name), as_version=4)
    environment = os.environ | models | {
        "AUTOSONG_TOY": "1", "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        "XLA_FLAGS": re.sub(r"--xla_force_host_platform_device_count=\d+", "", os.environ["XLA_FLAGS"])}
    try:
        NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute(env=environment)
    finally:
        if folder := os.environ.get("AUTOSONG_NOTEBOOKS"):  # a folder for what came out, to look at
            nbformat.write(notebook, Path(folder) / f"{name}.ipynb")
    shown = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    said = "".join(output.get("text", "") for output in shown)
    assert "error:" not in said and "Traceback" not in said, said  # a command that fails stops no notebook
    assert sum("<audio" in output.get("data", {}).get("text/html", "") for output in shown) >= 2


@pytest.mark.parametrize("name", notebooks.NAMES)
def test_notebook_and_twin_agree_and_nothing_is_left_of_a_run(name):
    written = notebooks.notebook_path(name).read_text(encoding="utf-8")
    assert written == notebooks.as_text(notebooks.notebook_of(name)), "make notebooks"
    notebook = nbformat.reads(written, as_version=4)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert cell.execution_count is None and cell.outputs == []
    assert notebook.metadata.kernelspec.name == "python3" and notebook.metadata.accelerator == "GPU"
    twin = (notebooks.FOLDER / f"{name}.py").read_text(encoding="utf-8")
    assert twin == notebooks.with_repository(twin, name) and notebooks.COLAB in notebook.cells[0].source


def test_all_install_alike():
    cells = [next(cell for cell in notebooks.notebook_of(name).cells if "install" in cell.metadata.get("tags", ()))
             for name in notebooks.NAMES]
    assert len({re.sub("NEEDS = .*", "", cell.source) for cell in cells}) == 1
    assert {path.stem for path in notebooks.FOLDER.glob("*.ipynb")} == set(notebooks.NAMES)


def test_the_address_of_the_repository_is_in_one_place(monkeypatch):
    twin = (notebooks.FOLDER / "demo.py").read_text(encoding="utf-8")
    monkeypatch.setattr(notebooks, "REPOSITORY", "https://github.com/someone/songs")
    text = notebooks.with_repository(twin, "demo")
    assert f"]({notebooks.COLAB}someone/songs/blob/main/colab/demo.ipynb)" in text
    assert '\nREPOSITORY = "https://github.com/someone/songs"  #' in text
    assert notebooks.with_repository(text, "demo") == text
