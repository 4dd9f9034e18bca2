"""Pretrained models for `transformers`, from a local directory or from the hub, or one clear line why not.

A directory comes from others, so all that is in it is read here, by readers that take nothing on trust: `config.json`
as typed settings with bounds, tensors by name, of pickles nothing but tensors. What `transformers` gets is settings and
tensors; it opens no file.
"""

import contextlib
import dataclasses
import functools
import logging
import pathlib
from collections.abc import Iterator
from typing import Any

from autosong_jax import inputs
from autosong_jax.errors import UserError
from autosong_jax.weights import files

_PICKLES = "pytorch_model*.bin"
_SUFFIXES = (".bin", ".json", ".model", ".safetensors", ".txt")  # of files that are read
_MORE = 2**20  # numbers that a model may have beside those of its checkpoint, such as those of positions


@contextlib.contextmanager
def torch_needed(flag: str, value: str):
    """Raises UserError where the imports inside fail because the `prep` extra is not installed."""
    try:
        yield
    except ImportError as error:
        raise UserError(f"{flag}={value} needs PyTorch and transformers ({error}): pip install 'autosong_jax[prep]'"
                        ) from error


@contextlib.contextmanager
def plainly(flag: str, source: str) -> Iterator[None]:
    """Whatever a library raises inside, over a model that `source` names, becomes a UserError of one line."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # of torch, transformers, safetensors, the hub's client: they have classes of their own
        raise UserError(f"{flag}={source} cannot be used ({first_line(error)}): give a complete, unchanged checkpoint"
                        ) from error


def first_line(error: BaseException) -> str:
    """The first line of an error, without advice that may follow it."""
    return f"{type(error).__name__}: {str(error).strip()}".split("\n")[0].removesuffix(": ")


@functools.lru_cache(maxsize=16)
def locate(source: str, flag: str) -> pathlib.Path:
    """The directory of a checkpoint, as `files.locate` gives it; the hub's pickles come where it has nothing else."""
    directory = files.locate(source, flag)
    if not pathlib.Path(source).expanduser().is_dir() and not any(directory.glob("*.safetensors")):
        directory = files.locate(source, flag, (_PICKLES,))
    for path in directory.iterdir():  # a pipe among them would be waited for, by one reader or another
        if path.suffix in _SUFFIXES:
            inputs.stat_regular(path, f"{flag}={source}:")
    return directory


def read_config(source: str, flag: str, model_type: str) -> dict[str, Any]:
    """The contents of a checkpoint's `config.json`.

    Args:
      source: a directory written by `save_pretrained`, or a hub id.
      flag: the flag that `source` was given by, for errors.
      model_type: the one expected.

    Raises:
      UserError: it cannot be had, or is of another kind of model.
    """
    config = inputs.read_json(locate(source, flag) / "config.json", dict[str, Any], f"{flag}={source}:")
    if config.get("model_type") != model_type:
        raise UserError(f"{flag}={source} is a {config.get('model_type')} model, expected {model_type}")
    return config


def load(model_class: type, source: str, flag: str, settings: Any, **options):
    """A pretrained model in fp32, for inference, on the GPU if there is one.

    Args:
      model_class: a class of `transformers`.
      source: a directory written by `save_pretrained`, or a hub id.
      flag: the flag that `source` was given by, for errors.
      settings: a dataclass of those of its config that count, checked; None stands for the default.
      **options: of the model's constructor.

    Raises:
      UserError: it cannot be had, or its tensors are damaged, missing or of other shapes.
    """
    import torch
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # that it tries again is not news
    given = {name: value for name, value in dataclasses.asdict(settings).items() if value is not None}
    with plainly(flag, source):
        config = model_class.config_class(**given)
        with torch.device("meta"):  # which takes no memory, whatever the sizes are
            empty = model_class(config, **options)
        tensors = _tensors(locate(source, flag), source, flag)
        needed = sum(tensor.numel() for tensor in [*empty.parameters(), *empty.buffers()])
        held = sum(tensor.numel() for tensor in tensors.values())
        if needed > held + _MORE:
            raise UserError(f"{flag}={source}: its config.json is of a model of {needed} numbers, but its tensors have "
                            f"{held}: they do not belong together")
        model, loading = model_class.from_pretrained(None, config=config, state_dict=tensors, dtype=torch.float32,
                                                     output_loading_info=True, **options)
    if loading["missing_keys"]:
        raise UserError(f"{flag}={source} lacks the weights {', '.join(sorted(loading['missing_keys'])[:3])}, ...: "
                        "give a complete checkpoint")
    return place(model)


def place(model):
    """The model for inference, on the GPU if there is one."""
    import torch

    # The nearest codebook entry has to be the same as on a CPU: no TF32, no algorithm picked by timing.
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.deterministic = True
    return model.eval().to("cuda" if torch.cuda.is_available() else "cpu")


def _tensors(directory: pathlib.Path, source: str, flag: str) -> dict[str, Any]:
    """Those of a checkpoint: in float32, what is not of integers."""
    import numpy as np
    import torch

    from data_prep import unpickle

    pickles = sorted(directory.glob(_PICKLES))
    if pickles and not any((directory / name).exists() for name in (files.SINGLE, files.INDEX)):
        found = {}
        for path in pickles:
            found |= unpickle.split(unpickle.load(path, f"{flag}={source}:"))[0]
        return {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in found.items()}
    tensors = files.Tensors.open(directory)
    arrays = ((name, tensors.read(name)) for name in tensors)
    return {name: torch.from_numpy(array if array.dtype.kind in "biu" else np.asarray(array, np.float32))
            for name, array in arrays}


def revision(source: str) -> str:
    """What pins a model loaded from `source`: the hub's commit, or a digest of the directory's files."""
    if pathlib.Path(source).expanduser().is_dir():
        return files.digest(source)
    return locate(source, "the model").name  # the hub's cache calls each version's directory by its commit
