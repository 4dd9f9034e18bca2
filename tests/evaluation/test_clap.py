"""CLAP against transformers': toy models with random weights, saved as the hub holds released ones."""

import dataclasses
import json
import pathlib
import shutil
from typing import Any

import jax
import numpy as np
import pytest
import safetensors.numpy
import scipy.signal
import tokenizers
import torch
import transformers
from flax import nnx

from autosong_jax.errors import UserError
from autosong_jax.evaluation import clap
from autosong_jax.evaluation.clap import embedder, names, towers
from autosong_jax.evaluation.clap.features import LogMel
from autosong_jax.weights import files

torch.set_num_threads(1)
RATE = 2000
# "released" as the released model, in small: four rows, and a last stage of one window, which does not shift. In "odd",
# windows of 5 do not divide images of 12 and 6 patches, patches overlap, and the last stage shifts too.
AUDIO = {
    "released": {"num_mel_bins": 8, "spec_size": 32, "patch_embeds_hidden_size": 8, "depths": [2, 2],
                 "num_attention_heads": [2, 4], "window_size": 4, "hidden_size": 16},
    "odd": {"num_mel_bins": 12, "spec_size": 36, "patch_size": [5, 5], "patch_stride": 3, "patch_embeds_hidden_size": 6,
            "depths": [1, 2], "num_attention_heads": [3, 2], "window_size": 5, "hidden_size": 12, "mlp_ratio": 1.5,
            "hidden_act": "relu", "layer_norm_eps": 1e-3}}
TEXT = {
    "released": {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 24,
                 "max_position_embeddings": 42},
    "odd": {"hidden_size": 10, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 7,
            "max_position_embeddings": 48, "type_vocab_size": 2, "hidden_act": "relu"}}
HOP = {"released": 16, "odd": 19}  # 126 of 128 frames, 106 of 108
TEXTS = ["a slow song", "", "Ünïcode 雨 rain, <s> in the\tnight", "drums"]


@dataclasses.dataclass(frozen=True)
class Toy:
    directory: pathlib.Path
    model: Any
    extractor: Any
    tokenizer: Any
    ours: clap.Clap

    def audio(self, windows):
        """What transformers' audio encoder says of windows: normalised patches [B, S, D] and embeddings [B, P]."""
        mel = self.extractor(list(windows), sampling_rate=RATE, return_tensors="pt")["input_features"].float()
        seen = []
        hook = self.model.audio_model.audio_encoder.norm.register_forward_hook(lambda *call: seen.append(call[2]))
        with torch.inference_mode():
            embeddings = self.model.get_audio_features(mel).pooler_output.numpy()
        hook.remove()
        return mel[:, 0].numpy(), seen[0].numpy(), embeddings

    def text(self, texts):
        """Its states [B, L, D], their mask [B, L], ids [B, L] and embeddings [B, P]."""
        given = self.tokenizer(texts, padding=True, return_tensors="pt")
        with torch.inference_mode():
            out = self.model.get_text_features(**given)
        return [x.numpy() for x in (out.last_hidden_state, given["attention_mask"].bool(), given["input_ids"],
                                    out.pooler_output)]


def save(kind, directory):
    """Saves a toy, all of whose weights and statistics are random."""
    torch.manual_seed(0)
    letters = ["<s>", "<pad>", "</s>", "<unk>", *sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet()), "Ġs", "on",
               "Ġsl", "<mask>"]
    text = TEXT[kind] | {"vocab_size": len(letters)}
    model = transformers.ClapModel(transformers.ClapConfig(
        text_config=text, audio_config=AUDIO[kind], projection_dim=8)).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.copy_(torch.randn_like(weight) * 0.3 + (weight if "orm" in name and "weight" in name else 0))
        for name, statistic in model.named_buffers():
            if name.endswith("running_mean"):
                statistic.normal_(-30, 10)
            elif name.endswith("running_var"):
                statistic.uniform_(100, 900)
    model.save_pretrained(directory)
    extractor = transformers.ClapFeatureExtractor(
        feature_size=AUDIO[kind]["num_mel_bins"], sampling_rate=RATE, hop_length=HOP[kind], max_length_s=1,
        fft_window_size=256, frequency_min=50, frequency_max=1000, truncation="rand_trunc")
    extractor.save_pretrained(directory)
    tokenizer = transformers.RobertaTokenizer(
        vocab={letter: i for i, letter in enumerate(letters)}, merges=[("Ġ", "s"), ("o", "n"), ("Ġs", "l")])
    tokenizer.save_pretrained(directory)
    return model, extractor, tokenizer


@pytest.fixture(scope="module", params=AUDIO)
def toy(request, tmp_path_factory):
    directory = tmp_path_factory.mktemp("clap") / request.param
    batch = {"released": 3, "odd": None}[request.param]
    return Toy(directory, *save(request.param, directory), clap.load(directory, batch=batch))


def sound(*shape):
    """Noise that becomes louder and softer."""
    noise = np.random.default_rng(0).standard_normal(shape)
    return (0.1 * noise * (1 + np.sin(np.arange(shape[-1]) / 300))).astype(np.float32)


@pytest.fixture(scope="module")
def released_features():
    settings = {"feature_size": 64, "frequency_min": 50, "frequency_max": 14_000, "truncation": "rand_trunc"}
    extractor = transformers.ClapFeatureExtractor(**settings)
    return extractor, names.read_features(extractor.to_dict(), "here")


@pytest.mark.parametrize("length", [1, 100, 100_003, 240_000, 480_000, 480_001, 1_200_000])
def test_features_at_full_size(released_features, length):
    extractor, features = released_features
    audio = sound(length) + np.sin(np.arange(length) / 7).astype(np.float32)
    windows = list(features.windows(audio))
    assert len(windows) == max(1, -(-length // 480_000))
    given = [audio] if length < 480_000 else windows  # the extractor repeats what is short, and cuts at random
    expected = extractor(given[-1], sampling_rate=48_000, return_tensors="np")["input_features"][0, 0]
    log_mel = features(windows[-1])
    assert log_mel.shape == (features.frames, 64) == (1001, 64) and log_mel.dtype == np.float32
    np.testing.assert_allclose(log_mel, expected, rtol=0, atol=1e-5)


def test_windows_see_all_of_a_song_and_the_last_is_moved_back():
    features = LogMel(10, 10, 4, 2, 4, 0, 5)
    assert [window.tolist() for window in features.windows(np.arange(23.0))] == [
        list(range(10)), list(range(10, 20)), list(range(13, 23))]
    assert [window.tolist() for window in features.windows(np.arange(20.0))] == [list(range(10)), list(range(10, 20))]
    assert [window.tolist() for window in features.windows(np.arange(4.0))] == [[0, 1, 2, 3, 0, 1, 2, 3, 0, 0]]


@pytest.mark.parametrize(("given", "wanted"), [(1001, 1024), (7, 20), (2, 5), (1, 3), (16, 16)])
def test_bicubic_is_that_of_torch(given, wanted):
    points = torch.eye(given)[:, None, :, None]
    expected = torch.nn.functional.interpolate(points, (wanted, 1), mode="bicubic", align_corners=True)[:, 0, :, 0].T
    np.testing.assert_allclose(towers.bicubic(given, wanted), expected.numpy(), atol=1e-6)


def test_audio(toy):
    windows = sound(4, RATE)  # of a batch and a part of one, or of four
    mel, states, embeddings = toy.audio(windows)
    ours = np.stack([toy.ours.features(window) for window in windows])
    np.testing.assert_allclose(ours, mel, atol=1e-5)
    given = run(toy.ours, lambda towers: towers.audio(ours[:2]))
    np.testing.assert_allclose(given.reshape(2, *states.shape[1:]), states[:2], atol=1e-4)
    given = toy.ours.embed_audio(windows, RATE)
    assert given.dtype == np.float32
    np.testing.assert_allclose(given, embeddings, atol=1e-5)
    assert np.abs(embeddings[0] - embeddings[1]).max() > 1e-3  # the toy can tell them apart


def run(ours, function):
    """What a function of the towers gives."""
    graph, _ = nnx.split(nnx.eval_shape(lambda: towers.ClapTowers(ours.config, rngs=nnx.Rngs(0))))
    return np.asarray(jax.jit(lambda params: function(nnx.merge(graph, params)))(ours._params))


def test_a_song_is_the_mean_of_its_windows(toy):
    song = sound(2 * RATE + 777)
    _, _, embeddings = toy.audio([song[:RATE], song[RATE:2 * RATE], song[-RATE:]])
    mean = embeddings.mean(axis=0)
    given = toy.ours.embed_audio(song, RATE)
    np.testing.assert_allclose(given, [mean / np.linalg.norm(mean)], atol=1e-5)
    np.testing.assert_allclose(toy.ours.embed_audio(np.stack([song, -song]), RATE)[0], given[0], atol=1e-5)
    short = song[:321]
    np.testing.assert_allclose(toy.ours.embed_audio(short, RATE), toy.audio([short])[2], atol=1e-5)


def test_another_rate_is_resampled(toy):
    song = sound(RATE)
    expected = toy.ours.embed_audio(song, RATE)
    assert clap.score(toy.ours.embed_audio(scipy.signal.resample_poly(song, 3, 2), 3 * RATE // 2), expected) > 0.995
    assert toy.ours.embed_audio(song[:1], 700_000).shape == (1, 8)


def test_text(toy):
    texts = [*TEXTS, "a song "[:5] * 5]
    states, mask, ids, embeddings = toy.text(texts)
    np.testing.assert_array_equal(np.concatenate([toy.ours._ids(text) for text in texts]), ids[mask])
    given = run(toy.ours, lambda towers: towers.text(ids, mask.sum(axis=1)))
    np.testing.assert_allclose(given[mask], states[mask], atol=1e-4)
    np.testing.assert_allclose(toy.ours.embed_text(texts), embeddings, atol=1e-5)
    assert toy.ours.embed_text([]).shape == (0, 8)


def test_a_long_text_is_cut(toy, caplog):
    text = "".join("abcdefgh"[i * i % 8] for i in range(60))
    room = toy.ours.config.text.max_positions - 4  # two positions that are not used, and two special tokens
    np.testing.assert_allclose(toy.ours.embed_text([text]), toy.ours.embed_text([text[:room]]), atol=1e-6)
    assert f"CLAP reads the first {room + 2}" in caplog.text


def test_scores_are_the_logits(toy):
    windows = sound(3, RATE)
    mel = toy.extractor(list(windows), sampling_rate=RATE, return_tensors="pt")["input_features"].float()
    with torch.inference_mode():
        out = toy.model(**toy.tokenizer(TEXTS, padding=True, return_tensors="pt"), input_features=mel)
    audio, text = toy.ours.embed_audio(windows, RATE), toy.ours.embed_text(TEXTS)
    scores = clap.score(audio[:, None], text)
    assert scores.shape == (3, 4) and scores.dtype == np.float32
    of_audio, of_text = toy.ours.scales
    np.testing.assert_allclose(of_audio * scores, out.logits_per_audio.numpy(), atol=1e-4)
    np.testing.assert_allclose(of_text * scores.T, out.logits_per_text.numpy(), atol=1e-4)
    np.testing.assert_allclose(clap.score(5 * audio, text[:3]), np.diagonal(scores), atol=1e-6)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    directory = tmp_path_factory.mktemp("saved") / "clap"
    save("released", directory)
    return directory


def damage(directory, change):
    read = {name: files.read_json(directory / name) for name in ("config.json", embedder.FEATURES)}
    weights = safetensors.numpy.load_file(directory / "model.safetensors")
    change(directory, *read.values(), weights)
    for name, values in read.items():
        (directory / name).write_text(json.dumps(values))
    safetensors.numpy.save_file(weights, directory / "model.safetensors")


TABLE = "audio_model.audio_encoder.layers.0.blocks.0.attention.self.relative_position_bias_table"
AUDIO_OF, TEXT_OF = (lambda config: config["audio_config"]), (lambda config: config["text_config"])


@pytest.mark.parametrize(("change", "words"), [
    (lambda d, c, f, w: c.update(model_type="clip"), ["config.json", "'clip'", names.RELEASED]),
    (lambda d, c, f, w: AUDIO_OF(c).update(enable_fusion=True), ["config.json", "feature fusion", names.RELEASED]),
    (lambda d, c, f, w: AUDIO_OF(c).update(qkv_bias=False), ["config.json: audio_config has qkv_bias False"]),
    (lambda d, c, f, w: AUDIO_OF(c).update(window_size=5), ["spec_size 32", "2 stages", "window_size 5"]),
    (lambda d, c, f, w: AUDIO_OF(c).update(window_size=3), [TABLE, "[49, 2]", "[25, 2]"]),
    (lambda d, c, f, w: AUDIO_OF(c).update(hidden_size=31), ["hidden_size 31", "expected 16"]),
    (lambda d, c, f, w: AUDIO_OF(c).update(num_attention_heads=[2, 3]), ["num_attention_heads", "[8, 16]"]),
    (lambda d, c, f, w: AUDIO_OF(c).update(patch_stride=[4, 2]), ["patch_stride [4, 2]"]),
    (lambda d, c, f, w: TEXT_OF(c).update(hidden_act="swish"), ["text_config", "'swish'"]),
    (lambda d, c, f, w: TEXT_OF(c).update(eos_token_id=3), ["tokenizer.json", "(0, 2)", "(0, 3)"]),
    (lambda d, c, f, w: f.update(truncation="fusion"), [embedder.FEATURES, "'fusion'", names.RELEASED]),
    (lambda d, c, f, w: f.update(feature_size=17), ["num_mel_bins 8", "feature_size 17"]),
    (lambda d, c, f, w: f.update(hop_length=7), ["spec_size 32", "286 frames"]),
    (lambda d, c, f, w: f.update(frequency_max=1001), [embedder.FEATURES, "1001", "1000"]),
    (lambda d, c, f, w: w.pop(TABLE), ["lacks", TABLE, "[49, 2]"]),
    (lambda d, c, f, w: w.update(extra=w[TABLE]), ["model.safetensors", "extra", "no place"]),
    (lambda d, c, f, w: (d / "tokenizer.json").unlink(), ["the tokenizer", "tokenizer.json", "does not exist"]),
])
def test_what_cannot_be_read_is_named(saved, tmp_path, change, words):
    shutil.copytree(saved, tmp_path / "clap")
    damage(tmp_path / "clap", change)
    with pytest.raises(UserError) as error:
        clap.load(tmp_path / "clap")
    message = str(error.value)
    assert all(word in message for word in [str(tmp_path), *words]) and "\n" not in message, message


@pytest.mark.parametrize("source", [
    "laion/larger_clap_music", "models/Larger_CLAP_music/", "models--laion--larger_clap_music/snapshots/0a"])
def test_the_model_whose_text_tower_is_collapsed_is_refused(source):
    with pytest.raises(UserError, match=r"^--clap=\S+ cannot judge songs.*use laion/clap-htsat-unfused or"):
        clap.load(source)


def test_what_is_no_directory(tmp_path):
    with pytest.raises(UserError, match=r"--judge=\S+ is not a directory here"):
        clap.load(tmp_path / "none", "--judge")


@pytest.mark.parametrize(("audio", "rate", "words"), [
    (np.zeros(10, np.int16), RATE, "int16"), (np.zeros((1, 2, 3), np.float32), RATE, r"\[1, 2, 3\]"),
    (np.zeros(0, np.float32), RATE, r"\[0\]"), (np.full(9, np.nan), RATE, "NaN"), (np.zeros(9), 0, "rate 0 Hz")])
def test_audio_that_cannot_be_judged(audio, rate, words):
    with pytest.raises(UserError, match=words):
        embedder._checked(audio, rate)
