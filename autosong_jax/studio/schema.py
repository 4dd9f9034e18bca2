"""What requests ask for and what answers say, as JSON; `song.json` in a song's folder is one of these, too."""

from typing import Annotated, Literal

import pydantic

from autosong_jax.cli import STEERING
from autosong_jax.sampling.options import MAX_SECONDS

ID = r"[0-9]{8}-[0-9]{6}-[0-9a-f]{8}"  # of songs and uploads: when they were made, and chance
Id = Annotated[str, pydantic.Field(pattern=f"^{ID}$")]


def _text(text: str) -> str:
    if found := set(STEERING.findall(text)) - {"\t", "\r"}:
        raise ValueError(f"expected text without control characters, found {min(found)!a}")
    return text


def _line(text: str) -> str:
    if len(text.splitlines()) > 1:
        raise ValueError("expected one line")
    return _text(text)


Text = Annotated[str, pydantic.Field(max_length=20_000), pydantic.AfterValidator(_text)]
Line = Annotated[str, pydantic.Field(max_length=2_000), pydantic.AfterValidator(_line)]
Seconds = Annotated[float, pydantic.Field(ge=0, le=MAX_SECONDS)]
Scale = Annotated[float, pydantic.Field(ge=-100, le=100)]
Passes = Annotated[int, pydantic.Field(ge=1, le=1000)]
Status = Literal["queued", "singing", "done", "failed", "interrupted"]


class Strict(pydantic.BaseModel):
    """A part of a request: of a field that is not known the user is told."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)


class Clip(Strict):
    """A recording: one of `upload` and `song`."""

    upload: Id | None = None
    song: Id | None = None

    @pydantic.model_validator(mode="after")
    def _one(self):
        if (self.upload is None) == (self.song is None):
            raise ValueError("expected one of upload and song")
        return self


class Edit(Strict):
    """What is made anew of a clip, and what is added to it."""

    clip: Clip
    spans: Annotated[list[tuple[Seconds, Seconds]], pydantic.Field(max_length=64)] = []
    before: Seconds = 0.0
    after: Seconds = 0.0


class Options(Strict):
    """How a model sings; those of `sampling.options` that mean something to it. None is its own default."""

    duration: Annotated[float, pydantic.Field(gt=0, le=MAX_SECONDS)] | None = None
    temperature: Annotated[float, pydantic.Field(ge=0, le=100)] | None = None
    top_k: Annotated[int, pydantic.Field(ge=0, le=65_536)] | None = None
    top_p: Annotated[float, pydantic.Field(gt=0, le=1)] | None = None
    cfg_scale: Scale | None = None
    cfg_scales: Annotated[dict[str, Scale], pydantic.Field(max_length=16)] | None = None
    cfg_scale_min: Scale | None = None
    steps: Annotated[list[Passes], pydantic.Field(min_length=1, max_length=256)] | None = None
    arrangement: Literal["nonoverlap", "stride1"] | None = None
    confidence: Literal["max", "product"] | None = None
    hybrid_seconds: Seconds | None = None
    latent_steps: Passes | None = None

    def given(self) -> dict:
        """Those that are given."""
        return self.model_dump(exclude_none=True)


class SongRequest(Strict):
    """A song to sing. What a model takes, GET /api/models says."""

    model: Line
    lyrics: Text | None = None
    genre: Line | None = None
    description: Line | None = None
    seed: Annotated[int, pydantic.Field(ge=0, lt=2**32)] | None = None  # None for one by chance
    options: Options = Options()
    prompt_audio: Clip | None = None
    melody: Clip | None = None
    backing: Clip | None = None
    style_audio: Clip | None = None
    edit: Edit | None = None


class LyricsRequest(Strict):
    """Lyrics to look at."""

    model: Line
    lyrics: Text


class SungLine(pydantic.BaseModel):
    """When a line is sung, in seconds."""

    text: str
    start: float
    end: float
    confidence: float


class Song(pydantic.BaseModel):
    """A song, from being asked for to being sung.

    `position` says how many are sung before it, `progress` which share of it is made, `heard` how many seconds of it
    can be listened to; all three change while it waits and is sung.
    """

    id: Id
    created: str
    status: Status
    request: SongRequest
    seed: int
    seconds: float = 0.0
    sample_rate: int = 0
    channels: int = 0
    frames: int = 0
    took: float = 0.0
    clipped: int = 0
    lines: list[SungLine] | None = None
    command: str = ""
    error: str | None = None
    position: int = 0
    progress: float = 0.0
    heard: float = 0.0
    aligning: bool = False


class Songs(pydantic.BaseModel):
    """Songs, the newest first, of which there may be more."""

    songs: list[Song]
    more: bool


class Upload(pydantic.BaseModel):
    """A recording that was sent here."""

    id: Id
    name: str
    seconds: float
    sample_rate: int
    channels: int


class Option(pydantic.BaseModel):
    """An option of a model: what it is unless told otherwise."""

    default: float | int | str | list[int] | None = None


class Source(pydantic.BaseModel):
    """What a model reads of a song: the guidance scale that it has by itself."""

    scale: float


class Model(pydantic.BaseModel):
    """A model and what it takes: `texts` and `clips` by the names that requests have for them."""

    name: str
    workdir: str
    codec: str
    text_encoder: str
    sample_rate: int
    channels: int
    frame_rate: float
    seconds: float  # of a song that is given no duration
    max_seconds: float
    texts: list[str]
    clips: list[str]
    sources: dict[str, Source]
    options: dict[str, Option]
    edits: bool
    aligns: bool
    codebooks: int


class Models(pydantic.BaseModel):
    """All models, and how many songs may wait."""

    models: list[Model]
    queue: int
    max_upload_bytes: int


class Unknown(pydantic.BaseModel):
    """A part of lyrics, characters from `start` to before `stop`, that is not understood, and what becomes of it."""

    start: int
    stop: int
    text: str
    why: str


class LyricsReport(pydantic.BaseModel):
    """What a model makes of lyrics: `length` of at most `max_length` ids, read up to the character `read`."""

    lines: int
    characters: int
    length: int
    max_length: int
    read: int
    unknown: list[Unknown]


class Peaks(pydantic.BaseModel):
    """The largest magnitudes of a song's samples, of parts of equal length, from 0 to 1."""

    seconds: float
    peaks: list[float]


class Error(pydantic.BaseModel):
    """What was wrong, and what to do."""

    error: str
