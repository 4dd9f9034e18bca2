"""Compiled programs kept from one command to the next: JAX's persistent compilation cache, in the user's cache folder.

JAX is told by environment variables, which it reads when it is first imported, so this imports none of it. Whoever sets
JAX_COMPILATION_CACHE_DIR, or JAX_ENABLE_COMPILATION_CACHE=false, decides for themselves.
"""

import hashlib
import os
import pathlib
import platform
import sys
import warnings
import zlib
from importlib import metadata

MAX_BYTES = 2 * 1024**3  # of all programs together
_CHECKED = "checked"  # an empty file, as old as the last look for programs that were cut off


def keep() -> None:
    """Has JAX keep what it compiles; call it before JAX is imported. Where nothing can be written, nothing is kept."""
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    if os.environ.get("JAX_ENABLE_COMPILATION_CACHE", "").lower() in ("0", "false", "f", "no", "n", "off"):
        return
    root = cache_folder()
    directory = root / _machine()
    try:
        directory.mkdir(parents=True, exist_ok=True)
        _remove_cut_off(directory)
        _shrink(root, MAX_BYTES)
        (directory / _CHECKED).touch()
    except OSError:
        return
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(directory)
    # Below JAX's own 1 s: a first step waits for dozens of small programs. What compiles faster loads no faster.
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")
    # A full disk or a program cut off meanwhile: it is compiled again, which is all that the user would learn.
    warnings.filterwarnings("ignore", message="Error (reading|writing) persistent compilation cache entry")


def cache_folder() -> pathlib.Path:
    """Where compiled programs are kept, by platform."""
    if os.environ.get("XDG_CACHE_HOME"):
        base = pathlib.Path(os.environ["XDG_CACHE_HOME"])
    elif sys.platform == "darwin":
        base = pathlib.Path("~/Library/Caches")
    else:
        base = pathlib.Path("~/.cache")
    return pathlib.Path(os.path.expanduser(base)) / "autosong_jax" / "compiled"


def _machine() -> str:
    """A name that machines share which can run each other's programs.

    JAX's key has no features of the CPU in it, and home directories are shared between machines, so they are here.
    """
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        cpu = next(line for line in lines if line.lower().startswith(("flags", "features")))
    except (OSError, StopIteration):
        cpu = platform.node()
    made_by = [platform.machine(), cpu, metadata.version("jaxlib")]
    return hashlib.sha256("\n".join(made_by).encode()).hexdigest()[:16]


def _remove_cut_off(directory: pathlib.Path) -> None:
    """Removes programs of which a killed process wrote only a part: JAX would stumble over them at every start."""
    checked = directory / _CHECKED
    since = checked.stat().st_mtime if checked.exists() else 0.0
    for path in directory.glob("*-cache"):
        # A second of overlap, for file systems that count time coarsely. What another process is writing right now is
        # removed, too; it keeps its own copy.
        if path.stat().st_mtime >= since - 1 and not _is_whole(path.read_bytes()):
            path.unlink(missing_ok=True)


def _is_whole(data: bytes) -> bool:
    if data[:1] != b"\x78":  # zstd, which JAX takes where it is installed, is no part of Python before 3.14
        return bool(data)
    stream = zlib.decompressobj()
    try:
        stream.decompress(data)
    except zlib.error:
        return False
    return stream.eof


def _shrink(root: pathlib.Path, max_bytes: int) -> None:
    """Removes the programs longest unused, of all machines and versions, until the rest fits into `max_bytes`."""
    found = []
    for path in root.glob("*/*-cache"):
        stat = path.stat()
        found.append((max(stat.st_atime, stat.st_mtime), stat.st_size, path))
    total = sum(size for _, size, _ in found)
    for _, size, path in sorted(found, key=lambda item: item[0]):
        if total <= max_bytes:
            break
        path.unlink(missing_ok=True)
        total -= size
