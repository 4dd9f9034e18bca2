"""Runs in workdirs: whether one may live there, what it writes beside checkpoints, and what it shares with another."""

import filecmp
import pathlib
import shutil
from typing import Any

import jax
import ml_collections

from autosong_jax import config as config_file
from autosong_jax.codecs.info import CodecInfo
from autosong_jax.data.dataset import SongDataset
from autosong_jax.errors import UserError
from autosong_jax.sources.text.encoders import DIRECTORY, INFO_FILE, TextEncoderInfo
from autosong_jax.workdir.checkpoints import is_exported
from autosong_jax.workdir.vocoders import open_vocoder, take_vocoder
from autosong_jax.workdir.workdir import Workdir


def check_workdir(config: ml_collections.ConfigDict, dataset: SongDataset, workdir: pathlib.Path) -> None:
    """Makes sure that a run may live in a workdir, which need not exist.

    Raises:
      UserError: if a run lives there that had another model, or whose codes or texts mean something else, or weights
        that are no run's.
    """
    if is_exported(workdir):
        raise UserError(f"{workdir} holds an exported model: start from it with --config.init.workdir={workdir} and "
                        "choose another --workdir")
    if not (workdir / "config.json").exists():
        _check_nobody_elses(workdir)
        return
    run = Workdir(workdir)
    old = run.config
    checks = {"text encoder": same_text_encoder(run.text, dataset.text),
              "codec": same_codec(workdir / "codec", dataset.path / "codec"),
              "config.model": config_file.to_json(old.model) == config_file.to_json(config.model),
              "config.objective": config_file.to_json(old.objective) == config_file.to_json(config.objective),
              "config.autoencoder": config_file.to_json(old.autoencoder) == config_file.to_json(config.autoencoder),
              "config.vocoder": config_file.to_json(old.vocoder) == config_file.to_json(config.vocoder),
              "config.latents": _of_latents(old) == _of_latents(config),
              "config.sources": source_shapes(old) == source_shapes(config),
              "config.data.end_of_song": old.data.end_of_song == config.data.end_of_song,
              "config.lora": config_file.to_json(old.lora) == config_file.to_json(config.lora),
              "config.train.trainable": list(old.train.trainable) == list(config.train.trainable)}
    if others := ", ".join(name for name, same in checks.items() if not same):
        raise UserError(f"{workdir} holds a run with another {others}: give what that run had, or choose another "
                        "--workdir")


def _check_nobody_elses(workdir: pathlib.Path) -> None:
    """Raises UserError if a directory without a run holds more than the beginning of one, or what a shell put there."""
    known = ("config.tmp", INFO_FILE, "codec", DIRECTORY, "checkpoints", "frozen", "samples", "metrics.jsonl",
             "tensorboard", "trackers.json", "wandb")
    for path in sorted(workdir.iterdir()) if workdir.is_dir() else ():
        if path.name not in known and not path.name.startswith(".") and path.suffix not in (
                ".log", ".out", ".err"):
            raise UserError(f"--workdir={workdir} holds {path.name} and no run: expected a new or empty directory, or "
                            "that of a run to go on with")


def prepare_workdir(config: ml_collections.ConfigDict, dataset: SongDataset, workdir: pathlib.Path) -> None:
    """Writes what `generate` needs beside checkpoints. Raises UserError if that cannot be."""
    path, vocoder = workdir / "config.json", None
    if config.latents.vocoder and not path.exists():
        vocoder = open_vocoder(config.latents.vocoder, dataset.codec)
    if jax.process_index() != 0:
        return
    try:
        if not path.exists():
            workdir.mkdir(parents=True, exist_ok=True)
            dataset.text.save(workdir)
            for name in ("codec", "text_encoder"):
                if (dataset.path / name).is_dir():
                    shutil.copytree(dataset.path / name, workdir / name, dirs_exist_ok=True)
            if vocoder:
                take_vocoder(vocoder, workdir / "codec")
        # Last, and in one move: where it stands, the rest is complete.
        config_file.save(config, path.with_suffix(".tmp"))
        path.with_suffix(".tmp").replace(path)
    except OSError as error:
        raise UserError(f"workdir {workdir} cannot be written ({error}): choose another --workdir") from error


def _of_latents(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """What decides a model of latents; not where autoencoder and vocoder were once read from."""
    return {name: value for name, value in config.latents.items() if name not in ("workdir", "vocoder")}


def source_shapes(config: ml_collections.ConfigDict) -> dict[str, tuple[int, int, int]]:
    """What of the sources decides the shapes of parameters, and the heads."""
    return {name: (source.width, source.heads, source.layers) for name, source in config.sources.items()}


def same_text_encoder(one: TextEncoderInfo, other: TextEncoderInfo) -> bool:
    """Whether both give the same for a text; frozen ones are known by their revision, wherever they were read from."""
    if one.frozen and other.frozen:
        return (one.revision, one.width) == (other.revision, other.width)
    return one == other


def same_codec(one: pathlib.Path, other: pathlib.Path) -> bool:
    """Whether the codes of two codec directories mean the same.

    A codec whose `codec.json` has a digest of its codebooks is known by that; of others all files are compared.
    """
    info = CodecInfo.load(one)
    if info != CodecInfo.load(other):
        return False
    if info.digest is not None:
        return True
    names = sorted(path.name for path in one.iterdir())
    return names == sorted(path.name for path in other.iterdir()) and all(
        filecmp.cmp(one / name, other / name, shallow=False) for name in names)
