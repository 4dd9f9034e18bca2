"""How fast recordings become songs, stage by stage, and in how much memory one of hours does.

python -m benchmarks.stems [--minutes=2] [--hours=3] [--separator=hf://random]

The first table is one recording in one process, with the separator given; by default a model of the shape of
htdemucs_6s with random weights, which takes as long as that. The second takes a recording of hours through all
stages, with a splitter in the separator's place that only takes channels apart, since a model's own memory would hide
all else: its pieces, of four stems, are as a model's. Its lead plays for 90 seconds of each hour.
"""

import os
import pathlib
import resource
import subprocess
import sys
import tempfile
import time

import numpy as np
import soundfile
from absl import flags

from autosong_jax import cli

FLAGS = flags.FLAGS
RATE = 44_100
RANDOM = "hf://random"
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
STAGES = {"loaded": "loading, with loudness", "pieces": "separation", "mixed": "lead and backing, with loudness",
          "windows": "windows", "songs": "clips and four copies of each"}


def define_flags() -> None:
    flags.DEFINE_float("minutes", 2.0, "Length of the recording of the first table; 0 for none.", lower_bound=0)
    flags.DEFINE_float("hours", 3.0, "Length of that of the second; 0 for none.", lower_bound=0)
    flags.DEFINE_string("separator", RANDOM, "As in data_prep.stems, or hf://random: htdemucs_6s with random weights.")
    flags.DEFINE_string("child", None, "A recording to measure in this process; empty --separator for the splitter.")


def main() -> None:
    if FLAGS.child:
        measure(pathlib.Path(FLAGS.child))
        return
    with tempfile.TemporaryDirectory() as directory:
        path = pathlib.Path(directory) / "recording.wav"
        for minutes, separator, share in ((FLAGS.minutes, FLAGS.separator, 1.0), (60 * FLAGS.hours, "", 1 / 40)):
            if minutes:
                write_recording(path, minutes, share)
                name = f"--separator={separator}" if separator else "a splitter in the separator's place"
                print(f"\n{minutes:g} minutes of 44.1 kHz stereo, {name}\n", flush=True)
                child = [sys.executable, "-m", "benchmarks.stems", f"--child={path}", f"--separator={separator}"]
                # One thread, as in a worker.
                subprocess.run(child, check=True, env=os.environ | dict.fromkeys(THREADS, "1"))


def write_recording(path: pathlib.Path, minutes: float, share: float) -> None:
    """Tones and noise; those on the left play only in the first `share` of each hour."""
    rng = np.random.default_rng(0)
    times = np.arange(RATE)[:, None] / RATE
    backing = np.sin(2 * np.pi * np.array([1760.0, 110.0]) * times) * [0, 0.3] + 0.002 * rng.standard_normal((RATE, 2))
    both = backing + np.sin(2 * np.pi * np.array([1760.0, 110.0]) * times) * [0.3, 0]
    with soundfile.SoundFile(path, "w", RATE, 2, subtype="PCM_16") as file:
        for second in range(round(60 * minutes)):
            file.write(both if second % 3600 < 3600 * share else backing)


class Splitter:
    """In the separator's place: the vocals are on the left, the drums on the right, and two stems are silent."""

    def __init__(self):
        from data_prep.stems.separation import Layout

        self.stems, self.layout = ("vocals", "drums", "bass", "other"), Layout.of(7.8, 0.25)

    def piece(self, read, samples: int, index: int) -> np.ndarray:
        start, stop = self.layout.span(samples, index)
        piece = np.zeros((len(self.stems), 2, stop - start), np.float32)
        for offset, length in self.layout.segments(samples, index):
            for channel, sound in enumerate(read(offset, offset + length)):
                piece[channel, channel, offset - start:offset - start + length] += self.layout.weight()[:length] * sound
        return piece


def random_model(name: str):
    """A model of the shape of htdemucs_6s: Demucs's defaults, its six stems and its segments."""
    import torch
    from demucs.htdemucs import HTDemucs

    torch.manual_seed(0)
    return HTDemucs(["drums", "bass", "other", "vocals", "guitar", "piano"], segment=7.8).eval()


def measure(path: pathlib.Path) -> None:
    """Takes a recording through all stages in this process, and prints a row for each."""
    from data_prep.stems import pipeline, separation, stages
    from data_prep.stems.options import Options
    from data_prep.stems.recordings import MIX, Recording
    from data_prep.work import WorkDirectory

    seconds = soundfile.info(path).duration
    if not FLAGS.separator:
        stages.separator = pipeline.separator = lambda *_: Splitter()
    if FLAGS.separator == RANDOM:
        separation._load = random_model
    with tempfile.TemporaryDirectory() as directory:
        threshold = {"rms_threshold": 1e-6} if FLAGS.separator == RANDOM else {}  # its stems are hardly heard
        options = Options(input=(str(path),), output=directory, separator=FLAGS.separator or "hf://splitter",
                          **threshold)
        work = WorkDirectory(pathlib.Path(directory))
        pipeline._keep_separator(options, work)
        recording = Recording("recording", ((MIX, path),), group="one", content="one")
        one = stages.Stages(recording, options, work, pathlib.Path(directory))
        taken, peak = dict.fromkeys(STAGES, 0.0), dict.fromkeys(STAGES, 0.0)
        before = resident_peak()
        largest = 0
        while jobs := one.todo():
            for job in jobs:
                started = time.process_time()
                one.perform(job)
                taken[job.kind] += time.process_time() - started
                peak[job.kind] = resident_peak()
            largest = max(largest, sum(file.stat().st_size for file in work.path.rglob("*") if file.is_file()))
            one.remove_read()
        clips = sum(stop - start for start, stop in one.found().spans) / options.sample_rate
    print("| stage | s of one core | x real time | most memory so far, MiB |\n| --- | --- | --- | --- |")
    print(f"| what is imported |  |  | {before:.0f} |")
    for kind, name in STAGES.items():
        heard = clips if kind == "songs" else seconds
        print(f"| {name} | {taken[kind]:.1f} | {heard / taken[kind]:,.1f} | {peak[kind]:.0f} |")
    print(f"\n{clips:.0f} s of clips; at most {largest / 1e9:.2f} GB on the disk, "
          f"{largest / seconds / 1e6:.2f} MB for each second of the recording")


def resident_peak() -> float:
    """MiB that this process has held at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    define_flags()
    cli.run(main)
