"""CLAP: audio and text as unit vectors of one space, whose cosine says how well a text describes a recording.

To judge songs by: the mean cosine of songs and their descriptions is the CLAP score, and the vectors of audio alone are
what a Fréchet audio distance can compare. CLAP is "Large-scale contrastive language-audio pretraining with feature
fusion and keyword-to-caption augmentation" (Wu et al. 2023, arXiv 2211.06687), here without the fusion. Its audio tower
is HTS-AT (Chen et al. 2022, arXiv 2202.00874), a Swin transformer (Liu et al. 2021) over a log-mel spectrogram; its
text tower is RoBERTa (Liu et al. 2019). Weights come from safetensors as the Hugging Face hub holds them:

    clap = load("laion/clap-htsat-unfused")
    scores = score(clap.embed_audio(songs, 48_000), clap.embed_text(descriptions))
"""

from autosong_jax.evaluation.clap.embedder import Clap, load, score

__all__ = ["Clap", "load", "score"]
