"""What the function of a part gets: where its rows go, and a way to say that it cannot be measured here."""

import datetime
import json
import os
import pathlib
import platform
import shutil
import subprocess
import sys
import time
from importlib import metadata
from typing import Any

from benchmarks.accelerator import records

PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "torch", "transformers")
VARIABLES = ("XLA_", "JAX_", "AUTOSONG_", "NVIDIA_TF32", "CUDA_VISIBLE", "LIBTPU_")  # the environment that matters


class Skipped(Exception):
    """The part cannot be measured here; the message says why."""


class Measurement:
    """What a part's function gets: where its rows go.

    Attributes:
      part: the part's name.
      output: the folder of all records.
      spawned: when the process was started, by `time.time`.
    """

    def __init__(self, specification: dict[str, Any]):
        self.part, self.spawned = specification["name"], specification["spawned"]
        self.output = pathlib.Path(specification["output"])
        self._record = {
            "part": self.part, "status": "running", "rows": [], "arguments": specification["arguments"],
            "measure": specification["measure"], "command": specification["command"],
            "environment": {name: value for name, value in sorted(os.environ.items()) if name.startswith(VARIABLES)},
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "machine": host(), "process": os.getpid(), "seconds": 0.0}
        self._write()

    def row(self, **values: Any) -> None:
        """Adds a row of what was measured, and writes it at once."""
        self._record["rows"].append(values)
        self._write()
        print(json.dumps(values), flush=True)

    def device(self) -> dict[str, Any]:
        """Notes the device that JAX has, which this initialises, and returns what is known of the machine."""
        import jax

        device = jax.devices()[0]
        stats = device.memory_stats() or {}
        self._record["machine"] |= {
            "platform": jax.default_backend(), "device": device.device_kind, "devices": jax.device_count(),
            "memory": stats.get("bytes_limit"), "runtime": " ".join(device.client.platform_version.split())}
        self._write()
        return self._record["machine"]

    def finish(self, status: str, reason: str = "") -> None:
        """Notes how it ended."""
        self._record |= {"status": status, "reason": reason} if reason else {"status": status}
        if "jax" in sys.modules and self._record["machine"].get("device"):
            import jax

            peak = (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
            self._record["peak_memory"] = peak
        self._write()

    def _write(self) -> None:
        self._record["seconds"] = round(time.time() - self.spawned, 2)
        records.write(self.output, self._record)


def host() -> dict[str, Any]:
    """Facts of the machine that need no device: versions, the driver, the processors."""
    details: dict[str, Any] = {"python": platform.python_version(), "system": platform.platform(),
                               "processors": len(os.sched_getaffinity(0))}
    for package in PACKAGES:
        try:
            details[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            details[package] = None
    if shutil.which("nvidia-smi"):
        asked = "name,driver_version,memory.total,clocks.max.sm,clocks.max.mem,power.limit"
        shown = subprocess.run(["nvidia-smi", f"--query-gpu={asked}", "--format=csv,noheader"], capture_output=True,
                               text=True, check=False, timeout=60)
        row = shown.stdout.strip().split("\n")[0]
        details["nvidia-smi"] = dict(zip(asked.split(","), row.split(", "), strict=False))
    return details


def last_line(error: BaseException) -> str:
    """What an exception says, in one line of bounded length."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:300]
