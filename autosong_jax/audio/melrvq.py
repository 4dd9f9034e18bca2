"""MelRVQ, the codec that needs no download: log band magnitudes, residual k-means, Griffin-Lim back.

It is fitted in seconds to the songs it is to code. It keeps melody, chords, rhythm and syllables at 25 frames a second
and makes no claim to fidelity: use a neural codec for that.
"""

import dataclasses
import json
import pathlib
from collections.abc import Iterable

import numpy as np

from autosong_jax.audio import kmeans, spectrum
from autosong_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class MelRVQConfig:
    """What a MelRVQ is apart from its codebooks. One frame of codes stands for `subframes` consecutive spectra."""

    sample_rate: int = 16000  # Hz
    hop: int = 640  # samples a frame of codes
    subframes: int = 2  # spectra in a frame of codes
    n_fft: int = 1024  # samples a spectrum sees
    n_mels: int = 128  # bands of a spectrum
    corner: float = 300.0  # Hz; lower gives more of the bands to low frequencies; 700 is the mel scale
    floor: float = 1e-3  # magnitudes well below this one (full-scale sine = 1) count little
    num_codebooks: int = 4
    codebook_size: int = 512

    def __post_init__(self):
        if self.hop % self.subframes or self.n_fft < self.hop // self.subframes:
            raise UserError(f"hop {self.hop} must be a multiple of subframes {self.subframes}, and n_fft {self.n_fft} at "
                            "least their quotient")
        if not 1 <= self.codebook_size <= 65536:
            raise UserError(f"codebook_size is {self.codebook_size}, expected 1 to 65536: codes are 16-bit")


class MelRVQ:
    """See the module's docstring. Satisfies `autosong_jax.audio.codec.Codec`.

    A spectrum m becomes log(1 + m / floor), so silence is the zero vector. Entry 0 of every codebook is the zero vector
    too: silence has the codes 0, 0, ... and they decode to exact silence.
    """

    channels = 1

    def __init__(self, config: MelRVQConfig, codebooks: np.ndarray):
        """codebooks: float32 [K, V, subframes * n_mels]."""
        expected = (config.num_codebooks, config.codebook_size, config.subframes * config.n_mels)
        if codebooks.shape != expected:
            raise ValueError(f"codebooks have the shape {codebooks.shape}, expected {expected}")
        self.config = config
        self.codebooks = codebooks
        self.sample_rate = config.sample_rate
        self.frame_rate = config.sample_rate / config.hop
        self.num_codebooks = config.num_codebooks
        self.codebook_size = config.codebook_size

    @classmethod
    def fit(cls, songs: Iterable[np.ndarray], *, seed: int = 0, max_frames: int = 50_000, iterations: int = 20,
            **settings) -> "MelRVQ":
        """Fits the codebooks to songs.

        Args:
          songs: audio, float32 [1, samples] each, at the config's sample rate; gone through once.
          seed: of everything random; the same songs and seed give the same codec.
          max_frames: how many frames, drawn evenly from all songs, k-means sees; bounds memory and time.
          iterations: of k-means, for each codebook.
          **settings: fields of MelRVQConfig.

        Raises:
          UserError: the songs hold no audio.
        """
        config = MelRVQConfig(**settings)
        rng = np.random.default_rng(seed)
        kept, ranks = np.zeros((0, config.subframes * config.n_mels), np.float32), np.zeros(0)
        for song in songs:
            features = _features(song, config)
            kept, ranks = np.concatenate([kept, features]), np.concatenate([ranks, rng.random(len(features))])
            chosen = np.sort(np.argsort(ranks, kind="stable")[:max_frames])  # the lowest ranks: a uniform sample
            kept, ranks = kept[chosen], ranks[chosen]
        if not len(kept):
            raise UserError("no audio to fit the codec to: the songs hold 0 samples")
        return cls(config, kmeans.fit(kept, config.num_codebooks, config.codebook_size, iterations=iterations, seed=seed))

    def encode(self, audio: np.ndarray) -> np.ndarray:
        """float32 [1, samples] -> uint16 [T, K], T = ceil(samples / hop)."""
        return kmeans.quantize(_features(audio, self.config), self.codebooks)

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """Integers [T, K] in [0, V) -> float32 [1, T * hop] within +-1; the same codes give the same samples.

        Raises:
          ValueError: a code is out of range or there are not K of them in a frame.
        """
        codes = np.asarray(codes)
        if codes.ndim != 2 or codes.shape[1] != self.num_codebooks:
            raise ValueError(f"codes have the shape {codes.shape}, expected [frames, {self.num_codebooks}]")
        if codes.size and not 0 <= codes.min() <= codes.max() < self.codebook_size:
            raise ValueError(f"codes span {codes.min()} to {codes.max()}, expected 0 to {self.codebook_size - 1}")
        config = self.config
        bands = _bands(kmeans.dequantize(codes, self.codebooks), config)
        window, filters = _transform(config)
        audio = spectrum.griffin_lim(spectrum.unfilter(bands, filters), window, config.hop // config.subframes)
        return audio[None] / max(1.0, float(np.abs(audio).max(initial=0)))

    def quality(self, songs: Iterable[np.ndarray]) -> dict:
        """How well songs survive being coded.

        Args:
          songs: audio, float32 [1, samples] each.

        Returns:
          `seconds`: how much was measured;
          `variance_explained`: of the features, by the first 1, 2, ... K codebooks;
          `coded_db`: mean absolute error of the bands as coded, over the bands that are above the floor;
          `round_trip_db`: the same for the bands of the decoded audio, so with Griffin-Lim's errors.
        """
        features = [_features(song, self.config) for song in songs]
        codes = [kmeans.quantize(song, self.codebooks) for song in features]
        decoded = np.concatenate([_features(self.decode(song), self.config) for song in codes])
        features, codes = np.concatenate(features), np.concatenate(codes)
        coded = [kmeans.dequantize(codes[:, :k], self.codebooks[:k]) for k in range(1, self.num_codebooks + 1)]
        variance = max(float(np.mean((features - features.mean(axis=0)) ** 2)), 1e-12)

        def error_db(other):
            floor = self.config.floor
            ours, theirs = (20 * np.log10(np.maximum(_bands(x, self.config), floor)) for x in (features, other))
            heard = np.maximum(ours, theirs) > 20 * np.log10(floor)
            return float(np.abs(ours - theirs)[heard].mean()) if heard.any() else 0.0

        return {"seconds": len(codes) / self.frame_rate,
                "variance_explained": [1 - float(np.mean((features - x) ** 2)) / variance for x in coded],
                "coded_db": error_db(coded[-1]), "round_trip_db": error_db(decoded)}

    def save(self, directory: str | pathlib.Path) -> None:
        """Writes `codec.json` and `codebooks.safetensors` into `directory`, made if need be."""
        import safetensors.numpy

        directory = pathlib.Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        description = {"name": "melrvq", "channels": self.channels, "frame_rate": self.frame_rate,
                       **dataclasses.asdict(self.config)}
        (directory / "codec.json").write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")
        safetensors.numpy.save_file({"codebooks": self.codebooks}, directory / "codebooks.safetensors")

    @classmethod
    def load(cls, directory: str | pathlib.Path) -> "MelRVQ":
        """Reads what `save` wrote."""
        import safetensors.numpy

        directory = pathlib.Path(directory)
        description = json.loads((directory / "codec.json").read_text(encoding="utf-8"))
        config = MelRVQConfig(**{f.name: description[f.name] for f in dataclasses.fields(MelRVQConfig)})
        return cls(config, safetensors.numpy.load_file(directory / "codebooks.safetensors")["codebooks"])


def _transform(config: MelRVQConfig) -> tuple[np.ndarray, np.ndarray]:
    """The window [n_fft] and the filters [n_mels, n_fft // 2 + 1]."""
    return (spectrum.hann(config.n_fft),
            spectrum.band_filters(config.sample_rate, config.n_fft, config.n_mels, config.corner))


def _features(audio: np.ndarray, config: MelRVQConfig) -> np.ndarray:
    """float32 [1, samples] -> float32 [ceil(samples / hop), subframes * n_mels]; silence is 0."""
    audio = np.asarray(audio, np.float32)
    if audio.ndim != 2 or len(audio) != 1:
        raise ValueError(f"audio has the shape {audio.shape}, expected [1, samples]")
    padded = np.pad(audio[0], (0, -audio.shape[1] % config.hop))
    window, filters = _transform(config)
    if not len(padded):
        return np.zeros((0, config.subframes * config.n_mels), np.float32)
    bands = spectrum.band_magnitudes(padded, window, config.hop // config.subframes, filters)
    return np.log1p(bands / config.floor).reshape(-1, config.subframes * config.n_mels)


def _bands(features: np.ndarray, config: MelRVQConfig) -> np.ndarray:
    """The inverse of the compression: float32 [T, subframes * n_mels] -> magnitudes [T * subframes, n_mels]."""
    return config.floor * np.expm1(np.maximum(features, 0)).reshape(-1, config.n_mels)
