"""Objectives name samplers that there are, and options go to the sampler that takes them."""

import dataclasses

import pytest

from autosong_jax.errors import UserError
from autosong_jax.objectives.table import OBJECTIVES, sampled_by, samplers_of
from autosong_jax.sampling import options, samplers
from autosong_jax.sampling.options import AutoregressiveOptions, HybridOptions, MaskedOptions, pick

AUTOREGRESSIVE, MASKED, CONTINUOUS = (
    object.__new__(samplers.SAMPLERS[name]) for name in ("autoregressive", "masked", "continuous"))


def test_every_objective_has_samplers_and_every_sampler_an_objective():
    named = {name for objective in OBJECTIVES for name in samplers_of(objective)}
    assert named == set(samplers.SAMPLERS)
    assert sampled_by("masked") == ["masked_spans", "both"] and sampled_by("autoregressive") == ["next_step", "both"]


def test_an_option_goes_to_all_that_have_it_and_to_no_other():
    given = {"temperature": 0.5, "steps": (2, 1), "hybrid_seconds": 3.0, "duration": 9.0}
    assert pick(AutoregressiveOptions, given) == AutoregressiveOptions(temperature=0.5)
    assert pick(MaskedOptions, given) == MaskedOptions(temperature=0.5, steps=(2, 1))
    assert pick(HybridOptions, given) == HybridOptions(3.0)


@pytest.mark.parametrize("option", sorted(samplers.ALL_OPTIONS))
def test_options_that_no_sampler_of_a_model_takes_are_named(option):
    of_autoregressive = {field.name for kind in (options.LengthOptions, AutoregressiveOptions)
                         for field in dataclasses.fields(kind)}
    if option == "latent_steps":
        samplers.check_options({option: 1}, [CONTINUOUS])
    else:
        samplers.check_options({option: 1}, [AUTOREGRESSIVE, MASKED])
        samplers.check_options({option: 1}, [MASKED])
    if option in of_autoregressive:
        samplers.check_options({option: 1}, [AUTOREGRESSIVE])
    else:
        with pytest.raises(UserError, match=f"{option}: this model can only sing step by step"):
            samplers.check_options({option: 1}, [AUTOREGRESSIVE])


def test_what_is_no_option_at_all_is_a_mistake_of_the_caller():
    with pytest.raises(TypeError, match="'temprature' is no option"):
        samplers.check_options({"temprature": 1.0}, [AUTOREGRESSIVE, MASKED])
