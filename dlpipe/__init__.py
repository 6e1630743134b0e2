"""dlpipe: does a deep-learning paper's claim hold? Declare the experiment, run it, read the verdict."""

__version__ = "0.1.0"
