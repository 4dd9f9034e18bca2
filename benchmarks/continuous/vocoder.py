"""From mel spectrograms to sound: the vocoder beside Griffin-Lim, on true spectrograms of held-out songs."""

import os
import time
from typing import Any

from autosong_jax import cli
from benchmarks.continuous.autoencoders import held_out
from benchmarks.continuous.scene import BANDS, Scene, training_of
from benchmarks.continuous.sounds import compare, mean

TIMED = 8  # songs whose decoding is timed


def measure(scene: Scene, steps: int) -> dict[str, Any]:
    """Trains the vocoder and listens to it."""
    return scene.measured("vocoder", {"steps": steps}, lambda: _measure(scene, steps))


def _measure(scene: Scene, steps: int) -> dict[str, Any]:
    workdir = scene.train(
        "vocoder", f"vocoder:n_mels={BANDS},frame_rate={scene.frame_rate:g}", scene.sound, steps,
        vocoder__width=192, vocoder__blocks=4, vocoder__mlp_width=576, optimizer__learning_rate=1e-3,
        optimizer__warmup_steps=100, train__eval_every=500, train__checkpoint_every=500)
    return {"training": training_of(workdir), "cores": len(os.sched_getaffinity(0)),
            "Griffin-Lim": _listen(scene, scene.codec(vocoder=False)),
            "vocoder": _listen(scene, scene.codec(vocoder=True))}


def _listen(scene: Scene, codec: Any) -> dict[str, float]:
    clips = held_out(scene)
    rows = [compare(clip, codec.decode(clip.frames)[0], codec) for clip in cli.progress(clips, unit="song")]
    started = time.perf_counter()  # by now all is compiled
    for clip in clips[:TIMED]:
        codec.decode(clip.frames)
    seconds = sum(len(clip.frames) for clip in clips[:TIMED]) / scene.frame_rate
    return mean(rows) | {"x real time": seconds / (time.perf_counter() - started)}


def print_table(found: dict[str, Any]) -> None:
    """The result as a table, with what its columns mean."""
    print(f"\nSound of true mel spectrograms, {found['training']['minutes']:.1f} minutes of training on "
          f"{found['cores']} core(s), which also timed it.\n"
          "  mel: of the sound, in dB off   STFT: multi-resolution distance   notes: error rate of what is heard\n")
    print(f"{'':14} {'mel':>6} {'STFT':>7} {'notes':>7} {'x real time':>12}")
    for name in ("Griffin-Lim", "vocoder"):
        row = found[name]
        print(f"{name:14} {row['mel']:6.2f} {row['stft']:7.3f} {row['notes']:7.3f} {row['x real time']:12.1f}")
    ratios = {key: found["vocoder"][key] / found["Griffin-Lim"][key] for key in ("mel", "stft", "x real time")}
    print(f"{'ratio':14} {ratios['mel']:6.2f} {ratios['stft']:7.3f} {'':7} {ratios['x real time']:12.1f}")
