"""Finding recordings: in folders, in playlists, behind URLs, as whole mixes or as the stems that a user brings."""

import dataclasses
import os
import pathlib
import re
import shlex
import subprocess
import urllib.parse
from collections.abc import Callable, Iterable, Iterator

from autosong_jax import inputs
from autosong_jax.errors import UserError
from data_prep.songs import AUDIO_SUFFIXES
from data_prep.work import Results, digest

MIX = ""  # the name of the one file of a recording that has no stems
_STEMS = {"vocals", "drums", "bass", "other", "guitar", "piano"}
_SUMS = {"mix", "mixture", "master"}  # what lies beside stems, and is their sum
_LEAST_STEMS = 2  # files called like stems, from which on a folder is one recording
_PLAYLISTS = {".m3u", ".m3u8", ".txt"}
_TEXTS = ("lyrics", "genre", "description", "group")
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://\S")


@dataclasses.dataclass(frozen=True)
class Recording:
    """A finished recording: one file, called `MIX`, or its stems. Texts are "" where there are none.

    `lyrics` are those of the whole recording. `content` is a digest of the audio files.
    """

    name: str
    files: tuple[tuple[str, pathlib.Path], ...]
    lyrics: str = ""
    genre: str = ""
    description: str = ""
    group: str = ""
    content: str = ""


@dataclasses.dataclass(frozen=True)
class LeftOut:
    """A recording that no songs are made of, and why. `key` is of all that this comes from, where asking again costs
    much."""

    recording: str
    reason: str
    key: str = ""


Fetched = Callable[[list[str]], dict[str, pathlib.Path | str]]
"""Files, or the reasons why there are none, of URLs."""


def check_source(source: str) -> None:
    """Raises UserError if there is none of that name."""
    if not pathlib.Path(source).is_dir():
        inputs.stat_regular(source, "--input, a folder, a recording or a playlist,")


def find_recordings(sources: Iterable[str], lead: Iterable[str], fetch: Fetched) -> tuple[list[Recording],
                                                                                          list[LeftOut]]:
    """The recordings in folders, files and playlists, in the order of their names, and what had to be left out.

    A folder is looked through with all folders in it, but for hidden ones. Where at least two audio files of a folder
    are called like stems (vocals, drums, bass, other, guitar, piano, or one of `lead`), all of them are the stems of
    one recording, `mix`, `mixture` and `master` aside. `genre.txt`, `description.txt` and `group.txt` of a folder are
    those of every recording in it, `lyrics.txt` that of its only one.

    Raises:
      UserError: a source does not exist or cannot be read.
    """
    finder = _Finder(set(lead), fetch)
    for source in dict.fromkeys(sources):
        finder.add(source)
    found = {}
    for recording in sorted(finder.recordings, key=lambda recording: (recording.name, recording.files)):
        found.setdefault(recording.files, recording)
    return list(found.values()), finder.left_out


class _Finder:
    def __init__(self, lead: set[str], fetch: Fetched):
        self.lead, self.stems, self.fetch = lead, lead | _STEMS, fetch
        self.recordings: list[Recording] = []
        self.left_out: list[LeftOut] = []

    def add(self, source: str) -> None:
        check_source(source)
        path = pathlib.Path(source).absolute()
        if path.is_dir():
            self.folder(path, path)
        elif path.suffix.lower() in _PLAYLISTS:
            self.playlist(path)
        else:
            self.files(path.parent, path.parent, [path])

    def folder(self, root: pathlib.Path, top: pathlib.Path) -> None:
        """All recordings in `root`; names start at `top`."""
        def refuse(error: OSError) -> None:
            self.left_out.append(LeftOut(_name(pathlib.Path(error.filename), top), f"the folder cannot be read: "
                                         f"{inputs.reason(error)}"))

        for place, folders, names in os.walk(root, onerror=refuse):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            place = pathlib.Path(place)
            self.files(place, top, [place / name for name in sorted(names) if _is_audio(name)])

    def files(self, place: pathlib.Path, top: pathlib.Path, paths: list[pathlib.Path]) -> None:
        """The recordings that files of one folder are."""
        if not paths:
            return
        stems = sum(path.stem.lower() in self.stems for path in paths) >= _LEAST_STEMS
        name = _name(place, top) if stems else ""
        try:
            texts = _texts(place, lyrics=bool(stems) or sum(map(_is_audio, os.listdir(place))) == 1)
        except UserError as error:
            names = [name] if stems else [_name(path, top) for path in paths]
            self.left_out += [LeftOut(name, str(error)) for name in names]
            return
        if stems:
            files = [(path.stem.lower(), path) for path in paths if path.stem.lower() not in _SUMS]
            if reason := self.why_not({stem for stem, _ in files}, len(files)):
                self.left_out.append(LeftOut(name, reason))
            else:
                self.recordings.append(Recording(name, tuple(sorted(files)), **texts))
        else:
            self.recordings += [Recording(_name(path, top), ((MIX, path),), **texts) for path in paths]

    def why_not(self, stems: set[str], files: int) -> str:
        """Why stems are of no use; "" if they are."""
        if len(stems) < files:
            return f"several files of one stem ({', '.join(sorted(stems))}): keep one of each"
        if not stems & self.lead:
            return f"none of its stems ({', '.join(sorted(stems))}) is the lead (--lead={','.join(sorted(self.lead))})"
        if not stems - self.lead:
            return f"all of its stems ({', '.join(sorted(stems))}) are the lead (--lead), so there is no backing"
        return ""

    def playlist(self, path: pathlib.Path) -> None:
        """What the lines of a playlist name; paths start at its folder."""
        lines = [line.strip() for line in inputs.read_text(path, "--input").split("\n")]
        lines = list(dict.fromkeys(line for line in lines if line and not line.startswith("#")))
        urls = [line for line in lines if _URL.match(line) and not line.startswith("file://")]
        fetched = self.fetch(urls) if urls else {}
        for line in lines:
            found = fetched.get(line) or path.parent / (
                urllib.parse.unquote(urllib.parse.urlsplit(line).path) if line.startswith("file://") else line)
            if isinstance(found, str):
                self.left_out.append(LeftOut(line, found))
            elif line in fetched:
                self.recordings.append(Recording(line, ((MIX, found),)))
            elif _is_folder(found):
                self.folder(found, found.parent)
            elif os.path.lexists(found):
                self.files(found.parent, found.parent, [found])
            else:
                self.left_out.append(LeftOut(line, f"{path.name} names it, but it does not exist"))


def _is_audio(name: str) -> bool:
    return not name.startswith(".") and pathlib.Path(name).suffix.lower() in AUDIO_SUFFIXES


def _is_folder(path: pathlib.Path) -> bool:
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


def _name(path: pathlib.Path, top: pathlib.Path) -> str:
    relative = path.relative_to(top) if path != top else pathlib.Path(path.name)
    return str(relative).encode(errors="replace").decode()


def _texts(place: pathlib.Path, *, lyrics: bool) -> dict[str, str]:
    """What the text files of a folder hold, by their names. Raises UserError for one that cannot be used."""
    texts = {}
    for name in _TEXTS:
        path = place / f"{name}.txt"
        if os.path.lexists(path) and (lyrics or name != "lyrics"):
            try:
                texts[name] = inputs.read_text(path, "text")
            except UserError as error:  # what is said must not hang on where the recordings are
                raise UserError(str(error).removeprefix(f"text {path.parent}{os.sep}")) from error
    return texts


def fetch(url: str, command: str, results: Results) -> pathlib.Path | str:
    """The file that a command makes of a URL, or the reason why there is none. What was fetched once is kept.

    The command is to write {output}, to whose name it may add a suffix. It is run without a shell.
    """
    if not command:
        return "a URL: --fetch says what command fetches it"
    key = digest("fetched", url, command)
    place = results.file("fetched", key)

    def fill(directory: pathlib.Path) -> None:
        replaced = {"{url}": url, "{output}": str(directory / "audio")}
        words = [re.sub(r"\{(?:url|output)\}", lambda found: replaced[found[0]], word) for word in shlex.split(command)]
        try:
            done = subprocess.run(words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        except (OSError, ValueError) as error:
            raise UserError(f"--fetch={command} cannot be run: {inputs.reason(error)}") from error
        if done.returncode:
            said = done.stderr.decode(errors="replace").strip().split("\n")[-1][:200]
            raise _NotFetched(f"--fetch ended with status {done.returncode}{said and ': '}{said}")
        if len(list(directory.iterdir())) != 1:
            raise _NotFetched("--fetch left no file at {output}, or several")

    try:
        if not place.exists():
            results.make_directory("fetched", key, fill)
    except _NotFetched as error:
        return str(error)
    return next(place.iterdir())


class _NotFetched(Exception):
    """The message is the reason."""


def with_groups(recordings: Iterable[Recording]) -> Iterator[Recording]:
    """The recordings with their groups filled in: the user's, or else the recording, known by its content, so that no
    other has the same, however near the names are. One song in two formats (song.flac, song.mp3) is one group."""
    first: dict[pathlib.Path, str] = {}
    for recording in recordings:
        stem, path = recording.files[0]
        song = path.with_suffix("") if stem == MIX else path.parent
        own = first.setdefault(song, f"{recording.name} {recording.content[:16]}")
        yield dataclasses.replace(recording, group=recording.group or own)
