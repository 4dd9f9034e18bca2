"""The text encoders that can be asked for, and what they warn of in the texts of a song."""

import contextlib
import pathlib
import threading
import warnings
from collections.abc import Iterator

from autosong_jax.errors import UserError
from autosong_jax.sources.text import encoders as text
from autosong_jax.sources.text.encoders import TextEncoderInfo
from autosong_jax.weights import files
from data_prep import hub

FLAG = "--text_encoder"
STATES = {"stored": "states", "on_the_fly": "tokens"}  # what records hold for a frozen encoder, by --text_states
_IDS, _FROZEN = ("bytes", "pinyin"), ("bert", "t5", "mt5", "umt5")
_NOTES, _NOTE = 10, 300  # warnings kept of a song's text, and characters of each
_catching = threading.Lock()  # what Python keeps of warnings is one for all threads


def get_text_encoder(name: str, states: str = "stored"):
    """An encoder of ids (`bytes`, `pinyin`) or a frozen one (`t5:ID` and the like); both have `info`.

    Args:
      name: of the encoder.
      states: one of `STATES`.

    Raises:
      UserError: there is no such encoder, it cannot be had, or it has no states.
    """
    if name in _IDS:
        if states != "stored":
            raise UserError(f"--text_states={states} is for frozen encoders, but {FLAG}={name}")
        return text.get_text_encoder(name)
    kind, _, source = name.partition(":")
    if kind not in _FROZEN or not source:
        frozen = ", ".join(f"{kind}:ID" for kind in _FROZEN)
        raise UserError(f"{FLAG}={name} is not known: expected {', '.join(_IDS)}, or {frozen} with a hub id or a "
                        "directory as ID")
    with hub.torch_needed(FLAG, name):
        from data_prep import frozen_text
    return frozen_text.FrozenTextEncoder(kind, source, records_hold=STATES[states])


def load(info: TextEncoderInfo, directory: pathlib.Path | None):
    """The encoder that `info` is of, for a worker; `directory` is what a frozen one has been saved in."""
    if not info.frozen:
        return text.get_text_encoder(info.name)
    from data_prep import frozen_text

    return frozen_text.FrozenTextEncoder(info.name.partition(":")[0], str(directory), info=info)


def in_workers(encoder) -> bool:
    """Whether it encodes in local worker processes, or else, on a GPU, in this one."""
    return encoder.info.kind != "states" or encoder.device.type == "cpu"


def made_from(name: str) -> str:
    """The encoder's name, with a digest in place of a directory's path."""
    kind, colon, source = name.partition(":")
    return kind + colon + files.digest(source) if source else name


@contextlib.contextmanager
def noting() -> Iterator[list[str]]:
    """A list that holds, in the end, the warnings that were given meanwhile."""
    notes = []
    with _catching, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield notes
    found = sorted({str(warning.message) for warning in caught})
    notes += [note if len(note) <= _NOTE else f"{note[:_NOTE - 3]}..." for note in found[:_NOTES]]
    if len(found) > _NOTES:
        notes.append(f"... and {len(found) - _NOTES} more of the kind")
