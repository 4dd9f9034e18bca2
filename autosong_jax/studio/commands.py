"""The command line that sings a song again, for whoever wants to have it without the studio."""

import pathlib
import shlex
from collections.abc import Callable

from autosong_jax.studio import schema
from autosong_jax.studio.library import Library

HEARD = ("melody",)  # clips that are read as audio, also where they are songs, whose codes the others are


def clips(request: schema.SongRequest, library: Library) -> dict[str, pathlib.Path]:
    """The files of a request's clips, but for that of an edit. Raises UserError where one is missing."""
    given = {name: getattr(request, name) for name in ("prompt_audio", "melody", "backing", "style_audio")}
    return {name: library.clip(clip, "wav" if name in HEARD else "codes") for name, clip in given.items() if clip}


def command(song: schema.Song, workdir: str, library: Library) -> str:
    """`python -m autosong_jax.generate ...`, for the folder that the studio was started in."""
    request = song.request
    flags = {"workdir": workdir, "lyrics": library.path(song.id, "lyrics") if request.lyrics else None,
             "genre": request.genre, "text": request.description, "seed": song.seed}
    flags |= {name: _FORMATS.get(name, _number)(value) for name, value in request.options.given().items()}
    flags |= clips(request, library)
    spans = []
    if request.edit:
        flags["edit"] = library.clip(request.edit.clip)
        spans = [f"--{name}={_number(second)}" for span in request.edit.spans
                 for name, second in zip(("from", "to"), span, strict=True)]
        flags |= {name: _number(getattr(request.edit, name)) for name in ("before", "after")
                  if getattr(request.edit, name)}
    given = [f"--{name}={value}" for name, value in flags.items() if value is not None]
    return shlex.join(["python", "-m", "autosong_jax.generate", *given, *spans, "--output=song.wav",
                       "--codes_output=codes.npy"])


def _number(value: float | int | str) -> str:
    return repr(value) if isinstance(value, float) else str(value)


_FORMATS: dict[str, Callable] = {
    "cfg_scales": lambda scales: ",".join(f"{name}={_number(scale)}" for name, scale in scales.items()),
    "steps": lambda steps: ",".join(map(str, steps)),
}
