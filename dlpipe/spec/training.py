"""How something is trained: how long, by which optimiser and schedule, when to stop. Pretraining and fine-tuning share it."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from dlpipe.spec.base import Component, NonNegativeFloat, PositiveFloat, PositiveInt, Probability, Spec, one_of


class Duration(Spec):
    """A length of training in exactly one unit; it is converted to steps once, before training starts."""

    epochs: PositiveFloat | None = Field(None, description="passes over the training examples")
    steps: PositiveInt | None = Field(None, description="updates of the parameters")
    examples: PositiveInt | None = Field(None, description="training examples seen")

    @model_validator(mode="after")
    def _exactly_one(self) -> Duration:
        if sum(value is not None for value in (self.epochs, self.steps, self.examples)) != 1:
            raise ValueError("give exactly one of epochs, steps, examples")
        return self

    def in_steps(self, examples: int, batch_size: int) -> int:
        """Steps (at least 1) for a training set of `examples` in batches of `batch_size`; a short last batch counts as a step."""
        per_epoch = -(-examples // batch_size)
        if self.steps is not None:
            return self.steps
        if self.epochs is not None:
            return max(1, round(self.epochs * per_epoch))
        assert self.examples is not None
        return max(1, round(self.examples / examples * per_epoch))


class OptimizerSpec(Component):
    """`weight_decay` is an L2 penalty on weights only: parameters with one dimension (biases) are never decayed."""

    family: ClassVar[str] = "optimizer"
    learning_rate: PositiveFloat
    weight_decay: NonNegativeFloat = 0.0


class Sgd(OptimizerSpec):
    implementation: ClassVar[str] = "dlpipe.runtime.optimizers:sgd"
    kind: Literal["sgd"] = "sgd"
    momentum: Probability = 0.0
    nesterov: bool = False

    @model_validator(mode="after")
    def _nesterov_needs_momentum(self) -> Sgd:
        if self.nesterov and self.momentum == 0.0:
            raise ValueError("nesterov needs a momentum above 0")
        return self


class Adagrad(OptimizerSpec):
    implementation: ClassVar[str] = "dlpipe.runtime.optimizers:adagrad"
    kind: Literal["adagrad"] = "adagrad"
    epsilon: PositiveFloat = 1e-10


class RmsProp(OptimizerSpec):
    implementation: ClassVar[str] = "dlpipe.runtime.optimizers:rmsprop"
    kind: Literal["rmsprop"] = "rmsprop"
    decay: Probability = 0.99
    epsilon: PositiveFloat = 1e-8
    momentum: Probability = 0.0


class Adam(OptimizerSpec):
    implementation: ClassVar[str] = "dlpipe.runtime.optimizers:adam"
    kind: Literal["adam"] = "adam"
    beta1: Probability = 0.9
    beta2: Probability = 0.999
    epsilon: PositiveFloat = 1e-8


class AdamW(OptimizerSpec):
    """Adam with the decay taken off the weights directly (Loshchilov and Hutter 2019)."""

    implementation: ClassVar[str] = "dlpipe.runtime.optimizers:adamw"
    kind: Literal["adamw"] = "adamw"
    beta1: Probability = 0.9
    beta2: Probability = 0.999
    epsilon: PositiveFloat = 1e-8


class ScheduleSpec(Component):
    """A factor on the learning rate, a pure function of the step and of the validation losses seen so far."""

    family: ClassVar[str] = "schedule"


class Constant(ScheduleSpec):
    implementation: ClassVar[str] = "dlpipe.runtime.schedules:constant"
    kind: Literal["constant"] = "constant"


class Step(ScheduleSpec):
    """Multiplied by `factor` after every `every`."""

    implementation: ClassVar[str] = "dlpipe.runtime.schedules:step"
    kind: Literal["step"] = "step"
    every: Duration
    factor: PositiveFloat = 0.1


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


class HalveOnPlateau(ScheduleSpec):
    """Halved each time the validation loss has not improved for `patience` validations in a row."""

    implementation: ClassVar[str] = "dlpipe.runtime.schedules:halve_on_plateau"
    kind: Literal["halve_on_plateau"] = "halve_on_plateau"
    patience: PositiveInt = 3
    factor: PositiveFloat = 0.5


class EarlyStopping(Spec):
    """Stops when `by` has not improved for `patience`, and keeps the parameters of its best validation."""

    by: str = Field("valid_error", description="a metric of the validation rows of history.csv")
    patience: Duration


Optimizer = one_of("optimizer")
Schedule = one_of("schedule")


class TrainingSpec(Spec):
    """What pretraining of a layer and every phase of fine-tuning have in common."""

    duration: Duration
    optimizer: Optimizer  # type: ignore[valid-type]
    schedule: Schedule = Constant()  # type: ignore[valid-type]
    batch_size: PositiveInt = Field(20, description="examples a step; the last batch of an epoch may be shorter")
    clip_norm: PositiveFloat | None = Field(None, description="largest Euclidean norm of the whole gradient")
    early_stopping: EarlyStopping | None = None
    validate_every: Duration = Duration(epochs=1.0)
    precision: Literal["float32", "bfloat16"] = Field("float32", description="of forward and backward passes; parameters stay float32")


def training_fields(spec: Spec) -> dict[str, Any]:
    """The training part of a phase, to be digested: every field of `TrainingSpec`, by name."""
    return {name: getattr(spec, name) for name in TrainingSpec.model_fields}
