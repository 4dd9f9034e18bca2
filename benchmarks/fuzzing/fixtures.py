"""What the cases are given before it is damaged: tiny models with random weights, a dataset, recordings, lyrics.

python -m benchmarks.fuzzing.fixtures DIR

A fixture is a file or a folder of its name in DIR. Nothing is trained: weights as they begin are weights, too.
"""

import json
import pathlib
import shutil
import sys

import numpy as np

from autosong_jax import config as config_file
from benchmarks.fuzzing import prep

LYRICS = "[verse]\nla la love\n\n[chorus]\nlo lo rain\n"
_WORDS = ("love", "rain", "night", "blue")


def make(folder: pathlib.Path) -> None:
    """Makes all fixtures in a new folder."""
    folder.mkdir(parents=True)
    _files(folder)
    write_dataset(folder / "dataset")
    for name, fields in [("workdir", {}), ("masked", {"objective.name": "masked_spans", "model.pattern": "parallel",
                                                      "data.end_of_song": False, "sampling.masked.steps": (2, 1, 1)})]:
        _workdir(folder / name, folder / "dataset", fields)
    _workdir(folder / "accompanist", folder / "dataset", {}, recording_sources())
    heads = {"heads": [[0, 0]], "songs": 2, "syllables": 8, "mean_error": 0.1}
    (folder / "workdir" / "alignment.json").write_text(json.dumps(heads))
    _musicgen(folder / "musicgen")
    from autosong_jax.pretrained import export, released

    released.read(str(folder / "musicgen")).write(folder / "converted")
    export.export(folder / "workdir", folder / "exported")


def _files(folder: pathlib.Path) -> None:
    import soundfile

    rng = np.random.default_rng(0)
    (folder / "lyrics.txt").write_text(LYRICS, encoding="utf-8")
    tone = 0.3 * np.sin(np.arange(8000) * 0.17) + 0.01 * rng.standard_normal(8000)
    for name in ("song.wav", "song.flac", "song.ogg", "song.mp3"):
        soundfile.write(folder / name, tone, 16000)
    np.save(folder / "codes.npy", rng.integers(16, size=(9, 3), dtype=np.uint16))
    np.save(folder / "encodec.npy", rng.integers(64, size=(9, 4), dtype=np.uint16))
    somebodys = folder / "somebodys songs"
    prep.make(folder, tone)
    for i in range(2):
        (somebodys / f"song {i}").mkdir(parents=True)
        (somebodys / f"song {i}" / "lyrics.txt").write_text(LYRICS, encoding="utf-8")
        soundfile.write(somebodys / f"song {i}" / "audio.wav", tone, 16000)


    sung = [{"syllable": syllable, "start": 0.08 * i, "end": 0.08 * i + 0.06}
            for i, syllable in enumerate(["la", "la", "love", "lo", "lo", "rain"])]
    for i in range(2):
        song = folder / "timed songs" / f"song {i}"
        song.mkdir(parents=True)
        (song / "lyrics.txt").write_text(LYRICS, encoding="utf-8")
        (song / "notes.json").write_text(json.dumps(sung))
        soundfile.write(song / "audio.wav", tone, 16000)


def write_dataset(directory: pathlib.Path) -> None:
    """Six songs to train on and two to validate with, each with a backing: 3 codebooks of 16, 25 frames a second."""
    from autosong_jax.codecs.melrvq.codec import MelRVQ
    from autosong_jax.data import schema, tfrecord
    from autosong_jax.sources.text.encoders import get_text_encoder

    rng, of_backing = np.random.default_rng(0), np.random.default_rng(1)
    noise = rng.normal(size=(1, 16000)).astype(np.float32)
    codec = MelRVQ.fit([noise], num_codebooks=3, codebook_size=16)
    codec.save(directory / "codec")
    encoder = get_text_encoder("bytes")
    encoder.info.save(directory)
    features = schema.song_features(codec.info, encoder.info, ("text", "backing"))

    def record(name: str, frames: int) -> bytes:
        lyrics = f"[verse]\nla {name}\n\n[chorus]\nlo lo"
        encoded = encoder.encode_lyrics(lyrics)
        return schema.serialize(features, {
            "id": name, "group": name, "frame_rate": 25.0, "lyrics": lyrics, "genre": "pop", "description": "",
            "codes": rng.integers(16, size=(frames, 3), dtype=np.uint16),
            "backing_codes": of_backing.integers(16, size=(frames, 3), dtype=np.uint16),
            "text_encoder": encoder.name, "text_encoder_revision": encoder.revision,
            "text_ids": encoded.ids, "section_ids": encoded.sections, "line_ids": encoded.lines,
            "genre_ids": encoder.encode("pop"), "description_ids": encoder.encode("")})

    lengths = {"train": [8, 20, 13, 12, 9, 17], "validation": [10, 15]}
    for split, frames in lengths.items():
        records = [record(f"{split} {i}", count) for i, count in enumerate(frames)]
        tfrecord.write_records(schema.shard_path(directory, split, 0, 1), records)
    schema.write_dataset_info(directory, features, {split: [len(frames)] for split, frames in lengths.items()})


def settings() -> dict[str, object]:
    """The fields of the toys' config that differ from `run_local(defaults.base())`."""
    return {"data.seconds": 0.48, "data.batch_size": 2, "model.width": 16, "model.mlp_width": 32,
            "sources.lyrics.max_length": 40, "sources.lyrics.width": 16, "sources.genre.max_length": 4,
            "sources.genre.width": 16, "model.layers": 1, "train.steps": 1, "train.log_every": 1,
            "train.eval_every": 0, "train.checkpoint_every": 1}


def recording_sources() -> dict[str, object]:
    """The sources of a model that goes with a backing, in the style of a clip."""
    from autosong_jax import defaults

    return {"backing": defaults.source(kind="backing", max_length=12, width=8, heads=2, layers=1),
            "style": defaults.source(kind="style", max_length=4)}


def _workdir(workdir: pathlib.Path, dataset: pathlib.Path, fields: dict[str, object],
             sources: dict[str, object] | None = None) -> None:
    """What training would leave: steps 1 and 2, their weights as they began."""
    from flax import nnx

    from autosong_jax import defaults
    from autosong_jax.codecs.info import CodecInfo
    from autosong_jax.models.build import build_model
    from autosong_jax.sources.text.encoders import TextEncoderInfo
    from autosong_jax.workdir import checkpoints

    config = config_file.run_local(defaults.base())
    config.update_from_flattened_dict(settings() | fields)
    config.sources = sources or config.sources
    codec, text = CodecInfo.load(dataset / "codec"), TextEncoderInfo.load(dataset)
    model = build_model(config, codec, text, rngs=nnx.Rngs(0))
    params = nnx.to_pure_dict(nnx.split(model)[1])
    checkpoints.save_weights(workdir, params)
    (workdir / "checkpoints" / "0").rename(workdir / "checkpoints" / "1")
    shutil.copytree(workdir / "checkpoints" / "1", workdir / "checkpoints" / "2")
    shutil.copytree(dataset / "codec", workdir / "codec")
    text.save(workdir)
    config_file.save(config, workdir / "config.json")


def _musicgen(directory: pathlib.Path) -> None:
    """A released MusicGen, as the hub holds it: 4 codebooks of 64, 50 frames a second."""
    from flax import nnx

    from autosong_jax.codecs.encodec import codec as encodec
    from autosong_jax.codecs.encodec.module import Encodec
    from autosong_jax.codecs.encodec.settings import EncodecConfig, EncodecInfo
    from autosong_jax.models.build import build_model
    from autosong_jax.pretrained import musicgen
    from autosong_jax.sources.text import t5_names as t5
    from autosong_jax.sources.text.encoders import TextEncoderInfo
    from autosong_jax.sources.text.t5 import T5Encoder
    from autosong_jax.weights import files, parameters

    def params_of(module):
        return nnx.to_pure_dict(nnx.split(module)[1])

    audio = {"model_type": "encodec", "sampling_rate": 800, "target_bandwidths": [1.2], "num_filters": 4,
             "hidden_size": 8, "codebook_size": 64, "codebook_dim": 8, "upsampling_ratios": [4, 4],
             "use_causal_conv": False, "use_conv_shortcut": False, "num_lstm_layers": 1}
    words = {"model_type": "t5", "vocab_size": 8, "d_model": 24, "d_kv": 8, "d_ff": 40, "num_layers": 1, "num_heads": 3,
             "feed_forward_proj": "relu"}
    shape = EncodecConfig.of(audio)
    codec = params_of(Encodec(shape, rngs=nnx.Rngs(0)))
    text = t5.read_config(words)
    info = EncodecInfo.of(shape, 1.2, False, "0" * 16)
    released = {"model_type": "musicgen", "text_encoder": words, "audio_encoder": audio, "decoder": {
        "vocab_size": 64, "hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 1, "ffn_dim": 32,
        "num_codebooks": 4, "audio_channels": 1, "activation_function": "gelu"}}
    config = musicgen.model_config(released, info)
    config.data.seconds = 0.24
    decoder = params_of(build_model(config, info, TextEncoderInfo("t5:x", "0", "states", width=24),
                                    rngs=nnx.Rngs(0)))

    def tensors():
        recipes = encodec.recipes(parameters.leaves(codec), shape)
        yield from ((f"audio_encoder.{name}", array) for name, array in parameters.unload(codec, recipes))
        encoder = params_of(T5Encoder(text, rngs=nnx.Rngs(0)))
        yield from ((f"text_encoder.{name}", array) for name, array in parameters.unload(encoder, t5.recipes(text)))
        yield from musicgen.unload(decoder, config)

    files.write(directory, tensors(), max_shard_bytes=40_000)
    (directory / "config.json").write_text(json.dumps(released, indent=2), encoding="utf-8")
    _tokenizer(directory / "tokenizer.json")


def _tokenizer(path: pathlib.Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -4.0), *(("▁" + word, -2.0) for word in _WORDS)]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=2))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    tokenizer.save(str(path))


if __name__ == "__main__":
    make(pathlib.Path(sys.argv[1]))
