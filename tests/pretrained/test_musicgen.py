"""MusicGen against transformers, with random weights: logits, greedy songs, import and export."""

import contextlib
import copy
import json
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from flax import nnx

import autosong_jax
from autosong_jax import config as config_file
from autosong_jax.audio import io
from autosong_jax.codebooks.patterns import get_pattern
from autosong_jax.errors import UserError
from autosong_jax.pretrained import export, released
from autosong_jax.sources.text.encoders import TextEncoderInfo
from autosong_jax.weights import files, parameters
from autosong_jax.weights.files import Tensors

TEXTS = ["love rain night blue love", "blue"]
FRAMES = 100


@pytest.fixture(scope="module")
def model(musicgen):
    """Ours, from the files of the toy."""
    graph, params = released.read(str(musicgen.directory)).load()
    return nnx.merge(graph, params)


def features_of(chroma):
    """Pitch classes [B, F] as transformers wants them."""
    return {} if chroma is None else {
        "input_features": torch.nn.functional.one_hot(torch.tensor(chroma), 12).float()}


def their_logits(toy, steps, texts, chroma=None):
    """[B, S, K, V] of steps [B, S, K]."""
    ids, mask = toy.token_ids(texts)
    features = features_of(chroma)
    batch, length, num_codebooks = steps.shape
    with torch.inference_mode():
        logits = toy.model(input_ids=torch.tensor(ids), attention_mask=torch.tensor(mask), **features,
                           decoder_input_ids=torch.tensor(steps).movedim(1, 2).reshape(-1, length)).logits
    return logits.reshape(batch, num_codebooks, -1, logits.shape[-1])[:, :, -length:].movedim(1, 2).numpy()


def our_sources(toy, texts, chroma=None):
    ids, mask = toy.token_ids(texts)
    with torch.inference_mode():
        states = toy.model.text_encoder(torch.tensor(ids), attention_mask=torch.tensor(mask)).last_hidden_state.numpy()
    sources = {"description": {"states": jnp.asarray(states), "length": jnp.asarray(mask.sum(axis=1))}}
    if chroma is not None:
        sources["chroma"] = {"chroma": jnp.asarray(chroma), "length": jnp.full(len(texts), chroma.shape[1])}
    return sources


def test_logits(musicgen, model):
    """With padding; for the melody model without, where transformers lets padding take up positions."""
    texts = TEXTS if musicgen.kind != "melody" else ["love rain", "blue blue"]
    rng = np.random.default_rng(0)
    steps = rng.integers(0, 65, (2, 13, musicgen.num_codebooks))
    chroma = rng.integers(0, 12, (2, 9)) if musicgen.kind == "melody" else None
    expected = their_logits(musicgen, steps, texts, chroma)
    sources = our_sources(musicgen, texts, chroma)
    keep = jnp.ones((2, len(sources)), bool)
    logits = nnx.jit(lambda model: model(jnp.asarray(steps), model.encode(sources, keep)))(model)
    assert np.abs(expected).max() > 1
    np.testing.assert_allclose(logits, expected, atol=1e-4)


def test_logits_of_the_null_condition(musicgen, model):
    """What guidance subtracts: no text at all for transformers means zero states under a zero mask."""
    if musicgen.kind == "melody":
        pytest.skip("its null condition has slots, which the greedy songs with guidance show")
    steps = np.random.default_rng(1).integers(0, 65, (1, 9, musicgen.num_codebooks))
    sources = our_sources(musicgen, TEXTS[:1])
    states = torch.zeros(sources["description"]["states"].shape)
    with torch.inference_mode():
        expected = musicgen.model(
            encoder_outputs=(states,), attention_mask=torch.zeros(states.shape[:2], dtype=torch.long),
            decoder_input_ids=torch.tensor(steps).movedim(1, 2).reshape(-1, 9)).logits
    expected = expected.reshape(1, musicgen.num_codebooks, 9, -1).movedim(1, 2)
    logits = model(jnp.asarray(steps), model.encode(sources, jnp.zeros((1, 1), bool)))
    np.testing.assert_allclose(logits, expected, atol=1e-4)


def their_songs(toy, texts, guidance, chroma=None):
    """Greedy songs of transformers' generation in float64.

    Returns:
      Of each its codes [T, K], as they are handed to the codec, and the logits [S - 1, K, V] that decided them.
    """
    model, decoded = copy.deepcopy(toy.model).double(), []

    @contextlib.contextmanager
    def watched():
        decode = model.audio_encoder.decode
        model.audio_encoder.decode = lambda audio_codes, *args, **kwargs: decoded.append(audio_codes) or decode(
            audio_codes, *args, **kwargs)
        yield
        del model.audio_encoder.decode

    songs, features = [], {name: x.double() for name, x in features_of(chroma).items()}
    for text in texts:  # one by one: no padding
        ids, mask = toy.token_ids([text])
        decoded.clear()
        with watched(), torch.inference_mode():
            out = model.generate(input_ids=torch.tensor(ids), attention_mask=torch.tensor(mask), do_sample=False,
                                 guidance_scale=guidance, max_new_tokens=FRAMES + 3, return_dict_in_generate=True,
                                 output_scores=True, **features)
        sides = torch.stack([codes[0, 0] for codes in decoded], dim=1)  # [K, sides, T]
        songs.append((sides.reshape(toy.num_codebooks, -1).T.numpy(), torch.stack(out.scores).numpy()))
    return songs


def frames_that_differ(song, expected, logits, pattern, tolerance):
    """How many frames of a song [T, K] come after the first code that is not the expected one.

    Where the two likeliest codes are about as likely, rounding takes one of them, and the song goes on from there: what
    differs at the first such step must be as likely as what is expected, by logits [S - 1, K, V], within `tolerance`.
    """
    ours, theirs = (np.asarray(pattern.interleave(jnp.asarray(codes[None].astype(np.int32)), 64))[0]
                    for codes in (song, expected))
    assert (logits.argmax(axis=-1) == theirs[1:])[pattern.frames[1:] >= 0].all()
    differ = np.flatnonzero((ours != theirs).any(axis=1))
    if not len(differ):
        return 0
    step = differ[0]
    for codebook in np.flatnonzero(ours[step] != theirs[step]):
        decided = logits[step - 1, codebook]
        assert decided[theirs[step, codebook]] - decided[ours[step, codebook]] <= tolerance
    return len(song) - pattern.frames[step].max()


def test_a_song_may_differ_from_where_two_codes_are_as_likely():
    pattern, logits = get_pattern("delay", 5, 2), np.random.default_rng(0).normal(size=(6, 2, 64))
    logits[3, :, 7:9] = 9, 9 - 1e-4  # at step 4: frame 3 of codebook 0, frame 2 of codebook 1
    steps = np.concatenate([np.zeros((1, 2), int), logits.argmax(axis=-1)])
    expected = np.asarray(pattern.deinterleave(steps[None]))[0]
    song = expected.copy()
    song[3, 0], song[4] = 8, 0
    assert frames_that_differ(expected, expected, logits, pattern, 0) == 0
    assert frames_that_differ(song, expected, logits, pattern, 1e-3) == 2
    with pytest.raises(AssertionError):
        frames_that_differ(song, expected, logits, pattern, 1e-5)


@pytest.mark.parametrize("guidance", [3.0, 1.0])
def test_greedy_songs_are_the_same_code_for_code(musicgen, imported, guidance, record_property):
    singer = autosong_jax.load(imported)
    sources, chroma = singer.encode_conditions([{"description": text} for text in TEXTS]), None
    if musicgen.kind == "melody":
        chroma = np.random.default_rng(1).integers(0, 12, (1, 9))
        sources["chroma"] = {"chroma": np.repeat(chroma, len(TEXTS), axis=0), "length": np.full(len(TEXTS), 9)}
    options = {"temperature": 0.0, "cfg_scale": guidance, "duration": FRAMES / 50}
    songs = singer.sing(sources, range(len(TEXTS)), **options)
    tolerance = 2 * 1e-4 * (2 * guidance - 1)  # of a difference of logits, each `guidance` x one - the rest x another
    pattern = get_pattern("delay", FRAMES, musicgen.num_codebooks, singer.config.model.delays)
    differ = 0
    for song, (expected, logits) in zip(songs, their_songs(musicgen, TEXTS, guidance, chroma), strict=True):
        assert song.shape == expected.shape and logits.shape[:2] == (FRAMES + 3, musicgen.num_codebooks)
        differ += frames_that_differ(song, expected, logits, pattern, tolerance)
        assert len(np.unique(song)) > 8
    record_property("frames compared", len(songs) * FRAMES)
    record_property("frames that differ", differ)
    assert differ < FRAMES


@pytest.mark.parametrize("shard", [10**9, 40_000])
def test_exported_models_are_the_same_in_transformers(musicgen, imported, tmp_path, shard, monkeypatch):
    if musicgen.kind == "melody":
        pytest.skip("transformers' melody models are read, not written")
    write = files.write
    monkeypatch.setattr(files, "write", lambda directory, tensors: write(directory, tensors, max_shard_bytes=shard))
    assert export.export(imported, tmp_path / "out") == "musicgen"
    again, loading = transformers.MusicgenForConditionalGeneration.from_pretrained(
        tmp_path / "out", output_loading_info=True)
    assert not any(loading[problem] for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    # Where T5 is as wide as the decoder, the projection is the identity and transformers has none.
    expected = musicgen.model.state_dict()
    state = again.state_dict()
    assert state.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(state[name], tensor), name
    assert again.generation_config.guidance_scale == 3.0
    processor = transformers.AutoProcessor.from_pretrained(tmp_path / "out")
    ids, mask = musicgen.token_ids(TEXTS)
    inputs = processor(text=TEXTS, padding=True, return_tensors="pt")
    np.testing.assert_array_equal(inputs["input_ids"], ids)
    np.testing.assert_array_equal(inputs["attention_mask"], mask)


def test_our_own_export_sings_like_the_workdir(musicgen, imported, tmp_path):
    directory = tmp_path / "a model"
    assert export.export(imported, directory, "autosong") == "autosong"
    assert "| conditioned on |" in (directory / "README.md").read_text()
    assert f"| text encoder | t5:{musicgen.directory.name} |" in (directory / "README.md").read_text()
    assert TextEncoderInfo.load(directory).name == f"t5:{musicgen.directory.name}"
    options = {"duration": 0.3, "seed": 5}
    one, other = (autosong_jax.load(path).generate(description="love", **options) for path in (imported, directory))
    np.testing.assert_array_equal(one.codes, other.codes)
    np.testing.assert_array_equal(one.audio, other.audio)
    again = tmp_path / "again"
    export.export(directory, again, "autosong")
    assert (again / "model.safetensors").read_bytes() == (directory / "model.safetensors").read_bytes()


def test_a_model_is_loaded_without_a_workdir(musicgen, imported):
    one, other = (autosong_jax.load(path).generate(description="love", duration=0.3)
                  for path in (imported, str(musicgen.directory)))
    np.testing.assert_array_equal(one.codes, other.codes)


def test_of_several_devices_one_sings(musicgen):
    assert len(jax.devices()) > 1
    singer = autosong_jax.load(str(musicgen.directory))
    assert {device for x in jax.tree.leaves(singer._params) for device in x.devices()} == {jax.devices()[0]}


def test_a_projection_that_transformers_would_not_apply(imported, musicgen, tmp_path):
    """Where T5 is as wide as the decoder; training can make more of it than the identity."""
    if musicgen.kind != "stereo":
        pytest.skip("T5 is narrower than the decoder")
    directory = tmp_path / "model"
    export.export(imported, directory, "autosong")
    tensors = Tensors.open(directory)
    name = "conditions.sources.description.projection.bias"
    files.write(directory, [(key, tensors.read(key) + (key == name)) for key in tensors])
    with pytest.raises(UserError, match="its projection of the text's states has been trained"):
        export.export(directory, tmp_path / "out", "musicgen")


def test_every_parameter_comes_from_the_checkpoint(musicgen, imported):
    """Bit for bit, but for the type vectors, of which MusicGen has none."""
    config = config_file.load(imported / "config.json")
    assert (config.sampling.top_k, config.sampling.cfg_scale) == (250, 3.0)
    _, params = released.read(str(musicgen.directory)).load()
    state = {name: tensor.numpy() for name, tensor in musicgen.model.state_dict().items()}
    for path, leaf in parameters.leaves(params).items():
        if path.startswith("conditions/types"):
            assert not leaf.any()
    np.testing.assert_array_equal(params["decoder"]["blocks"]["mlp"]["up"]["kernel"][1],
                                  state["decoder.model.decoder.layers.1.fc1.weight"].T)
    np.testing.assert_array_equal(params["frames"]["heads"][3], state["decoder.lm_heads.3.weight"].T)


def test_the_commands_without_torch(musicgen, tmp_path, environment_without):
    """From the released files to songs, and out again, where neither torch nor transformers can be imported."""
    if musicgen.kind == "stereo":
        pytest.skip("the commands do nothing else for it than for mono")
    environment = environment_without("torch", "transformers", "tensorflow")

    def run(command, *flags):
        done = subprocess.run([sys.executable, "-m", f"autosong_jax.{command}", *flags], env=environment, cwd=tmp_path,
                              capture_output=True, text=True)
        assert not done.returncode, done.stderr
        return done.stdout

    workdir = musicgen.directory
    if musicgen.kind == "mono":
        run("convert", f"--source={musicgen.directory}", "--workdir=work")
        workdir = "work"
    flags = ["--text=love rain", "--duration=0.4", "--output=song.wav", "--codes_output=song.npy"]
    if musicgen.kind == "melody":
        io.write(tmp_path / "melody.wav", np.random.default_rng(0).normal(size=(1, 9000)) / 9, 800)
        flags.append("--melody=melody.wav")
    assert "song.wav: 0.40 s" in run("generate", f"--workdir={workdir}", *flags)
    codes = np.load(tmp_path / "song.npy")
    assert codes.shape == (20, musicgen.num_codebooks)
    audio, rate = io.read(tmp_path / "song.wav")
    assert audio.shape == (musicgen.model.config.decoder.audio_channels, 20 * 16) and rate == 800
    expected = autosong_jax.load(str(musicgen.directory)).generate(
        description="love rain", duration=0.4,
        melody=io.read(tmp_path / "melody.wav", 800, 1)[0] if musicgen.kind == "melody" else None)
    np.testing.assert_array_equal(codes, expected.codes)
    if musicgen.kind == "mono":
        assert "written as musicgen" in run("convert", "--workdir=work", "--export=out")


def test_melodies_are_heard(musicgen, imported):
    singer = autosong_jax.load(imported)
    time = np.arange(16_000) / 800
    songs = []
    for hertz in (110.0, 164.8):
        melody = np.sin(2 * np.pi * hertz * time)[None].astype(np.float32)
        if musicgen.kind != "melody":
            with pytest.raises(UserError, match="melody was given, but the model was not trained with it"):
                singer.generate(description="love", melody=melody)
            return
        songs.append(singer.generate(description="love", melody=melody, duration=0.4, temperature=0.0).codes)
    assert not np.array_equal(*songs)


def test_bad_sources(musicgen, make_musicgen, tmp_path):
    directory = tmp_path / "model"
    shutil.copytree(musicgen.directory, directory)
    config = json.loads((directory / "config.json").read_text())

    def refuses(message, **changes):
        (directory / "config.json").write_text(json.dumps(config | changes))
        with pytest.raises(UserError, match=message) as error:
            released.read(str(directory)).write(tmp_path / "workdir")
        assert "\n" not in str(error.value)
        assert not (tmp_path / "workdir" / "config.json").exists()

    refuses(r"config.json is of a model of type 'bert', expected one of musicgen", model_type="bert")
    refuses(r"config.json has decoder None", decoder=None)
    refuses(r"fc2.weight of shape \[\d+, \d+\], expected \[\d+, 7\]", decoder=config["decoder"] | {"ffn_dim": 7})
    refuses(r"lacks the tensor decoder.model.decoder.layers.\d+",
            decoder=config["decoder"] | {"num_hidden_layers": 9})
    refuses(r"which a MusicGen of this shape has no place for", decoder=config["decoder"] | {"num_hidden_layers": 1})
    refuses(r"num_codebooks 3 of the decoder, expected", decoder=config["decoder"] | {"num_codebooks": 3})
    refuses(r"scale_embedding True", decoder=config["decoder"] | {"scale_embedding": True})
    (directory / "config.json").write_text(json.dumps(config))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    for name, message in [("full", "--workdir=.*full is not empty"),
                          ("full/file/x", "file/x lies below .*full/file, which is a file")]:
        with pytest.raises(UserError, match=message):
            released.read(str(directory)).write(tmp_path / name)
    (directory / "config.json").unlink()
    with pytest.raises(UserError, match=r"neither config.json nor state_dict.bin"):
        released.read(str(directory))


def test_only_a_musicgen_is_exported_as_one(toy_workdir, tmp_path):
    with pytest.raises(UserError, match=r"is no MusicGen: data.end_of_song is True, not False; .*--format=autosong"):
        export.export(toy_workdir, tmp_path / "out", "musicgen")
    assert export.export(toy_workdir, tmp_path / "out") == "autosong"
    assert config_file.load(toy_workdir / "config.json").data.path
    assert not config_file.load(tmp_path / "out" / "config.json").data.path


def test_the_codec_of_a_workdir_is_no_model(imported):
    with pytest.raises(UserError, match=r"codec/config.json is of a model of type 'encodec', .* or a workdir"):
        autosong_jax.load(imported / "codec", "--workdir")
