"""What every command line shares: flags first, one plain line for a user's mistake, progress for a terminal."""

import contextlib
import difflib
import logging
import os
import pathlib
import re
import select
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence

from absl import flags

from autosong_jax.errors import UserError

_STDOUT = 1  # its descriptor
CONFIGS = pathlib.Path(__file__).parent.parent / "configs"  # beside this package, in a checkout and installed
STARTED = time.perf_counter()  # when the command began
log = logging.getLogger("autosong_jax")  # what a command tells its user; libraries' own messages from warnings on


# Orbax logs every failure, from several threads and with its traceback, before it raises it, and its event loop those
# of the tasks beside the first that failed; commands turn all of them into errors of one line.
_REPEATED = {"absl": lambda record: "orbax" not in record.pathname,
             "asyncio": lambda record: "never retrieved" not in record.getMessage()}


@contextlib.contextmanager
def _told_on_stderr() -> Iterator[None]:
    """What the log and warnings say goes to stderr inside, and where it went before afterwards."""
    level, propagate, showwarning = log.level, log.propagate, warnings.showwarning
    handler = _ProgressHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s  %(message)s", "%H:%M:%S"))
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False
    warnings.showwarning = lambda message, *_: log.warning("%s", message)  # not where in the code it is from
    for name, is_news in _REPEATED.items():
        logging.getLogger(name).addFilter(is_news)
    try:
        yield
    finally:
        for name, is_news in _REPEATED.items():
            logging.getLogger(name).removeFilter(is_news)
        log.removeHandler(handler)
        log.setLevel(level)
        log.propagate, warnings.showwarning = propagate, showwarning


@_told_on_stderr()
def run(main: Callable[..., int | None], argv: Sequence[str] | None = None, *, verbs: Sequence[str] = ()) -> None:
    """Parses the flags, calls `main` and exits.

    Of a command with `verbs`, the first argument is one of them, and `main` is called with it.

    Exit status: what `main` returns (0 if None); 2 after a wrong flag or a `UserError`, with one line on stderr;
    130 after Ctrl+C; 1 without a word where nobody reads any more what it prints (`| head`). `--help` prints the flags
    of the module that defines `main` and exits with 0.
    """
    argv = list(sys.argv if argv is None else argv)
    module = sys.modules[main.__module__]
    try:
        if any(a in ("--help", "-help", "-h") for a in argv[1:]):
            print((module.__doc__ or "").strip(), "\n")
            print(flags.FLAGS.module_help(module.__spec__.name if module.__spec__ else module.__name__)
                  if module.__name__ != "__main__" else flags.FLAGS.main_module_help())
            sys.exit(0)
        if verbs and (len(argv) < 2 or argv[1] not in verbs):
            found = repr(argv[1]) if argv[1:] else "nothing"
            raise UserError(f"the first argument is {found}, expected one of {', '.join(verbs)}; see --help")
        verb = [argv.pop(1)] if verbs else []
        _parse(argv)
        sys.exit(main(*verb) or 0)
    except flags.Error as error:
        fail(str(error).replace("FATAL Flags parsing error:", "").strip())
    except UserError as error:
        fail(str(error))
    except OSError as error:  # that no part has said more of
        if _nobody_reads():
            sys.exit(1)
        fail(f"{error.filename or 'a file'} cannot be read or written ({error.strerror or error})")
    except MemoryError as error:
        fail(f"out of memory ({error or 'the system gives no more'}): ask for less at once")
    except Exception as error:
        # Of a device that has none left; jax, which the error is from, need not have been imported.
        if type(error).__name__ not in ("JaxRuntimeError", "XlaRuntimeError") or "RESOURCE_EXHAUSTED" not in str(error):
            raise
        fail(f"out of memory on the device ({str(error).splitlines()[0]}): ask for less at once")
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)


def _nobody_reads() -> bool:
    """Whether stdout is a pipe whose other end is closed; then nothing more goes into it, at the exit neither."""
    poll = select.poll()
    poll.register(_STDOUT, 0)
    closed = any(event & select.POLLERR for _, event in poll.poll(0))
    if closed:
        os.dup2(os.open(os.devnull, os.O_WRONLY), _STDOUT)
    return closed


def _parse(argv: list[str]) -> None:
    try:
        rest = flags.FLAGS(argv)
    except (AttributeError, KeyError) as error:  # from ml_collections, for --config.FIELD
        found = error
        while isinstance(found, Exception):
            found = found.args[0]
        field, *guess = str(found).splitlines()
        field, guess = field.strip("'"), f" ({guess[0]})" if guess else ""
        raise UserError(f"the config has no field {field}{guess}: autosong_jax/defaults.py has them all") from error
    except OSError as error:  # likewise, of a config that could not be loaded
        raise UserError(config_error(error)) from error
    if len(rest) > 1:
        raise UserError(f"unexpected argument {rest[1]!r}: every option is a flag (--name=value); see --help")


def config_file(name: str) -> str:
    """FILE[:ARGUMENT] with the path of the config: configs/NAME.py is the installed one where there is no such file."""
    file, colon, argument = name.partition(":")
    shipped = CONFIGS / pathlib.Path(file).name
    named_so = pathlib.Path(file) == pathlib.Path("configs", shipped.name)
    return f"{shipped}{colon}{argument}" if named_so and shipped.exists() and not os.path.exists(file) else name


def config_error(error: OSError) -> str:
    """What ml_collections says of a config file that it could not load, in one line, and what could have been meant."""
    said = str(error).splitlines()[-1].strip()
    hint = ""
    if missing := re.search(r"No such file or directory: '(.+)'", said):
        path = pathlib.Path(missing[1])
        shipped = sorted(other.name for other in CONFIGS.glob("*.py"))
        others = [other.name for other in path.parent.glob("*.py")]
        near = difflib.get_close_matches(path.name, others + shipped, 1, cutoff=0.7)
        if near:
            folder = path.parent if (path.parent / near[0]).exists() else pathlib.Path("configs")
            hint = f"; did you mean {folder / near[0]}?"
        else:
            hint = f"; a file of your own, or configs/NAME.py with one of {', '.join(n[:-3] for n in shipped)}"
    return f"the config cannot be loaded: {said}{hint}"


class _ProgressHandler(logging.Handler):
    """Writes to stderr, above a progress bar if there is one."""

    def emit(self, record):
        from tqdm import tqdm

        tqdm.write(printable(self.format(record)), file=sys.stderr)


def printable(text: str) -> str:
    r"""`text` with what would steer a terminal (escape sequences, other controls, halves of characters) as \x1b.

    Names of files, tags and texts come from others. Whatever this package writes to a terminal goes through here.
    """
    return STEERING.sub(lambda found: ascii(found[0])[1:-1], text)


# Controls but for the new line, halves of characters, and what turns the order of the text around it.
STEERING = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\ud800-\udfff\u202a-\u202e\u2066-\u2069]")


def say(text: str) -> None:
    """Prints a result on stdout."""
    print(printable(text), flush=True)


def fail(message: str) -> None:
    """Prints `error: message` as one line on stderr and exits with status 2."""
    print("error: " + printable(" ".join(message.split())), file=sys.stderr)
    sys.exit(2)


def progress(items: Iterable | None = None, *, show: bool = True, **options):
    """A tqdm progress bar on stderr, silent when stderr is not a terminal or `show` is false."""
    from tqdm import tqdm

    return tqdm(items, disable=None if show else True, dynamic_ncols=True, **options)
