"""Transcripts: a tiny Whisper with random weights against transformers' own loading of its files; windows; resuming."""

import json
import string

import numpy as np
import pytest
import torch
import transformers
from absl import flags
from absl.testing import flagsaver

from autosong_jax.audio import io
from autosong_jax.errors import UserError
from autosong_jax.evaluation import lyrics, recognition
from data_prep import transcribe
from data_prep.whisper import Whisper

RATE, SECONDS = 16000, 2
SPECIAL = ["<|endoftext|>", "<|startoftranscript|>", "<|en|>", "<|zh|>", "<|de|>", "<|translate|>", "<|transcribe|>",
           "<|notimestamps|>"]


@pytest.fixture(scope="module", autouse=True)
def command():
    transcribe.define_flags()
    transcribe.FLAGS(["transcribe", "--input=a", "--output=b"])
    yield
    for name in ("input", "output", "model", "language", "batch", "device"):
        delattr(flags.FLAGS, name)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """The files of a multilingual Whisper that hears windows of 2 s."""
    folder = tmp_path_factory.mktemp("whisper")
    torch.set_num_threads(1)
    torch.manual_seed(1)
    vocabulary = {token: i for i, token in enumerate([*string.ascii_lowercase, "Ġ", *SPECIAL])}
    tokenizer = transformers.WhisperTokenizer(vocab=vocabulary, merges=[])
    tokenizer.add_special_tokens({"additional_special_tokens": SPECIAL[1:]})
    tokenizer.save_pretrained(folder)
    ids = {token: vocabulary[token] for token in SPECIAL}
    config = transformers.WhisperConfig(
        vocab_size=len(vocabulary), d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16, num_mel_bins=8,
        max_source_positions=50 * SECONDS, max_target_positions=16, decoder_start_token_id=ids["<|startoftranscript|>"],
        init_std=0.5, **{f"{name}_token_id": ids["<|endoftext|>"] for name in ("bos", "eos", "pad")})
    model = transformers.WhisperForConditionalGeneration(config)
    model.generation_config = transformers.GenerationConfig(
        decoder_start_token_id=config.decoder_start_token_id, eos_token_id=config.eos_token_id,
        pad_token_id=config.pad_token_id, no_timestamps_token_id=ids["<|notimestamps|>"], max_length=16,
        is_multilingual=True, lang_to_id={token: ids[token] for token in SPECIAL[2:5]},
        task_to_id={token.strip("<|>"): ids[token] for token in SPECIAL[5:7]}, suppress_tokens=list(ids.values())[1:])
    model.save_pretrained(folder)
    transformers.WhisperFeatureExtractor(feature_size=8, chunk_length=SECONDS).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def model(checkpoint):
    return Whisper(str(checkpoint))


def sound(seed, seconds, level=0.1):
    rng = np.random.default_rng(seed)
    hertz = rng.uniform(100, 4000, 4)
    time = np.arange(round(seconds * RATE)) / RATE
    return (level * np.sin(2 * np.pi * hertz[:, None] * time).mean(0) + rng.normal(0, level / 9, len(time))).astype(
        np.float32)


@pytest.fixture
def songs(tmp_path):
    folder = tmp_path / "songs"
    (folder / "b").mkdir(parents=True)
    io.write(folder / "a.wav", sound(0, 5), RATE)
    io.write(folder / "b" / "audio.flac", sound(1, 1), RATE)
    io.write(folder / "b" / "backing.flac", sound(2, 1), RATE)
    io.write(folder / "silent.wav", np.zeros(RATE), RATE)
    return folder


def test_it_hears_what_transformers_hears(checkpoint, model):
    windows = [sound(seed, seconds) for seed, seconds in enumerate([2, 1, 0.3, 2])]
    processor = transformers.WhisperProcessor.from_pretrained(checkpoint)
    theirs = transformers.WhisperForConditionalGeneration.from_pretrained(checkpoint).eval()
    expected, detected = [], []
    for window, language in zip(windows, ["en", "zh", "de", "en"], strict=True):
        features = processor(window, sampling_rate=RATE, return_tensors="pt").input_features
        ids = theirs.generate(features, language=language, task="transcribe", do_sample=False)
        expected.append(processor.batch_decode(ids, skip_special_tokens=True)[0].strip())
        detected.append(processor.tokenizer.decode(theirs.detect_language(features)).strip("<|>"))
    assert model.hear(windows, ["en", "zh", "de", "en"]) == expected
    assert len(set(expected)) == 4 and all(expected)
    assert model.detect(windows) == detected
    assert model.languages == ["de", "en", "zh"] and model.seconds == SECONDS


def test_windows_end_where_it_is_quiet():
    audio = sound(0, 10)
    audio[round(1.6 * RATE):round(1.9 * RATE)] *= 0.01
    spans = transcribe.cut(audio, RATE, 2.0)
    assert spans[0] == (0, spans[0][1]) and 1.65 * RATE < spans[0][1] < 1.85 * RATE
    assert [stop for _, stop in spans[:-1]] == [start for start, _ in spans[1:]] and spans[-1][1] == len(audio)
    assert all(RATE <= stop - start <= 2 * RATE for start, stop in spans[:-1])
    assert transcribe.cut(audio[:2 * RATE], RATE, 2.0) == [(0, 2 * RATE)]


def test_songs_are_heard_once(songs, model, tmp_path):
    output = tmp_path / "heard.jsonl"

    def hear(language=None, batch=8):
        todo = transcribe.keep(output, transcribe.find_recordings(songs), "tiny", language)
        transcribe.hear(todo, output, model, "tiny", language, batch)
        return len(todo), lyrics.read_transcripts(output, "")

    count, first = hear(batch=2)
    assert count == 3 and first.keys() == {"a", "b", "silent"}
    windows = list(transcribe._windows(songs / "a.wav", RATE, SECONDS))
    language = model.detect(windows[:1])
    assert len(windows) >= 3
    assert first["a"].text == " ".join(model.hear([window], language)[0] for window in windows)
    assert [first["a"].language] == language and not first["a"].told
    assert (first["silent"].text, first["silent"].language) == ("", "")
    # Cut off while a line was written; and a recording is another one now.
    lines = [line for line in output.read_text().splitlines(keepends=True) if '"silent"' not in line]
    output.write_text("".join(lines) + '{"song": "silent", "te')
    io.write(songs / "b" / "audio.flac", sound(5, 1), RATE)
    count, again = hear()
    assert count == 2 and again["a"] == first["a"] and again["silent"] == first["silent"]
    assert again["b"].digest != first["b"].digest
    assert hear() == (0, again)
    count, told = hear("de")
    assert count == 3 and {(found.language, found.told) for found in told.values()} == {("de", True)}


def test_the_command_is_what_the_evaluation_calls(songs, checkpoint, model, tmp_path, capsys):
    output = tmp_path / "heard.jsonl"
    with flagsaver.flagsaver(input=str(songs), output=str(output), model=str(checkpoint), language="de"):
        transcribe.main()
        assert capsys.readouterr().out == f"{output}: 3 songs, of which 3 were heard now\n"
    heard = lyrics.read_transcripts(output, "")
    assert heard["b"].text == model.hear([io.read(songs / "b" / "audio.flac", RATE, 1)[0][0]], ["de"])[0]
    # In a process of its own, which has nothing left to hear, and so needs no PyTorch.
    assert recognition.transcribe(songs, output, f"whisper:{checkpoint}", "de") == heard
    with pytest.raises(UserError, match=r"--transcriber=whisper:x: --input=.*: expected a folder of recordings"):
        recognition.transcribe(songs / "none", output, "whisper:x")
    with pytest.raises(UserError, match="--language=tlh is none that the model knows: expected one of de, en, zh"):
        model.check_language("tlh")


def test_what_is_no_whisper_and_no_recording(tmp_path, checkpoint, songs):
    with pytest.raises(UserError, match="found none"):
        transcribe.find_recordings(checkpoint)
    io.write(songs / "b.wav", sound(0, 1), RATE)
    with pytest.raises(UserError, match="recordings of one name"):
        transcribe.find_recordings(songs)
    for name in ("config.json", "preprocessor_config.json", "generation_config.json"):
        folder = tmp_path / name
        folder.mkdir()
        for path in checkpoint.iterdir():
            (folder / path.name).write_bytes(path.read_bytes())
        settings = json.loads((folder / name).read_text())
        settings.pop({"config.json": "d_model", "preprocessor_config.json": "hop_length",
                      "generation_config.json": "lang_to_id"}[name])
        (folder / name).write_text(json.dumps(settings))
        with pytest.raises(UserError, match=name):
            Whisper(str(folder))
