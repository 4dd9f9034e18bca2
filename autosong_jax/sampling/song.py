"""From a workdir to songs: load a trained model, give it lyrics and a genre, get audio and codes.

Letters: B songs, T frames, K codebooks, V codebook size, L length of a source.
"""

import dataclasses
import functools
import json
import pathlib
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import ml_dtypes
import numpy as np
from flax import nnx

from autosong_jax import config as config_file
from autosong_jax.audio.codec import Codec, load_codec
from autosong_jax.cli import progress
from autosong_jax.codebooks.patterns import Pattern, get_pattern
from autosong_jax.data.text import TextEncoder, TextEncoderInfo, rebuild_text_encoder
from autosong_jax.errors import UserError
from autosong_jax.models.build import abstract_model
from autosong_jax.models.song import SongModel
from autosong_jax.pretrained.text import FrozenTextEncoder
from autosong_jax.pretrained.text import load as load_text_encoder
from autosong_jax.sampling import autoregressive
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
      text: the text encoder of the dataset.
      model: `unstacked`.
      codec_directory: where the codec was saved; it is read when it is first needed.
    """

    def __init__(self, config: ml_collections.ConfigDict, text: TextEncoderInfo, model: SongModel,
                 codec_directory: pathlib.Path):
        self.config, self.text, self._codec_directory = config, text, codec_directory
        self._facts = read_codec_facts(codec_directory)
        self.replace_weights(model)
        self.source_names = model.source_names
        self.pattern = window_pattern(config, self._facts)
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
        return load_codec(self._codec_directory)

    @functools.cached_property
    def _text_encoder(self) -> TextEncoder | FrozenTextEncoder:
        if self.text.frozen:
            return load_text_encoder(self._codec_directory.parent)
        return rebuild_text_encoder(self.text)

    @property
    def frame_rate(self) -> float:
        """Frames a second."""
        return self._facts["frame_rate"]

    def generate(self, lyrics: str | Sequence[str] | None = None, genre: str | Sequence[str] | None = None,
                 description: str | Sequence[str] | None = None, *, seed: int = 0,
                 prompt_audio: np.ndarray | None = None, show_progress: bool = False,
                 **options) -> Song | list[Song]:
        """Sings.

        Args:
          lyrics, genre, description: the conditions; a list of any of them is one song each, a single text is for all.
            A source of the model that is not given is dropped, as it is now and then in training.
          seed: of the first song; song i has seed + i, and is the same in whatever company it is made.
          prompt_audio: float32 [channels, samples] at the codec's rate, the beginning of every song.
          show_progress: a progress bar on stderr.
          **options: fields of `SamplingOptions`.

        Returns:
          A song, or a list of them if any condition was a list.

        Raises:
          UserError: if a condition is given that the model was not trained with, or an option means nothing.
        """
        texts = {"lyrics": lyrics, "genre": genre, "description": description}
        texts = {name: text for name, text in texts.items() if text is not None}
        lists = {len(text) for text in texts.values() if not isinstance(text, str)}
        if len(lists) > 1:
            raise UserError(f"lists of {', '.join(map(str, sorted(lists)))} conditions: expected lists of one length")
        count = lists.pop() if lists else 1
        codec = self.codec
        sources = self.encode_texts([{n: t if isinstance(t, str) else t[i] for n, t in texts.items()}
                                     for i in range(count)])
        prompt = None if prompt_audio is None else codec.encode(prompt_audio)
        codes = self.sing(sources, range(seed, seed + count), prompt=prompt, show_progress=show_progress,
                          options=SamplingOptions(**options))
        songs = [Song(codec.decode(c), codec.sample_rate, c) for c in codes]
        return songs if any(not isinstance(text, str) for text in texts.values()) else songs[0]

    def encode_texts(self, songs: Sequence[Mapping[str, str]]) -> dict[str, dict[str, np.ndarray]]:
        """The sources of a batch from the texts of each song.

        Raises:
          UserError: if a text is of no source of the model, or the text encoder is not there.
        """
        given = sorted({name for song in songs for name in song})
        for name in given:
            if name not in self.source_names:
                raise UserError(f"{name} was given, but the model was not trained with it: expected "
                                f"{', '.join(self.source_names) or 'no condition'}")
        encoder = self._text_encoder if given else None
        rows = {name: [self._encode_text(encoder, name, song.get(name)) for song in songs]
                for name in self.source_names}
        return {name: {key: np.stack([row[key] for row in source]) for key in source[0]}
                for name, source in rows.items()}

    def _encode_text(self, encoder, name: str, text: str | None) -> dict[str, np.ndarray]:
        max_length = self.config.sources[name].max_length
        if self.text.frozen:
            return encoder.source(text, max_length) if text else {
                "states": np.zeros((max_length, self.text.width), ml_dtypes.bfloat16), "length": np.int32(0)}
        empty = np.zeros(0, np.int32)
        if name == "lyrics":
            arrays = dataclasses.asdict(encoder.encode_lyrics(text)) if text else dict.fromkeys(
                ("ids", "sections", "lines"), empty)
        else:
            arrays = {"ids": encoder.encode(text) if text else empty}
        length = len(arrays["ids"])
        if length > max_length:
            warnings.warn(f"{name} of length {length}: the model reads the first {max_length}", stacklevel=4)
        padded = {key: np.pad(a[:max_length], (0, max(max_length - length, 0))) for key, a in arrays.items()}
        return {**padded, "length": np.int32(min(length, max_length))}

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


def load(workdir: str | pathlib.Path) -> Singer:
    """Loads the newest weights of a workdir (their moving average, if the run keeps one).

    Raises:
      UserError: if it is not a workdir, or nothing has been trained in it yet.
    """
    workdir = pathlib.Path(workdir)
    config = config_file.load(workdir / "config.json")
    text = TextEncoderInfo.load(workdir)
    facts = read_codec_facts(workdir / "codec")
    _, abstract = abstract_model(config, facts, text)
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    target = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device), abstract)
    params, _ = load_weights(workdir, config, target)
    config.lora.rank = 0  # it is merged now
    graph, _ = abstract_model(config, facts, text)
    return Singer(config, text, nnx.merge(graph, params).unstacked(), workdir / "codec")


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
