"""What is left of a song that went through an autoencoder: of few channels and of many, with and without a game.

An autoencoder's name says what it is: c8 has 8 channels; c8-gan was trained against a discriminator, too; c8-level has
a decoder that keeps how loud a block is. The row "none" is the mel spectrogram as it is, "melrvq" the codec that small
models of codes learn from.
"""

import functools
import pathlib
import re
from collections.abc import Callable
from typing import Any

import numpy as np

from autosong_jax import cli
from autosong_jax.errors import UserError
from benchmarks.continuous import pictures
from benchmarks.continuous.scene import BANDS, RATE, Scene, training_of
from benchmarks.continuous.sounds import Clip, compare, mean, mel_distance

SCALE = 16  # frames of a column, and bands of a row
WIDTH = 16  # of the autoencoders; the paper's sizes are for hours of songs and for accelerators
WHOLE = 1024  # frames that are encoded at once, at most; of more a multiple
Restore = Callable[[np.ndarray], np.ndarray]


def channels_of(name: str) -> int:
    """How many channels an autoencoder of this name has. Raises UserError if it is none."""
    found = re.fullmatch(r"c(\d+)(-gan)?(-level)?", name)
    if not found or not int(found[1]):
        raise UserError(f"autoencoder {name!r}: expected cN, cN-gan, cN-level or cN-gan-level, such as c8")
    return int(found[1])


def train(scene: Scene, name: str, steps: int) -> pathlib.Path:
    """The workdir of the autoencoder of this name, trained."""
    channels, gan, level = channels_of(name), "-gan" in name, "-level" in name
    config = f"autosong_autoencoder:channels={channels},discriminator={gan},level={level}"
    return scene.train(
        name, f"{config},frame_rate={scene.frame_rate:g}", scene.mels, steps, autoencoder__width=WIDTH,
        **({"autoencoder__discriminator_width": WIDTH, "objective__adversarial_start": steps // 2} if gan else {}),
        data__curriculum_steps=steps // 4, optimizer__learning_rate=2e-3, optimizer__warmup_steps=50,
        train__eval_every=200, train__checkpoint_every=200)


def restorer(workdir: pathlib.Path) -> Restore:
    """What makes of frames [T, M] those that come back through a trained autoencoder."""
    import jax
    from flax import nnx

    from autosong_jax.models.of_mels import autoencoder
    from autosong_jax.workdir.workdir import Workdir

    trained = Workdir(workdir)
    params = {name: part for name, part in trained.read_weights()[0].items() if name != "discriminator"}
    graph = nnx.graphdef(nnx.eval_shape(lambda: autoencoder(trained.config, "float32", rngs=nnx.Rngs(0))))
    model, mel = nnx.merge(graph, params), trained.codec.config
    encode = jax.jit(lambda params, values: nnx.merge(graph, params).to_latents(values))

    def restored(frames: np.ndarray) -> np.ndarray:
        padded = np.pad(frames, ((0, -len(frames) % WHOLE), (0, 0)))  # by silence, as in training
        latents = np.asarray(encode(params, mel.values(padded)[None]))[:, :-(-len(frames) // SCALE)]
        return mel.of_values(np.concatenate(list(model.decode_blocks([latents])), axis=1)[0])[:len(frames)]

    return restored


@functools.cache
def held_out(scene: Scene) -> list[Clip]:
    """The songs of the songbook that are listened to."""
    from autosong_jax.evaluation.notes import lyric_notes

    return [Clip(scene.recording(record), record["frames"], lyric_notes(record["lyrics"]))
            for record in scene.held_out]


def clips_of(scene: Scene, folder: pathlib.Path) -> list[Clip]:
    """The audio files in a folder and in those within it."""
    from autosong_jax.audio import io
    from data_prep.songs import AUDIO_SUFFIXES

    codec = scene.codec(vocoder=False)
    paths = [path for path in sorted(folder.rglob("*")) if path.suffix.lower() in AUDIO_SUFFIXES]
    if not paths:
        raise UserError(f"--clips={folder} holds no audio files")
    read = (io.read(path, RATE, 1)[0] for path in paths)
    return [Clip(audio[0], codec.encode(audio)) for audio in read]


def judge(scene: Scene, clips: list[Clip], restore: Restore) -> dict[str, Any]:
    """How far clips are from what comes back: "mel", of the spectrogram itself, in dB; and by each way to sound what
    `sounds.compare` says."""
    ways = {"Griffin-Lim": scene.codec(vocoder=False)}
    ways |= {"vocoder": scene.codec(vocoder=True)} if scene.vocoder_steps else {}
    restored = [restore(clip.frames) for clip in clips]
    mels = [mel_distance(ways["Griffin-Lim"].config, clip.frames, ours)
            for clip, ours in zip(clips, restored, strict=True)]
    return {"mel": float(np.mean(mels))} | {
        way: mean([compare(clip, codec.decode(ours)[0], codec)
                   for clip, ours in zip(cli.progress(clips, unit="song", desc=way), restored, strict=True)])
        for way, codec in ways.items()}


def judge_codes(scene: Scene, clips: list[Clip]) -> dict[str, Any]:
    """The same of melrvq, which is its own way to sound."""
    from autosong_jax.codecs.codec import load_codec

    melrvq, mel = load_codec(scene.codes / "codec"), scene.codec(vocoder=False)
    return {"Griffin-Lim": mean([compare(clip, melrvq.decode(melrvq.encode(clip.audio[None]))[0], mel)
                                 for clip in cli.progress(clips, unit="song")])}


def measure(scene: Scene, names: list[str], steps: int, folder: str | None) -> dict[str, dict[str, Any]]:
    """Trains autoencoders and listens to what comes back of held-out songs; or, once they are trained, to what comes
    back of the clips in a folder."""
    found = {"none": _measured(scene, "none", None, folder, lambda clips: judge(scene, clips, lambda frames: frames))}
    for name in names:
        found[name] = _measured(scene, name, steps, folder, functools.partial(_trained, scene, name, steps, folder))
    found["melrvq"] = _measured(scene, "melrvq", None, folder, lambda clips: judge_codes(scene, clips))
    return found


def draw(scene: Scene, names: list[str], folder: str | None) -> None:
    """A picture of the first song, or of the first clip, and of what comes back of it through each autoencoder."""
    frames = _clips(scene, folder)[0].frames
    pictures.spectrograms(scene.output / f"autoencoders{'-clips' if folder else ''}.png", {
        "true": frames, **{name: restorer(scene.workdir(name))(frames) for name in names}}, scene.frame_rate)


def _measured(scene: Scene, name: str, steps: int | None, folder: str | None,
              judged: Callable[[list[Clip]], dict[str, Any]]) -> dict[str, Any]:
    return scene.measured(f"autoencoder-{name}{'-clips' if folder else ''}",
                          {"steps": steps, "vocoder": scene.vocoder_steps, "folder": folder},
                          lambda: judged(_clips(scene, folder)))


def _trained(scene: Scene, name: str, steps: int, folder: str | None, clips: list[Clip]) -> dict[str, Any]:
    workdir = scene.workdir(name) if folder else train(scene, name, steps)
    numbers = BANDS // SCALE * channels_of(name) * scene.frame_rate / SCALE
    return {"training": training_of(workdir), "numbers": numbers} | judge(scene, clips, restorer(workdir))


@functools.cache
def _clips(scene: Scene, folder: str | None) -> list[Clip]:
    return held_out(scene) if folder is None else clips_of(scene, pathlib.Path(folder))


def print_table(found: dict[str, dict[str, Any]], what: str) -> None:
    """The results as a table, with what its columns mean."""
    print(f"\nWhat comes back of {what} through an autoencoder of mel spectrograms, and then as sound."
          "\n  numbers: a second   mel: in dB off, of the spectrogram itself, and of the sound"
          "\n  STFT: multi-resolution distance of the sound   notes: error rate of what is heard\n")
    print(f"{'':12} {'minutes':>7} {'numbers':>7} {'mel':>6} | {'Griffin-Lim: mel':>16} {'STFT':>6} {'notes':>6} | "
          f"{'vocoder: mel':>12} {'STFT':>6} {'notes':>6}")
    for name, row in found.items():
        minutes = f"{row['training']['minutes']:.1f}" if "training" in row else ""
        numbers = f"{row['numbers']:.0f}" if "numbers" in row else ""
        mel = f"{row['mel']:.2f}" if "mel" in row else ""
        sounds = [row.get(way, {}) for way in ("Griffin-Lim", "vocoder")]
        cells = [[f"{sound[key]:.{digits}f}" if key in sound else ""
                  for key, digits in (("mel", 2), ("stft", 3), ("notes", 3))] for sound in sounds]
        print(f"{name:12} {minutes:>7} {numbers:>7} {mel:>6} | {cells[0][0]:>16} {cells[0][1]:>6} {cells[0][2]:>6} | "
              f"{cells[1][0]:>12} {cells[1][1]:>6} {cells[1][2]:>6}")
