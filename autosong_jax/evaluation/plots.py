"""One picture of one song: what it sounds like, which notes are heard in it, and which ones its lyrics ask for."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from autosong_jax.audio import spectrum
from autosong_jax.evaluation.notes import PITCHES, WINDOW, Note, align, detect_notes, frequency, note_error_rate

HOP = 0.01  # seconds between columns of the spectrogram
RANGE_DB = 70  # below the loudest, all is equally dark
RIGHT, WRONG, ASKED = "#0077b6", "#d73027", "#b8c4d0"  # told apart by the colour-blind, too
NAMES = ("C", "C#", "D", "D#", "E", "F", "F#", "G", "G#", "A", "A#", "B")


def plot_song(path: str | Path, audio: np.ndarray, rate: int, reference_notes: Sequence[int], title: str) -> None:
    """Writes a PNG: above, the mel spectrogram with the notes heard in it; below, these against the lyric's notes.

    The lower half has no time axis but pairs the two sequences as the note error rate does (`notes.align`), since a
    song may sing the right notes in a rhythm of its own.

    Args:
      path: of the PNG; its folder exists.
      audio: float [samples], full scale 1.0.
      rate: samples per second, 8000 or more.
      reference_notes: MIDI numbers that the lyrics ask for, at least one (`notes.lyric_notes`).
      title: one line.
    """
    from matplotlib.figure import Figure  # no pyplot: no window, no global state

    heard = detect_notes(audio, rate)
    figure = Figure(figsize=(min(max(12, len(audio) / rate), 60), 6.4), dpi=120, layout="constrained")
    above, below = figure.subplots(2, 1, height_ratios=(3, 2))
    _draw_spectrogram(above, np.asarray(audio, np.float32), rate)
    _draw_heard(above, heard)
    wrong = note_error_rate(reference_notes, [note.midi for note in heard])
    _draw_comparison(below, reference_notes, [note.midi for note in heard])
    below.set_title(f"Note error rate {wrong:.2f}: {len(reference_notes)} notes asked for, {len(heard)} heard",
                    loc="left", fontsize=10)
    figure.suptitle(title, fontsize=13, fontweight="bold")
    figure.savefig(path, format="png")


def _draw_spectrogram(axes, audio: np.ndarray, rate: int) -> None:
    """Mel bands in dB, up to 4 kHz."""
    hop, size, bands = round(HOP * rate), round(WINDOW * rate), 160
    audio = np.pad(audio, (0, -len(audio) % hop))
    magnitudes = spectrum.band_magnitudes(audio, spectrum.hann(size), hop, spectrum.mel_filters(rate, size, bands))
    decibels = 20 * np.log10(np.maximum(magnitudes, 1e-6))
    loudest = decibels.max(initial=-120)
    times = (np.arange(len(decibels)) + 0.5) * hop / rate
    centres = _hertz(np.linspace(0, _mel(rate / 2), bands + 2)[1:-1])
    axes.pcolormesh(times, centres, decibels.T, vmin=loudest - RANGE_DB, vmax=loudest, cmap="magma", shading="nearest",
                    rasterized=True)
    axes.set_yscale("function", functions=(_mel, _hertz))
    axes.set_ylim(0, 4000)
    axes.set_yticks([250, 500, 1000, 2000, 4000])
    axes.set_ylabel("Hz (mel scale)")
    axes.set_xlabel("seconds")


def _draw_heard(axes, heard: Sequence[Note]) -> None:
    """A bar at the fundamental of every note heard, with its name above."""
    for note in heard:
        hertz = frequency(note.midi)
        axes.plot([note.start, note.end], [hertz, hertz], color="white", linewidth=5, solid_capstyle="butt")
        axes.plot([note.start, note.end], [hertz, hertz], color="#00b4d8", linewidth=3, solid_capstyle="butt")
        axes.text((note.start + note.end) / 2, hertz * 1.08 + 15, _name(note.midi), color="white", fontsize=7,
                  ha="center", va="bottom")
    axes.set_title("Mel spectrogram, and the notes heard in it", loc="left", fontsize=10)


def _draw_comparison(axes, reference: Sequence[int], heard: Sequence[int]) -> None:
    """The two sequences, paired: what the lyrics ask for as grey boxes, what is heard as dots."""
    row = {midi: index for index, midi in enumerate(PITCHES)}
    series = {"asked for by the lyrics": ([], []), "heard, right": ([], []), "heard, wrong or extra": ([], []),
              "missed": ([], [])}

    def put(name: str, column: int, midi: int) -> None:
        series[name][0].append(column)
        series[name][1].append(row[midi])

    pairs = align(reference, heard)
    for column, (i, j) in enumerate(pairs, start=1):
        if i is not None:
            put("asked for by the lyrics", column, reference[i])
        if j is None:
            put("missed", column, reference[i])
        else:
            right = i is not None and reference[i] == heard[j]
            put("heard, right" if right else "heard, wrong or extra", column, heard[j])
    markers = ({"marker": "s", "color": ASKED, "s": 110}, {"marker": "o", "color": RIGHT, "s": 38},
               {"marker": "o", "color": WRONG, "s": 38}, {"marker": "x", "color": WRONG, "s": 38})
    for (name, (columns, rows)), style in zip(series.items(), markers, strict=True):
        axes.scatter(columns, rows, label=name, zorder=3, **style)
    axes.set_yticks(range(len(PITCHES)), [_name(midi) for midi in PITCHES])
    axes.set_ylim(-0.7, len(PITCHES) - 0.3)
    axes.set_xlim(0.3, len(pairs) + 0.7)
    axes.set_xlabel("note in the song")
    axes.grid(axis="y", color="#e6e6e6", zorder=0)
    axes.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=4, fontsize=8, frameon=False, borderaxespad=0.1)


def _mel(hertz: np.ndarray) -> np.ndarray:
    """The mel scale but for its unit."""
    return np.log1p(hertz / 700)


def _hertz(mel: np.ndarray) -> np.ndarray:
    """The inverse of `_mel`."""
    return 700 * np.expm1(mel)


def _name(midi: int) -> str:
    """60 -> "C4"."""
    return f"{NAMES[midi % 12]}{midi // 12 - 1}"
