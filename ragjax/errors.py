"""The one exception that users are meant to see, and the check that raises it."""


class UserError(Exception):
    """Bad input from the user: one sentence that names the field or file, the value and the remedy.

    The command line prints the sentence alone, without a traceback, and exits with code 2.
    """


def require(condition: bool, message: str) -> None:
    """Raises `UserError(message)` unless `condition` holds."""
    if not condition:
        raise UserError(message)
