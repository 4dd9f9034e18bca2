"""Cases of the commands that make datasets: `data_prep.export`, `data_prep.songbook` and `data_prep.unpickle`."""

import importlib.util
import json
import os
import pathlib
import pickle
import shutil
from collections.abc import Sequence

from benchmarks.fuzzing import damage
from benchmarks.fuzzing.scene import Case, Scene

EXPORT, SONGBOOK, UNPICKLE = (f"data_prep.{name}" for name in ("export", "songbook", "unpickle"))
IMPORTS = [EXPORT, SONGBOOK, UNPICKLE, "data_prep.pipeline", "data_prep.report", "scipy.sparse", "scipy.fft",
           "tensorflow_datasets", "benchmarks.fuzzing.forked"]
_HAS_TORCH = importlib.util.find_spec("torch") is not None and importlib.util.find_spec("transformers") is not None
if _HAS_TORCH:
    IMPORTS[:0] = ["torch", "safetensors.torch", "transformers", "data_prep.encodec", "data_prep.frozen_text"]
_BYSTANDER = "somebodys songs"
_SMALL = "melrvq:codebook_size=8,num_codebooks=2,n_mels=20"
_EXPORT = {
    "sources": ("text,backing", "backing", "text,chroma,backing", "x", ""),
    "validation_fraction": ("0", "0.5", "1", "0.99"), "test_fraction": ("0.5", "1"), "shards": ("2", "100000", "99999"),
    "max_minutes": ("0.001", "1", "0"), "bandwidth": ("0.8", "6"), "workers": ("2", "1000000"),
    "text_encoder": ("pinyin", "t5", "t5:", "bert:x", "mt5:/x", "gpt:x", "bytes:x"), "strict": ("true",),
    "text_states": ("stored", "on_the_fly", "x"), "require_lyrics": ("false",), "overwrite": ("true",),
    "runner": ("local", "x"), "beam_options": ("--direct_num_workers=2", "'", "--runner=x"),
    "codec": ("melrvq", "melrvq:", "melrvq:,", "melrvq=1", "melrvq:hop", "mel", "pcm:hop=7", "./x",
              "encodec_24khz", "encodec_99khz")}
_SETTINGS = {"sample_rate": ("8000", "11025"), "hop": ("320", "1000", "1"), "subframes": ("1", "3", "640"),
             "n_fft": ("512", "2", "1000"), "n_mels": ("1", "5", "100000"), "dynamic_range": ("10",),
             "floor": ("-60", "nan"), "num_codebooks": ("1", "300"), "codebook_size": ("1", "2", "100", "65537"),
             "x": ("1",)}
_SONGBOOK = {"songs": ("1", "2", "100001"), "seconds": ("5", "6.5", "600.1", "4.9"), "seed": ("3", "1" + "0" * 20)}


def export_flags(scene: Scene) -> Case:
    """Numbers and texts of any kind and size for the flags of an export."""
    return _export(scene, *damage.flags(scene.rng, _EXPORT, scene.rng.choice((1, 1, 2))))


def export_settings(scene: Scene) -> Case:
    """The same for the settings of the codecs that have some."""
    rng = scene.rng
    chosen = [flag.removeprefix("--") for flag in damage.flags(rng, _SETTINGS, rng.choice((1, 1, 2)))]
    return _export(scene, f"--codec={rng.choice((_SMALL, _SMALL, 'melrvq', 'mel', 'pcm'))}:{','.join(chosen)}".replace(
        f"{_SMALL}:", f"{_SMALL},"))


def export_paths(scene: Scene) -> Case:
    """Places that are none, where songs are read and a dataset is written."""
    rng = scene.rng
    name = rng.choice(("input", "output", "output", "codec", "text_encoder"))
    odd = _odd_output(scene) if name == "output" else damage.path(rng, scene.given, scene.take(_BYSTANDER))
    return _export(scene, f"--{name}={'t5:' if name == 'text_encoder' else ''}{odd}")


def export_meaningless(scene: Scene) -> Case:
    """Flags that mean nothing here or beside each other, and outputs that are somebody's."""
    rng = scene.rng
    songs, book = scene.take("songs"), scene.take(_BYSTANDER)
    (book / "report.json").write_text('{"title": "of somebody\'s own"}')
    return _export(scene, rng.choice((
        "--beam_options=--direct_num_workers=2", "--bandwidth=6", "--text_states=on_the_fly", "--bandwidth=nan",
        "--validation_fraction=nan", "--test_fraction=nan", "--max_minutes=nan", "--max_minutes=0", "--workers=1000000",
        "--shards=1000000000", "--validation_fraction=1", "--codec=melrvq:hop=640,hop=320", f"--output={songs}",
        f"--output={songs / 'a'}", f"--output={songs / 'new'}", f"--output={book}", f"--output={scene.given}",
        f"--output={songs / 'a' / 'audio.wav'}", f"--output={songs / 'a' / 'audio.wav' / 'x'}")),
        *rng.choice(((), ("--overwrite",))), wanted=(2,))


def export_songs(scene: Scene) -> Case:
    """Songs whose files are damaged, or something else."""
    rng, songs = scene.rng, scene.take("songs")
    for _ in range(rng.choice((1, 1, 2))):
        folder = songs / rng.choice("abc")
        path = rng.choice(sorted(folder.iterdir(), key=lambda path: path.name))
        what = rng.choice(("bytes", "else", "strange", "name", "lyrics"))
        if what == "bytes" and path.is_file():
            damage.bytes_of(rng, path)
        elif what == "else" and not path.is_dir():
            damage.something_else(rng, path)
        elif what == "strange" and path.is_file() and path.suffix != ".txt":
            _strange_audio(scene, path)
        elif what == "name" and folder.is_dir():
            odd = rng.choice([text for text in damage.TEXTS if text and "/" not in text and len(text) < 200])
            target = rng.choice((songs, folder)) / odd
            if not os.path.lexists(target):
                (folder if target.parent == songs else path).rename(target)
                break
        elif (folder / "lyrics.txt").is_file() and not (folder / "lyrics.txt").is_symlink():
            (folder / "lyrics.txt").write_bytes(damage.lyrics(rng))
    return _export(scene, *rng.choice(((), ("--sources=text,backing",), ("--strict",), ("--norequire_lyrics",))))


def export_manifest(scene: Scene) -> Case:
    """Manifests, damaged as a whole, in a line, or in a value."""
    rng = scene.rng
    songs, lines = scene.take("songs"), []
    for name in "abc":
        audio = next(path for path in sorted((songs / name).iterdir()) if path.stem == "audio")
        lines.append({"id": name, "audio": f"songs/{name}/{audio.name}", "lyrics": "[verse]\nla", "genre": "pop",
                      "backing": f"songs/{name}/backing.wav"})
    manifest = scene.file("songs.jsonl", "\n".join(map(json.dumps, lines)).encode())
    what = rng.choice(("bytes", "value", "value", "value", "line", "path"))
    if what == "bytes":
        damage.bytes_of(rng, manifest)
    elif what == "line":
        odd = rng.choice((b"[" * 100_000, b'{"a":' * 100_000, b"\0", b"\xff\xfe", b"[]", b"5", b"{", b"9" * 10_000,
                          b'{"id": "x", "audio": "\\ud800"}', b'{"id": "x"' + b" " * 2**24, b"a,b\n" * 2000))
        whole = manifest.read_bytes()
        manifest.write_bytes(rng.choice((odd + b"\n" + whole, whole + b"\n" + odd, odd)))
    else:
        line = rng.choice(lines)
        key = rng.choice(("id", "audio", "lyrics", "lyrics_file", "genre", "group", "description", "backing"))
        line[key] = rng.choice((*damage.VALUES, *damage.TEXTS, 10**400, "la " * 500_000))
        if what == "path":
            if key == "lyrics_file":
                del line["lyrics"]
            odd = damage.path(rng, scene.given, scene.take(_BYSTANDER))
            line[rng.choice(("audio", "lyrics_file", "backing"))] = os.fsencode(odd).decode("utf-8", "surrogateescape")
        manifest.write_text("\n".join(map(json.dumps, lines)))
    return _export(scene, f"--input={manifest}", *rng.choice(((), ("--sources=text,backing",))))


def export_output(scene: Scene) -> Case:
    """Datasets that are there already, and what an export that was stopped has left, damaged."""
    rng = scene.rng
    output = scene.take(rng.choice(("exported songs", "stopped")))
    rng.choice((damage.any_file, damage.json_files))(rng, output) if output.name != "stopped" else (
        damage.any_file(rng, output))
    return _export(scene, f"--output={output}", *rng.choice(((), ("--overwrite",), ("--shards=1", "--overwrite"))),
                   changes=[output])


def export_encodec(scene: Scene) -> Case:
    """An EnCodec whose files are damaged."""
    codec = scene.take("encodec")
    _damage_model(scene, codec)
    return _export(scene, f"--codec={codec}", *scene.rng.choice(((), ("--bandwidth=1.6",), ("--bandwidth=0.8",))))


def export_text_encoder(scene: Scene) -> Case:
    """A text encoder whose files are damaged."""
    kind = scene.rng.choice(("t5", "bert"))
    _damage_model(scene, scene.take(kind))
    return _export(scene, f"--text_encoder={kind}:{scene.given / kind}",
                   *scene.rng.choice(((), ("--text_states=on_the_fly",))))


def songbook(scene: Scene) -> Case:
    """Numbers of any size, and places that are none."""
    rng = scene.rng
    flags = damage.flags(rng, _SONGBOOK, 1) if rng.random() < 0.6 else []
    if rng.random() < 0.6:
        flags += [f"--output={_odd_output(scene)}"]
    return Case(SONGBOOK, [f"--output={scene.made / 'book'}", "--songs=1", "--seconds=5", *flags])


def songbook_over_another(scene: Scene) -> Case:
    """Over a larger or another book, or one whose marker is damaged."""
    rng, book = scene.rng, scene.take("book")
    flags = rng.choice((["--songs=1"], ["--seed=1"], ["--seconds=6"], ["--duets"], None))
    if flags is None:
        damage.json_file(rng, book / "songbook.json")
        return Case(SONGBOOK, [f"--output={book}", "--songs=2", "--seconds=5"], changes=[book])
    return Case(SONGBOOK, [f"--output={book}", "--songs=2", "--seconds=5", *flags], wanted=(2,))


def unpickle(scene: Scene) -> Case:
    """Checkpoints that are damaged, want to run something, or are none; places that are none."""
    rng = scene.rng
    path, flags, wanted = scene.take("weights.bin"), [], (0, 2)
    what = rng.choice(("bytes", "bytes", "harm", "odd", "input", "output"))
    if what == "bytes":
        damage.bytes_of(rng, path)
    elif what == "harm":
        path.write_bytes(rng.choice((_harmful, _harmful_checkpoint))())
        wanted = (2,)
    elif what == "odd":
        _odd_checkpoint(scene, path)
    elif what == "input":
        flags = [f"--input={damage.path(rng, scene.given, scene.take(_BYSTANDER))}"]
    else:
        flags = [f"--output={_odd_output(scene)}"]
    return Case(UNPICKLE, [f"--input={path}", f"--output={scene.made / 'out'}", *flags], wanted)


def prep_nothing_wrong(scene: Scene) -> Case:
    """What has to work."""
    rng = scene.rng
    cases = [lambda: _export(scene), lambda: _export(scene, "--sources=text,backing"),
             lambda: _export(scene, "--text_encoder=pinyin", "--shards=2", "--test_fraction=0.3"),
             lambda: Case(SONGBOOK, [f"--output={scene.made / 'book'}", "--songs=2", "--seconds=5"]),
             lambda: Case(SONGBOOK, [f"--output={scene.take('book')}", "--songs=4", "--seconds=5"],
                          changes=[scene.given / "book"]),
             lambda: _export(scene, f"--output={scene.take('stopped')}", changes=[scene.given / "stopped"]),
             lambda: _export(scene, f"--output={scene.take('exported songs')}", "--overwrite", "--shards=2",
                             changes=[scene.given / "exported songs"])]
    if _HAS_TORCH:
        cases += [lambda: _export(scene, f"--codec={scene.take('encodec')}"),
                  lambda: _export(scene, f"--text_encoder=t5:{scene.take('t5')}", "--text_states=on_the_fly"),
                  lambda: _export(scene, f"--text_encoder=bert:{scene.take('bert')}"),
                  lambda: Case(UNPICKLE, [f"--input={scene.take('weights.bin')}", f"--output={scene.made / 'out'}"])]
    case = rng.choice(cases)()
    case.wanted = (0,)
    return case


_WITHOUT_TORCH = (export_flags, export_settings, export_paths, export_meaningless, export_songs, export_manifest,
                  export_output, songbook, songbook_over_another, prep_nothing_wrong)
_WITH_TORCH = (export_encodec, export_text_encoder, unpickle)
KINDS = {function.__name__.replace("_", "-"): function
         for function in (*_WITHOUT_TORCH, *(_WITH_TORCH if _HAS_TORCH else ()))}


def _export(scene: Scene, *flags: str, wanted: Sequence[int] = (0, 2), changes: Sequence[pathlib.Path] = ()) -> Case:
    return Case(EXPORT, [f"--input={scene.take('songs')}", f"--output={scene.made / 'dataset'}", f"--codec={_SMALL}",
                         "--workers=1", *flags], wanted, changes)


def _odd_output(scene: Scene) -> pathlib.Path | str:
    """A place that is none, or at least not in the working directory."""
    odd = damage.path(scene.rng, scene.made, scene.take(_BYSTANDER))
    return odd if str(odd).startswith(("/", "~")) else scene.made / odd


def _damage_model(scene: Scene, folder: pathlib.Path) -> None:
    rng = scene.rng
    what = rng.choice(("any", "any", "json", "config", "config", "pickle"))
    if what == "pickle":
        (folder / "model.safetensors").unlink()
        data = rng.choice((_harmful, _harmful_checkpoint, lambda: scene.take("weights.bin").read_bytes()))()
        (folder / "pytorch_model.bin").write_bytes(data)
    elif what == "config":
        damage.json_file(rng, folder / "config.json")
    else:
        (damage.any_file if what == "any" else damage.json_files)(rng, folder)


class _Payload:
    def __reduce__(self):
        return os.mkdir, ("pwned",)  # in the working directory, where it is found


def _harmful() -> bytes:
    return pickle.dumps({"a": _Payload()})


def _harmful_checkpoint() -> bytes:
    import io

    import torch

    file = io.BytesIO()
    torch.save({"a": torch.zeros(3), "b": _Payload()}, file)
    return file.getvalue()


def _odd_checkpoint(scene: Scene, path: pathlib.Path) -> None:
    """Well-formed, and yet nothing to work with."""
    import torch

    one = torch.zeros(1)
    torch.save(scene.rng.choice((
        {}, [], 5, None, one, {"a": one.expand(2**36)}, {"a": torch.zeros(2, 2).to_sparse()}, {1: one},
        {"a": {"b": one}},
        {"best_state": 5}, {"best_state": {"a": one}, "x": float("nan"), "y": "\x1b[2J"}, {"\x1b[2J": one},
        {"a": torch.zeros(2, dtype=torch.complex64)}, {("a", 1): one, "b": 2}, {"a": "x" * 10**6})), path)


def _strange_audio(scene: Scene, path: pathlib.Path) -> None:
    """Well-formed, and yet nothing to work with."""
    import numpy as np
    import soundfile

    rng = scene.rng
    samples, rate = rng.choice((0, 1, 100, 8000, 100_000)), rng.choice((1, 7, 999, 8000, 192_000, 2**30, 2**31 - 1))
    audio = np.full((samples, rng.choice((1, 2, 16, 200))), rng.choice((0.1, 0.0, np.nan, 1e30)), np.float32)
    path.unlink()
    soundfile.write(path.with_suffix(".wav"), audio, rate, format="WAV", subtype="FLOAT")


def make(folder: pathlib.Path, tone) -> None:
    """The fixtures of these cases, beside those of the others, from a recording of half a second at 16 kHz."""
    import numpy as np
    import soundfile

    from data_prep import pipeline
    from data_prep import songbook as books

    for name, suffix in (("a", "wav"), ("b", "mp3"), ("c", "flac")):
        song = folder / "songs" / name
        song.mkdir(parents=True)
        soundfile.write(song / f"audio.{suffix}", np.roll(np.tile(tone, 2), ord(name)), 16000)
        (song / "lyrics.txt").write_text(f"[verse]\nla {name}\n")
        (song / "genre.txt").write_text("pop")
        soundfile.write(song / "backing.wav", np.roll(tone, ord(name)), 16000)
    books.open_book(folder / "book", books.Book(3, 5.0, 0))
    for i in range(3):
        books.write_song(folder / "book" / books.song_name(i), books.make_song(0, i, 5))
    options = {"codec": _SMALL, "workers": 1}
    pipeline.export(pipeline.Options(str(folder / "songs"), str(folder / "exported songs"), **options))
    write = pipeline.output.write
    pipeline.output.write = lambda *_: (_ for _ in ()).throw(KeyboardInterrupt)
    try:
        pipeline.export(pipeline.Options(str(folder / "songs"), str(folder / "stopped"), **options))
    except KeyboardInterrupt:
        pipeline.output.write = write
    shutil.rmtree(folder / "stopped" / ".partial" / "dataset", ignore_errors=True)
    if _HAS_TORCH:
        _models(folder)


def _models(folder: pathlib.Path) -> None:
    import torch
    import transformers

    transformers.logging.disable_progress_bar()
    torch.manual_seed(0)
    transformers.EncodecModel(transformers.EncodecConfig(
        num_filters=2, hidden_size=8, codebook_size=16, upsampling_ratios=[8, 5, 4], sampling_rate=16000,
        target_bandwidths=[0.8, 1.6])).save_pretrained(folder / "encodec")
    words = ["love", "rain", "night", "blue"]
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -4.0), *(("▁" + word, -2.0) for word in words)]
    transformers.T5Tokenizer(vocab=pieces, extra_ids=0).save_pretrained(folder / "t5")
    transformers.T5EncoderModel(transformers.T5Config(
        vocab_size=8, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2)).save_pretrained(folder / "t5")
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]
    transformers.BertTokenizer(vocab={token: i for i, token in enumerate(vocabulary)}).save_pretrained(folder / "bert")
    transformers.BertModel(transformers.BertConfig(
        vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8,
        max_position_embeddings=12)).save_pretrained(folder / "bert")
    torch.save({"a": torch.zeros(3, 4), "b": torch.ones(5), "note": "text", "number": 3}, folder / "weights.bin")
