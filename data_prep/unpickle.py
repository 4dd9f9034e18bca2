"""Turns a checkpoint that PyTorch pickled into safetensors, which any program can read and none has to trust.

python -m data_prep.unpickle --input=state_dict.bin --output=DIR

Only tensors, numbers and texts are taken from a pickle, never code. DIR then holds `model.safetensors` with the tensors
and `metadata.json` with the rest.
"""

import json
import math
import pathlib
import re
import warnings
import zipfile
from typing import Any

from absl import flags

from autosong_jax import cli, inputs, outputs
from autosong_jax.errors import UserError
from autosong_jax.weights import files
from data_prep import hub

FLAGS = flags.FLAGS
_COPIES = 8  # how often the bytes of a file may be in its tensors: views of one another, of which each is written


def define_flags() -> None:
    """In a function, so that several commands can be imported into one process."""
    flags.DEFINE_string("input", None, "A .bin, .th or .pt file.")
    flags.DEFINE_string("output", None, "Directory to write, new or empty.")
    flags.mark_flags_as_required(["input", "output"])


def main() -> None:
    path, output = pathlib.Path(FLAGS.input), pathlib.Path(FLAGS.output)
    inputs.stat_regular(path, "--input")
    outputs.check_directory(output, "--output", empty=True)
    with hub.torch_needed("--input", FLAGS.input):
        import safetensors.torch
    tensors, rest = split(load(path, "--input"))
    if not (tensors or rest):
        raise UserError(f"--input {path} holds neither tensors nor texts: expected a state dictionary")
    with hub.plainly("--input", FLAGS.input), files.writing(output, "--output"):
        # Tensors of a pickle may share memory or be views; safetensors wants each by itself.
        copies = {name: tensor.clone().contiguous() for name, tensor in tensors.items()}
        output.mkdir(parents=True, exist_ok=True)
        safetensors.torch.save_file(copies, output / "model.safetensors", metadata={"format": "pt"})
        (output / "metadata.json").write_text(json.dumps(rest, indent=2) + "\n", encoding="utf-8")
    cli.say(f"{output}: {len(tensors)} tensors")


def load(path: pathlib.Path, what: str) -> Any:
    """What PyTorch pickled into a file: tensors, numbers, texts, and lists and dictionaries of them.

    Args:
      path: the file.
      what: what it was given by, for errors.

    Raises:
      UserError: it is no file, or holds anything else, of which nothing has been run.
    """
    import torch

    size = inputs.stat_regular(path, what).st_size
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                unpacked = sum(member.file_size for member in archive.infolist())
            if unpacked > size:  # PyTorch compresses nothing
                raise UserError(f"{what} {path} unpacks to {unpacked} bytes from {size}: no checkpoint of PyTorch does")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            content = torch.load(path, map_location="cpu", weights_only=True)
        claimed = sum(tensor.numel() * tensor.element_size() for tensor in split(content)[0].values())
    except UserError:
        raise
    except Exception as error:  # whatever the unpickler raises, some of it nobody's but its own
        raise UserError(f"{what} {path} holds more than weights, or is no checkpoint of PyTorch ({_reason(error)}): "
                        "only tensors, numbers and texts are read") from error
    if claimed > _COPIES * size:
        raise UserError(f"{what} {path} claims tensors of {claimed} bytes, but holds {size}: it is damaged")
    return content


def _reason(error: Exception) -> str:
    """What PyTorch found, without its advice to trust the file."""
    if found := re.search(r"GLOBAL (\S+)", str(error)):
        return f"it names {found[1]}"
    if isinstance(error, RuntimeError | OSError):
        return hub.first_line(error).partition(": ")[2].split(". ")[0]
    return type(error).__name__


def split(content: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """The tensors of a checkpoint by name, and its numbers and texts.

    Tensors are those of the dictionary itself, or of the state dictionary `best_state` in it, as audiocraft exports.
    """
    import torch

    if not isinstance(content, dict):
        return {}, {}
    state = content.get("best_state", content)
    state = state if isinstance(state, dict) else content
    tensors = {name: value for name, value in state.items()
               if isinstance(name, str) and isinstance(value, torch.Tensor)}
    rest = {name: value for name, value in content.items() if isinstance(name, str) and (
        isinstance(value, str | bool | int) or (isinstance(value, float) and math.isfinite(value)))}
    return tensors, rest


if __name__ == "__main__":
    define_flags()
    cli.run(main)
