"""MelRVQ, the codec that needs no download: log band magnitudes, residual k-means, Griffin-Lim back.

It is fitted, in seconds, to the songs that it is to code. It keeps melody, chords, rhythm and syllables at 25 frames a
second and makes no claim to fidelity: use a neural codec for that.
"""

import pathlib
from collections.abc import Iterable

import numpy as np

from autosong_jax import inputs
from autosong_jax.audio.spectrum import MelTransform
from autosong_jax.codecs.info import FILE
from autosong_jax.codecs.melrvq import kmeans
from autosong_jax.codecs.melrvq.settings import MelRVQConfig, MelRVQInfo
from autosong_jax.codecs.spectral import SpectralCodec, bands_of
from autosong_jax.errors import UserError


class MelRVQ(SpectralCodec):
    """See the module's docstring.

    A magnitude m is coded as log(1 + m / floor), so silence is the zero vector. Entry 0 of every codebook is the zero
    vector, too: silence has the codes 0, 0, ... and they decode to exact silence.
    """

    def __init__(self, config: MelRVQConfig, floor: float, codebooks: np.ndarray):
        """floor: magnitude (full-scale sine = 1) below which little counts; codebooks: float32 [K, V, D]."""
        expected = (config.num_codebooks, config.codebook_size, config.subframes * config.n_mels)
        if codebooks.shape != expected:
            raise UserError(f"the codebooks have the shape {codebooks.shape}, expected {expected} of these settings")
        if codebooks.dtype != np.float32 or not np.isfinite(codebooks).all():
            raise UserError(f"the codebooks are {codebooks.dtype} or not finite, expected finite float32")
        self.config = config
        self.floor = floor
        self.codebooks = codebooks
        self.info = MelRVQInfo.of(config, floor)
        super().__init__(_transform(config), config.hop)

    @classmethod
    def fit(cls, songs: Iterable[np.ndarray], *, seed: int = 0, max_frames: int = 30_000, iterations: int = 15,
            **settings) -> "MelRVQ":
        """Fits the codebooks to songs.

        Args:
          songs: audio, float32 [1, samples] each, at the rate of the settings; gone through once.
          seed: of everything random; the same songs and seed give the same codec.
          max_frames: how many frames, drawn evenly from all songs, k-means sees: bounds memory and time.
          iterations: of k-means, for each codebook.
          **settings: fields of MelRVQConfig.

        Raises:
          UserError: the songs hold no sample, or the settings contradict each other.
        """
        config = MelRVQConfig(**settings)
        bands = (bands_of(song, _transform(config), config.hop) for song in songs)
        bands = _draw(bands, max_frames, np.random.default_rng(seed))
        if not len(bands):
            raise UserError("there is no audio to fit the codec to: the songs hold 0 samples")
        loud = float(np.percentile(bands.max(axis=1), 99))
        floor = max(loud * 10 ** (-config.dynamic_range / 20), 1e-6)
        codebooks = kmeans.fit(np.log1p(bands / np.float32(floor)), config.num_codebooks, config.codebook_size,
                               iterations=iterations, seed=seed)
        return cls(config, floor, codebooks)

    def from_bands(self, bands: np.ndarray) -> np.ndarray:
        """Magnitudes float32 [T, D] -> uint16 [T, K]."""
        return kmeans.quantize(self._compressed(bands), self.codebooks)

    def to_bands(self, frames: np.ndarray) -> np.ndarray:
        """Codes [T, K] -> magnitudes float32 [T, D]."""
        return self._magnitudes(kmeans.dequantize(frames, self.codebooks))

    def latents(self, frames: np.ndarray) -> np.ndarray:
        """See `Codec`: the features that are quantised."""
        return kmeans.dequantize(self.checked(frames), self.codebooks)

    def quality(self, songs: Iterable[np.ndarray]) -> dict:
        """How well songs, float32 [1, samples] each, survive. Takes as long as decoding them.

        Returns:
          `seconds`: how much was measured;
          `variance_explained`: share of the features' variance kept by the first 1, 2, ... K codebooks;
          `coded_db`: mean absolute error of the bands as coded, over those above the floor;
          `round_trip_db`: the same for the bands of the decoded audio, which adds the errors of Griffin-Lim.
        """
        frames, sums, power = 0, 0.0, 0.0
        squared = np.zeros(self.config.num_codebooks)
        errors = {"coded_db": np.zeros(2), "round_trip_db": np.zeros(2)}  # sum and count
        for song in songs:
            features = self._features(song)
            codes = kmeans.quantize(features, self.codebooks)
            frames += len(features)
            sums += features.sum(axis=0, dtype=np.float64)
            power += np.square(features, dtype=np.float64).sum()
            coded = np.zeros_like(features)
            for level, entries in enumerate(self.codebooks):
                coded += entries[codes[:, level]]
                squared[level] += np.square(features - coded, dtype=np.float64).sum()
            errors["coded_db"] += self._decibels(features, coded)
            errors["round_trip_db"] += self._decibels(features, self._features(self.decode(codes)))
        variance = power - np.square(sums).sum() / max(frames, 1)
        return {"seconds": frames / self.frame_rate,
                "variance_explained": (1 - squared / max(variance, 1e-12)).tolist(),
                **{name: float(total / max(count, 1)) for name, (total, count) in errors.items()}}

    def save(self, directory: str | pathlib.Path) -> None:
        """Writes `codec.json` and `codebooks.safetensors` into `directory`, made if need be."""
        import safetensors.numpy

        super().save(directory)
        safetensors.numpy.save_file({"codebooks": self.codebooks}, pathlib.Path(directory) / "codebooks.safetensors")

    @classmethod
    def load(cls, directory: str | pathlib.Path) -> "MelRVQ":
        """Reads what `save` wrote.

        Raises:
          UserError: a file is missing or damaged.
        """
        import safetensors.numpy

        directory = pathlib.Path(directory)
        saved = MelRVQInfo.load(directory)
        path = directory / "codebooks.safetensors"
        inputs.stat_regular(path, "the codec's codebooks")
        try:
            codebooks = safetensors.numpy.load_file(path)["codebooks"]
        except Exception as error:  # the library's, NumPy's of a dtype that it does not have, ...
            raise UserError(f"{path} holds no codebooks ({error!r}): save the codec again") from error
        codec = cls(saved.config, saved.floor, codebooks)
        if codec.info != saved:
            raise UserError(f"{directory / FILE} contradicts itself: expected channels {codec.channels} and frame_rate "
                            f"{codec.frame_rate:g} of these settings; save the codec again")
        return codec

    def _features(self, audio: np.ndarray) -> np.ndarray:
        """float32 [1, samples] -> float32 [T, D], what is quantised."""
        return self._compressed(self.bands(audio))

    def _compressed(self, bands: np.ndarray) -> np.ndarray:
        return np.log1p(bands / np.float32(self.floor))

    def _magnitudes(self, features: np.ndarray) -> np.ndarray:
        """The magnitudes that `features` stand for; what falls below silence in the sum of codebooks is silence."""
        return np.float32(self.floor) * np.expm1(np.maximum(features, 0))

    def _decibels(self, features: np.ndarray, others: np.ndarray) -> tuple[float, int]:
        """The sum of the absolute differences in dB, and how many there are, of what is above the floor in either."""
        ours, theirs = (20 * np.log10(np.maximum(self._magnitudes(x) / self.floor, 1)) for x in (features, others))
        return float(np.abs(ours - theirs).sum()), np.count_nonzero(np.maximum(ours, theirs))


load = MelRVQ.load


def _transform(config: MelRVQConfig) -> MelTransform:
    return MelTransform(config.sample_rate, config.n_fft, config.hop // config.subframes, config.n_mels)


def _draw(songs: Iterable[np.ndarray], count: int, rng: np.random.Generator) -> np.ndarray:
    """A uniform sample, without replacement and in order, of at most `count` rows of all arrays [any, D] together.

    Each row gets a random rank and the lowest ranks stay; at most about 2 * count rows are held beside one array.
    """
    rows, ranks, limit = [], [], 1.0

    def select() -> tuple[np.ndarray, np.ndarray]:
        ranked = np.concatenate(ranks)
        best = np.sort(np.argsort(ranked, kind="stable")[:count])
        return np.concatenate(rows)[best], ranked[best]

    for song in songs:
        rank = rng.random(len(song))
        rows.append(song[rank < limit])
        ranks.append(rank[rank < limit])
        if sum(map(len, rows)) > 2 * count:
            kept, rank = select()
            rows, ranks, limit = [kept], [rank], rank.max()
    return select()[0] if rows else np.zeros((0, 1), np.float32)
