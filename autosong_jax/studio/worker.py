"""One worker sings the songs that wait, one after another, in a thread of its own; requests look on."""

import asyncio
import contextlib
import pathlib
import secrets
import threading
import time
from collections import deque
from collections.abc import Mapping

import numpy as np

from autosong_jax.audio import io
from autosong_jax.cli import log
from autosong_jax.errors import UserError
from autosong_jax.sampling.edits import Edit
from autosong_jax.sampling.sound import GeneratedSong
from autosong_jax.studio import schema
from autosong_jax.studio.commands import clips, command
from autosong_jax.studio.library import Library, new_id
from autosong_jax.studio.models import CLIPS, TEXTS, Model, as_read

CHUNK_SECONDS = 0.5  # of sound, that is sent at a time


class QueueFull(Exception):
    """More songs wait than may."""


class _Removed(Exception):
    """The song that is sung is not wanted any more."""


class Changes:
    """Counts what changes, in any thread, and wakes those in the server's loop that wait for it; until it is over."""

    def __init__(self):
        self.count, self.over = 0, False
        self._loop, self._event = None, asyncio.Event()

    def end(self) -> None:
        """Nothing changes any more: those that wait for it may go."""
        self.over = True
        self.tell()

    def tell(self) -> None:
        """Something has changed."""
        self.count += 1
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the server has stopped
                self._loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        event, self._event = self._event, asyncio.Event()
        event.set()

    async def after(self, count: int, seconds: float) -> None:
        """Returns once something has changed since `count`, or after so many seconds."""
        self._loop = asyncio.get_running_loop()
        event = self._event
        if self.count == count:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(event.wait(), seconds)


class Sounding:
    """The sound of a song as it is made: 16-bit samples, little-endian, interleaved, in chunks that stay."""

    def __init__(self, sample_rate: int, channels: int):
        self.sample_rate, self.channels = sample_rate, channels
        self.chunks: list[bytes] = []
        self.samples, self.over = 0, False

    def add(self, audio: np.ndarray) -> None:
        """More of it, float32 [channels, samples]."""
        self.chunks.append(np.rint(np.clip(audio, -1, 1).T * 32767).astype("<i2").tobytes())
        self.samples += audio.shape[1]


class Worker:
    """Songs that wait, are sung, and are there.

    Args:
      models: by name.
      library: keeps them.
      most: how many may wait.

    Attributes:
      changes: tells when a song has changed.
    """

    def __init__(self, models: Mapping[str, Model], library: Library, most: int):
        self.models, self.library, self.most, self.changes = models, library, most, Changes()
        self._songs = {song.id: song for song in library.songs()}
        self._sounds: dict[str, Sounding] = {}
        self._waiting: deque[str] = deque()
        self._now: str | None = None
        self._changed = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="worker", daemon=True)

    def start(self) -> None:
        """Begins to sing."""
        self._thread.start()

    def stop(self) -> None:
        """Ends, in the middle of a song if there is one."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join(3)

    def songs(self) -> list[schema.Song]:
        """All songs, the newest first."""
        with self._changed:
            return [self._seen(song) for song in sorted(self._songs.values(), key=lambda song: song.id, reverse=True)]

    def song(self, song_id: str) -> schema.Song | None:
        """A song as it is now."""
        with self._changed:
            song = self._songs.get(song_id)
            return song and self._seen(song)

    def sounding(self, song_id: str) -> Sounding | None:
        """What is heard of a song that waits or is sung."""
        return self._sounds.get(song_id)

    def submit(self, request: schema.SongRequest) -> schema.Song:
        """Has a song wait.

        Raises:
          UserError: the request means nothing to its model.
          QueueFull: as many songs wait as may.
        """
        if request.model not in self.models:
            raise UserError(f"model {request.model!r}: expected one of {', '.join(self.models)}")
        model = self.models[request.model]
        texts = {name: as_read(text) or None for name in TEXTS if (text := getattr(request, name)) is not None}
        request = request.model_copy(update=texts)
        model.check(request)
        song = schema.Song(
            id=new_id(), created=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), status="queued", request=request,
            seed=secrets.randbelow(1_000_000) if request.seed is None else request.seed,
            sample_rate=model.about.sample_rate, channels=model.about.channels)
        song.command = command(song, model.about.workdir, self.library)  # which also finds the clips
        with self._changed:
            if len(self._waiting) >= self.most:
                raise QueueFull
            self.library.add(song)
            self._songs[song.id] = song
            self._sounds[song.id] = Sounding(song.sample_rate, song.channels)
            self._waiting.append(song.id)
            self._changed.notify()
            seen = self._seen(song)
        self.changes.tell()
        return seen

    def remove(self, song_id: str) -> bool:
        """Removes a song, whatever becomes of it at the moment; gives whether there was one."""
        with self._changed:
            song = self._songs.pop(song_id, None)
            if song is None:
                return False
            if song_id in self._waiting:
                self._waiting.remove(song_id)
            self._end_sound(song_id)
            if song_id != self._now:  # else the worker does so, once it has let go of it
                self.library.remove(song_id)
        self.changes.tell()
        return True

    def _seen(self, song: schema.Song) -> schema.Song:
        """A copy of a song with its place in the queue."""
        position = 0
        if song.id in self._waiting:
            position = self._waiting.index(song.id) + (self._now is not None)
        return song.model_copy(update={"position": position})

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._stopping)
                if self._stopping:
                    return
                self._now = self._waiting.popleft()
                song = self._songs[self._now]
                song.status = "singing"
            self.changes.tell()
            try:
                self._sing(song)
            except _Removed:
                pass
            except UserError as error:
                self._failed(song, str(error))
            except MemoryError:
                self._failed(song, "out of memory: ask for less at once")
            except Exception as error:  # the next song is to be sung all the same
                log.exception("song %s failed", song.id)
                self._failed(song, f"{type(error).__name__} in the studio; its log says more")
            with self._changed:
                self._now, song.aligning = None, False
                self._end_sound(song.id)
                if song.id not in self._songs:
                    self.library.remove(song.id)
            self.changes.tell()

    def _failed(self, song: schema.Song, error: str) -> None:
        song.status, song.error = "failed", error
        if song.id in self._songs:
            self.library.save(song)

    def _end_sound(self, song_id: str) -> None:
        if sound := self._sounds.pop(song_id, None):
            sound.over = True

    def _check(self, song: schema.Song) -> None:
        if self._stopping or song.id not in self._songs:
            raise _Removed

    def _sing(self, song: schema.Song) -> None:
        began, singer, request = time.perf_counter(), self.models[song.request.model].singer, song.request
        sound = self._sounds.get(song.id)
        if sound is None:
            raise _Removed
        given = {name: text for name in TEXTS if (text := getattr(request, name))}
        given |= {name: singer.read(str(path), CLIPS[name]) for name, path in clips(request, self.library).items()}
        options = request.options.given()

        def watch(share: float) -> None:
            self._check(song)
            song.progress = min(share, 1.0)
            self.changes.tell()

        def hear(audio: np.ndarray) -> None:
            self._check(song)
            sound.add(audio)
            song.heard = sound.samples / song.sample_rate
            self.changes.tell()

        if request.edit:
            edit = Edit([singer.read(str(self.library.clip(request.edit.clip)))], request.edit.spans,
                        request.edit.before, after=request.edit.after)
            made = singer.edit(edit, seed=song.seed, watch=watch, **given, **options)
            hear(made.audio)
        else:
            made = [singer.frames.none]
            for chunk in singer.stream(chunk_seconds=CHUNK_SECONDS, seed=song.seed, watch=watch, **given, **options):
                made.append(chunk.frames)
                hear(chunk.audio)
            made = GeneratedSong(np.concatenate(made), song.sample_rate, singer.codec.decode, sound.samples)
        self._keep(song, made, began)
        given.pop("prompt_audio", None)
        self._align(song, made, given)

    def _keep(self, song: schema.Song, made: GeneratedSong, began: float) -> None:
        """Writes a song that is sung. Raises UserError where there is nothing of it."""
        if not made.audio.size:
            raise UserError("the song is empty, since the model ended it at once: try another seed or other words")
        song.frames, song.seconds = len(made.frames), made.audio.shape[1] / song.sample_rate
        song.clipped = self.library.keep(song, made.frames, made.audio)
        song.took = round(time.perf_counter() - began, 2)
        with self._changed:
            self._check(song)
            song.status, song.progress = "done", 1.0
            self.library.save(song)
            self._end_sound(song.id)

    def _align(self, song: schema.Song, made: GeneratedSong, given: Mapping) -> None:
        """Finds out when the lines of a song are sung, where the model tells."""
        singer = self.models[song.request.model].singer
        try:
            singer.check_align(**given)
            song.aligning = True
            self.changes.tell()
            alignment = singer.align(made.frames, **given)
        except UserError as error:
            log.info("song %s: no times of its lines (%s)", song.id, error)
            return
        self._check(song)
        self.library.path(song.id, "lrc").write_text(alignment.lrc(), encoding="utf-8")
        song.lines = [schema.SungLine(**vars(line)) for line in alignment.lines]
        song.aligning = False
        self.library.save(song)


def peaks(path: pathlib.Path, count: int) -> list[float]:
    """The largest magnitude of each of `count` parts of an audio file, 0 to 1."""
    audio, _ = io.read(path)
    loudest = np.abs(audio).max(axis=0)
    ends = np.linspace(0, len(loudest), min(count, len(loudest)) + 1).astype(int)
    return [round(float(value), 3) for value in np.maximum.reduceat(loudest, ends[:-1])]
