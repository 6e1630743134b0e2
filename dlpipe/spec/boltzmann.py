"""Models that are composed of restricted Boltzmann machines: the deep belief network and the deep Boltzmann machine."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, ClassVar, Literal, TypeGuard

from pydantic import Field

from dlpipe.spec.base import Many, PositiveInt
from dlpipe.spec.layers import LabelRbm, LayerSpec, Rbm
from dlpipe.spec.models import ModelSpec
from dlpipe.spec.recorded import Recorded
from dlpipe.spec.tasks import Classification, Generative, TaskSpec

BINARY_RBMS = "RBMs with binary units on both sides"


class OfRbms(ModelSpec):
    """What both have in common."""

    generative: ClassVar[bool] = True
    binary_inputs: ClassVar[bool] = True
    bounded: ClassVar[bool] = True
    units: Annotated[tuple[PositiveInt, ...], Many] = Field(
        min_length=1, description="hidden units, from the layer above the input upwards"
    )

    @property
    def slug(self) -> str:
        return f"{self.kind}{'-'.join(map(str, self.units))}"  # type: ignore[attr-defined]

    @property
    def layer_units(self) -> tuple[int, ...]:
        return self.units


class Dbn(OfRbms):
    """Deep belief network: an RBM on top, with labels, above layers that are directed down (Hinton, Osindero and Teh
    2006). Its own task, `generative`, is the up-down algorithm; for `classification` its logits are the free energy."""

    implementation: ClassVar[str] = "dlpipe.models.deep_belief_network:DeepBeliefNetwork"
    kind: Literal["dbn"] = "dbn"
    labels: bool = Field(True, description="the top RBM sees the label beside the layer below it")
    gibbs_steps: PositiveInt = Field(
        3, description="in the top RBM, between the wake and the sleep phase of the up-down algorithm"
    )

    def unfit(self, task: TaskSpec) -> str | None:
        if isinstance(task, Generative) or (isinstance(task, Classification) and self.labels):
            return None
        if isinstance(task, Classification):
            return "a dbn without labels classifies nothing: set model.labels, or take the task generative"
        return f"the task of a dbn is of kind generative or classification, not {task.slug}"

    @property
    def recorded(self) -> Recorded:
        predicted = ("reconstruction_error",) if len(self.units) > 1 else ()
        classified = ("loss", "error") if self.labels else ()
        return Recorded(("hidden_activity", *predicted), ("reconstruction_error", *classified))

    def sees_labels(self, task: TaskSpec) -> bool:
        return self.labels

    def unfit_layer(self, position: int, layer: LayerSpec) -> str | None:
        top = position == len(self.units) - 1
        if top and self.labels and not isinstance(layer, LabelRbm):
            return "the top of a dbn is pretrained as a label_rbm, or set model.labels to false"
        if isinstance(layer, LabelRbm) and not (top and self.labels):
            return "a label_rbm is for the top of a dbn with labels"
        if isinstance(layer, Rbm) and layer.doubled != "none":
            return "doubled is for the layers of a dbm: those of a dbn are plain"
        return None if isinstance(layer, LabelRbm) or _is_binary(layer) else f"a dbn is a stack of {BINARY_RBMS}"

    def parameters(self, inputs: int, outputs: int) -> int:
        below, top = self._weights(inputs, outputs)
        return 2 * below + top

    def training_multiplications(self, task: TaskSpec, inputs: int, outputs: int, batch: int) -> float:
        """Of the up-down algorithm: each phase passes, predicts and learns the other way; the top RBM is an RBM's."""
        if not isinstance(task, Generative):
            return super().training_multiplications(task, inputs, outputs, batch)
        below, top = self._weights(inputs, outputs)
        return 6.0 * below + (3 + 2 * self.gibbs_steps) * top

    def _weights(self, inputs: int, outputs: int) -> tuple[int, int]:
        """Of all layers below the top RBM, one way, and of that, labels included."""
        *below, top = [n * m for n, m in pairwise((inputs, *self.units))]
        return sum(below), top + outputs * self.units[-1] * self.labels


class Dbm(OfRbms):
    """Deep Boltzmann machine: layers of binary units, joined in both directions (Salakhutdinov and Hinton 2009). Its
    own task, `generative`, is joint training; for `classification` it is a network that sees its mean field too."""

    implementation: ClassVar[str] = "dlpipe.models.deep_boltzmann_machine:DeepBoltzmannMachine"
    kind: Literal["dbm"] = "dbm"
    mean_field_steps: PositiveInt = Field(10, description="updates of every layer's means, after a first pass upwards")
    gibbs_steps: PositiveInt = Field(5, description="of the persistent chains, an update of joint training")
    chains: PositiveInt = Field(100, description="number of persistent chains")

    def unfit(self, task: TaskSpec) -> str | None:
        if isinstance(task, Generative | Classification):
            return None
        return f"the task of a dbm is of kind generative or classification, not {task.slug}"

    @property
    def recorded(self) -> Recorded:
        return Recorded(("hidden_activity",), ("reconstruction_error", "variational_free_energy"))

    def sees_labels(self, task: TaskSpec) -> bool:
        return not isinstance(task, Generative)

    def unfit_layer(self, position: int, layer: LayerSpec) -> str | None:
        if not _is_binary(layer):
            return f"a dbm is composed of {BINARY_RBMS}"
        lowest, top = position == 0, position == len(self.units) - 1
        wanted = "none" if lowest == top else "up" if lowest else "down"
        if layer.doubled == wanted:
            return None
        if lowest and top:
            return f"doubled is {layer.doubled} and must be none: there is no other layer to make up for"
        return (
            f"doubled is {layer.doubled} and must be {wanted}: of the layers of a dbm it is up in the lowest, down in "
            "the top one, none in any other"
        )

    def parameters(self, inputs: int, outputs: int) -> int:
        """Those of the machine, and a network's of the same size."""
        lowest, above = self._weights(inputs)
        return 2 * lowest + 3 * above + outputs * self.units[-1]

    def multiplications(self, inputs: int, outputs: int) -> int:
        """Those of the classifier, mean field included."""
        lowest, above = self._weights(inputs)
        return self._inference(inputs) + lowest + 2 * above + outputs * self.units[-1]

    def training_multiplications(self, task: TaskSpec, inputs: int, outputs: int, batch: int) -> float:
        """Of joint training: mean field, the chains' Gibbs steps and means, the statistics of both."""
        if not isinstance(task, Generative):
            return super().training_multiplications(task, inputs, outputs, batch)
        weights = sum(self._weights(inputs))
        return self._inference(inputs) + weights + (2 * self.gibbs_steps + 1) * weights * self.chains / batch

    def _inference(self, inputs: int) -> int:
        """Multiplications of mean field: the data's share of the first layer does not change from step to step."""
        lowest, above = self._weights(inputs)
        return 2 * lowest + (1 + 2 * self.mean_field_steps) * above

    def _weights(self, inputs: int) -> tuple[int, int]:
        """Of the lowest layer, and of all above it."""
        lowest, *above = [n * m for n, m in pairwise((inputs, *self.units))]
        return lowest, sum(above)


def _is_binary(layer: LayerSpec) -> TypeGuard[Rbm]:
    return isinstance(layer, Rbm) and layer.visible_units == layer.hidden_units == "bernoulli"
