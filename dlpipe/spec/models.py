"""The networks that are fine-tuned."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from dlpipe.spec.base import Component, Many, PositiveInt, Probability
from dlpipe.spec.layers import LayerSpec
from dlpipe.spec.tasks import Generative, Reconstruction, TaskSpec


class ModelSpec(Component):
    family: ClassVar[str] = "model"
    generative: ClassVar[bool] = False
    """Whether it is a model of its inputs, with an objective of its own: what the task `generative` trains."""

    @property
    def slug(self) -> str:
        """For the names of artifacts."""
        return self.kind  # type: ignore[attr-defined]

    @property
    def layer_units(self) -> tuple[int, ...]:
        """Widths of the layers that can be pretrained greedily, from the bottom up."""
        return ()

    def layer_field(self, position: int) -> tuple[str | int, ...]:
        """Where the width of the layer at `position` is declared."""
        return ("units", position)

    def unfit(self, task: TaskSpec) -> str | None:
        """Why this model cannot be trained on such a task; None if it can."""
        if isinstance(task, Generative) and not self.generative:
            return f"a model of kind {self.kind} does not generate its inputs: its task cannot be generative"  # type: ignore[attr-defined]
        return None

    def unfit_layer(self, position: int, layer: LayerSpec) -> str | None:
        """Why it cannot be unrolled from such a layer at `position`; None if it can."""
        return None

    def parameters(self, inputs: int, outputs: int) -> int:
        """How many weights, about: by which jobs are sized. A kind that does not say has a million."""
        return 1_000_000


class Mlp(ModelSpec):
    """Multilayer perceptron. No hidden layer at all (`units: []`) is logistic regression."""

    implementation: ClassVar[str] = "dlpipe.models.mlp:MLP"
    kind: Literal["mlp"] = "mlp"
    units: Annotated[tuple[PositiveInt, ...], Many] = Field(
        description="hidden units, from the layer above the input upwards"
    )
    activation: Literal["sigmoid", "tanh", "relu"] = "sigmoid"
    init: Literal["uniform_fan_in", "glorot_uniform", "glorot_sigmoid", "he_normal", "zeros"] = Field(
        "uniform_fan_in",
        description="uniform_fan_in: U(-1/sqrt(fan_in), +); glorot_uniform: U(-sqrt(6/(in+out)), +); "
        "glorot_sigmoid: four times that (Glorot and Bengio 2010); he_normal: N(0, 2/fan_in); biases are 0",
    )
    dropout: Probability = Field(0.0, description="share of hidden units silenced in training")

    @property
    def slug(self) -> str:
        """`mlp400x4` for four equal layers, `mlp500-300` otherwise, `logistic` without a hidden layer."""
        if not self.units:
            return "logistic"
        if len(self.units) > 1 and len(set(self.units)) == 1:
            return f"mlp{self.units[0]}x{len(self.units)}"
        return "mlp" + "-".join(map(str, self.units))

    @property
    def layer_units(self) -> tuple[int, ...]:
        return self.units

    def unfit_layer(self, position: int, layer: LayerSpec) -> str | None:
        """Sigmoid layers may start units of any kind, rectified ones their own; linear ones are for a code."""
        if layer.activation in ("sigmoid", self.activation):
            return None
        advice = (
            "set model.activation to relu" if layer.activation == "relu" else "a deep_autoencoder has a linear code"
        )
        return f"{layer.activation} units are pretrained, those of the perceptron are {self.activation}: {advice}"

    def parameters(self, inputs: int, outputs: int) -> int:
        return sum(n * m for n, m in pairwise((inputs, *self.units, outputs)))


class DeepAutoencoder(ModelSpec):
    """Sigmoid layers down to a linear code and back, unrolled from pretrained ones (Hinton, Salakhutdinov 2006)."""

    implementation: ClassVar[str] = "dlpipe.models.deep_autoencoder:DeepAutoencoder"
    kind: Literal["deep_autoencoder"] = "deep_autoencoder"
    units: Annotated[tuple[PositiveInt, ...], Many] = Field(
        description="sigmoid units of the encoder, from the layer above the input upwards; the decoder mirrors them"
    )
    code: PositiveInt = Field(description="linear units of the code, the narrowest layer")

    @property
    def slug(self) -> str:
        return "autoencoder" + "-".join(map(str, self.layer_units))

    @property
    def layer_units(self) -> tuple[int, ...]:
        return (*self.units, self.code)

    def layer_field(self, position: int) -> tuple[str | int, ...]:
        return ("units", position) if position < len(self.units) else ("code",)

    def unfit(self, task: TaskSpec) -> str | None:
        if isinstance(task, Reconstruction):
            return None
        return f"a deep_autoencoder gives back its input: its task is of kind reconstruction, not {task.slug}"

    def unfit_layer(self, position: int, layer: LayerSpec) -> str | None:
        if not layer.decodes:
            return f"a layer of kind {layer.kind} has no way back to its input for the decoder to start from"  # type: ignore[attr-defined]
        if position < len(self.units) and layer.activation != "sigmoid":
            return f"{layer.activation} units are pretrained, those below the code are sigmoid"
        if position == len(self.units) and layer.activation != "linear":
            return (
                f"the code is linear, the units that are pretrained for it {layer.activation}: make pretrain a list "
                "with a recipe for each layer, the last one's layer {kind: rbm, hidden_units: gaussian}"
            )
        return None

    def parameters(self, inputs: int, outputs: int) -> int:
        return 2 * sum(n * m for n, m in pairwise((inputs, *self.layer_units)))
