"""What fits where: the accelerator memory that training MusicGen's shapes takes, whole and with LoRA.

python -m benchmarks.memory

Everything is computed, nothing measured. Weights, gradients and the optimizer's state are counted from the shapes that
training has. What the backward pass keeps of the forward pass is counted in the program that JAX differentiates. What
a step needs on top, the intermediate results of the one layer that is being recomputed and the gradient of the logits,
is an estimate (`working_set`). Computation is in bfloat16, songs are 30 s, lyrics of 2048 and descriptions of 256
states of T5 come from the dataset, as `configs/finetune.py` has it.
"""

import pathlib
import tempfile
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from flax import nnx

from autosong_jax import cli
from autosong_jax import config as config_file
from autosong_jax.data.text import TextEncoderInfo
from autosong_jax.models.build import build_model
from autosong_jax.models.t5 import T5Config, T5Encoder
from autosong_jax.objectives.next_step import NextStep
from autosong_jax.objectives.objective import codebook_sums
from autosong_jax.parallel.sharding import make_mesh
from autosong_jax.pretrained import musicgen
from autosong_jax.sampling.song import window_pattern
from autosong_jax.training.step import Trainer, make_trainer
from autosong_jax.training.trainable import Parameters, combine
from configs import finetune

SHAPES = {"small": (1024, 16, 24), "medium": (1536, 24, 48), "large": (2048, 32, 48)}  # width, heads, layers
CODEC = {"num_codebooks": 4, "codebook_size": 2048, "frame_rate": 50.0, "channels": 1}
TEXT = TextEncoderInfo("t5:t5-base", "", "states", width=768)
T5_BASE = T5Config(vocab_size=32128, width=768, heads=12, head_width=64, layers=12, mlp_width=3072)
CARDS = (8, 16, 24, 40, 80)  # GiB
USABLE = 0.92  # of a card, beside the driver's own and what lies idle between arrays
GIB = 2**30
BATCH = 7  # of the traced program: a prime that no other axis has, so whatever has it grows with the batch


def define_flags() -> None:
    """There are none."""


def main() -> None:
    rows = [(name, rank, *bytes_of(name, rank)) for name in SHAPES for rank in (16, 0)]
    print_row("MusicGen", "trained", "parameters", "of them trained", "weights", "gradients", "optimizer", "a song")
    print_row(*["---"] * 8)
    for name, rank, counts, fixed, song in rows:
        print_row(name, kind(rank), *(f"{count / 1e6:,.0f} M" for count in counts),
                  *(f"{size / GIB:.2f}" for size in (*fixed, song)))
    print("\nGiB; a song is what each song of the batch adds. Largest batch by the memory of the card:\n")
    print_row("MusicGen", "trained", *(f"{card} GB" for card in CARDS))
    print_row(*["---"] * (2 + len(CARDS)))
    for name, rank, _, fixed, song in rows:
        print_row(name, kind(rank), *(largest_batch(card * GIB, *fixed, song) or "-" for card in CARDS))
    t5 = nnx.eval_shape(lambda: T5Encoder(T5_BASE, rngs=nnx.Rngs(0)))
    print(f"\nT5-base in memory, for tokens in place of states, takes {size_of(nnx.state(t5)) / GIB:.2f} GiB more.")


def print_row(*cells: Any) -> None:
    print("| " + " | ".join(map(str, cells)) + " |")


def largest_batch(card: int, weights: int, gradients: int, optimizer: int, song: int) -> int:
    """Songs in the largest batch that a card of so many bytes trains on; 0 for none.

    After the backward pass the optimizer makes updates as large as the gradients, when the songs need nothing any more.
    """
    left = card * USABLE - weights - optimizer - gradients
    return max(int(left / song), 0) if left >= gradients else 0


def kind(rank: int) -> str:
    return f"LoRA, rank {rank}" if rank else "everything"


def bytes_of(name: str, rank: int) -> tuple[tuple[int, int], tuple[int, int, int], int]:
    """How many parameters a run has and how many it trains; bytes of weights, gradients and optimizer; of a song."""
    config = config_of(name, rank)
    pattern = window_pattern(config, CODEC)
    trainer = make_trainer(
        config, lambda rngs: build_model(config, CODEC, TEXT, rngs=rngs), pattern, make_mesh(config.mesh))
    trained, frozen = trainer.abstract.params, trainer.frozen
    counts = sum(x.size for x in jax.tree.leaves((trained, frozen))), sum(x.size for x in jax.tree.leaves(trained))
    fixed = size_of((trained, frozen)), size_of(trained), size_of(trainer.abstract.optimizer)
    return counts, fixed, kept(config, trainer) + working_set(config, pattern.num_steps)


def config_of(name: str, rank: int) -> ml_collections.ConfigDict:
    """The config that fine-tunes a converted model of that size."""
    width, heads, layers = SHAPES[name]
    released = {"model_type": "musicgen", "decoder": {
        "hidden_size": width, "num_attention_heads": heads, "num_hidden_layers": layers, "ffn_dim": 4 * width,
        "activation_function": "gelu", "num_codebooks": 4, "vocab_size": 2048, "audio_channels": 1}}
    with tempfile.TemporaryDirectory() as base:
        config_file.save(musicgen.model_config(released, CODEC), pathlib.Path(base) / "config.json")
        config = finetune.get_config(f"base={base},rank={rank}")
    config.model.dtype = "bfloat16"
    return config


def kept(config: ml_collections.ConfigDict, trainer: Trainer) -> int:
    """Bytes that the backward pass keeps of the forward pass, for one song of the batch."""
    frames = trainer.pattern.steps.shape[0]
    sources = {name: {"states": jax.ShapeDtypeStruct((BATCH, source.max_length, TEXT.width), jnp.bfloat16),
                      "length": jax.ShapeDtypeStruct((BATCH,), jnp.int32)} for name, source in config.sources.items()}
    codes = jax.ShapeDtypeStruct((BATCH, frames, CODEC["num_codebooks"]), jnp.int32)

    def loss(params: Parameters, frozen: Parameters, codes, sources):
        model = nnx.merge(trainer.graph, combine(params, frozen))
        objective = NextStep(trainer.pattern, model.special)
        examples, _ = objective.examples(codes, jnp.full(BATCH, frames), part=None, keys=None)
        logits = model(examples.inputs, model.encode(sources, jnp.ones((BATCH, len(sources)), bool)))
        return codebook_sums(logits, examples.targets, examples.mask)["cross_entropy"].sum()

    def residuals(params, *rest):
        return jax.vjp(lambda params: loss(params, *rest), params)[1]

    arrays = jax.tree.leaves(jax.eval_shape(residuals, trainer.abstract.params, trainer.frozen, codes, sources))
    return size_of([x for x in arrays if BATCH in x.shape]) // BATCH


def working_set(config: ml_collections.ConfigDict, steps: int) -> int:
    """An estimate of the bytes that the backward pass has at once beside `kept`, for one song of the batch.

    With D the width: a layer makes 6 arrays [steps, D] in self-attention, 4 and keys and values of the memory in
    cross-attention, and 10 in the MLP, in bfloat16; of each there is a gradient. Attention keeps no scores (cuDNN).
    """
    memory = sum(source.max_length for source in config.sources.values())
    layer = 2 * (20 * steps + 2 * memory) * config.model.width * 2
    logits = steps * CODEC["num_codebooks"] * CODEC["codebook_size"] * 4
    return layer + logits


def size_of(tree: Any) -> int:
    """Bytes of all arrays of a tree."""
    return sum(x.size * np.dtype(x.dtype).itemsize for x in jax.tree.leaves(tree))


if __name__ == "__main__":
    define_flags()
    cli.run(main)
