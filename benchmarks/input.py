"""How fast examples come: what the input pipeline gives, and what share of a training step waits for it.

python -m benchmarks.input [--songs=256] [--seconds=10] [--train_steps=6]

Makes two datasets of songs of four minutes, 4 codebooks x 2048 at 50 Hz, through the writers that the export uses: one
with lyrics as bytes, one with frozen states of width 768 (T5-base, BERT). Both are read as configs/small.py reads them,
192 windows of 30 s a batch. The last table trains that config with fewer layers and a batch that a CPU can bear: its
steps are shorter than those of the whole model, so waiting would weigh more.
"""

import json
import os
import pathlib
import tempfile
import time

import ml_dtypes
import numpy as np
from absl import flags

from autosong_jax import cli
from autosong_jax.codecs.melrvq.settings import MelRVQConfig, MelRVQInfo
from autosong_jax.data import schema, tfrecord
from autosong_jax.data.dataset import SongDataset, iterate, train_batches
from autosong_jax.sources.text.encoders import TextEncoderInfo, get_text_encoder

FLAGS = flags.FLAGS
CODEBOOKS, SIZE, RATE, SONG_SECONDS = 4, 2048, 50, 240
WIDTH, STATES = 768, 700  # of frozen states; as many tokens as lyrics of 2,000 letters have in T5
SHARD = 64  # songs
LAYERS = 4  # of the decoder that is trained here
DATASETS = ("bytes", "states")
LINE = "and every light along the river learns to call your name\n"


def define_flags() -> None:
    flags.DEFINE_integer("songs", 256, "Songs of each dataset.", lower_bound=1)
    flags.DEFINE_float("seconds", 10.0, "How long each way of reading is measured.", lower_bound=0.1)
    flags.DEFINE_integer("train_steps", 6, "Steps of the training run; 0 for none.", lower_bound=0)
    flags.DEFINE_integer("train_batch", 2, "Its songs a step.", lower_bound=1)


def main() -> None:
    from configs import small

    config = small.get_config()
    print(f"{os.cpu_count()} cores; {FLAGS.songs} songs of {SONG_SECONDS} s; batches of {config.data.batch_size} "
          f"windows of {config.data.seconds:g} s\n")
    with tempfile.TemporaryDirectory() as directory:
        print("| dataset | MB a song | threads | page cache | examples/s | ms a batch, p50 | p99 | step it feeds, s |")
        print("| --- | --- | --- | --- | --- | --- | --- | --- |")
        for kind in DATASETS:
            path = pathlib.Path(directory) / kind
            size = make_dataset(path, kind, FLAGS.songs) / FLAGS.songs
            for threads, cached in ((1, True), (4, True), (4, False)):
                if not cached:
                    drop_cache(path)
                seconds = read(path, config, threads)
                rate = config.data.batch_size * len(seconds) / sum(seconds)
                p50, p99 = np.percentile(1000 * np.array(seconds), (50, 99))
                print(f"| {kind} | {size / 1e6:.2f} | {threads} | {'warm' if cached else 'cold'} | {rate:,.0f} | "
                      f"{p50:.0f} | {p99:.0f} | {config.data.batch_size / rate:.2f} |", flush=True)
        if FLAGS.train_steps:
            train(pathlib.Path(directory), config)


def make_dataset(path: pathlib.Path, kind: str, songs: int) -> int:
    """Writes a dataset and returns its bytes."""
    rng = np.random.default_rng(0)
    (path / "codec").mkdir(parents=True)
    codec = MelRVQInfo.of(
        MelRVQConfig(sample_rate=32_000, hop=32_000 // RATE, num_codebooks=CODEBOOKS, codebook_size=SIZE), 1e-3)
    codec.save(path / "codec")
    encoder = get_text_encoder("bytes")
    info = encoder.info if kind == "bytes" else TextEncoderInfo("t5:none", "1", "states", width=WIDTH)
    info.save(path)
    features = schema.song_features(codec, info)

    def record(number: int) -> bytes:
        lyrics = LINE * 35
        song = {"id": f"{number}", "group": f"{number}", "frame_rate": float(RATE), "lyrics": lyrics, "genre": "pop",
                "description": "", "text_encoder": info.name, "text_encoder_revision": info.revision,
                "codes": rng.integers(SIZE, size=(SONG_SECONDS * RATE, CODEBOOKS), dtype=np.uint16)}
        if kind == "bytes":
            encoded = encoder.encode_lyrics(lyrics)
            song |= {"text_ids": encoded.ids, "section_ids": encoded.sections, "line_ids": encoded.lines,
                     "genre_ids": encoder.encode("pop"), "description_ids": encoder.encode("")}
        else:
            lengths = {"text_states": STATES, "genre_states": 2, "description_states": 1}
            song |= {name: rng.normal(size=(n, WIDTH)).astype(ml_dtypes.bfloat16) for name, n in lengths.items()}
        return schema.serialize(features, song)

    shards = -(-songs // SHARD)
    lengths = [min(SHARD, songs - shard * SHARD) for shard in range(shards)]
    for shard, length in enumerate(cli.progress(lengths, desc=f"writing {kind}", unit="shard")):
        tfrecord.write_records(schema.shard_path(path, "train", shard, shards),
                               (record(shard * SHARD + i) for i in range(length)))
    schema.write_dataset_info(path, features, {"train": lengths})
    return sum(file.stat().st_size for file in path.glob("*.tfrecord-*"))


def drop_cache(path: pathlib.Path) -> None:
    """Asks the system to forget the dataset's pages."""
    for file in path.glob("*.tfrecord-*"):
        descriptor = os.open(file, os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def read(path: pathlib.Path, config, threads: int) -> list[float]:
    """Seconds that each batch took, one after another as fast as they come, after the first."""
    batches = train_batches(
        SongDataset(path, "train"), batch_size=config.data.batch_size, frames=round(config.data.seconds * RATE),
        sources=config.sources,
        end_of_song=config.data.end_of_song, seed=0)
    batches = iterate(batches, threads=threads, prefetch=threads)
    next(batches)
    seconds, started = [], time.perf_counter()
    before = started
    while before - started < FLAGS.seconds:
        next(batches)
        now = time.perf_counter()
        seconds.append(now - before)
        before = now
    return seconds


def train(directory: pathlib.Path, config) -> None:
    """Trains a part of `config` on this machine and prints what share of the time it waited for data."""
    from autosong_jax.training import loop

    batch = config.data.batch_size
    config.data.batch_size = FLAGS.train_batch
    config.model.layers, config.sources.lyrics.layers = LAYERS, 1
    config.train.update(steps=1 + FLAGS.train_steps, log_every=1 + FLAGS.train_steps, eval_every=0, sample_every=0,
                        checkpoint_every=1 + FLAGS.train_steps)
    print(f"\nTraining configs/small.py here, {LAYERS} layers, {FLAGS.train_batch} songs a step in place of "
          f"{batch}:\n", flush=True)
    rows = ["| dataset | s a step | waiting for data |", "| --- | --- | --- |"]
    for kind in DATASETS:
        config.data.path = str(directory / kind)
        loop.train(config, directory / f"{kind} run")
        last = json.loads((directory / f"{kind} run" / "metrics.jsonl").read_text().splitlines()[-1])
        rows.append(f"| {kind} | {1 / last['steps_per_second']:.1f} | {100 * last['data_wait']:.3f} % |")
    print("", *rows, sep="\n")


if __name__ == "__main__":
    define_flags()
    cli.run(main)
