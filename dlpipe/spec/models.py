"""The networks that are fine-tuned. Those of Boltzmann machines: spec/boltzmann.py; recurrent: spec/recurrent.py."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from dlpipe.spec.base import Component, Many, PositiveFloat, PositiveInt, Probability, misuse
from dlpipe.spec.datasets import DatasetSpec
from dlpipe.spec.layers import LayerSpec
from dlpipe.spec.recorded import Recorded
from dlpipe.spec.tasks import Classification, DensityTask, Generative, Reconstruction, TaskSpec


class ModelSpec(Component):
    family: ClassVar[str] = "model"
    generative: ClassVar[bool] = False
    """Whether it is a model of its inputs, with an objective of its own: what the task `generative` trains."""
    binary_inputs: ClassVar[bool] = False
    """Whether what it generates are probabilities of units that are on or off: its own objective is for no others."""
    bounded: ClassVar[bool] = False
    """Whether its log-likelihood has a variational bound with the log Z of an RBM."""
    takes_pictures: ClassVar[bool] = False
    """Whether the model is told the `shape` of an input, (height, width, colours), besides its number of features."""
    batches_seeds: ClassVar[bool] = False
    """Whether a step serves several seeds at once, whose tensors then have the seeds for a first dimension."""
    sequential: ClassVar[bool] = False
    """Whether it is a model of sequences, which is told whether their steps are `tokens`."""

    @property
    def measured(self) -> bool:
        """Whether the measures are of the model, and not of the lowest pretrained layer."""
        return self.generative or self.sequential

    @property
    def slug(self) -> str:
        """For the names of artifacts."""
        return self.kind  # type: ignore[attr-defined]

    @property
    def layer_units(self) -> tuple[int, ...]:
        """Widths of the layers that can be pretrained greedily, from the bottom up."""
        return ()

    @property
    def recorded(self) -> Recorded | None:
        """What its own objective gives, the task `generative`; None: a kind that does not say, or has none."""
        return None

    def layer_field(self, position: int) -> tuple[str | int, ...]:
        """Where the width of the layer at `position` is declared."""
        return ("units", position)

    def unfit(self, task: TaskSpec) -> str | None:
        """Why this model cannot be trained on such a task; None if it can."""
        if isinstance(task, Generative) and not self.generative:
            return f"a model of kind {self.kind} does not generate its inputs: its task cannot be generative"  # type: ignore[attr-defined]
        if isinstance(task, DensityTask):
            return f"{task.slug} trains an energy: the model must be of kind energy, not {self.kind}"  # type: ignore[attr-defined]
        if task.sequential != self.sequential:
            of, by = ("sequences", "single examples")[:: 1 if task.sequential else -1]
            return f"{task.slug} is asked of {of}; a model of kind {self.kind} takes {by}"  # type: ignore[attr-defined]
        return None

    def sees_labels(self, task: TaskSpec) -> bool:
        """Whether it is trained on labelled examples alone, with such a task, and not on all without labels."""
        return True

    def unfit_data(self, dataset: DatasetSpec) -> str | None:
        """Why this model cannot be trained on such data, whatever the task; None if it can."""
        return None

    def unfit_layer(self, position: int, layer: LayerSpec) -> str | None:
        """Why it cannot be unrolled from such a layer at `position`; None if it can."""
        return None

    def parameters(self, inputs: int, outputs: int) -> int:
        """How many weights, about: by which jobs are sized. A kind that does not say has a million."""
        return 1_000_000

    def multiplications(self, inputs: int, outputs: int) -> int:
        """Of an example with the weights, forward, about: more than there are weights, where they are shared."""
        return self.parameters(inputs, outputs)

    def training_multiplications(self, task: TaskSpec, inputs: int, outputs: int, batch: int) -> float:
        """The same of a step of training on such a task, for each example of the batch: forward, and twice backward."""
        return 3.0 * self.multiplications(inputs, outputs)


class Mlp(ModelSpec):
    """Multilayer perceptron. No hidden layer at all (`units: []`) is logistic regression."""

    implementation: ClassVar[str] = "dlpipe.models.mlp:MLP"
    batches_seeds: ClassVar[bool] = True
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


class ConvolutionalSpec(ModelSpec):
    """What the models of `dlpipe.models.convolutional_autoencoder` have in common."""

    takes_pictures: ClassVar[bool] = True
    channels: Annotated[tuple[PositiveInt, ...], Many] = Field(
        description="maps of each convolutional layer, from the one above the picture upwards; the last are the code's"
    )
    kernel: PositiveInt = Field(5, description="pixels a side of a filter; odd")
    stride: PositiveInt = Field(2, description="a layer's maps are smaller than those below by this factor, rounded up")
    activation: Literal["relu", "tanh", "sigmoid"] = "relu"

    @model_validator(mode="after")
    def _filters_cover_the_picture(self) -> ConvolutionalSpec:
        if not self.channels:
            raise misuse("channels needs at least one layer", "channels")
        if self.kernel % 2 == 0:
            raise misuse(f"kernel must be odd, so that a filter has a middle, not {self.kernel}", "kernel")
        if self.stride > self.kernel:
            raise misuse(f"a stride of {self.stride} skips pixels between filters {self.kernel} wide", "stride")
        return self

    def _layers(self, inputs: int) -> tuple[int, int, int]:
        """Weights of the encoder, multiplications on the way up, units of the code; as if of a square grey picture."""
        side, below, weights, multiplications = math.isqrt(inputs), 1, 0, 0
        for maps in self.channels:
            side = -(-side // self.stride)
            filters = below * maps * self.kernel**2
            weights, multiplications, below = weights + filters, multiplications + filters * side**2, maps
        return weights, multiplications, below * side**2


class ConvolutionalAutoencoder(ConvolutionalSpec):
    """Convolutions down to a code of small maps, and transposed ones back (Masci et al. 2011)."""

    implementation: ClassVar[str] = "dlpipe.models.convolutional_autoencoder:ConvolutionalAutoencoder"
    kind: Literal["convolutional_autoencoder"] = "convolutional_autoencoder"
    tied: bool = Field(True, description="the decoder's filters are the encoder's")

    @property
    def slug(self) -> str:
        return "convautoencoder" + "-".join(map(str, self.channels))

    def unfit(self, task: TaskSpec) -> str | None:
        if isinstance(task, Reconstruction):
            return None
        return f"a {self.kind} gives back its input: its task is of kind reconstruction, not {task.slug}"

    def parameters(self, inputs: int, outputs: int) -> int:
        return (1 if self.tied else 2) * self._layers(inputs)[0]

    def multiplications(self, inputs: int, outputs: int) -> int:
        return 2 * self._layers(inputs)[1]


class ConvolutionalClassifier(ConvolutionalSpec):
    """The encoder of a convolutional autoencoder below a linear output layer; `from` starts it from a trained one."""

    implementation: ClassVar[str] = "dlpipe.models.convolutional_autoencoder:ConvolutionalClassifier"
    kind: Literal["convolutional_classifier"] = "convolutional_classifier"

    @property
    def slug(self) -> str:
        return "conv" + "-".join(map(str, self.channels))

    def unfit(self, task: TaskSpec) -> str | None:
        if isinstance(task, Classification):
            return None
        return f"a {self.kind} has an output a class: its task is of kind classification, not {task.slug}"

    def parameters(self, inputs: int, outputs: int) -> int:
        weights, _, code = self._layers(inputs)
        return weights + code * outputs

    def multiplications(self, inputs: int, outputs: int) -> int:
        _, multiplications, code = self._layers(inputs)
        return multiplications + code * outputs


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

    def training_multiplications(self, task: TaskSpec, inputs: int, outputs: int, batch: int) -> float:
        assert isinstance(task, DensityTask)
        return task.energies(inputs, batch, self.samples) * super().training_multiplications(
            task, inputs, outputs, batch
        )
