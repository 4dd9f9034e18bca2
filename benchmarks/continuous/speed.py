"""What models of latents cost beside a model of codes of the same width and layers: to train, to sing, in memory.

Each is trained for a few steps by a command of its own. A second has 12.5 frames of codes, or half as many columns of
latents and more; of the variant "given" each column takes several steps.
"""

import functools
import os
import time
from typing import Any

import numpy as np

from benchmarks.continuous import songs
from benchmarks.continuous.scene import Scene, training_of

CODES = "codes"
BATCHES = (1, 16)  # songs sung at once
TURNS = 3


def measure(scene: Scene, variants: list[str], autoencoder: str, steps: int) -> dict[str, dict[str, Any]]:
    """Trains each model for so many steps and has it sing whole windows."""
    given = {"steps": steps, "autoencoder": autoencoder}
    return {name: scene.measured(f"speed-{name}", given, functools.partial(_measure, scene, name, autoencoder, steps))
            for name in (CODES, *variants)}


def _measure(scene: Scene, name: str, autoencoder: str, steps: int) -> dict[str, Any]:
    import jax
    from flax import nnx

    import autosong_jax
    from autosong_jax.workdir.workdir import Workdir

    few = {"train__log_every": 10, "train__eval_every": 0}
    if name == CODES:
        workdir = scene.train(f"speed-{name}", "songbook", scene.codes, steps, **few)
    else:
        workdir = songs.train(scene, f"speed-{name}", name, scene.mels, autoencoder, steps, **few)
    sizes = {jax.tree_util.keystr(path, simple=True, separator="/"): leaf.size for path, leaf in
             jax.tree_util.tree_leaves_with_path(nnx.to_pure_dict(nnx.state(Workdir(workdir).load_model())))}
    singer = autosong_jax.load(workdir)
    return {"cores": len(os.sched_getaffinity(0)), "training": training_of(workdir),
            "parameters": sum(size for path, size in sizes.items() if not path.startswith("frames/latents/")),
            "peak GiB": scene.peaks.get(f"speed-{name}"), "unit rate": singer.medium.rate,
            "ms": {str(count): _milliseconds(singer, count) for count in BATCHES}}


def _milliseconds(singer: Any, count: int) -> float:
    """Of a frame of codes or a column of latents of so many songs at once, without what it takes to hear them."""
    sources = singer.encode_conditions([{"lyrics": "mila tose", "genre": "pop"}] * count)
    times = []
    for _ in range(TURNS + 1):  # the first compiles
        started = time.perf_counter()
        units = singer.sing_units(sources, range(count))
        times.append((time.perf_counter() - started) / max(*map(len, units), 1))
    return 1000 * float(np.median(times[1:]))


def print_table(found: dict[str, dict[str, Any]]) -> None:
    """The results as a table, with what its columns mean."""
    print(f"\nCost of a model of latents beside one of codes, on {found[CODES]['cores']} core(s)."
          "\n  parameters: without the autoencoder's   GiB: the most memory that training took"
          "\n  ms: of a frame of codes or a column of latents, without its sound   x: seconds of song a second\n")
    print(f"{'':28} {'parameters':>10} {'steps/s':>8} {'GiB':>6}" + "".join(
        f" | {'songs at once':>13} {'ms':>8} {'x':>7}" for _ in BATCHES))
    for name, row in found.items():
        peak = f"{row['peak GiB']:.2f}" if row["peak GiB"] else ""
        print(f"{name:28} {row['parameters']:10,} {row['training']['steps per second']:8.2f} {peak:>6}" + "".join(
            f" | {count:>13} {ms:8.2f} {1000 * int(count) / (ms * row['unit rate']):7.1f}"
            for count, ms in row["ms"].items()))
