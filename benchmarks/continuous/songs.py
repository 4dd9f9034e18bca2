"""Does a model of latents sing lyrics that it has never seen? Each head, with and without what keeps it from drifting.

A variant's name says what it is: "given" is the system as it was first built; the others are a head, after which
-nonoise is trained on clean histories, and -nocontext does not see the last latents as they are.
"""

import functools
import pathlib
import re
from typing import Any

import numpy as np

from autosong_jax.errors import UserError
from benchmarks.continuous.scene import Scene, training_of


def check(variant: str) -> None:
    """Raises UserError if there is no such variant."""
    if not re.fullmatch(r"given|(regression|mixture|flow|distilled)(-nonoise)?(-nocontext)?", variant):
        raise UserError(f"variant {variant!r}: expected given, or regression, mixture, flow or distilled, after which "
                        "-nonoise and -nocontext may stand")


def train(scene: Scene, name: str, variant: str, dataset: pathlib.Path, autoencoder: str, steps: int,
          words: bool = True, **fields: Any) -> pathlib.Path:
    """The workdir NAME of a variant over an autoencoder, trained on mel spectrograms.

    Args:
      words: whether it learns lyrics.
      fields: as of `Scene.train`.
    """
    head, *less = variant.split("-")
    arg = "given=true" if head == "given" else f"head={head}"
    without = {"nonoise": {"latents__noise": False}, "nocontext": {"latents__short_context": 0}}
    fields = {name: value for part in less for name, value in without[part].items()} | fields
    if scene.vocoder_steps:
        fields["latents__vocoder"] = scene.workdir("vocoder")
    return scene.train(name, f"autosong_songbook:{arg}" + ("" if words else ",words=false"), dataset, steps,
                       latents__workdir=scene.workdir(autoencoder), **fields)


def measure(scene: Scene, variants: list[str], autoencoder: str, steps: int) -> dict[str, dict[str, Any]]:
    """Trains the variants over an autoencoder that is trained, and has each sing held-out lyrics."""
    given = {"steps": steps, "autoencoder": autoencoder, "vocoder": scene.vocoder_steps}
    return {variant: scene.measured(f"song-{variant}", given,
                                    functools.partial(_measure, scene, variant, autoencoder, steps))
            for variant in variants}


def _measure(scene: Scene, variant: str, autoencoder: str, steps: int) -> dict[str, Any]:
    import autosong_jax
    from benchmarks.sing import judge

    workdir = train(scene, f"song-{variant}", variant, scene.mels, autoencoder, steps)
    found = judge(autosong_jax.load(workdir), str(scene.mels), "validation", scene.heard, seed=0)
    ours = found.ours
    return {"training": training_of(workdir), "notes": float(ours.mean()),
            "standard error": float(ours.std() / np.sqrt(len(ours))), "other lyrics": float(found.control.mean()),
            "nearest": float(np.mean(ours < found.control.min(axis=1))), "songs": len(ours)}


def print_table(found: dict[str, dict[str, Any]], mels: dict[str, Any], restored: dict[str, Any]) -> None:
    """The results as a table, with what its columns mean, beside what `autoencoders.judge` says of true songs: of their
    mel spectrograms, and of these through the autoencoder."""
    way = "vocoder" if "vocoder" in restored else "Griffin-Lim"
    songs = next(iter(found.values()))["songs"]
    print(f"\nLyrics never seen, sung by models of latents and heard by {way}. Note error rates of {songs} songs."
          "\n  ours: beside their lyrics, with its standard error   control: beside the lyrics of the other songs"
          "\n  nearest: share of songs that are nearer to their own lyrics than to any other"
          f"\n  ceiling: {restored[way]['notes']:.3f} of the true songs through the autoencoder, "
          f"{mels[way]['notes']:.3f} of their mel spectrograms\n")
    print(f"{'':28} {'minutes':>7} {'ours':>15} {'control':>8} {'nearest':>8}")
    for name, row in found.items():
        print(f"{name:28} {row['training']['minutes']:7.1f} {row['notes']:7.3f} +-{row['standard error']:6.3f} "
              f"{row['other lyrics']:8.3f} {row['nearest']:8.2f}")
