"""The one error type that reaches a user."""


class UserError(Exception):
    """A fault the user can mend. The message is one line: what was wrong, with which value, and what to do.

    The command line prints it without a traceback and exits with status 2.
    """
