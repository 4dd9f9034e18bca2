"""What may import what: JAX and PyTorch never meet, commands start light, every package used is a declared dependency.

First by running: processes in which the forbidden packages cannot be imported. Then by reading the source, which also
sees imports inside functions.
"""

import ast
import importlib
import logging
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from autosong_jax.cli import log

ROOT = Path(__file__).resolve().parent.parent
TORCH_SIDE = {"torch", "torchaudio", "tensorflow", "transformers", "encodec", "demucs"}
JAX_SIDE = {"jax", "jaxlib", "flax", "optax", "orbax", "clu"}
# What data_prep takes from the JAX side: these import no JAX either.
SHARED = ["autosong_jax." + name for name in (
    "audio", "cli", "codecs.blocks", "codecs.codec", "codecs.encodec.names", "codecs.folding", "codecs.info",
    "codecs.mel.codec", "codecs.melrvq", "codecs.pcm", "codecs.spectral", "codecs.table", "data", "errors",
    "evaluation.duets", "evaluation.edits", "evaluation.lyrics", "evaluation.notes", "inputs", "outputs",
    "sources.base", "sources.chroma.pitch_classes", "sources.spec", "sources.text.encoders",
    "sources.text.sections", "sources.text.tokenizer", "weights.files",
    *(f"codecs.{path.parent.name}.settings" for path in (ROOT / "autosong_jax" / "codecs").glob("*/settings.py")),
    *(f"sources.{path.parent.name}.spec" for path in (ROOT / "autosong_jax" / "sources").glob("*/spec.py")))]


# The parts of autosong_jax, from the ground up. One may import those of the lines above its own, and none beside it: so
# there are no cycles, and what stands low can be read without what stands high.
LEVELS = [
    {"errors", "defaults"},
    {"inputs", "cli", "compiled"},
    {"outputs"},
    {"audio", "parallel"},
    {"layers", "weights", "codebooks"},
    {"codecs", "latents"},
    {"sources"},
    {"config", "data"},
    {"models"},
    {"objectives"},
    {"workdir"},
    {"pretrained"},
    {"training", "sampling", "evaluation"},
    {"planning", "rankers"},  # of training; of sampling, by evaluation
    # The commands, and the package itself.
    {"train", "generate", "align", "convert", "codec", "monitor", "evaluate", "studio", ""},
]
LEVEL = {part: level for level, parts in enumerate(LEVELS) for part in parts}


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def modules_of(package: str) -> dict[str, Path]:
    """Every module of a package in the checkout, by its dotted name."""
    return {module_name(path): path for path in sorted((ROOT / package).rglob("*.py"))}


AUTOSONG_JAX = modules_of("autosong_jax")
DATA_PREP = modules_of("data_prep")
MODULES = AUTOSONG_JAX | DATA_PREP
COMMANDS = [name.removesuffix(".__main__") for name, path in MODULES.items()
            if '__name__ == "__main__"' in path.read_text()]


def imports_of(path: Path) -> set[str]:
    """Dotted names of the modules that a file imports, at module level or inside functions."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import"
            members = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= (members & MODULES.keys()) or {node.module}
    return names


def top_level(names: set[str]) -> set[str]:
    return {name.partition(".")[0] for name in names}


def is_shared(module: str) -> bool:
    return module == "autosong_jax" or any(module == name or module.startswith(name + ".") for name in SHARED)


def run_python(*arguments: str, env: dict[str, str]) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, env=env, capture_output=True, text=True)


def test_hiding_a_package_hides_it(environment_without):
    process = run_python("-c", "import torch.nn", env=environment_without("torch"))
    assert process.returncode == 1
    assert "ModuleNotFoundError: No module named 'torch'" in process.stderr


@pytest.mark.parametrize(
    ("modules", "hidden"),
    [
        pytest.param(list(AUTOSONG_JAX), TORCH_SIDE, id="autosong_jax without torch and tensorflow"),
        pytest.param(list(DATA_PREP), JAX_SIDE, id="data_prep without jax"),
    ],
)
def test_every_module_imports(modules, hidden, environment_without):
    process = run_python("-c", "\n".join(f"import {name}" for name in modules), env=environment_without(*hidden))
    assert process.returncode == 0, process.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_help_needs_no_heavy_package(command, environment_without):
    """`--help` answers without JAX and PyTorch: a wrong flag must not cost the seconds that their imports take."""
    process = run_python("-m", command, "--help", env=environment_without(*TORCH_SIDE, *JAX_SIDE))
    assert process.returncode == 0, process.stderr
    assert "--" in process.stdout, "no flags are listed"


def test_documented_commands_exist():
    documented = set(re.findall(r"python -m ((?:autosong_jax|data_prep)[a-z_.]+)", (ROOT / "README.md").read_text()))
    assert documented, "README.md names no command"
    assert documented <= set(COMMANDS)


@pytest.mark.parametrize("name", AUTOSONG_JAX)
def test_autosong_jax_names_no_torch(name):
    names = imports_of(AUTOSONG_JAX[name])
    assert not top_level(names) & (TORCH_SIDE | {"data_prep"})
    if is_shared(name):
        assert not top_level(names) & JAX_SIDE, "data_prep uses this module, so it imports no jax"


def part_of(module: str) -> str:
    """The module or package right below autosong_jax that a module is, or is in."""
    return module.split(".")[1] if "." in module else ""


def upward(module: str, imported: set[str]) -> set[str]:
    """The parts that a module imports although they do not stand below its own."""
    own = part_of(module)
    parts = {part_of(name) for name in imported if name.startswith("autosong_jax.")} - {own}
    return {part for part in parts if LEVEL[part] >= LEVEL[own]}


@pytest.mark.parametrize("name", AUTOSONG_JAX)
def test_imports_go_down(name):
    names = imports_of(AUTOSONG_JAX[name])
    assert not upward(name, names)
    assert "configs" not in top_level(names), "configs are made of the library, not it of them"


def test_what_would_go_up_or_beside_is_seen(tmp_path):
    (tmp_path / "module.py").write_text(
        "from typing import TYPE_CHECKING\nfrom autosong_jax import errors\n\nif TYPE_CHECKING:\n"
        "    from autosong_jax import train\n\n\ndef sing():\n    import autosong_jax.sampling.song\n"
        "    from autosong_jax.models import song\n")
    assert upward("autosong_jax.training.step", imports_of(tmp_path / "module.py")) == {"train", "sampling"}


def test_every_part_has_its_level():
    assert {part_of(name) for name in AUTOSONG_JAX} - {""} <= LEVEL.keys()


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.py")), ids=lambda path: path.stem)
def test_a_config_is_made_of_others_and_what_needs_no_jax(path):
    names = imports_of(path)
    assert {part_of(name) for name in names if top_level({name}) == {"autosong_jax"}} - {""} <= {
        "config", "defaults", "errors"}
    assert top_level(names) - set(sys.stdlib_module_names) <= {"autosong_jax", "configs", "ml_collections"}


@pytest.mark.parametrize("name", DATA_PREP)
def test_data_prep_names_no_jax(name):
    names = imports_of(DATA_PREP[name])
    assert not top_level(names) & JAX_SIDE
    assert not {used for used in names & AUTOSONG_JAX.keys() if not is_shared(used)}


def requirement_names(requirements: list[str]) -> set[str]:
    return {re.match(r"[\w.-]+", line)[0].lower().replace("_", "-") for line in requirements}


def test_the_package_leaves_the_log_of_its_caller_alone():
    for name in ("autosong_jax.workdir.checkpoints", "autosong_jax.sampling.singer"):
        importlib.import_module(name)
    for name in ("absl", "asyncio", "autosong_jax"):
        assert not logging.getLogger(name).filters
    assert not log.handlers and log.propagate


@pytest.mark.parametrize(
    ("modules", "extras"),
    [
        pytest.param(AUTOSONG_JAX, ["studio", "trackio", "wandb"], id="autosong_jax"),
        pytest.param(DATA_PREP, ["beam", "encodec", "prep", "stems"], id="data_prep"),
    ],
)
def test_every_import_is_a_declared_dependency(modules, extras):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = requirement_names(project["dependencies"]).union(
        *(requirement_names(project["optional-dependencies"][extra]) for extra in extras)
    )
    used = top_level(set().union(*map(imports_of, modules.values()))) - set(sys.stdlib_module_names)
    used -= {"autosong_jax", "configs", "data_prep"}
    distributions = packages_distributions()
    # A package that is not installed here is taken to be called as it is imported.
    undeclared = {
        name for name in used if not {d.lower().replace("_", "-") for d in distributions.get(name, [name])} & declared
    }
    assert not undeclared
