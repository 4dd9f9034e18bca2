"""What config files share: typed arguments, and the shrinking of any config to a laptop's minute.

A config file defines `get_config(arg)`, which starts from `configs/default.py` and says what differs. Fields are set on
the command line with `--config.field=value`; what comes after a colon in `--config=configs/NAME.py:...` is `arg`.
"""

import json
import pathlib
import re
from collections.abc import Iterable
from typing import Any

import ml_collections

from autosong_jax.errors import UserError


def parse_arg(arg: str | None, **defaults) -> ml_collections.ConfigDict:
    """Reads "name,name=value,..." with the types of `defaults`; a bare name is True.

    Raises:
      UserError: if a name is not among the defaults or a value is not of its type.
    """
    values = ml_collections.ConfigDict(defaults)
    for item in filter(None, (arg or "").split(",")):
        name, given, text = item.partition("=")
        if name not in defaults:
            raise UserError(f"config argument {name!r}: expected one of {', '.join(defaults)}")
        kind = type(defaults[name])
        try:
            values[name] = {"true": True, "false": False, "": not given}[text.lower()] if kind is bool else kind(text)
        except (KeyError, ValueError):
            raise UserError(f"config argument {name}={text}: expected a value of type {kind.__name__}") from None
    return values


def patterns(field: str, expressions: Iterable[str]) -> list[re.Pattern]:
    """Regular expressions of a field. Raises UserError for one that is none."""
    try:
        return [re.compile(expression) for expression in expressions]
    except re.error as error:
        raise UserError(f"{field} {error.pattern!r} is no regular expression: {error}") from error


def run_local(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """Shrinks `config` in place so that it trains on a laptop's CPU in about a minute; its structure stays as it is."""
    config.model.update(width=64, heads=2, layers=2, mlp_width=256, max_positions=8192)
    for source in config.sources.values():
        source.update(max_length=min(source.max_length, 512), width=32, heads=2, layers=1)
    config.data.update(batch_size=4, seconds=min(config.data.seconds, 4.0))
    config.optimizer.update(warmup_steps=5)
    config.train.update(
        steps=20, accumulation=1, log_every=5, eval_every=10, checkpoint_every=10, sample_every=0, remat="none")
    config.mesh.update(data=1, fsdp=-1, tensor=1)
    return config


def to_json(config: ml_collections.ConfigDict) -> str:
    """`config` as JSON, the same for equal configs (a tuple is a list there)."""
    return json.dumps(config.to_dict(), indent=2, sort_keys=True) + "\n"


def save(config: ml_collections.ConfigDict, path: pathlib.Path) -> None:
    """Writes `config` as JSON."""
    path.write_text(to_json(config), encoding="utf-8")


def load(path: pathlib.Path) -> ml_collections.ConfigDict:
    """Reads what `save` wrote. Fields that an older version did not have get their defaults.

    Raises:
      UserError: if there is no such file or it is not a config.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if "sources" not in values:  # a released model has a config.json, too
            raise ValueError("it says nothing of sources")
        config = _with_defaults(values)
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{path} is no config of a trained model ({error}): expected a workdir that "
                        "`python -m autosong_jax.train` or `python -m autosong_jax.convert` wrote") from None
    return config


def _with_defaults(values: dict[str, Any]) -> ml_collections.ConfigDict:
    from configs import default

    config = default.base()
    config.sources = ml_collections.ConfigDict()  # those of the defaults are not the model's
    with config.ignore_type():  # JSON has no tuples
        config.update(ml_collections.ConfigDict(values))
    return config
