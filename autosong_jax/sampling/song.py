"""From a workdir to songs: load a trained model, give it lyrics and a genre, get audio and codes.

Letters: B songs, T frames, K codebooks, V codebook size, L length of a source.
"""

import dataclasses
import functools
import json
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from flax import nnx

from autosong_jax import config as config_file
from autosong_jax.audio.codec import Codec, load_codec
from autosong_jax.cli import progress
from autosong_jax.codebooks.patterns import Pattern, get_pattern
from autosong_jax.data.text import TextEncoder, TextEncoderInfo, rebuild_text_encoder
from autosong_jax.errors import UserError
from autosong_jax.models.build import abstract_model, compute_dtype, held_in
from autosong_jax.models.song import SongModel
from autosong_jax.pretrained import files, released
from autosong_jax.pretrained import text as frozen_text
from autosong_jax.pretrained.text import FrozenTextEncoder
from autosong_jax.sampling import autoregressive
from autosong_jax.sampling.conditions import MELODY, Conditions
from autosong_jax.sampling.guidance import branches
from autosong_jax.sampling.tokens import Choice
from autosong_jax.training.checkpoints import load_weights


@dataclasses.dataclass(frozen=True)
class Song:
    """A generated song.

    Attributes:
      audio: float32 [channels, samples].
      sample_rate: Hz.
      codes: uint16 [T, K].
    """

    audio: np.ndarray
    sample_rate: int
    codes: np.ndarray


@dataclasses.dataclass(frozen=True)
class SamplingOptions:
    """What the caller may decide about sampling; None is the default of the model's config (`config.sampling`).

    Attributes:
      duration: seconds, a prompt included. The song may end earlier where the model says so. None is one window.
      temperature, top_k, top_p: see `tokens.Choice`.
      cfg_scale: guidance scale of every source.
      cfg_scales: guidance scales of single sources by name.
    """

    duration: float | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    cfg_scale: float | None = None
    cfg_scales: Mapping[str, float] | None = None

    def choice(self, config: ml_collections.ConfigDict) -> Choice:
        """How ids are drawn. Raises UserError for values that mean nothing."""
        def pick(name):
            value = getattr(self, name)
            return config.sampling[name] if value is None else value

        temperature, top_k, top_p = pick("temperature"), pick("top_k"), pick("top_p")
        if temperature < 0 or top_k < 0 or not 0 < top_p <= 1:
            raise UserError(f"temperature {temperature}, top_k {top_k}, top_p {top_p}: expected temperature >= 0, "
                            "top_k >= 0 and 0 < top_p <= 1")
        return Choice(jnp.float32(temperature), jnp.int32(top_k), jnp.float32(top_p))

    def scales(self, config: ml_collections.ConfigDict, names: Sequence[str]) -> dict[str, float]:
        """The guidance scale of each source."""
        everywhere = config.sampling.cfg_scale if self.cfg_scale is None else self.cfg_scale
        of_config = {} if self.cfg_scale is not None else config.sampling.cfg_scales.to_dict()
        scales = dict.fromkeys(names, everywhere) | of_config | dict(self.cfg_scales or {})
        if unknown := sorted(scales.keys() - set(names)):
            raise UserError(f"guidance scale of {unknown[0]!r}: the model's sources are {', '.join(names) or 'none'}")
        return scales


class Singer:
    """A trained model that sings: `generate` for songs, `sing` for codes alone.

    Args:
      config: of the run.
      text: which text encoder it was trained with.
      model: `unstacked`.
      facts: what `codec.json` says.
      load_codec, load_text_encoder: give them; called when they are first needed.
    """

    def __init__(self, config: ml_collections.ConfigDict, text: TextEncoderInfo, model: SongModel,
                 facts: Mapping[str, Any], load_codec: Callable[[], Codec],
                 load_text_encoder: Callable[[], TextEncoder | FrozenTextEncoder]):
        self.config, self._facts, self._load_codec = config, facts, load_codec
        self.encode_conditions = Conditions(config, text, load_text_encoder, facts["sample_rate"]).encode
        self.replace_weights(model)
        self.source_names = model.source_names
        self.pattern = window_pattern(config, facts)
        self._sample = jax.jit(self._sample_window, static_argnames="on_step")

    def replace_weights(self, model: SongModel) -> None:
        """Sings with `model` (`unstacked`) from now on; nothing is compiled anew for a model of the same shape."""
        self._graph, self._params = nnx.split(model)

    def release_weights(self) -> None:
        """Frees the weights; `replace_weights` gives others before the next song."""
        self._params = None

    @functools.cached_property
    def codec(self) -> Codec:
        """The codec. Raises UserError if it cannot be used here."""
        return self._load_codec()

    @property
    def frame_rate(self) -> float:
        """Frames a second."""
        return self._facts["frame_rate"]

    def generate(self, lyrics: str | Sequence[str] | None = None, genre: str | Sequence[str] | None = None,
                 description: str | Sequence[str] | None = None, *, melody: np.ndarray | None = None, seed: int = 0,
                 prompt_audio: np.ndarray | None = None, show_progress: bool = False,
                 **options) -> Song | list[Song]:
        """Sings.

        Args:
          lyrics, genre, description: the conditions; a list of any of them is one song each, a single text is for all.
            A source of the model that is not given is dropped, as it is now and then in training.
          melody: float32 [channels, samples] at the codec's rate, the recording whose melody every song follows.
          seed: of the first song; song i has seed + i, and is the same in whatever company it is made.
          prompt_audio: float32 [channels, samples] at the codec's rate, the beginning of every song.
          show_progress: a progress bar on stderr.
          **options: fields of `SamplingOptions`.

        Returns:
          A song, or a list of them if any condition was a list.

        Raises:
          UserError: if a condition is given that the model was not trained with, or an option means nothing.
        """
        given = {"lyrics": lyrics, "genre": genre, "description": description, MELODY: melody}
        given = {name: condition for name, condition in given.items() if condition is not None}
        lists = [name for name, condition in given.items() if not isinstance(condition, (str, np.ndarray))]
        counts = {len(given[name]) for name in lists}
        if len(counts) > 1:
            raise UserError(f"lists of {', '.join(map(str, sorted(counts)))} conditions: expected lists of one length")
        count = counts.pop() if counts else 1
        sources = self.encode_conditions([
            {name: condition[i] if name in lists else condition for name, condition in given.items()}
            for i in range(count)])
        prompt = None if prompt_audio is None else self.codec.encode(prompt_audio)
        codes = self.sing(sources, range(seed, seed + count), prompt=prompt, show_progress=show_progress,
                          options=SamplingOptions(**options))
        songs = [Song(self.codec.decode(c), self.codec.sample_rate, c) for c in codes]
        return songs if lists else songs[0]

    def sing(self, sources: Mapping[str, Mapping[str, np.ndarray]], seeds: Sequence[int], *,
             prompt: np.ndarray | None = None, show_progress: bool = False,
             options: SamplingOptions = SamplingOptions()) -> list[np.ndarray]:
        """Codes of songs.

        Songs longer than the window of training are made window by window, each starting from the end of the last.

        Args:
          sources: as in a batch of `autosong_jax.data.dataset`, B songs.
          seeds: one a song.
          prompt: integer [frames, K], the beginning of every song.

        Returns:
          For each song uint16 [T, K].
        """
        batch, window = len(seeds), self.pattern.steps.shape[0]
        prompt = np.zeros((0, self._facts["num_codebooks"])) if prompt is None else prompt
        total = window if options.duration is None else round(options.duration * self.frame_rate)
        if total <= len(prompt):
            raise UserError(f"duration {total / self.frame_rate:.2f} s: expected more than the prompt's "
                            f"{len(prompt) / self.frame_rate:.2f} s")
        keep, weights = branches(self.source_names, options.scales(self.config, self.source_names))
        choice = options.choice(self.config)
        if not 0 <= min(seeds) <= max(seeds) < 2**32:
            raise UserError(f"seeds {min(seeds)} to {max(seeds)}: expected them within 0 to 2**32 - 1")
        keys = jax.vmap(jax.random.key)(np.array(seeds, np.uint32))
        if not 0 <= self.config.sampling.overlap < 1:
            raise UserError(f"sampling.overlap {self.config.sampling.overlap}: expected a share from 0 to below 1")
        overlap = int(self.config.sampling.overlap * window)
        codes = np.tile(prompt[None], (batch, 1, 1)).astype(np.int32)
        lengths = np.full(batch, codes.shape[1])
        singing = np.ones(batch, bool)
        with progress(total=total, unit="frame", desc="singing", leave=False, show=show_progress) as self._bar:
            while codes.shape[1] < total and singing.any():
                # As much of the past as the window can hold beside what is still to come, but at least the overlap.
                made = codes.shape[1]
                past = min(made, max(overlap, window - (total - made)))
                until = min(window, past + total - made)
                self._bar_start = made - past
                padded = np.zeros((batch, window, codes.shape[2]), np.int32)
                padded[:, :past] = codes[:, made - past:]
                new, ends = self._sample(
                    self._params, sources, keep, weights, jax.vmap(jax.random.fold_in, (0, None))(keys, made), padded,
                    np.full(batch, past, np.int32), np.where(singing, until, past).astype(np.int32), choice,
                    on_step=None if self._bar.disable else self._advance_bar)
                codes = np.concatenate([codes, np.asarray(new)[:, past:until]], axis=1)
                lengths = np.where(singing, made + np.asarray(ends) - past, lengths)
                singing &= np.asarray(ends) == until
        return [song[:length].astype(np.uint16) for song, length in zip(codes, lengths, strict=True)]

    def _advance_bar(self, step) -> None:
        """Called from the device's loop with the steps done in this window."""
        frames = int(step) * self.pattern.steps.shape[0] // self.pattern.num_steps
        self._bar.update(max(self._bar_start + frames - self._bar.n, 0))

    def _sample_window(self, params, sources, keep, weights, keys, prompt, prompt_frames, max_frames, choice, on_step):
        """One window on the device: sources of B songs -> memory of G B -> codes."""
        model = nnx.merge(self._graph, params)
        count, batch = keep.shape[0], keys.shape[0]
        tiled = jax.tree.map(lambda x: jnp.tile(x, (count,) + (1,) * (x.ndim - 1)), dict(sources))
        memory = model.encode(tiled, jnp.repeat(keep, batch, axis=0))
        return autoregressive.sample(
            model, self.pattern, memory, weights, keys, prompt, prompt_frames, max_frames, choice, on_step)


def load(source: str | pathlib.Path, flag: str = "source") -> Singer:
    """Loads a model that sings.

    Args:
      source: a workdir, whose newest weights are taken (their moving average, if the run keeps one); a directory that
        `convert --export` wrote; a released MusicGen; or the hub id of one of the last two.
      flag: what `source` was given by, for errors.

    Raises:
      UserError: if it is none of these, or nothing has been trained in it yet.
    """
    directory = files.locate(source, flag)
    if released.is_released(directory):
        return _load_released(released.read(str(source), flag))
    config = config_file.load(directory / "config.json")
    text, facts = TextEncoderInfo.load(directory), read_codec_facts(directory / "codec")
    _, abstract = abstract_model(config, facts, text)
    if not config.lora.rank:  # which is merged into float32
        abstract = held_in(compute_dtype(config.model.dtype), abstract)
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    target = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device), abstract)
    params, _ = load_weights(directory, config, target)
    config.lora.rank = 0  # it is merged now
    graph, _ = abstract_model(config, facts, text)
    return Singer(config, text, nnx.merge(graph, params).unstacked(), **parts_of(directory, text))


def _load_released(model: released.Released) -> Singer:
    graph, params = model.load(compute_dtype(model.config.model.dtype))
    return Singer(model.config, model.text.info, nnx.merge(graph, params).unstacked(), model.codec.description,
                  lambda: model.codec, lambda: model.text)


def parts_of(workdir: pathlib.Path, text: TextEncoderInfo) -> dict[str, Any]:
    """The arguments of `Singer` that a workdir holds beside config and weights."""
    def load_text_encoder() -> TextEncoder | FrozenTextEncoder:
        return frozen_text.load(workdir) if text.frozen else rebuild_text_encoder(text)

    return {"facts": read_codec_facts(workdir / "codec"), "load_codec": lambda: load_codec(workdir / "codec"),
            "load_text_encoder": load_text_encoder}


def read_codec_facts(directory: pathlib.Path) -> dict[str, Any]:
    """What `codec.json` says. Raises UserError where there is none."""
    path = directory / "codec.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} does not describe a codec ({error}): expected a workdir that "
                        "`python -m autosong_jax.train` wrote") from error


def window_pattern(config: ml_collections.ConfigDict, codec: Mapping[str, Any]) -> Pattern:
    """The pattern of a training window of `config.data.seconds`."""
    frames = max(round(config.data.seconds * codec["frame_rate"]), 1)
    pattern = get_pattern(config.model.pattern, frames, codec["num_codebooks"], config.model.delays)
    positions = pattern.num_steps
    if config.model.fusion == "prefix":
        positions += sum(source.max_length for source in config.sources.values())
    if config.model.positions == "learned" and positions > config.model.max_positions:
        raise UserError(f"model.max_positions {config.model.max_positions}: windows of {config.data.seconds} s with "
                        f"these sources take {positions}; raise it, or shorten data.seconds")
    return pattern
