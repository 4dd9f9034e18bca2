import jax.numpy as jnp
import numpy as np
import pytest


@pytest.fixture(scope="session")
def states_and_heads():
    """A function: logits [B, S, K, V] -> states x [B, S, K V] and heads [K, K V, V] that give them."""
    def make(logits):
        *rows, num_codebooks, size = np.shape(logits)
        heads = np.eye(num_codebooks * size, dtype=np.float32).reshape(num_codebooks, size, -1).swapaxes(1, 2)
        return jnp.asarray(np.reshape(logits, (*rows, -1)), jnp.float32), jnp.asarray(heads)

    return make
