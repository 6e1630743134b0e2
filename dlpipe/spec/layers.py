"""What is pretrained greedily, one layer at a time."""

from __future__ import annotations

import operator
from typing import ClassVar, Literal

from pydantic import Field, model_validator

from dlpipe.spec.base import Component, NonNegativeFloat, PositiveFloat, PositiveInt, Probability, misuse
from dlpipe.spec.datasets import DatasetSpec
from dlpipe.spec.recorded import Recorded


class LayerSpec(Component):
    family: ClassVar[str] = "layer"
    samples: ClassVar[bool] = False
    """Whether it is a model of its inputs that can be sampled from."""
    sees_labels: ClassVar[bool] = False
    """Whether it is trained on labelled examples, on their labels too, and not on all without."""
    decodes: ClassVar[bool] = True
    """Whether there is a way back from its code to its input: `decode` and `decoder`."""
    batches_seeds: ClassVar[bool] = False
    """Whether a step serves several seeds at once, whose tensors then have the seeds for a first dimension."""

    @property
    def slug(self) -> str:
        """For the names of artifacts."""
        return self.kind  # type: ignore[attr-defined]

    @property
    def activation(self) -> Literal["sigmoid", "relu", "linear"]:
        """Of the units of a network that it is unrolled into."""
        return "sigmoid"

    @property
    def recorded(self) -> Recorded | None:
        """What its step and its `validate` give; None: a kind that does not say, whose metrics are not checked."""
        return None

    def unfit_data(self, dataset: DatasetSpec) -> str | None:
        """Why it cannot be the lowest layer, trained on such data as they are; None if it can."""
        return None

    def unfit_above(self, below: LayerSpec) -> str | None:
        """Why it cannot be trained on what such a layer makes of the data; None if it can."""
        return None

    def parameters(self, visible: int, hidden: int) -> int:
        """How many, about: by which jobs are sized."""
        return visible * hidden

    @property
    def products(self) -> int:
        """Matrix products of a batch with the weights, or of their size, in a step of training."""
        return 6


class Rbm(LayerSpec):
    """Restricted Boltzmann machine: contrastive divergence (Hinton 2002) or persistent chains (Tieleman 2008)."""

    implementation: ClassVar[str] = "dlpipe.layers.rbm:RBM"
    batches_seeds: ClassVar[bool] = True
    samples: ClassVar[bool] = True
    kind: Literal["rbm"] = "rbm"
    visible_units: Literal["bernoulli", "gaussian"] = Field(
        "bernoulli", description="gaussian: unit variance, for standardised data"
    )
    hidden_units: Literal["bernoulli", "gaussian", "relu"] = Field(
        "bernoulli",
        description="gaussian: linear, unit variance, for a code (Hinton and Salakhutdinov 2006); relu: noisy "
        "rectified linear (Nair and Hinton 2010), without a likelihood. Both ask for a learning rate of about 0.001",
        exclude_if=lambda units: units == "bernoulli",  # declared and digested as before there were others
    )
    cd_steps: PositiveInt = Field(1, description="k of CD-k: Gibbs steps before the negative statistics")
    sampled_reconstruction: bool = Field(
        False,
        description="whether the visible units of a CD-1 reconstruction are drawn (Salakhutdinov and Murray 2008) or "
        "left as probabilities (Hinton 2010, section 3.2); longer and persistent chains draw them anyway",
        exclude_if=operator.not_,  # so that CD-1 with means is declared, and digested, as before there was a choice
    )
    persistent: bool = Field(False, description="PCD: the chains live on from update to update (Tieleman 2008)")
    chains: PositiveInt = Field(100, description="number of persistent chains; without effect unless persistent")
    fast_rate: NonNegativeFloat = Field(
        0.0,
        description="learning rate of the fast weights that drive the persistent chains (Tieleman and Hinton 2009); "
        "0: there are none",
        exclude_if=operator.not_,
    )
    centred: bool = Field(
        False,
        description="along the gradient of units less their means (Melchior et al. 2016)",
        exclude_if=operator.not_,  # so that a plain RBM is declared, and digested, as before there was a centred one
    )
    weight_scale: PositiveFloat = Field(
        0.01, description="standard deviation of the initial weights (Hinton 2010, section 8)"
    )
    initial_odds: PositiveFloat | None = Field(
        None,
        description="initial probability of the state with one hidden unit on over that with none, for large initial "
        "weights (Melchior et al. 2017); hidden biases start at 0 if absent",
        exclude_if=lambda odds: odds is None,  # so that other starts are declared, and digested, as before
    )
    sparsity_target: Probability = Field(
        0.0, description="desired mean activity of a hidden unit; without effect at cost 0"
    )
    sparsity_cost: NonNegativeFloat = Field(0.0, description="weight of the sparsity term (Hinton 2010, section 11)")
    doubled: Literal["none", "up", "down"] = Field(
        "none",
        description="which input counts twice, for a layer of a dbm (Salakhutdinov and Hinton 2009): up, that of the "
        "hidden units, in the lowest layer; down, that of the visible units, in the top one",
        exclude_if=lambda doubled: doubled == "none",
    )

    @model_validator(mode="after")
    def _hidden_units_fit(self) -> Rbm:
        if self.hidden_units == self.visible_units == "gaussian":
            raise misuse(
                "Gaussian units on both sides have no distribution once a weight is large: take hidden_units bernoulli "
                "or relu",
                "hidden_units",
            )
        if self.hidden_units != "bernoulli" and self.sparsity_cost:
            raise misuse(
                f"sparsity is for binary hidden units, whose mean is a probability, not for {self.hidden_units} ones",
                "sparsity_cost",
            )
        return self

    @model_validator(mode="after")
    def _sparsity_has_both(self) -> Rbm:
        _check_sparsity(self)
        return self

    @model_validator(mode="after")
    def _odds_are_of_binary_units(self) -> Rbm:
        if self.initial_odds is not None and (self.hidden_units != "bernoulli" or self.centred):
            raise misuse("initial_odds sets the biases of binary hidden units that are not centred", "initial_odds")
        return self

    @model_validator(mode="after")
    def _fast_weights_drive_chains(self) -> Rbm:
        if self.fast_rate and not self.persistent:
            raise misuse("fast weights drive persistent chains: set persistent to true", "fast_rate")
        return self

    @model_validator(mode="after")
    def _doubled_by_contrastive_divergence(self) -> Rbm:
        if self.doubled != "none" and (self.persistent or self.centred):
            raise misuse(
                "a doubled RBM is trained by plain contrastive divergence, neither persistent nor centred: it is no "
                "density of its own",
                "doubled",
            )
        return self

    @property
    def activation(self) -> Literal["sigmoid", "relu", "linear"]:
        activations: dict[str, Literal["sigmoid", "relu", "linear"]]
        activations = {"bernoulli": "sigmoid", "gaussian": "linear", "relu": "relu"}
        return activations[self.hidden_units]

    @property
    def recorded(self) -> Recorded:
        has_energy = self.hidden_units != "relu" and self.doubled == "none"
        return Recorded(
            _of_a_step(self.persistent),
            ("reconstruction_error", "free_energy") if has_energy else ("reconstruction_error",),
        )

    def unfit_data(self, dataset: DatasetSpec) -> str | None:
        if self.visible_units != "bernoulli":
            return None
        return dataset.unfit_for("binary visible units take", "visible_units to gaussian")

    def unfit_above(self, below: LayerSpec) -> str | None:
        if self.visible_units == "bernoulli" and below.activation != "sigmoid":
            return f"the {below.activation} units below are no probabilities: this layer needs visible_units gaussian"
        return None

    @property
    def products(self) -> int:
        """Up, twice for each Gibbs step, and one for each phase's statistics."""
        return 3 + 2 * self.cd_steps


class LabelRbm(LayerSpec):
    """RBM of examples and their labels, one of which is on: the top of a deep belief network (Hinton, Osindero and Teh
    2006), or a classifier (Larochelle and Bengio 2008). Trained on the labelled examples."""

    implementation: ClassVar[str] = "dlpipe.layers.label_rbm:LabelRBM"
    batches_seeds: ClassVar[bool] = True
    sees_labels: ClassVar[bool] = True
    kind: Literal["label_rbm"] = "label_rbm"
    cd_steps: PositiveInt = Field(1, description="k of CD-k: Gibbs steps before the negative statistics")
    persistent: bool = Field(False, description="PCD: the chains live on from update to update (Tieleman 2008)")
    chains: PositiveInt = Field(100, description="number of persistent chains; without effect unless persistent")
    weight_scale: PositiveFloat = Field(
        0.01, description="standard deviation of the initial weights (Hinton 2010, section 8)"
    )

    @property
    def recorded(self) -> Recorded:
        return Recorded(_of_a_step(self.persistent), ("reconstruction_error", "free_energy", "loss", "error"))

    def unfit_data(self, dataset: DatasetSpec) -> str | None:
        return dataset.unfit_for("the binary visible units of a label_rbm take")

    def unfit_above(self, below: LayerSpec) -> str | None:
        if below.activation != "sigmoid":
            return f"the {below.activation} units below are no probabilities: a label_rbm needs sigmoid ones below it"
        return None

    @property
    def products(self) -> int:
        """Up, twice for each Gibbs step, and one for each phase's statistics."""
        return 3 + 2 * self.cd_steps


class Autoencoder(LayerSpec):
    """Autoencoder with one hidden layer: plain; denoising, contractive or sparse where these are above 0."""

    implementation: ClassVar[str] = "dlpipe.layers.autoencoder:Autoencoder"
    batches_seeds: ClassVar[bool] = True
    kind: Literal["autoencoder"] = "autoencoder"
    corruption: Probability = Field(
        0.0, description="share of corrupted inputs; for gaussian noise its standard deviation"
    )
    corruption_kind: Literal["masking", "salt_and_pepper", "gaussian"] = "masking"
    tied: bool = Field(True, description="the decoder's weights are the encoder's, transposed")
    reconstruction: Literal["cross_entropy", "squared"] = Field(
        "cross_entropy",
        description="summed over inputs, averaged over examples; squared: linear output, cross_entropy: sigmoid",
    )
    corrupted_weight: NonNegativeFloat = Field(
        1.0, description="alpha of Vincent et al. 2010: weight of the corrupted inputs in the loss"
    )
    untouched_weight: NonNegativeFloat = Field(
        1.0, description="beta of Vincent et al. 2010: weight of the inputs that were not corrupted"
    )
    contraction: NonNegativeFloat = Field(0.0, description="weight of the code's squared Jacobian (Rifai et al. 2011)")
    sparsity_target: Probability = Field(
        0.0, description="desired mean activity of a hidden unit; without effect at cost 0"
    )
    sparsity_cost: NonNegativeFloat = Field(0.0, description="weight of the sparsity term (Hinton 2010, section 11)")
    hidden_units: Literal["sigmoid", "relu"] = Field(
        "sigmoid",
        description="relu: for a network of rectified units (Glorot et al. 2011); above such a layer take "
        "reconstruction squared",
        exclude_if=lambda units: units == "sigmoid",  # declared and digested as before there were others
    )

    @model_validator(mode="after")
    def _penalties_are_of_sigmoid_units(self) -> Autoencoder:
        for field in ("contraction", "sparsity_cost"):
            if self.hidden_units != "sigmoid" and getattr(self, field):
                raise misuse(f"{field} is for sigmoid hidden units, not for {self.hidden_units} ones", field)
        return self

    @model_validator(mode="after")
    def _sparsity_has_both(self) -> Autoencoder:
        _check_sparsity(self)
        return self

    @property
    def activation(self) -> Literal["sigmoid", "relu", "linear"]:
        return self.hidden_units

    @property
    def recorded(self) -> Recorded:
        penalised = {"contraction": self.contraction, "hidden_activity": self.sparsity_cost}
        besides = tuple(name for name, weight in penalised.items() if weight)
        return Recorded(("loss", *besides), ("loss", "reconstruction_error", *besides))

    def unfit_data(self, dataset: DatasetSpec) -> str | None:
        if self.reconstruction != "cross_entropy":
            return None
        return dataset.unfit_for("a reconstruction by cross_entropy takes", "reconstruction to squared")

    def unfit_above(self, below: LayerSpec) -> str | None:
        if self.reconstruction == "cross_entropy" and below.activation != "sigmoid":
            return f"the {below.activation} units below are no probabilities: this layer needs reconstruction squared"
        return None

    @model_validator(mode="after")
    def _emphasis_tells_inputs_apart(self) -> Autoencoder:
        alpha, beta = self.corrupted_weight, self.untouched_weight
        if alpha == beta == 0:
            raise misuse("corrupted_weight and untouched_weight are both 0: there is no loss", "corrupted_weight")
        if not alpha == beta == 1 and (not self.corruption or self.corruption_kind == "gaussian"):
            field = "corrupted_weight" if alpha != 1 else "untouched_weight"
            raise misuse(
                f"{field} needs a corruption above 0 of kind masking or salt_and_pepper, which some inputs escape",
                field,
            )
        return self


class Supervised(LayerSpec):
    """Sigmoid layer trained to classify, below an output layer that is thrown away (Bengio et al. 2007)."""

    implementation: ClassVar[str] = "dlpipe.layers.supervised:Supervised"
    batches_seeds: ClassVar[bool] = True
    sees_labels: ClassVar[bool] = True
    decodes: ClassVar[bool] = False
    kind: Literal["supervised"] = "supervised"

    @property
    def recorded(self) -> Recorded:
        return Recorded(("loss",), ("loss", "error"))

    @property
    def products(self) -> int:
        """Up, and one for the gradient."""
        return 2


def _of_a_step(persistent: bool) -> tuple[str, ...]:
    """What an RBM's step gives: chains that persist reconstruct nothing."""
    return ("hidden_activity",) if persistent else ("hidden_activity", "reconstruction_error")


def _check_sparsity(layer: Rbm | Autoencoder) -> None:
    """Raises misuse where a target or a cost stands alone. A cost of 0 that is written is one level of a comparison."""
    if layer.sparsity_cost and not layer.sparsity_target:
        raise misuse(
            "a cost without a target silences every hidden unit: set sparsity_target, as to 0.1", "sparsity_cost"
        )
    if layer.sparsity_target and "sparsity_cost" not in layer.model_fields_set:
        raise misuse("a target without a cost has no effect: set sparsity_cost, as to 0.1", "sparsity_target")
