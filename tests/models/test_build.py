"""Models from configs."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from autosong_jax.data.text import get_text_encoder
from autosong_jax.models.build import build_model, held_in

CODEC = {"num_codebooks": 3, "codebook_size": 16, "frame_rate": 25.0}


def test_matrices_held_in_the_dtype_of_the_computation_change_no_bit(toy_config):
    config = toy_config(**{"model.dtype": "bfloat16"})
    model = build_model(config, CODEC, get_text_encoder("bytes").info, rngs=nnx.Rngs(0))
    graph, state = nnx.split(model)
    params = nnx.to_pure_dict(state)
    held = jax.tree.map(lambda leaf, target: leaf.astype(target.dtype), params, held_in("bfloat16", params))
    assert {leaf.dtype for leaf in jax.tree.leaves(held)} == {jnp.dtype("bfloat16"), jnp.dtype("float32")}
    rng = np.random.default_rng(0)
    ids = {"ids": rng.integers(0, 200, (2, 9)), "length": np.array([9, 4]),
           "sections": np.zeros((2, 9), int), "lines": np.zeros((2, 9), int)}
    sources = {"lyrics": ids, "genre": {"ids": ids["ids"][:, :4], "length": np.array([0, 3])}}
    steps, keep = rng.integers(0, 17, (2, 7, 3)), jnp.ones((2, 2), bool)

    @jax.jit
    def logits(params):
        model = nnx.merge(graph, params)
        return model(steps, model.encode(sources, keep))

    np.testing.assert_array_equal(logits(params), logits(held))
