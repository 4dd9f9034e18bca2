"""Songs and uploads on disk. Every name in there is made here: nothing that a request says becomes part of a path.

OUTPUT/ID/             a song: song.json, and when it is sung song.wav, song.flac, codes.npy; lyrics.txt, song.lrc
OUTPUT/uploads/ID.wav  a recording that was sent here, as it was decoded, beside ID.json
"""

import fcntl
import os
import pathlib
import re
import secrets
import shutil
import threading
import time
from typing import TypeVar

import numpy as np
import pydantic

from autosong_jax import inputs, outputs
from autosong_jax.audio import io
from autosong_jax.cli import log
from autosong_jax.errors import UserError
from autosong_jax.studio import schema

MOST_UPLOADS = 2**31  # bytes of all of them
FILES = {"wav": "song.wav", "flac": "song.flac", "codes": "codes.npy", "lrc": "song.lrc", "lyrics": "lyrics.txt"}
_ID = re.compile(schema.ID)
_LIMIT = 2**22  # bytes of a song.json
T = TypeVar("T", bound=pydantic.BaseModel)


class Library:
    """The folder of a studio, which it has for itself.

    Args:
      folder: is made if need be.

    Attributes:
      folder: as it was given, for command lines.

    Raises:
      UserError: it cannot be written, or another studio has it.
    """

    def __init__(self, folder: pathlib.Path):
        outputs.check_directory(folder, "--output")
        (folder / "uploads").mkdir(parents=True, exist_ok=True)
        self.folder, self._uploading = folder, threading.Lock()
        self._lock = open(folder / ".lock", "w")  # noqa: SIM115 (held as long as the studio lives)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(f"--output={folder} is that of a studio which runs already: choose another folder"
                            ) from None
        for leftover in (folder / "uploads").glob(".unfinished-*"):
            shutil.rmtree(leftover, ignore_errors=True)

    def close(self) -> None:
        """Lets another studio have the folder."""
        self._lock.close()

    def songs(self) -> list[schema.Song]:
        """All songs, the oldest first; those that were not finished when the studio stopped are `interrupted`."""
        songs = []
        for folder in sorted(path for path in self.folder.iterdir() if _ID.fullmatch(path.name)):
            if not (folder / "song.json").exists():
                continue
            try:
                song = _read(folder / "song.json", schema.Song)
            except UserError as error:
                log.warning("%s: passed over", error)
                continue
            if song.id != folder.name:
                log.warning("%s/song.json is of song %s: passed over", folder, song.id)
                continue
            if song.status in ("queued", "singing"):
                song.status, song.error = "interrupted", "the studio was stopped before this song was sung"
            songs.append(song)
        return songs

    def add(self, song: schema.Song) -> None:
        """Makes the folder of a new song, with its lyrics."""
        (self.folder / song.id).mkdir()
        if song.request.lyrics:
            self.path(song.id, "lyrics").write_text(song.request.lyrics + "\n", encoding="utf-8")
        self.save(song)

    def save(self, song: schema.Song) -> None:
        """Writes what is known of a song."""
        _write(self.folder / song.id / "song.json", song)

    def keep(self, song: schema.Song, frames: np.ndarray, audio: np.ndarray) -> int:
        """Writes a song, frames [T, D] and audio float32 [channels, samples]; gives how many samples were clipped."""
        np.save(self.path(song.id, "codes"), frames)
        io.write(self.path(song.id, "flac"), audio, song.sample_rate)
        return io.write(self.path(song.id, "wav"), audio, song.sample_rate)

    def remove(self, song_id: str) -> None:
        """Removes a song."""
        shutil.rmtree(self.folder / song_id, ignore_errors=True)

    def path(self, song_id: str, kind: str) -> pathlib.Path:
        """Where a song has one of `FILES`."""
        return self.folder / song_id / FILES[kind]

    def has(self, song_id: str, kind: str) -> bool:
        """Whether it is there."""
        return self.path(song_id, kind).is_file()

    def workplace(self) -> pathlib.Path:
        """A new folder for an upload while it is looked at."""
        folder = self.folder / "uploads" / f".unfinished-{new_id()}"
        folder.mkdir()
        return folder

    def add_upload(self, decoded: pathlib.Path, upload: schema.Upload) -> None:
        """Takes a decoded recording over. Raises UserError where there are too many."""
        with self._uploading:
            held = sum(path.stat().st_size for path in (self.folder / "uploads").glob("*.wav"))
            if held + decoded.stat().st_size > MOST_UPLOADS:
                raise UserError(f"the recordings in {self.folder / 'uploads'} take {held / 2**20:.0f} MiB, expected at "
                                f"most {MOST_UPLOADS / 2**20:.0f} with this one: remove some")
            os.replace(decoded, self.upload(upload.id))
            _write(self.upload(upload.id).with_suffix(".json"), upload)

    def upload(self, upload_id: str) -> pathlib.Path:
        """Where a recording is, or would be."""
        return self.folder / "uploads" / f"{upload_id}.wav"

    def remove_upload(self, upload_id: str) -> None:
        """Removes a recording."""
        for suffix in (".wav", ".json"):
            self.upload(upload_id).with_suffix(suffix).unlink(missing_ok=True)

    def clip(self, clip: schema.Clip, kind: str = "codes") -> pathlib.Path:
        """The file of a clip: a recording, or of a song what `kind` says. Raises UserError where there is none."""
        path = self.upload(clip.upload) if clip.upload else self.path(clip.song, kind)
        if not path.is_file():
            what = "recording was sent that has it" if clip.upload else "song has it, or it is not sung yet"
            raise UserError(f"{'upload' if clip.upload else 'song'} {clip.upload or clip.song}: no {what}")
        return path


def new_id() -> str:
    """An id that none has: sorted by time, and not to be guessed."""
    return f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{secrets.token_hex(4)}"


def _read(path: pathlib.Path, kind: type[T]) -> T:
    return inputs.read_json(path, kind, "song", limit=_LIMIT)


def _write(path: pathlib.Path, what: pydantic.BaseModel) -> None:
    unfinished = path.with_name(f".unfinished-{path.name}")
    unfinished.write_text(what.model_dump_json(indent=1) + "\n", encoding="utf-8")
    unfinished.replace(path)
