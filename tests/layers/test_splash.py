"""Attention for TPUs: the splash kernel, interpreted, against masked softmax; when it is taken; how it is cut."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import topologies
from jax.extend.core import ClosedJaxpr, Jaxpr
from jax.sharding import AbstractDevice, AbstractMesh, AxisType, Mesh, NamedSharding

from autosong_jax.layers import attention as module
from autosong_jax.layers import splash as splash_module
from autosong_jax.layers.attention import attention
from autosong_jax.layers.platform import planned_for, platform
from autosong_jax.layers.splash import splash
from autosong_jax.parallel.sharding import AXES, BATCH
from autosong_jax.planning.memory import Cuts, peak
from autosong_jax.planning.plan import Planner, songs_of
from configs import xsmall

TPU = AbstractDevice(device_kind="TPU v5e", num_cores=1, platform="tpu")


def random_inputs(queries, keys, heads=2, width=8, batch=2):
    rng = np.random.default_rng(0)
    return [rng.normal(size=(batch, n, heads, width)).astype(np.float32) for n in (queries, keys, keys)]


def masked(q, k, v, seen):
    """Softmax attention in float64 where `seen` [B, Q, N], and the gradients of the sum of its squares, by hand."""
    q, k, v = (x.astype(np.float64) for x in (q, k, v))
    scores = np.einsum("bqhd,bnhd->bhqn", q, k) / np.sqrt(q.shape[-1])
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True)) * seen[:, None]
    weights /= np.maximum(weights.sum(axis=-1, keepdims=True), 1e-300)
    out = np.einsum("bhqn,bnhd->bqhd", weights, v)
    of_out = 2 * out
    of_weights = np.einsum("bqhd,bnhd->bhqn", of_out, v)
    of_scores = weights * (of_weights - (of_weights * weights).sum(axis=-1, keepdims=True)) / np.sqrt(q.shape[-1])
    return [out, np.einsum("bhqn,bnhd->bqhd", of_scores, k), np.einsum("bhqn,bqhd->bnhd", of_scores, q),
            np.einsum("bhqn,bqhd->bnhd", weights, of_out)]


def seen_by(batch, queries, keys, causal=False, window=None, lengths=None):
    i, j = np.arange(queries)[:, None], np.arange(keys)
    seen = (j <= i) | (not causal)
    seen &= np.abs(i - j) <= (queries + keys if window is None else window)
    lengths = np.full(batch, keys) if lengths is None else np.asarray(lengths)
    return seen & (j < lengths[:, None, None])


def on_tpu(defined=True, **options):
    """The result and the gradients of the sum of its squares, from a program for a TPU that a CPU interprets."""
    def loss(q, k, v):
        out = jnp.where(defined, attention(q, k, v, **options), 0)
        return jnp.square(out).sum(), out

    def both(q, k, v):
        (_, out), gradients = jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True)(q, k, v)
        return [out, *gradients]

    return jax.jit(both)


@pytest.fixture
def interpreted(monkeypatch):
    """Programs for a TPU run here, and take the kernel, in blocks of 128, for songs of any length."""
    kernels = splash_module.kernels
    monkeypatch.setattr(kernels, "make_splash_mha", functools.partial(kernels.make_splash_mha, interpret=True))
    monkeypatch.setattr(splash_module, "BLOCK", 128)
    monkeypatch.setattr(splash_module, "LARGE_BLOCK", 128)
    monkeypatch.setattr(module, "FEW_SCORES", 0)
    splash_module._kernel.cache_clear()
    yield
    splash_module._kernel.cache_clear()


@pytest.mark.parametrize(("queries", "keys", "options", "copies"), [
    (150, 150, {"causal": True}, 4),
    (256, 256, {"causal": True}, 1),
    (131, 131, {"causal": True, "lengths": [131, 0]}, 4),
    (150, 150, {"window": 7}, 4),
    (257, 257, {"window": 3, "causal": True}, 4),
    (150, 150, {"window": 140, "lengths": [150, 100]}, 4),
    (128, 300, {"lengths": [170, 0]}, 4),
    (129, 257, {}, 1),
])
def test_values_and_gradients_are_those_of_masked_softmax(interpreted, monkeypatch, queries, keys, options, copies):
    monkeypatch.setattr(splash_module, "MOST_COPIES", copies)  # both backward kernels
    inputs = random_inputs(queries, keys)
    seen = seen_by(2, queries, keys, **options)
    if "lengths" in options:
        options = options | {"lengths": np.array(options["lengths"])}
    # A query whose window lies wholly in the padding has no defined result.
    defined = True if options.get("window") is None else seen.any(axis=-1)[..., None, None]
    with planned_for("tpu"):
        results = on_tpu(defined, **options)(*inputs)
    for one, other in zip(results, masked(*inputs, seen), strict=True):
        np.testing.assert_allclose(one, other, atol=2e-5)


def primitives(function, *arguments):
    """The names of all operations of a program, but for those inside kernels."""
    found = set()

    def follow(jaxpr):
        for equation in jaxpr.eqns:
            found.add(equation.primitive.name)
            if equation.primitive.name != "pallas_call":
                for part in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda x: hasattr(x, "eqns")):
                    if isinstance(part, ClosedJaxpr | Jaxpr):
                        follow(part.jaxpr if isinstance(part, ClosedJaxpr) else part)

    follow((function if isinstance(function, ClosedJaxpr) else jax.make_jaxpr(function)(*arguments)).jaxpr)
    return found


@pytest.mark.parametrize("options", [{"causal": True}, {"window": 5}, {"lengths": np.array([300, 0])}])
def test_what_a_program_is_for_decides_not_the_process(options):
    q, k, v = (jnp.asarray(x, jnp.bfloat16) for x in random_inputs(300, 300))
    attend = jax.jit(functools.partial(attention, **options))  # one function: JAX keeps its programs apart
    kernels = {"tpu": "pallas_call", "gpu": "ffi_call"}
    for name in ("tpu", "cpu", "gpu", "tpu"):
        with planned_for(name):
            assert platform() == name
            taken = primitives(attend, q, k, v) & set(kernels.values())
        assert taken == ({kernels[name]} if name in kernels and (name, "window") not in {("gpu", *options)} else set())
    mesh = AbstractMesh((1, 1, 1), AXES, axis_types=(AxisType.Auto,) * 3, abstract_device=TPU)
    with jax.sharding.use_abstract_mesh(mesh):
        assert "pallas_call" in primitives(attend, q, k, v)
    assert "pallas_call" not in primitives(attend, q, k, v)


def test_plans_are_of_the_platform_that_they_are_for():
    config = xsmall.get_config("runlocal")
    config.update(data={"seconds": 12.0}, model={"dtype": "bfloat16"})
    planner = Planner(config, songs_of(config))
    found = {name: primitives(planner.step(name).program) & {"pallas_call", "ffi_call"}
             for name in ("tpu", "cpu", "gpu")}
    assert found == {"tpu": {"pallas_call"}, "cpu": set(), "gpu": {"ffi_call"}}


def test_the_memory_of_a_kernel_by_hand():
    songs, heads = 10, 2
    q = jax.ShapeDtypeStruct((1009, 300, heads, 64), jnp.bfloat16)
    program = jax.make_jaxpr(lambda q: splash(q, q, q, causal=True))(q)
    buffers = peak(program, [None], Cuts(songs, 1009, {}, 1))
    # Queries, keys, values and the result, in rows of 128 and filled up to 384 steps; what the kernel works in.
    assert sorted(b.size for b in buffers if b.size > 5e5) == 3 * [songs * 384 * 128 * 4] + 4 * [
        2 * songs * heads * 384 * 128]
    halved = peak(program, [2], Cuts(songs, 1009, {}, 2))
    assert sorted(b.size for b in halved if b.size > 5e5) == 4 * [songs * 384 * 128 * heads] + 3 * [
        songs * 384 * 128 * 4]


def gradients_on(mesh, inputs, lengths, **options):
    """A program for the gradients of attention, of arrays that are cut as the model's are, and its arguments."""
    def loss(q, k, v, lengths):
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return jnp.square(attention(q, k, v, lengths=lengths, **options).astype(jnp.float32)).sum()

    def shaped(x, *spec):
        spec = jax.sharding.PartitionSpec(*BATCH, *spec)
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=NamedSharding(mesh, spec))

    arguments = [shaped(x, None, "tensor") for x in inputs] + ([] if lengths is None else [shaped(lengths)])
    if lengths is None:
        return jax.jit(lambda q, k, v: jax.grad(loss, argnums=(0, 1, 2))(q, k, v, None)), arguments
    return jax.jit(jax.grad(loss, argnums=(0, 1, 2))), arguments


@pytest.mark.parametrize("lengths", [None, np.array([140, 0, 9, 140])])
def test_each_device_attends_for_its_songs_and_heads(interpreted, lengths):
    inputs = random_inputs(140, 140, heads=4, batch=4)
    mesh = Mesh(np.array(jax.devices()).reshape(2, 2, 2), AXES, axis_types=(AxisType.Auto,) * 3)
    with planned_for("tpu"):
        function, arguments = gradients_on(mesh, inputs, lengths, causal=True)
        program = function.lower(*arguments).compile()
    placed = [jax.device_put(x, shape.sharding)
              for x, shape in zip([*inputs, *([] if lengths is None else [lengths])], arguments, strict=True)]
    results = program(*placed)
    assert not re.findall("all-gather|all-to-all|collective-permute|all-reduce", program.as_text())
    for one, other in zip(results, masked(*inputs, seen_by(4, 140, 140, True, None, lengths))[1:], strict=True):
        assert one.sharding.spec == arguments[0].sharding.spec
        np.testing.assert_allclose(one, other, atol=2e-5)


def test_songs_and_heads_that_devices_cannot_share_stay_whole(interpreted):
    inputs = random_inputs(130, 130, heads=3, batch=3)
    mesh = Mesh(np.array(jax.devices()[:4]).reshape(2, 1, 2), AXES, axis_types=(AxisType.Auto,) * 3)
    with planned_for("tpu"), jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        results = on_tpu(causal=True)(*(jax.device_put(x, NamedSharding(mesh, jax.P())) for x in inputs))
    for one, other in zip(results, masked(*inputs, seen_by(3, 130, 130, True)), strict=True):
        np.testing.assert_allclose(one, other, atol=2e-5)


@pytest.fixture(scope="module")
def tpus():
    """Four TPUs v5e that are not here, as a mesh that programs can be compiled for."""
    pytest.importorskip("libtpu", reason="the `tpu` extra is not installed")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("TPU_SKIP_MDS_QUERY", "1"), ("TPU_WORKER_HOSTNAMES", "localhost"),
                            ("TPU_ACCELERATOR_TYPE", "v5litepod-4"), ("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")):
            patch.setenv(name, value)  # libtpu would ask what it is part of
        devices = topologies.get_topology_desc("v5e:2x2", platform="tpu").devices
    return Mesh(np.array(devices).reshape(1, 2, 2), AXES, axis_types=(AxisType.Auto,) * 3)


@pytest.mark.parametrize(("width", "dtype", "queries", "keys", "options", "kernels"), [
    (64, jnp.bfloat16, 1503, 1503, {"causal": True}, 2), (96, jnp.bfloat16, 700, 700, {"causal": True}, 2),
    (128, jnp.bfloat16, 700, 700, {"causal": True}, 2), (64, jnp.float32, 700, 700, {"causal": True}, 2),
    (64, jnp.bfloat16, 6001, 6001, {"causal": True}, 3), (64, jnp.bfloat16, 1503, 1503, {"window": 5}, 3),
    (64, jnp.bfloat16, 1503, 777, {}, 2)])
def test_the_compiler_for_a_tpu_takes_it_and_gathers_nothing(tpus, width, dtype, queries, keys, options, kernels):
    inputs = [jax.ShapeDtypeStruct((4, n, 4, width), dtype) for n in (queries, keys, keys)]
    lengths = None if options else jax.ShapeDtypeStruct((4,), jnp.int32)
    function, arguments = gradients_on(tpus, inputs, lengths, **options)
    program = function.lower(*arguments).compile().as_text()
    assert len(re.findall('custom_call_target="tpu_custom_call"', program)) == kernels
    assert not re.findall("all-gather|all-to-all|collective-permute", program)
