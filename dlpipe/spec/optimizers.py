"""The optimisers, by the names and with the constants of their papers."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from dlpipe.spec.base import Component, NonNegativeFloat, PositiveFloat, Probability, misuse
from dlpipe.spec.schedules import Duration


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
    early_momentum: float | None = Field(
        None,
        gt=0.0,
        lt=1.0,
        description="the momentum for `early_duration`, before it is `momentum`: 0.5, say, for 5 epochs (Hinton 2010, "
        "section 9)",
        exclude_if=lambda value: value is None,
    )
    early_duration: Duration | None = Field(None, exclude_if=lambda value: value is None)

    @model_validator(mode="after")
    def _early_momentum_has_a_duration(self) -> Sgd:
        if (self.early_momentum is None) != (self.early_duration is None):
            raise misuse("early_momentum and early_duration are given together", "early_momentum")
        if self.early_momentum is not None and self.momentum == 0.0:
            raise misuse("early_momentum needs a momentum above 0 to go on with", "momentum")
        return self

    @model_validator(mode="after")
    def _nesterov_needs_momentum(self) -> Sgd:
        if self.nesterov and self.momentum == 0.0:
            raise misuse("nesterov needs a momentum above 0", "nesterov")
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
