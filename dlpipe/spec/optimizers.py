"""The optimisers, by the names and with the constants of their papers."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import model_validator

from dlpipe.spec.base import Component, NonNegativeFloat, PositiveFloat, Probability, misuse


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
