"""Cases of the commands that train and sing: `generate`, `train`, `train --plan`, `align`, `convert` and `codec`."""

import pathlib
from collections.abc import Sequence

from benchmarks.fuzzing import damage
from benchmarks.fuzzing.fixtures import settings
from benchmarks.fuzzing.scene import Case, Scene
from benchmarks.fuzzing.server import ROOT

GENERATE, TRAIN, ALIGN, CONVERT, CODEC = (
    f"autosong_jax.{name}" for name in ("generate", "train", "align", "convert", "codec"))
_SINGERS = ("workdir", "workdir", "masked", "accompanist", "exported", "converted", "musicgen")
_SONGS = ("song.wav", "song.flac", "song.ogg", "song.mp3")
_BYSTANDER = "somebodys songs"
# Flags of generate with values that are in order, or nearly so.
_GENERATE = {
    "seed": ("3", "4294967295", "4294967296"), "num_samples": ("2", "100000", "1000000000"),
    "duration": ("0.3", "1.0", "0", "1e-9", "100000"), "temperature": ("0.5",), "top_k": ("5",), "top_p": ("0.5", "2"),
    "cfg_scale": ("2",), "greedy": ("true", "false"), "hybrid_seconds": ("0.2", "9"), "rescore_weight": ("0.5", "7"),
    "cfg_scales": ("lyrics=2", "backing=2", "a=nan", "lyrics=nan", "lyrics", "lyrics=1=2", "lyrics=1,lyrics=2"),
    "steps": ("1,1,1", "0,0,0", "1000000000,1,1", "1", "1,,1"), "from": ("0.1",), "to": ("0.2",), "before": ("0.1",),
    "between": ("0.1",), "after": ("0.1",), "genre": ("pop",), "text": ("slow",),
    "candidates": ("1", "2", "100000"), "rank_by": ("likelihood", "notes", "clap:nowhere", "x")}
_CODEC = {"bandwidth": ("1.2", "6")}
# The fields of a config that decide how long a case takes keep values of their own, but where it is their turn.
_FAST = settings()


def generate_flags(scene: Scene) -> Case:
    """Numbers and texts of any kind and size for the flags that decide how a song is made."""
    rng = scene.rng
    flags = damage.flags(rng, _GENERATE, rng.choice((1, 1, 2, 3)))
    if rng.random() < 0.3:
        flags += [f"--edit={scene.take('song.wav')}"]
    return _generate(scene, rng.choice(_SINGERS), *flags)


def generate_paths(scene: Scene) -> Case:
    """Places that are none, where files are read and written."""
    rng = scene.rng
    name = rng.choice(("workdir", "lyrics", "output", "output", "codes_output", "prompt_audio", "melody", "leader",
                       "rescorer", "edit", "backing", "style_audio", "mix"))
    suffix = {"output": ".wav", "codes_output": ".npy", "mix": ".wav"}.get(name)
    odd = damage.path(rng, scene.made if suffix else scene.given, scene.take(_BYSTANDER))
    odd = damage.with_suffix(odd, suffix, rng) if suffix else odd
    if name == "mix":
        return _generate(scene, "accompanist", f"--backing={scene.take('song.wav')}", f"--mix={odd}")
    singer = "accompanist" if name in ("backing", "style_audio") else rng.choice(("workdir", "masked"))
    return _generate(scene, singer, f"--{name}={odd}")


def generate_meaningless(scene: Scene) -> Case:
    """Flags that mean nothing for the model or beside each other."""
    singer, *flags = scene.rng.choice((
        "workdir --steps=1,1,1", "workdir --rescorer={workdir}", "workdir --rescore_weight=0.5", "workdir --steps=",
        "workdir --leader={workdir}", "workdir --hybrid_seconds=0.1", "workdir --edit={song.wav}", "workdir --text=x",
        "workdir --melody={song.wav}", "workdir --backing={song.wav}", "workdir --style_audio={song.wav}",
        "accompanist --mix=both.wav", "accompanist --genre=pop", "accompanist --backing={song.wav} --mix=both.mp3",
        "workdir --greedy --temperature=1", "workdir --cfg_scales=a=2",
        "workdir --from=0.1 --to=0.2", "workdir --cfg_scale=nan", "workdir --greedy --top_k=5",
        "workdir --num_samples=1000000000", "workdir --seed=4294967295 --num_samples=2", "workdir --rescore_weight=7",
        "masked --rescore_weight=0.5", "masked --leader={workdir}", "masked --rescore_weight=7", "masked --steps=1",
        "masked --hybrid_seconds=0.1", "masked --edit={song.wav} --duration=1", "masked --rescorer={masked}",
        "masked --steps=0,1,1", "masked --edit={song.wav}", "masked --from=0.1", "masked --edit={song.wav} --between=1",
        "workdir --candidates=2", "workdir --rank_by=x", "workdir --rank_by=clap", "workdir --rank_by=clap:nowhere",
        "workdir --candidates=2 --rank_by=notes", "workdir --candidates=10001 --rank_by=likelihood",
        "workdir --seed=4294967295 --candidates=2 --rank_by=likelihood", "musicgen --candidates=2 --rank_by=notes",
        "converted --genre=pop", "converted --lyrics={lyrics.txt}", "musicgen --steps=1")).split()
    flags = [_filled(scene, flag) for flag in flags]
    return _generate(scene, singer, *flags, wanted=(2,))


def generate_json(scene: Scene) -> Case:
    """JSON of another type, size or shape, in what describes a model."""
    singer = scene.rng.choice(_SINGERS)
    damage.json_files(scene.rng, scene.take(singer))
    return _generate(scene, singer)


def generate_config(scene: Scene) -> Case:
    """The same of the config alone, which says most."""
    singer = scene.rng.choice(("workdir", "masked", "exported", "musicgen"))
    damage.json_file(scene.rng, scene.take(singer) / "config.json")
    return _generate(scene, singer)


def generate_bytes(scene: Scene) -> Case:
    """Any file of a model, damaged."""
    singer = scene.rng.choice(_SINGERS)
    damage.any_file(scene.rng, scene.take(singer))
    return _generate(scene, singer)


def generate_texts(scene: Scene) -> Case:
    """Texts that nobody sings."""
    rng = scene.rng
    lyrics = scene.file("odd.txt", damage.lyrics(rng))
    flags = [f"--lyrics={lyrics}"]
    if rng.random() < 0.3:
        flags.append(f"--genre={rng.choice(damage.TEXTS)}")
    return _generate(scene, "workdir", *flags)


def generate_files(scene: Scene) -> Case:
    """Recordings and codes that are damaged, or something else."""
    rng = scene.rng
    singer, flag = rng.choice((("workdir", "prompt_audio"), ("masked", "edit"), ("masked", "edit"),
                               ("accompanist", "backing"), ("accompanist", "style_audio"), ("workdir", "lyrics")))
    path = scene.take(rng.choice(("lyrics.txt",) if flag == "lyrics" else (*_SONGS, "codes.npy", "codes.npy")))
    _damage_media(scene, path)
    more = ["--after=0.2"] if flag == "edit" else ["--duration=1.5"]
    return _generate(scene, singer, f"--{flag}={path}", *more)


def align_files(scene: Scene) -> Case:
    """Lyrics and recordings of all kinds and places that are none, for models that attend to lyrics and others."""
    rng = scene.rng
    audio, lyrics, outputs = scene.take(rng.choice((*_SONGS, "codes.npy"))), scene.take("lyrics.txt"), scene.made
    wrong = rng.choice(("audio", "lyrics", "output", "singer"))
    if wrong == "audio":
        _damage_media(scene, audio)
    if wrong == "lyrics":
        lyrics = scene.file("odd.txt", damage.lyrics(rng))
    written = [f"--lrc={outputs / 'song.lrc'}", f"--alignment={outputs / 'song.json'}",
               f"--alignment={outputs / 'song.png'}"]
    if wrong == "output":
        odd = damage.path(rng, outputs, scene.take(_BYSTANDER))
        written[0] = f"--lrc={damage.with_suffix(odd, '.lrc', rng)}"
    singer = rng.choice(_SINGERS) if wrong == "singer" else "workdir"
    return Case(ALIGN, [f"--workdir={scene.take(singer)}", f"--audio={audio}", f"--lyrics={lyrics}",
                        *rng.sample(written, rng.choice((1, 2, 3)))])


def align_calibrated(scene: Scene) -> Case:
    """Songs with known times, damaged, by which heads are chosen; or a workdir's choice, damaged."""
    rng, workdir = scene.rng, scene.take("workdir")
    if rng.random() < 0.4:
        damage.json_file(rng, workdir / "alignment.json")
        return _generate(scene, "workdir", f"--lrc={scene.made / 'song.lrc'}")
    songs = scene.take("timed songs")
    rng.choice((damage.any_file, damage.json_files, damage.json_files))(rng, songs)
    return Case(ALIGN, [f"--workdir={workdir}", f"--calibrate={songs}"], changes=[workdir / "alignment.json"])


def codec_files(scene: Scene) -> Case:
    """The same for the codec, in both directions."""
    rng = scene.rng
    verb, codec = rng.choice(("encode", "decode", "roundtrip")), rng.choice(("dataset", "converted"))
    codes = "codes.npy" if codec == "dataset" else "encodec.npy"
    path = scene.take(rng.choice((codes, codes, codes, "song.wav") if verb == "decode" else (*_SONGS, codes)))
    _damage_media(scene, path)
    return _codec(scene, verb, codec, path)


def codec_directories(scene: Scene) -> Case:
    """A damaged codec."""
    rng = scene.rng
    codec = rng.choice(("dataset", "converted"))
    folder = scene.take(codec) / "codec"
    rng.choice((damage.any_file, damage.json_files, damage.json_files))(rng, folder)
    verb = rng.choice(("encode", "decode", "roundtrip"))
    codes = "codes.npy" if codec == "dataset" else "encodec.npy"
    return _codec(scene, verb, rng.choice((codec, f"{codec}/codec")),
                  scene.take(codes if verb == "decode" else "song.wav"))


def codec_flags(scene: Scene) -> Case:
    """Verbs, numbers and places of any kind."""
    rng = scene.rng
    verb = rng.choice(("encode", "decode", "roundtrip", "", "x", "--help", "encode decode"))
    flags = damage.flags(rng, _CODEC, 1) if rng.random() < 0.5 else []
    name = rng.choice(("codec", "input", "output", "output"))
    odd = damage.path(rng, scene.made if name == "output" else scene.given, scene.take(_BYSTANDER))
    odd = damage.with_suffix(odd, rng.choice((".npy", ".wav")), rng) if name == "output" else odd
    return _codec(scene, verb, rng.choice(("dataset", "converted")), scene.take("song.wav"), *flags,
                  *([f"--{name}={odd}"] if rng.random() < 0.7 else []))


def convert_released(scene: Scene) -> Case:
    """A released model, its files damaged, on its way in."""
    rng = scene.rng
    source = scene.take("musicgen")
    rng.choice((damage.any_file, damage.json_files, damage.json_files))(rng, source)
    return Case(CONVERT, [f"--source={source}", f"--workdir={scene.made / 'workdir'}"])


def convert_exported(scene: Scene) -> Case:
    """A trained model, its files damaged, on its way out."""
    rng = scene.rng
    workdir = scene.take(rng.choice(("workdir", "converted")))
    rng.choice((damage.any_file, damage.json_files))(rng, workdir)
    form = rng.choice(("auto", "musicgen", "autosong"))
    return Case(CONVERT, [f"--workdir={workdir}", f"--export={scene.made / 'out'}", f"--format={form}"])


def convert_flags(scene: Scene) -> Case:
    """Flags that do not go together, and places that are none."""
    rng = scene.rng
    given = {"source": scene.take("musicgen"), "workdir": scene.made / "workdir", "export": scene.made / "out",
             "text_encoder": scene.take("musicgen"), "format": rng.choice(("auto", "musicgen", "x"))}
    chosen = rng.choice((("source", "workdir"), ("workdir", "export"), ("source", "export"),
                         tuple(rng.sample(sorted(given), rng.randrange(1, 6)))))
    if chosen == ("workdir", "export"):
        given["workdir"] = scene.take("workdir")
    odd = rng.choice((*chosen, None))
    if odd and odd != "format":
        folder = scene.made if odd in ("workdir", "export") else scene.given
        given[odd] = damage.path(rng, folder, scene.take(_BYSTANDER))
    return Case(CONVERT, [f"--{name}={given[name]}" for name in chosen])


def train_config(scene: Scene) -> Case:
    """Any field of a config with any value."""
    rng = scene.rng
    from autosong_jax import defaults
    from autosong_jax.config import run_local

    fields = _flat(run_local(defaults.base()).to_dict())
    kind, flags = rng.choice(("small", "magnet_small", "hybrid_small")), []
    for name in rng.sample(sorted(fields), rng.choice((1, 1, 1, 2))):
        if name in ("data.path",):
            continue
        others = ("x", "(1,)", "()", "('a',)", "[]")
        value = rng.choice(rng.choice((damage.NUMBERS, damage.NUMBERS, damage.TEXTS, others)))
        if isinstance(fields[name], str):
            value = rng.choice((*_NAMES, *damage.TEXTS, "0"))
        flags.append(f"--config.{name}={value}")
    return _train(scene, *flags, config=kind)


def train_dataset(scene: Scene) -> Case:
    """A damaged dataset."""
    rng = scene.rng
    rng.choice((damage.any_file, damage.json_files))(rng, scene.take("dataset"))
    return _train(scene)


def train_workdir(scene: Scene) -> Case:
    """A run that lives in its workdir already, damaged."""
    rng = scene.rng
    workdir = scene.take("workdir")
    rng.choice((damage.any_file, damage.json_files))(rng, workdir)
    return _train(scene, f"--workdir={workdir}", "--config.train.steps=3", changes=[workdir])


def train_base(scene: Scene) -> Case:
    """A model to start from, damaged."""
    rng = scene.rng
    base = scene.take(rng.choice(("workdir", "exported")))
    rng.choice((damage.any_file, damage.json_files))(rng, base)
    return _train(scene, f"--config.init.workdir={base}")


def train_paths(scene: Scene) -> Case:
    """Places that are none."""
    rng = scene.rng
    name = rng.choice(("workdir", "workdir", "config.data.path", "config.init.workdir", "config"))
    odd = damage.path(rng, scene.made if name == "workdir" else scene.given, scene.take(_BYSTANDER))
    return _train(scene, f"--{name}={odd}")


def train_over_songs(scene: Scene) -> Case:
    """A workdir that is a folder of somebody's own."""
    songs = scene.take(_BYSTANDER)
    return _train(scene,
                  f"--workdir={scene.rng.choice((songs, songs / 'song 0', scene.take('musicgen'), scene.given))}",
                  wanted=(2,))


def config_arguments(scene: Scene) -> Case:
    """What stands after the colon of a config."""
    rng = scene.rng
    name = rng.choice(("small", "finetune", "accompaniment", "audio_prompt"))
    base = scene.take("workdir")
    of_base = ("", ",rank=", ",rank=x", ",rank=-1", ",rank=1e9", ",rank=1000000000000", "=x", ",base=x")
    arg = rng.choice((*(f"base={base}{more}" for more in of_base), "runlocal", "runlocal=", "runlocal=x", "x", "x=1",
                      "size=x", "size=xsmall", "lyrics=true", "frame_rate=nan", "seconds=-1", "seconds=inf", "masked",
                      "=", ",", "runlocal,runlocal", "base=", "base=\x1b[2J", "base=" + "x" * 5000, "rank=nan"))
    return _train(scene, f"--config={ROOT}/configs/{name}.py:{arg}")


def plan(scene: Scene) -> Case:
    """Plans of any config, on any devices."""
    rng = scene.rng
    flags = [flag for flag in train_config(scene).arguments if flag.startswith("--config")]
    mesh = rng.choice(("h100-8", "v5e-1", "h100-0", "h100-999999999999", "x", "", "l4", "h100-8:data=0", "h100-8:x=1",
                       "h100-8:fsdp=-1", "h100-8:tensor=3", "h100-8:data=" + "9" * 5000, "\x1b[2J",
                       "v5p-128:fsdp=32,tensor=4"))
    path = rng.choice(("", f"--config.data.path={damage.path(rng, scene.given, scene.take(_BYSTANDER))}"))
    return Case(TRAIN, ["--plan", *flags, f"--mesh={mesh}", *filter(None, [path])])


def nothing_wrong(scene: Scene) -> Case:
    """What has to work."""
    rng = scene.rng
    case = rng.choice((
        lambda: _generate(scene, rng.choice(_SINGERS)),
        lambda: _generate(scene, "masked", f"--edit={scene.take('song.wav')}", "--from=0.1", "--to=0.2",
                          "--steps=1,1,1"),
        lambda: _generate(scene, "masked", f"--edit={scene.take('codes.npy')}", "--after=0.2",
                          f"--rescorer={scene.take('workdir')}", "--rescore_weight=0.3"),
        lambda: _generate(scene, "masked", f"--leader={scene.take('workdir')}", "--hybrid_seconds=0.2"),
        lambda: _generate(scene, "workdir", "--num_samples=3", "--seed=5", "--top_k=3", "--cfg_scales=lyrics=2"),
        lambda: _generate(scene, rng.choice(_SINGERS), "--candidates=2", "--rank_by=likelihood", "--temperature=1"),
        lambda: _generate(scene, "workdir", f"--prompt_audio={scene.take(rng.choice(_SONGS))}", "--duration=1.5"),
        lambda: _generate(scene, "accompanist", f"--backing={scene.take(rng.choice(_SONGS))}",
                          f"--style_audio={scene.take('codes.npy')}", f"--mix={scene.made / 'both.wav'}"),
        lambda: _codec(scene, "roundtrip", rng.choice(("dataset", "converted")), scene.take(rng.choice(_SONGS))),
        lambda: _codec(scene, "decode", "dataset", scene.take("codes.npy")),
        lambda: _train(scene),
        lambda: _train(scene, f"--config.init.workdir={scene.take('workdir')}"),
        lambda: Case(CONVERT, [f"--source={scene.take('musicgen')}", f"--workdir={scene.made / 'workdir'}"]),
        lambda: Case(CONVERT, [f"--workdir={scene.take('converted')}", f"--export={scene.made / 'out'}"]),
    ))()
    case.wanted = (0,)
    return case


KINDS = {function.__name__.replace("_", "-"): function for function in (
    generate_flags, generate_paths, generate_meaningless, generate_json, generate_config, generate_bytes,
    generate_texts, generate_files, align_files, align_calibrated, codec_files, codec_directories, codec_flags,
    convert_released, convert_exported, convert_flags, train_config, train_dataset, train_workdir, train_base,
    train_paths, train_over_songs, config_arguments, plan, nothing_wrong)}

_NAMES = ("x", "pre", "post", "delay", "flatten", "parallel", "coarse_first", "next_step", "masked_spans", "both",
          "cross",
          "prefix", "null", "absent", "rotary", "learned", "bfloat16", "float32", "float64", "int8", "full", "dots",
          "stride1", "product", "chroma", "backing", "style", "text", "relu", "gelu")


def _generate(scene: Scene, singer: str, *flags: str, wanted: Sequence[int] = (0, 2)) -> Case:
    """Sings with a fixture; of a flag that is given twice, the last counts, but for those that add up."""
    own = [f"--workdir={scene.take(singer)}", f"--output={scene.made / 'song.wav'}"]
    if singer != "accompanist" and not any(flag.startswith(("--text", "--lyrics", "--genre")) for flag in flags):
        own += ["--text=love rain"] if singer in ("converted", "musicgen") else [
            f"--lyrics={scene.take('lyrics.txt')}", "--genre=pop"]
    if singer == "musicgen" and not any(flag.startswith("--duration") for flag in flags):
        own += ["--duration=0.24"]
    return Case(GENERATE, [*own, *flags], wanted)


def _codec(scene: Scene, verb: str, codec: str, path: pathlib.Path, *flags: str) -> Case:
    output = scene.made / ("codes.npy" if verb == "encode" else "song.wav")
    scene.take(codec.partition("/")[0])
    return Case(CODEC, [*verb.split(), f"--codec={scene.given / codec}", f"--input={path}", f"--output={output}",
                        *flags])


def _train(scene: Scene, *flags: str, config: str = "small", wanted: Sequence[int] = (0, 2),
           changes: Sequence[pathlib.Path] = ()) -> Case:
    fast = [f"--config.{name}={value}" for name, value in _FAST.items()]
    own = [f"--config={ROOT}/configs/{config}.py:runlocal", *fast, f"--config.data.path={scene.take('dataset')}",
           f"--workdir={scene.made / 'workdir'}"]
    if any(flag.startswith("--config=") for flag in flags):
        own = own[1:]
    return Case(TRAIN, [*own, *flags], wanted, changes)


def _filled(scene: Scene, flag: str) -> str:
    """The flag with paths of the fixtures that it names in braces."""
    before, brace, rest = flag.partition("{")
    return before + str(scene.take(rest[:-1])) if brace else flag


def _damage_media(scene: Scene, path: pathlib.Path) -> None:
    rng = scene.rng
    what = rng.choice(("bytes", "bytes", "header", "else", "strange"))
    if what == "header" and path.suffix in (".wav", ".npy"):
        data = bytearray(path.read_bytes())
        at = rng.randrange(min(len(data) - 4, 60))
        data[at:at + 4] = rng.choice((b"\xff\xff\xff\xff", b"\x01\0\0\0", b"\0\0\0\0", b"\xff\xff\xff\x7f",
                                      b"\0\0\0\x80"))
        path.write_bytes(data)
    elif what == "else":
        damage.something_else(rng, path)
    elif what == "strange":
        _strange(scene, path)
    else:
        damage.bytes_of(rng, path)


def _strange(scene: Scene, path: pathlib.Path) -> None:
    """Well-formed, and yet nothing to work with."""
    import numpy as np
    import soundfile

    rng = scene.rng
    if path.suffix == ".npy":
        array = rng.choice((
            np.array([{"a": 1}], object), np.zeros((4, 3)), np.full((4, 3), 9999), np.full((4, 3), -1), np.array(5),
            np.zeros((0, 3), int), np.zeros((4, 99), int), np.zeros(3, int), np.array(["a"]), np.zeros((4, 3), bool),
            np.zeros((4, 3), "datetime64[s]"), np.zeros((4, 3), [("a", int)]), np.full((4, 3), 2**63, np.uint64)))
        if rng.random() < 0.2:
            header = rng.choice(("{'descr': '<u2', 'fortran_order': False, 'shape': (1000000000000, 3), }",
                                 "{'descr': '<u2', 'fortran_order': False, 'shape': (-1, 3), }",
                                 "{'descr': '|O', 'fortran_order': False, 'shape': (4, 3), }", "(" * 60_000,
                                 "__import__('os').system('touch pwned')", "{'descr': '<u2'}",
                                 "{'descr': '<u2', 'fortran_order': 7, 'shape': 'x', }"))
            data = header.encode() + b"\n"
            path.write_bytes(b"\x93NUMPY\x02\0" + len(data).to_bytes(4, "little") + data + bytes(24))
        else:
            np.save(path, array, allow_pickle=True)
        return
    if path.suffix == ".txt":
        path.write_bytes(damage.lyrics(rng))
        return
    samples, rate = rng.choice((0, 1, 100, 8000)), rng.choice((1, 7, 8000, 192_000, 2**30))
    channels = rng.choice((1, 2, 16))
    audio = np.zeros((samples, channels), np.float32)
    if samples and rng.random() < 0.3:
        audio[0] = rng.choice((np.nan, np.inf, 1e30))
    path.unlink()
    soundfile.write(path, audio, rate, format="WAV", subtype="FLOAT")


def _flat(values: dict, prefix: str = "") -> dict[str, object]:
    found = {}
    for name, value in values.items():
        found |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return found
