"""Finding songs: a folder with one folder a song, or a JSONL manifest. What cannot be used is named with its reason."""

import codecs
import dataclasses
import json
import pathlib

from autosong_jax.errors import UserError

_AUDIO_SUFFIXES = {".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".au", ".m4a", ".aac", ".wma"}


@dataclasses.dataclass(frozen=True)
class Song:
    """A song as the user gave it. Texts are stripped, with "\\n" between lines; "" where there is none."""

    id: str
    audio: pathlib.Path
    group: str  # songs of one group (an album, versions of one work, ...) never stand in different splits
    lyrics: str
    genre: str = ""
    description: str = ""


@dataclasses.dataclass(frozen=True)
class LeftOut:
    """A song that cannot be used, and why."""

    song: str
    reason: str


class _Unusable(Exception):
    """The song at hand is to be left out; the message is the reason."""


def find_songs(source: str | pathlib.Path, *, require_lyrics: bool = True) -> tuple[list[Song], list[LeftOut]]:
    """The songs in a folder or a manifest, and what had to be left out; audio is not opened yet.

    A folder holds a folder a song: `NAME/lyrics.txt`, `NAME/audio.*` (or one audio file of another name) and, if
    wanted, `genre.txt`, `description.txt` and `group.txt`. Its files may not be links that lead out of the folder.

    A manifest is a file with a JSON object a line: `id`, `audio`, `lyrics` or `lyrics_file` and, if wanted, `genre`,
    `description` and `group`; other keys are ignored, relative paths start at the manifest's own folder. A manifest
    may name files anywhere.

    Args:
      source: the folder or the manifest.
      require_lyrics: whether a song without lyrics is left out.

    Returns:
      Songs with distinct ids in the order of their ids, and what was left out in the order it was met.

    Raises:
      UserError: `source` does not exist or cannot be read.
    """
    source = pathlib.Path(source)
    try:
        if source.is_dir():
            entries = _folder_entries(source)
        elif source.is_file():
            entries = _manifest_entries(source)
        else:
            raise UserError(f"--input={source} does not exist: give a folder of songs or a JSONL manifest")
    except OSError as error:
        raise UserError(f"--input={source} cannot be read: {error.strerror}") from error
    songs: dict[str, Song] = {}
    left_out = []
    for name, load in entries:
        try:
            song = load()
            if not song.lyrics and require_lyrics:
                raise _Unusable("no lyrics (--norequire_lyrics keeps songs without)")
            _check_encodable(song)
            if song.id in songs:
                raise _Unusable(f"the id {song.id!r} has already been used")
            songs[song.id] = song
        except _Unusable as error:
            left_out.append(LeftOut(name.encode(errors="replace").decode(), str(error)))
    return [songs[key] for key in sorted(songs)], left_out


def _folder_entries(root: pathlib.Path):
    """(name, function that loads the song) for each song's folder; loose audio files are reported, others ignored."""
    entries = []
    for path in sorted(root.iterdir(), key=lambda path: path.name):
        if path.name.startswith("."):
            continue
        if path.is_dir():
            entries.append((path.name, lambda path=path: _load_folder(path, root.resolve())))
        elif path.suffix.lower() in _AUDIO_SUFFIXES:
            entries.append((path.name, _refuse("a loose audio file: put it into a folder of its own, with lyrics.txt")))
    return entries


def _load_folder(folder: pathlib.Path, root: pathlib.Path) -> Song:
    _check_inside(folder, root)

    def text(name: str) -> str:
        path = folder / name
        if not path.exists():
            return ""
        _check_inside(path, root)
        return _read_text(path)

    try:
        audio = _audio_in(folder)
    except OSError as error:
        raise _Unusable(f"the folder cannot be read: {error.strerror}") from error
    _check_inside(audio, root)
    return Song(id=folder.name, audio=audio, group=text("group.txt") or folder.name, lyrics=text("lyrics.txt"),
                genre=text("genre.txt"), description=text("description.txt"))


def _audio_in(folder: pathlib.Path) -> pathlib.Path:
    """`audio.*`, or else the only audio file of any name."""
    files = sorted(path for path in folder.iterdir() if not path.is_dir() and not path.name.startswith("."))
    found = [path for path in files if path.stem == "audio"]
    found = found or [path for path in files if path.suffix.lower() in _AUDIO_SUFFIXES]
    if not found:
        raise _Unusable("no audio file (audio.wav, .flac, .ogg or .mp3)")
    if len(found) > 1:
        raise _Unusable(f"several audio files ({', '.join(path.name for path in found)}): keep one")
    return found[0]


def _check_inside(path: pathlib.Path, root: pathlib.Path) -> None:
    if not path.resolve().is_relative_to(root):
        raise _Unusable(f"{path.name} is a link out of the songs folder (a manifest may name files anywhere)")


def _manifest_entries(manifest: pathlib.Path):
    """(name, function that loads the song) for each line that is not blank."""
    entries = []
    for number, line in enumerate(manifest.read_bytes().splitlines(), start=1):
        line = line.removeprefix(codecs.BOM_UTF8)
        if not line.strip():
            continue
        where = f"line {number}"
        try:
            record = json.loads(line)
        except ValueError as error:
            entries.append((where, _refuse(f"not a JSON object: {error}")))
            continue
        if not isinstance(record, dict):
            entries.append((where, _refuse(f"not a JSON object but {type(record).__name__}")))
            continue
        name = str(record["id"]) if record.get("id") is not None else where
        entries.append((name, lambda record=record: _load_record(record, manifest.parent)))
    return entries


def _load_record(record: dict, folder: pathlib.Path) -> Song:
    def text(key: str) -> str:
        value = record.get(key)
        if value is None:
            return ""
        if not isinstance(value, str):
            raise _Unusable(f"{key!r} is {value!r}, expected a string")
        return _tidy(value)

    if isinstance(record.get("id"), int):
        record = {**record, "id": str(record["id"])}
    if not text("id"):
        raise _Unusable("no 'id' in the manifest")
    if not text("audio"):
        raise _Unusable("no 'audio' in the manifest")
    if text("lyrics") and text("lyrics_file"):
        raise _Unusable("both 'lyrics' and 'lyrics_file' in the manifest")
    lyrics = _read_text(folder / text("lyrics_file")) if text("lyrics_file") else text("lyrics")
    return Song(id=text("id"), audio=folder / text("audio"), group=text("group") or text("id"), lyrics=lyrics,
                genre=text("genre"), description=text("description"))


def _check_encodable(song: Song) -> None:
    """File names and JSON escapes can hold halves of characters, which no file format takes."""
    try:
        "".join((song.id, song.group, song.lyrics, song.genre, song.description)).encode()
    except UnicodeEncodeError as error:
        raise _Unusable(f"its name or a text holds {error.object[error.start]!r}, which is no character") from error


def _refuse(reason: str):
    def load():
        raise _Unusable(reason)
    return load


def _read_text(path: pathlib.Path) -> str:
    """A UTF-8 file (or UTF-16 with a byte order mark). Other encodings are refused: guessing garbles lyrics."""
    try:
        data = path.read_bytes()
        utf16 = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        text = data.decode("utf-16" if utf16 else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise _Unusable(f"{path.name} is not UTF-8 (byte {error.start}): save it as UTF-8") from error
    except OSError as error:
        raise _Unusable(f"{path.name} cannot be read: {error.strerror}") from error
    if "\0" in text:
        raise _Unusable(f"{path.name} is not a text file")
    return _tidy(text)


def _tidy(text: str) -> str:
    """One kind of line end, no blanks around."""
    return text.replace("\r\n", "\n").replace("\r", "\n").strip()
