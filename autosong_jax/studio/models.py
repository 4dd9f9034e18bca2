"""The models that the studio sings with, and what each takes."""

import dataclasses
import pathlib
from collections.abc import Sequence

import autosong_jax
from autosong_jax.errors import UserError
from autosong_jax.sampling.singer import Singer
from autosong_jax.sources.text import sections
from autosong_jax.studio import schema

TEXTS = ("lyrics", "genre", "description")
CLIPS = {"prompt_audio": None, "melody": 1, "backing": None, "style_audio": None}  # channels; None for the codec's
MOST_UNKNOWN = 20  # parts of lyrics that are named


@dataclasses.dataclass(frozen=True)
class Model:
    """A loaded model.

    Attributes:
      singer: sings.
      about: what the page is told.
    """

    singer: Singer
    about: schema.Model

    def check(self, request: schema.SongRequest) -> None:
        """Raises UserError for what a request gives and the model does not take."""
        given = [name for name in (*TEXTS, *CLIPS) if getattr(request, name) is not None]
        for name in given:
            if name not in (*self.about.texts, *self.about.clips):
                takes = ", ".join((*self.about.texts, *self.about.clips))
                raise UserError(f"{name} was given, but model {self.about.name!r} does not take it: it takes {takes}")
        for name in request.options.given():
            if name not in self.about.options:
                raise UserError(f"option {name} means nothing to model {self.about.name!r}: its options are "
                                f"{', '.join(self.about.options)}")
        for name in request.options.cfg_scales or {}:
            if name not in self.about.sources:
                raise UserError(f"guidance scale of {name!r}: the sources of model {self.about.name!r} are "
                                f"{', '.join(self.about.sources) or 'none'}")
        if (request.options.duration or 0) > self.about.max_seconds:
            raise UserError(f"duration {request.options.duration:g}: expected at most {self.about.max_seconds:g} s, "
                            "the studio's --max_seconds")
        if request.edit is None:
            return
        if not self.about.edits:
            raise UserError(f"edit: model {self.about.name!r} cannot fill in; expected one that was trained to")
        for name in ("duration", "hybrid_seconds"):
            if getattr(request.options, name) is not None:
                raise UserError(f"{name} with edit: expected one of them; an edit keeps the length of its clip")
        if request.prompt_audio is not None:
            raise UserError("prompt_audio with edit: expected one of them")

    def look_at(self, lyrics: str) -> schema.LyricsReport:
        """What the model makes of lyrics. Raises UserError where it takes none."""
        if "lyrics" not in self.about.texts:
            raise UserError(f"model {self.about.name!r} was not trained with lyrics")
        text, encoder = as_read(lyrics), self.singer.text_encoder
        spans = encoder.spans(text)
        longest = self.singer.config.sources.lyrics.max_length
        read = len(text) if len(spans) <= longest else int(spans[:longest, 1].max(initial=0))
        if encoder.info.frozen:
            unknown = [(*span, "the text encoder has no token for it") for span in encoder.tokenizer.unknown(text)]
        else:
            unknown = [(*span, "not a section that is known: it counts as 'other'") for span in _strange_tags(text)]
        sung = [line for line in text.splitlines() if line.strip() and not sections.tag_in(line)]
        return schema.LyricsReport(
            lines=len(sung), characters=sum(map(len, sung)), length=len(spans), max_length=longest, read=read,
            unknown=[schema.Unknown(start=start, stop=stop, text=text[start:stop], why=why)
                     for start, stop, why in unknown[:MOST_UNKNOWN]])


def as_read(lyrics: str) -> str:
    """Lyrics as `generate` reads them from a file."""
    return lyrics.replace("\r\n", "\n").replace("\r", "\n").strip()


def load(workdirs: Sequence[str], max_seconds: float) -> dict[str, Model]:
    """Models by name: that of their folder, or as they were given where two share one.

    Raises:
      UserError: one cannot be loaded, or is given twice.
    """
    names = [pathlib.PurePath(workdir).name or workdir for workdir in workdirs]
    names = [name if names.count(name) == 1 else workdir for name, workdir in zip(names, workdirs, strict=True)]
    if len(set(names)) < len(names):
        raise UserError(f"--workdir={next(name for name in names if names.count(name) > 1)} is given twice")
    return {name: _model(name, workdir, max_seconds) for name, workdir in zip(names, workdirs, strict=True)}


def _model(name: str, workdir: str, max_seconds: float) -> Model:
    singer = autosong_jax.load(workdir, "--workdir")
    config = singer.config
    defaults = config.sampling.masked if singer.fills_in else config.sampling
    known = {"latent_steps": config.latents.steps, "duration": None} | defaults.to_dict()
    order = list(schema.Options.model_fields)
    options = {option: schema.Option(default=list(known[option]) if isinstance(known[option], tuple) else known[option])
               for option in sorted(singer.options & set(order) - {"cfg_scales"}, key=order.index)}
    options["cfg_scales"] = schema.Option()
    scales = defaults.cfg_scales.to_dict()
    codec = singer.codec.info
    return Model(singer, schema.Model(
        name=name, workdir=workdir, codec=codec.name, text_encoder=singer.text_encoder.info.name,
        sample_rate=codec.sample_rate, channels=codec.channels, frame_rate=codec.frame_rate,
        seconds=min(config.data.seconds, max_seconds), max_seconds=max_seconds,
        texts=[text for text in TEXTS if text in singer.arguments],
        clips=[clip for clip in CLIPS if clip == "prompt_audio" or clip in singer.arguments],
        sources={source: schema.Source(scale=scales.get(source, defaults.cfg_scale)) for source in config.sources},
        options=options, edits=singer.fills_in,
        aligns="lyrics" in singer.arguments and config.model.fusion == "cross", codebooks=codec.frames.width))


def _strange_tags(lyrics: str) -> list[tuple[int, int]]:
    """Where section tags stand whose kind is not known."""
    found, at = [], 0
    for line in lyrics.splitlines(keepends=True):
        tag = sections.tag_in(line)
        if tag and not sections.is_known(tag):
            start = at + len(line) - len(line.lstrip())
            found.append((start, start + len(line.strip())))
        at += len(line)
    return found
