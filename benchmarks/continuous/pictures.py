"""Pictures of what was measured, as PNG files."""

import pathlib

import numpy as np

LIMITS = {"latents": (0, None), "level": (None, None), "silence": (-0.02, 1.02)}  # of the axes of `curves`


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


def curves(path: pathlib.Path, runs: dict[str, dict[str, list[list[float]]]], true: dict[str, list[float]],
           measures: dict[str, str], seconds: float) -> None:
    """What free runs are like as they go on, each variant the mean of its seeds; a band where true songs are.

    Args:
      path: of the PNG.
      runs: by variant and measure the values of each seed, one every so many `seconds`.
      true: of each measure the 5th, 50th and 95th percentile of true songs.
      measures: what they are called.
      seconds: see `runs`.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.2 * len(measures)), dpi=110, layout="constrained")
    axes = figure.subplots(len(measures), 1, sharex=True, squeeze=False)[:, 0]
    for axis, (measure, text) in zip(axes, measures.items(), strict=True):
        low, middle, high = true[measure]
        axis.axhspan(low, high, color="#b8c4d0", alpha=0.5, label="true songs, 5 to 95 %")
        axis.axhline(middle, color="#8090a0", linewidth=1)
        for name, values in runs.items():
            mean = np.mean(values[measure], axis=0)
            axis.plot((np.arange(len(mean)) + 0.5) * seconds, mean, marker=".", label=name)
        axis.set_ylabel(text)
        axis.set_ylim(*LIMITS[measure])
        axis.grid(axis="y", color="#e6e6e6")
    axes[0].legend(fontsize=8, ncols=3)
    axes[-1].set_xlabel("seconds of the run")
    figure.savefig(path, format="png")
