"""The kinds of codec. One is added by a folder of its name beside this file, and a line here.

The folder holds `settings.py`, which imports neither JAX nor PyTorch and has what stands here, and `codec.py`, whose
`load` gives a codec of its files; of a `PlainInfo` alone, `of` gives it, too.
"""

import dataclasses
from typing import Any

from autosong_jax.codecs.dac.settings import DacInfo
from autosong_jax.codecs.encodec.settings import EncodecInfo
from autosong_jax.codecs.info import CodecInfo, PlainInfo
from autosong_jax.codecs.mel.settings import MelInfo
from autosong_jax.codecs.melrvq.settings import MelRVQInfo
from autosong_jax.codecs.pcm.settings import PcmInfo
from autosong_jax.errors import UserError

CODECS: dict[str, type[CodecInfo]] = {
    "melrvq": MelRVQInfo, "encodec": EncodecInfo, "dac": DacInfo, "mel": MelInfo, "pcm": PcmInfo}


def kind_with_settings(name: str) -> str | None:
    """The KIND that `KIND` or `KIND:SETTING=NUMBER,...` names, one that has settings; None of any other name."""
    kind = name.partition(":")[0]
    return kind if kind in CODECS and CODECS[kind].settings else None


def settings_of(name: str, flag: str) -> Any:
    """The settings in a name that `kind_with_settings` knows, with the default ones for the others.

    Args:
      name: the name.
      flag: what it was given by, for errors.

    Raises:
      UserError: there is no such setting, or the number means nothing.
    """
    config = CODECS[kind_with_settings(name)].settings
    kinds = {field.name: field.type for field in dataclasses.fields(config)}
    settings = {}
    for item in filter(None, name.partition(":")[2].split(",")):
        setting, _, value = item.partition("=")
        if setting in settings:
            raise UserError(f"{flag}={name}: {setting} is given twice")
        try:
            settings[setting] = kinds[setting](value)
        except (KeyError, ValueError):
            raise UserError(f"{flag}={name}: {item!r} is not SETTING=NUMBER with one of {', '.join(kinds)}") from None
    return config(**settings)


def plain_info(name: str, flag: str) -> PlainInfo | None:
    """The codec that `KIND:SETTING=NUMBER,...` describes, of a kind that has nothing but settings; None of other names.

    Raises:
      UserError: as `settings_of`.
    """
    kind = kind_with_settings(name)
    if kind is None or not issubclass(CODECS[kind], PlainInfo):
        return None
    return CODECS[kind].of(settings_of(name, flag))
