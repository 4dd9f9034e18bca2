"""The one exception that a command shows its user as a plain line."""


class UserError(Exception):
    """Something that the user gave cannot be used.

    The message is one line that names the thing, the value seen, what was expected and what to do. Commands print
    it without a traceback and exit with status 2 (`autosong_jax.cli.run`).
    """
