"""The melody of a recording as its strongest pitch class over time, which MusicGen's melody models read.

Letters: N samples, F frames.
"""

import numpy as np

N_FFT = 16384  # samples that a spectrum sees: half a second at 32 kHz
HOP = 4096  # samples from frame to frame
NUM_CHROMA = 12  # pitch classes


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
    spectra = np.abs(librosa.stft(mono, n_fft=N_FFT, hop_length=HOP, pad_mode="reflect")) ** 2
    chroma = librosa.filters.chroma(sr=sample_rate, n_fft=N_FFT, tuning=0, n_chroma=NUM_CHROMA) @ spectra
    return chroma.argmax(axis=0).astype(np.int32)

