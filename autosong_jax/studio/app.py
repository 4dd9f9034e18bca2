"""The studio over HTTP: its page, and a small REST API that /api/openapi.json describes."""

import asyncio
import contextlib
import http
import json
import pathlib
import re
import shutil
import struct
import unicodedata
from collections.abc import AsyncIterator
from typing import TypeVar
from urllib.parse import unquote

import pydantic
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from autosong_jax import inputs
from autosong_jax.cli import STEERING, log
from autosong_jax.errors import UserError
from autosong_jax.studio import decoding, schema
from autosong_jax.studio.library import Library, new_id
from autosong_jax.studio.openapi import Call, describe
from autosong_jax.studio.worker import QueueFull, Sounding, Worker, peaks

STATIC = pathlib.Path(__file__).parent / "static"
JSON_LIMIT = 2**18  # bytes of a request: a song's lyrics a dozen times
BODY_SECONDS = 300  # that a body may take to arrive
BEAT = 15.0  # seconds of silence, after which a stream of events says that it is still there
PER_SECOND = 10  # events, at most
MOST_LISTED = 500  # songs
MOST_PEAKS = 4000
_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml",
          ".txt": "text/plain"}
_DOWNLOADS = {"wav": "audio/wav", "flac": "audio/flac", "codes": "application/octet-stream",
              "lrc": "text/plain; charset=utf-8"}
T = TypeVar("T", bound=pydantic.BaseModel)


class Studio:
    """What answers requests.

    Args:
      worker: sings.
      library: where the worker keeps songs.
      max_upload_bytes: of a recording, as it is sent.
    """

    def __init__(self, worker: Worker, library: Library, max_upload_bytes: int):
        self.worker, self.library, self.max_upload_bytes = worker, library, max_upload_bytes
        self._decoding = asyncio.Semaphore(1)  # of recordings, one at a time
        song = "/api/songs/{id:id}"
        self.calls = [
            Call("GET", "/api/models", self.list_models, gives=schema.Models),
            Call("POST", "/api/lyrics", self.look_at_lyrics, schema.LyricsRequest, schema.LyricsReport,
                 errors=(413, 415)),
            Call("POST", "/api/songs", self.sing, schema.SongRequest, schema.Song, 202, errors=(413, 415, 429)),
            Call("GET", "/api/songs", self.list_songs, gives=schema.Songs, query={
                "limit": {"type": "integer", "minimum": 1, "maximum": MOST_LISTED, "default": 100},
                "before": {"type": "string", "pattern": schema.ID}}),
            Call("GET", song, self.get_song, gives=schema.Song, errors=(404,)),
            Call("DELETE", song, self.delete_song, status=204, errors=(404,)),
            Call("GET", f"{song}/audio", self.get_audio, gives="audio/wav", errors=(404, 409, 416), query={
                "format": {"type": "string", "enum": ["wav", "flac"], "default": "wav"}}),
            Call("GET", f"{song}/stream", self.stream, gives="audio/wav", errors=(404, 409)),
            Call("GET", f"{song}/peaks", self.get_peaks, gives=schema.Peaks, errors=(404, 409), query={
                "count": {"type": "integer", "minimum": 1, "maximum": MOST_PEAKS, "default": 1000}}),
            Call("GET", f"{song}/codes", self.get_codes, gives="application/octet-stream", errors=(404, 409)),
            Call("GET", f"{song}/lrc", self.get_lrc, gives="text/plain", errors=(404, 409)),
            Call("GET", f"{song}/json", self.get_json, gives=schema.Song, errors=(404,)),
            Call("GET", "/api/events", self.events, gives="text/event-stream"),
            Call("POST", "/api/uploads", self.upload, "application/octet-stream", schema.Upload, 201, {
                "name": {"type": "string"}}, errors=(413,)),
            Call("DELETE", "/api/uploads/{id:id}", self.delete_upload, status=204, errors=(404,)),
        ]

    def app(self) -> Starlette:
        """The application. While it lives, the worker sings."""
        description = describe(self.calls)

        async def openapi(request: Request) -> Response:
            return JSONResponse(description)

        @contextlib.asynccontextmanager
        async def living(app: Starlette) -> AsyncIterator[None]:
            self.worker.start()
            yield
            await run_in_threadpool(self.worker.stop)
            self.library.close()

        errors = {HTTPException: _http_error, UserError: _user_error, QueueFull: self._queue_full,
                  ClientDisconnect: _gone, Exception: _broken}
        return Starlette(routes=[*_static_routes(), Route("/api/openapi.json", openapi),
                                 *(call.route for call in self.calls)],
                         exception_handlers=errors, lifespan=living)

    async def list_models(self, request: Request) -> Response:
        """The models, and what each takes."""
        models = [model.about for model in self.worker.models.values()]
        return _json(schema.Models(models=models, queue=self.worker.most, max_upload_bytes=self.max_upload_bytes))

    async def look_at_lyrics(self, request: Request) -> Response:
        """What a model makes of lyrics: how much of them it reads, and what it does not understand."""
        asked = await _asked(request, schema.LyricsRequest)
        if asked.model not in self.worker.models:
            raise UserError(f"model {asked.model!r}: expected one of {', '.join(self.worker.models)}")
        return _json(await run_in_threadpool(self.worker.models[asked.model].look_at, asked.lyrics))

    async def sing(self, request: Request) -> Response:
        """Asks for a song, which waits until those before it are sung."""
        asked = await _asked(request, schema.SongRequest)
        song = await run_in_threadpool(self.worker.submit, asked)
        return _json(song, 202, {"Location": f"/api/songs/{song.id}"})

    async def list_songs(self, request: Request) -> Response:
        """Songs, the newest first; `before` an id, if there are more than `limit`."""
        limit = _number(request, "limit", 100, MOST_LISTED)
        before = request.query_params.get("before")
        songs = [song for song in self.worker.songs() if before is None or song.id < before]
        return _json(schema.Songs(songs=songs[:limit], more=len(songs) > limit))

    async def get_song(self, request: Request) -> Response:
        """A song as it is now."""
        return _json(self._song(request))

    async def delete_song(self, request: Request) -> Response:
        """Removes a song; one that waits or is sung is cancelled."""
        if not await run_in_threadpool(self.worker.remove, request.path_params["id"]):
            raise HTTPException(404, _no_song(request))
        return Response(status_code=204)

    async def get_audio(self, request: Request) -> Response:
        """A song that is sung, whole or a range of its bytes."""
        kind = request.query_params.get("format", "wav")
        if kind not in ("wav", "flac"):
            raise UserError(f"format {kind[:40]!r}: expected wav or flac")
        return self._file(request, kind)

    async def get_codes(self, request: Request) -> Response:
        """The codes of a song, as NumPy keeps them: integers [frames, codebooks]."""
        return self._file(request, "codes")

    async def get_lrc(self, request: Request) -> Response:
        """When the lines of a song are sung, as players of karaoke read it."""
        return self._file(request, "lrc")

    async def get_json(self, request: Request) -> Response:
        """What is known of a song, its command line and seed among it, as a file."""
        song = self._song(request)
        return Response(song.model_dump_json(indent=1) + "\n", media_type="application/json", headers={
            "Content-Disposition": f'attachment; filename="{song.id}.json"'})

    async def get_peaks(self, request: Request) -> Response:
        """The outline of a song, to draw it by."""
        song, count = self._sung(request), _number(request, "count", 1000, MOST_PEAKS)
        return _json(schema.Peaks(seconds=song.seconds, peaks=await run_in_threadpool(
            peaks, self.library.path(song.id, "wav"), count)))

    async def stream(self, request: Request) -> Response:
        """The sound of a song from its beginning on, as it is made: a WAV file that does not say how long it is.

        Of a song that is sung already, its file.
        """
        song = self._song(request)
        sound = self.worker.sounding(song.id)
        if sound is None:
            return self._file(request, "wav")
        return StreamingResponse(self._sound(sound), media_type="audio/wav", headers={
            "X-Sample-Rate": str(sound.sample_rate), "X-Channels": str(sound.channels)})

    async def _sound(self, sound: Sounding) -> AsyncIterator[bytes]:
        yield _wav_header(sound.sample_rate, sound.channels)
        sent = 0
        while True:
            count, over = self.worker.changes.count, sound.over or self.worker.changes.over
            while sent < len(sound.chunks):
                yield sound.chunks[sent]
                sent += 1
            if over:
                return
            await self.worker.changes.after(count, BEAT)

    async def events(self, request: Request) -> Response:
        """Server-sent events: `song` with a song that has changed, `removed` with the id of one that is gone.

        At first every song that waits or is sung.
        """
        return StreamingResponse(self._events(), media_type="text/event-stream")

    async def _events(self) -> AsyncIterator[str]:
        sent: dict[str, schema.Song] = {}
        first = True
        while not self.worker.changes.over:
            count = self.worker.changes.count
            songs = {song.id: song for song in self.worker.songs()}
            for gone in [song_id for song_id in sent if song_id not in songs]:
                del sent[gone]
                yield f"event: removed\ndata: {json.dumps(gone)}\n\n"
            for song in songs.values():
                if sent.get(song.id) != song:
                    sent[song.id] = song
                    if not first or song.status in ("queued", "singing") or song.aligning:
                        yield f"event: song\ndata: {song.model_dump_json()}\n\n"
            if first:
                yield ": here\n\n"
            first = False
            await asyncio.sleep(1 / PER_SECOND)
            await self.worker.changes.after(count, BEAT)
            if self.worker.changes.count == count:
                yield ": still here\n\n"

    async def upload(self, request: Request) -> Response:
        """Sends a recording: the bytes of a WAV, FLAC, Ogg or MP3 file. `name` is what it is called."""
        name = unicodedata.normalize("NFC", unquote(request.query_params.get("name", "")))
        name = re.split(r"[/\\]", STEERING.sub("", name))[-1].strip()[:100] or "recording"
        folder = await run_in_threadpool(self.library.workplace)
        try:
            with open(folder / "recording", "wb") as file:
                async for chunk in _body(request, self.max_upload_bytes):
                    await run_in_threadpool(file.write, chunk)
            async with self._decoding:
                found = await run_in_threadpool(decoding.decode, folder, "recording", self._longest)
            upload = schema.Upload(id=new_id(), name=name, **found)
            await run_in_threadpool(self.library.add_upload, folder / decoding.DECODED, upload)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        return _json(upload, 201)

    async def delete_upload(self, request: Request) -> Response:
        """Removes a recording; songs that were made with it stay, but cannot be made again."""
        upload_id = request.path_params["id"]
        if not self.library.upload(upload_id).exists():
            raise HTTPException(404, f"upload {upload_id}: there is none with that id")
        self.library.remove_upload(upload_id)
        return Response(status_code=204)

    @property
    def _longest(self) -> float:
        return max(model.about.max_seconds for model in self.worker.models.values())

    def _song(self, request: Request) -> schema.Song:
        song = self.worker.song(request.path_params["id"])
        if song is None:
            raise HTTPException(404, _no_song(request))
        return song

    def _sung(self, request: Request) -> schema.Song:
        song = self._song(request)
        if song.status != "done":
            raise HTTPException(409, f"song {song.id} is {song.status}: expected one that is done")
        return song

    def _file(self, request: Request, kind: str) -> Response:
        song = self._sung(request)
        if not self.library.has(song.id, kind):
            raise HTTPException(404, f"song {song.id} has no {kind}" + (
                ": its model does not tell when lines are sung, or there are none" if kind == "lrc" else ""))
        path = self.library.path(song.id, kind)
        inline = kind in ("wav", "flac") and "download" not in request.query_params
        return FileResponse(path, media_type=_DOWNLOADS[kind], filename=f"{song.id}{path.suffix}",
                            content_disposition_type="inline" if inline else "attachment")

    def _queue_full(self, request: Request, error: Exception) -> Response:
        return _error(429, f"{self.worker.most} songs wait already: try again once one of them is sung, or remove one",
                      {"Retry-After": "10"})


async def _body(request: Request, limit: int) -> AsyncIterator[bytes]:
    """The body of a request in chunks. Raises HTTPException where it is larger than `limit`, or takes too long."""
    said, read = request.headers.get("content-length", "0"), 0
    if said.isdigit() and int(said) > limit:
        raise HTTPException(413, f"the body has {int(said)} bytes: expected at most {limit}")
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for chunk in request.stream():
                read += len(chunk)
                if read > limit:
                    raise HTTPException(413, f"the body has more than {limit} bytes: expected at most that")
                yield chunk
    except TimeoutError:
        raise HTTPException(408, f"the body took more than {BODY_SECONDS} s to arrive") from None


async def _asked(request: Request, kind: type[T]) -> T:
    """The JSON of a request. Raises UserError or HTTPException where it is none, or of another shape."""
    found = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if found != "application/json":
        raise HTTPException(415, f"the body is {found[:60] or 'of no type'}: expected application/json")
    body = b"".join([chunk async for chunk in _body(request, JSON_LIMIT)])
    return inputs.parse_json(body, kind, "the request")


def _number(request: Request, name: str, default: int, most: int) -> int:
    given = request.query_params.get(name, str(default))
    if not (given.isascii() and given.isdigit() and len(given) < 9 and 1 <= int(given) <= most):
        raise UserError(f"{name} {given[:40]!r}: expected a number from 1 to {most}")
    return int(given)


def _no_song(request: Request) -> str:
    return f"song {request.path_params['id']}: there is none with that id"


def _wav_header(sample_rate: int, channels: int) -> bytes:
    """Of 16-bit samples, without end."""
    width = 2 * channels
    return struct.pack("<4sI4s4sIHHIIHH4sI", b"RIFF", 2**32 - 1, b"WAVE", b"fmt ", 16, 1, channels, sample_rate,
                       sample_rate * width, width, 16, b"data", 2**32 - 1)


def _static_routes() -> list[Route]:
    """The page, read into memory once: requests choose among files, and no path of theirs is looked up on disk."""
    routes = []
    for path in sorted(file for file in STATIC.rglob("*") if file.is_file()):
        url = "/" + path.relative_to(STATIC).as_posix()
        response = Response(path.read_bytes(), media_type=_TYPES[path.suffix], headers={"Cache-Control": "no-cache"})
        routes.append(Route("/" if url == "/index.html" else url, _always(response)))
    return routes


def _always(response: Response):
    async def answer(request: Request) -> Response:
        return response

    return answer


def _json(what: pydantic.BaseModel, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(what.model_dump_json(), status, headers, "application/json")


def _error(status: int, message: str, headers: dict[str, str] | None = None) -> Response:
    return JSONResponse({"error": message}, status, headers)


def _http_error(request: Request, error: HTTPException) -> Response:
    message = error.detail
    if message == http.HTTPStatus(error.status_code).phrase:  # which is Starlette's, of an unknown route or method
        message = f"{request.method} {request.url.path[:100]}: {message.lower()}; /api/openapi.json lists what there is"
    return _error(error.status_code, message, error.headers)


def _user_error(request: Request, error: UserError) -> Response:
    return _error(400, str(error))


def _gone(request: Request, error: Exception) -> Response:
    return Response(status_code=400)  # nobody is there to read it


def _broken(request: Request, error: Exception) -> Response:
    log.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return _error(500, "the studio made a mistake; its log says more")
