"""Writes colab/NAME.ipynb from its twin, colab/NAME.py, for each of the notebooks.

python -m colab.notebooks

The twins are what is edited: text, in the percent format of jupytext.
"""

import pathlib
import re

import jupytext
import nbformat

REPOSITORY = ""  # https://github.com/OWNER/NAME, where this is published; "" while nobody has said where
FOLDER = pathlib.Path(__file__).parent
NAMES = ("demo", "your_songs", "musicgen", "magnet_editing", "accompaniment_continuous")
COLAB = "https://colab.research.google.com/github/"  # by itself it asks for the repository


def main() -> None:
    for name in NAMES:
        twin = FOLDER / f"{name}.py"
        twin.write_text(with_repository(twin.read_text(encoding="utf-8"), name), encoding="utf-8")
        notebook_path(name).write_text(as_text(notebook_of(name)), encoding="utf-8")
        print(notebook_path(name))


def with_repository(text: str, name: str) -> str:
    """The text of a twin whose badge and first cell know where the repository is."""
    where = REPOSITORY.removeprefix("https://github.com/")
    link = f"{COLAB}{where}/blob/main/colab/{name}.ipynb" if where else COLAB
    text = re.sub(re.escape(COLAB) + r"[^)]*", lambda _: link, text)
    return re.sub(r'^REPOSITORY = ".*?"', lambda _: f'REPOSITORY = "{REPOSITORY}"', text, flags=re.MULTILINE)


def notebook_path(name: str) -> pathlib.Path:
    """Where the notebook of this name lies."""
    return FOLDER / f"{name}.ipynb"


def notebook_of(name: str) -> nbformat.NotebookNode:
    """The notebook that a twin says, without outputs."""
    notebook = jupytext.read(FOLDER / f"{name}.py", fmt="py:percent")
    del notebook.metadata["jupytext"]
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{number}"  # jupytext draws one anew each time
    return notebook


def as_text(notebook: nbformat.NotebookNode) -> str:
    """A notebook as its file holds it, the same for equal notebooks."""
    return nbformat.writes(notebook, version=4)


if __name__ == "__main__":
    main()
