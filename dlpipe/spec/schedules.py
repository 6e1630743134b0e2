"""How long something lasts, and how the learning rate changes meanwhile."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from dlpipe.spec.base import Component, NonNegativeFloat, PositiveFloat, PositiveInt, Spec, misuse


class Duration(Spec):
    """A length of training in exactly one unit; it is converted to steps once, before training starts."""

    example: ClassVar[str] = "{epochs: 15}"
    epochs: PositiveFloat | None = Field(None, description="passes over the training examples")
    steps: PositiveInt | None = Field(None, description="updates of the parameters")
    examples: PositiveInt | None = Field(None, description="training examples seen")

    @model_validator(mode="after")
    def _exactly_one(self) -> Duration:
        if sum(value is not None for value in (self.epochs, self.steps, self.examples)) != 1:
            raise misuse("give exactly one of epochs, steps and examples")
        return self

    def in_steps(self, examples: int, batch_size: int) -> int:
        """Steps (at least 1) for `examples` training examples in batches; a short last batch counts as a step."""
        per_epoch = -(-examples // batch_size)
        if self.steps is not None:
            return self.steps
        if self.epochs is not None:
            return max(1, round(self.epochs * per_epoch))
        assert self.examples is not None
        return max(1, round(self.examples / examples * per_epoch))


class ScheduleSpec(Component):
    """A factor on the learning rate, a pure function of the step and of the validation losses seen so far."""

    family: ClassVar[str] = "schedule"


class Constant(ScheduleSpec):
    implementation: ClassVar[str] = "dlpipe.runtime.schedules:constant"
    kind: Literal["constant"] = "constant"


class Step(ScheduleSpec):
    """Multiplied by `factor` after every `every`; the first time after `after`."""

    implementation: ClassVar[str] = "dlpipe.runtime.schedules:step"
    kind: Literal["step"] = "step"
    every: Duration
    factor: PositiveFloat = 0.1
    after: Duration | None = Field(
        None,
        description="how long the rate stays as it is at first; `every` if absent",
        exclude_if=lambda value: value is None,  # so that digests are what they were without it
    )


class Cosine(ScheduleSpec):
    """From 1 down to `floor` over the whole duration, along half a cosine."""

    implementation: ClassVar[str] = "dlpipe.runtime.schedules:cosine"
    kind: Literal["cosine"] = "cosine"
    floor: NonNegativeFloat = 0.0


class LinearWarmup(ScheduleSpec):
    """From near 0 up to 1 over `warmup`, then 1."""

    implementation: ClassVar[str] = "dlpipe.runtime.schedules:linear_warmup"
    kind: Literal["linear_warmup"] = "linear_warmup"
    warmup: Duration


PLATEAU_METRICS = ("valid_loss", "valid_reconstruction_error", "train_loss", "train_reconstruction_error")
"""What a schedule that follows the validation loss looks at: the first of these that the history has."""


class HalveOnPlateau(ScheduleSpec):
    """Halved each time the validation loss has not improved for `patience` validations in a row."""

    implementation: ClassVar[str] = "dlpipe.runtime.schedules:halve_on_plateau"
    kind: Literal["halve_on_plateau"] = "halve_on_plateau"
    patience: PositiveInt = 3
    factor: PositiveFloat = 0.5
