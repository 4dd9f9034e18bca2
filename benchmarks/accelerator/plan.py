"""What is measured, in order of what matters most, on a large or small accelerator, on a CPU, or at toy size.

A scale is what fits the kind of machine; the order is the same for all. Parts of which nobody knows yet how long they
take are cut so that each is a minute or a few on one large GPU.
"""

import dataclasses
from typing import Any

from benchmarks.accelerator.runner import Part
from benchmarks.shapes import SHAPES

GIB = 2**30
MEASURE = "benchmarks.accelerator.measure"
# How the decoding loop runs on an NVIDIA GPU: the whole of it as one CUDA graph, XLA's graphs, none; and then, with the
# first, without XLA's Triton kernels for products, and with all their tilings tried.
GRAPHS = {
    "while": {"AUTOSONG_LOOP_GRAPH": "while"},
    "default": {"AUTOSONG_LOOP_GRAPH": "default"},
    "off": {"AUTOSONG_LOOP_GRAPH": "default", "XLA_FLAGS": "--xla_gpu_enable_command_buffer="},
}
FLAGS = {
    "no triton": {"AUTOSONG_LOOP_GRAPH": "while", "XLA_FLAGS": "--xla_gpu_enable_triton_gemm=false"},
    "all tilings": {"AUTOSONG_LOOP_GRAPH": "while", "XLA_FLAGS": "--xla_gpu_exhaustive_tiling_search=true"},
}
SHARED = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}  # the device is PyTorch's, too


@dataclasses.dataclass(frozen=True)
class Scale:
    """How much is measured.

    Attributes:
      matrix: width of the product whose speed is the peak.
      array: bytes that the bandwidth is measured with; None: by the memory.
      sizes: of decoding, what matters most first.
      turn, repeats: steps of a turn of decoding, and turns.
      places: steps of a song to decode from, beside its start; turns from there need no longer cache than they begin
        with.
      batches: songs at once in decoding, beside 1.
      training: by size, (what is recomputed, songs a step on each device) in the order of what matters.
      plain: (size, what is recomputed, songs) to train without cuDNN.
      steps: of a song in training.
      masked: (size, seconds, steps, songs at once).
      attention: (songs, heads).
      lengths: of songs in attention alone.
      encodec: seconds of audio, and settings that differ from the released model's.
      first: (size, songs) of the first step.
      whole: (length, songs a step on each device, what of the shape differs) of whole songs.
      songbook: songs and their seconds, at most so many of which are judged; of which split; overrides of its configs.
      compiler: of the compiled peer.
      least, most: seconds, as of `runner.Part`.
    """

    matrix: int
    array: int | None
    sizes: tuple[str, ...]
    turn: int
    repeats: int
    places: tuple[int, int]
    batches: tuple[int, ...]
    training: dict[str, tuple[tuple[str, int], ...]]
    plain: tuple[str, str, int]
    steps: int
    masked: tuple[str, float, tuple[int, ...], tuple[int, ...]]
    attention: tuple[int, int]
    lengths: tuple[int, ...]
    encodec: tuple[float, dict[str, Any]]
    first: tuple[str, int]
    whole: tuple[int, tuple[int, ...], dict[str, int]]
    songbook: tuple[int, float, int, str, tuple[str, ...]]
    compiler: str = "inductor"
    least: float = 60.0
    most: float = 400.0


def accelerator(memory: int) -> Scale:
    """The scale of an accelerator with so many bytes: sizes whose state fits, batches in proportion to an H200's."""
    share = memory / (120 * GIB)  # which JAX may use of an H200, and more

    def songs(count: int) -> int:
        return max(1, 2 ** (int(count * min(share, 1.0)).bit_length() - 1))

    # A trained parameter takes 16 bytes in float32: itself, its gradient and AdamW's two moments.
    training = {
        "small": (("dots", songs(32)), ("none", songs(32)), ("full", songs(64))),
        "medium": (("dots", songs(16)), ("none", songs(16)), ("full", songs(32))),
        "large": (("full", songs(16)), ("dots", songs(8)), ("full", songs(32)), ("none", songs(4)))}
    training = {size: runs for size, runs in training.items() if 1.1 * 16 * parameters(size) < memory}
    return Scale(
        matrix=8192, array=None, sizes=tuple(s for s in ("large", "medium", "small") if 2.5 * parameters(s) < memory),
        turn=256, repeats=5, places=(448, 1216), batches=(8,), training=training, plain=("small", "dots", songs(32)),
        steps=1504, masked=("small", 30.0, (60, 10, 10, 10), (1, 8)), attention=(8, 16),
        lengths=(1503, 1504, 6000, 17_999, 18_000), encodec=(30.0, {}), first=("small", songs(16)),
        whole=(18_000, tuple(dict.fromkeys((1, songs(8)))), {}), songbook=(4000, 6.0, 128, "validation", ()))


CPU = Scale(
    matrix=2048, array=None, sizes=("small", "xsmall"), turn=8, repeats=3, places=(700, 1400), batches=(8,),
    training={"xsmall": (("none", 1), ("full", 1))}, plain=("xsmall", "none", 1), steps=504,
    masked=("tiny", 10.0, (20, 10, 10, 10), (1,)), attention=(1, 4), lengths=(503, 504, 3000), encodec=(5.0, {}),
    first=("xsmall", 1), whole=(4500, (1,), {"width": 256, "heads": 4, "layers": 4, "mlp_width": 1024}),
    songbook=(64, 6.0, 8, "train", ("--config.train.steps=200",)))
TOY = Scale(
    matrix=256, array=2**24, sizes=("toy",), turn=4, repeats=2, places=(700, 1400), batches=(2,),
    training={"toy": (("none", 1),)}, plain=("toy", "none", 1), steps=16, masked=("toy", 0.4, (2, 1, 1, 1), (1,)),
    attention=(1, 2), lengths=(63, 64), encodec=(0.2, {"num_filters": 2, "codebook_size": 16}), first=("toy", 1),
    whole=(64, (1,), {"width": 16, "heads": 2, "layers": 1, "mlp_width": 16}),
    songbook=(12, 5.0, 2, "train", (
        "--config.train.steps=2", "--config.train.eval_every=0", "--config.data.batch_size=2",
        "--config.model.layers=1", "--config.sources.lyrics.layers=1")),
    compiler="eager", least=1.0)


def parameters(size: str) -> int:
    """Of a decoder, about: 16 D^2 a layer, and tables and heads of 4 codebooks of 2048."""
    width, _, layers = SHAPES[size]
    return layers * 16 * width**2 + 2 * 4 * 2048 * width


def scale_of(platform: str, memory: int | None, toy: bool) -> Scale:
    """The scale of a machine."""
    if toy:
        return TOY
    return CPU if platform == "cpu" else accelerator(memory or 16 * GIB)


def ceilings(toy: bool) -> Part:
    """The part that comes first: all others stand beside it, and it finds out what is here."""
    return Part("ceilings", f"{MEASURE}:ceilings", {"toy": toy}, least=5.0, most=240.0)


def parts(scale: Scale, platform: str) -> list[Part]:
    """All other parts, in order."""
    gpu = platform == "gpu"

    def part(name: str, function: str, environment: dict[str, str] | None = None, **arguments: Any) -> Part:
        measure = function if ":" in function else f"{MEASURE}:{function}"
        # What trains for minutes goes on from its checkpoint in the next call.
        most = max(scale.most, 520.0) if "songs:" in measure else scale.most
        return Part(name, measure, arguments, environment or {}, scale.least, most)

    def decode(size: str, mode: str, batch: int = 1, begins: tuple[int, ...] = (0,), where: str = "") -> Part:
        environment = (GRAPHS | FLAGS)[mode] if gpu else {}
        name = "-".join(filter(None, ["decode", size, f"batch{batch}" if batch > 1 else "", where,
                                      mode.replace(" ", "-")]))
        return part(name, "decoding", environment, mode=mode, size=size, batch=batch, begins=begins, steps=scale.turn,
                    repeats=scale.repeats)

    def peer(kind: str, size: str) -> Part:
        extra = {"backend": scale.compiler} if kind == "compiled" else {}
        return part(f"peer-{kind}-{size}", f"{kind}_peer", SHARED, platform=platform, size=size, batch=1,
                    begins=(0,), steps=max(scale.turn // 4, 2), repeats=2, **extra)

    def train(size: str, runs: tuple[tuple[str, int], ...], mode: str = "default", cudnn: bool = True,
              environment: dict[str, str] | None = None) -> Part:
        name = f"train-{size}-{mode}" if cudnn else f"train-{size}-without-cudnn"
        return part(name, "training", environment, size=size, steps=scale.steps, runs=runs, repeats=3, cudnn=cudnn,
                    mode=mode)

    modes = list(GRAPHS) if gpu else ["default"]
    first, *others = scale.sizes
    last = scale.sizes[-1]
    best = modes[0]
    plain_size, plain_remat, plain_songs = scale.plain
    clip_size, clip, clip_steps, clip_batches = scale.masked
    songs, heads = scale.attention
    audio, settings = scale.encodec
    whole, whole_songs, shape = scale.whole
    count, seconds, judged, split, overrides = scale.songbook
    cases = [{"steps": steps, "heads": heads, "batch": max(1, songs * 1504 // steps // 4) if steps > 1504 else songs,
              **kind} for steps in scale.lengths for kind in ({"causal": True}, {"window": 5})]
    first_size, first_songs = scale.first
    arguments = {"size": first_size, "batch": first_songs, "steps": scale.steps}
    return [
        *(decode(first, mode) for mode in modes),
        *(decode(size, best) for size in others),
        *(peer("eager", size) for size in dict.fromkeys((last, first))),
        peer("compiled", last),
        decode(first, best, begins=scale.places, where="places"),
        *(decode(size, best, batch) for size in dict.fromkeys((first, last)) for batch in scale.batches),
        *(train(size, runs) for size, runs in scale.training.items()),
        *([train(plain_size, ((plain_remat, plain_songs),), cudnn=False)] if gpu else []),
        part("profile-decoding", "benchmarks.accelerator.profiles:decoding", GRAPHS["off"] if gpu else {},
             steps=min(16, scale.turn)),
        part("profile-training", "benchmarks.accelerator.profiles:training",
             {"XLA_FLAGS": GRAPHS["off"]["XLA_FLAGS"]} if gpu else {}, steps=2),
        *([peer("compiled", first)] if first != last else []),
        *(decode(size, mode) for size in others for mode in modes[1:]),
        part("masked", "masked", size=clip_size, seconds=clip, steps=clip_steps, batches=clip_batches,
             repeats=scale.repeats),
        part("attention", "attention", cases=cases, repeats=scale.repeats),
        part("encodec", "encodec", SHARED, platform=platform, model="encodec_32khz", seconds=audio,
             repeats=scale.repeats, settings=settings),
        part("first-step-cold", "first_step", cold=True, **arguments),
        part("first-step-warm", "first_step", cold=False, **arguments),
        part("whole-songs", "whole_songs", length=whole, batches=whole_songs, repeats=3, shape=shape),
        part("songs-data", "benchmarks.accelerator.songs:dataset", songs=count, seconds=seconds, seed=11),
        *(part(f"songs-{name}", "benchmarks.accelerator.songs:train_and_sing",
               {}, config=f"configs/{config}.py", overrides=overrides,
               most=judged, split=split)
          for name, config in (("next-step", "songbook"), ("masked", "songbook_masked"))),
        *([decode(first, mode) for mode in FLAGS] if gpu else []),
        *([train(size, scale.training[size][:1], mode="O1", environment={"JAX_OPTIMIZATION_LEVEL": "O1"})
           for size in list(scale.training)[:1]] if gpu else []),
    ]
