"""The training loop: data, steps, metrics, checkpoints, samples, and how a run stops and goes on."""

import collections
import dataclasses
import functools
import itertools
import math
import os
import pathlib
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import ml_collections
import numpy as np
from clu import parameter_overview
from flax.traverse_util import flatten_dict
from jax.sharding import Mesh

from autosong_jax.cli import log, progress
from autosong_jax.data import schema
from autosong_jax.data.curriculum import frames_at, shortened
from autosong_jax.data.dataset import Batch, SongDataset, eval_batches, iterate, train_batches
from autosong_jax.errors import UserError
from autosong_jax.models.build import build_model
from autosong_jax.parallel import distributed
from autosong_jax.parallel.sharding import batch_rows, check_batch, make_mesh, put_batch
from autosong_jax.sources.text.frozen import text_states
from autosong_jax.training.ahead import Laps, compile_ahead
from autosong_jax.training.components import known_parameters, with_component
from autosong_jax.training.evaluations import Evaluations, Listener, due, headline, line_kind
from autosong_jax.training.metrics import MetricsWriter, model_flops_utilization
from autosong_jax.training.operations import step_operations
from autosong_jax.training.optimizer import after_evaluation, last_rate
from autosong_jax.training.start import check_shapes, open_base, start
from autosong_jax.training.step import Trainer, TrainState, make_trainer
from autosong_jax.training.writers import check_writers
from autosong_jax.weights.trainable import Parameters, combine
from autosong_jax.workdir.checkpoints import Checkpoints, latest_step
from autosong_jax.workdir.numbers import LOSS
from autosong_jax.workdir.runs import check_workdir, prepare_workdir
from autosong_jax.workdir.workdir import window_pattern

MANY = 10**7  # parameters, for a CPU
# (parameters, step, (step, name, audio float32 [channels, samples], Hz) -> None, which is given the audio)
WriteSamples = Callable[[Parameters, int, Callable[[int, str, np.ndarray, int], None]], None]


class Stopped(Exception):
    """The run was asked to stop and has saved itself; the message says where."""


@dataclasses.dataclass
class Run:
    """What the parts of the loop share."""

    config: ml_collections.ConfigDict
    workdir: pathlib.Path
    trainer: Trainer
    frozen: Parameters  # what is not trained
    checkpoints: Checkpoints
    writer: MetricsWriter
    put: Callable[[Batch], Batch]  # a batch onto the devices, as the model reads it
    evaluations: Evaluations
    write_samples: WriteSamples | None


def train(config: ml_collections.ConfigDict, workdir: pathlib.Path, started: float | None = None,
          make_samples: Callable[[ml_collections.ConfigDict, pathlib.Path, Any], WriteSamples] | None = None,
          make_listener: Callable[[ml_collections.ConfigDict, pathlib.Path, Any], Listener] | None = None) -> int:
    """Trains until `config.train.steps`, from the newest checkpoint in `workdir`, or from `config.init` or nothing.

    Args:
      config: see `autosong_jax/defaults.py`.
      workdir: where everything goes.
      started: when the command began, by `time.perf_counter`; by default now.
      make_samples: (config, workdir, the model without its parameters) -> what writes samples during training; None
        writes none.
      make_listener: likewise, what has songs sung and judges them, if `config.train.evaluations` are to.

    Returns:
      The step that the run is at: more than `config.train.steps` if it had gone further before.

    Raises:
      UserError: if the dataset, the config or the workdir cannot be used, or the loss is not finite.
      Stopped: after SIGTERM or Ctrl+C, once the state is saved.
    """
    laps = Laps(time.perf_counter() if started is None else started)
    laps.lap("imports")
    dataset = SongDataset(config.data.path, "train")
    config = with_component(config, dataset, workdir)
    distributed.check_same(_common(config, dataset))
    # Before anything is built of them or written: whether dataset, workdir and base belong together.
    check_workdir(config, dataset, workdir)
    base = open_base(config, dataset) if config.init.workdir and latest_step(workdir) is None else None
    pattern = window_pattern(config, dataset.codec)
    mesh = make_mesh(config.mesh)
    _check(config, mesh)
    reading = {
        "batch_size": config.data.batch_size, "frames": pattern.num_frames,
        "sources": config.sources,
        "end_of_song": config.data.end_of_song, "beginnings": config.data.beginnings,
        "rows": batch_rows(config.data.batch_size, mesh)}
    batches = train_batches(dataset, seed=config.seed, **reading)

    def create_model(rngs):
        return build_model(config, dataset.codec, dataset.text, rngs=rngs)

    trainer = make_trainer(config, create_model, pattern, mesh)
    _check_memory(trainer)
    write_samples = make_samples and make_samples(config, workdir, trainer.graph)
    if base:
        check_shapes(base, trainer)
    texts = text_states(dataset.path, mesh)

    def put(batch: Batch) -> Batch:
        return _put(batch, mesh, texts)

    validation = eval_batches(SongDataset(config.data.path, "validation"), **reading) if _is_validated(config) else None
    sings = make_listener and config.train.evaluations and config.train.sing_every
    listener = make_listener(config, workdir, trainer.graph) if sings else None
    evaluations = Evaluations(config, trainer, validation, put, listener)
    better = evaluations.better()
    distributed.barrier()  # all have looked before anything is written
    prepare_workdir(config, dataset, workdir)
    distributed.check_shared(workdir)
    checkpoints = Checkpoints(workdir, config.train.keep_last, config.train.keep_best, config.train.best_by, better)
    expected = checkpoints.latest or 0
    stream = _batches(config, batches, expected, pattern.num_frames)
    first = next(stream)
    laps.lap("data and devices")
    step_function = None
    if expected >= config.train.steps:
        log.info("%s is at step %d already: a greater --config.train.steps would train on", workdir, expected)
    else:
        log.info("Compiling the training step, which takes a while but where it is known from before")
        step_function = compile_ahead(trainer, put(first))
    state, frozen = start(config, trainer, checkpoints, workdir, base,
                          functools.partial(known_parameters, config, dataset, pattern.num_frames))
    first_step = int(state.step)
    stream = itertools.chain([first], stream) if first_step == expected else _batches(
        config, batches, first_step, pattern.num_frames)
    log.info("Parameters:\n%s", parameter_overview.get_parameter_overview(state.params, include_stats=False))
    if jax.default_backend() == "cpu" and count(state.params) > MANY:
        log.info("No GPU or TPU is here: on a CPU a step of so many parameters takes minutes; :runlocal after the name "
                 "of the config shrinks the model")
    if frozen:
        log.info("Frozen beside them: %s parameters", f"{count(frozen):,}")
    run = Run(config, workdir, trainer, frozen, checkpoints, MetricsWriter(config, workdir, first_step), put,
              evaluations, write_samples)
    laps.lap("weights")
    try:
        if step_function:
            run.trainer = dataclasses.replace(trainer, train_step=step_function())
            distributed.barrier()  # a collective operation gives up on a process that compiles for long
        laps.lap("more until the step was compiled")
        _loop(run, state, first_step, stream, laps)
    finally:
        checkpoints.close()
        run.writer.close()
    return max(first_step, config.train.steps)


def _loop(run: Run, state: TrainState, first_step: int, batches: Iterator, laps: Laps) -> None:
    config, train = run.config, run.config.train
    interval = Interval(run)
    stop, vote = StopSignal(), distributed.Vote(run.trainer.mesh)
    pending = None  # the sums of the step before, fetched once the next one is on its way
    with stop, progress(total=train.steps, initial=first_step, unit="step", desc="training",
                        show=distributed.is_first()) as bar:
        for step in range(first_step + 1, train.steps + 1):
            waiting = time.perf_counter()
            batch = run.put(next(batches))
            interval.waited += time.perf_counter() - waiting
            interval.steps += 1
            state, sums = run.trainer.train_step(state, run.frozen, batch)
            if step == first_step + 1:
                jax.block_until_ready(sums)
                laps.lap("itself")
                log.info("First step done after %s", laps)
                interval.start()
            if pending is not None:
                interval.add(step - 1, pending)
            pending = sums
            bar.update()
            stopping = vote(stop.requested)  # asked once: a signal that comes later is for the next step
            evaluate = run.evaluations.due(step)
            save = stopping or step == train.steps or due(step, train.checkpoint_every)
            if evaluate or save or due(step, train.log_every):
                loss = interval.add(step, pending)
                pending = None
                bar.set_postfix(loss=f"{loss:.3f}")
            if due(step, train.log_every) or step == train.steps:
                interval.report(step, last_rate(config, state.optimizer))
                run.checkpoints.check()
            found = run.evaluations.run(state, run.frozen, step, run.writer) if evaluate else {}
            if LOSS in found and due(step, train.eval_every):  # a longer run has none at this one's end
                state = dataclasses.replace(state, optimizer=after_evaluation(config, state.optimizer, found[LOSS]))
            if save:
                run.checkpoints.save(state, step, found)
            sample = run.write_samples is not None and due(step, train.sample_every)
            if sample:
                run.write_samples(combine(state.average, run.frozen), step, run.writer.write_audio)
            if evaluate or save or sample:
                interval.start()
            if stopping:
                run.checkpoints.wait()
                raise Stopped(f"stopped at step {step} and saved")
    run.checkpoints.wait()


def count(params: Parameters) -> int:
    """How many numbers they are."""
    return sum(math.prod(p.shape) for p in jax.tree.leaves(params))


def _batches(config: ml_collections.ConfigDict, batches: Any, start: int, frames: int) -> Iterator[Batch]:
    """Those of the steps after `start`, in windows of `frames`, or of fewer while a curriculum says so."""
    data = config.data
    for step, batch in enumerate(iterate(batches, start), start):
        now = frames_at(step, frames, data.first_frames, data.curriculum_steps)
        yield batch if now == frames else shortened(batch, now)


def _put(batch: Batch, mesh: Mesh, states: Callable[[Batch], Batch]) -> Batch:
    """A batch onto the devices, as the model reads it."""
    batch = put_batch(batch, mesh)
    return batch | {"sources": states(batch["sources"])}


class Interval:
    """The sums since the last report, and how many `steps` took how long since `start`, `waited` seconds for data."""

    def __init__(self, run: Run):
        self._run = run
        self._operations = step_operations(run.trainer, run.config)
        self._sums: dict[str, list[Mapping[str, np.ndarray]]] = collections.defaultdict(list)  # by objective
        self.start()

    def start(self) -> None:
        """Forgets the time so far: compilation, evaluation and saving are not training speed."""
        self._started, self.steps, self.waited = time.perf_counter(), 0, 0.0

    def add(self, step: int, sums: Any) -> float:
        """Fetches the sums of `step` and returns its loss. Raises UserError if that is not finite."""
        sums = jax.device_get(sums)
        if not (np.isfinite(sums["loss"]) and np.isfinite(sums["gradient_norm"])):
            good = self._run.checkpoints.latest
            saved = f"the last good checkpoint is {self._run.workdir}/checkpoints/{good}" if good else "none was saved"
            raise UserError(f"the loss at step {step} is {sums['loss']}, the gradient norm {sums['gradient_norm']}; "
                            f"{saved}: lower optimizer.learning_rate or optimizer.clip_norm and start again")
        names = list(self._run.trainer.objectives)
        self._sums[names[(step - 1) % len(names)]].append(sums)
        return float(sums["loss"])

    def report(self, step: int, learning_rate: float) -> None:
        """Writes the metrics of the steps since the last report."""
        seconds = time.perf_counter() - self._started
        totals = {name: jax.tree.map(lambda *x: np.sum(x, axis=0), *every) for name, every in self._sums.items()}
        values = {name: self._run.trainer.objectives[name].summarize(total) for name, total in totals.items()}
        counted = sum(map(len, self._sums.values()))  # steps of which there are sums
        speed = self._speed(seconds, sum(v["targets"] for v in values.values()) / counted) if self.steps else {}
        for name, of_objective in values.items():
            of_objective["gradient_norm"] = float(totals[name]["gradient_norm"] / len(self._sums[name]))
            of_objective["learning_rate"] = learning_rate
            kind = line_kind("train", name, self._run.trainer)
            self._run.writer.write(step, kind, of_objective | speed)
            rate = f", {speed['steps_per_second']:.2f} steps/s" if speed else ""  # no step has been timed yet
            log.info("Step %d: %s %s, gradient norm %.3f%s", step, kind,
                     headline(self._run.trainer.objectives[name], of_objective), of_objective["gradient_norm"], rate)
        self._sums.clear()
        self.start()

    def _speed(self, seconds: float, targets: float) -> dict[str, float]:
        """How fast the last `steps` went, of so many targets each."""
        speed = {"steps_per_second": self.steps / seconds, "targets_per_second": targets * self.steps / seconds,
                 "data_wait": self.waited / seconds}
        utilization = model_flops_utilization(self._operations, seconds / self.steps)
        return speed if utilization is None else speed | {"mfu": utilization}


class StopSignal:
    """Turns SIGTERM and Ctrl+C into `requested` while entered; a second Ctrl+C interrupts at once.

    SIGTERM may come twice: from a scheduler, and from the script under it that passes signals on.
    """

    def __init__(self):
        self.requested = False

    def __enter__(self):
        self._before = {s: signal.signal(s, self._request) for s in (signal.SIGTERM, signal.SIGINT)}

    def __exit__(self, *_):
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _request(self, number, frame):
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        if self.requested:
            return
        self.requested = True
        # On whichever process is asked.
        log.error("Stopping after this step; the state will be saved (Ctrl+C once more ends at once, without saving)")


def _common(config: ml_collections.ConfigDict, dataset: SongDataset) -> dict[str, Any]:
    """What several processes must have in common; where their dataset lies need not be the same."""
    fields = flatten_dict(config.to_dict(), sep=".")
    paths = ("data.path", "init.workdir")
    return {"songs": len(dataset), "codec": dataclasses.asdict(dataset.codec),
            "text encoder": dataclasses.asdict(dataset.text), "jax": jax.__version__} | {
                f"config.{name}": value for name, value in fields.items() if name not in paths}


def _check(config: ml_collections.ConfigDict, mesh: Mesh) -> None:
    check_writers(config)
    if not 0 <= config.seed < 2**32:
        raise UserError(f"seed {config.seed}: expected 0 to 2**32 - 1")
    if config.train.checkpoint_every % config.train.log_every:
        # Else a resumed run would start within an interval, and report its mean over fewer steps.
        raise UserError(f"train.checkpoint_every {config.train.checkpoint_every}: expected a multiple of "
                        f"train.log_every {config.train.log_every}")
    if config.optimizer.schedule == "plateau" and not _is_validated(config):
        raise UserError(f"optimizer.schedule 'plateau' waits for validation losses, but there are none: give "
                        f"train.eval_every above 0 and a data.path that has validation songs ({config.data.path}), or "
                        "another schedule")
    check_batch(config, mesh)


def _is_validated(config: ml_collections.ConfigDict) -> bool:
    """Whether there are validation losses."""
    return config.train.eval_every > 0 and sum(schema.read_dataset_info(config.data.path)[1].get("validation", ())) > 0


def _check_memory(trainer: Trainer) -> None:
    """Raises UserError where a CPU's machine cannot hold the parameters and what training keeps of them."""
    kept = 4 * 4 * count(trainer.abstract.params)  # weights, gradients and AdamW's two moments, float32
    known = "SC_PHYS_PAGES" in os.sysconf_names
    room = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if known else math.inf
    if jax.default_backend() == "cpu" and kept > room:
        raise UserError(f"the model has {count(trainer.abstract.params):,} parameters, which take {kept / 2**30:.0f} "
                        f"GiB to train, but this machine has {room / 2**30:.0f}: `--plan` says where it fits")
