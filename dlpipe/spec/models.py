"""The networks that are fine-tuned."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from dlpipe.spec.base import Component, Many, PositiveInt, Probability


class ModelSpec(Component):
    family: ClassVar[str] = "model"


class Mlp(ModelSpec):
    """Multilayer perceptron. No hidden layer at all (`units: []`) is logistic regression."""

    implementation: ClassVar[str] = "dlpipe.models.mlp:MLP"
    kind: Literal["mlp"] = "mlp"
    units: Annotated[tuple[PositiveInt, ...], Many] = Field(description="hidden units, from the layer above the input upwards")
    activation: Literal["sigmoid", "tanh", "relu"] = "sigmoid"
    init: Literal["uniform_fan_in", "glorot_uniform", "glorot_sigmoid", "he_normal", "zeros"] = Field(
        "uniform_fan_in",
        description="uniform_fan_in: U(-1/sqrt(fan_in), +); glorot_uniform: U(-sqrt(6/(in+out)), +); glorot_sigmoid: four times "
        "that (Glorot and Bengio 2010); he_normal: N(0, 2/fan_in); biases are 0",
    )
    dropout: Probability = Field(0.0, description="share of hidden units silenced in training")
