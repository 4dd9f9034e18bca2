"""What makes a vector of a song, so that songs can be compared as distributions (`evaluation.distributions`).

Letters: D width of an embedding.
"""

import dataclasses
from collections.abc import Callable

import numpy as np

from autosong_jax.audio import spectrum
from autosong_jax.codecs.codec import Codec
from autosong_jax.errors import UserError
from autosong_jax.evaluation.metrics import Song

BANDS, SIZE = 16, 0.064
"""Mel bands of `spectral`, few enough for a hundred songs; seconds of its windows, of which every half is a new one."""
FLOOR = 1e-4
"""-80 dB, which is as silent as what is below."""


@dataclasses.dataclass(frozen=True)
class Embedder:
    """Something that makes vectors of songs.

    Attributes:
      name: as a user gives it; beside every number that is found with it.
      about: what it is, in a line.
      needs: as of a metric.
      embed: song -> float64 [D], whatever its length.
    """

    name: str
    about: str
    needs: tuple[str, ...]
    embed: Callable[[Song], np.ndarray]


def get_embedder(name: str, codec: Callable[[], Codec]) -> Embedder:
    """The embedder that a user names: "spectral", "codec" or "clap:ID".

    Args:
      codec: gives the codec of the songs.

    Raises:
      UserError: there is none of that name, or it cannot be had.
    """
    kind, _, source = name.partition(":")
    if name == "spectral":
        about = f"mean and standard deviation of {BANDS} log-mel bands over the song: what it sounds like on the whole"
        return Embedder(name, about, ("audio",), _spectral)
    if name == "codec":
        return Embedder(name, "mean of the codec's own latents over the song", ("frames",),
                        lambda song: codec().latents(song.frames).mean(axis=0, dtype=np.float64))
    if kind == "clap" and source:
        from autosong_jax.evaluation.clap import embedder

        clap = embedder.load(source, "--embedder=clap:ID, where ID")
        return Embedder(name, "a released CLAP's embedding", ("audio",),
                        lambda song: clap.embed_audio(song.mono, song.sample_rate)[0].astype(np.float64))
    raise UserError(f"--embedder={name}: expected spectral, codec or clap:ID, such as clap:laion/clap-htsat-unfused")


def _spectral(song: Song) -> np.ndarray:
    hop, size = round(SIZE / 2 * song.sample_rate), round(SIZE * song.sample_rate)
    audio = np.pad(song.mono, (0, -len(song.mono) % hop))
    filters = spectrum.mel_filters(song.sample_rate, size, BANDS)
    bands = np.log(np.maximum(spectrum.band_magnitudes(audio, spectrum.hann(size), hop, filters), FLOOR))
    bands = bands.astype(np.float64) if len(bands) else np.full((1, BANDS), np.log(FLOOR))
    return np.concatenate([bands.mean(axis=0), bands.std(axis=0)])
