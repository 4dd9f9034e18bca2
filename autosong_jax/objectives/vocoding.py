"""What the vocoder is trained for: to give back a signal of which it sees the mel.

Letters: B batch, T frames, S samples, M bands.
"""

import dataclasses

import jax.numpy as jnp
from jax import Array

from autosong_jax.codecs.mel.settings import MelConfig
from autosong_jax.codecs.mel.vocoder import Vocoder
from autosong_jax.codecs.pcm.settings import PcmConfig
from autosong_jax.layers.spectra import band_magnitudes, stft_distance
from autosong_jax.models.discriminators import mean_of_share
from autosong_jax.objectives.adversarial import Adversarial, Examples, Shared, inside, share_of
from autosong_jax.objectives.objective import Sums


@dataclasses.dataclass(frozen=True, kw_only=True)
class Vocoding(Adversarial):
    """The multi-resolution STFT distance (`layers.spectra.stft_distance`, both of its terms), and `mel_weight` times
    the L1 of mels, beside the game of `Adversarial`.

    A batch has frames of codec `pcm`.

    Attributes:
      mel: what the model reads: values of frames as long as those of the batch.
      mel_weight: see above.
    """

    mel: MelConfig
    mel_weight: float = 15.0
    headline = ("loss", "stft")

    def mels(self, audio: Array) -> Array:
        """Signals float32 [B, S] -> values float32 [B, T, M]."""
        mel = self.mel
        return mel.of_magnitudes(band_magnitudes(audio, mel.sample_rate, mel.n_fft, mel.hop, mel.n_mels))

    def loss(self, model: Vocoder, examples: Examples, shared: Shared, memory: None, key: Array | None
             ) -> tuple[Array, Sums]:
        """The sums are those of "loss", "stft" (of which "convergence" is a part), "mel" and the game; see
        `Adversarial.summed`.
        """
        there, share = inside(examples), share_of(examples)
        frames = PcmConfig(self.mel.sample_rate, self.mel.hop).values(examples.frames)
        audio = frames.reshape(len(frames), -1)
        mels = self.mels(audio)
        made = jnp.where(there[..., None], model(mels, there).reshape(frames.shape), frames).reshape(audio.shape)
        convergence, magnitudes = stft_distance(audio, made, share)
        mel = mean_of_share(jnp.abs(self.mels(made) - mels), share)
        stft = convergence + magnitudes
        terms = {"stft": stft, "convergence": convergence, "mel": mel}
        return self.summed(model, stft + self.mel_weight * mel, terms, audio, made, examples, shared)
