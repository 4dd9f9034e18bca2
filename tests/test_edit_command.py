"""`python -m autosong_jax.generate` with a masked model, on files, in processes without PyTorch."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from autosong_jax.codecs.codec import load_codec

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def generate(environment_without):
    environment = environment_without("torch", "tensorflow", "transformers")

    def run(*arguments):
        return subprocess.run([sys.executable, "-m", "autosong_jax.generate", *map(str, arguments)], cwd=ROOT,
                              env=environment, capture_output=True, text=True)

    return run


@pytest.fixture(scope="module")
def folder(toy_config, toy_dataset, make_workdir, tmp_path_factory):
    """The workdir of a model of both objectives, a second of a song as audio and as codes, and lyrics."""
    folder = tmp_path_factory.mktemp("edits")
    config = toy_config(**{"objective.name": "both", "model.layers": 1, "sampling.masked.steps": (3, 2, 2)})
    del config.sources.genre
    make_workdir(config, folder / "workdir")
    codec = load_codec(toy_dataset / "codec")
    audio = 0.1 * np.random.default_rng(0).standard_normal((1, codec.sample_rate)).astype(np.float32)
    soundfile.write(folder / "song.wav", audio[0], codec.sample_rate)
    np.save(folder / "song.npy", codec.encode(audio))
    np.save(folder / "wide.npy", np.zeros((5, 7), np.uint16))
    np.save(folder / "large.npy", np.full((5, 3), 16))
    (folder / "new.txt").write_text("[verse]\nlo lo\n")
    return folder


def test_an_edited_song_keeps_its_codes_outside_of_the_spans(generate, folder, tmp_path):
    process = generate("--workdir", folder / "workdir", "--edit", folder / "song.wav", "--from=0.2", "--to=0.4",
                       "--from=0.6", "--to=0.72", "--after=0.2", "--lyrics", folder / "new.txt", "--num_samples=2",
                       "--temperature=5", "--output", tmp_path / "new.wav", "--codes_output", tmp_path / "new.npy")
    assert process.returncode == 0, process.stderr
    codes = np.load(folder / "song.npy")
    frames = np.arange(len(codes))
    kept = frames[(frames < 5) | ((frames >= 10) & (frames < 15)) | (frames >= 18)]
    for i in range(2):
        made = np.load(tmp_path / f"new-{i}.npy")
        np.testing.assert_array_equal(made[kept], codes[kept])
        assert len(codes) <= len(made) <= len(codes) + 5 and (made[:len(codes)] != codes).any()
        assert soundfile.info(tmp_path / f"new-{i}.wav").duration == pytest.approx(len(made) / 25, abs=0.05)


def test_codes_are_edited_as_audio_is_and_other_models_help(generate, folder, tmp_path):
    process = generate("--workdir", folder / "workdir", "--rescorer", folder / "workdir", "--rescore_weight=0.7",
                       "--edit", folder / "song.wav", "--edit", folder / "song.npy", "--between=0.12", "--steps=2,2,1",
                       "--arrangement=stride1", "--confidence=product", "--cfg_scale_min=1.5",
                       "--lyrics", folder / "new.txt", "--codes_output", tmp_path / "new.npy")
    assert process.returncode == 0, process.stderr
    made, song = np.load(tmp_path / "new.npy"), np.load(folder / "song.npy")
    np.testing.assert_array_equal(np.concatenate([made[:len(song)], made[len(song) + 3:]]), np.concatenate([song] * 2))


@pytest.mark.parametrize(("arguments", "words"), [
    (["--edit={}/song.npy", "--from=0.4"], ["1 --from and 0 --to"]),
    (["--from=0.4", "--to=0.5"], ["--edit=SONG"]),
    (["--edit={}/song.npy", "--duration=3", "--after=1"], ["--duration with --edit"]),
    (["--edit={}/song.npy", "--between=3"], ["--between=3.0", "several --edit"]),
    (["--edit={}/song.npy", "--from=0.4", "--to=1.5"], ["0.4 s to 1.5 s", "outside of the song"]),
    (["--edit={}/wide.npy", "--after=1"], ["wide.npy", "[5, 7]", "[frames, 3] in [0, 16)"]),
    (["--edit={}/large.npy", "--after=1"], ["large.npy", "from 16 to 16"]),
    (["--edit={}/nowhere.npy", "--after=1"], ["nowhere.npy"]),
    (["--prompt_audio={}/song.wav", "--duration=0.9"], ["duration 0.88 s", "the prompt's 1.0"]),
    (["--steps=3,2"], ["[3, 2]", "expected 3"]), (["--steps=3,x,2"], ["--steps=3,x,2"]),
    (["--leader={}/workdir"], ["leader", "hybrid_seconds"]),
])
def test_a_wrong_edit_is_one_plain_line(generate, folder, arguments, words, tmp_path):
    process = generate("--workdir", folder / "workdir", "--codes_output", tmp_path / "new.npy",
                       *(argument.format(folder) for argument in arguments))
    assert process.returncode == 2, process.stderr
    assert process.stderr.startswith("error: ") and process.stderr.count("\n") == 1, process.stderr
    assert all(word in process.stderr for word in words), process.stderr
