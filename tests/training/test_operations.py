"""The operations of a step against closed forms: a table of embeddings counts nothing, however large it is."""

import copy

import jax
import pytest

from autosong_jax import defaults
from autosong_jax.codecs.info import CodesInfo
from autosong_jax.models.build import build_model
from autosong_jax.parallel.sharding import make_mesh
from autosong_jax.sources.text.encoders import get_text_encoder
from autosong_jax.training.operations import step_operations
from autosong_jax.training.step import make_trainer
from autosong_jax.workdir.workdir import window_pattern
from benchmarks import shapes

CODEC = CodesInfo("encodec", 32000, 1, 50.0, 4, 100)
SONGS, MEMORY, FRAMES = 8, 10, 20  # as many songs as the tests have devices
WIDTH, LAYERS = 32, 3
PROJECTION = 24 * WIDTH  # of one position of the source's states


@pytest.fixture
def config():
    config = defaults.base()
    config.data.update(batch_size=SONGS, seconds=FRAMES / CODEC.frame_rate, end_of_song=False)
    config.model.update(width=WIDTH, heads=2, layers=LAYERS, mlp_width=4 * WIDTH, pattern="delay")
    config.sources = {"description": defaults.source(max_length=MEMORY, width=16, heads=2, layers=2)}
    return config


def operations(config, codec=CODEC, text=None):
    text = text or shapes.TextEncoderInfo("t5:tiny", "", "states", width=24)
    trainer = make_trainer(config, lambda rngs: build_model(config, codec, text, rngs=rngs),
                           window_pattern(config, codec), make_mesh(config.mesh))
    return step_operations(trainer, config)


def closed_form(steps, pairs, codec=CODEC):
    """Six for each number and position: 4 D^2 of self-attention, 2 of cross-attention to it, 8 of the MLP."""
    heads = codec.num_codebooks * WIDTH * codec.codebook_size
    matrices = steps * (LAYERS * 14 * WIDTH**2 + heads) + MEMORY * (LAYERS * 2 * WIDTH**2 + PROJECTION)
    return SONGS * (6 * matrices + 12 * LAYERS * WIDTH * (pairs + steps * MEMORY))


def test_next_steps(config):
    steps = FRAMES + CODEC.num_codebooks - 1
    assert operations(config) == closed_form(steps, steps * (steps + 1) / 2)


def test_scheduled_sampling_goes_through_the_decoder_once_more(config):
    """A third of a step more, but for the source, which is read once."""
    text, steps = get_text_encoder("bytes").info, FRAMES + CODEC.num_codebooks - 1
    before = operations(config, text=text)
    config.objective.scheduled_sampling = 0.25
    without = closed_form(steps, steps * (steps + 1) / 2) - SONGS * 6 * MEMORY * PROJECTION
    assert operations(config, text=text) == before + without / 3


def test_masked_spans_see_the_whole_song_once_and_then_a_window(config):
    config.objective.update(name="masked_spans", context_ms=40.0)  # 2 frames on each side
    config.model.pattern = "parallel"
    codebooks = CODEC.num_codebooks
    assert operations(config) == closed_form(FRAMES, (FRAMES**2 + (codebooks - 1) * FRAMES * 5) / codebooks)


def test_both_objectives_in_turns_count_their_mean(config):
    one, other = copy.deepcopy(config), copy.deepcopy(config)
    other.objective.name = "masked_spans"
    config.objective.name = "both"
    assert operations(config) == pytest.approx((operations(one) + operations(other)) / 2)


@pytest.mark.parametrize("name", ["description", "backing"])
def test_a_source_with_an_encoder_adds_it_but_not_its_tables(config, name):
    kind = "text" if name == "description" else name
    config.sources = {name: defaults.source(kind=kind, max_length=MEMORY, width=16, heads=2, layers=2)}
    text = get_text_encoder("bytes").info
    steps = FRAMES + CODEC.num_codebooks - 1
    without = closed_form(steps, steps * (steps + 1) / 2) - SONGS * 6 * MEMORY * PROJECTION
    encoder = 6 * MEMORY * (2 * 12 * 16**2 + 16 * WIDTH) + 12 * 2 * 16 * MEMORY**2
    assert operations(config, text=text) == without + SONGS * encoder


def test_a_prefix_is_read_by_the_decoder(config):
    config.model.fusion = "prefix"
    steps = FRAMES + CODEC.num_codebooks - 1
    length = MEMORY + steps
    heads = CODEC.num_codebooks * WIDTH * CODEC.codebook_size
    assert operations(config) == SONGS * (
        6 * (length * LAYERS * 12 * WIDTH**2 + steps * heads + MEMORY * PROJECTION)
        + 12 * LAYERS * WIDTH * length * (length + 1) / 2)


def test_frozen_matrices_have_no_gradient_of_their_own(config):
    config.lora.update(rank=2, alpha=2.0, targets=("decoder/.*/mlp/up",))
    config.train.trainable = ("lora",)
    steps = FRAMES + CODEC.num_codebooks - 1
    everything = closed_form(steps, steps * (steps + 1) / 2)
    attention = SONGS * 12 * LAYERS * WIDTH * (steps * (steps + 1) / 2 + steps * MEMORY)
    lora = SONGS * 6 * steps * LAYERS * 2 * (WIDTH + 4 * WIDTH)
    assert operations(config) == (everything - attention) * 4 / 6 + attention + lora


def test_larger_tables_change_nothing(config):
    """The vocabulary's table grows with the heads, which count; a table of positions is one alone."""
    before = operations(config)
    config.model.update(positions="learned", max_positions=10_000)
    assert operations(config) == before
    assert jax.device_count() == SONGS
