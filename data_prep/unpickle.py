"""Turns a checkpoint that PyTorch pickled into safetensors, which any program can read and none has to trust.

python -m data_prep.unpickle --input=state_dict.bin --output=DIR

Only tensors, numbers and texts are taken from a pickle, never code. DIR then holds `model.safetensors` with the tensors
and `metadata.json` with the rest.
"""

import json
import pathlib
import re
from typing import Any

from absl import flags

from autosong_jax import cli
from autosong_jax.errors import UserError
from data_prep import hub

FLAGS = flags.FLAGS


def define_flags() -> None:
    """In a function, so that several commands can be imported into one process."""
    flags.DEFINE_string("input", None, "A .bin, .th or .pt file.")
    flags.DEFINE_string("output", None, "Directory to write.")
    flags.mark_flags_as_required(["input", "output"])


def main() -> None:
    path = pathlib.Path(FLAGS.input)
    if not path.is_file():
        raise UserError(f"--input={path} is missing or not a file")
    with hub.torch_needed("--input", FLAGS.input):
        import safetensors.torch
    tensors, rest = split(read(path, "--input"))
    if not (tensors or rest):
        raise UserError(f"--input={path} holds neither tensors nor texts: expected a state dictionary")
    output = pathlib.Path(FLAGS.output)
    output.mkdir(parents=True, exist_ok=True)
    # Tensors of a pickle may share memory or be views; safetensors wants each by itself.
    safetensors.torch.save_file({name: tensor.clone().contiguous() for name, tensor in tensors.items()},
                                output / "model.safetensors", metadata={"format": "pt"})
    (output / "metadata.json").write_text(json.dumps(rest, indent=2) + "\n", encoding="utf-8")
    print(f"{output}: {len(tensors)} tensors")


def read(path: pathlib.Path, flag: str) -> Any:
    """What a pickle holds, on the CPU. Raises UserError, which names `flag`, where it holds more than weights."""
    import torch

    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever the unpickler raises, some of it nobody's but its own
        raise UserError(f"{flag}={path} holds more than weights, or is no checkpoint of PyTorch ({_reason(error)}): "
                        "only tensors, numbers and texts are read") from error


def _reason(error: Exception) -> str:
    """What PyTorch found, without its advice to trust the file."""
    if found := re.search(r"GLOBAL (\S+)", str(error)):
        return f"it names {found[1]}"
    return str(error).split(". ")[0] if isinstance(error, (RuntimeError, OSError)) else type(error).__name__


def split(content: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """The tensors of a checkpoint by name, and its numbers and texts.

    Tensors are those of the dictionary itself, or of the state dictionary `best_state` in it, as audiocraft exports.
    """
    import torch

    if not isinstance(content, dict):
        return {}, {}
    state = content.get("best_state", content)
    tensors = {name: value for name, value in state.items() if isinstance(value, torch.Tensor)}
    rest = {name: value for name, value in content.items() if isinstance(value, (str, bool, int, float))}
    return tensors, rest


if __name__ == "__main__":
    define_flags()
    cli.run(main)
