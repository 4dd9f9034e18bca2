"""Trained models for others: as a directory of safetensors with a model card, or as transformers reads MusicGen."""

import dataclasses
import json
import math
import pathlib
import shutil
from collections.abc import Iterator, Mapping
from typing import Any

import ml_collections
import numpy as np

from autosong_jax import config as config_file
from autosong_jax.codecs.info import CodecInfo
from autosong_jax.errors import UserError
from autosong_jax.pretrained import musicgen
from autosong_jax.sources.spec import source_specs
from autosong_jax.sources.text import frozen as frozen_text
from autosong_jax.sources.text.encoders import TextEncoderInfo
from autosong_jax.sources.text.spec import TextSpec
from autosong_jax.weights import files, parameters
from autosong_jax.weights.files import Tensors
from autosong_jax.workdir.workdir import Workdir


def export(workdir: pathlib.Path, directory: pathlib.Path, form: str = "auto") -> str:
    """Writes the newest weights of a workdir, LoRA merged, in float32.

    Args:
      workdir: of a training run, or a converted model.
      directory: a new or empty directory.
      form: "musicgen", which `transformers.MusicgenForConditionalGeneration` loads; "autosong", which
        `autosong_jax.load` and `generate` take like a workdir; "auto" is musicgen for a model that is one.

    Returns:
      The form.

    Raises:
      UserError: the workdir holds no trained model, the directory is not empty or cannot be written, or the model is no
        MusicGen.
    """
    model = Workdir(workdir)
    codec, text, config = model.codec, model.text, model.merged_config
    difference = musicgen.difference(config, codec, text)
    if form == "musicgen" and difference:
        raise UserError(f"{workdir} is no MusicGen: {difference}; export it with --format=autosong")
    form = ("autosong" if difference else "musicgen") if form == "auto" else form
    with files.writing(directory, "--export"):
        params, step = model.read_weights()
        directory.mkdir(parents=True, exist_ok=True)
        if form == "musicgen":
            _write_musicgen(workdir, directory, config, codec, params)
        else:
            _write_autosong(workdir, directory, config, codec, text, params, step)
    return form


def _write_musicgen(workdir: pathlib.Path, directory: pathlib.Path, config: ml_collections.ConfigDict,
                    codec: CodecInfo, params: Any) -> None:
    parts = {"text_encoder": workdir / frozen_text.DIRECTORY, "audio_encoder": workdir / "codec"}

    def tensors() -> Iterator[tuple[str, np.ndarray]]:
        for prefix, path in parts.items():
            held = Tensors.open(path)
            yield from ((f"{prefix}.{name}", held.read(name)) for name in held)
        yield from musicgen.unload(params, config)

    files.write(directory, tensors())
    settings = {prefix: _read_public(path / "config.json") for prefix, path in parts.items()}
    for name, content in musicgen.released_files(config, codec, settings).items():
        _write_json(directory / name, content)
    shutil.copy(workdir / frozen_text.DIRECTORY / "tokenizer.json", directory)


def _write_autosong(workdir: pathlib.Path, directory: pathlib.Path, config: ml_collections.ConfigDict,
                    codec: CodecInfo, text: TextEncoderInfo, params: Any, step: int) -> None:
    for name in ("codec", frozen_text.DIRECTORY):
        if (workdir / name).is_dir():
            shutil.copytree(workdir / name, directory / name)
        if (path := directory / name / "config.json").exists():
            _write_json(path, _read_public(path))
    text = dataclasses.replace(text, name=_public_name(text.name))
    text.save(directory)
    files.write(directory, parameters.unload(params, parameters.own_recipes(params)))
    (directory / "README.md").write_text(_card(directory.name, config, codec, text, params, step), encoding="utf-8")
    config.data.path = config.init.workdir = ""  # places of the machine that it was trained on
    config.latents.update(workdir="", vocoder="")
    config_file.save(config, directory / "config.json")


def _public_name(name: str) -> str:
    """The name of a text encoder: of a hub id as it is, of a path only its last part."""
    kind, colon, source = name.partition(":")
    path = pathlib.Path(source).expanduser()
    if source and (path.is_dir() or source.startswith(("/", ".", "~")) or source.count("/") > 1):
        return f"{kind}{colon}{path.resolve().name}"
    return name


def _read_public(path: pathlib.Path) -> dict[str, Any]:
    """A part's `config.json`, but for where transformers once read it from."""
    return {key: value for key, value in files.read_json(path).items() if key != "_name_or_path"}


def _write_json(path: pathlib.Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _card(name: str, config: ml_collections.ConfigDict, codec: CodecInfo, text: TextEncoderInfo, params: Any,
          step: int) -> str:
    """The model card: what the model is and how to sing with it; what only its maker knows is left to fill in."""
    model, sources = config.model, ", ".join(sorted(config.sources)) or "nothing"
    count = sum(math.prod(leaf.shape) for leaf in parameters.leaves(params).values())
    rows = {
        "parameters": f"{count:,} (without codec and text encoder)",
        "decoder": f"width {model.width}, {model.heads} heads, {model.layers} layers, {model.pattern} pattern",
        "conditioned on": f"{sources}, by {model.fusion}",
        "text encoder": text.name,
        "codec": f"{codec.name}, {codec.sample_rate} Hz, {codec.channels} channel(s), "
                 f"{codec.frames}, {codec.frame_rate:g} frames/s",
        "window": f"{config.data.seconds:g} s",
        "steps trained": f"{step}",
    }
    table = "\n".join(f"| {key} | {value} |" for key, value in rows.items())
    given = {spec.argument: spec for _, spec in sorted(source_specs(config.sources, text, codec).items())}
    inputs = ", ".join(f"{argument}=" + ('"..."' if isinstance(spec, TextSpec) else "audio")
                       for argument, spec in given.items() if argument)
    return f"""---
library_name: autosong_jax
pipeline_tag: text-to-audio
tags:
- music-generation
- jax
- flax
---

# {name}

A song model for [JAX](https://docs.jax.dev), exported by autosong_jax.

| | |
| --- | --- |
{table}

```python
import autosong_jax

song = autosong_jax.load("{name}").generate({inputs})
```

What it was trained on, for which uses it is meant, and under which license its weights are: not stated by its maker.
"""
