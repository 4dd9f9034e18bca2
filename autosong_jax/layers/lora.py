"""LoRA (Hu et al. 2021): beside the kernel W of a linear layer, a product A B of low rank that is trained in its place.

The layer gives x W + (alpha / rank) (x A) B. The sum W + (alpha / rank) A B is never made in training, so nothing of
W's size is needed for its gradient or its optimizer; `merge` makes it once, for sampling.
"""

from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
from flax import nnx
from jax import Array

from autosong_jax import inputs
from autosong_jax.errors import UserError
from autosong_jax.layers.declaration import declaration_of, declared


class Linear(nnx.Linear):
    """A linear layer, which `add` may give `lora_a` [inputs, rank] and `lora_b` [rank, outputs]."""

    def __call__(self, x: Array) -> Array:
        """[..., inputs] -> [..., outputs]."""
        # As one matrix: the gradient of the kernel is then one product over one axis. Over several, XLA on a CPU first
        # writes both factors anew with that axis last, number by number.
        *batch, inputs = x.shape
        x = x.reshape(-1, inputs)
        y = super().__call__(x)
        if hasattr(self, "lora_a"):
            x, a, b = self.promote_dtype((x, self.lora_a[...], self.lora_b[...]), dtype=self.dtype)
            y = y + self.lora_scale * ((x @ a) @ b)
        return y.reshape(*batch, y.shape[-1])


def add(model: nnx.Module, config: ml_collections.ConfigDict, *, rngs: nnx.Rngs) -> None:
    """Gives A and B to the `Linear` layers of `model` in whose path one of `config.targets` is found.

    A is random and B zero, so that the model gives what it gave before. The axis of stacked layers stays in front.

    Args:
      config: `config.lora` of `autosong_jax/defaults.py`; a rank of 0 adds nothing.

    Raises:
      UserError: if a target is found in no path, or the rank means nothing.
    """
    if config.rank < 0:
        raise UserError(f"lora.rank {config.rank}: expected at least 1, or 0 for none")
    if config.rank == 0:
        return
    modules = {"/".join(map(str, path)): module for path, module in nnx.iter_modules(model)}
    layers = {path: module for path, module in modules.items() if isinstance(module, Linear)}
    targets = inputs.patterns("lora.targets", config.targets)
    for target in targets:
        if not any(map(target.search, layers)):
            raise UserError(f"lora.targets {target.pattern!r} is found in no linear layer: expected a regular "
                            f"expression found in some of {', '.join(sorted(layers))}")
    for path, layer in layers.items():
        if any(target.search(path) for target in targets):
            _add_to(layer, config, rngs)


def _add_to(layer: Linear, config: ml_collections.ConfigDict, rngs: nnx.Rngs) -> None:
    *stack, inputs, outputs = layer.kernel.shape
    of_inputs, of_outputs = declaration_of(layer.kernel).axes
    a = jax.random.normal(rngs.params(), (*stack, inputs, config.rank)) * inputs**-0.5
    layer.lora_a = nnx.Param(a, **declared("matrix", of_inputs, None))
    layer.lora_b = nnx.Param(jnp.zeros((*stack, config.rank, outputs)), **declared("matrix", None, of_outputs))
    layer.lora_scale = config.alpha / config.rank


def merged_kernel(layer: Linear) -> Array:
    """W + (alpha / rank) A B of a layer, or its W alone; [..., inputs, outputs], stacked or not, in W's dtype."""
    kernel = layer.kernel[...]
    if not hasattr(layer, "lora_a"):
        return kernel
    return (kernel + layer.lora_scale * (layer.lora_a[...] @ layer.lora_b[...])).astype(kernel.dtype)


def merge(params: Any, config: ml_collections.ConfigDict) -> Any:
    """The parameters of the model without LoRA that gives what this one gives; those of one without LoRA as they are.

    Args:
      params: a tree of dictionaries of arrays, of NumPy or JAX.
      config: `config.lora`.
    """
    if not isinstance(params, dict):
        return params
    rest = {name: merge(child, config) for name, child in params.items() if name not in ("lora_a", "lora_b")}
    if "lora_a" in params:
        delta = (config.alpha / config.rank) * (params["lora_a"] @ params["lora_b"])
        rest["kernel"] = (rest["kernel"] + delta).astype(rest["kernel"].dtype)
    return rest
