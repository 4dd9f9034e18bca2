"""Songs of which it is known when each syllable is sung, as a songbook has them: a folder each, with `notes.json`."""

import dataclasses
import pathlib
import re
from typing import Annotated

import pydantic

from autosong_jax import inputs
from autosong_jax.errors import UserError

FILES = ("lyrics.txt", "notes.json")
_TAG = re.compile(r"\[[^\]\n]*\]")
_Seconds = Annotated[float, pydantic.Field(ge=0)]


@dataclasses.dataclass(frozen=True)
class TimedSyllable:
    """An entry of `notes.json`, times in seconds."""

    syllable: Annotated[str, pydantic.Field(min_length=1)]
    start: _Seconds
    end: _Seconds


@dataclasses.dataclass(frozen=True)
class TimedSong:
    """A song with known times.

    Attributes:
      name: of its folder.
      lyrics: of it.
      genre: of it; None where there is no `genre.txt`.
      audio: its file.
      syllables: in the order in which they are sung, which is that of the lyrics.
      characters: where in the lyrics each of them begins.
    """

    name: str
    lyrics: str
    genre: str | None
    audio: pathlib.Path
    syllables: list[TimedSyllable]
    characters: list[int]

    @property
    def times(self) -> list[tuple[int, float]]:
        """(a character of the lyrics, the second in which it begins)."""
        return [(at, syllable.start) for at, syllable in zip(self.characters, self.syllables, strict=True)]

    @classmethod
    def read(cls, folder: pathlib.Path) -> "TimedSong":
        """Of a folder with `audio.*`, `lyrics.txt` and `notes.json`. Raises UserError where they cannot be used."""
        audio = sorted(folder.glob("audio.*"))
        if not audio:
            raise UserError(f"{folder} has no audio.wav: expected a song with lyrics.txt, notes.json and audio.wav")
        lyrics = inputs.read_text(folder / "lyrics.txt", "lyrics")
        genre = folder / "genre.txt"
        syllables = inputs.read_json(folder / "notes.json", list[TimedSyllable], "notes")
        return cls(folder.name, lyrics, inputs.read_text(genre, "genre") if genre.exists() else None, audio[0],
                   syllables, _places(lyrics, syllables, folder / "notes.json"))


def read_songs(folder: str | pathlib.Path, most: int, flag: str) -> list[TimedSong]:
    """The first songs of a folder of them, in the order of their names.

    Args:
      folder: of folders, of which those without `FILES` are left out.
      most: how many.
      flag: what `folder` was given by, for errors.

    Raises:
      UserError: there is none, or one cannot be used.
    """
    folder = pathlib.Path(folder)
    if not folder.is_dir():
        raise UserError(f"{flag}={folder}: expected a folder of songs")
    songs = sorted(song for song in folder.iterdir() if all((song / name).exists() for name in FILES))
    if not songs:
        raise UserError(f"{flag}={folder}: expected folders of songs with {' and '.join(FILES)}, such as "
                        "data_prep.songbook makes; found none")
    return [TimedSong.read(song) for song in songs[:most]]


def _places(lyrics: str, syllables: list[TimedSyllable], what: pathlib.Path) -> list[int]:
    """Where each syllable begins in the lyrics, tags aside. Raises UserError for one that does not come there."""
    text = _TAG.sub(lambda tag: " " * len(tag[0]), lyrics).lower()
    places, at = [], 0
    for syllable in syllables:
        at = text.find(syllable.syllable.lower(), at)
        if at < 0:
            raise UserError(f"{what} has the syllable {syllable.syllable!r}, which the lyrics lack at its place: "
                            "expected the syllables of the lyrics in their order")
        places.append(at)
        at += len(syllable.syllable)
    return places
