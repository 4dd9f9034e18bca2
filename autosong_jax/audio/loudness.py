"""Loudness by ITU-R BS.1770-4, of audio that comes in blocks, and the gain that brings it to what is wanted."""

import math

import numpy as np

SUBBLOCK = 0.1  # s: gating blocks of 400 ms overlap by 75 %
_IN_BLOCK = 4
_ABSOLUTE_GATE = -70.0  # LUFS
_RELATIVE_GATE = -10.0  # LU below the loudness of what passes the absolute gate
_OFFSET = -0.691  # dB, by which a sine of 997 Hz at full scale in one channel is -3.01 LUFS


def k_weighting(sample_rate: int) -> np.ndarray:
    """The two filters of BS.1770-4, annex 1, as second-order sections [2, 6] for `scipy.signal.sosfilt`.

    The standard has coefficients for 48 kHz alone; for other rates they come from the analogue filters that those are
    the bilinear transforms of (B. De Man, "Evaluation of implementations of the EBU R128 loudness measurement", 2018).
    """
    def warped(frequency: float) -> float:
        return math.tan(math.pi * frequency / sample_rate)

    k, q, high = warped(1681.974450955533), 0.7071752369554196, 10 ** (3.999843853973347 / 20)
    band = high ** 0.4996667741545416
    a0 = 1 + k / q + k * k
    shelf = [(high + band * k / q + k * k) / a0, 2 * (k * k - high) / a0, (high - band * k / q + k * k) / a0,
             1.0, 2 * (k * k - 1) / a0, (1 - k / q + k * k) / a0]
    k, q = warped(38.13547087602444), 0.5003270373238773
    a0 = 1 + k / q + k * k
    return np.array([shelf, [1.0, -2.0, 1.0, 1.0, 2 * (k * k - 1) / a0, (1 - k / q + k * k) / a0]])


class Meter:
    """The integrated loudness of audio of one or two channels, heard block by block.

    It keeps a number for each 100 ms, whatever the length of the blocks, which changes nothing but the last bits.
    """

    def __init__(self, sample_rate: int, channels: int):
        self._filters = k_weighting(sample_rate)
        self._state = np.zeros((len(self._filters), channels, 2))
        self._length = round(SUBBLOCK * sample_rate)
        self._rest = np.zeros(0)
        self._energies: list[np.ndarray] = []

    def add(self, block: np.ndarray) -> None:
        """Hears float [channels, samples] more."""
        import scipy.signal

        weighted, self._state = scipy.signal.sosfilt(self._filters, block.astype(np.float64), zi=self._state)
        power = np.concatenate([self._rest, np.square(weighted).sum(0)])  # left and right count alike
        whole = len(power) // self._length * self._length
        self._energies.append(power[:whole].reshape(-1, self._length).sum(1))
        self._rest = power[whole:]

    def loudness(self) -> float:
        """LUFS of all that was heard; -inf where nothing passes the gates."""
        energies = np.concatenate([*self._energies, np.zeros(0)])
        if len(energies) < _IN_BLOCK:
            return -math.inf
        powers = np.convolve(energies, np.ones(_IN_BLOCK), "valid") / (_IN_BLOCK * self._length)
        passing = powers[powers >= _power(_ABSOLUTE_GATE)]
        if not len(passing):
            return -math.inf
        return _OFFSET + 10 * math.log10(
            passing[passing > passing.mean() * 10 ** (_RELATIVE_GATE / 10)].mean())


def _power(loudness: float) -> float:
    return 10 ** ((loudness - _OFFSET) / 10)


def gain(loudness: float, peak: float, wanted: float, ceiling: float) -> float:
    """The factor that brings audio to the loudness wanted, or to less where its peak would be beyond the ceiling.

    A limiter would keep the loudness and change the sound, so there is none.

    Args:
      loudness: of the audio, LUFS.
      peak: its largest sample, of absolute value.
      wanted: LUFS.
      ceiling: dB below full scale.
    """
    largest = 10 ** (ceiling / 20) / peak if peak > 0 else 1.0
    return min(largest, 10 ** ((wanted - loudness) / 20))  # 10 ** inf, where nothing passes the gates, is inf
