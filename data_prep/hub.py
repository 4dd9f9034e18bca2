"""Pretrained models for `transformers`, from a local directory or from the hub, or one clear line why not."""

import contextlib
import logging
import pathlib
import shlex

from autosong_jax.errors import UserError
from autosong_jax.pretrained.files import digest


@contextlib.contextmanager
def torch_needed(flag: str, value: str):
    """Raises UserError where the imports inside fail because the `prep` extra is not installed."""
    try:
        yield
    except ImportError as error:
        raise UserError(f"{flag}={value} needs PyTorch and transformers ({error}): pip install 'autosong_jax[prep]'"
                        ) from error


def load(model_class: type, source: str, flag: str, **options):
    """A pretrained model in fp32, for inference, on the GPU if there is one.

    Args:
      model_class: a class of `transformers`.
      source: a directory written by `save_pretrained`, or a hub id.
      flag: the flag that `source` was given by, for errors.
      **options: further ones of `from_pretrained`.

    Raises:
      UserError: it cannot be had, is another kind of model, or lacks weights.
    """
    import torch
    import transformers

    config = from_pretrained(transformers.AutoConfig, source, flag)
    expected = model_class.config_class.model_type
    if config.model_type != expected:
        raise UserError(f"{flag}={source} is a {config.model_type} model, expected {expected}")
    options |= {"dtype": torch.float32, "output_loading_info": True}
    model, loading = from_pretrained(model_class, source, flag, **options)
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


def from_pretrained(cls: type, source: str, flag: str, **options):
    """cls.from_pretrained(source), with one line for a user if that fails.

    Raises:
      UserError: it fails.
    """
    import transformers

    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # that it tries again is not news
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    try:
        return cls.from_pretrained(source, **options)
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().split("\n")[0]
        if pathlib.Path(source).is_dir():
            raise UserError(f"{flag}={source} is not a directory that save_pretrained wrote: {reason}") from error
        if source.startswith(("/", ".", "~")):
            raise UserError(f"{flag}={source} is not a directory") from error
        raise UserError(f"{flag}={source} is no directory here and could not be fetched from the hub ({reason}): where "
                        f"there is a network, run `hf download {shlex.quote(source)} --local-dir DIR`, and give DIR"
                        ) from error


def revision(source: str, model) -> str:
    """What pins a model loaded from `source`: the hub's commit, or a digest of the directory's files."""
    return getattr(model.config, "_commit_hash", None) or digest(source)
