"""What fits where: the accelerator memory that training MusicGen's shapes takes, whole and with LoRA.

python -m benchmarks.memory

Everything is computed, nothing measured, by what `python -m autosong_jax.train --plan` computes with. Computation is in
bfloat16, songs are 30 s, lyrics of 2048 and descriptions of 256 states of T5 come from the dataset, as
`configs/finetune.py` has it.
"""

import bisect
import math
import pathlib
import tempfile
from typing import Any

import jax
import ml_collections
import numpy as np
from flax import nnx

from autosong_jax import cli
from autosong_jax import config as config_file
from autosong_jax.planning.devices import Kind
from autosong_jax.planning.plan import GIB, Estimate, Planner, Songs, fsdp_mesh
from autosong_jax.pretrained import musicgen
from autosong_jax.sources.text.t5 import T5Config, T5Encoder
from benchmarks.shapes import CODEC, TEXT, released
from configs import finetune

SIZES = ("small", "medium", "large")
T5_BASE = T5Config(vocab_size=32128, width=768, heads=12, head_width=64, layers=12, mlp_width=3072)
CARDS = (8, 16, 24, 40, 80)  # GiB
MOST = 512  # songs that are tried


def define_flags() -> None:
    """There are none."""


def main() -> None:
    planners = {(name, rank): Planner(config_of(name, rank), Songs(CODEC, TEXT, "")) for name in SIZES
                for rank in (16, 0)}
    fixed = ("weights", "moving average", "optimizer", "gradients")
    print_row("MusicGen", "trained", "parameters", "of them trained", *fixed, "a song")
    print_row(*["---"] * (5 + len(fixed)))
    for (name, rank), planner in planners.items():
        trainer = planner.step("gpu").trainer
        counts = count((trainer.abstract.params, trainer.frozen)), count(trainer.abstract.params)
        one, two = (estimate(planner, songs) for songs in (16, 17))
        rows = one.rows | {"weights": one.rows["parameters"] + one.rows["frozen parameters"]}
        print_row(name, kind(rank), *(f"{n / 1e6:,.0f} M" for n in counts),
                  *(f"{size / GIB:.2f}" for size in (*(rows[row] for row in fixed), two.total - one.total)))
    print("\nGiB; a song is what each song of the batch adds. Largest batch by the memory of the card:\n")
    print_row("MusicGen", "trained", *(f"{card} GB" for card in CARDS))
    print_row(*["---"] * (2 + len(CARDS)))
    for (name, rank), planner in planners.items():
        print_row(name, kind(rank), *(largest_batch(planner, card) or "-" for card in CARDS))
    t5 = nnx.state(nnx.eval_shape(lambda: T5Encoder(T5_BASE, rngs=nnx.Rngs(0))))
    size = sum(x.size * np.dtype(x.dtype).itemsize for x in jax.tree.leaves(t5))
    print(f"\nT5-base in memory, for tokens in place of states, takes {size / GIB:.2f} GiB more.")


def print_row(*cells: Any) -> None:
    print("| " + " | ".join(map(str, cells)) + " |", flush=True)


def kind(rank: int) -> str:
    return f"LoRA, rank {rank}" if rank else "everything"


def count(tree: Any) -> int:
    return sum(math.prod(x.shape) for x in jax.tree.leaves(tree))


def card_of(gib: int) -> Kind:
    return Kind("", "gpu", gib, ())


def estimate(planner: Planner, songs: int) -> Estimate:
    """What a batch of so many songs takes on one card."""
    planner.config.data.batch_size = songs
    return planner.estimate(card_of(0), fsdp_mesh(1))


def largest_batch(planner: Planner, gib: int) -> int:
    """Songs in the largest batch that a card of so much memory trains on; 0 for none."""
    card = card_of(gib)
    return bisect.bisect_left(range(1, MOST), True, key=lambda songs: not estimate(planner, songs).fits(card))


def config_of(name: str, rank: int) -> ml_collections.ConfigDict:
    """The config that fine-tunes a converted model of that size."""
    model = musicgen.model_config({"model_type": "musicgen", "decoder": released(name)}, CODEC)
    with tempfile.TemporaryDirectory() as base:
        config_file.save(model, pathlib.Path(base) / "config.json")
        config = finetune.get_config(f"base={base},rank={rank}")
    return config


if __name__ == "__main__":
    define_flags()
    cli.run(main)
