"""Several processes on this machine, as if they were hosts, against one: the same losses, weights and files.

With two devices in all they are the same to the last bit. With more, sums between processes are taken in another order
than within one.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from autosong_jax import config as config_file
from autosong_jax.data import dataset as dataset_file
from autosong_jax.data import schema, tfrecord
from autosong_jax.data.dataset import SongDataset
from autosong_jax.errors import UserError
from autosong_jax.models.build import build_model
from autosong_jax.parallel import distributed
from autosong_jax.parallel.sharding import make_mesh
from autosong_jax.sampling.samples import SampleWriter
from autosong_jax.training import loop
from autosong_jax.training.step import make_trainer
from autosong_jax.workdir.checkpoints import Checkpoints, load_frozen, save_weights
from autosong_jax.workdir.runs import prepare_workdir
from autosong_jax.workdir.workdir import window_pattern

ROOT = Path(__file__).resolve().parents[2]
TIMES = {"steps_per_second", "targets_per_second", "data_wait", "mfu", "time"}

# Imported by Python itself when a process starts: notes which rows of which batches are read.
NOTE_ROWS = """
import os
from autosong_jax.data import dataset

def cut(self, batch, row, example, song, original=dataset._Windows._cut):
    with open(os.environ["ROWS"], "a") as file:
        file.write(f"{example % 8}\\n")
    return original(self, batch, row, example, song)

dataset._Windows._cut = cut
"""


def environment(index, count, devices, port, **more):
    flags = [f for f in os.environ["XLA_FLAGS"].split() if "device_count" not in f]
    return os.environ | {
        "XLA_FLAGS": " ".join([*flags, f"--xla_force_host_platform_device_count={devices}"]),
        "JAX_COORDINATOR_ADDRESS": f"localhost:{port}", "JAX_NUM_PROCESSES": str(count), "JAX_PROCESS_ID": str(index),
        **more}


def free_port():
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        return listener.getsockname()[1]


def start(configs, workdir, directory, devices=1, **more):
    """`train` in as many processes as there are configs, each with its own."""
    port, processes = free_port(), []
    for index, config in enumerate(configs):
        config_file.save(config, directory / f"config{index}.json")
        (directory / f"config{index}.py").write_text(
            "import pathlib\nfrom autosong_jax import config\n"
            f"get_config = lambda: config.load(pathlib.Path({str(directory / f'config{index}.json')!r}))\n")
        own = {name: value.format(index=index) for name, value in more.items()}
        processes.append(subprocess.Popen(
            [sys.executable, "-m", "autosong_jax.train", f"--config={directory / f'config{index}.py'}",
             f"--workdir={workdir}"], cwd=ROOT, env=environment(index, len(configs), devices, port, **own),
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True))
    return processes


def finish(processes):
    """The status and the output of each; if one waited for ever, the test's time would run out, and here all end."""
    try:
        outputs = [process.communicate()[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [process.returncode for process in processes], outputs


def run_scripts(script, count, devices=1, **more):
    """A short program in several processes, which have `distributed`, `jax`, `index` and what is given as `more`."""
    port = free_port()
    head = "import jax, numpy as np, os, sys, time\nfrom autosong_jax.parallel import distributed\n" \
           "from autosong_jax.errors import UserError\nindex = int(os.environ['JAX_PROCESS_ID'])\n"
    return finish([subprocess.Popen([sys.executable, "-c", head + script], cwd=ROOT, stdout=subprocess.PIPE,
                                    stderr=subprocess.STDOUT, text=True,
                                    env=environment(i, count, devices, port, **more)) for i in range(count)])


def lines_of(output):
    return [line for line in output.splitlines() if line.startswith("error: ")]


def metrics_of(workdir):
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in TIMES} for line in lines]


def trainer_of(config, mesh):
    dataset = SongDataset(config.data.path, "train")
    return make_trainer(config, lambda rngs: build_model(config, dataset.codec, dataset.text, rngs=rngs),
                        window_pattern(config, dataset.codec), mesh)


def state_of(config, workdir, mesh):
    trainer = trainer_of(config, mesh)
    checkpoints = Checkpoints(workdir, keep_last=9)
    state = checkpoints.restore(trainer.abstract, trainer.shardings, config.train.steps)
    checkpoints.close()
    return jax.device_get(state)


def assert_same_run(config, workdir, other, mesh):
    assert metrics_of(workdir) == metrics_of(other)
    one, two = (state_of(config, w, mesh) for w in (workdir, other))
    jax.tree.map(np.testing.assert_array_equal, one, two)


def files_of(workdir):
    """Names, but for those that hold a time, a hash or the number of a process."""
    paths = [p.relative_to(workdir) for p in workdir.rglob("*")]
    return sorted(str(p) for p in paths if "d" not in p.parts and "tfevents" not in p.name and "process_" not in str(p))


@pytest.fixture
def on_devices(monkeypatch):
    """`on_devices(4)`: training in this process takes so many devices."""
    def use(count):
        monkeypatch.setattr(loop, "make_mesh", lambda config: make_mesh(config, jax.devices()[:count]))

    return use


SMALL = {"model.layers": 1, "model.width": 8, "model.mlp_width": 16, "model.dropout": 0.1, "train.ema_every": 1,
         "train.steps": 24, "train.eval_every": 12, "train.checkpoint_every": 4}


@pytest.fixture(scope="module")
def config(toy_config):
    return toy_config(sources=False, **SMALL)


def changed(config, **fields):
    with config.unlocked():
        config = config.copy_and_resolve_references()
        config.update_from_flattened_dict(fields)
    return config


def mesh_of(config, count):
    return make_mesh(config.mesh, jax.devices()[:count])


def test_two_processes_of_two_devices_equal_one_of_four_and_read_each_its_rows(toy_config, tmp_path, on_devices):
    # SGD-like updates: Adam divides tiny gradients by their own size, which blows rounding up to the learning rate.
    config = toy_config(sources=False, **SMALL | {
        "optimizer.eps": 1e-2, "train.steps": 4, "train.eval_every": 2, "train.sample_every": 4,
        "train.prompts": ("train:0", "validation:9")})
    (tmp_path / "sitecustomize.py").write_text(NOTE_ROWS)
    one, two = tmp_path / "one", tmp_path / "two"
    statuses, outputs = finish(start(
        [config, config], two, tmp_path, devices=2, ROWS=str(tmp_path / "rows{index}"),
        PYTHONPATH=os.pathsep.join([str(tmp_path), str(ROOT)])))
    assert statuses == [0, 0], "\n".join(outputs)
    on_devices(4)
    loop.train(config, one, make_samples=SampleWriter)
    for a, b in zip(metrics_of(one), metrics_of(two), strict=True):
        assert a.pop("kind") == b.pop("kind") and b == pytest.approx(a, rel=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
                 *(state_of(config, workdir, mesh_of(config, 4)) for workdir in (one, two)))
    assert files_of(two) == files_of(one) and "samples/4/train-0.wav" in files_of(two)
    assert "Step 4" in outputs[0] and "No samples of validation:9" in outputs[0]
    assert not any(words in outputs[1] for words in ("Parameters", "Step", "No samples"))
    rows = [set(map(int, (tmp_path / f"rows{i}").read_text().split())) for i in range(2)]
    assert rows == [{0, 1, 2, 3}, {4, 5, 6, 7}]


def test_stopped_in_every_way_and_gone_on_with_other_numbers_of_processes(config, tmp_path, on_devices):
    workdir, undisturbed = tmp_path / "workdir", tmp_path / "undisturbed"
    processes = start([config, config], workdir, tmp_path)
    wait_for_step(workdir, 5, processes[0])
    while not any(path.name.isdecimal() for path in (workdir / "checkpoints").iterdir()):
        time.sleep(0.02)  # they are written in the background
    for process in processes:
        process.kill()
    finish(processes)
    on_devices(2)
    stop_at(8, config, workdir)  # by one process
    processes = start([config, config], workdir, tmp_path)
    wait_for_step(workdir, 10, processes[0])
    processes[1].send_signal(signal.SIGTERM)
    statuses, outputs = finish(processes)
    assert statuses == [130, 130], "\n".join(outputs)
    saved = max(int(p.name) for p in (workdir / "checkpoints").iterdir())
    assert f"Going on from step 8 of {workdir}" in outputs[0]
    assert f"stopped at step {saved} and saved" in outputs[0] and 10 <= saved < 24
    assert "Stopping after this step" in outputs[1] and "Traceback" not in "".join(outputs)
    loop.train(config, workdir)
    loop.train(config, undisturbed)
    assert_same_run(config, workdir, undisturbed, mesh_of(config, 2))


def wait_for_step(workdir, step, process):
    path = workdir / "metrics.jsonl"
    while process.poll() is None and not (path.exists() and f'"step": {step},' in path.read_text()):
        time.sleep(0.02)


def stop_at(step, config, workdir):
    """Trains in this process until the end of `step`."""
    with pytest.MonkeyPatch.context() as patch, pytest.raises(loop.Stopped, match=f"step {step}"):
        vote, calls = distributed.Vote.__call__, iter(range(1000))
        first = max(int(p.name) for p in (workdir / "checkpoints").iterdir() if p.name.isdecimal()) + 1
        patch.setattr(distributed.Vote, "__call__", lambda self, _: vote(self, first + next(calls) == step))
        loop.train(config, workdir)


def test_a_damaged_song_on_one_host_ends_all(config, toy_dataset, tmp_path):
    dataset = tmp_path / "dataset"
    shutil.copytree(toy_dataset, dataset)
    shard = schema.shard_path(dataset, "train", 0, 1)
    offset, length = tfrecord.record_offsets(shard)[song_read_late(config)]
    data = bytearray(shard.read_bytes())
    data[offset + length // 2] ^= 1
    shard.write_bytes(data)
    other = changed(config, **{"data.path": str(dataset)})
    statuses, outputs = finish(start([config, other], tmp_path / "workdir", tmp_path))
    assert statuses == [2, 2], "\n".join(outputs)
    assert lines_of(outputs[1]) == [f"error: {shard}: the record at byte {offset - 12} differs from its checksum: copy "
                                    "this file again from where the dataset came from, or delete it and export again"]
    assert lines_of(outputs[0]) == [lines_of(outputs[1])[0].replace("error: ", "error: process 1 of 2 failed: ")]
    assert "Traceback" not in "".join(outputs)


def song_read_late(config):
    """The song that the second half of a batch of training holds last for the first time."""
    seen = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dataset_file._Windows, "batch", lambda self, examples: np.array(examples))
        batches = dataset_file.train_batches(
            SongDataset(config.data.path, "train"), batch_size=8, frames=1, sources={}, end_of_song=True,
            seed=config.seed, rows=range(4, 8))
        for example, song in np.concatenate([batches[step] for step in range(6)]):
            seen.setdefault(int(song), int(example))
    return max(seen, key=seen.get)


@pytest.fixture(scope="module")
def tokens(save_text_encoder, tmp_path_factory):
    """A dataset whose texts go through a frozen encoder in training."""
    import soundfile

    from data_prep.pipeline import Options, export

    root = tmp_path_factory.mktemp("tokens")
    save_text_encoder("t5", root / "encoder")
    for i, lyrics in enumerate(["love rain", "night blue love", "rain"]):
        folder = root / "songs" / str(i)
        folder.mkdir(parents=True)
        soundfile.write(folder / "audio.wav", np.random.default_rng(i).normal(0, 0.1, 16000), 16000)
        (folder / "lyrics.txt").write_text(lyrics)
    export(Options(str(root / "songs"), str(root / "dataset"), codec="melrvq:num_codebooks=2,codebook_size=16",
                   text_encoder=f"t5:{root / 'encoder'}", text_states="on_the_fly", validation_fraction=0.0))
    return root / "dataset"


def test_frozen_text_and_parameters_on_a_mesh_whose_heads_span_processes(toy_config, tokens, tmp_path, on_devices):
    base, one, two = tmp_path / "base", tmp_path / "one", tmp_path / "two"
    config = toy_config(**SMALL | {
        "data.path": str(tokens), "train.steps": 2, "train.eval_every": 0, "init.workdir": str(base),
        "train.trainable": ("conditions/", "mlp/"), "mesh.data": 1, "mesh.fsdp": 1, "mesh.tensor": 2})
    del config.sources.genre
    on_devices(2)
    prepare_workdir(config, SongDataset(tokens, "train"), base)
    trainer = trainer_of(config, mesh_of(config, 2))
    save_weights(base, trainer.fresh(5, {}))
    config_file.save(changed(config, **{"train.trainable": (".*",)}), base / "config.json")
    loop.train(config, one)
    statuses, outputs = finish(start([config, config], two, tmp_path))
    assert statuses == [0, 0], "\n".join(outputs)
    assert_same_run(config, two, one, mesh_of(config, 2))
    frozen = [jax.device_get(load_frozen(workdir, trainer.frozen)) for workdir in (one, two)]
    assert jax.tree.leaves(frozen[0])
    jax.tree.map(np.testing.assert_array_equal, *frozen)


def test_votes_rows_and_arrays_of_devices_in_any_order():
    statuses, outputs = run_scripts("""
from autosong_jax.layers.declaration import Declaration
from autosong_jax.parallel import sharding
from jax.sharding import Mesh, NamedSharding, PartitionSpec
with distributed.joined():
    mesh = Mesh(np.array(jax.devices())[[0, 2, 3, 1]].reshape(2, 2, 1), sharding.AXES)
    rows = sharding.batch_rows(8, mesh)
    assert rows == ([0, 1, 6, 7] if index == 0 else [2, 3, 4, 5]), rows
    batch = sharding.put_batch({"x": np.arange(16).reshape(8, 2)[rows]}, mesh)["x"]
    whole = jax.jit(lambda x: x, out_shardings=NamedSharding(mesh, PartitionSpec()))(batch)
    assert np.array_equal(whole, np.arange(16).reshape(8, 2))
    kernel = np.arange(8.0).reshape(2, 4)
    tree = {"up": {"kernel": sharding.put(kernel, NamedSharding(mesh, PartitionSpec("fsdp", "tensor")))}}
    declared = {"up": {"kernel": Declaration("matrix", ("fsdp", "tensor"))}}
    fetched = sharding.on_first_process(tree, declared)
    assert fetched is None if index else np.array_equal(fetched["up"]["kernel"], kernel)
    vote = distributed.Vote(mesh)
    answers = [vote(index == 1 and step == 3) for step in range(6)]
    assert answers == [False] * 4 + [True, False], answers
""", 2, devices=2)
    assert statuses == [0, 0], "\n".join(outputs)


def test_processes_started_differently_or_without_a_shared_filesystem(tmp_path):
    for i in range(2):
        (tmp_path / f"host{i}").mkdir()
    script = """
import pathlib
distributed.SHARED_SECONDS = 0.5
with distributed.joined():
    distributed.check_same({"config.seed": 0})
    distributed.check_shared(pathlib.Path(os.environ["ROOT"]))
    distributed.check_shared(pathlib.Path(os.environ["ROOT"]) / f"host{index}")
"""
    statuses, outputs = run_scripts(script, 2, ROOT=str(tmp_path))
    assert statuses == [2, 2] and not list(tmp_path.glob(".shared*"))
    message = f"{tmp_path}/host1 on process 1 is not the directory that process 0 writes to: give a --workdir on a " \
              "filesystem that all hosts share"
    assert [lines_of(output) for output in outputs] == [
        [f"error: process 1 of 2 failed: {message}"], [f"error: {message}"]]
    statuses, outputs = run_scripts(script.replace('": 0', '": index'), 2, ROOT=str(tmp_path))
    assert statuses == [2, 2]
    assert "process 1 has config.seed 1, process 0 has 0: start all processes with the same" in outputs[1]


def test_a_process_that_dies_without_a_word_ends_the_others():
    statuses, outputs = run_scripts("""
distributed.ALIVE_SECONDS = 3
with distributed.joined():
    distributed.barrier()
    if index == 1:
        os.kill(os.getpid(), 9)
    distributed.barrier()
""", 2)
    assert statuses == [1, -signal.SIGKILL], "\n".join(outputs)
    assert "process 1 of 2 has given no sign of life for 3 s" in lines_of(outputs[0])[0]


def test_a_process_that_dies_within_an_operation_ends_the_others_with_one_line():
    statuses, outputs = run_scripts("""
from jax.experimental import multihost_utils
with distributed.joined():
    multihost_utils.process_allgather(np.array(index))
    if index == 1:
        os.kill(os.getpid(), 9)
    while True:
        multihost_utils.process_allgather(np.array(index))
""", 2)
    assert statuses == [1, -signal.SIGKILL], "\n".join(outputs)
    assert "Traceback" not in outputs[0] and "the connection to another process is lost" in lines_of(outputs[0])[0]


@pytest.mark.parametrize(("error", "lost"), [
    (jax.errors.JaxRuntimeError("UNKNOWN: Gloo AllReduce failed: Connection closed by peer [127.0.0.1]:1"), True),
    (UserError("the checkpoint of step 4 cannot be written to x (UNKNOWN: Gloo AllGather failed: ...)"), True),
    (UserError("the checkpoint of step 4 cannot be written to x (No space left on device): make room"), False),
    (KeyError("Connection closed"), False),
])
def test_a_lost_connection_is_no_mistake_of_the_user(error, lost):
    assert distributed._is_lost(error) == lost


def test_a_process_that_waits_for_the_others_says_so_and_heeds_ctrl_c(toy_dataset):
    arguments = ["train", "--config=configs/xsmall.py:runlocal", f"--config.data.path={toy_dataset}", "--workdir=x"]
    script = ("import runpy, signal, sys\n"
              "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # of what runs in the background it is not
              f"sys.argv = {arguments}\nrunpy.run_module('autosong_jax.train', run_name='__main__', alter_sys=True)\n")
    process = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, env=environment(1, 2, 1, free_port()),
                               stderr=subprocess.PIPE, text=True)
    try:
        assert "Waiting for the other processes, up to 300 s (this is process 1 of 2" in process.stderr.readline()
        time.sleep(1)
        process.send_signal(signal.SIGINT)
        assert process.wait(20) in (130, -signal.SIGINT)
    finally:
        process.kill()
        process.communicate()


def test_an_unexpected_error_is_shown_where_it_happened_and_named_elsewhere():
    statuses, outputs = run_scripts("""
with distributed.joined():
    if index == 0:
        raise KeyError("x")
    distributed.barrier()
""", 2)
    assert statuses == [1, 1], "\n".join(outputs)
    assert "Traceback" in outputs[0] and lines_of(outputs[1]) == ["error: process 0 of 2 failed: KeyError: 'x'"]


def test_processes_that_do_not_meet_end_with_one_line():
    script = "distributed.START_SECONDS = 2\nwith distributed.joined():\n    pass\n"
    process = subprocess.run(
        [sys.executable, "-c", "from autosong_jax.parallel import distributed\n" + script], cwd=ROOT, text=True,
        env=environment(1, 2, 1, free_port()), stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert process.returncode == 1 and "Check failure" not in process.stdout
    assert "the processes did not meet within 2 s (this is process 1 of 2, the coordinator localhost:" in process.stdout
