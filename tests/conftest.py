"""What all tests share: JAX on eight virtual CPU devices, a cache of compiled programs, processes lacking packages."""

import importlib.util
import os
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# JAX reads these when it is first imported, here and in every process that a test starts. The eight devices are for the
# sharding tests; compiled programs are kept from one run to the next.
assert "jax" not in sys.modules, "jax was imported before tests/conftest.py could set it up"
os.environ.setdefault("JAX_PLATFORMS", "cpu")
if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(ROOT / ".pytest_cache" / "jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")


def pytest_addoption(parser):
    parser.addoption("--network", action="store_true", help="also run the tests that download something")


def pytest_collection_modifyitems(config, items):
    network = pytest.mark.skip(reason="downloads something: give --network")
    tensorflow = pytest.mark.skip(reason="TensorFlow is not installed: make test-tensorflow")
    for item in items:
        if "network" in item.keywords and not config.getoption("--network"):
            item.add_marker(network)
        if "tensorflow" in item.keywords and not importlib.util.find_spec("tensorflow"):
            item.add_marker(tensorflow)


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


class Hidden:
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] in {packages!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}} (hidden by a test)", name=name)


sys.meta_path.insert(0, Hidden)
"""
