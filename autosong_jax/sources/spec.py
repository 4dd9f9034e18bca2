"""The kinds of sources by the name that a config gives them. Another kind is a line here, beside its folder."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from autosong_jax.errors import UserError
from autosong_jax.sources.base import SourceSpec
from autosong_jax.sources.chroma.spec import ChromaSpec
from autosong_jax.sources.position.spec import PositionSpec
from autosong_jax.sources.recording.spec import BackingSpec, StyleSpec
from autosong_jax.sources.text.encoders import TextEncoderInfo
from autosong_jax.sources.text.spec import TextSpec

if TYPE_CHECKING:
    from autosong_jax.codecs.info import CodecInfo

SOURCES: dict[str, type[SourceSpec]] = {
    "text": TextSpec, "chroma": ChromaSpec, "backing": BackingSpec, "style": StyleSpec, "position": PositionSpec}
IN_RECORDS = ("text",)  # the kinds that records of every dataset hold
# The kinds that records can hold: those that say what.
STORABLE = tuple(kind for kind, spec in SOURCES.items() if spec.features is not SourceSpec.features)


def source_specs(sources: Mapping[str, Any], text: TextEncoderInfo, codec: "CodecInfo", dropped: str = "absent"
                 ) -> dict[str, SourceSpec]:
    """The sources of a model by name.

    Args:
      sources: those of its config: of each `kind` and `max_length` are read.
      text, codec, dropped: see `SourceSpec`.

    Raises:
      UserError: if a source is of no known kind, or its kind has no source of that name.
    """
    specs = {}
    for name, source in sources.items():
        kind = SOURCES.get(source.kind)
        if kind is None:
            raise UserError(f"sources.{name}.kind {source.kind!r}: expected one of {', '.join(SOURCES)}")
        if name not in kind.names:
            raise UserError(f"a source {name!r} of kind {source.kind}: expected one of {', '.join(kind.names)}")
        specs[name] = kind(name, text, codec, source.max_length, dropped)
    return specs


def record_specs(text: TextEncoderInfo, codec: "CodecInfo", kinds: Iterable[str] = IN_RECORDS) -> list[SourceSpec]:
    """All sources of those kinds, as records hold them."""
    return [SOURCES[kind](name, text, codec) for kind in kinds for name in SOURCES[kind].names]


def recordings_of(kinds: Iterable[str]) -> tuple[str, ...]:
    """The recordings beside a song's own audio that sources of those kinds are made of."""
    return tuple(name for kind in kinds for name in SOURCES[kind].recordings)
