"""Songs exported with a DAC in PyTorch, and heard again without it."""

import numpy as np
import pytest
import soundfile
import torch

from autosong_jax.codecs.codec import load_codec
from autosong_jax.data.dataset import SongDataset
from data_prep import pipeline
from tests.codecs.test_dac import make

torch.set_num_threads(1)


@pytest.fixture
def songs(tmp_path):
    noise = 0.1 * np.random.default_rng(0).standard_normal((3, 3000)).astype(np.float32)
    for i, audio in enumerate(noise):
        folder = tmp_path / "songs" / f"song {i}"
        folder.mkdir(parents=True)
        (folder / "lyrics.txt").write_text("la la")
        soundfile.write(folder / "audio.wav", audio, 1000)
    return tmp_path / "songs"


def test_an_export_holds_the_codes_and_a_codec_that_decodes_them(songs, tmp_path):
    model = make([2, 5])
    model.save_pretrained(tmp_path / "dac")
    finished, _ = pipeline.export(pipeline.Options(
        str(songs), str(tmp_path / "data"), codec=str(tmp_path / "dac"), validation_fraction=0.0, test_fraction=0.0,
        workers=1))
    assert finished["codec"]["name"] == "dac" and finished["codec"]["quality"]["round_trip_db"] > 0
    dataset, codec = SongDataset(tmp_path / "data", "train"), load_codec(tmp_path / "data" / "codec")
    for i in range(len(dataset)):
        record = dataset[i]
        audio, _ = soundfile.read(songs / record["id"] / "audio.wav", dtype="float32")
        with torch.inference_mode():
            codes = model.encode(torch.from_numpy(audio)[None, None]).audio_codes
            decoded = model.decode(audio_codes=codes).audio_values
        np.testing.assert_array_equal(record["frames"], codes[0].T)
        np.testing.assert_allclose(codec.decode(record["frames"]), decoded, atol=1e-4)
