"""The errors that a user is told in one line, without a traceback."""


class StepError(Exception):
    """A stage could not be made, for a reason that its message tells; the base of all such errors (exit code 1)."""


class NotMeasurable(StepError):
    """What is asked of a trained model does not exist, as of one that has diverged: for `evaluate` a divergence."""
