"""What the vocoder is trained for: to give back a signal of which it sees the mel.

Letters: B batch, T frames, S samples, M bands.
"""

import dataclasses
from collections.abc import Callable

import jax.numpy as jnp
from jax import Array

from autosong_jax.layers.spectra import stft_distance
from autosong_jax.models.discriminators import mean_of_share
from autosong_jax.models.vocoder import Vocoder
from autosong_jax.objectives.adversarial import Adversarial, Examples, Shared, inside, share_of
from autosong_jax.objectives.objective import Sums

_FULL_SCALE = 32768  # what samples of 16 bits are stored in


@dataclasses.dataclass(frozen=True, kw_only=True)
class Vocoding(Adversarial):
    """The multi-resolution STFT distance (`layers.spectra.stft_distance`, both of its terms), and `mel_weight` times
    the L1 of mels, beside the game of `Adversarial`. A batch has the samples of each frame, int16 [B, T, hop].

    Attributes:
      mel: of signals float32 [B, S], what the model reads, float32 [B, T, M].
      mel_weight: see above.
    """

    mel: Callable[[Array], Array]
    mel_weight: float = 15.0
    headline = ("loss", "stft")

    def loss(self, model: Vocoder, examples: Examples, shared: Shared, memory: None, key: Array | None
             ) -> tuple[Array, Sums]:
        """The sums are those of "loss", "stft" (of which "convergence" is a part), "mel" and the game; see
        `Adversarial.summed`.
        """
        there, share = inside(examples), share_of(examples)
        frames = examples.frames.astype(jnp.float32) / _FULL_SCALE
        audio = frames.reshape(len(frames), -1)
        mels = self.mel(audio)
        made = jnp.where(there[..., None], model(mels, there).reshape(frames.shape), frames).reshape(audio.shape)
        convergence, magnitudes = stft_distance(audio, made, share)
        mel = mean_of_share(jnp.abs(self.mel(made) - mels), share)
        stft = convergence + magnitudes
        terms = {"stft": stft, "convergence": convergence, "mel": mel}
        return self.summed(model, stft + self.mel_weight * mel, terms, audio, made, examples, shared)
