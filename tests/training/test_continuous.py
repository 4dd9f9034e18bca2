"""The continuous system, small: an autoencoder against a discriminator, a song model of its latents, a vocoder."""

import jax
import numpy as np
import pytest
from flax import nnx
from flax.traverse_util import flatten_dict

from autosong_jax import config as config_file
from autosong_jax import rankers
from autosong_jax.audio import io
from autosong_jax.codecs.codec import load_codec
from autosong_jax.codecs.mel.settings import MelConfig, MelInfo
from autosong_jax.data.dataset import SongDataset, train_batches
from autosong_jax.errors import UserError
from autosong_jax.evaluation.teacher_forced import TeacherForced
from autosong_jax.models.build import build_model
from autosong_jax.training import loop
from autosong_jax.workdir.checkpoints import load_frozen
from autosong_jax.workdir.vocoders import open_vocoder
from autosong_jax.workdir.workdir import Workdir
from configs import autosong_autoencoder, autosong_mel, vocoder
from data_prep.pipeline import Options, export
from tests.training.test_loop import cut_off, metrics_of, state_of
from tests.training.test_step import assert_close, mesh_of, run_steps

RATE, HOP, BANDS = 8000, 64, 32


@pytest.fixture(scope="module")
def songs(tmp_path_factory):
    """Twelve songs of a second, each of one tone."""
    directory = tmp_path_factory.mktemp("songs")
    for i in range(12):
        folder = directory / f"song_{i}"
        folder.mkdir()
        samples = RATE + 50 * i
        io.write(folder / "audio.wav", 0.3 * np.sin(np.arange(samples) * (0.1 + 0.02 * i)).astype(np.float32), RATE)
        (folder / "lyrics.txt").write_text("la la " * (1 + i % 3))
    return directory


@pytest.fixture(scope="module")
def mels(songs, tmp_path_factory):
    path = tmp_path_factory.mktemp("mels") / "dataset"
    export(Options(str(songs), str(path), codec=f"mel:sample_rate={RATE},hop={HOP},n_mels={BANDS}",
                   validation_fraction=0.2))
    return path


def small(config, dataset, **fields):
    """Trained on devices that are cut in every way, as the test of eight devices has them, which compiles it then."""
    config = config_file.run_local(config)
    config.update_from_flattened_dict({
        "data.path": str(dataset), "data.seconds": 32 * HOP / RATE, "data.batch_size": 8, "autoencoder.width": 2,
        "autoencoder.blocks": 0, "train.steps": 4, "train.log_every": 2, "train.eval_every": 4,
        "train.checkpoint_every": 2, "optimizer.warmup_steps": 1, "optimizer.eps": 1e-2, "mesh.data": 2,
        "mesh.fsdp": 2, "mesh.tensor": 2, **fields})
    return config


@pytest.fixture(scope="module")
def autoencoder(mels, tmp_path_factory):
    config = small(autosong_autoencoder.get_config(), mels, **{
        "autoencoder.discriminator_width": 2, "objective.adversarial_start": 2, "data.first_frames": 16,
        "data.curriculum_steps": 2, "optimizer.discriminator_learning_rate": 1e-3})
    workdir = tmp_path_factory.mktemp("autoencoder") / "workdir"
    loop.train(config, workdir)
    return config, workdir


def song_config(mels, autoencoder, lyrics=False, **fields):
    """Without a source unless it is to hear lyrics: sources are most of what there would be to compile."""
    config = small(autosong_mel.get_config(), mels, **{
        "latents.workdir": str(autoencoder), "model.width": 8, "model.mlp_width": 16, "latents.layers": 1,
        "latents.hidden": 8, "latents.draws": 1, "latents.steps": 2, "latents.short_context": 2, "latents.mlp_width": 8,
        **fields})
    config.sources.lyrics.update(max_length=24, width=8)
    config.sources = {"lyrics": config.sources.lyrics} if lyrics else {}
    return config


@pytest.fixture(scope="module")
def song_model(mels, autoencoder, tmp_path_factory):
    config, workdir = song_config(mels, autoencoder[1]), tmp_path_factory.mktemp("latents") / "workdir"
    config.data.end_of_song = False
    loop.train(config, workdir)
    return config, workdir


def check_cut_off_and_started_again(config, workdir, other):
    cut_off(workdir, other, 2)
    loop.train(config, other)
    one, two = (state_of(Workdir(path).config, path, config.train.steps) for path in (workdir, other))
    jax.tree.map(np.testing.assert_array_equal, one, two)
    return one


def test_a_game_cut_off_in_the_middle_goes_on_as_if_it_had_not(autoencoder, tmp_path):
    """Both sides of it, and the states of their optimizers."""
    config, workdir = autoencoder
    state = check_cut_off_and_started_again(config, workdir, tmp_path)
    moments = [np.asarray(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(state.optimizer)
               if "discriminator" in str(path)]
    assert moments and all(np.isfinite(leaf).all() for leaf in moments) and any(leaf.any() for leaf in moments)
    lines = [line for line in metrics_of(workdir) if line["kind"] == "train"]
    assert lines[0]["discriminator"] == 0 < lines[1]["discriminator"]  # it begins at step 2


def test_a_song_model_takes_over_the_autoencoder_and_leaves_it_alone(mels, autoencoder, song_model):
    config, workdir = song_model
    run = Workdir(workdir)
    assert run.config.autoencoder.width == 2 and not run.config.autoencoder.discriminator_width
    params, _ = run.read_weights()
    held = params["frames"]["latents"]
    ours, _ = Workdir(autoencoder[1]).read_weights()
    taken = flatten_dict(held["autoencoder"])
    assert taken and not any("discriminator" in path for path in taken)
    for path, value in taken.items():
        np.testing.assert_array_equal(value, flatten_dict(ours)[path])
    assert "latents" not in state_of(run.config, workdir, 4).params["frames"]
    # The statistics, of the same windows one by one.
    dataset = SongDataset(mels, "train")
    batches = train_batches(dataset, batch_size=16, frames=32, sources={}, end_of_song=False, seed=config.seed)
    model = nnx.merge(*_autoencoder_of(run))
    columns = []
    for frames, length in zip(batches[0]["frames"], batches[0]["num_frames"], strict=True):
        latents = model.to_latents(dataset.codec.config.values(frames[None]))
        columns.append(np.asarray(latents)[0, :-(-int(length) // 16)])
    columns = np.concatenate(columns)
    np.testing.assert_allclose(held["mean"], columns.mean(axis=0), atol=1e-4)
    np.testing.assert_allclose(held["spread"], columns.std(axis=0), rtol=1e-3)


def _autoencoder_of(run):
    from autosong_jax.models.of_mels import autoencoder

    params, _ = run.read_weights()
    graph = nnx.graphdef(nnx.eval_shape(lambda: autoencoder(run.config, "float32", rngs=nnx.Rngs(0))))
    return graph, params["frames"]["latents"]["autoencoder"]


def test_a_song_model_cut_off_and_started_again_equals_undisturbed(song_model, tmp_path):
    """Even where the autoencoder that it came from is gone meanwhile."""
    config, workdir = song_model
    config = config.copy_and_resolve_references()
    config.latents.workdir = str(tmp_path / "gone")
    check_cut_off_and_started_again(config, workdir, tmp_path)


@pytest.mark.parametrize("fields", [
    {"latents.head": "distilled", "latents.order": "raster"},
    {"latents.head": "mixture", "latents.residual": True, "latents.components": 2},
    {"latents.head": "regression", "latents.adversarial": 0.1, "latents.noise": False, "latents.short_context": 0,
     "latents.mlp_layers": 0}], ids=lambda fields: fields["latents.head"])
def test_every_head_trains(mels, autoencoder, tmp_path, fields):
    """One of them to lyrics."""
    config = song_config(mels, autoencoder[1], lyrics=fields["latents.head"] == "mixture", **fields, **{
        "train.steps": 1, "train.log_every": 1, "train.checkpoint_every": 1, "train.eval_every": 0})
    loop.train(config, tmp_path)
    [line] = metrics_of(tmp_path)
    assert np.isfinite(line["loss"]) and np.isfinite(line["gradient_norm"]) and line["targets"] > 0


def test_eight_devices_equal_one(autoencoder, song_model):
    for config, _ in (autoencoder, song_model):
        one, eight = (run_steps(config, mesh_of(*shape), steps=2) for shape in ((1, 1, 1), (2, 2, 2)))
        assert_close(one[1], eight[1], 1e-4)
        assert_close(one[0].params, eight[0].params, 1e-4)


def test_each_song_has_its_own_part_of_the_loss(mels, song_model):
    workdir, dataset = Workdir(song_model[1]), SongDataset(mels, "validation")
    model, _ = workdir.load_trained()
    forced = TeacherForced(workdir.context, model, dataset)
    objective, total = forced.objectives["next_latent"], None
    for _, batch, keys in forced.windows(range(len(dataset))):
        examples, shared = objective.examples(batch, None, keys, None)
        memory = model.encode(batch["sources"], np.ones((len(keys), len(batch["sources"])), bool))
        sums = objective.loss(model, examples, shared, memory, None)[1]
        total = sums if total is None else jax.tree.map(np.add, total, sums)
    songs = [song["next_latent"] for song in forced.read(range(len(dataset)))]
    assert len(songs) > 1 and not forced.has_choices
    for name, of_all in total.items():
        assert sum(song[name] for song in songs) == pytest.approx(float(of_all), rel=1e-4)


@pytest.fixture(scope="module")
def trained_vocoder(songs, tmp_path_factory):
    root = tmp_path_factory.mktemp("vocoder")
    export(Options(str(songs), str(root / "sound"), codec=f"pcm:sample_rate={RATE},hop={HOP}",
                   validation_fraction=0.2))
    config = small(vocoder.get_config(f"n_mels={BANDS}"), root / "sound", **{
        "vocoder.width": 8, "vocoder.blocks": 1, "vocoder.mlp_width": 8, "vocoder.discriminator_width": 2,
        "objective.adversarial_start": 1})
    loop.train(config, root / "workdir")
    return root / "workdir"


def test_a_vocoder_trains_and_is_what_songs_are_heard_by(mels, autoencoder, trained_vocoder, songs, tmp_path):
    lines = metrics_of(trained_vocoder)
    assert all(np.isfinite(line["loss"]) for line in lines) and lines[-1]["stft"] > 0
    config = song_config(mels, autoencoder[1], **{"latents.vocoder": str(trained_vocoder), "train.steps": 1,
                                                  "train.log_every": 1, "train.checkpoint_every": 1,
                                                  "train.eval_every": 0})
    loop.train(config, tmp_path)
    codec = load_codec(tmp_path / "codec")
    run = Workdir(trained_vocoder)
    graph = nnx.graphdef(nnx.eval_shape(lambda: build_model(run.config, run.codec, run.text, rngs=nnx.Rngs(0))))
    model = nnx.merge(graph, run.read_weights()[0])
    audio, _ = io.read(songs / "song_1" / "audio.wav", RATE, 1)
    frames = codec.encode(audio)
    expected = np.asarray(model(codec.config.values(frames[None])))
    np.testing.assert_allclose(codec.decode(frames), expected.clip(-1, 1), atol=1e-5)
    blocks = np.concatenate(list(codec.decode_blocks([frames[:50], frames[50:]], 20)), axis=1)
    np.testing.assert_allclose(blocks, expected.clip(-1, 1), atol=1e-4)
    with pytest.raises(UserError, match=r"latents.vocoder .* is of objective reconstruction: expected a voc"):
        open_vocoder(str(autoencoder[1]), codec.info)
    with pytest.raises(UserError, match=r"latents.vocoder .* reads songs as mel spectrograms, but these are samples"):
        open_vocoder(str(trained_vocoder), run.codec)
    with pytest.raises(UserError, match=r"reads mel spectrograms of .* but the songs are of"):
        open_vocoder(str(trained_vocoder), MelInfo.of(MelConfig(RATE, HOP, 0, 16)))


def test_what_does_not_fit_together_is_said(mels, autoencoder, song_model, toy_dataset, toy_config, tmp_path):
    for config, expected in [
            (song_config(mels, ""), "latents.workdir is empty"),
            (song_config(mels, song_model[1]), "is of objective next_latent: expected an autoencoder"),
            (song_config(toy_dataset, autoencoder[1]), "has another codec than the dataset"),
            (small(autosong_autoencoder.get_config(), toy_dataset), "songs as mel spectrograms, but these are codes"),
            (small(vocoder.get_config(), mels), "reads songs as samples, but these are mel spectrograms"),
            (song_config(mels, autoencoder[1], **{"train.trainable": (".*",)}), "not found in frames/latents"),
            (toy_config(**{"data.path": str(mels)}), "reads songs as codes, but these are mel")]:
        with pytest.raises(UserError, match=expected):
            loop.train(config_file.check(config), tmp_path / "none")
    assert not (tmp_path / "none").exists()
    assert load_frozen(song_model[1], {}) == {}


def test_songs_of_latents_are_sung_streamed_and_go_on_from_recordings(song_model, songs):
    """Over several windows; the stream of a song is the song, and a prompt's columns stand at its beginning."""
    from autosong_jax.sampling import singer

    model = singer.load(song_model[1])
    columns, rate = HOP * 16, model.codec.frame_rate
    song = model.generate(duration=9 * columns / RATE, seed=3)
    assert song.frames.shape == (9 * 16, BANDS) and song.frames.dtype == np.uint8
    assert song.audio.shape == (1, 9 * columns) and np.isfinite(song.audio).all()
    made = model.sing_units(model.encode_conditions([{}]), [3], duration=9 * columns / RATE)
    assert made[0].shape == (9, BANDS // 16 * 4)
    np.testing.assert_array_equal(np.concatenate(list(model.medium.frames(made))), song.frames)
    two = model.sing_units(model.encode_conditions([{}] * 2), [3, 4], duration=9 * columns / RATE)
    np.testing.assert_allclose(two[0], made[0], atol=1e-4)
    assert np.abs(two[1] - made[0]).max() > 0.1
    chunks = list(model.stream(duration=9 * columns / RATE, seed=3, chunk_seconds=2 * columns / RATE))
    streamed = np.concatenate([chunk.frames for chunk in chunks])
    assert len(chunks) > 2 and np.abs(streamed.astype(int) - song.frames).max() <= 1
    audio, _ = io.read(songs / "song_1" / "audio.wav", RATE, 1)
    prompt = audio[:, :2 * columns + 100]  # of which two columns are whole
    units = model.medium.units(model.codec.encode(prompt))
    assert units.shape == (2, BANDS // 16 * 4)
    longer = model.generate(duration=5 * columns / RATE, prompt_audio=prompt)
    assert len(longer.frames) == 5 * 16 and rate == RATE / HOP
    with pytest.raises(UserError, match=r"likelihood: a model of latents with the head 'flow'.* latents\.head mixture"):
        model.generate(candidates=2, rank_by=rankers.ranker("likelihood"))


def test_an_autoencoder_sings_nothing(autoencoder):
    from autosong_jax.sampling import singer

    with pytest.raises(UserError, match="is of objective reconstruction, which sings nothing: expected one of next_st"):
        singer.load(autoencoder[1])
