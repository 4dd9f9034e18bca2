"""From a workdir to songs: load a trained model, give it lyrics and a genre, get audio and codes.

Letters: B songs, T frames, K codebooks, V codebook size, L length of a source.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from autosong_jax.audio import io
from autosong_jax.cli import progress
from autosong_jax.codecs.codec import Codec
from autosong_jax.errors import UserError
from autosong_jax.models.song import SongModel
from autosong_jax.objectives.table import OBJECTIVES
from autosong_jax.pretrained import released
from autosong_jax.sampling.drafts import Draft, next_window
from autosong_jax.sampling.edits import timeline
from autosong_jax.sampling.options import DEFAULTS, SamplingOptions, Song
from autosong_jax.sampling.windows import WINDOWS, encode
from autosong_jax.sources.user import UserConditions
from autosong_jax.workdir.workdir import ModelContext, Workdir, window_pattern


@dataclasses.dataclass(frozen=True)
class Helper:
    """Another model over the same codec, with the conditions of the songs as it reads them; from `Singer.helper`."""

    singer: "Singer"
    sources: Mapping[str, Mapping[str, np.ndarray]]


class Singer:
    """A trained model that sings: `generate` for songs, `sing` for codes alone.

    Args:
      context: what the model is used with; its codec and text encoder are loaded when they are first needed.
      model: `unstacked`.
    """

    def __init__(self, context: ModelContext, model: SongModel):
        self.config, self._context = context.config, context
        self._conditions = UserConditions(context.config, context.text, context.load_text_encoder,
                                          context.codec.sample_rate)
        self.encode_conditions = self._conditions.encode
        self.replace_weights(model)
        self.source_names = model.source_names
        self.pattern = context.pattern
        self._windows = {name: WINDOWS[name](self._graph, self.config, self.pattern)
                         for name in OBJECTIVES[self.config.objective.name]}

    def replace_weights(self, model: SongModel) -> None:
        """Sings with `model` (`unstacked`) from now on; nothing is compiled anew for a model of the same shape."""
        self._graph, self._params = nnx.split(model)

    def release_weights(self) -> None:
        """Frees the weights; `replace_weights` gives others before the next song."""
        self._params = None

    @functools.cached_property
    def codec(self) -> Codec:
        """The codec. Raises UserError if it cannot be used here."""
        return self._context.load_codec()

    @property
    def frame_rate(self) -> float:
        """Frames a second."""
        return self._context.codec.frame_rate

    @property
    def num_codebooks(self) -> int:
        """K."""
        return self._context.codec.num_codebooks

    @property
    def codebook_size(self) -> int:
        """V."""
        return self._context.codec.codebook_size

    def generate(self, lyrics: str | Sequence[str] | None = None, genre: str | Sequence[str] | None = None,
                 description: str | Sequence[str] | None = None, *, melody: np.ndarray | None = None, seed: int = 0,
                 prompt_audio: np.ndarray | None = None, leader: "Singer | None" = None,
                 rescorer: "Singer | None" = None, show_progress: bool = False, **options) -> Song | list[Song]:
        """Sings.

        Args:
          lyrics, genre, description: the conditions; a list of any of them is one song each, a single text is for all.
            A source of the model that is not given is dropped, as it is now and then in training.
          melody: float32 [channels, samples] at the codec's rate, the recording whose melody every song follows.
          seed: of the first song; song i has seed + i, and is the same in whatever company it is made.
          prompt_audio: float32 [channels, samples] at the codec's rate, the beginning of every song.
          leader, rescorer: other models that help; see `sing`.
          show_progress: a progress bar on stderr.
          **options: fields of `SamplingOptions`.

        Returns:
          A song, or a list of them if any condition was a list.

        Raises:
          UserError: if a condition is given that the model was not trained with, or an option means nothing.
        """
        songs, several = _songs({"lyrics": lyrics, "genre": genre, "description": description, "melody": melody})
        prompt = None if prompt_audio is None else self.codec.encode(self._checked("prompt_audio", prompt_audio))
        codes = self.sing(
            self.encode_conditions(songs), range(seed, seed + len(songs)), prompt=prompt,
            leader=leader and self.helper(leader, songs), rescorer=rescorer and self.helper(rescorer, songs),
            show_progress=show_progress, options=SamplingOptions(**options))
        songs = [Song(self.codec.decode(c), self.codec.sample_rate, c) for c in codes]
        return songs if several else songs[0]

    def edit(self, clips: Sequence[np.ndarray], spans: Sequence[tuple[float, float]] = (), *, before: float = 0.0,
             between: float = 0.0, after: float = 0.0, lyrics: str | Sequence[str] | None = None,
             genre: str | Sequence[str] | None = None, description: str | Sequence[str] | None = None,
             melody: np.ndarray | None = None, seed: int = 0, rescorer: "Singer | None" = None,
             show_progress: bool = False, **options) -> Song | list[Song]:
        """Makes parts of a song anew and keeps the codes of the rest, or adds to it before, between and after clips.

        Args:
          clips: codes, integer [frames, K], or audio, float32 [channels, samples] at the codec's rate.
          spans, before, between, after: in seconds; see `edits.timeline`.
          lyrics, genre, description, melody, seed, rescorer, show_progress, **options: as of `generate`; the conditions
            are those of the song as it is to be.

        Returns:
          A song, or a list of them if any condition was a list.

        Raises:
          UserError: if the model was not trained to fill in, or an edit, a condition or an option means nothing.
        """
        songs, several = _songs({"lyrics": lyrics, "genre": genre, "description": description, "melody": melody})
        clips = [self.codec.encode(self._checked("a clip", clip)) if clip.dtype.kind == "f" else clip for clip in clips]
        codes, given = timeline(clips, self.frame_rate, spans=spans, before=before, between=between, after=after)
        made = self.resing(
            self.encode_conditions(songs), range(seed, seed + len(songs)), codes, given,
            rescorer=rescorer and self.helper(rescorer, songs), show_progress=show_progress,
            options=SamplingOptions(**options))
        songs = [Song(self.codec.decode(c), self.codec.sample_rate, c) for c in made]
        return songs if several else songs[0]

    def helper(self, singer: "Singer", songs: Sequence[Mapping[str, str | np.ndarray]]) -> Helper:
        """Another model that can help this one with `songs` (see `encode_conditions`), of which it reads what it knows.

        Raises:
          UserError: if it cannot sing step by step, or its codes mean something else.
        """
        if "next_step" not in singer._windows:
            raise UserError(f"a model of objective {singer.config.objective.name} cannot help: expected one that was "
                            "trained to sing step by step (objective next_step or both)")
        if not _same_codec(self, singer):
            raise UserError("a model over another codec cannot help: expected one that was trained on codes of "
                            f"{self._context.codec.name} with the same codebooks")
        return Helper(singer, singer.encode_conditions([
            {name: given for name, given in song.items() if name in singer._conditions.arguments} for song in songs]))

    def sing(self, sources: Mapping[str, Mapping[str, np.ndarray]], seeds: Sequence[int], *,
             prompt: np.ndarray | None = None, leader: Helper | None = None, rescorer: Helper | None = None,
             show_progress: bool = False, options: SamplingOptions = DEFAULTS) -> list[np.ndarray]:
        """Codes of songs.

        Songs longer than the window of training are made window by window, each starting from the end of the last.

        Args:
          sources: as in a batch of `autosong_jax.data.dataset`, B songs.
          seeds: one a song.
          prompt: integer [frames, K], the beginning of every song.
          leader: sings the first `hybrid_seconds` of each song, which this model then fills in; None is this model,
            where it can do both.
          rescorer: judges the codes of a masked model together with it.

        Returns:
          For each song uint16 [T, K].
        """
        prompt = np.zeros((0, self.num_codebooks), np.int32) if prompt is None else prompt
        total = options.frames(self.frame_rate, len(self.pattern.steps))
        if "masked_spans" in self._windows:
            total = options.plan(self.config, self.num_codebooks).frames(total)
        if total <= len(prompt):
            raise UserError(f"duration {total / self.frame_rate:.2f} s: expected more than the prompt's "
                            f"{len(prompt) / self.frame_rate:.2f} s")
        draft = Draft.begin([prompt] * len(seeds), total, len(prompt))
        if "masked_spans" not in self._windows:
            self._want_masked(leader=leader, rescorer=rescorer, hybrid_seconds=options.hybrid_seconds,
                              steps=options.steps, rescore_weight=options.rescore_weight,
                              cfg_scale_min=options.cfg_scale_min, arrangement=options.arrangement,
                              confidence=options.confidence)
            return self._fill(draft, sources, seeds, options, show_progress)
        lead = min(round(options.lead_seconds(self.config.sampling.masked) * self.frame_rate), total)
        if leader is not None and lead <= len(prompt):
            raise UserError(f"the leader has nothing to sing: expected hybrid_seconds beyond the prompt's "
                            f"{len(prompt) / self.frame_rate:.2f} s")
        if lead > len(prompt):
            if leader is None and "next_step" not in self._windows:
                raise UserError(f"hybrid_seconds {lead / self.frame_rate:.2f}: this model was not trained to sing step "
                                "by step; expected a leader that was, or a model of objective both")
            singer, its_sources = (leader.singer, leader.sources) if leader else (self, sources)
            draft = Draft.begin([prompt] * len(seeds), lead, len(prompt))
            begun = singer._fill(draft, its_sources, seeds, dataclasses.replace(
                options, cfg_scales=None if leader else options.cfg_scales), show_progress)
            draft = Draft.begin(begun, total, lead)
        return self._fill(draft, sources, seeds, options, show_progress, "masked_spans", rescorer)

    def resing(self, sources: Mapping[str, Mapping[str, np.ndarray]], seeds: Sequence[int], codes: np.ndarray,
               given: np.ndarray, *, rescorer: Helper | None = None, show_progress: bool = False,
               options: SamplingOptions = DEFAULTS) -> list[np.ndarray]:
        """Codes of songs that keep some frames of another and have the others made anew; see `edits.timeline`.

        Args:
          sources, seeds, rescorer: as of `sing`.
          codes: integer [T, K]; what stands in frames that are not given is not read.
          given: bool [T], the frames that every song keeps.

        Returns:
          For each song uint16 [T, K]; it is shorter only if its end is not given and the model says that it is over.

        Raises:
          UserError: if the model was not trained to fill in.
        """
        self._want_masked(edit=True)
        draft = Draft(np.tile(codes[None].astype(np.int32), (len(seeds), 1, 1)), given.copy(),
                      np.full(len(seeds), len(codes)))
        return self._fill(draft, sources, seeds, options, show_progress, "masked_spans", rescorer)

    def judge(self, judged_by: tuple[Any, Mapping[str, Mapping[str, Array]]], codes: Array, stage: Array) -> Array:
        """What this model, which sings step by step, thinks of codes: it reads all of them at once.

        Codes that are still masked are the special id, as before the beginning of a song.

        Args:
          judged_by: its parameters, and sources of B songs.
          codes: int32 [B, T, K].
          stage: int [], a codebook.

        Returns:
          float32 [B, T], the log probability of each frame's code in that codebook, of all codes.
        """
        params, sources = judged_by
        model = nnx.merge(self._graph, params)
        pattern = window_pattern(self.config, self._context.codec, codes.shape[1])
        memory = encode(model, sources, np.ones((1, len(self.source_names)), bool), len(codes))
        logits = model(pattern.interleave(codes, model.special)[:, :-1], memory, codebook=stage)
        # The logits of a step are those before it.
        logits = logits[:, jnp.asarray(pattern.steps)[:, stage] - 1, 0, :model.special]
        row = jax.lax.dynamic_index_in_dim(codes, stage, axis=2)
        return jnp.take_along_axis(jax.nn.log_softmax(logits), jnp.minimum(row, model.special - 1), axis=-1)[..., 0]

    def _checked(self, name: str, audio: np.ndarray) -> np.ndarray:
        """`audio`, if the codec can take it. Raises UserError if it cannot."""
        return io.checked(name, audio, self.codec.sample_rate, self.codec.channels)

    def _want_masked(self, **wanted: Any) -> None:
        """Raises UserError if anything is wanted of a model that can only sing step by step."""
        asked = [name for name, value in wanted.items() if value is not None and value is not False]
        if asked and "masked_spans" not in self._windows:
            raise UserError(f"{asked[0]}: this model sings step by step; expected one that was trained to fill in "
                            "(objective masked_spans or both)")

    def _fill(self, draft: Draft, sources: Mapping[str, Mapping[str, np.ndarray]], seeds: Sequence[int],
              options: SamplingOptions, show_progress: bool, objective: str = "next_step",
              rescorer: Helper | None = None) -> list[np.ndarray]:
        """Makes the frames of `draft` that are not given, in place, and gives its songs."""
        if not 0 <= min(seeds) <= max(seeds) < 2**32:
            raise UserError(f"seeds {min(seeds)} to {max(seeds)}: expected them within 0 to 2**32 - 1")
        if not 0 <= self.config.sampling.overlap < 1:
            raise UserError(f"sampling.overlap {self.config.sampling.overlap}: expected a share from 0 to below 1")
        helped = {}
        if rescorer is not None:
            judge = rescorer.singer
            helped = {"judge": judge.judge, "judged_by": (judge._params, judge._conditions.at(rescorer.sources, 0.0))}
        sample, num_steps, window = self._windows[objective].prepare(self.source_names, options, len(draft.given),
                                                                     **helped)
        keys = jax.vmap(jax.random.key)(np.array(seeds, np.uint32))
        overlap = int(self.config.sampling.overlap * window)
        with progress(total=int((~draft.given).sum()), unit="frame", desc="singing", leave=False,
                      show=show_progress) as bar:
            while not draft.given.all() and draft.num_frames.max() > (first := int(np.argmin(draft.given))):
                start, stop = next_window(draft.given, window, overlap)
                frames = int((~draft.given[start:stop]).sum())
                on_step = functools.partial(_show_share, bar, bar.n, frames, num_steps)
                until = min(start + window, len(draft.given))
                codes = np.zeros((len(seeds), window, draft.codes.shape[2]), np.int32)
                codes[:, :until - start] = draft.codes[:, start:until]
                given = np.zeros((len(seeds), window), bool)
                given[:, :until - start] = draft.given[start:until]
                length = np.clip(draft.num_frames - start, 0, until - start).astype(np.int32)
                new, ends = jax.device_get(sample(
                    self._params, self._conditions.at(sources, start / self.frame_rate),
                    jax.vmap(jax.random.fold_in, (0, None))(keys, first), codes, given, length,
                    None if bar.disable else on_step))
                on_step(num_steps)
                kept = draft.given[start:stop, None]
                draft.codes[:, start:stop] = np.where(kept, draft.codes[:, start:stop], new[:, :stop - start])
                ended = (ends < length) & (start + ends < stop)
                draft.num_frames = np.where(ended, start + ends, draft.num_frames)
                draft.given[start:stop] = True
        return draft.songs()


def _show_share(bar: Any, before: int, frames: int, num_steps: int, step: int) -> None:
    """Moves a bar to where it stands after `step` of `num_steps` steps, which make `frames` frames."""
    bar.update(before + frames * step // num_steps - bar.n)


def _songs(given: Mapping[str, Any]) -> tuple[list[dict[str, str | np.ndarray]], bool]:
    """What is given of each song, from conditions of which a list is one song each; and whether there was a list."""
    given = {name: condition for name, condition in given.items() if condition is not None}
    lists = [name for name, condition in given.items() if isinstance(condition, (list, tuple))]
    counts = {len(given[name]) for name in lists}
    if 0 in counts:
        raise UserError("an empty list of conditions: expected at least one song")
    if len(counts) > 1:
        raise UserError(f"lists of {', '.join(map(str, sorted(counts)))} conditions: expected lists of one length")
    songs = [{name: condition[i] if name in lists else condition for name, condition in given.items()}
             for i in range(counts.pop() if counts else 1)]
    return songs, bool(lists)


def load(source: str | pathlib.Path, flag: str = "source") -> Singer:
    """Loads a model that sings.

    Args:
      source: a workdir, whose newest weights are taken (their moving average, if the run keeps one); a directory that
        `convert --export` wrote; a released MusicGen; or the hub id of one of the last two.
      flag: what `source` was given by, for errors.

    Raises:
      UserError: if it is none of these, or nothing has been trained in it yet.
    """
    directory = released.locate(source, flag)
    if released.is_released(directory):
        model = released.read(str(source), flag)
        return Singer(model.context, model.load_model())
    workdir = Workdir(directory)
    return Singer(workdir.context, workdir.load_model())


def _same_codec(one: Singer, other: Singer) -> bool:
    """Whether codes mean the same to both; codecs without a digest of their codebooks are tried."""
    info = one._context.codec
    if info != other._context.codec:
        return False
    codes = np.random.default_rng(0).integers(one.codebook_size, size=(8, one.num_codebooks))
    return info.digest is not None or np.array_equal(one.codec.decode(codes), other.codec.decode(codes))
