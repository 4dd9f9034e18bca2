"""The heads by the names that a config gives them."""

from autosong_jax.latents.flow import Distilled, Flow
from autosong_jax.latents.mixture import Mixture
from autosong_jax.latents.regression import Regression

HEADS = {"regression": Regression, "mixture": Mixture, "flow": Flow, "distilled": Distilled}
