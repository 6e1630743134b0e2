"""The errors that a user is told in one line, without a traceback."""


class StepError(Exception):
    """A stage could not be made, for a reason that its message tells; the base of all such errors (exit code 1)."""
