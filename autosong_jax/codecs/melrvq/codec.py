"""MelRVQ, the codec that needs no download: log band magnitudes, residual k-means, Griffin-Lim back.

It is fitted, in seconds, to the songs that it is to code. It keeps melody, chords, rhythm and syllables at 25 frames a
second and makes no claim to fidelity: use a neural codec for that.
"""

import pathlib
from collections.abc import Iterable, Iterator

import numpy as np

from autosong_jax import inputs
from autosong_jax.audio import spectrum
from autosong_jax.codecs.blocks import with_context
from autosong_jax.codecs.codec import Codec
from autosong_jax.codecs.info import FILE
from autosong_jax.codecs.melrvq import kmeans
from autosong_jax.codecs.melrvq.settings import MelRVQConfig, MelRVQInfo
from autosong_jax.errors import UserError

_CONTEXT = 8  # frames on either side of a block that are decoded with it
_BLOCK = 2048  # frames


class MelRVQ(Codec):
    """See the module's docstring.

    A magnitude m is coded as log(1 + m / floor), so silence is the zero vector. Entry 0 of every codebook is the zero
    vector, too: silence has the codes 0, 0, ... and they decode to exact silence.
    """

    exact_blocks = False

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
        bands = _draw((_bands(song, config) for song in songs), max_frames, np.random.default_rng(seed))
        if not len(bands):
            raise UserError("there is no audio to fit the codec to: the songs hold 0 samples")
        loud = float(np.percentile(bands.max(axis=1), 99))
        floor = max(loud * 10 ** (-config.dynamic_range / 20), 1e-6)
        codebooks = kmeans.fit(np.log1p(bands / np.float32(floor)), config.num_codebooks, config.codebook_size,
                               iterations=iterations, seed=seed)
        return cls(config, floor, codebooks)

    def encode(self, audio: np.ndarray) -> np.ndarray:
        """float32 [1, samples] -> uint16 [T, K], T = ceil(samples / hop)."""
        return kmeans.quantize(self._features(audio), self.codebooks)

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """Integers [T, K] in [0, V) -> float32 [1, T * hop] within +-1; the same codes give the same samples.

        Raises:
          ValueError: the shape is another one, or a code is out of range.
        """
        audio = self._sound(self.checked(codes))
        return audio[None] / max(1.0, float(np.abs(audio).max(initial=0)))

    def encode_blocks(self, blocks: Iterable[np.ndarray], loudness: float | None = None) -> Iterator[np.ndarray]:
        """See `Codec`: in memory that does not grow with the song; the codes that `encode` gives."""
        hop = self.config.hop
        context = -(-self.config.n_fft // hop)
        signal = (np.asarray(block)[..., None] for block in blocks)
        for x, _, rest in with_context(signal, _BLOCK, context, context, hop):
            features = self._features(x[..., 0])[context:-context]
            yield kmeans.quantize(features[:-(-rest // hop)], self.codebooks)

    def decode_blocks(self, blocks: Iterable[np.ndarray], block_frames: int | None = None,
                      loudness: float | None = None) -> Iterator[np.ndarray]:
        """See `Codec`: in memory that does not grow with the song.

        Each block is decoded by itself with 8 frames on either side, and faded into the next over the 8 frames that
        they share. What is one block is what `decode` gives. Otherwise Griffin-Lim finds other phases: samples differ
        from those of `decode`, and of blocks of 10 frames the bands are off by up to 1 dB more. Audio that would exceed
        +-1 lowers the level of its block and of those after it, not that of the blocks before.
        """
        hop, tail, peak = self.config.hop, np.zeros(0, np.float32), 1.0
        streams = (self.checked(block)[None] for block in blocks)
        for x, seen, rest in with_context(streams, block_frames or _BLOCK, _CONTEXT, _CONTEXT, 1):
            first = max(0, _CONTEXT - seen)  # before the song begins there is nothing
            audio = self._sound(x[0, first:_CONTEXT + rest])
            peak = max(peak, float(np.abs(audio).max(initial=0)))
            audio = audio[(_CONTEXT - first) * hop:] / peak
            fade = np.linspace(0, 1, len(tail), dtype=np.float32)
            audio[:len(tail)] = (1 - fade) * tail + fade * audio[:len(tail)]
            own = (x.shape[1] - 2 * _CONTEXT) * hop
            yield audio[None, :own]
            tail = audio[own:]

    def quality(self, songs: Iterable[np.ndarray]) -> dict:
        """How well songs, float32 [1, samples] each, survive. Takes as long as decoding them.

        Returns:
          `seconds`: how much was measured;
          `variance_explained`: share of the features' variance kept by the first 1, 2, ... K codebooks;
          `coded_db`: mean absolute error of the bands as coded, over those above the floor;
          `round_trip_db`: the same for the bands of the decoded audio, which adds the errors of Griffin-Lim.
        """
        frames, sums, power = 0, 0.0, 0.0
        squared = np.zeros(self.num_codebooks)
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

        directory = pathlib.Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        self.info.save(directory)
        safetensors.numpy.save_file({"codebooks": self.codebooks}, directory / "codebooks.safetensors")

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
        return np.log1p(_bands(audio, self.config) / np.float32(self.floor))

    def _magnitudes(self, features: np.ndarray) -> np.ndarray:
        """The magnitudes that `features` stand for; what falls below silence in the sum of codebooks is silence."""
        return np.float32(self.floor) * np.expm1(np.maximum(features, 0))

    def _sound(self, codes: np.ndarray) -> np.ndarray:
        """Codes [T, K] -> float32 [T * hop], however loud."""
        window, filters, hop = _transform(self.config)
        bands = self._magnitudes(kmeans.dequantize(codes, self.codebooks)).reshape(-1, self.config.n_mels)
        return spectrum.griffin_lim(spectrum.unfilter(bands, filters), window, hop)

    def _decibels(self, features: np.ndarray, others: np.ndarray) -> tuple[float, int]:
        """The sum of the absolute differences in dB, and how many there are, of what is above the floor in either."""
        ours, theirs = (20 * np.log10(np.maximum(self._magnitudes(x) / self.floor, 1)) for x in (features, others))
        return float(np.abs(ours - theirs).sum()), np.count_nonzero(np.maximum(ours, theirs))


load = MelRVQ.load


def _transform(config: MelRVQConfig) -> tuple[np.ndarray, np.ndarray, int]:
    """The window [n_fft], the filters [n_mels, n_fft // 2 + 1] and the samples between spectra."""
    return (spectrum.hann(config.n_fft), spectrum.mel_filters(config.sample_rate, config.n_fft, config.n_mels),
            config.hop // config.subframes)


def _bands(audio: np.ndarray, config: MelRVQConfig) -> np.ndarray:
    """float32 [1, samples] -> magnitudes float32 [ceil(samples / hop), subframes * n_mels]."""
    audio = np.asarray(audio, np.float32)
    if audio.ndim != 2 or len(audio) != 1:
        raise ValueError(f"audio has the shape {audio.shape}, expected [1, samples]")
    window, filters, hop = _transform(config)
    padded = np.pad(audio[0], (0, -audio.shape[1] % config.hop))
    return spectrum.band_magnitudes(padded, window, hop, filters).reshape(-1, config.subframes * config.n_mels)


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
