"""The objectives of autoencoder and vocoder: means over songs, parts of a batch, when there is a game."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from autosong_jax.codecs.mel.codec import Mel
from autosong_jax.codecs.mel.settings import MelConfig
from autosong_jax.codecs.mel.vocoder import Vocoder
from autosong_jax.errors import UserError
from autosong_jax.layers.spectra import stft_distance
from autosong_jax.models.autoencoder import MelAutoencoder
from autosong_jax.models.discriminators import PatchDiscriminator, StftDiscriminator
from autosong_jax.objectives.reconstruction import Reconstruction
from autosong_jax.objectives.vocoding import Vocoding

T, M, HOP = 64, 16, 16


GAME = {"generator_weight": 0.1, "feature_weight": 2.0, "adversarial_start": 10}
OBJECTIVES = {"reconstruction": Reconstruction(mel=MelConfig(1000, HOP, 64, M), prior=0.1, **GAME),
              "vocoding": Vocoding(mel=MelConfig(1000, HOP, 64, 8), **GAME)}


@pytest.fixture(scope="module")
def models():
    return {"reconstruction": nnx.jit(lambda: MelAutoencoder(
                width=2, discriminator=PatchDiscriminator(2, rngs=nnx.Rngs(1)), rngs=nnx.Rngs(0)))(),
            "vocoding": nnx.jit(lambda: Vocoder(8, 64, HOP, width=8, blocks=1, mlp_width=8, rngs=nnx.Rngs(0),
                                                discriminator=StftDiscriminator(2, ((64, 16),), rngs=nnx.Rngs(1))))()}


@pytest.fixture(scope="module")
def losses(models):
    """By name: (params, examples, shared) -> (loss, sums), gradient; compiled once."""
    def of(name):
        graph, _ = nnx.split(models[name])
        objective = OBJECTIVES[name]

        def loss(params, examples, shared):
            return objective.loss(nnx.merge(graph, params), examples, shared, None, None)

        return jax.jit(jax.value_and_grad(loss, has_aux=True))

    return {name: of(name) for name in OBJECTIVES}


def batch_of(name, num_frames):
    rng = np.random.default_rng(0)
    frames = (rng.integers(0, 256, (3, T, M)).astype(np.uint8) if name == "reconstruction"
              else rng.integers(-9000, 9000, (3, T, HOP)).astype(np.int16))
    inside = np.arange(T) < np.array(num_frames)[:, None]
    return {"frames": np.where(inside[..., None], frames, 0), "num_frames": np.array(num_frames, np.int32)}


def examples_of(name, batch, step):
    return OBJECTIVES[name].examples(batch, None, None, None if step is None else jnp.int32(step))


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_loss_is_that_of_the_parts_of_its_batch(name, models, losses):
    batch = batch_of(name, [T, 40, 0])
    params = nnx.state(models[name], nnx.Param)
    examples, shared = examples_of(name, batch, 25)
    (loss, sums), gradient = losses[name](params, examples, shared)
    parts = [losses[name](params, jax.tree.map(lambda x, i=i: x[[i] * 3], examples), shared) for i in range(3)]
    assert loss == pytest.approx(sum(float(part[0][0]) for part in parts) / 3, rel=1e-4)
    assert sums["frames"] == T + 40
    one, other = jax.tree.leaves(gradient), jax.tree.leaves(
        jax.tree.map(lambda *x: sum(x) / 3, *(part[1] for part in parts)))
    for a, b in zip(one, other, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_game_begins_when_it_is_to(name, models, losses):
    batch, params = batch_of(name, [T, 40, 8]), nnx.state(models[name], nnx.Param)
    (before, sums), gradient = losses[name](params, *examples_of(name, batch, 9))
    report = OBJECTIVES[name].summarize(sums)
    assert report["discriminator"] == 0 and not any(map(np.any, jax.tree.leaves(gradient["discriminator"])))
    assert before == pytest.approx(report["loss"], rel=1e-5)

    (after, sums), gradient = losses[name](params, *examples_of(name, batch, 10))
    report = OBJECTIVES[name].summarize(sums)
    expected = report["loss"] + 0.1 * report["generator"] + 2 * report["features"] + report["discriminator"]
    assert after == pytest.approx(expected, rel=1e-5) and report["discriminator"] > 0
    assert any(map(np.any, jax.tree.leaves(gradient["discriminator"])))
    assert set(OBJECTIVES[name].headline) < report.keys() and report["targets"] == T + 48


def test_reconstruction_is_the_mean_over_the_frames_of_songs(models):
    model, objective = models["reconstruction"], OBJECTIVES["reconstruction"]
    batch = batch_of("reconstruction", [T, 32, 0])
    loss, sums = jax.jit(lambda: objective.loss(model, *examples_of("reconstruction", batch, None), None, None))()
    frames = objective.mel.values(batch["frames"])
    latents, made = jax.jit(lambda x: (model.to_latents(x), model.decode(model.to_latents(x))))(frames)
    l1 = np.concatenate([np.abs(made - frames)[0], np.abs(made - frames)[1, :32]]).mean()
    square = np.concatenate([np.square(latents[0]), np.square(latents[1, :2])]).mean()
    report = objective.summarize(sums)
    assert report["l1"] == pytest.approx(l1, rel=1e-4) and report["square"] == pytest.approx(square, rel=1e-4)
    assert report["loss"] == pytest.approx(l1 + 0.1 * square, rel=1e-4) == float(loss)
    assert "generator" not in report


def test_windows_are_whole_columns():
    with pytest.raises(UserError, match="windows of 100 frames: expected a multiple of 16, such as 96"):
        OBJECTIVES["reconstruction"].examples({"frames": np.zeros((1, 100, M))}, None, None, None)


def test_vocoding_is_the_distance_of_signals(models):
    model, objective = models["vocoding"], OBJECTIVES["vocoding"]
    batch = batch_of("vocoding", [T, T, T])
    sums = jax.jit(lambda: objective.loss(model, *examples_of("vocoding", batch, None), None, None)[1])()
    audio = batch["frames"].reshape(3, -1).astype(np.float32) / 32768
    # The codec's own bands, from the host.
    mels = np.stack([objective.mel.of_magnitudes(Mel(objective.mel).bands(song[None])) for song in audio])
    made = jax.jit(model)(mels)
    stft = float(sum(stft_distance(audio, made)).mean())
    again = [objective.mel.of_magnitudes(Mel(objective.mel).bands(song[None])) for song in np.asarray(made)]
    bands = float(np.abs(np.stack(again) - mels).mean())
    report = objective.summarize(sums)
    assert report["stft"] == pytest.approx(stft, rel=1e-3) and report["mel"] == pytest.approx(bands, rel=1e-3)
    assert report["loss"] == pytest.approx(stft + 15 * bands, rel=1e-3)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_nothing_conditions_these_models(name, models):
    assert list(models[name].source_names) == [] and models[name].encode({}, np.ones((3, 0), bool)) is None
