"""All kinds of cases. A kind draws one case in a scene; another module of kinds is one more entry of `_MODULES`.

Such a module has `KINDS`, {name: function of a `Scene`}. What its commands import that is heavy goes to `IMPORTS`.
"""

from collections.abc import Callable

from benchmarks.fuzzing import commands, prep
from benchmarks.fuzzing.scene import Case, Scene

_MODULES = (commands, prep)
KINDS: dict[str, Callable[[Scene], Case]] = {name: draw for module in _MODULES for name, draw in module.KINDS.items()}
IMPORTS = tuple(name for module in _MODULES for name in getattr(module, "IMPORTS", ()))
