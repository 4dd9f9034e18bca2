"""What all tests share: JAX on eight virtual CPU devices, a cache of compiled programs, processes lacking packages."""

import collections
import importlib.util
import os
import sys
from pathlib import Path

import pytest

from tests import memory

ROOT = Path(__file__).resolve().parent.parent

# JAX reads these when it is first imported, here and in every process that a test starts. The eight devices are for the
# sharding tests; compiled programs are kept from one run to the next.
assert "jax" not in sys.modules, "jax was imported before tests/conftest.py could set it up"
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Much of the suite's time is XLA's, which makes machine code for programs that run once on a few numbers: code that is
# made quickly, if not as well. JAX_DISABLE_MOST_OPTIMIZATIONS=0 XLA_FLAGS=--xla_cpu_use_fusion_emitters=true tests what
# users run.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
for flag, value in [("xla_force_host_platform_device_count", "8"), ("xla_cpu_use_fusion_emitters", "false")]:
    if flag not in os.environ.get("XLA_FLAGS", ""):
        os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + f" --{flag}={value}"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(ROOT / ".pytest_cache" / "jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")

# Files that take more than half a minute of a processor, about in the order of their times.
LONGEST = (
    "colab/test_notebooks.py", "test_fuzz.py", "training/test_continuous.py", "parallel/test_distributed.py",
    "training/test_loop.py", "pretrained/test_musicgen.py", "training/test_finetune.py", "planning/test_plan.py",
    "data_prep/test_export.py", "training/test_step.py", "pretrained/test_audiocraft.py",
    "training/test_frozen_text.py", "models/test_song.py", "training/test_kills.py", "data_prep/test_beam.py",
    "training/test_recordings.py", "sampling/test_continuous.py", "test_evaluate.py", "test_commands.py",
    "test_edit_command.py", "studio/test_page.py", "training/test_sung.py", "sampling/test_song.py",
    "sampling/test_masked.py", "codecs/test_encodec.py", "sampling/test_autoregressive.py", "sampling/test_stream.py",
    "pretrained/test_finetune_musicgen.py", "training/test_faults.py", "parallel/test_elastic.py",
    "benchmarks/test_accelerator.py", "data_prep/stems/test_stems.py")


def pytest_addoption(parser):
    parser.addoption("--network", action="store_true", help="also run the tests that download something")


def pytest_configure(config):
    config.pluginmanager.register(memory.Plugin())


def pytest_terminal_summary(terminalreporter):
    counts = collections.Counter()
    for report in terminalreporter.getreports("passed"):
        for name, value in report.user_properties:
            counts[name] += value
    if compared := counts["frames compared"]:
        terminalreporter.write_line(f"Codes of {compared} frames were compared: {counts['frames that differ']} differ, "
                                    "by a tie")


def pytest_collection_modifyitems(config, items):
    # Workers take whole files: the longest first, or one of them would be alone with it at the end.
    tests = Path(__file__).parent
    order = {tests / path: place for place, path in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path, len(order)))
    network = pytest.mark.skip(reason="downloads something: give --network")
    encodec = pytest.mark.skip(reason="the encodec package is not installed: make test-encodec")
    tensorflow = pytest.mark.skip(reason="TensorFlow is not installed: make test-tensorflow")
    for item in items:
        if "network" in item.keywords and not config.getoption("--network"):
            item.add_marker(network)
        if "encodec" in item.keywords and not importlib.util.find_spec("encodec"):
            item.add_marker(encodec)
        if "tensorflow" in item.keywords and not importlib.util.find_spec("tensorflow"):
            item.add_marker(tensorflow)


@pytest.fixture
def same_codes(record_property):
    """`same_codes(codes, expected, vectors, codebooks)` is `parity.check_codes`; the summary counts what differed."""
    from tests.parity import check_codes

    def check(codes, expected, vectors, codebooks, **how):
        differ = check_codes(codes, expected, vectors, codebooks, **how)
        record_property("frames compared", len(codes))
        record_property("frames that differ", differ)

    return check


@pytest.fixture(scope="session")
def environment_without(tmp_path_factory):
    """`environment_without("torch", ...)` gives the environment of a process that cannot import those packages.

    For `subprocess.run(..., env=environment_without("torch", "tensorflow"))`; what that process starts cannot either.
    """

    def environment(*packages: str) -> dict[str, str]:
        directory = tmp_path_factory.mktemp("without")
        # Python imports sitecustomize by itself when it starts, before anything else could import the packages.
        (directory / "sitecustomize.py").write_text(HIDE_PACKAGES.format(packages=set(packages)))
        path = [str(directory), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        return os.environ | {"PYTHONPATH": os.pathsep.join(path)}

    return environment


HIDE_PACKAGES = """
import sys
from importlib.machinery import PathFinder


class Hiding(PathFinder):
    # As if they were not installed: importing fails and importlib.util.find_spec finds nothing.
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in {packages!r} else PathFinder.find_spec(name, path, target)


sys.meta_path = [Hiding if finder is PathFinder else finder for finder in sys.meta_path]
"""


@pytest.fixture(scope="session")
def toy_dataset(tmp_path_factory):
    """A dataset of 6 training and 2 validation songs of 8 to 20 random frames: K = 3, V = 16, 25 frames a second."""
    from benchmarks.fuzzing.fixtures import write_dataset

    directory = tmp_path_factory.mktemp("toy") / "dataset"
    write_dataset(directory)
    return directory


@pytest.fixture(scope="session")
def toy_config(toy_dataset):
    """`toy_config(**{"train.steps": 3})`: a config that trains on `toy_dataset` in seconds; windows of 12 frames.

    Lyrics and genre are most of its programs: where they do not matter, `toy_config(sources=False)` compiles sooner.
    """
    from autosong_jax import config as config_file
    from autosong_jax import defaults

    def make(sources=True, **overrides):
        config = config_file.run_local(defaults.base())
        config.update_from_flattened_dict({
            "data.path": str(toy_dataset), "data.seconds": 0.48, "data.batch_size": 8, "model.width": 16,
            "model.mlp_width": 32, "sources.lyrics.max_length": 40, "sources.lyrics.width": 16,
            "sources.genre.max_length": 4, "sources.genre.width": 16, "optimizer.learning_rate": 3e-3,
            "train.steps": 6, "train.log_every": 1, "train.eval_every": 3, "train.checkpoint_every": 2,
            **overrides})
        if not sources:
            config.sources = {}
        return config

    return make


@pytest.fixture(scope="session")
def toy_workdir(toy_config, tmp_path_factory):
    """A workdir with two steps of training in it."""
    from autosong_jax.training import loop

    workdir = tmp_path_factory.mktemp("toy") / "workdir"
    loop.train(toy_config(**{"train.steps": 2, "train.eval_every": 0}), workdir)
    return workdir


@pytest.fixture(scope="session")
def make_workdir():
    """`make_workdir(config, workdir)` writes the workdir of a model that has not been trained: enough to sing from."""
    from flax import nnx

    from autosong_jax.data.dataset import SongDataset
    from autosong_jax.models.build import build_model
    from autosong_jax.workdir.checkpoints import save_weights
    from autosong_jax.workdir.runs import prepare_workdir

    def make(config, workdir):
        dataset = SongDataset(config.data.path, "train")
        prepare_workdir(config, dataset, workdir)
        model = build_model(config, dataset.codec, dataset.text, rngs=nnx.Rngs(config.seed))
        save_weights(workdir, nnx.to_pure_dict(nnx.state(model)))

    return make


@pytest.fixture(scope="session")
def save_text_encoder():
    """`save_text_encoder(kind, folder)` writes a toy `bert`, `t5`, `mt5` or `umt5` with random weights, the whole model
    as the hub holds it, which knows the words love, rain, night and blue; it gives the model's encoder.

    BERT has 12 positions. mT5 comes with a `spiece.model` alone, as its released checkpoints do.
    """
    import torch
    import transformers

    torch.set_num_threads(1)
    words = ["love", "rain", "night", "blue"]
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -4.0), *(("▁" + word, -2.0) for word in words)]
    models = {"t5": transformers.T5ForConditionalGeneration, "mt5": transformers.MT5ForConditionalGeneration,
              "umt5": transformers.UMT5ForConditionalGeneration, "bert": transformers.BertForMaskedLM}

    def save(kind, folder):
        if kind == "bert":
            sizes = {"vocab_size": len(vocabulary), "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2,
                     "intermediate_size": 16, "max_position_embeddings": 12}
            tokenizer = transformers.BertTokenizer(vocab={token: i for i, token in enumerate(vocabulary)})
        else:
            sizes = {"vocab_size": len(pieces), "d_model": 8, "d_kv": 4, "d_ff": 16, "num_layers": 2, "num_heads": 2,
                     "decoder_start_token_id": 0}
            tokenizer = transformers.T5Tokenizer(vocab=pieces, extra_ids=0)
        torch.manual_seed(0)
        model = models[kind](models[kind].config_class(**sizes)).eval()
        model.save_pretrained(folder)
        if kind == "mt5":
            (folder / "spiece.model").write_bytes(_sentencepiece_model(pieces))
        else:
            tokenizer.save_pretrained(folder)
        return model.bert if kind == "bert" else model.encoder

    return save


def _sentencepiece_model(pieces):
    from transformers.convert_slow_tokenizer import import_protobuf

    proto = import_protobuf().ModelProto()
    proto.trainer_spec.model_type = proto.trainer_spec.UNIGRAM
    proto.trainer_spec.unk_id, proto.trainer_spec.eos_id, proto.trainer_spec.pad_id = 2, 1, 0
    types = {"<unk>": 2, "<pad>": 3, "</s>": 3}
    for piece, score in pieces:
        proto.pieces.add(piece=piece, score=score, type=types.get(piece, 1))
    return proto.SerializeToString()
