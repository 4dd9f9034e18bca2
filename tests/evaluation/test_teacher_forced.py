"""The loss of whole songs against loops over their windows, frames and codebooks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from autosong_jax.data.dataset import SongDataset, WholeSongs
from autosong_jax.evaluation.teacher_forced import TeacherForced
from autosong_jax.workdir.workdir import Workdir

FRAMES, K, V = 12, 3, 16  # of a window; codebooks; codes


@pytest.fixture(scope="module")
def dataset(toy_dataset):
    return SongDataset(toy_dataset, "validation")


@pytest.fixture
def workdir(toy_workdir):
    return Workdir(toy_workdir)


def naive(workdir, model, dataset, song):
    """By codebook, the cross-entropies of a song, and the most probable codes, one window after another."""
    pattern, record = workdir.context.pattern, dataset[song]
    losses, chosen = [[] for _ in range(K)], []
    for start in range(0, len(record["frames"]), FRAMES):
        window = record["frames"][start:start + FRAMES]
        ends = len(window) < FRAMES
        codes = np.full((1, FRAMES, K), V)
        codes[0, :len(window)] = window
        batch = WholeSongs(dataset, batch_size=1, frames=FRAMES, sources=workdir.config.sources, end_of_song=True)
        sources = next(iter(batch.batches([song])))[1]["sources"]  # texts are the same in all windows
        memory = model.encode(sources, jnp.ones((1, 2), bool))
        logits = np.asarray(model(pattern.interleave(jnp.asarray(codes), V)[:, :-1], memory), np.float64)[0]
        for t in range(len(window)):
            chosen.append([logits[pattern.steps[t, k] - 1, k].argmax() for k in range(K)])
        for t in range(len(window) + ends):
            for k in range(K):
                at = logits[pattern.steps[t, k] - 1, k]
                losses[k].append(np.log(np.exp(at).sum()) - at[codes[0, t, k]])
    return losses, np.array(chosen)


def test_every_song_is_read_whole_and_by_itself(workdir, dataset):
    model, step = workdir.load_trained()
    assert step == 2
    forced = TeacherForced(workdir.context, model, dataset)
    for song, sums in enumerate(forced.read([0, 1])):
        losses, chosen = naive(workdir, model, dataset, song)
        assert [len(of_codebook) for of_codebook in losses] == [len(dataset[song]["frames"]) + 1] * K
        np.testing.assert_allclose(sums["next_step"]["cross_entropy"], [sum(x) for x in losses], rtol=1e-5)
        np.testing.assert_array_equal(sums["next_step"]["count"], [len(x) for x in losses])
        np.testing.assert_array_equal(forced.choices([song])[0], chosen)
        said = forced.objectives["next_step"].summarize(sums["next_step"])
        assert said["loss_1"] == pytest.approx(np.mean(losses[1]), rel=1e-5)
        assert said["perplexity_1"] == pytest.approx(np.exp(np.mean(losses[1])), rel=1e-5)


def test_a_model_that_knows_nothing_has_the_perplexity_of_its_vocabulary(workdir, dataset):
    forced = TeacherForced(workdir.context, workdir.load_trained()[0], dataset)
    forced.params["frames"]["heads"][...] *= 0
    sums = list(forced.read([0, 1]))
    total = jax.tree.map(np.add, *(song["next_step"] for song in sums))
    said = forced.objectives["next_step"].summarize(total)
    assert said["perplexity"] == pytest.approx(V + 1, rel=1e-6)  # its codes and the end of the song
    assert said["perplexity_2"] == pytest.approx(V + 1, rel=1e-6)


def test_a_masked_model_is_asked_at_fixed_shares(dataset, toy_config, tmp_path):
    from autosong_jax.models.build import build_model
    from autosong_jax.objectives.masked_spans import JUDGED_RATES
    from autosong_jax.objectives.table import get_objectives
    from autosong_jax.workdir.workdir import window_pattern

    config = toy_config(sources=False, **{"objective.name": "masked_spans", "model.pattern": "parallel"})
    model = build_model(config, dataset.codec, dataset.text, rngs=nnx.Rngs(0))
    objective = get_objectives(config, window_pattern(config, dataset.codec), model)["masked_spans"]
    judging = objective.judging()
    assert list(judging) == ["25% masked", "50% masked", "75% masked", "100% masked"]
    frames = 400
    batch = {"frames": np.zeros((8, frames, K), np.int32), "num_frames": np.full(8, frames), "song_ends": np.zeros(8)}
    for one, rate in zip(judging.values(), JUDGED_RATES, strict=True):
        examples, _ = one.examples(batch, jnp.int32(1), jax.random.split(jax.random.key(0), 8), None)
        hidden = np.asarray(examples.mask[:, :, 1])
        assert hidden.mean() == pytest.approx(rate, abs=0.03) and np.ptp(hidden.mean(axis=1)) < 0.08
    assert hidden.all()
