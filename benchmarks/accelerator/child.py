"""One part, in a process of its own: the accelerator's memory is then free for the next one, whatever becomes of this.

python -m benchmarks.accelerator.child SPECIFICATION, as `benchmarks.accelerator.runner` starts it.
"""

import importlib
import json
import signal
import sys
import traceback

from benchmarks.accelerator.measurement import Measurement, Skipped, last_line


def main() -> int:
    """Measures; 0 if that went well or the part was skipped, else 1."""
    specification = json.loads(sys.argv[1])
    measurement = Measurement(specification)
    signal.alarm(round(specification["most"] + 30))  # should what started this be gone by then
    module, function = specification["measure"].split(":")
    try:
        getattr(importlib.import_module(module), function)(measurement, **specification["arguments"])
    except Skipped as skipped:
        measurement.finish("skipped", str(skipped))
    except ModuleNotFoundError as error:
        measurement.finish("skipped", f"the package {(error.name or str(error)).partition('.')[0]} is not installed")
    except Exception as error:
        traceback.print_exc()
        measurement.finish("failed", last_line(error))
        return 1
    else:
        measurement.finish("done")
    return 0


if __name__ == "__main__":
    sys.exit(main())
