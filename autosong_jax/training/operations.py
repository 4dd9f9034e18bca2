"""How many floating-point operations a training step must do, from the model's shapes: what utilization is counted by.

Letters: S steps or frames of the decoder, M memory length, D width.
"""

import ml_collections
from flax import nnx
from flax.traverse_util import flatten_dict

from autosong_jax.models.song import SongModel
from autosong_jax.training.step import Trainer
from autosong_jax.weights.trainable import combine


def step_operations(trainer: Trainer, config: ml_collections.ConfigDict) -> float | None:
    """Floating-point operations of a step, forward and backward; of several objectives, the mean of their steps.

    As for model FLOP/s utilization (Chowdhery et al. 2022, appendix B): a multiply and an add for each number of a
    matrix and each position that goes through it, and twice as many backward, once as many where the matrix is frozen;
    12 D for each layer and each pair of positions of which one sees the other. An objective may go through the decoder
    more often forward: that adds a third each time. Tables are looked up, so they count nothing; neither do norms,
    softmaxes and what the backward pass computes again. A source counts with the length that it is padded to.

    Args:
      trainer: of the run.
      config: of the run.

    Returns:
      None for a model that is no song model, whose convolutions nobody counts here.
    """
    model = nnx.merge(trainer.graph, combine(trainer.abstract.params, trainer.frozen))
    if not isinstance(model, SongModel):
        return None
    lengths = {name: config.sources[name].max_length for name in model.source_names}
    declared = flatten_dict(trainer.declarations)
    trained, frozen = ({path: leaf.size for path, leaf in flatten_dict(params).items()
                        if declared[path].kind == "matrix"} for params in (trainer.abstract.params, trainer.frozen))
    of_objectives = []
    for objective in trainer.objectives.values():
        steps = trainer.pattern.num_steps - 1 if objective.causal else trainer.pattern.num_frames
        more = objective.passes - 1  # through all but the sources
        multiplied = sum(
            (passes + (0 if path[0] == "conditions" else more)) * size * _positions(path, model, steps, lengths)
            for passes, matrices in ((3, trained), (2, frozen)) for path, size in matrices.items())
        of_objectives.append(2 * multiplied + 4 * (3 + more) * _seen(model, objective.causal, steps, lengths)
                             + 12 * _seen_by_sources(model, lengths))
    return config.data.batch_size * sum(of_objectives) / len(of_objectives)


def _positions(path: tuple[str, ...], model: SongModel, steps: int, lengths: dict[str, int]) -> int:
    """How many positions of an example go through a matrix."""
    memory = sum(lengths.values())
    if path[0] == "conditions":
        return lengths[path[2]]
    if path[:2] == ("frames", "latents"):  # an autoencoder's, whose convolutions nobody counts here
        return 0
    if path[0] == "decoder" and model.fusion == "prefix":
        return memory + steps
    return memory if "cross_attention" in path and ({"k", "v"} & set(path)) else steps


def _seen(model: SongModel, causal: bool, steps: int, lengths: dict[str, int]) -> float:
    """Pairs of positions of which one sees the other, times D, over all layers of the decoder."""
    decoder, memory = model.decoder.config, sum(lengths.values())
    length = memory + steps if model.fusion == "prefix" else steps
    pairs = length * (length + 1) / 2
    if not causal:  # codebooks after the first see what is in the window
        near = steps * min(2 * decoder.window + 1, steps) if decoder.window else steps**2
        num_codebooks = model.frames.num_codebooks
        pairs = (steps**2 + (num_codebooks - 1) * near) / num_codebooks
    if decoder.cross_attention:
        pairs += steps * memory
    return decoder.layers * decoder.width * pairs


def _seen_by_sources(model: SongModel, lengths: dict[str, int]) -> int:
    """The same over the transformers of the sources, where they have one: of what they learn to read."""
    encoders = {name: getattr(model.conditions.sources[name], "encoder", None) for name in lengths}
    return sum(encoder.config.layers * encoder.config.width * lengths[name] ** 2
               for name, encoder in encoders.items() if encoder is not None)
