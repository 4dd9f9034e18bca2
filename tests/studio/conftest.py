"""A studio of toy models: one that sings step by step, and one that fills in and can edit."""

import contextlib
import threading
import time

import pytest

pytest.importorskip("starlette", reason="the studio's packages are not installed: pip install -e '.[studio]'")


class Gated:
    """A singer that waits before every chunk of a song until it is let on."""

    def __init__(self, singer):
        self._singer, self._open, self._chunks = singer, threading.Event(), threading.Semaphore(0)
        self._open.set()

    def __getattr__(self, name):
        return getattr(self._singer, name)

    def stream(self, *, watch, **given):
        for chunk in self._singer.stream(watch=watch, **given):
            while not (self._open.is_set() or self._chunks.acquire(timeout=0.02)):
                watch(0.5)
            yield chunk

    def hold(self):
        self._open.clear()

    def let_on(self, chunks=None):
        if chunks is None:
            self._open.set()
        else:
            self._chunks.release(chunks)


@pytest.fixture(scope="session")
def toy_models(toy_config, make_workdir, tmp_path_factory):
    """By name: `stepwise` sings step by step, `masked` fills in. Their songs are as long as they are asked for."""
    import dataclasses

    from autosong_jax.studio import models

    folder, common = tmp_path_factory.mktemp("studio"), {
        "model.layers": 1, "data.end_of_song": False}
    masked = {"objective.name": "masked_spans", "model.pattern": "parallel", "sampling.masked.steps": (3, 2, 2)}
    make_workdir(toy_config(**common), folder / "stepwise")
    make_workdir(toy_config(**common, **masked), folder / "masked")
    loaded = models.load([str(folder / name) for name in ("stepwise", "masked")], 30.0)
    return {name: dataclasses.replace(model, singer=Gated(model.singer)) for name, model in loaded.items()}


@pytest.fixture
def open_studio(toy_models, tmp_path):
    """`open_studio(**settings)` gives a studio that sings, and its application behind its guard, until the test ends.

    Settings: `queue`, `folder`, `token`, `max_upload_bytes`.
    """
    from autosong_jax.studio.app import Studio
    from autosong_jax.studio.guard import Guard
    from autosong_jax.studio.library import Library
    from autosong_jax.studio.worker import Worker

    def make(queue=4, folder=tmp_path / "songs", token=None, max_upload_bytes=2**20):
        library = Library(folder)
        studio = Studio(Worker(toy_models, library, queue), library, max_upload_bytes)
        return studio, Guard(studio.app(), token=token)

    yield make
    for model in toy_models.values():
        model.singer.let_on()


@pytest.fixture
def client(open_studio):
    """`client(**settings)` gives a client of a studio in this process."""
    from starlette.testclient import TestClient

    with contextlib.ExitStack() as stack:
        def make(headers=None, **settings):
            studio, app = open_studio(**settings)
            made = TestClient(app, base_url="http://127.0.0.1:8765", headers={"X-Studio": "1", **(headers or {})},
                              raise_server_exceptions=False, follow_redirects=False)
            made.studio = studio
            return stack.enter_context(made)

        yield make


@pytest.fixture
def server(open_studio):
    """`server(**settings)` gives the port of a studio that listens, as it does for browsers."""
    import uvicorn

    with contextlib.ExitStack() as stack:
        def make(**settings):
            studio, app = open_studio(**settings)
            serving = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error", timeout_graceful_shutdown=1))
            thread = threading.Thread(target=serving.run, daemon=True)
            thread.start()

            def end():
                studio.worker.changes.end()
                serving.should_exit = True
                thread.join(20)

            stack.callback(end)
            wait(lambda: serving.started)
            return serving.servers[0].sockets[0].getsockname()[1]

        yield make


def wait(until, seconds=60):
    """What `until` gives, once it is true."""
    deadline = time.monotonic() + seconds
    while not (found := until()):
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.03)
    return found


def done(client, song_id):
    """A song once it is sung, and its lines are found."""
    def settled():
        song = client.get(f"/api/songs/{song_id}").json()
        return song if song["status"] not in ("queued", "singing") and not song["aligning"] else None

    return wait(settled)
