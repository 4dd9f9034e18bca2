"""One case of the fuzz test: a command, and the folder that holds what it is given and what it makes."""

import dataclasses
import hashlib
import os
import pathlib
import random
import shutil
import stat
from collections.abc import Collection, Sequence

MIB = 2**20


@dataclasses.dataclass
class Case:
    """A command to try.

    Attributes:
      module: whose `define_flags` and `main` it is, such as "autosong_jax.generate".
      arguments: what follows the module's name.
      wanted: the exit statuses that are right. (2,) for what has to be refused, (0,) for what has to work.
      changes: files and folders that were there before and that the command may write to.
      seconds: of a CPU after which it is ended; also if it only waits.
      memory: MiB of all its processes, of which what they share counts once, at which it is ended. A process with JAX
        has about 700.
    """

    module: str
    arguments: Sequence[str]
    wanted: Collection[int] = (0, 2)
    changes: Sequence[pathlib.Path] = ()
    seconds: float = 60
    memory: int = 2500


class Scene:
    """The folder of one case.

    `given/` holds what was there before the command, which must be the same after it, and may have grown by files that
    its arguments name; `made/` is for what it writes.

    Args:
      folder: a new one.
      fixtures: as `fixtures.make` makes them.
      rng: draws the case.
    """

    def __init__(self, folder: pathlib.Path, fixtures: pathlib.Path, rng: random.Random):
        self.folder, self.rng, self._fixtures = folder, rng, fixtures
        self.given, self.made = folder / "given", folder / "made"
        for path in (self.given, self.made):
            path.mkdir(parents=True)

    def take(self, name: str) -> pathlib.Path:
        """A copy of a fixture, a file or a folder, which the case may damage."""
        target = self.given / name
        if not target.exists():
            source = self._fixtures / name
            if source.is_dir():
                shutil.copytree(source, target, symlinks=True)
            else:
                shutil.copy(source, target)
        return target

    def file(self, name: str, data: bytes) -> pathlib.Path:
        """A new file among what is given."""
        path = self.given / name
        path.write_bytes(data)
        return path


def snapshot(folder: pathlib.Path, without: Collection[pathlib.Path] = ()) -> dict[str, str]:
    """What lies in a folder, in a few characters for each path; links are not followed."""
    found = {}
    for directory, folders, files in os.walk(folder):
        at = pathlib.Path(directory)
        folders[:] = [name for name in folders if at / name not in without]
        for name in [*folders, *files]:
            path = at / name
            if path in without or _is_cache(name):
                continue
            mode = path.lstat().st_mode
            what = f"{stat.S_IFMT(mode):o}"
            if stat.S_ISLNK(mode):
                what += os.readlink(path)
            elif stat.S_ISREG(mode):
                what += hashlib.sha256(path.read_bytes()).hexdigest()
            found[os.fsencode(path.relative_to(folder)).decode("latin-1")] = what
    return found


def _is_cache(name: str) -> bool:
    """Whether it is what `data.tfrecord` keeps beside a shard that it has scanned."""
    return name.startswith(".") and ".tfrecord-" in name
