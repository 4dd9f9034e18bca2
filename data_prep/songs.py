"""Finding songs: a folder with one folder a song, or a JSONL manifest. What cannot be used is named with its reason."""

import codecs
import dataclasses
import functools
import os
import pathlib
from collections.abc import Callable, Collection, Iterator
from typing import Annotated, Any

import pydantic

from autosong_jax import inputs
from autosong_jax.errors import UserError
from autosong_jax.sources.spec import SOURCES, recordings_of

AUDIO_SUFFIXES = {".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".au", ".m4a", ".aac", ".wma"}
_SHORT = 2**14  # characters of a name, a genre or a description
_LINE_LIMIT = 8 * inputs.TEXT_LIMIT  # bytes of a manifest's line: of lyrics as long as may be, with their escapes
_MANIFEST_LIMIT = 2**33  # bytes of a manifest: those of a million songs
_BESIDE = recordings_of(SOURCES)  # recordings beside the song itself
_ASKED = ", which --sources asks for"
_BROKEN_LINES = 1000  # a file that begins with so many lines that are not JSON is no manifest


@dataclasses.dataclass(frozen=True)
class Song:
    """A song as the user gave it. Texts are stripped, with "\\n" between lines; "" where there is none."""

    id: str
    audio: pathlib.Path
    group: str  # songs of one group (an album, versions of one work, ...) never stand in different splits
    lyrics: str
    genre: str = ""
    description: str = ""
    backing: pathlib.Path | None = None  # what the song goes with; None where nobody asks for it


@dataclasses.dataclass(frozen=True)
class LeftOut:
    """A song that cannot be used, and why."""

    song: str
    reason: str


class _Unusable(Exception):
    """The song at hand is to be left out; the message is the reason."""


Load = Callable[[Collection[str]], Song]  # what else than its audio a song must have -> the song


def find_songs(source: str | pathlib.Path, *, require_lyrics: bool = True, recordings: Collection[str] = ()
               ) -> tuple[list[Song], list[LeftOut]]:
    """The songs in a folder or a manifest, and what had to be left out; audio is not opened yet.

    A folder holds a folder a song: `NAME/lyrics.txt`, `NAME/audio.*` (or one audio file of another name) and, if
    wanted, `genre.txt`, `description.txt`, `group.txt` and `backing.*`. Its files may not be links that lead out of the
    folder.

    A manifest is a file with a JSON object a line: `id`, `audio`, `lyrics` or `lyrics_file` and, if wanted, `genre`,
    `description`, `group` and `backing`; other keys are ignored, relative paths start at the manifest's own folder. A
    manifest may name files anywhere.

    Args:
      source: the folder or the manifest.
      require_lyrics: whether a song without lyrics is left out.
      recordings: what else than its audio a song must have, or is left out; nothing else is looked for.

    Returns:
      Songs with distinct ids in the order of their ids, and what was left out in the order it was met.

    Raises:
      UserError: `source` does not exist, cannot be read or is nothing of the kind.
    """
    source = pathlib.Path(source)
    songs: dict[str, Song] = {}
    left_out = []
    try:
        for name, load in _folder_entries(source) if _is_folder(source) else _manifest_entries(source):
            try:
                song = load(recordings)
                if not song.lyrics and require_lyrics:
                    raise _Unusable("no lyrics (--norequire_lyrics keeps songs without)")
                _check_texts(song)
                if song.id in songs:
                    raise _Unusable(f"the id {song.id!r} has already been used")
                songs[song.id] = song
            except _Unusable as error:
                left_out.append(LeftOut(name.encode(errors="replace").decode(), str(error)))
    except OSError as error:
        raise UserError(f"--input={source} cannot be read: {inputs.reason(error)}") from error
    return [songs[key] for key in sorted(songs)], left_out


def _is_folder(source: pathlib.Path) -> bool:
    """Raises UserError if it is no file either."""
    if not source.is_dir():
        inputs.stat_regular(source, "--input, a folder of songs or a JSONL manifest,")
        return False
    return True


def _folder_entries(root: pathlib.Path) -> Iterator[tuple[str, Load]]:
    """(name, what loads the song) for each song's folder; loose audio files are reported, others ignored."""
    whole = root.resolve()
    for path in sorted(root.iterdir(), key=lambda path: path.name):
        if path.name.startswith("."):
            continue
        if path.is_dir():
            yield path.name, functools.partial(_load_folder, path, whole)
        elif path.suffix.lower() in AUDIO_SUFFIXES:
            yield path.name, _refuse("a loose audio file: put it into a folder of its own, with lyrics.txt")
        elif path.is_symlink() and not path.exists():
            yield path.name, _refuse("a link that leads nowhere")


def _load_folder(folder: pathlib.Path, root: pathlib.Path, recordings: Collection[str]) -> Song:
    def text(name: str) -> str:
        path = folder / name
        if not os.path.lexists(path):
            return ""
        _check_inside(path, root)
        return _read_text(path)

    try:
        _check_inside(folder, root)
        audio = {name: _audio_in(folder, name) for name in ("audio", *recordings)}
        for path in audio.values():
            _check_inside(path, root)
        return Song(id=folder.name, group=text("group.txt") or folder.name, lyrics=text("lyrics.txt"),
                    genre=text("genre.txt"), description=text("description.txt"), **audio)
    except OSError as error:
        raise _Unusable(f"the folder cannot be read: {inputs.reason(error)}") from error


def _audio_in(folder: pathlib.Path, name: str) -> pathlib.Path:
    """`NAME.*`; of the song itself, `audio.*`, or else the only audio file of any name that is no other recording's."""
    files = sorted(path for path in folder.iterdir() if not path.is_dir() and not path.name.startswith("."))
    found = [path for path in files if path.stem == name]
    if name == "audio" and not found:
        found = [path for path in files if path.suffix.lower() in AUDIO_SUFFIXES and path.stem not in _BESIDE]
    if not found:
        raise _Unusable(f"no {name} file ({name}.wav, .flac, .ogg or .mp3)" + _ASKED * (name in _BESIDE))
    if len(found) > 1:
        raise _Unusable(f"several {name} files ({_shortened(', '.join(path.name for path in found))}): keep one")
    return found[0]


def _check_inside(path: pathlib.Path, root: pathlib.Path) -> None:
    try:
        inside = path.resolve().is_relative_to(root)
    except RuntimeError as error:  # what Python before 3.13 says of links that lead in a circle
        raise _Unusable(f"{path.name}: its links lead in a circle") from error
    if not inside:
        raise _Unusable(f"{path.name} is a link out of the songs folder (a manifest may name files anywhere)")


_Id = Annotated[str, pydantic.BeforeValidator(lambda value: str(value) if type(value) is int else value)]


@dataclasses.dataclass(frozen=True)
class _Named:
    id: _Id


@dataclasses.dataclass(frozen=True)
class _Line:
    """What a line of a manifest says of a song; null is as good as nothing."""

    id: _Id
    audio: str
    lyrics: str | None = None
    lyrics_file: str | None = None
    genre: str | None = None
    description: str | None = None
    group: str | None = None
    backing: str | None = None


def _manifest_entries(manifest: pathlib.Path) -> Iterator[tuple[str, Load]]:
    """(name, what loads the song) for each line that is not blank."""
    all_broken = True
    for number, line in enumerate(_lines(manifest), start=1):
        if line is None:
            yield f"line {number}", _refuse(f"longer than {_LINE_LIMIT} bytes")
            continue
        line = line.removeprefix(codecs.BOM_UTF8)
        if not line.strip():
            continue
        try:
            inputs.parse_json(line, dict[str, Any], "the line")
        except UserError as error:
            if all_broken and number >= _BROKEN_LINES:
                raise UserError(f"--input={manifest} is no manifest: none of its first {number} lines is a JSON object"
                                ) from error
            yield f"line {number}", _refuse(f"not a JSON object: {error}")
            continue
        all_broken = False
        try:
            name = inputs.parse_json(line, _Named, "the line").id
        except UserError:
            name = ""
        yield name[:_SHORT] or f"line {number}", functools.partial(_load_line, line, manifest.parent)


def _lines(manifest: pathlib.Path) -> Iterator[bytes | None]:
    """The lines of a file, None for one that is too long. Raises UserError if the file is."""
    size = inputs.stat_regular(manifest, "--input").st_size
    if size > _MANIFEST_LIMIT:
        raise UserError(f"--input={manifest} holds {size} bytes, expected at most {_MANIFEST_LIMIT}: give its songs in "
                        "several manifests, or a folder")
    with open(os.open(manifest, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        while line := file.readline(_LINE_LIMIT + 1):
            if len(line) <= _LINE_LIMIT:
                yield line
                continue
            while line and not line.endswith(b"\n"):
                line = file.readline(_LINE_LIMIT)
            yield None


def _load_line(data: bytes, folder: pathlib.Path, recordings: Collection[str]) -> Song:
    try:
        line = inputs.parse_json(data, _Line, "the line")
    except UserError as error:
        raise _Unusable(f"in the manifest, {error}") from error
    text = {name: _tidy(value or "") for name, value in dataclasses.asdict(line).items()}
    for name in ("id", "audio"):
        if not text[name]:
            raise _Unusable(f"in the manifest, the line has an empty {name}")
    if text["lyrics"] and text["lyrics_file"]:
        raise _Unusable("in the manifest, the line has both lyrics and lyrics_file")
    lyrics = _read_text(folder / text["lyrics_file"]) if text["lyrics_file"] else text["lyrics"]
    for name in recordings:
        if not text[name]:
            raise _Unusable(f"in the manifest, the line has no {name}{_ASKED}")
    return Song(id=text["id"], group=text["group"] or text["id"], lyrics=lyrics, genre=text["genre"],
                description=text["description"], **{name: folder / text[name] for name in ("audio", *recordings)})


def _check_texts(song: Song) -> None:
    """File names and JSON escapes can hold halves of characters, which no file format takes, and NUL; and there is a
    length from which on a name is none."""
    limits = {"id": _SHORT, "group": _SHORT, "lyrics": inputs.TEXT_LIMIT, "genre": _SHORT, "description": _SHORT}
    for name, limit in limits.items():
        text = getattr(song, name)
        if len(text) > limit:
            raise _Unusable(f"its {name} is {len(text)} characters long, expected at most {limit}")
        if "\0" in text:
            raise _Unusable(f"its {name} holds NUL")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise _Unusable(f"its {name} holds {text[error.start]!r}, which is no character") from error


def _refuse(reason: str) -> Load:
    def load(recordings):
        raise _Unusable(reason)
    return load


def _read_text(path: pathlib.Path) -> str:
    try:
        return inputs.read_text(path, "text")
    except UserError as error:  # what is said must not hang on where the songs are
        raise _Unusable(_shortened(path.name) + str(error).removeprefix(f"text {path}")) from error


def _shortened(text: str) -> str:
    return text if len(text) <= 100 else f"{text[:97]}..."


def _tidy(text: str) -> str:
    """One kind of line end, no blanks around."""
    return text.replace("\r\n", "\n").replace("\r", "\n").strip()
