"""Many requests to a studio that runs on this machine: how long answers take, and whether it bears them.

python -m autosong_jax.studio --workdir=runs/mine --output=soak &
python -m benchmarks.studio [--port=8765] [--requests=500] [--seconds=300] [--clients=8]

Clients of several kinds at once: some ask for songs, of which most are cancelled, some listen to the end or hang up in
the middle, some send what is no request. Every answer must be the one that is due, within the time a browser would
wait. What was sung is removed at the end. Only 127.0.0.1 is asked.
"""

import http.client
import json
import random
import threading
import time
from collections import Counter, defaultdict

import numpy as np
from absl import flags

from autosong_jax import cli
from autosong_jax.errors import UserError

FLAGS = flags.FLAGS
PATIENCE = 30.0  # seconds that an answer may take
LYRICS = ("mala tisu", "neso ruka\nlomi tasa", "sola mire")


def define_flags() -> None:
    flags.DEFINE_integer("port", 8765, "Port of the studio.", lower_bound=1, upper_bound=65_535)
    flags.DEFINE_integer("requests", 500, "Requests in all.", lower_bound=1, upper_bound=100_000)
    flags.DEFINE_float("seconds", 300.0, "Longest time in all.", lower_bound=1.0, upper_bound=3600.0)
    flags.DEFINE_integer("clients", 8, "That ask at the same time.", lower_bound=1, upper_bound=50)


class Client:
    """One of those that ask. `kinds` are what it does, each with the statuses that are due."""

    def __init__(self, seed: int, model: str, soak: "Soak"):
        self._draw, self._model, self._soak, self._songs = random.Random(seed), model, soak, []
        self.kinds = {"list": {200}, "sing": {202, 429}, "cancel": {204, 404}, "listen": {200, 404},
                      "hang up": {200, 404}, "range": {206, 404, 409}, "wrong": {400}, "stranger": {403}}

    def run(self) -> None:
        while self._soak.goes_on():
            kind = self._draw.choice(list(self.kinds))
            began = time.perf_counter()
            try:
                status = getattr(self, "_" + kind.replace(" ", "_"))()
            except OSError as error:
                status = type(error).__name__
            self._soak.note(kind, status, time.perf_counter() - began, status in self.kinds[kind])
        for song in self._songs:
            self._ask("DELETE", f"/api/songs/{song}")

    def _ask(self, method, path, body=None, headers=None, read=None):
        connection = http.client.HTTPConnection("127.0.0.1", FLAGS.port, timeout=PATIENCE)
        try:
            connection.request(method, path, body, {
                "X-Studio": "1", "Content-Type": "application/json", **(headers or {})})
            answer = connection.getresponse()
            return answer.status, answer.read(read)
        finally:
            connection.close()

    def _song(self) -> str:
        return self._draw.choice(self._songs) if self._songs else "20260101-000000-00000000"

    def _list(self):
        return self._ask("GET", "/api/songs")[0]

    def _sing(self):
        asked = {"model": self._model, "lyrics": self._draw.choice(LYRICS), "options": {"duration": 2.0}}
        status, body = self._ask("POST", "/api/songs", json.dumps(asked))
        if status == 202:
            self._songs.append(json.loads(body)["id"])
        return status

    def _cancel(self):
        song = self._song()
        if song in self._songs:
            self._songs.remove(song)
        return self._ask("DELETE", f"/api/songs/{song}")[0]

    def _listen(self):
        return self._ask("GET", f"/api/songs/{self._songs[0] if self._songs else self._song()}/stream")[0]

    def _hang_up(self):
        return self._ask("GET", f"/api/songs/{self._song()}/stream", read=44)[0]

    def _range(self):
        return self._ask("GET", f"/api/songs/{self._song()}/audio", headers={"Range": "bytes=0-99"})[0]

    def _wrong(self):
        return self._ask("POST", "/api/songs", self._draw.choice(["{", "[]", '{"model": 3}', '{"model": "no"}']))[0]

    def _stranger(self):
        return self._ask("POST", "/api/songs", "{}", {"Origin": "http://evil.example"})[0]


class Soak:
    """What all clients have seen."""

    def __init__(self, requests: int, seconds: float):
        self._left, self._until, self._lock = requests, time.monotonic() + seconds, threading.Lock()
        self.took, self.statuses, self.bad = defaultdict(list), defaultdict(Counter), []

    def goes_on(self) -> bool:
        with self._lock:
            self._left -= 1
            return self._left >= 0 and time.monotonic() < self._until

    def note(self, kind: str, status, seconds: float, due: bool) -> None:
        with self._lock:
            self.took[kind].append(seconds)
            self.statuses[kind][status] += 1
            if not due:
                self.bad.append(f"{kind}: {status}")


def main() -> int:
    connection = http.client.HTTPConnection("127.0.0.1", FLAGS.port, timeout=PATIENCE)
    try:
        connection.request("GET", "/api/models")
        model = json.loads(connection.getresponse().read())["models"][0]["name"]
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"--port={FLAGS.port}: no studio answers at 127.0.0.1 ({error}); start one first") from error
    soak, began = Soak(FLAGS.requests, FLAGS.seconds), time.perf_counter()
    threads = [threading.Thread(target=Client(i, model, soak).run) for i in range(FLAGS.clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    total = sum(map(len, soak.took.values()))
    print(f"{total} requests of {FLAGS.clients} clients in {time.perf_counter() - began:.0f} s\n")
    print("| request | times | answers | median, ms | 99 %, ms |\n| --- | --- | --- | --- | --- |")
    for kind, seconds in sorted(soak.took.items()):
        median, most = np.percentile(1000 * np.array(seconds), (50, 99))
        answers = ", ".join(f"{status}: {count}" for status, count in soak.statuses[kind].most_common())
        print(f"| {kind} | {len(seconds)} | {answers} | {median:.0f} | {most:.0f} |")
    for line in soak.bad:
        print(f"not due: {line}")
    return 1 if soak.bad else 0


if __name__ == "__main__":
    define_flags()
    cli.run(main)
