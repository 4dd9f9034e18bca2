"""Plans: the bytes of real arrays, hand counts, the compiler's own count; every config on devices that are not here."""

import importlib
import itertools
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh

from autosong_jax import defaults
from autosong_jax.data.dataset import SongDataset
from autosong_jax.errors import UserError
from autosong_jax.models.build import build_model
from autosong_jax.parallel.sharding import AXES
from autosong_jax.planning.devices import KINDS, Kind, abstract_mesh, parse_mesh
from autosong_jax.planning.memory import KEPT, Cuts, peak
from autosong_jax.planning.plan import GIB, Planner, fsdp_mesh, songs_of, whole_parameters
from autosong_jax.planning.report import report
from autosong_jax.training.step import make_trainer
from autosong_jax.weights.trainable import partition
from autosong_jax.workdir.workdir import window_pattern
from configs import large, small

ROOT = Path(__file__).resolve().parents[2]
NAMES = sorted(path.stem for path in (ROOT / "configs").glob("*.py"))
CPU = Kind("CPU", "cpu", 1.0, (1, 8))


def mesh_of(data, fsdp, tensor):
    return abstract_mesh(dict(zip(AXES, (data, fsdp, tensor), strict=True)), data * fsdp * tensor)


def made_by(function, *arguments, songs=1, prime=1009, fsdp=None, tensor=1, cut=None):
    program = jax.make_jaxpr(function)(*arguments)
    cut = cut or [None] * len(program.jaxpr.invars)
    return peak(program, cut, Cuts(songs, prime, fsdp or {}, tensor))


def of(*shape, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(shape, dtype)


def test_a_chain_of_products_by_hand():
    def mlp(x, up, down):
        return jnp.tanh(jax.nn.relu(x @ up) * 2 + 1) @ down

    buffers = made_by(mlp, of(1009, 8), of(8, 32), of(32, 4), songs=10)
    # At the second product: the first one's result, what is computed from it in one go, and the product itself.
    assert sorted(b.size for b in buffers) == [4 * 10 * 4, 4 * 10 * 32, 4 * 10 * 32]


def test_what_the_backward_pass_keeps_of_a_loop_by_hand():
    def loss(x, layers):
        return jax.lax.scan(jax.checkpoint(lambda x, w: (jnp.tanh(x @ w), None)), x, layers)[0].sum()

    buffers = made_by(jax.grad(loss, argnums=1), of(1009, 16), of(6, 16, 16), songs=10, fsdp={(6, 16, 16): 3})
    kept = [b for b in buffers if b.kind == KEPT]
    assert [(b.shape, b.size) for b in kept] == [((6, 10, 16), 4 * 6 * 10 * 16)]  # the inputs of six layers
    gradients = [b.size for b in buffers if b.kind == "gradients"]
    assert gradients == [4 * 6 * 16 * 16 // 3]


@pytest.mark.parametrize(("cut_up", "cut_down", "size"), [(1, 0, 4 * 10 * 32 // 4), (None, None, 4 * 10 * 32)])
def test_the_tensor_axis_cuts_what_comes_of_cut_parameters(cut_up, cut_down, size):
    buffers = made_by(lambda x, up, down: (x @ up).reshape(-1, 2, 4, 4).reshape(-1, 32) @ down,
                      of(1009, 8), of(8, 32), of(32, 2), songs=10, tensor=4, cut=[None, cut_up, cut_down])
    assert max(b.size for b in buffers) == size


def test_state_is_as_large_as_the_real_arrays(toy_config):
    shape = (2, 2, 2)
    config = toy_config(**{"lora.rank": 4, "train.trainable": ("lora_", "lyrics")})
    dataset = SongDataset(config.data.path, "train")
    mesh = Mesh(np.array(jax.devices()).reshape(shape), AXES, axis_types=(AxisType.Auto,) * 3)
    trainer = make_trainer(config, lambda rngs: build_model(config, dataset.codec, dataset.text, rngs=rngs),
                           window_pattern(config, dataset.codec), mesh)
    trained, frozen = partition(trainer.fresh(0, {}), config.train.trainable)
    state = trainer.init(trained)
    rows = Planner(config, songs_of(config)).estimate(CPU, mesh_of(*shape)).rows
    for name, tree in [("parameters", state.params), ("moving average", state.ema), ("optimizer", state.optimizer),
                       ("frozen parameters", frozen)]:
        assert rows[name] == sum(x.addressable_shards[0].data.nbytes for x in jax.tree.leaves(tree)), name


@pytest.mark.parametrize("remat", ["none", "full"])
def test_the_compiler_needs_about_as_much(toy_config, remat):
    config = toy_config(**{"data.batch_size": 8, "train.remat": remat, "data.seconds": 2.0, "model.width": 64,
                           "model.mlp_width": 256, "sources.lyrics.max_length": 64})
    dataset = SongDataset(config.data.path, "train")
    mesh = Mesh(np.array(jax.devices()[:1]).reshape(1, 1, 1), AXES, axis_types=(AxisType.Auto,) * 3)
    planner = Planner(config, songs_of(config))
    trainer = make_trainer(config, lambda rngs: build_model(config, dataset.codec, dataset.text, rngs=rngs),
                           planner.pattern, mesh)
    compiled = trainer.train_step.lower(trainer.abstract, trainer.frozen, planner.batch(8)).compile()
    needed = compiled.memory_analysis().temp_size_in_bytes
    rows = planner.estimate(CPU, mesh_of(1, 1, 1)).rows
    step = sum(rows[name] for name in (
        "gradients", "kept for the backward pass", "working set", "allowance for the compiler"))
    assert 0.6 * needed <= step <= 1.4 * needed


@pytest.mark.parametrize(("name", "mesh"), zip(NAMES, itertools.cycle(["v5e-16", "h100-8:fsdp=4,tensor=2"])))
def test_every_config_plans(name, mesh, request):
    """On one of two meshes each: how parameters are cut along all of them, tests of checkpoints show."""
    required = f"base={request.getfixturevalue('toy_workdir')}," if name == "finetune" else ""
    config = importlib.import_module(f"configs.{name}").get_config(f"{required}runlocal")
    config.data.batch_size = 32
    lines = list(report(config, f"configs/{name}.py:runlocal", mesh))
    assert any(line.endswith("arrays can take: fits") for line in lines), lines


def test_large_as_it_is():
    config = large.get_config()
    planner = Planner(config, songs_of(config))
    one, eight = planner.estimate(KINDS["h100"], fsdp_mesh(1)), planner.estimate(KINDS["h100"], fsdp_mesh(8))
    # Parameters, their average and two moments: 16 bytes for each of at least MusicGen's 3.3 billion, which all but
    # biases and norms are cut from.
    state = sum(one.rows[name] for name in ("parameters", "moving average", "optimizer"))
    assert 16 * 3.3e9 < state < 16 * 3.5e9
    assert sum(eight.rows[name] for name in ("parameters", "moving average", "optimizer")) == pytest.approx(
        state / 8, rel=0.01)
    # The inputs of 48 layers and of the lyrics' 8 are kept, in bfloat16.
    steps, songs = planner.pattern.num_steps - 1, 24
    assert eight.rows[KEPT + " for the backward pass"] == pytest.approx(
        2 * songs * (48 * steps * 2048 + 8 * 2048 * 1024), rel=0.05)
    assert not one.fits(KINDS["h100"]) and eight.fits(KINDS["h100"])


def test_parts_devices_and_recomputation_save_memory():
    config = small.get_config("runlocal")
    config.data.batch_size = 32
    planner = Planner(config, songs_of(config))
    steps = [(1, 1, "none"), (1, 1, "full"), (1, 2, "full"), (2, 2, "full"), (2, 8, "full")]
    sizes = [planner.estimate(CPU, fsdp_mesh(count), parts=parts, remat=remat).total for count, parts, remat in steps]
    assert sizes == sorted(sizes, reverse=True) and len(set(sizes)) == len(sizes)
    tight = Kind("", "cpu", (sizes[2] + 1) / GIB / 0.92, (1,))
    found = planner.fewest_parts(tight, fsdp_mesh(1), "full")
    assert found.parts == 2 and found.fits(tight)


def test_a_plan_that_does_not_fit_says_what_does():
    lines = []
    with pytest.raises(UserError, match="does not fit 8 x TPU v5e"):
        for line in report(large.get_config(), "configs/large.py", "v5e-8"):
            lines.append(line)
    text = "\n".join(lines)
    assert "DOES NOT FIT" in text and "--config.train.accumulation=" in text
    assert re.search(r"(16|32) devices of the kind", text)


def test_parameters_that_an_axis_does_not_divide_are_named():
    config = small.get_config("runlocal")
    planner = Planner(config, songs_of(config))
    whole = whole_parameters(planner.step("cpu").trainer, mesh_of(1, 1, 4))
    assert any("frames/heads [4, 64, 2049]: 2049 is no multiple of tensor=4" in line for line in whole)
    assert not [line for line in whole if "mlp" in line]


def test_a_mesh_is_what_a_user_types():
    sizes = {"data": 1, "fsdp": -1, "tensor": 1}
    for text, kind, shape in [("v5e-256", "v5e", (1, 256, 1)), ("h100", "h100", (1, 1, 1)),
                              ("H200-8", "h200", (1, 8, 1)),
                              ("v5p-128:fsdp=32,tensor=4", "v5p", (1, 32, 4)),
                              ("v6e-8:data=-1,fsdp=2", "v6e", (4, 2, 1))]:
        found, mesh = parse_mesh(text, sizes)
        assert found is KINDS[kind] and tuple(mesh.shape.values()) == shape


@pytest.mark.parametrize(("mesh", "words"), [
    ("v9-8", "--mesh=v9-8: expected KIND-COUNT"), ("h100-0", "1 to 256"), ("h100-8:fsdp", "'fsdp' is no axis"),
    ("h100-8:model=2", "'model=2' is no axis"), ("v5p-128:fsdp=32,tensor=3", "does not fit 128 devices"),
    ("h100-128", "batch_size 192: expected a multiple of 128")])
def test_what_means_nothing_is_named(mesh, words):
    with pytest.raises(UserError, match=words):
        list(report(small.get_config(), "configs/small.py", mesh))


def test_a_dataset_tells_codec_and_texts(toy_config):
    config = toy_config()
    songs = songs_of(config)
    assert songs.codec.num_codebooks == 3 and songs.text.name == "bytes" and config.data.path in songs.description
    config.data.path = "nowhere"
    with pytest.raises(UserError, match="nowhere"):
        songs_of(config)


def test_a_config_says_what_it_takes_songs_to_be_without_a_dataset(toy_config):
    config = defaults.base()
    config.assumed.update(codec="a codec", frame_rate=7.0, num_codebooks=5, codebook_size=33, text_encoder="bert",
                          text_width=48)
    songs = songs_of(config)
    assert (songs.codec.frame_rate, songs.codec.num_codebooks, songs.codec.codebook_size) == (7.0, 5, 33)
    assert songs.text.frozen and songs.text.width == 48
    assert songs.description.startswith("a codec (5 codebooks x 33, 7 Hz), bert (frozen states of width 48); assumed")
    config.data.path = toy_config().data.path  # whose codec is another: it counts
    assert songs_of(config).codec.num_codebooks == 3 and songs_of(config).text.name == "bytes"
    config.assumed.text_encoder, config.assumed.text_width, config.data.path = "spells", 0, ""
    with pytest.raises(UserError, match="'spells'"):
        songs_of(config)


def test_the_command_plans_in_place_of_training(tmp_path):
    def run(*arguments):
        command = [sys.executable, "-m", "autosong_jax.train", "--config=configs/xsmall.py:runlocal", *arguments]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)

    workdir = tmp_path / "run"
    done = run("--plan", f"--workdir={workdir}")  # a training command with one more flag
    assert done.returncode == 0 and "TPU v5e" in done.stdout and not workdir.exists(), done.stderr
    for arguments, words in [(("--mesh=h100-8", f"--workdir={workdir}"), "--mesh goes with --plan"),
                             ((), "--workdir=DIR must be given")]:
        failed = run(*arguments)
        assert failed.returncode == 2 and words in failed.stderr and failed.stderr.count("\n") == 1, failed.stderr


