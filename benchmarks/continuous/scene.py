"""Where everything of one benchmark lies: songs, their datasets, the models trained on them, and what was measured.

Letters: T frames, M bands.
"""

import dataclasses
import functools
import json
import os
import pathlib
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from autosong_jax.errors import UserError
from benchmarks.demo import CODEC

RATE, BANDS = 16_000, 64  # Hz, that of a songbook; of a mel spectrogram
SEED = 0


@dataclasses.dataclass(frozen=True)
class Scene:
    """See the module's docstring. Each dataset is made when it is first asked for.

    Attributes:
      output: the folder of everything.
      songs: in the songbook.
      seconds: that a song of it lasts at most.
      hop: samples a frame of a mel spectrogram.
      heard: at most so many held-out songs are listened to.
      peaks: GiB, the most memory that the training of each model took that was trained since this began, by its name.
    """

    output: pathlib.Path
    songs: int
    seconds: float
    hop: int
    heard: int
    peaks: dict[str, float] = dataclasses.field(default_factory=dict, compare=False)

    @property
    def frame_rate(self) -> float:
        """Mel frames a second."""
        return RATE / self.hop

    @functools.cached_property
    def songbook(self) -> pathlib.Path:
        """The songs that are learned from and held out."""
        return self.book("songs", self.songs, self.seconds)

    @functools.cached_property
    def mels(self) -> pathlib.Path:
        """Their mel spectrograms."""
        return self.mels_of(self.songbook, "mels")

    @functools.cached_property
    def sound(self) -> pathlib.Path:
        """Their samples."""
        return self._export(self.songbook, "sound", f"pcm:sample_rate={RATE},hop={self.hop}", "--norequire_lyrics")

    @functools.cached_property
    def codes(self) -> pathlib.Path:
        """Their codes: what a model of codes learns from."""
        return self._export(self.songbook, "codes", CODEC)

    def book(self, name: str, songs: int, seconds: float) -> pathlib.Path:
        """A songbook."""
        return self._made(name, "data_prep.songbook", f"--output={self.output / name}", f"--songs={songs}",
                          f"--seconds={seconds:g}", f"--seed={SEED}")

    def mels_of(self, songs: pathlib.Path, name: str) -> pathlib.Path:
        """A dataset of the mel spectrograms of songs."""
        return self._export(songs, name, f"mel:sample_rate={RATE},hop={self.hop},n_mels={BANDS}")

    def _export(self, songs: pathlib.Path, name: str, codec: str, *flags: str) -> pathlib.Path:
        return self._made(name, "data_prep.export", f"--input={songs}", f"--output={self.output / name}",
                          f"--codec={codec}", *flags)

    def _made(self, name: str, module: str, *arguments: str) -> pathlib.Path:
        """A folder that a command makes, once."""
        self.measured(f"made-{name}", {"command": [module, *arguments]}, lambda: {"GiB": run(module, *arguments)})
        return self.output / name

    @functools.cached_property
    def held_out(self) -> list[dict[str, Any]]:
        """Records of mel spectrograms of songs that nothing learned from, at most `heard`."""
        from autosong_jax.data.dataset import SongDataset

        split = SongDataset(self.mels, "validation")
        return [split[i] for i in range(min(self.heard, len(split)))]

    def recording(self, record: dict[str, Any]) -> np.ndarray:
        """The recording of a held-out song, float32 [samples]."""
        from autosong_jax.audio import io

        return io.read(self.songbook / record["id"] / "audio.wav", RATE, 1)[0][0]

    def workdir(self, name: str) -> pathlib.Path:
        """Where a model is trained."""
        return self.output / "runs" / name

    def train(self, name: str, config: str, dataset: pathlib.Path, steps: int, **fields: Any) -> pathlib.Path:
        """Trains a model as a user does, or goes on with it, and returns its workdir.

        Args:
          name: of the workdir.
          config: name and argument of a config, such as "vocoder:n_mels=64".
          dataset: learned from.
          steps: of training.
          fields: of the config that differ, with `__` for dots.
        """
        file, _, arg = config.partition(":")
        workdir = self.workdir(name)
        self.peaks[name] = run(
            "autosong_jax.train", f"--config=configs/{file}.py" + (f":{arg}" if arg else ""), f"--workdir={workdir}",
            f"--config.data.path={dataset}", f"--config.train.steps={steps}",
            *(f"--config.{field.replace('__', '.')}={value}" for field, value in fields.items()))
        return workdir

    def measured(self, name: str, given: dict[str, Any], measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """What `measure` gives, out of results/NAME.json where that stands there already, measured of what is `given`.
        """
        path = self.output / "results" / f"{name}.json"
        given = json.loads(json.dumps(given | {"songs": self.songs, "hop": self.hop, "heard": self.heard}))
        if path.exists() and (found := json.loads(path.read_text()))["given"] == given:
            return found["measured"]
        found = measure()
        path.parent.mkdir(parents=True, exist_ok=True)
        new = path.with_suffix(".tmp")  # in one move: a reader or a kill never meets half of it
        new.write_text(json.dumps({"given": given, "measured": found}, indent=2) + "\n")
        os.replace(new, path)
        return found

    def codec(self, vocoder: bool) -> Any:
        """The codec of the mel spectrograms, which finds sound by Griffin-Lim or by the vocoder that was trained."""
        from autosong_jax.codecs.codec import load_codec
        from autosong_jax.codecs.info import CodecInfo
        from autosong_jax.workdir.vocoders import open_vocoder, take_vocoder

        own = self.mels / "codec"
        if not vocoder:
            return load_codec(own)
        directory = self.output / "heard_by_vocoder"
        shutil.copytree(own, directory, dirs_exist_ok=True)
        take_vocoder(open_vocoder(str(self.workdir("vocoder")), CodecInfo.load(own)), directory)
        return load_codec(directory)

    @property
    def vocoder_steps(self) -> int | None:
        """How long the vocoder was trained; None before it is."""
        path = self.output / "results" / "vocoder.json"
        return json.loads(path.read_text())["given"]["steps"] if path.exists() else None


def run(module: str, *arguments: str) -> float:
    """Runs `python -m module` as a user would, showing the command, and returns the most memory that it took, in GiB.

    Raises:
      UserError: if it fails; what went wrong stands above on the screen.
    """
    print("\n$ " + shlex.join(["python", "-m", module, *arguments]), flush=True)
    process = subprocess.Popen([sys.executable, "-m", module, *arguments])
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)  # which nobody can wait for again
    if process.returncode:
        raise UserError(f"{module} ended with status {process.returncode}; its own message is above")
    return usage.ru_maxrss / 2**20


def training_of(workdir: pathlib.Path) -> dict[str, float]:
    """How long a model was trained, in minutes, however often it was stopped; and its median steps per second."""
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    rates = {line["step"]: line["steps_per_second"] for line in lines if line["kind"] == "train"}
    steps = np.diff([0, *sorted(rates)])
    return {"minutes": float(sum(steps / np.array([rates[step] for step in sorted(rates)]))) / 60,
            "steps per second": float(np.median(list(rates.values())))}
