"""The melody of a recording as its strongest pitch class over time, which MusicGen's melody models read.

Letters: N samples, F frames.
"""

import numpy as np

N_FFT = 16384  # samples that a spectrum sees: half a second at 32 kHz
HOP = 4096  # samples from frame to frame
NUM_CHROMA = 12  # pitch classes
_BLOCK = 256  # frames whose spectra are in memory at a time


def strongest_pitch_class(audio: np.ndarray, sample_rate: int) -> np.ndarray:
    """The pitch class (0 is C) with the most power in each frame.

    Power spectra of Hann windows, centred, summed by 12 pitch classes tuned to A = 440 Hz (Copet et al. 2023,
    section 3.3, where drums and bass were taken out of the recording before: without them the melody is clearer).

    Args:
      audio: float32 [channels, N]; channels are mixed.
      sample_rate: Hz; the released models were trained at 32,000.

    Returns:
      int32 [F], F = 1 + max(N, N_FFT) // HOP. In silence it is 0.
    """
    import librosa

    mono = audio.mean(axis=0)
    mono = np.pad(mono, (max(N_FFT - len(mono), 0) // 2, -(-max(N_FFT - len(mono), 0) // 2)))
    mono = np.pad(mono, N_FFT // 2, mode="reflect")
    filters = librosa.filters.chroma(sr=sample_rate, n_fft=N_FFT, tuning=0, n_chroma=NUM_CHROMA)
    classes = []
    for first in range(0, 1 + len(mono) - N_FFT, _BLOCK * HOP):
        block = mono[first : first + (_BLOCK - 1) * HOP + N_FFT]
        spectra = np.abs(librosa.stft(block, n_fft=N_FFT, hop_length=HOP, center=False)) ** 2
        classes.append((filters @ spectra).argmax(axis=0))
    return np.concatenate(classes).astype(np.int32)

