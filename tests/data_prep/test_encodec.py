"""EnCodec in windows against transformers' own EnCodec in one piece; with random weights, at a toy size."""

import json

import huggingface_hub
import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from autosong_jax.errors import UserError
from data_prep import encodec
from tests.parity import Exact

torch.set_num_threads(1)  # toys: handing them out to threads takes a hundred times as long on a busy machine

HOP = 12
RATE = 1200


def make_model(**settings):
    """An EnCodec of 100 frames/s and 64 entries a codebook, whose entries are like what they are to stand for."""
    torch.manual_seed(0)
    config = transformers.EncodecConfig(**{
        "num_filters": 4, "hidden_size": 8, "codebook_size": 64, "upsampling_ratios": [3, 2, 2], "sampling_rate": RATE,
        "target_bandwidths": [1.2, 2.4]} | settings)
    model = transformers.EncodecModel(config).eval()
    with torch.inference_mode():
        embeddings = model.encoder(torch.randn(1, config.audio_channels, 100 * HOP))
        for level, layer in enumerate(model.quantizer.layers):
            layer.codebook.embed.normal_(std=embeddings.std().item() / 2**level)
    return model


def codec_of(model, *args, **options):
    return encodec.Encodec(encodec.Transformers(model), *args, **options)


def make_audio(samples, channels=1):
    return np.random.default_rng(samples).standard_normal((channels, samples)).astype(np.float32)


def encode_in_one_piece(model, audio, bandwidth):
    with torch.inference_mode():
        codes = model.encode(torch.from_numpy(audio)[None], bandwidth=bandwidth).audio_codes
    return codes[:, 0].transpose(1, 2).flatten(0, 1).numpy()  # [chunks, 1, K, frames] -> [T, K]


def exact_in_one_piece(model, audio, bandwidth):
    """What is coded, float64 [T, D], and the codebooks."""
    exact = Exact(model)
    vectors = exact.vectors(lambda model: model.encode(torch.from_numpy(audio).double()[None], bandwidth=bandwidth))
    return np.concatenate([x[0] for x in vectors]), exact.codebooks


@pytest.mark.parametrize("samples", [160 * 20 + 1, 160 * 40 + 1])
def test_a_last_window_of_one_sample(samples, same_codes):
    """The padding at its end mirrors what is further back than the convolutions look otherwise."""
    model = make_model(use_causal_conv=False, upsampling_ratios=[8, 5, 4], sampling_rate=16000)
    audio = make_audio(samples)
    codes = codec_of(model, 2.4, window_seconds=0.2).encode(audio)
    same_codes(codes, encode_in_one_piece(model, audio, 2.4), *exact_in_one_piece(model, audio, 2.4))


@pytest.mark.parametrize("pad_mode", ["reflect", "constant"])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("samples", [1, HOP - 1, HOP + 1, 40 * HOP, 41 * HOP + 1, 200 * HOP - 1, 203 * HOP + 7])
def test_windows_give_the_codes_of_one_piece(samples, causal, pad_mode, same_codes):
    """Everywhere, the ends and the frames beside the seams included."""
    model = make_model(use_causal_conv=causal, pad_mode=pad_mode)
    audio = make_audio(samples)
    expected, exact = encode_in_one_piece(model, audio, 2.4), exact_in_one_piece(model, audio, 2.4)
    assert expected.shape == (-(-samples // HOP), 4)
    assert samples < 200 * HOP or len(np.unique(expected)) > 32  # the comparison is of something
    for seconds, batch in ((0.1, 1), (0.1, 3), (0.2, 8)):
        codes = codec_of(model, 2.4, window_seconds=seconds, windows_at_once=batch).encode(audio)
        assert codes.dtype == np.uint16
        same_codes(codes, expected, *exact)


def test_windows_without_their_surroundings_give_other_codes(monkeypatch, same_codes):
    """So the test above would notice a seam."""
    model = make_model(use_causal_conv=False)
    audio = make_audio(200 * HOP)
    expected = encode_in_one_piece(model, audio, 2.4)
    monkeypatch.setattr(encodec, "reach", lambda layers, reach=encodec.reach: (reach(layers)[0], 0, 0))
    codes = codec_of(model, 2.4, window_seconds=0.5).encode(audio)
    with pytest.raises(AssertionError, match=r"codes: .* not the nearest"):
        same_codes(codes, expected, *exact_in_one_piece(model, audio, 2.4))


def make_chunked_model(**settings):
    """Like the 48 kHz model: stereo, normalised over time within chunks of 1 s that overlap by 1 %."""
    return make_model(norm_type="time_group_norm", use_causal_conv=False, audio_channels=2, chunk_length_s=1.0,
                      overlap=0.01, **settings)


@pytest.mark.parametrize("samples", [7, RATE, RATE + 1, 3 * 1188 + 12, 3 * 1188 + 13, 5000])
def test_chunks_of_the_model(samples, same_codes):
    model = make_chunked_model()
    codec = codec_of(model, 1.2, windows_at_once=2)
    assert codec.frame_rate == pytest.approx(100 / 0.99)
    audio = make_audio(samples, channels=2)
    # transformers asks for whole chunks: its feature extractor fills up the last one.
    chunks = max(1, 1 + -(-(samples - RATE) // 1188))
    whole = np.pad(audio, ((0, 0), (0, (chunks - 1) * 1188 + RATE - samples)))
    expected, (vectors, codebooks) = encode_in_one_piece(model, whole, 1.2), exact_in_one_piece(model, whole, 1.2)
    frames = (chunks - 1) * 100 + -(-(samples - (chunks - 1) * 1188) // HOP)
    same_codes(codec.encode(audio), expected[:frames], vectors[:frames], codebooks)


def test_loudness_is_normalised_once_a_song(same_codes):
    audio = make_audio(3000, channels=2) * np.linspace(0.1, 1, 3000, dtype=np.float32)
    plain, normalising = (codec_of(make_chunked_model(normalize=value), 1.2) for value in (False, True))
    codes = normalising.encode(audio)
    loud = audio / (np.sqrt(np.mean(audio.mean(axis=0) ** 2)) + 1e-8)
    exact = Exact(plain.network.model)
    vectors = np.concatenate([x.reshape(-1, x.shape[2]) for x in exact.vectors(
        lambda model: codec_of(model, 1.2).encode(loud.astype(np.float64)))])[:len(codes)]
    for others in plain.encode(loud), normalising.encode(audio * 0.5):
        same_codes(codes, others, vectors, exact.codebooks)
    np.testing.assert_allclose(normalising.decode(codes), plain.decode(codes) * 0.1, rtol=1e-4, atol=1e-6)


def test_decode_is_that_of_transformers():
    model = make_model()
    codec = codec_of(model, 2.4)
    codes = codec.encode(make_audio(2000))
    assert codes.shape == (167, 4)
    np.testing.assert_allclose(codec.decode(codes), decode_in_one_piece(model, codes), rtol=1e-4, atol=1e-5)


def test_decode_of_chunks_is_that_of_each_where_they_do_not_overlap():
    model = make_chunked_model()
    codec = codec_of(model, 2.4)
    codes = codec.encode(make_audio(2000, channels=2))
    assert codes.shape == (168, 4)  # 100 of the first chunk, which goes on for 12 samples where the second has begun
    decoded = codec.decode(codes)
    first, second = decode_in_one_piece(model, codes[:100]), decode_in_one_piece(model, codes[100:])
    assert decoded.shape == (2, 1188 + 68 * HOP)
    np.testing.assert_allclose(decoded[:, :1188], first[:, :1188], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(decoded[:, 1200:], second[:, 12:], rtol=1e-4, atol=1e-5)


def decode_in_one_piece(model, codes):
    with torch.inference_mode():
        codes_1xKxT = torch.from_numpy(codes.T.astype(np.int64))[None]
        return model.decoder(model.quantizer.decode(codes_1xKxT.transpose(0, 1)))[0].numpy()


def test_quality_tells_good_from_bad():
    codec = codec_of(make_model(sampling_rate=12000, target_bandwidths=[24.0]), 24.0)
    noise = make_audio(12000)
    codec.encode = lambda audio: audio
    codec.decode = lambda codes: np.pad(codes, ((0, 0), (0, 11)))
    assert codec.quality([noise, noise[:, :6000]]) == {"seconds": 1.5, "round_trip_db": 0.0}
    codec.decode = lambda codes: codes / 2
    assert codec.quality([noise])["round_trip_db"] == pytest.approx(6.02, abs=0.1)
    assert codec.quality([noise * 0])["round_trip_db"] == 0


def test_saved_model_is_the_same_model(tmp_path):
    make_model().save_pretrained(tmp_path / "model")
    codec = encodec.load(str(tmp_path / "model"), 1.2)
    codec.save(tmp_path / "codec")
    description = json.loads((tmp_path / "codec" / "codec.json").read_text())
    assert len(description.pop("digest")) == 16
    assert description == {
        "name": "encodec", "sample_rate": RATE, "channels": 1, "frame_rate": 100.0, "num_codebooks": 2,
        "codebook_size": 64, "bandwidth": 1.2, "stereo": False}
    audio = make_audio(999)
    codes = encodec.load(str(tmp_path / "codec")).encode(audio)
    assert codes.shape == (84, 2)
    np.testing.assert_array_equal(codes, codec.encode(audio))
    np.testing.assert_array_equal(codes, encodec.load(str(tmp_path / "model"), 2.4).encode(audio)[:, :2])


def test_a_saved_codec_says_how_it_is_used(tmp_path):
    """Bandwidth and stereo, where left and right have codebooks that alternate."""
    codec = codec_of(make_model(), 2.4, stereo=True)
    codec.save(tmp_path)
    loaded = encodec.load(str(tmp_path))
    assert (loaded.channels, loaded.info.num_codebooks, loaded.bandwidth) == (2, 8, 2.4)
    audio = make_audio(999, channels=2)
    codes = loaded.encode(audio)
    alone = codec_of(make_model(), 2.4)
    for side in range(2):
        np.testing.assert_array_equal(codes[:, side::2], alone.encode(audio[side:side + 1]))
        np.testing.assert_allclose(loaded.decode(codes)[side:side + 1], alone.decode(codes[:, side::2]), atol=1e-6)
    assert encodec.load(str(tmp_path), 1.2).info.num_codebooks == 4


def test_models_that_cannot_be_used(tmp_path):
    model = make_model()
    model.save_pretrained(tmp_path / "model")
    with pytest.raises(UserError, match=r"bandwidth=3.0 .* one of 1.2, 2.4"):
        encodec.load(str(tmp_path / "model"), 3.0)
    weights = load_file(tmp_path / "model" / "model.safetensors")
    save_file({name: value for name, value in weights.items() if "layers.0." not in name},
              tmp_path / "model" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match="lacks the weights"):
        encodec.load(str(tmp_path / "model"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"empty/config.json cannot be read: it does not exist"):
        encodec.load(str(tmp_path / "empty"))
    transformers.T5Config().save_pretrained(tmp_path / "t5")
    with pytest.raises(UserError, match="is a t5 model, expected encodec"):
        encodec.load(str(tmp_path / "t5"))
    make_model(norm_type="time_group_norm").save_pretrained(tmp_path / "whole")
    with pytest.raises(UserError, match="cannot code long songs"):
        encodec.load(str(tmp_path / "whole"))


def test_without_network_a_hub_id_ends_in_one_clear_line(monkeypatch):
    def refuse(*args, **options):
        raise OSError("We couldn't connect to the hub.\nCheck your connection.")

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", refuse)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    with pytest.raises(UserError) as caught:
        encodec.load("encodec_24khz")
    assert "hf download facebook/encodec_24khz --local-dir DIR" in str(caught.value)
    assert "\n" not in str(caught.value)
