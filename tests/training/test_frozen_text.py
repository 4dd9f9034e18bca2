"""Songs whose texts go through a frozen encoder, from the export to a new song, its states stored or on the fly."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

import autosong_jax
from autosong_jax.data.dataset import SongDataset
from autosong_jax.errors import UserError
from autosong_jax.sampling.samples import SampleWriter
from autosong_jax.sources.text import frozen as text
from autosong_jax.training import loop
from data_prep.pipeline import Options, export

ROOT = Path(__file__).resolve().parents[2]
# Longer than the toy BERT's positions, so in pieces.
LYRICS = ["love rain\nnight blue love\nblue blue rain rain rain\nlove", "rain\nnight", "blue " * 11, "love\n\nrain"]


@pytest.fixture(scope="module", params=["bert", "t5"])
def runs(request, save_text_encoder, toy_config, tmp_path_factory):
    """{"stored" | "on_the_fly": (dataset, workdir)}: the same songs exported both ways, and three steps of training."""
    root = tmp_path_factory.mktemp(request.param)
    save_text_encoder(request.param, root / "encoder")
    rng = np.random.default_rng(0)
    for i, lyrics in enumerate(LYRICS):
        folder = root / "songs" / f"song {i}"
        folder.mkdir(parents=True)
        soundfile.write(folder / "audio.wav", rng.normal(0, 0.1, 16000), 16000)
        (folder / "lyrics.txt").write_text(lyrics)
        (folder / "genre.txt").write_text("blue")
    made = {}
    for states in ("stored", "on_the_fly"):
        dataset, workdir = root / f"{states}-dataset", root / f"{states}-workdir"
        export(Options(str(root / "songs"), str(dataset), codec="melrvq:num_codebooks=2,codebook_size=16",
                       text_encoder=f"{request.param}:{root / 'encoder'}", text_states=states,
                       validation_fraction=0.25))
        loop.train(toy_config(**{
            "data.path": str(dataset), "train.steps": 3, "train.checkpoint_every": 3, "train.eval_every": 3,
            "train.sample_every": 3 if states == "on_the_fly" else 0, "train.prompts": ("train:0",)}), workdir,
                   make_samples=SampleWriter)
        made[states] = dataset, workdir
    shutil.rmtree(root / "encoder")
    return made


def losses(workdir):
    lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return [value for line in lines for name, value in line.items() if name.endswith("loss")]


def test_records(runs):
    stored, tokens = (SongDataset(runs[states][0], "train") for states in ("stored", "on_the_fly"))
    assert (stored.text.kind, tokens.text.kind) == ("states", "tokens")
    assert stored.text.revision == tokens.text.revision
    encoder = text.load(tokens.path)
    for one, other in zip(stored, tokens, strict=True):
        assert other["description_ids"].shape == (0,)
        for name in ("text", "genre"):
            ids, states = other[f"{name}_ids"], one[f"{name}_states"].astype(np.float32)
            assert ids.dtype == np.int32 and len(ids) == len(states) > 0
            made = encoder.encode_ids(ids[None], np.array([len(ids)]))
            np.testing.assert_allclose(made[0], states, rtol=2**-8, atol=1e-4)  # bfloat16 has 8 bits


def test_stored_or_on_the_fly_the_loss_is_the_same(runs):
    stored, tokens = (losses(runs[states][1]) for states in ("stored", "on_the_fly"))
    assert len(stored) == 4
    np.testing.assert_allclose(tokens, stored, rtol=1e-3)


def test_samples_and_a_workdir_that_is_complete(runs):
    dataset, workdir = runs["on_the_fly"]
    assert (workdir / "samples" / "3" / "train-0.wav").exists()
    for path in (dataset / "text_encoder").iterdir():
        assert path.read_bytes() == (workdir / "text_encoder" / path.name).read_bytes()


def test_generate_without_torch(runs, tmp_path, environment_without):
    """From states that were stored; with ids it encodes in training, and does here what it does for these."""
    lyrics, codes = tmp_path / "lyrics.txt", tmp_path / "codes.npy"
    lyrics.write_text(LYRICS[0])
    process = subprocess.run(
        [sys.executable, "-m", "autosong_jax.generate", f"--workdir={runs['stored'][1]}", f"--lyrics={lyrics}",
         "--genre=blue", f"--codes_output={codes}", "--duration=0.4"],
        cwd=ROOT, env=environment_without("torch", "transformers", "tensorflow"), capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    assert np.load(codes).shape[1] == 2


def test_a_workdir_without_the_encoder_is_an_error(runs, tmp_path):
    workdir = tmp_path / "workdir"
    shutil.copytree(runs["stored"][1], workdir)
    shutil.rmtree(workdir / "text_encoder")
    with pytest.raises(UserError, match="has no text_encoder/"):
        autosong_jax.load(workdir).generate(lyrics=LYRICS[0])


def test_a_dataset_of_tokens_without_the_encoder_is_an_error(runs, toy_config, tmp_path):
    dataset = tmp_path / "dataset"
    shutil.copytree(runs["on_the_fly"][0], dataset)
    shutil.rmtree(dataset / "text_encoder")
    with pytest.raises(UserError, match="has no text_encoder/"):
        loop.train(toy_config(**{"data.path": str(dataset)}), tmp_path / "workdir")
    assert not (tmp_path / "workdir").exists()
