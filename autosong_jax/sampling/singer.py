"""From a model to songs: give it lyrics and a genre, get audio and the codec's frames.

Letters: B songs, T frames, D numbers in a frame: one of each codebook, where frames are codes.
"""

import dataclasses
import functools
import math
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from flax import nnx

from autosong_jax.audio import io
from autosong_jax.cli import progress
from autosong_jax.codecs.codec import Codec, frames_of, read_frames
from autosong_jax.codecs.info import Frames
from autosong_jax.errors import UserError
from autosong_jax.models.song import SongModel
from autosong_jax.pretrained import released
from autosong_jax.sampling import aligner, ranking, samplers, sound, windows
from autosong_jax.sampling.alignment import Alignment, Calibration, Head
from autosong_jax.sampling.drafts import Draft
from autosong_jax.sampling.edits import Edit
from autosong_jax.sampling.helpers import Helper, same_codec
from autosong_jax.sampling.judge import Judge
from autosong_jax.sampling.likelihood import Likelihood
from autosong_jax.sampling.medium import medium_of
from autosong_jax.sampling.options import HybridOptions, LengthOptions, pick
from autosong_jax.sampling.ranking import Candidate, Ranker
from autosong_jax.sampling.samplers import Autoregressive, Continuous, Judgement, Masked, SampledModel
from autosong_jax.sampling.sound import AudioChunk, GeneratedSong
from autosong_jax.sampling.windows import Leg, Made, WindowSampler
from autosong_jax.sources.base import Encoders
from autosong_jax.sources.user import UserConditions
from autosong_jax.workdir.workdir import ModelContext, Workdir

STRIDE = 32  # frames, after which progress is reported

Sources = Mapping[str, Mapping[str, np.ndarray]]
Conditions = Mapping[str, Any]  # by what they are given as: a text, or audio or frames; lists are of songs
Watch = Callable[[float], None]  # is told now and then which share of a song is made; what it raises ends the song


class Singer:
    """A trained model that sings: `generate` and `edit` for songs, `stream` for sound as it is made, `sing` for frames;
    and `align` for when each line is sung.

    Args:
      context: what the model is used with; its codec and text encoder are loaded when they are first needed.
      model: `unstacked`.

    Attributes:
      calibration: by which heads `align` tells times; None for those that are the most monotone in a song.
      medium: what the model makes songs of: frames, or columns of latents.
    """

    calibration: Calibration | None = None

    def __init__(self, context: ModelContext, model: SongModel):
        self.config, self._context = context.config, context
        encoders = Encoders(functools.cache(context.load_text_encoder), lambda: self.codec)
        self._encoders = encoders
        self._conditions = UserConditions(context.config, context.text, context.codec, encoders)
        self.encode_conditions, self.conditions_of = self._conditions.encode, self._conditions.given
        self.replace_weights(model)
        self.pattern = context.pattern
        self.medium = medium_of(context.codec, lambda: nnx.merge(self._graph, self._params))
        self.judge = Judge(self._graph, context)
        sampled = SampledModel(self._graph, context.config, self.pattern, model.source_names)
        self._samplers = samplers.get_samplers(sampled)
        self._aligner = aligner.Aligner(sampled, self._samplers[0], self._conditions, encoders.text, self._window,
                                        self.medium.rate)
        self._likelihood = Likelihood(sampled, self._samplers[0], self._conditions, self.medium.rate)

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
    def frames(self) -> Frames:
        """What songs are made of."""
        return self._context.codec.frames

    @property
    def text_encoder(self) -> Any:
        """What texts go through: of ids, or a frozen one. Raises UserError if it cannot be used here."""
        return self._encoders.text()

    @property
    def arguments(self) -> list[str]:
        """What can be given of a song, such as `lyrics`."""
        return self._conditions.arguments

    @property
    def options(self) -> set[str]:
        """The options that mean something to this model, fields of the dataclasses in `sampling.options`."""
        return samplers.options_of(self._samplers)

    @property
    def fills_in(self) -> bool:
        """Whether it can `edit`."""
        return self._masked is not None

    def read(self, path: str, channels: int | None = None) -> np.ndarray:
        """A clip as a caller gives it: the audio in a file, by default of the codec's channels; or the frames in a .npy
        file. Raises UserError where it is neither."""
        if path.endswith(".npy") and channels is None:
            return read_frames(path, self.frames)
        return io.read(path, self.codec.sample_rate, channels or self.codec.channels)[0]

    def generate(self, *, seed: int = 0, candidates: int = 1, rank_by: Ranker | None = None,
                 prompt_audio: np.ndarray | None = None, leader: "Singer | None" = None,
                 rescorer: "Singer | None" = None, show_progress: bool = False, **conditions_and_options
                 ) -> GeneratedSong | list[GeneratedSong]:
        """Sings.

        Args:
          seed: of the first song; song i has seed + i, and is the same in whatever company it is made. With several
            candidates, candidate c of song i has seed + i candidates + c, and is the song that this seed gives alone.
          candidates: how many songs are made of each, the best of which is kept.
          rank_by: what says which that is, from `autosong_jax.ranker`; may be given for one candidate, too.
          prompt_audio: the beginning of every song: float32 [channels, samples] at the codec's rate, or its frames,
            integer [any, D].
          leader, rescorer: other models that help; see `sing`.
          show_progress: a progress bar on stderr.
          **conditions_and_options: what the model was trained with, such as `lyrics`, `genre`, `description` (texts);
            `melody` (float32 [channels, samples] at the codec's rate, the recording whose melody songs follow);
            `backing` (a recording that songs go with, or its codes, as `prompt_audio`; unless there is a `duration`,
            they have as many samples as it has) or `style_audio` (likewise, what songs are to sound like); and the
            fields of the dataclasses in `sampling.options`, such as `duration` and `temperature`. A list of
            conditions is one song each, a single one is for all. What is not given is dropped, as it is now and then
            in training.

        Returns:
          A song, or a list of them if any condition was a list; with `rank_by` a `ranking.RankedSong`, whose `ranking`
          has the scores of its candidates.

        Raises:
          UserError: if a condition is given that the model was not trained with, an option means nothing, or songs of
            this model cannot be ranked so.
        """
        songs, several, options = self._songs(conditions_and_options)
        prompt = None if prompt_audio is None else self._frames("prompt_audio", prompt_audio)
        options, samples = self._lasting(songs, options)

        def plan(songs: Sequence[Conditions]) -> tuple[Draft, list[Leg]]:
            return self._plan(self.encode_conditions(songs), len(songs), prompt, leader and self.helper(leader, songs),
                              rescorer and self.helper(rescorer, songs), options)

        made = self._made(songs, plan, seed, candidates, rank_by, rescorer or self, samples, show_progress)
        return made if several else made[0]

    def stream(self, *, chunk_seconds: float = 1.0, seed: int = 0, candidates: int = 1, rank_by: Ranker | None = None,
               prompt_audio: np.ndarray | None = None, leader: "Singer | None" = None,
               rescorer: "Singer | None" = None, watch: Watch | None = None, **conditions_and_options
               ) -> Iterator[AudioChunk]:
        """Sings one song and gives its sound as it is made: the song of `generate`, chunk by chunk.

        All that changes is in the iterator: streams of one singer may be gone through in turns, and each gives the song
        that it would give alone. A model that fills in gives a window at a time, when it is done.

        Args:
          chunk_seconds: how much is sung between two chunks, and decoded at a time.
          seed, prompt_audio, leader, rescorer, **conditions_and_options: as of `generate`, for one song.
          candidates, rank_by: there is nothing to choose from.
          watch: see `Watch`; also while nothing stands yet.

        Yields:
          Chunks whose frames together are those of `generate`, and so is their audio where the codec decodes blocks as
          it does whole songs.

        Raises:
          UserError: at once, as `generate`; also for lists and for chunks that are none.
        """
        if candidates != 1 or rank_by is not None:
            raise UserError("candidates of a stream: it is heard before there is a second one to choose from; expected "
                            "one, or generate in place of stream")
        if not 0 < chunk_seconds < float("inf"):
            raise UserError(f"chunk_seconds {chunk_seconds}: expected more than 0")
        songs, several, options = self._songs(conditions_and_options)
        if several:
            raise UserError("a list of conditions: a stream is of one song; begin one for each")
        prompt = None if prompt_audio is None else self._frames("prompt_audio", prompt_audio)
        sources = self.encode_conditions(songs)
        options, samples = self._lasting(songs, options)
        draft, legs = self._plan(sources, 1, prompt, leader and self.helper(leader, songs),
                                 rescorer and self.helper(rescorer, songs), options)
        stride = max(round(chunk_seconds * self.medium.rate), 1)
        made = _watched(windows.sing(draft, legs, [seed], stride), _missing(draft, legs), watch)
        frames = self.medium.frames(_standing(made))
        return sound.decoded(self.codec, frames, max(round(chunk_seconds * self.frame_rate), 1), samples)

    def edit(self, edit: Edit, *, seed: int = 0, candidates: int = 1, rank_by: Ranker | None = None,
             rescorer: "Singer | None" = None, show_progress: bool = False, watch: Watch | None = None,
             **conditions_and_options) -> GeneratedSong | list[GeneratedSong]:
        """Makes parts of a song anew and keeps the frames of the rest, or adds to it before, between and after clips.

        Args:
          edit: what stays and what is made.
          seed, candidates, rank_by, rescorer, show_progress, **conditions_and_options: as of `generate`; the conditions
            are those of the song as it is to be, and its likelihood is that of what is made anew.
          watch: see `Watch`; of several candidates it is told of those that are made together.

        Returns:
          As of `generate`.

        Raises:
          UserError: if the model was not trained to fill in, or an edit, a condition or an option means nothing.
        """
        songs, several, options = self._songs(conditions_and_options)
        clips = [self._frames("a clip", clip) for clip in edit.clips]
        frames, given = dataclasses.replace(edit, clips=clips).timeline(self.frame_rate)

        def plan(songs: Sequence[Conditions]) -> tuple[Draft, list[Leg]]:
            return self._plan_edit(self.encode_conditions(songs), len(songs), frames, given,
                                   rescorer and self.helper(rescorer, songs), options)

        made = self._made(songs, plan, seed, candidates, rank_by, rescorer or self, None, show_progress, watch)
        return made if several else made[0]

    def align(self, song: np.ndarray, *, heads: Sequence[Head] | None = None, **conditions) -> Alignment:
        """When each line of the lyrics is sung in a song of this model's, or in any recording of them.

        It shows where the model attends, which is not proof of what is heard.

        Args:
          song: its frames, integer [T, D], as `generate` gives them; or float32 [channels, samples] at the codec's
            rate. `read` gives either.
          heads: (layer, head), each counted from 0, whose attention is averaged; by default those of `calibration`.
          **conditions: of the song, as of `generate`: its `lyrics`, and what else it was sung with.

        Raises:
          UserError: there is nothing to align, or the model does not attend to lyrics (`check_align` says so before),
            or has no such head.
        """
        self.check_align(**conditions)
        if heads is None and self.calibration:
            heads = self.calibration.heads
        return self._aligner.align(self._params, self._sung(song, conditions), heads)

    def check_align(self, **conditions) -> None:
        """Raises UserError where `align` would, whatever the song."""
        self._aligner.check(conditions)

    def check_likelihood(self) -> None:
        """Raises UserError where this model says of no song how probable it is."""
        self._likelihood.check()

    def calibrate(self, songs: Iterable[tuple[np.ndarray, Conditions, Sequence[tuple[int, float]]]], *,
                  show_progress: bool = False) -> Calibration:
        """The heads by which `align` tells times best, for `calibration`.

        Args:
          songs: of each itself and its conditions, as of `align`; and known times: (a character of the lyrics that is
            sung, the second in which it begins).
          show_progress: progress bars on stderr.

        Raises:
          UserError: as `align`; also if no time is known.
        """
        known = ((self._sung(song, conditions), times) for song, conditions, times in songs)
        return self._aligner.calibrate(self._params, known, show_progress)

    def helper(self, singer: "Singer", songs: Sequence[Conditions]) -> Helper:
        """Another model that can help this one with `songs` (see `encode_conditions`), of which it reads what it knows.

        Raises:
          UserError: if it cannot sing step by step, or its frames mean something else.
        """
        if not isinstance(singer._stepwise, Autoregressive):
            raise UserError(f"a model of objective {singer.config.objective.name} cannot help: expected one that was "
                            f"{samplers.trained_to(Autoregressive)}")
        if not same_codec((self._context.codec, singer._context.codec), lambda: (self.codec, singer.codec)):
            raise UserError("a model over another codec cannot help: expected one that was trained on songs of "
                            f"the same {self._context.codec.name}")
        sources = singer._known_of(songs)

        def lead(options: Mapping[str, Any], stop: int) -> Leg:
            return singer._leg(singer._stepwise.prepare(options), stop, sources)

        def judged_by(start: int) -> tuple[Any, Sources]:
            return singer._params, singer._conditions.at(sources, start / singer.medium.rate)

        return Helper(lead, Judgement(singer.judge, judged_by))

    def sing(self, sources: Sources, seeds: Sequence[int], *, prompt: np.ndarray | None = None,
             leader: Helper | None = None, rescorer: Helper | None = None, show_progress: bool = False, **options
             ) -> list[np.ndarray]:
        """Frames of songs.

        Songs longer than the window of training are made window by window, each starting from the end of the last.

        Args:
          sources: as in a batch of `autosong_jax.data.dataset`, B songs.
          seeds: one a song.
          prompt: [any, D], the beginning of every song.
          leader: sings the first `hybrid_seconds` of each song, which this model then fills in; None is this model,
            where it can do both.
          rescorer: judges the codes of a masked model together with it.
          **options: as of `generate`.

        Returns:
          For each song [T, D], as the codec decodes it: of codes uint16.
        """
        units = self.sing_units(sources, seeds, prompt=prompt, leader=leader, rescorer=rescorer,
                                show_progress=show_progress, **options)
        return [self._frames_of(song) for song in units]

    def sing_units(self, sources: Sources, seeds: Sequence[int], *, prompt: np.ndarray | None = None,
                   leader: Helper | None = None, rescorer: Helper | None = None, show_progress: bool = False, **options
                   ) -> list[np.ndarray]:
        """The same in units of `medium`: of a model of latents their columns, float32 [N, R C] of unit variance over
        the songs that it learned from."""
        return self._collect(*self._plan(sources, len(seeds), prompt, leader, rescorer, options), seeds, show_progress)

    def resing(self, sources: Sources, seeds: Sequence[int], frames: np.ndarray, given: np.ndarray, *,
               rescorer: Helper | None = None, show_progress: bool = False, **options) -> list[np.ndarray]:
        """Frames of songs that keep some of another and have the others made anew; see `edits.Edit`.

        Args:
          sources, seeds, rescorer, **options: as of `sing`.
          frames: [T, D]; those that are not given are not read.
          given: bool [T], the frames that every song keeps.

        Returns:
          For each song [T, D]; it is shorter only if its end is not given and the model says that it is over.

        Raises:
          UserError: if the model was not trained to fill in.
        """
        draft, legs = self._plan_edit(sources, len(seeds), frames, given, rescorer, options)
        return [self._frames_of(song) for song in self._collect(draft, legs, seeds, show_progress)]

    def _plan(self, sources: Sources, count: int, prompt: np.ndarray | None, leader: Helper | None,
              rescorer: Helper | None, options: Mapping[str, Any]) -> tuple[Draft, list[Leg]]:
        """How `count` songs are sung: what stands at first, and the legs of the way; arguments as of `sing`."""
        options = self._checked_options(options)
        rate, prompt = self.medium.rate, self.medium.none if prompt is None else self.medium.units(prompt)
        total = pick(LengthOptions, options).frames(rate, self._window)
        total = self._masked.frames(options, total) if self._masked else total
        if total <= len(prompt):
            raise UserError(f"duration {total / rate:.2f} s: expected more than the prompt's "
                            f"{len(prompt) / rate:.2f} s")
        draft = Draft.of(prompt, np.ones(len(prompt), bool), count)
        if self._masked is None:
            for name, helper in [("leader", leader), ("rescorer", rescorer)]:
                if helper is not None:
                    raise samplers.unable(name, self._samplers, Masked)
            return draft, [self._leg(self._stepwise.prepare(options), total, sources)]
        filling = self._filling(rescorer, options, total, sources)
        lead = min(round(pick(HybridOptions, options).lead_seconds(self.config.sampling.masked) * self.frame_rate),
                   total)
        if lead > len(prompt):
            return draft, [self._leading(leader, options, lead, sources), filling]
        if leader is not None:
            raise UserError(f"the leader has nothing to sing: expected hybrid_seconds beyond the prompt's "
                            f"{len(prompt) / self.frame_rate:.2f} s")
        return draft, [filling]

    def _plan_edit(self, sources: Sources, count: int, frames: np.ndarray, given: np.ndarray, rescorer: Helper | None,
                   options: Mapping[str, Any]) -> tuple[Draft, list[Leg]]:
        """The same of `count` songs that keep some of another; arguments as of `resing`."""
        options = self._checked_options(options)
        if self._masked is None:
            raise samplers.unable("edit", self._samplers, Masked)
        return (Draft.of(self.medium.units(frames), given, count),
                [self._filling(rescorer, options, len(frames), sources)])

    def _leading(self, leader: Helper | None, options: Mapping[str, Any], lead: int, sources: Sources) -> Leg:
        """The first leg of a hybrid: step by step, by a leader or by this model, which can do both."""
        if leader is not None:  # whose sources may be others
            own = {name: value for name, value in options.items() if name != "cfg_scales"}
            return leader.lead(own, lead)
        if self._stepwise is None:
            raise UserError(f"hybrid_seconds {lead / self.frame_rate:.2f}: this model was not trained to sing step by "
                            "step; expected a leader that was, or a model of both")
        return self._leg(self._stepwise.prepare(options), lead, sources)

    def _filling(self, rescorer: Helper | None, options: Mapping[str, Any], total: int, sources: Sources) -> Leg:
        """The last leg of songs of `total` frames: what does not stand yet is filled in."""
        judgement = rescorer.judgement if rescorer else Judgement()
        return self._leg(self._masked.prepare(options, total, judgement), total, sources)

    def _leg(self, sampler: WindowSampler, stop: int, sources: Sources) -> Leg:
        """A leg that this model sings, with the weights that it has now."""
        return Leg(stop, sampler, self._params, lambda start: self._conditions.at(sources, start / self.medium.rate))

    @property
    def _window(self) -> int:
        """Units of a window of training."""
        return round(self.pattern.num_frames / self.frame_rate * self.medium.rate)

    @property
    def _stepwise(self) -> Autoregressive | Continuous | None:
        return next((sampler for sampler in self._samplers if not sampler.fills_in), None)

    @property
    def _masked(self) -> Masked | None:
        return next((sampler for sampler in self._samplers if sampler.fills_in), None)

    def _checked_options(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """The options that are given. Raises UserError for one that no sampler of this model takes."""
        options = {name: value for name, value in options.items() if value is not None}
        samplers.check_options(options, self._samplers)
        return options

    def _songs(self, given: Mapping[str, Any]) -> tuple[list[dict[str, Any]], bool, dict[str, Any]]:
        """Of conditions and options: the conditions of each song, whether there was a list of any, and the options."""
        options = {name: value for name, value in given.items() if name in samplers.ALL_OPTIONS}
        given = {name: value for name, value in given.items() if name not in options and value is not None}
        lists = [name for name, condition in given.items() if isinstance(condition, (list, tuple))]
        counts = {len(given[name]) for name in lists}
        if 0 in counts:
            raise UserError("an empty list of conditions: expected at least one song")
        if len(counts) > 1:
            raise UserError(f"lists of {', '.join(map(str, sorted(counts)))} conditions: expected lists of one length")
        songs = [{name: condition[i] if name in lists else condition for name, condition in given.items()}
                 for i in range(counts.pop() if counts else 1)]
        songs = [{name: condition for name, condition in song.items() if condition is not None} for song in songs]
        return songs, bool(lists), options

    def _sung(self, song: np.ndarray, conditions: Conditions) -> aligner.SungSong:
        """A song as the aligner takes it. Raises UserError if it is neither audio nor frames."""
        given = {name: condition for name, condition in conditions.items() if condition is not None}
        return aligner.SungSong(self.medium.units(self._frames("the song", song)), given)

    def _frames(self, name: str, clip: np.ndarray) -> np.ndarray:
        """The frames of a clip, audio or frames. Raises UserError if it is neither."""
        return frames_of(name, clip, self._context.codec, lambda: self.codec)

    def _lasting(self, songs: Sequence[Conditions], options: Mapping[str, Any]) -> tuple[dict[str, Any], int | None]:
        """The options, and how many samples songs are to have. A duration that is not given is that of what they go
        with, to the sample; where there is none of that either, the codec decides how many samples they have.

        Raises:
          UserError: what they go with differs in length.
        """
        lengths = {self._conditions.seconds(song) for song in songs}
        if options.get("duration") is not None or lengths == {None}:
            return dict(options), None
        if len(lengths) > 1:
            known = sorted(seconds for seconds in lengths if seconds is not None)
            raise UserError(f"what the songs go with lasts {', '.join(f'{seconds:.2f}' for seconds in known)} s"
                            f"{', or is not given' if None in lengths else ''}: expected one length; give a duration, "
                            "or sing the songs one by one")
        [seconds] = lengths
        frames = math.ceil(seconds * self.frame_rate - 1e-6)
        return {**options, "duration": frames / self.frame_rate}, round(seconds * self._context.codec.sample_rate)

    def _made(self, songs: Sequence[Conditions], plan: Callable[[Sequence[Conditions]], tuple[Draft, list[Leg]]],
              seed: int, candidates: int, rank_by: Ranker | None, reader: "Singer", samples: int | None,
              show_progress: bool, watch: Watch | None = None) -> list[GeneratedSong]:
        """Songs, or of each the best of some candidates.

        Args:
          songs: the conditions of each.
          plan: how songs of such conditions are sung.
          seed, candidates, rank_by, show_progress: as of `generate`.
          reader: by whom songs are likely or not.
          samples: see `_generated`.
          watch: as of `edit`.
        """
        ranking.check(candidates, rank_by)
        if rank_by is None:
            made = self._collect(*plan(songs), range(seed, seed + len(songs)), show_progress, watch)
            return [self._generated(self._frames_of(units), samples) for units in made]
        for song in songs:
            rank_by.check(self, song)

        def sung(songs: Sequence[Conditions], seed: int) -> Iterator[Candidate]:
            return self._candidates(songs, plan, seed, reader, samples, show_progress, watch)

        return ranking.best(sung, songs, candidates, rank_by, seed, show_progress)

    def _candidates(self, songs: Sequence[Conditions], plan: Callable, seed: int, reader: "Singer",
                    samples: int | None, show_progress: bool, watch: Watch | None) -> Iterator[Candidate]:
        """Songs that are made together, to choose from; arguments as of `_made`."""
        draft, legs = plan(songs)
        given = draft.lengthened(legs[-1].stop).given.copy()
        made = self._collect(draft, legs, range(seed, seed + len(songs)), show_progress, watch)
        sources = functools.cache(lambda: reader._known_of(songs))

        def log_likelihood(i: int) -> float | None:
            of_song = {name: {key: x[i:i + 1] for key, x in arrays.items()} for name, arrays in sources().items()}
            return reader._likelihood(reader._params, made[i], given, of_song)

        for i, units in enumerate(made):
            song = self._generated(self._frames_of(units), samples)
            yield Candidate(song, songs[i], len(song.frames) / self.frame_rate, functools.partial(log_likelihood, i))

    def _known_of(self, songs: Sequence[Conditions]) -> Sources:
        """The sources of songs, of whose conditions this model reads what it knows."""
        known = self._conditions.arguments
        return self.encode_conditions([{name: given for name, given in song.items() if name in known}
                                       for song in songs])

    def _generated(self, frames: np.ndarray, samples: int | None = None) -> GeneratedSong:
        """A song of these frames, whose audio has so many samples if that is given."""
        return GeneratedSong(frames, self._context.codec.sample_rate, lambda frames: self.codec.decode(frames), samples)

    def _collect(self, draft: Draft, legs: Sequence[Leg], seeds: Sequence[int], show_progress: bool,
                 watch: Watch | None = None) -> list[np.ndarray]:
        """The units of songs once they are all made."""
        total = _missing(draft, legs)
        with progress(total=total, unit="frame", desc="singing", leave=False, show=show_progress) as bar:
            stride = None if bar.disable and watch is None else STRIDE
            for now in _watched(windows.sing(draft, legs, seeds, stride), total, watch):
                bar.update(now.made - bar.n)
        return list(now.draft.songs())

    def _frames_of(self, units: np.ndarray) -> np.ndarray:
        """The frames of a song."""
        return np.concatenate([self.frames.none, *self.medium.frames([units])])


def _missing(draft: Draft, legs: Sequence[Leg]) -> int:
    """How many units are to be made."""
    return legs[-1].stop - int(draft.given.sum())


def _watched(made: Iterator[Made], total: int, watch: Watch | None) -> Iterator[Made]:
    """The same, while `watch` is told how much of `total` there is."""
    for now in made:
        if watch:
            watch(now.made / total)
        yield now


def _standing(made: Iterator[Made]) -> Iterator[np.ndarray]:
    """The units of one song, [any, W], as they come to stand from its beginning on."""
    sent = 0
    for now in made:
        stop = min(now.draft.standing, int(now.draft.num_frames[0]))
        if stop > sent:
            yield now.draft.frames[0, sent:stop]
            sent = stop


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
        singer = Singer(model.context, model.load_model())
    else:
        workdir = Workdir(directory)
        samplers.check_sings(workdir.config, f"{flag} {source}")
        singer = Singer(workdir.context, workdir.load_model())
    singer.calibration = Calibration.load(directory)
    return singer
