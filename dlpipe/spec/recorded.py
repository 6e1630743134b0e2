"""What training will have recorded, by name, before anything runs: the metrics of a validation in history.csv."""

from __future__ import annotations

from typing import NamedTuple

from dlpipe.spec.problems import closest, cropped, listed

OF_THE_LOOP = ("learning_rate", "grad_norm")
"""Recorded at every validation, whatever is trained."""


class Recorded(NamedTuple):
    """What the implementation of a layer, a task or a model calls what it records."""

    step: tuple[str, ...]
    """Scalars of a step: `loss` is `train_loss` in history.csv, the mean since the last validation."""
    validation: tuple[str, ...]
    """Metrics of the validation examples: `loss` is `valid_loss` in history.csv."""


class Rows(NamedTuple):
    """What every validation of a training has."""

    recorded: Recorded
    validated: bool
    """Whether there are validation examples."""
    trained: bool = True
    """Whether there are steps, or a model is taken as it is."""

    @property
    def train(self) -> tuple[str, ...]:
        return tuple(f"train_{name}" for name in self.recorded.step) if self.trained else ()

    @property
    def valid(self) -> tuple[str, ...]:
        return tuple(f"valid_{name}" for name in self.recorded.validation) if self.validated else ()

    @property
    def names(self) -> tuple[str, ...]:
        return self.train + self.valid + (OF_THE_LOOP if self.trained else ())

    def lack(self, *metrics: str) -> bool:
        return not set(metrics) & set(self.names)

    def unfit(self, who: str, by: str) -> str | None:
        """Why `who` cannot go by such a metric, and which ones there are; None if it can."""
        if not self.lack(by):
            return None
        whole = self._replace(validated=True)
        if not whole.lack(by):
            instead = f", or by to {listed(self.train, 'or')}" if self.train else ""
            return f"{who} goes by {by}, and there are no validation examples: set dataset.valid{instead}"
        meant = closest(by, whole.names) if self.names else None
        return f"{who} goes by {cropped(by)}; {self}" + (f". Did you mean '{meant}'?" if meant else "")

    def __str__(self) -> str:
        if not self.names:
            return "nothing is recorded where nothing is trained and there are no validation examples"
        return f"the validations have {listed(self.names)}" + (
            "" if self.validated else " (there are no validation examples)"
        )
