"""The vocoder: where its samples stand, streamed as at once, songs beside padding, and that it learns a tone."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from autosong_jax.audio import spectrum
from autosong_jax.codecs.mel.vocoder import Vocoder
from autosong_jax.errors import UserError
from autosong_jax.layers.declaration import declarations
from autosong_jax.layers.spectra import band_magnitudes, stft_distance

BANDS, N_FFT, HOP = 6, 32, 8


def noise(*shape):
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


@pytest.fixture(scope="module")
def model():
    model = nnx.jit(lambda: Vocoder(BANDS, N_FFT, HOP, width=8, blocks=2, mlp_width=16, rngs=nnx.Rngs(0)))()
    model.advances.kernel[...] *= 50
    return model


@pytest.fixture(scope="module")
def sound(model):
    graph, params = nnx.split(model)
    return jax.jit(lambda mels, inside=None: nnx.merge(graph, params)(mels, inside))


def test_a_frame_changes_samples_around_its_hop_and_the_phases_after_it(model, sound):
    mels = noise(1, 60, BANDS)
    other = mels.copy()
    other[:, 30] += 1
    first, last = 30 * HOP - model.context * HOP, 31 * HOP + model.context * HOP
    changed = np.flatnonzero(np.abs(sound(mels) - sound(other))[0] > 1e-7)
    assert first <= changed[0] < first + 2 * HOP and changed[-1] > last

    papers = nnx.clone(model)
    papers.advances = None
    changed = np.flatnonzero(np.abs(papers(mels) - papers(other))[0] > 1e-7)
    assert first <= changed[0] < first + 2 * HOP and last - 2 * HOP <= changed[-1] < last


@pytest.mark.parametrize("frames", [9, 83])
def test_streamed_is_as_at_once(model, sound, frames):
    mels = noise(2, frames, BANDS)
    at_once = sound(mels)
    assert at_once.shape == (2, frames * HOP)
    for size, block in ((1, 16), (frames, 32)):
        pieces = model.decode_blocks((mels[:, i:i + size] for i in range(0, frames, size)), block)
        np.testing.assert_allclose(np.concatenate(list(pieces), axis=1), at_once, atol=1e-5)


def test_padding_changes_nothing(sound):
    mels, inside = noise(2, 83, BANDS), np.arange(83) < np.array([[83], [9]])
    np.testing.assert_allclose(sound(mels, inside)[1, :9 * HOP], sound(mels[:, :9])[1], atol=1e-5)


def test_it_has_as_many_parameters_as_published():
    model = nnx.eval_shape(lambda: Vocoder(100, 1024, 256, advances=False, rngs=nnx.Rngs(0)))
    graph, params = nnx.split(model)
    assert sum(x.size for x in jax.tree.leaves(params)) == pytest.approx(13.5e6, rel=0.01)
    declarations(graph, nnx.to_pure_dict(params))  # each says what it is


def test_it_learns_a_tone_better_than_griffin_lim_finds_it():
    """Of a hop that is no whole number of the tone's periods."""
    rate, n_fft, hop, bands = 2000, 64, 16, 20
    time = np.arange(60 * hop) / rate
    tone = (0.5 * np.sin(2 * np.pi * 220 * time) * np.exp(-3 * time)).astype(np.float32)
    magnitudes = np.asarray(band_magnitudes(tone, rate, n_fft, hop, bands))
    sizes = (32, 8), (64, 16), (128, 32)
    spread = spectrum.unfilter(magnitudes, spectrum.mel_filters(rate, n_fft, bands))
    found = spectrum.griffin_lim(spread, spectrum.hann(n_fft), hop, iterations=8)
    least = sum(float(x) for x in stft_distance(tone, found, resolutions=sizes))

    mels = jnp.log(magnitudes + 1e-3)[None]
    graph, params = nnx.split(nnx.jit(
        lambda: Vocoder(bands, n_fft, hop, width=32, blocks=2, mlp_width=64, rngs=nnx.Rngs(0)))())
    optimizer = optax.adamw(5e-3)

    def loss(params):
        return sum(x[0] for x in stft_distance(tone[None], nnx.merge(graph, params)(mels), resolutions=sizes))

    @jax.jit
    def trained(params):
        def step(carry, _):
            params, state = carry
            value, gradient = jax.value_and_grad(loss)(params)
            updates, state = optimizer.update(gradient, state, params)
            return (optax.apply_updates(params, updates), state), value

        return jax.lax.scan(step, (params, optimizer.init(params)), length=200)[1]

    assert trained(params)[-1] < least


def test_settings_that_mean_nothing():
    with pytest.raises(UserError, match="n_fft 128"):
        Vocoder(8, 128, 256, rngs=nnx.Rngs(0))
