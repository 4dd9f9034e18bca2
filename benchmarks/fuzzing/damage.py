"""What is done to inputs: to bytes, to JSON, to paths, to numbers, to texts. Everything is drawn by a generator."""

import json
import os
import pathlib
import random
import shutil
from collections.abc import Callable, Iterator, Sequence
from typing import Any

NUMBERS = ("nan", "inf", "-inf", "1e12", "1e300", "1e-300", "-1", "0", "-0.0", "0.5", "2", "7", "1e309", "3.7",
           "1000000000", "2147483648", "9223372036854775808", "1" + "0" * 40, "1" + "0" * 5000, "", "x", "0x10", "1_0",
           "None", "true", "[1]", "\u0663")  # an Arabic three, which Python takes for one
TEXTS = ("", " ", "\x1b[2J\x07", "\u202egnp.exe", "a\nb", "x" * 5000, "%s%n{}{0}", "'; --", "日本", "\ufeff", ",", "=",
         "null", "\x7f\x9b31m", os.fsdecode(b"\xff\xfe"))
VALUES = (None, True, False, 0, -1, 1, 2, 0.5, -0.0, 1e308, -1e308, 10**12, 10**30, 2**31, 65537, float("nan"),
          float("inf"), "", "text", "5", "\x1b[2J", "x" * 5000, "../../x", "nul\0", "half\ud800", [], {}, [0], [None],
          [[]], [1] * 1000, {"": 0}, {"name": "x"}, ["a", 1])
_DEEP = 100_000


def any_file(rng: random.Random, folder: pathlib.Path) -> str:
    """Damages a file somewhere in a folder and says what was done."""
    path = rng.choice(sorted(path for path in folder.rglob("*") if path.is_file()))
    return f"{path.name}: " + (json_file if path.suffix == ".json" and rng.random() < 0.5 else bytes_of)(rng, path)


def json_files(rng: random.Random, folder: pathlib.Path) -> str:
    """Damages JSON somewhere in a folder and says what was done."""
    path = rng.choice(sorted(folder.rglob("*.json")))
    return f"{path.name}: " + json_file(rng, path)


def bytes_of(rng: random.Random, path: pathlib.Path) -> str:
    """Damages a file, or puts something else into its place."""
    data = path.read_bytes()
    at = rng.randrange(len(data) + 1)
    changes: dict[str, Callable[[], Any]] = {
        "cut off": lambda: path.write_bytes(data[:at]),
        "emptied": lambda: path.write_bytes(b""),
        "a bit flipped": lambda: path.write_bytes(_flipped(rng, data, at)),
        "bytes put in": lambda: path.write_bytes(data[:at] + rng.randbytes(rng.choice((1, 7, 1000))) + data[at:]),
        "bytes taken out": lambda: path.write_bytes(data[:at] + data[at + rng.choice((1, 8, 100)):]),
        "beginning of noise": lambda: path.write_bytes(rng.randbytes(min(16, len(data))) + data[16:]),
        "beginning of 0xff": lambda: path.write_bytes(b"\xff" * min(8, len(data)) + data[8:]),
        "noise": lambda: path.write_bytes(rng.randbytes(len(data) or 10)),
        "zeros": lambda: path.write_bytes(bytes(len(data))),
        "twice": lambda: path.write_bytes(data + data),
        "removed": path.unlink,
        "in its place": lambda: None}
    what = rng.choice(sorted(changes))
    changes[what]()
    return what if what != "in its place" else f"in its place {something_else(rng, path)}"


def _flipped(rng: random.Random, data: bytes, at: int) -> bytes:
    return data[:at] + bytes(byte ^ 1 << rng.randrange(8) for byte in data[at:at + 1]) + data[at + 1:]


def something_else(rng: random.Random, path: pathlib.Path) -> str:
    """Puts something into the place of a file that is none."""
    path.unlink(missing_ok=True)
    what = rng.choice(("a folder", "a pipe", "a circle of links", "an endless device", "a link to nothing"))
    if what == "a folder":
        path.mkdir()
    elif what == "a pipe":
        os.mkfifo(path)
    else:
        path.symlink_to({"a circle of links": path, "an endless device": "/dev/zero",
                         "a link to nothing": path.with_name("nothing")}[what])
    return what


def json_file(rng: random.Random, path: pathlib.Path) -> str:
    """Changes something in a JSON file: a value's type or size, a field's presence, or all of it."""
    if rng.random() < 0.1:
        text = rng.choice((b"", b"[]", b"5", b"null", b'"text"', b"{", b"\xff\xfe{", b"\xef\xbb\xbf{}", b"{}",
                           b'{"a": 1} x', b"[" * _DEEP, b'{"a":' * _DEEP, b"nul\0", b"9" * 10_000))
        path.write_bytes(text)
        return f"all of it {text[:20]!r}"
    content = json.loads(path.read_bytes())
    places = list(_places(content))
    if not places:
        path.write_bytes(b"[]")
        return "all of it []"
    parent, key, where = rng.choice(places)
    what = rng.choice(("drop", "value", "value", "value", "scale", "nest", "deep", "add", "double"))
    if what == "drop" and isinstance(parent, dict):
        del parent[key]
    elif what == "scale" and isinstance(parent[key], int | float):
        parent[key] *= rng.choice((-1, 0, 10**3, 10**9, 0.5, 1e-9))
    elif what == "nest":
        parent[key] = rng.choice(([parent[key]], {"value": parent[key]}))
    elif what == "add" and isinstance(parent, dict):
        parent[rng.choice(("unknown", "\x1b[2J", "a.b", ""))] = rng.choice(VALUES)
    elif what == "double" and isinstance(parent, list):
        parent.append(parent[key])
    elif what == "deep":
        parent[key] = "DEEP"
    else:
        what, parent[key] = "value", rng.choice(VALUES)
    text = json.dumps(content).replace('"DEEP"', "[" * _DEEP + "]" * _DEEP)
    path.write_text(text, encoding="utf-8")
    return f"{what} at {where}" + (f" {str(parent[key])[:20]!r}" if what == "value" else "")


def _places(value: Any, where: str = "") -> Iterator[tuple[Any, Any, str]]:
    """Every part of a JSON value: what holds it, its key there, and the way to it."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in list(items):
        yield value, key, f"{where}.{key}"
        yield from _places(part, f"{where}.{key}")


def path(rng: random.Random, folder: pathlib.Path, bystander: pathlib.Path) -> pathlib.Path | str:
    """A path that is not what anything expects.

    Args:
      folder: for what has to be made.
      bystander: with somebody's files.
    """
    file = next(path for path in sorted(bystander.rglob("*")) if path.is_file())
    name = folder / f"odd-{rng.randrange(10**6)}"
    what = rng.choice(("long", "odd", "made", "folder", "below", "nowhere", "device", "text", "file", "twice"))
    if what == "made":
        something_else(rng, name)
        return name
    return {"long": str(folder / ("x" * rng.choice((256, 5000)))), "odd": str(folder / rng.choice(TEXTS)),
            "folder": str(bystander), "below": str(file / "below"), "nowhere": str(folder / "no" / "where"),
            "device": rng.choice(("/dev/zero", "/dev/null", "/dev/full", "/proc/self/mem", "/dev/stdin")),
            "text": rng.choice((*TEXTS, "-", ".", "~", "~nobody/x", "a/b", "a//b", "http://x/y", "owner/name/more")),
            "file": str(file), "twice": str(bystander / ".." / bystander.name)}[what]


def with_suffix(path: pathlib.Path | str, suffix: str, rng: random.Random) -> str:
    """The path, mostly with the suffix that is expected, so that more than the suffix is looked at."""
    as_it_is = rng.random() < 0.3 or str(path).startswith(("/dev", "/proc")) or os.path.isdir(path)
    return str(path) if as_it_is else f"{path}{suffix}"


def lyrics(rng: random.Random) -> bytes:
    """Texts that nobody sings."""
    return rng.choice((
        b"", b"\n\n", b"[" * 100_000, b"]" * 100_000, b"[verse]" * 20_000, b"[" * 1000 + b"]" * 1000, b"[x]\n" * 5000,
        b"\x1b[2J\x07[\x1b[31m]\nla", "\u202e[verse]\u2066\nla".encode(), b"\0la", b"\xff\xfe", b"\xff\xfel\0a\0",
        b"\xe9t\xe9", b"la " * 300_000, b"la\n" * 100_000, b"x" * (2**20 + 1), "é\u0301".encode() * 10_000,
        "\u0300".encode() * 20_000, "爱".encode() * 5000, b"(" * 50_000, b"[verse" + b" " * 100_000 + b"]",
        b"[" + b"a" * 100_000 + b"]\nla", b"[" + b"1x" * 30_000 + b"]", b"\r" * 1000 + b"la", b"[]\nla", b"[ ]\nla",
        b"\x0b\x0c\x1c\x85la", rng.randbytes(1000)))


def flags(rng: random.Random, known: dict[str, Sequence[str]], count: int) -> list[str]:
    """Some flags with values of theirs, or with any number or text."""
    chosen = rng.sample(sorted(known), min(count, len(known)))
    pools = [(known[name], NUMBERS, TEXTS)[rng.choice((0, 0, 1, 1, 1, 2))] or ("",) for name in chosen]
    return [f"--{name}={rng.choice(pool)}" for name, pool in zip(chosen, pools, strict=True)]


def copy_of(folder: pathlib.Path, target: pathlib.Path) -> pathlib.Path:
    """A second one of a folder."""
    return pathlib.Path(shutil.copytree(folder, target))
