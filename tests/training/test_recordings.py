"""Models that go with recordings: trained, stopped and started again, sampled on the way; and the command sings."""

import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import soundfile

from autosong_jax.sampling.samples import SampleWriter
from autosong_jax.training import loop
from benchmarks.fuzzing.fixtures import recording_sources
from tests.training.test_loop import cut_off, metrics_of, state_of

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def make_config(toy_config):
    def make(masked=False):
        fields = {"train.steps": 4, "train.eval_every": 0, "train.log_every": 2, "train.ema_every": 1,
                  "train.sample_every": 4, "train.prompts": ("train:1",), "model.dropout": 0.1, "model.layers": 1}
        if masked:
            fields |= {"objective.name": "masked_spans", "model.pattern": "parallel", "data.end_of_song": False}
        config = toy_config(**fields)
        recordings = recording_sources()
        config.sources = {"lyrics": config.sources.lyrics, "style": recordings["style"]} if masked else recordings
        return config

    return make


@pytest.fixture(scope="module")
def trained(make_config, tmp_path_factory):
    config, workdir = make_config(), tmp_path_factory.mktemp("trained") / "workdir"
    loop.train(config, workdir, make_samples=SampleWriter)
    return config, workdir


def check_training(config, workdir):
    """What reads the style has been trained, as all else has, to finite numbers."""
    assert all(np.isfinite(line["loss"]) for line in metrics_of(workdir))
    state = state_of(config, workdir, config.train.steps)
    shape = state.params["conditions"]["sources"]["style"]["embeddings"].shape
    moments = [leaf for path, leaf in jax.tree_util.tree_leaves_with_path(state.optimizer)
               if "style" in str(path) and leaf.shape == shape]
    assert len(moments) == 2 and all(np.asarray(leaf).any() for leaf in moments)
    return state


def test_cut_off_and_started_again_equals_undisturbed(trained, tmp_path):
    config, workdir = trained
    cut_off(workdir, tmp_path, 2)
    loop.train(config, tmp_path)
    jax.tree.map(np.testing.assert_array_equal, *(check_training(config, path) for path in (workdir, tmp_path)))


def test_a_masked_model_that_reads_a_style_and_lyrics_trains(make_config, tmp_path):
    config = make_config(masked=True)
    config.train.update(steps=2)
    loop.train(config, tmp_path)
    check_training(config, tmp_path)


def test_samples_are_sung_to_the_recordings_of_the_dataset(trained):
    config, workdir = trained
    audio, rate = soundfile.read(workdir / "samples" / "4" / "train-1.wav")
    assert rate == 16000 and 0 < len(audio) <= round(config.data.seconds * rate)


def test_the_command_sings_to_a_backing_and_mixes_both(trained, tmp_path, environment_without):
    _, workdir = trained
    rng = np.random.default_rng(0)
    soundfile.write(tmp_path / "track.flac", 0.9 * np.sin(np.arange(20001)[:, None] * [0.1, 0.13]), 22050)
    soundfile.write(tmp_path / "clip.wav", 0.1 * rng.standard_normal(3000), 16000)
    command = [sys.executable, "-m", "autosong_jax.generate", f"--workdir={workdir}"]
    given = [f"--backing={tmp_path}/track.flac", f"--style_audio={tmp_path}/clip.wav", "--cfg_scales=backing=3,style=2"]

    def run(*arguments):
        return subprocess.run([*command, *arguments], cwd=ROOT, capture_output=True, text=True,
                              env=environment_without("torch", "transformers", "tensorflow"))

    process = run(*given, f"--output={tmp_path}/lead.wav", f"--mix={tmp_path}/both.wav")
    assert process.returncode == 0, process.stderr
    lead, both = (soundfile.read(tmp_path / f"{name}.wav")[0] for name in ("lead", "both"))
    assert len(lead) == len(both) == 14513  # of 20,001 samples at 22,050 Hz, at 16,000
    assert np.abs(both).max() <= 1 and f"{tmp_path}/both.wav: 0.91 s, with the backing" in process.stdout
    for arguments, words in [([f"--mix={tmp_path}/both.wav"], "--mix"), (["--lyrics=README.md"], "lyrics was given"),
                             ([f"--backing={tmp_path}/nothing.wav"], "nothing.wav")]:
        process = run(*arguments, f"--output={tmp_path}/song.wav")
        assert process.returncode == 2 and process.stderr.startswith("error: "), process.stderr
        assert process.stderr.count("\n") == 1 and words in process.stderr
