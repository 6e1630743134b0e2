"""The networks that are fine-tuned."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from dlpipe.spec.base import Component, Many, PositiveFloat, PositiveInt, Probability
from dlpipe.spec.tasks import DensityTask, Generative, Reconstruction, TaskSpec


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
        if isinstance(task, DensityTask):
            return f"{task.slug} trains an energy: the model must be of kind energy, not {self.kind}"  # type: ignore[attr-defined]
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

    def parameters(self, inputs: int, outputs: int) -> int:
        return 2 * sum(n * m for n, m in pairwise((inputs, *self.layer_units)))


class Energy(ModelSpec):
    """A density by its energy: a Gaussian bent by a network of smooth units. No hidden layer: the Gaussian alone."""

    implementation: ClassVar[str] = "dlpipe.models.energy:Energy"
    kind: Literal["energy"] = "energy"
    units: Annotated[tuple[PositiveInt, ...], Many] = Field(
        description="hidden units, from the layer above the input upwards"
    )
    activation: Literal["silu", "softplus", "tanh"] = "silu"
    spread: PositiveFloat = Field(1.0, description="standard deviation of the Gaussian that training starts from")
    samples: PositiveInt = Field(500, description="Markov chains, which the task langevin moves")

    @property
    def slug(self) -> str:
        return "energy" + "-".join(map(str, self.units))

    def unfit(self, task: TaskSpec) -> str | None:
        if isinstance(task, DensityTask):
            return None
        return f"an energy is of a density: its task is one such as noise_contrastive or langevin, not {task.slug}"

    def parameters(self, inputs: int, outputs: int) -> int:
        return inputs * inputs + sum(n * m for n, m in pairwise((inputs, *self.units, 1)))
