"""Pictures of what was measured, as PNG files."""

import pathlib

import numpy as np


def spectrograms(path: pathlib.Path, mels: dict[str, np.ndarray], frame_rate: float) -> None:
    """Frames uint8 [T, M] of one clip, true and restored, below each other."""
    from matplotlib.figure import Figure  # no pyplot: no window, no global state

    figure = Figure(figsize=(12, 1.9 * len(mels)), dpi=110, layout="constrained")
    axes = figure.subplots(len(mels), 1, sharex=True, squeeze=False)[:, 0]
    for axis, (name, frames) in zip(axes, mels.items(), strict=True):
        seconds = len(frames) / frame_rate
        axis.imshow(frames.T, origin="lower", aspect="auto", cmap="magma", vmin=0, vmax=255, interpolation="nearest",
                    extent=(0, seconds, 0, frames.shape[1]))
        axis.set_title(name, loc="left", fontsize=10)
        axis.set_ylabel("mel band")
    axes[-1].set_xlabel("seconds")
    figure.savefig(path, format="png")
