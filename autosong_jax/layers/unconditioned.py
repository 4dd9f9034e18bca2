"""What the trainer asks of a model that nothing conditions."""

from collections.abc import Mapping
from typing import Any

from flax import nnx
from jax import Array


class Unconditioned(nnx.Module):
    """A model without sources, of which there is no memory."""

    source_names = ()

    def encode(self, sources: Mapping[str, Any], keep: Array, key: Array | None = None) -> None:
        """See `SongModel.encode`."""
