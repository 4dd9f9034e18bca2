"""The command that measures an accelerator: parts that fail, are cut off or cannot run, going on, and a toy run."""

import dataclasses
import importlib
import inspect
import json
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from autosong_jax.layers import attention
from benchmarks import compiled_peer
from benchmarks.accelerator import advice, measure, plan, profiles, records, report, results, runner
from benchmarks.accelerator.profiles import Kernel
from benchmarks.accelerator.runner import Part

ROOT = Path(__file__).resolve().parent.parent.parent
PARTS = """
import os, signal, subprocess, sys, time

def good(measurement, value):
    measurement.row(value=value)

def broken(measurement):
    measurement.row(value=1)
    raise ValueError("the cable is out\\nand more")

def killed(measurement):
    print("about to go", flush=True)
    os.kill(os.getpid(), signal.SIGKILL)

def slow(measurement):
    measurement.row(value=1)
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    measurement.row(child=child.pid)
    time.sleep(60)

def impossible(measurement):
    from benchmarks.accelerator.measurement import Skipped
    raise Skipped("there is no such device")

def lacking(measurement):
    import a_package_that_nobody_has.inside
"""


@pytest.fixture
def parts(tmp_path, monkeypatch):
    """Parts by name, whose functions are in a module of their own."""
    (tmp_path / "made_up_parts.py").write_text(PARTS)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{ROOT}")

    def part(name, **options):
        return Part(name, f"made_up_parts:{name.partition('-')[0]}", **{"least": 0.0, "most": 30.0} | options)

    return {
        "good-first": part("good-first", arguments={"value": 3}), "broken": part("broken"), "killed": part("killed"),
        "slow": part("slow", most=3.0), "lacking": part("lacking"),
        "impossible": part("impossible"),
        "good-last": part("good-last", arguments={"value": 4}, environment={"AUTOSONG_LOOP_GRAPH": "default"})}


def later(seconds=120.0):
    return time.monotonic() + seconds


def is_alive(process):
    try:
        return Path(f"/proc/{process}/stat").read_text().split()[2] != "Z"
    except FileNotFoundError:
        return False


def test_a_part_that_fails_stands_in_nobodys_way(parts, tmp_path):
    assert runner.run(tmp_path, list(parts.values()), later(), "the command") == []
    found = records.read_all(tmp_path)
    assert {name: record["status"] for name, record in found.items()} == {
        "good-first": "done", "broken": "failed", "killed": "failed", "slow": "failed", "lacking": "skipped",
        "impossible": "skipped", "good-last": "done"}
    assert found["good-last"]["rows"] == [{"value": 4}] and found["good-last"]["command"] == "the command"
    assert found["good-last"]["environment"]["AUTOSONG_LOOP_GRAPH"] == "default"
    assert "AUTOSONG_LOOP_GRAPH" not in found["good-first"]["environment"]
    assert found["good-first"]["machine"]["jax"] == jax.__version__
    assert found["broken"]["reason"] == "ValueError: the cable is out"
    assert found["broken"]["rows"] == [{"value": 1}], "what was measured before it failed is lost"
    assert found["killed"]["reason"] == "ended with exit status -9: about to go"
    assert found["slow"]["reason"] == "took longer than 3 s" and found["slow"]["rows"][0] == {"value": 1}
    assert not is_alive(found["slow"]["rows"][1]["child"]), "what a part has started outlives it"
    assert found["lacking"]["reason"] == "the package a_package_that_nobody_has is not installed"
    assert found["impossible"]["reason"] == "there is no such device"
    shown = report.text(found, list(parts))
    assert "failed: ValueError: the cable is out" in shown and "skipped: the package" in shown


def test_a_later_call_goes_on_and_measures_again_only_what_it_is_told(parts, tmp_path):
    chosen = [parts["good-first"], parts["broken"], parts["good-last"]]
    runner.run(tmp_path, chosen[:2], later())
    before = {name: records.path_of(tmp_path, name).read_text() for name in ("good-first", "broken")}
    runner.run(tmp_path, chosen, later())
    assert {name: records.path_of(tmp_path, name).read_text() for name in before} == before
    assert records.read(tmp_path, "good-last")["status"] == "done"
    runner.forget(tmp_path, chosen, ["failed"])
    assert records.read(tmp_path, "broken") is None and records.read(tmp_path, "good-first") is not None
    runner.forget(tmp_path, chosen, ["good"])
    assert records.read_all(tmp_path) == {}


def test_a_command_that_is_told_to_end_takes_its_part_with_it(tmp_path):
    output = tmp_path / "out"
    command = [sys.executable, "-m", "benchmarks.accelerator", "--toy", f"--output={output}"]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
    while records.read(output, "ceilings") is None:
        assert process.poll() is None
        time.sleep(0.05)
    process.terminate()
    assert process.wait(30) == 143
    record = records.read(output, "ceilings")
    assert not is_alive(record["process"]) and not records.is_finished(record)


def test_what_does_not_fit_is_postponed_and_what_is_cut_off_is_measured_again(parts, tmp_path):
    waits = dataclasses.replace(parts["good-first"], least=100.0)
    cut = dataclasses.replace(parts["slow"], most=100.0)
    started = time.monotonic()
    assert runner.run(tmp_path, [waits, cut], later(runner.CLOSING + 4)) == ["good-first", "slow"]
    assert time.monotonic() - started < runner.CLOSING + 4
    assert records.read(tmp_path, "good-first") is None
    record = records.read(tmp_path, "slow")
    assert record["status"] == "stopped" and record["rows"][0] == {"value": 1}
    assert not records.is_finished(record)


@pytest.mark.parametrize(
    ("platform", "memory", "toy"),
    [("gpu", 128 * 2**30, False), ("gpu", 22 * 2**30, False), ("tpu", 15 * 2**30, False), ("cpu", None, False),
     ("cpu", None, True)])
def test_every_part_can_be_called(platform, memory, toy):
    """Each names a function that there is, with the arguments that it takes, as they are after JSON."""
    scale = plan.scale_of(platform, memory, toy)
    parts = [plan.ceilings(toy), *plan.parts(scale, platform)]
    assert len({part.name for part in parts}) == len(parts)
    for part in parts:
        module, function = part.measure.split(":")
        arguments = json.loads(json.dumps(part.arguments))
        inspect.signature(getattr(importlib.import_module(module), function)).bind(None, **arguments)
    modes = {part.arguments["mode"] for part in parts if part.measure == f"{plan.MEASURE}:decoding"}
    assert modes == ({*plan.GRAPHS, *plan.FLAGS} if platform == "gpu" else {"default"})
    if platform == "gpu" and memory > 100 * 2**30:
        assert [part.name for part in parts[1:4]] == [
            "decode-large-while", "decode-large-default", "decode-large-off"]
        assert {part.arguments["size"] for part in parts if part.measure == f"{plan.MEASURE}:training"} == {
            "small", "medium", "large"}


def test_graphs_are_off_by_a_flag_that_keeps_the_users_own(monkeypatch, tmp_path):
    monkeypatch.setenv("XLA_FLAGS", "--mine=1")
    environment = runner._environment(tmp_path, Part("x", "a:b", environment=plan.GRAPHS["off"]))
    assert environment["XLA_FLAGS"] == "--mine=1 --xla_gpu_enable_command_buffer="
    assert environment["AUTOSONG_LOOP_GRAPH"] == "default"


def record(part, function, *rows):
    return {"part": part, "measure": f"benchmarks.accelerator.measure:{function}", "status": "done", "rows": list(rows),
            "machine": {"device": "NVIDIA H200"}, "arguments": {"toy": False}, "date": "2026", "seconds": 1.0,
            "environment": {}}


def made_up():
    """An accelerator that reads 4 TB/s and does 800 TFLOP/s; two modes of decoding, one training step, a profile."""
    turn = {"size": "large", "batch": 1, "begin": 0, "steps": 10, "bytes": 8e9, "first_seconds": 9.0}
    step = {"size": "large", "batch": 16, "steps": 1504, "remat": "full", "mode": "default", "parameters": 3e9,
            "operations": 4e14, "devices": 1, "state_bytes": 1, "temporary_bytes": 1, "compile_seconds": 1.0}
    profile = {"of": "decoding", "size": "large", "steps": 16, "alone": 0.005, "bytes": 8e9, "kernels": 1000.0,
               "wall": 0.010, "busy": 0.006, "products": 0.005}
    made = [
        record("ceilings", "ceilings",
               {"what": "bandwidth", "bytes": 2**34, "read": 4e12, "copied": 3.9e12, "best": 4e12},
               {"what": "matrix", "width": 8192, "dtype": "bfloat16", "flops": 8e14},
               {"what": "data sheet", "flops": 989e12}),
        record("decode-large-while", "decoding", {**turn, "mode": "while", "seconds": [0.05, 0.04, 0.06]}),
        record("decode-large-default", "decoding", {**turn, "mode": "default", "seconds": [0.025, 0.025, 0.025]}),
        record("peer-eager-large", "eager_peer",
               {"size": "large", "batch": 1, "begin": 0, "steps": 10, "seconds": [0.125]}),
        record("train-large", "training", {**step, "cudnn": True, "seconds": [1.0, 1.0, 2.0]},
               {**step, "cudnn": False, "seconds": [0.8]}, {**step, "cudnn": True, "failed": "RESOURCE_EXHAUSTED: x"}),
        record("profile-decoding", "", profile, {
            "kernel": "gemm", "count": 300.0, "seconds": 0.005, "share": 0.8, "product": True})]
    return {one["part"]: one for one in made}


def test_shares_and_utilization_follow_from_the_records():
    found = made_up()
    slow, fast = results.decoding_rows(found)
    assert (slow["step_seconds"], slow["spread"]) == (0.005, (0.004, 0.006))
    assert slow["share"] == pytest.approx(8e9 / 4e12 / 0.005) and fast["share"] == pytest.approx(0.8)
    with_cudnn, without = results.training_rows(found)
    assert with_cudnn["mfu"] == pytest.approx(0.5) and without["mfu"] == pytest.approx(0.625)
    assert results.nominal_peak(found) == 989e12
    shown = report.text(found, [*found, "masked"])
    assert "| 80.0 % |" in shown and "| 50.0 % | 40.4 % |" in shown and "| masked | to be measured |" in shown
    assert "failed: RESOURCE_EXHAUSTED" in shown and "| 5.00 |" in shown  # the eager peer's 12.5 ms over our 2.5


def test_a_record_of_another_version_costs_its_section_alone():
    found = made_up()
    del found["train-large"]["rows"][0]["operations"]
    shown = report.text(found, list(found))
    assert "The section `training` cannot be made of these records: KeyError" in shown
    assert "| 80.0 % |" in shown and "| train-large | done |" in shown


def test_rules_say_what_the_numbers_point_to():
    said = "\n".join(advice.advice(made_up()))
    assert "`while` takes 2.00 times as long" not in said and "while takes 2.00 times as long" in said
    assert "make it `default`" in said
    assert "40 % of a step passes between kernels" in said
    assert "costs 0.50 us" in said and "their number is not what is in the way" in said
    assert "the products alone read at 40 % of the bandwidth" in said
    assert "5.0 times as fast as eager" in said
    assert "faster without cuDNN's attention" in said and "does not fit" in said
    slower = made_up()
    slower["decode-large-default"]["rows"][0]["seconds"] = [0.04]
    said = "\n".join(advice.advice(slower))
    assert "costs 2.00 us" in said and "merge kernels" in said
    assert "reads at 50 % of the bandwidth at best; the aim is 60 %" in said
    assert advice.advice({}) == []


def test_kernels_are_the_innermost_and_overlaps_count_once():
    loop, inside, after = Kernel("while.1", 0, 100), Kernel("fusion.2", 10, 30), Kernel("dot.3", 100, 20)
    assert profiles.innermost([after, loop, inside]) == [inside, after]
    assert profiles.innermost([]) == []
    assert profiles.busy([Kernel("a", 0, 10), Kernel("b", 5, 10), Kernel("c", 30, 5)]) == 20
    assert profiles.family("loop_add_fusion_12") == profiles.family("loop_add_fusion") == "loop_add_fusion"
    assert profiles.family("gemm_fusion_dot_45.3_0") == "gemm_fusion_dot"
    assert profiles.PRODUCTS.search("nvjet_hsh_64x8") and not profiles.PRODUCTS.search("input_convert_reduce_fusion")


def test_without_cudnn_attention_is_the_same():
    q, k, v = (jax.random.normal(jax.random.key(i), (2, 40, 2, 8)) for i in range(3))
    with measure.without_cudnn():
        for causal, lengths in ((True, None), (False, jnp.array([40, 7]))):
            expected = attention._attend(q, k, v, causal, lengths)
            np.testing.assert_allclose(attention._cudnn(q, k, v, causal, lengths), expected, atol=1e-5)


def test_the_compiled_peers_positions_are_those_of_the_peer():
    import torch
    from transformers.models.musicgen.modeling_musicgen import MusicgenSinusoidalPositionalEmbedding

    table = MusicgenSinusoidalPositionalEmbedding(64, 16)
    codes = torch.zeros(2, 4, 3, dtype=torch.long)  # [B, K, S]
    expected = table(codes, 5)
    torch.testing.assert_close(compiled_peer._positions(table, codes, torch.tensor(5)), expected)
    torch.testing.assert_close(expected, table.weights[5:8])


def run(*arguments):
    return subprocess.run([sys.executable, "-m", "benchmarks.accelerator", *arguments], cwd=ROOT, capture_output=True,
                          text=True, timeout=240)


def test_a_toy_run_and_a_second_call_that_goes_on(tmp_path, environment_without, monkeypatch):
    """PyTorch is hidden: what is measured beside it is skipped, with a reason. So is what the documentation does not
    list for the other parts, which are measured."""
    hidden = ("clu", "google_crc32c", "grain", "librosa", "matplotlib", "soundfile",
              "tensorboardX", "tensorflow_datasets", "tokenizers", "torch")
    for name, value in environment_without(*hidden).items():
        monkeypatch.setenv(name, value)
    output = tmp_path / "out"
    chosen = "--only=decode-toy-default,peer-eager,train,profile-decoding"
    first = run("--toy", "--minutes=4", f"--output={output}", "--only=decode-toy-default")
    assert first.returncode == 0, first.stderr
    before = {name: records.path_of(output, name).read_text() for name in ("ceilings", "decode-toy-default")}
    second = run("--toy", "--minutes=4", f"--output={output}", chosen)
    assert second.returncode == 0, second.stderr
    assert {name: records.path_of(output, name).read_text() for name in before} == before
    found = records.read_all(output)
    assert {name: one["status"] for name, one in found.items()} == {
        "ceilings": "done", "decode-toy-default": "done", "peer-eager-toy": "skipped", "train-toy-default": "done",
        "profile-decoding": "done"}
    assert found["peer-eager-toy"]["reason"] == "the package torch is not installed"
    row, = results.decoding_rows(found)
    assert len(row["seconds"]) == 2 and row["share"] > 0
    row, = results.training_rows(found)
    assert np.isfinite(row["losses"]).all() and row["operations"] > 0 and row["mfu"] > 0
    whole, *kernels = found["profile-decoding"]["rows"]
    assert whole["kernels"] > 1 and sum(kernel["share"] for kernel in kernels) <= 1.001
    shown = (output / "report.md").read_text()
    assert "Toy sizes" in shown and "## Decoding" in shown and "| masked | to be measured |" in shown
    assert "skipped: the package torch is not installed" in shown


def test_wrong_use_is_told_in_a_line_by_a_process_without_jax(tmp_path, environment_without, monkeypatch):
    """So what starts the parts cannot take the accelerator's memory from them."""
    for name, value in environment_without("jax", "torch").items():
        monkeypatch.setenv(name, value)
    wrong = run("--toy", "--minutes=0", f"--output={tmp_path / 'out'}")
    assert wrong.returncode == 2 and "not measured yet" in wrong.stderr
    (tmp_path / "file").write_text("")
    wrong = run("--toy", f"--output={tmp_path / 'file'}")
    assert wrong.returncode == 2 and "is a file" in wrong.stderr
    for name, value in environment_without("ml_collections").items():
        monkeypatch.setenv(name, value)
    wrong = run("--toy", f"--output={tmp_path / 'out'}")
    assert wrong.returncode == 2 and "package ml_collections is not installed" in wrong.stderr
