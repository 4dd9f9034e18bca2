"""Recordings from outside, decoded in a process of their own, with bounds on memory, time and length.

What a decoder of MP3 or Ogg does with a file that was made to harm it then ends with that process.
"""

import contextlib
import json
import os
import pathlib
import resource
import subprocess
import sys

import autosong_jax
from autosong_jax.audio import io
from autosong_jax.errors import UserError

MEMORY = 3 * 2**30  # bytes of address space
SECONDS = 60  # of computing, and of waiting
DECODED = "decoded.wav"


def decode(folder: pathlib.Path, name: str, most_seconds: float) -> dict:
    """Decodes the file `name` of a folder, which is the whole world of the process, as float samples to `DECODED`.

    Returns:
      `seconds`, `sample_rate`, `channels`.

    Raises:
      UserError: it is no audio, too long, or takes too much of anything.
    """
    root = pathlib.Path(autosong_jax.__file__).resolve().parents[1]
    path = os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH")]))
    environment = {"PYTHONPATH": path, "PATH": os.environ.get("PATH", ""), "OPENBLAS_NUM_THREADS": "1"}
    try:
        process = subprocess.run(
            [sys.executable, "-c", f"from {__name__} import main; main()", name, str(most_seconds)], cwd=folder,
            env=environment, capture_output=True, timeout=SECONDS, stdin=subprocess.DEVNULL)
        said = json.loads(process.stdout)
    except subprocess.TimeoutExpired:
        raise UserError(f"the recording takes more than {SECONDS} s to decode: shorten it, or send it as WAV") from None
    except ValueError:
        raise UserError("the recording cannot be decoded: its decoder ran out of memory or time, or broke down"
                        ) from None
    if "error" in said:
        raise UserError(said["error"])
    return said


def main() -> None:
    """The process; see `decode`. What it finds it prints as JSON."""
    name, most_seconds = sys.argv[1], float(sys.argv[2])
    for limit, value in [(resource.RLIMIT_AS, MEMORY), (resource.RLIMIT_CPU, SECONDS), (resource.RLIMIT_CORE, 0)]:
        with contextlib.suppress(ValueError, OSError):  # of a system that has no such bound
            resource.setrlimit(limit, (value, value))
    try:
        print(json.dumps(_decoded(name, most_seconds)))
    except UserError as error:
        print(json.dumps({"error": str(error)}))


def _decoded(name: str, most_seconds: float) -> dict:
    import soundfile

    seconds = io.duration(name)
    if seconds > most_seconds:
        raise UserError(f"the recording lasts {seconds:.0f} s: expected at most {most_seconds:g}")
    audio, rate = io.read(name)
    if len(audio) > 2:
        audio = audio.mean(axis=0, keepdims=True)
    soundfile.write(DECODED, audio.T, rate, subtype="FLOAT")
    return {"seconds": audio.shape[1] / rate, "sample_rate": rate, "channels": len(audio)}
