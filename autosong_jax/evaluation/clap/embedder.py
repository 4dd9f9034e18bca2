"""A CLAP from its files, and what it makes of songs and texts.

Letters: B songs or texts, L tokens, P width of an embedding.
"""

import functools
import itertools
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import numpy as np
from flax import nnx

from autosong_jax.audio.io import RATES
from autosong_jax.cli import log
from autosong_jax.errors import UserError
from autosong_jax.evaluation.clap import names
from autosong_jax.evaluation.clap.towers import ClapTowers
from autosong_jax.sources.text import tokenizer
from autosong_jax.sources.text.tokenizer import Tokenizer
from autosong_jax.weights import files, parameters
from autosong_jax.weights.files import Tensors

FEATURES = "preprocessor_config.json"
_COLLAPSED = "larger_clap_music"
_SHORTEST = 16  # tokens that texts are filled up to, and from there to powers of two: few lengths to compile for


def load(source: str | pathlib.Path = names.RELEASED, flag: str = "--clap", batch: int | None = None) -> "Clap":
    """A CLAP without feature fusion.

    Args:
      source: a directory as `ClapModel.save_pretrained` and the hub have it, or a hub id: laion/clap-htsat-unfused,
        trained on sounds of all kinds, or laion/larger_clap_general, on more of them and on music.
      flag: what `source` was given by, for errors.
      batch: how many windows or texts go through the towers together; by default few on a CPU, which gains nothing by
        more, and many elsewhere.

    Raises:
      UserError: it cannot be had, is damaged, or is another model.
    """
    # Also as a folder of the hub's cache, models--laion--NAME/snapshots/REVISION.
    if any(part.lower().endswith(_COLLAPSED) for part in pathlib.PurePath(source).parts):
        raise UserError(f"{flag}={source} cannot judge songs: to its text tower nearly all texts are the same; use "
                        f"{names.RELEASED} or laion/larger_clap_general")
    return Clap(files.locate(source, flag), batch)


def score(audio: np.ndarray, text: np.ndarray) -> np.ndarray:
    """The cosine of embeddings, pair by pair: float32 [..., P] and [..., P], whose other axes broadcast -> [...].

    -1 to 1; of songs that a text describes, the released models give about .3. `score(audio[:, None], text)` has every
    song with every text. The mean of songs and their own descriptions is the CLAP score.
    """
    lengths = np.linalg.norm(audio, axis=-1) * np.linalg.norm(text, axis=-1)
    return (np.einsum("...p,...p->...", audio, text) / np.maximum(lengths, 1e-12)).astype(np.float32)


class Clap:
    """A CLAP on the first device, in float32.

    Attributes:
      features: audio -> what the audio tower reads.
      config: the shape of the towers.
    """

    def __init__(self, directory: pathlib.Path, batch: int | None = None):
        """Reads a checkpoint; see `load`."""
        where = str(directory / "config.json")
        settings = files.read_json(where)
        self.features = names.read_features(files.read_json(directory / FEATURES), str(directory / FEATURES))
        self.config = names.read_config(settings, self.features, where)
        self._longest = self.config.text.max_positions - self.config.text.first_position
        self._tokenizer = Tokenizer.load(directory / tokenizer.FILE, self._longest)
        expected = (self.config.text.begin, self.config.text.end)
        if self._tokenizer.special != expected or self._tokenizer.num_ids > self.config.text.vocab_size:
            raise UserError(
                f"{directory / tokenizer.FILE} has {self._tokenizer.num_ids} ids and puts {self._tokenizer.special} "
                f"around a text, expected at most {self.config.text.vocab_size} and {expected}: it belongs to another "
                "model")
        graph, abstract = nnx.split(nnx.eval_shape(lambda: ClapTowers(self.config, rngs=nnx.Rngs(0))))
        self._params = parameters.load(nnx.to_pure_dict(abstract), names.recipes(self.config), Tensors.open(directory),
                                       what="CLAP", dtype=np.float32, ignored=names.IGNORED)
        self._audio = functools.partial(_embed_audio, graph)
        self._text = functools.partial(_embed_text, graph)
        self._batch = batch or (1 if jax.default_backend() == "cpu" else 16)

    @property
    def scales(self) -> tuple[float, float]:
        """What cosines are multiplied by to be logits: of texts for a song, and of songs for a text."""
        return tuple(np.exp(np.asarray(self._params["log_scales"], np.float64)).tolist())

    def embed_audio(self, audio: np.ndarray, rate: int) -> np.ndarray:
        """Songs as unit vectors.

        A song longer than a window (10 s) is the mean of its windows' unit vectors, made one again; `LogMel.windows`
        says where they are. One window after another is looked at, so that memory does not grow with the songs.

        Args:
          audio: float [n] or [B, n], mono, full scale at +-1.
          rate: Hz; another one than the model's own (48,000) is resampled.

        Returns:
          float32 [B, P], B = 1 of audio [n].

        Raises:
          UserError: the audio is something else.
        """
        songs = _checked(audio, rate)
        windows = (window for song in songs for window in self.features.windows(_resampled(
            song, rate, self.features.sample_rate)))
        vectors = self._in_groups(self._audio, ((self.features(window),) for window in windows))
        mean = vectors.reshape(len(songs), -1, vectors.shape[-1]).mean(axis=1)
        return mean / np.maximum(np.linalg.norm(mean, axis=-1, keepdims=True), 1e-12)

    def embed_text(self, texts: Sequence[str]) -> np.ndarray:
        """Texts, such as descriptions of songs, as unit vectors: float32 [B, P]. 512 tokens of each are read."""
        ids = [self._ids(text) for text in texts]
        lengths = np.array([min(max(_SHORTEST, 1 << (len(row) - 1).bit_length()), self._longest) for row in ids], int)
        vectors = np.empty((len(ids), self.config.embedding), np.float32)
        for length in np.unique(lengths):
            chosen = np.flatnonzero(lengths == length)
            rows = ((np.pad(ids[i], (0, length - len(ids[i]))), np.int32(len(ids[i]))) for i in chosen)
            vectors[chosen] = self._in_groups(self._text, rows)
        return vectors

    def _ids(self, text: str) -> np.ndarray:
        """int32 [L], special tokens among them, even of an empty text."""
        pieces = self._tokenizer.pieces(text)
        if len(pieces) > 1:
            log.warning("a text of %d tokens: CLAP reads the first %d", sum(map(len, pieces)), len(pieces[0]))
        return np.array(pieces[0] if pieces else self._tokenizer.special, np.int32)

    def _in_groups(self, embed: Any, rows: Iterable[tuple[np.ndarray, ...]]) -> np.ndarray:
        """What `embed` gives of rows, in groups of one size, to compile for once: float32 [rows, P]."""
        rows, vectors = iter(rows), []
        while group := list(itertools.islice(rows, self._batch)):
            filled = group + group[-1:] * (self._batch - len(group))
            with jax.default_matmul_precision("float32"):
                out = embed(self._params, *map(np.stack, zip(*filled, strict=True)))
            vectors.append(np.asarray(out)[:len(group)])
        return np.concatenate(vectors)


@functools.partial(jax.jit, static_argnames="graph")
def _embed_audio(graph, params, log_mel):
    return nnx.merge(graph, params).embed_audio(log_mel)


@functools.partial(jax.jit, static_argnames="graph")
def _embed_text(graph, params, ids, lengths):
    return nnx.merge(graph, params).embed_text(ids, lengths)


def _checked(audio: np.ndarray, rate: int) -> np.ndarray:
    """float32 [B, n]."""
    audio = np.asarray(audio)
    if audio.dtype.kind != "f" or audio.ndim not in (1, 2) or not audio.size:
        raise UserError(f"audio is {audio.dtype} of shape {list(audio.shape)}, expected float32 [samples] or [songs, "
                        "samples], mono, full scale at 1")
    if not np.isfinite(audio).all():
        raise UserError("audio holds NaN or infinite samples")
    if not RATES[0] <= rate <= RATES[1]:
        raise UserError(f"audio has the rate {rate} Hz, expected {RATES[0]} to {RATES[1]}")
    return np.atleast_2d(audio).astype(np.float32)


def _resampled(audio: np.ndarray, rate: int, wanted: int) -> np.ndarray:
    """float32 [n] at `rate` -> [n] at the rate wanted, at least one sample."""
    import soxr

    if rate == wanted:
        return audio
    resampled = soxr.resample(audio, rate, wanted)
    return resampled if len(resampled) else audio[:1]
