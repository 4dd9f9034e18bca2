"""The studio over HTTP: its songs are those of the models, and whatever is wrong with a request is one clear line."""

import http.client
import io
import json
import shlex
import socket
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from autosong_jax.audio import io as audio_io
from tests.studio.conftest import done, wait

ROOT = Path(__file__).resolve().parents[2]
ASKED = {"model": "stepwise", "lyrics": "[verse]\nla la\n\nlu lu", "genre": "pop", "seed": 5,
         "options": {"duration": 1.0, "temperature": 0.9, "cfg_scales": {"lyrics": 2.0}}}
SINGING = {"lyrics": "[verse]\nla la\n\nlu lu", "genre": "pop", "seed": 5, "duration": 1.0, "temperature": 0.9,
           "cfg_scales": {"lyrics": 2.0}}


def samples(data):
    """int16 [samples, channels] of a file."""
    return soundfile.read(io.BytesIO(data), dtype="int16", always_2d=True)[0]


def kept(audio, rate, path):
    """float32 [channels, samples] as a file keeps it, int16 [samples, channels]."""
    audio_io.write(path, audio, rate)
    return samples(path.read_bytes())


def recording(seconds=0.4, rate=16000, **how):
    audio = 0.1 * np.random.default_rng(0).standard_normal(round(seconds * rate))
    file = io.BytesIO()
    soundfile.write(file, audio, rate, format="WAV", **how)
    return file.getvalue()


def test_a_song_is_that_of_the_model_and_of_its_command_line(client, toy_models, tmp_path):
    api = client()
    answer = api.post("/api/songs", json=ASKED)
    assert answer.status_code == 202, answer.text
    song = done(api, answer.json()["id"])
    assert song["status"] == "done", song["error"]
    expected = toy_models["stepwise"].singer.generate(**SINGING)
    path = f"/api/songs/{song['id']}"
    np.testing.assert_array_equal(np.load(io.BytesIO(api.get(f"{path}/codes").content)), expected.codes)
    for form in ("flac", "wav"):
        whole = kept(expected.audio, expected.sample_rate, tmp_path / f"expected.{form}")
        np.testing.assert_array_equal(samples(api.get(f"{path}/audio?format={form}").content), whole)
    assert song["seconds"] == len(whole) / expected.sample_rate and song["frames"] == len(expected.codes)
    peaks = api.get(f"{path}/peaks?count=7").json()["peaks"]
    parts = np.split(whole[:, 0], np.linspace(0, len(whole), 8).astype(int)[1:-1])
    loudest = [np.abs(part / 32768).max() for part in parts]
    np.testing.assert_allclose(peaks, loudest, atol=1e-3)
    assert {line["text"] for line in song["lines"]} <= {"la la", "lu lu"}
    assert api.get(f"{path}/lrc").text.startswith("[00:")
    assert api.get(f"{path}/json").json()["command"] == song["command"]
    command = [sys.executable, *shlex.split(song["command"])[1:-2], f"--codes_output={tmp_path / 'again.npy'}"]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    np.testing.assert_array_equal(np.load(tmp_path / "again.npy"), expected.codes)


def test_a_part_is_sung_anew_and_a_song_goes_on(client, toy_models):
    api = client()
    first = done(api, api.post("/api/songs", json={**ASKED, "model": "masked"}).json()["id"])
    edit = {"clip": {"song": first["id"]}, "spans": [[0.2, 0.4]], "after": 0.2}
    asked = {"model": "masked", "lyrics": "lo", "seed": 1, "edit": edit, "options": {"temperature": 5.0}}
    edited = done(api, api.post("/api/songs", json=asked).json()["id"])
    before, after = (np.load(io.BytesIO(api.get(f"/api/songs/{song['id']}/codes").content)) for song in (first, edited))
    np.testing.assert_array_equal(after[:5], before[:5])
    np.testing.assert_array_equal(after[10:len(before)], before[10:])
    assert (after[5:10] != before[5:10]).any() and len(after) <= len(before) + 5
    assert "--from=0.2 --to=0.4" in edited["command"] and "--after=0.2" in edited["command"]

    sent = api.post("/api/uploads?name=..%2F..%2Fmy%20song.wav", content=recording())
    assert sent.status_code == 201 and sent.json()["name"] == "my song.wav"
    asked = {**ASKED, "prompt_audio": {"upload": sent.json()["id"]}}
    longer = done(api, api.post("/api/songs", json=asked).json()["id"])
    codec = toy_models["stepwise"].singer.codec
    prompt = codec.encode(audio_io.read(api.studio.library.upload(sent.json()["id"]), codec.sample_rate, 1)[0])
    codes = np.load(io.BytesIO(api.get(f"/api/songs/{longer['id']}/codes").content))
    np.testing.assert_array_equal(codes[:len(prompt)], prompt)
    assert api.delete(f"/api/uploads/{sent.json()['id']}").status_code == 204
    assert "no recording" in api.post("/api/songs", json=asked).json()["error"]


def test_a_song_is_heard_while_it_is_sung_and_nobody_waits_for_a_slow_reader(server, toy_models):
    singer, port = toy_models["stepwise"].singer, server()
    ask = http.client.HTTPConnection("127.0.0.1", port, timeout=60)

    def call(method, path, body=None):
        ask.request(method, path, json.dumps(body) if body else None,
                    {"X-Studio": "1", "Content-Type": "application/json"})
        return json.loads(ask.getresponse().read())

    singer.hold()
    song = call("POST", "/api/songs", {**ASKED, "options": {**ASKED["options"], "duration": 4.0}})
    slow = socket.create_connection(("127.0.0.1", port))
    slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    slow.sendall(f"GET /api/songs/{song['id']}/stream HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode())
    listener = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    listener.request("GET", f"/api/songs/{song['id']}/stream")
    heard = listener.getresponse()
    header = heard.read(44)
    assert header[:4] == b"RIFF" and struct.unpack("<I", header[24:28])[0] == song["sample_rate"]
    chunks = list(singer._singer.stream(chunk_seconds=0.5, **{**SINGING, "duration": 4.0}))
    expected = np.concatenate([chunk.audio for chunk in chunks], axis=1)
    first = 2 * chunks[0].audio.shape[1]
    singer.let_on(1)
    data = heard.read(first)
    now = call("GET", f"/api/songs/{song['id']}")
    assert now["status"] == "singing" and now["heard"] == pytest.approx(chunks[0].audio.shape[1] / song["sample_rate"])
    singer.let_on()
    data += heard.read()
    np.testing.assert_allclose(np.frombuffer(data, "<i2") / 32767, np.clip(expected[0], -1, 1), atol=0.51 / 32767)
    again = call("POST", "/api/songs", ASKED)  # while the slow one has still read nothing
    wait(lambda: call("GET", f"/api/songs/{again['id']}")["status"] == "done")
    slow.close()


def test_songs_are_cancelled_and_only_so_many_wait(client, toy_models):
    api, singer = client(queue=2), toy_models["stepwise"].singer
    singer.hold()
    ids = [api.post("/api/songs", json=ASKED).json()["id"]]
    wait(lambda: api.get(f"/api/songs/{ids[0]}").json()["status"] == "singing")
    ids += [api.post("/api/songs", json=ASKED).json()["id"] for _ in range(2)]
    full = api.post("/api/songs", json=ASKED)
    assert full.status_code == 429 and "2 songs wait already" in full.json()["error"] and full.headers["retry-after"]
    assert [api.get(f"/api/songs/{song_id}").json()["position"] for song_id in ids] == [0, 1, 2]
    assert api.get(f"/api/songs/{ids[0]}/audio").status_code == 409
    for song_id in ids[:2]:
        assert api.delete(f"/api/songs/{song_id}").status_code == 204
        assert api.get(f"/api/songs/{song_id}").status_code == 404
    wait(lambda: api.get(f"/api/songs/{ids[2]}").json()["status"] == "singing")
    assert sorted(path.name for path in api.studio.library.folder.iterdir() if path.is_dir()) == [ids[2], "uploads"]
    singer.let_on()
    assert done(api, ids[2])["status"] == "done"
    assert api.delete(f"/api/songs/{ids[2]}").status_code == 204
    assert not (api.studio.library.folder / ids[2]).exists()


def test_songs_are_there_after_a_restart(open_studio, toy_models, tmp_path):
    from starlette.testclient import TestClient

    from autosong_jax.errors import UserError
    from autosong_jax.studio.library import Library

    def opened():
        return TestClient(open_studio()[1], base_url="http://localhost", headers={"X-Studio": "1"})

    with opened() as api:
        with pytest.raises(UserError, match="which runs already"):
            Library(tmp_path / "songs")
        sung = done(api, api.post("/api/songs", json=ASKED).json()["id"])
        audio = api.get(f"/api/songs/{sung['id']}/audio").content
        toy_models["stepwise"].singer.hold()
        cut_off = api.post("/api/songs", json=ASKED).json()["id"]
        wait(lambda: api.get(f"/api/songs/{cut_off}").json()["status"] == "singing")
    for name, text in [("20260101-000000-00000000", "{"), ("20260101-000000-00000001", json.dumps(sung))]:
        (tmp_path / "songs" / name).mkdir()
        (tmp_path / "songs" / name / "song.json").write_text(text)
    with opened() as api:
        assert {song["id"]: song["status"] for song in api.get("/api/songs").json()["songs"]} == {
            sung["id"]: "done", cut_off: "interrupted"}
        assert api.get(f"/api/songs/{sung['id']}").json() == sung
        assert api.get(f"/api/songs/{sung['id']}/audio").content == audio
        assert api.get("/api/songs?limit=1").json()["more"]


def test_ranges_of_a_song(client):
    api = client()
    path = f"/api/songs/{done(api, api.post('/api/songs', json=ASKED).json()['id'])['id']}/audio"
    whole = api.get(path).content
    part = api.get(path, headers={"Range": "bytes=100-199"})
    assert part.status_code == 206 and part.content == whole[100:200]
    assert part.headers["content-range"] == f"bytes 100-199/{len(whole)}"
    assert api.get(path, headers={"Range": "bytes=-10"}).content == whole[-10:]
    assert api.get(path, headers={"Range": f"bytes={len(whole)}-"}).status_code == 416


def nan_recording():
    file = io.BytesIO()
    soundfile.write(file, np.array([0.1, np.nan] * 50), 16000, format="WAV", subtype="FLOAT")
    return file.getvalue()


JSON = {"Content-Type": "application/json"}
SONG = "/api/songs/20260101-000000-0123abcd"
WRONG = {
    "no JSON": ("POST", "/api/songs", {"content": b"{", "headers": JSON}, 400, "not JSON"),
    "NaN": ("POST", "/api/songs", {"content": b'{"model": "stepwise", "options": {"duration": NaN}}', "headers": JSON},
            400, "not JSON"),
    "a form": ("POST", "/api/songs", {"data": {"model": "stepwise"}}, 415, "expected application/json"),
    "unknown field": ("POST", "/api/songs", {"json": {"model": "stepwise", "lyric": "la"}}, 400, "lyric"),
    "unknown option": ("POST", "/api/songs", {"json": {**ASKED, "options": {"speed": 2}}}, 400, "options.speed"),
    "another's option": ("POST", "/api/songs", {"json": {**ASKED, "options": {"arrangement": "stride1"}}}, 400,
                         "option arrangement means nothing to model 'stepwise'"),
    "another's condition": ("POST", "/api/songs", {"json": {**ASKED, "melody": {"song": SONG[-24:]}}}, 400,
                            "melody was given, but model 'stepwise' does not take it"),
    "another's source": ("POST", "/api/songs", {"json": {**ASKED, "options": {"cfg_scales": {"drums": 2}}}}, 400,
                         "'drums'"),
    "no edits": ("POST", "/api/songs", {"json": {"model": "stepwise", "edit": {"clip": {"song": SONG[-24:]}}}}, 400,
                 "cannot fill in"),
    "seed": ("POST", "/api/songs", {"json": {**ASKED, "seed": -1}}, 400, "seed -1"),
    "text for a number": ("POST", "/api/songs", {"json": {**ASKED, "seed": "5"}}, 400, "seed '5'"),
    "too long a song": ("POST", "/api/songs", {"json": {**ASKED, "options": {"duration": 31}}}, 400, "at most 30 s"),
    "no such model": ("POST", "/api/songs", {"json": {"model": "../stepwise"}}, 400,
                      "expected one of stepwise, masked"),
    "two lines of genre": ("POST", "/api/songs", {"json": {**ASKED, "genre": "pop\nrock"}}, 400, "one line"),
    "controls": ("POST", "/api/songs", {"json": {**ASKED, "lyrics": "la\x1b[2J"}}, 400, "control characters"),
    "huge lyrics": ("POST", "/api/songs", {"json": {**ASKED, "lyrics": "l" * 30_000}}, 400, "at most 20000"),
    "huge JSON": ("POST", "/api/songs", {"json": {**ASKED, "lyrics": "l" * 300_000}}, 413, "expected at most 262144"),
    "a path as a clip": ("POST", "/api/songs", {"json": {**ASKED, "prompt_audio": {"upload": "../../etc/passwd"}}}, 400,
                         "prompt_audio.upload"),
    "two clips in one": ("POST", "/api/songs", {"json": {**ASKED, "prompt_audio": {}}}, 400, "one of upload and song"),
    "no such clip": ("POST", "/api/songs", {"json": {**ASKED, "prompt_audio": {"song": SONG[-24:]}}}, 400, "no song"),
    "huge upload": ("POST", "/api/uploads", {"content": bytes(2**20 + 1)}, 413, "expected at most 1048576"),
    "chunked upload": ("POST", "/api/uploads", {"content": iter([bytes(2**19)] * 3)}, 413, "expected at most"),
    "text": ("POST", "/api/uploads", {"content": b"la la la"}, 400, "not readable audio"),
    "nothing": ("POST", "/api/uploads", {"content": b""}, 400, "not readable audio"),
    "NaN samples": ("POST", "/api/uploads", {"content": nan_recording()}, 400, "NaN or infinite"),
    "too long a recording": ("POST", "/api/uploads", {"content": recording(31, 8000)}, 400, "expected at most 30"),
    "path": ("GET", "/api/songs/..%2f..%2fetc%2fpasswd", {}, 404, "not found"),
    "page's path": ("GET", "/vendor/..%2f..%2fapp.py", {}, 404, "not found"),
    "no such song": ("GET", SONG, {}, 404, "none with that id"),
    "no such song to remove": ("DELETE", SONG, {}, 404, "none with that id"),
    "method": ("PUT", SONG, {}, 405, "method not allowed"),
    "format": ("GET", f"{SONG}/audio?format=mp3", {}, 400, "expected wav or flac"),
    "count": ("GET", "/api/songs?limit=1e9", {}, 400, "limit"),
    "host": ("GET", "/api/models", {"headers": {"Host": "evil.example"}}, 403, "--allowed_host"),
    "address": ("GET", "/api/models", {"headers": {"Host": "10.1.2.3:8765"}}, 403, "--allowed_host"),
    "origin": ("POST", "/api/songs", {"json": ASKED, "headers": {"Origin": "http://evil.example"}}, 403, "Origin"),
    "another port": ("POST", "/api/songs", {"json": ASKED, "headers": {"Origin": "http://127.0.0.1:9"}}, 403, "Origin"),
    "no address": ("GET", "/api/models", {"headers": {"Host": "[::1"}}, 403, "--allowed_host"),
    "no origin": ("POST", "/api/songs", {"json": ASKED, "headers": {"Origin": "null"}}, 403, "Origin"),
    "no header": ("POST", "/api/songs", {"json": ASKED, "headers": {"X-Studio": None}}, 403, "X-Studio"),
    "another site": ("GET", "/api/songs", {"headers": {"Sec-Fetch-Site": "cross-site"}}, 403, "another site"),
}


@pytest.fixture
def api(client):
    return client()


def test_what_is_wrong_is_one_clear_line(api, caplog):
    for name, (method, path, how, status, words) in WRONG.items():
        headers = how.get("headers", {})
        if headers.get("X-Studio", "1") is None:
            del api.headers["X-Studio"]
            how = {**how, "headers": {}}
        answer = api.request(method, path, **how)
        api.headers["X-Studio"] = "1"
        assert answer.status_code == status, f"{name}: {answer.status_code} {answer.text}"
        assert answer.headers["content-type"] == "application/json", name
        error = answer.json()["error"]
        assert words in error and "\n" not in error and len(error) < 600, f"{name}: {error}"
        assert "Traceback" not in answer.text and answer.headers["x-content-type-options"] == "nosniff"
    assert not caplog.records
    assert not list((api.studio.library.folder / "uploads").iterdir())
    assert api.get("/api/songs").json() == {"songs": [], "more": False}


def test_a_token_is_asked_for_beyond_this_machine(client):
    api = client(token="secret")
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic secret"}, {"Cookie": "studio=x"}):
        answer = api.get("/api/models", headers=headers)
        assert answer.status_code == 401 and "token" in answer.json()["error"]
    assert api.get("/").status_code == api.get("/?token=wrong").status_code == 401
    assert api.get("/api/models?token=secret").status_code == 401
    assert api.get("/api/models", headers={"Authorization": "Bearer secret", "Host": "10.1.2.3"}).status_code == 200
    welcome = api.get("/?token=secret")
    assert welcome.status_code == 303 and welcome.headers["location"] == "/"
    assert "HttpOnly" in welcome.headers["set-cookie"] and "SameSite=strict" in welcome.headers["set-cookie"]
    assert api.get("/").status_code == 200
    assert api.get("/api/models", headers={"Host": "evil.example"}).status_code == 403


def test_models_and_lyrics(api):
    models = {model["name"]: model for model in api.get("/api/models").json()["models"]}
    assert models["stepwise"]["texts"] == ["lyrics", "genre"] and models["stepwise"]["clips"] == ["prompt_audio"]
    assert not models["stepwise"]["edits"] and models["masked"]["edits"] and models["masked"]["aligns"]
    assert models["masked"]["options"]["steps"]["default"] == [3, 2, 2]
    assert "arrangement" in models["masked"]["options"] and "arrangement" not in models["stepwise"]["options"]
    lyrics = "[vrse]\nla " + "la " * 20 + "\n[chorus]"
    report = api.post("/api/lyrics", json={"model": "stepwise", "lyrics": lyrics}).json()
    assert (report["lines"], report["length"] > 40, report["max_length"]) == (1, True, 40)
    assert report["read"] < 50 and [part["text"] for part in report["unknown"]] == ["[vrse]"]


def test_the_description_names_every_route_and_whatever_it_refers_to(api):
    description = api.get("/api/openapi.json").json()
    described = {(method.upper(), path) for path, calls in description["paths"].items() for method in calls}
    assert described == {(call.method, call.path.replace(":id", "")) for call in api.studio.calls}
    refs = set(json.dumps(description).split('"#/components/schemas/')[1:])
    assert refs and {ref.partition('"')[0] for ref in refs} <= description["components"]["schemas"].keys()
    for calls in description["paths"].values():
        for call in calls.values():
            assert call["summary"] and call["responses"]


def test_the_page_needs_nothing_from_elsewhere(api):
    page = api.get("/")
    assert page.headers["content-type"].startswith("text/html") and "default-src 'none'" in page.headers[
        "content-security-policy"]
    for name in ("app.js", "style.css", "vendor/wavesurfer.js", "vendor/wavesurfer-LICENSE.txt"):
        assert api.get(f"/{name}").status_code == 200
    for path in (ROOT / "autosong_jax" / "studio" / "static").glob("*.*"):
        assert not {"http://", "https://"} & set(path.read_text().replace("http://www.w3.org/2000/svg", "").split('"'))
