"""Songs that a run sings are judged: exactly again after a kill, and the best weights are kept by what is found."""

import os

import pytest

from autosong_jax.data.dataset import SongDataset
from autosong_jax.errors import UserError
from autosong_jax.evaluation.metrics import METRICS, better_of
from autosong_jax.evaluation.sung import Listener, judge
from autosong_jax.train import make_listener
from autosong_jax.training import loop
from autosong_jax.workdir import numbers
from tests.training.test_loop import assert_same_run, metrics_of


class Killed(BaseException):
    """In place of a SIGKILL."""


@pytest.fixture(scope="module")
def config(toy_config):
    return toy_config(sources=False, **{
        "train.evaluations": ("accuracy", "clipping", "spectral distance"), "train.sing_every": 2,
        "train.sing_songs": 2, "train.eval_every": 2, "train.ema_every": 1, "model.layers": 1, "train.keep_last": 1,
        "train.steps": 4,
        "train.keep_best": 1, "train.best_by": "sung/spectral_distance"})


def test_killed_while_it_sings_a_run_ends_as_if_it_had_not_been(config, tmp_path, monkeypatch):
    one, other = tmp_path / "one", tmp_path / "other"
    loop.train(config, one, make_listener=make_listener)
    sung = {line["step"]: line for line in metrics_of(one) if line["kind"] == "sung"}
    assert list(sung) == [2, 4] and set(sung[2]) > {"accuracy", "accuracy_codebook_2", "spectral_distance"}
    best = min(sung, key=lambda step: sung[step]["spectral_distance"])
    assert {int(path.name) for path in (one / "checkpoints").iterdir()} == {best, 4}
    kept = numbers.read(one / "checkpoints" / str(best))
    assert kept["sung/spectral_distance"] == sung[best]["spectral_distance"] and "validation/loss" in kept

    calls, listen = [], Listener.__call__

    def killed(self, params):
        found = listen(self, params)
        calls.append(None)
        if len(calls) == 2:
            raise Killed
        return found

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Listener, "__call__", killed)
        loop.train(config, other, make_listener=make_listener)
    assert [(line["step"], line["kind"]) for line in metrics_of(other)][-1] == (4, "validation")
    loop.train(config, other, make_listener=make_listener)
    assert_same_run(config, one, other)


@pytest.mark.parametrize(("overrides", "words"), [
    ({"train.evaluations": ("notes",)}, ["'notes'", "clipping", "unigram_KL"]),
    ({"train.evaluations": ("agreement",)}, ["'agreement'", "silence"]),  # which needs more than songs
    ({"train.best_by": "sung/entropy"}, ["no evaluation", "sung/clipping", "validation/accuracy"]),
    ({"train.best_by": "sung/silence", "train.evaluations": ("silence",)}, ["neither more nor less"]),
    ({"train.best_by": "sung/clipping", "train.sing_every": 0}, ["no evaluation"]),
])
def test_what_cannot_be_judged_is_named_before_anything_is_written(config, tmp_path, overrides, words):
    config = config.copy_and_resolve_references()
    config.update_from_flattened_dict(overrides)
    with pytest.raises(UserError) as error:
        loop.train(config, tmp_path, make_listener=make_listener)
    assert all(word in str(error.value) for word in words) and "\n" not in str(error.value)
    assert os.listdir(tmp_path) == []


def test_true_songs_are_perfect(config, tmp_path):
    songs = SongDataset(config.data.path, "validation")
    listener = Listener(config, tmp_path, songs, lambda params, numbers: [songs[i]["frames"] for i in numbers], None)
    found = listener(None)
    assert found["accuracy"] == 1 and found["spectral_distance"] == 0
    assert found.keys() == listener.better.keys()
    assert listener.better == {name: better_of(name) for name in found}


def test_numbers_of_songs_together_are_no_means_of_means(config, tmp_path):
    songs = SongDataset(config.data.path, "validation")
    listener = Listener(config, tmp_path, songs, lambda *_: None, None)
    sung = [listener._song(i, 0 * songs[i]["frames"]) for i in range(2)]
    accuracy = next(metric for metric in METRICS if metric.name == "accuracy")
    zeros = sum(int((songs[i]["frames"] == 0).sum()) for i in range(2))
    assert judge([accuracy], sung)["accuracy"] == pytest.approx(zeros / sum(songs[i]["frames"].size for i in range(2)))
