"""Whisper: what is said or sung in a window of sound, through `transformers`.

Radford et al. 2022, arXiv 2212.04356. Letters: B windows.
"""

import dataclasses
from collections.abc import Sequence
from typing import Annotated

import numpy as np
import tokenizers
import torch
import transformers
from pydantic import Field

from autosong_jax import inputs
from autosong_jax.errors import UserError
from data_prep import hub

FLAG = "--model"
_TOKENIZER, _FEATURES, _GENERATION = "tokenizer.json", "preprocessor_config.json", "generation_config.json"
_LARGEST = 2**28  # bytes of a tokenizer
_Size = Annotated[int, Field(ge=1, le=2**22)]
_Count = Annotated[int, Field(ge=1, le=1000)]
_Id = Annotated[int, Field(ge=0, le=2**22)]


@dataclasses.dataclass(frozen=True)
class _Settings:
    """Those of `config.json` that what is heard depends on."""

    vocab_size: _Size
    d_model: _Size
    encoder_layers: _Count
    encoder_attention_heads: _Count
    encoder_ffn_dim: _Size
    decoder_layers: _Count
    decoder_attention_heads: _Count
    decoder_ffn_dim: _Size
    num_mel_bins: _Size
    max_source_positions: _Size
    max_target_positions: _Size
    decoder_start_token_id: _Id
    eos_token_id: _Id
    pad_token_id: _Id
    bos_token_id: _Id
    activation_function: str | None = None
    scale_embedding: bool | None = None


@dataclasses.dataclass(frozen=True)
class _Features:
    """Those of `preprocessor_config.json`."""

    feature_size: _Size
    sampling_rate: Annotated[int, Field(ge=1000, le=192_000)]
    hop_length: _Size
    chunk_length: Annotated[int, Field(ge=1, le=3600)]
    n_fft: Annotated[int, Field(ge=2, le=2**16)]


@dataclasses.dataclass(frozen=True)
class _Generation:
    """Those of `generation_config.json`."""

    decoder_start_token_id: _Id
    eos_token_id: _Id
    pad_token_id: _Id
    no_timestamps_token_id: _Id
    max_length: _Size
    is_multilingual: bool = True
    lang_to_id: dict[str, _Id] | None = None
    task_to_id: dict[str, _Id] | None = None
    suppress_tokens: list[_Id] | None = None
    begin_suppress_tokens: list[_Id] | None = None
    forced_decoder_ids: list[list[_Id | None]] | None = None


class Whisper:
    """A Whisper in float32.

    Attributes:
      sample_rate: Hz, of what it hears.
      seconds: the longest window that it hears.
      languages: the codes of those that it tells apart; of one language alone that one.
      revision: of its files.
    """

    def __init__(self, source: str, device: str | None = None):
        """Loads it.

        Args:
          source: a directory that `save_pretrained` wrote, or a hub id.
          device: "cpu" or "cuda"; the GPU if there is one, where None.

        Raises:
          UserError: there is no such model, or it is of another kind.
        """
        where = f"{FLAG}={source}"
        config = hub.read_config(source, FLAG, "whisper")
        settings = inputs.check(config, _Settings, f"{where}: its config.json")
        directory = hub.locate(source, FLAG)
        features = inputs.read_json(directory / _FEATURES, _Features, f"{where}:")
        generation = inputs.read_json(directory / _GENERATION, _Generation, f"{where}:")
        frames = features.chunk_length * features.sampling_rate // features.hop_length
        if features.feature_size != settings.num_mel_bins or frames != 2 * settings.max_source_positions:
            raise UserError(f"{where}: its {_FEATURES} makes {features.feature_size} bands of {frames} frames, but its "
                            f"model reads {settings.num_mel_bins} of {2 * settings.max_source_positions}: they do not "
                            "belong together")
        self.sample_rate, self.seconds = features.sampling_rate, float(features.chunk_length)
        self._languages = {name.strip("<|>"): token for name, token in (generation.lang_to_id or {}).items()
                           } if generation.is_multilingual else {}
        if generation.is_multilingual and not (self._languages and generation.task_to_id):
            raise UserError(f"{where}: its {_GENERATION} has no languages: give a checkpoint saved by a recent version "
                            "of transformers")
        self.languages = sorted(self._languages) or ["en"]
        self.revision = hub.revision(source)
        inputs.read_bytes(directory / _TOKENIZER, where, _LARGEST)
        with hub.plainly(FLAG, source):
            self._tokenizer = tokenizers.Tokenizer.from_file(str(directory / _TOKENIZER))
            self._features = transformers.WhisperFeatureExtractor(**dataclasses.asdict(features))
        self._model = hub.load(transformers.WhisperForConditionalGeneration, source, FLAG, settings)
        if device:
            if device == "cuda" and not torch.cuda.is_available():
                raise UserError("--device=cuda: PyTorch finds no GPU here; leave the flag out")
            self._model.to(device)
        given = {name: value for name, value in dataclasses.asdict(generation).items() if value is not None}
        self._model.generation_config = transformers.GenerationConfig(**given)

    def check_language(self, language: str) -> None:
        """Raises UserError for a language that it does not know."""
        if language not in self.languages:
            shown = ", ".join(self.languages[:8]) + (", ..." if len(self.languages) > 8 else "")
            raise UserError(f"--language={language} is none that the model knows: expected one of {shown}")

    @torch.inference_mode()
    def detect(self, windows: Sequence[np.ndarray]) -> list[str]:
        """The language of each window, float32 [samples]."""
        if not self._languages:
            return self.languages * len(windows)
        names = {token: name for name, token in self._languages.items()}
        return [names[int(token)] for token in self._model.detect_language(input_features=self._bands(windows))]

    @torch.inference_mode()
    def hear(self, windows: Sequence[np.ndarray], languages: Sequence[str]) -> list[str]:
        """What is heard in each window, float32 [samples], whose language is known."""
        multilingual = {"language": list(languages), "task": "transcribe"} if self._languages else {}
        ids = self._model.generate(input_features=self._bands(windows), do_sample=False, num_beams=1, **multilingual)
        return [text.strip() for text in self._tokenizer.decode_batch(ids.tolist(), skip_special_tokens=True)]

    def _bands(self, windows: Sequence[np.ndarray]) -> torch.Tensor:
        """float32 [B, bands, frames]."""
        found = self._features(list(windows), sampling_rate=self.sample_rate, return_tensors="pt")
        return found.input_features.to(self._model.device)
