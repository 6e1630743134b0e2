"""The recurrent network: one model of many cells."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from dlpipe.spec.base import Many, NonNegativeFloat, PositiveFloat, PositiveInt, Probability, misuse
from dlpipe.spec.datasets import DatasetSpec
from dlpipe.spec.models import ModelSpec
from dlpipe.spec.sequences import Sequential
from dlpipe.spec.tasks import TaskSpec

CellKind = Literal["elman", "jordan", "lstm", "gru", "mut1", "mut2", "mut3"]
BELONGS_TO: dict[str, tuple[str, ...]] = {
    "activation": ("elman", "jordan"),
    "feedback": ("jordan",),
    "forget_bias": ("lstm",),
    "peepholes": ("lstm",),
    "without": ("lstm",),
    "reset_after": ("gru",),
}
"""Fields that only some cells have."""
BLOCKS: dict[str, int] = {"elman": 1, "jordan": 1, "lstm": 4, "gru": 3, "mut1": 2, "mut2": 3, "mut3": 3}
"""Matrices of units by units a cell has, about."""
PREDICTIONS = ("language_model", "continuation", "next_frame")
"""Tasks that ask for what a cell that reads backwards has seen."""
NO_SOFTMAX = {
    "sequence_regression": "has one output, whose softmax is always 1, so that nothing comes back: feedback linear",
    "next_frame": "has keys that are down or not, each on its own, and a softmax is of classes: feedback sigmoid",
}
"""Tasks whose outputs are no classes: why a jordan network is not to feed their softmax back."""


class Recurrent(ModelSpec):
    """Recurrent network: cells of one kind, one layer above the other, over the steps of a sequence."""

    implementation: ClassVar[str] = "dlpipe.models.recurrent:Recurrent"
    kind: Literal["recurrent"] = "recurrent"
    sequential: ClassVar[bool] = True
    units: Annotated[tuple[PositiveInt, ...], Many] = Field(
        min_length=1, description="units of each layer, from the one above the input upwards"
    )
    cell: CellKind = Field(
        "lstm", description="what computes a step; mut1, mut2 and mut3 are those of Jozefowicz et al. 2015"
    )
    embedding: PositiveInt | None = Field(
        None,
        description="width of a linear map of the inputs (a table, of tokens) below the first layer; if absent, that "
        "layer's units for tokens and for mut1 and mut2, else there is no such map",
    )
    directions: Literal["one", "both"] = Field(
        "one", description="both: every layer has units that read forward and as many that read from the end"
    )
    activation: Literal["tanh", "sigmoid"] = Field("tanh", description="of the cells elman and jordan")
    forget_bias: NonNegativeFloat = Field(0.0, description="added to the bias of the forget gate of lstm at the start")
    peepholes: bool = Field(False, description="the gates of lstm see its memory")
    without: Literal["input", "forget", "output"] | None = Field(
        None, description="a gate that lstm is to lack: it is always open"
    )
    reset_after: bool = Field(
        False, description="the reset gate of gru acts after the product, as in cuDNN, and not before, as in the paper"
    )
    feedback: Literal["softmax", "sigmoid", "linear"] = Field(
        "softmax", description="how the output of jordan comes back: for classes, for binary units, for numbers"
    )
    dropout: Probability = Field(
        0.0, description="share of units silenced in training, on the connections that are not recurrent"
    )
    init: Literal["uniform_fan_in", "uniform", "orthogonal"] = Field(
        "uniform_fan_in",
        description="uniform_fan_in: weights U(-1/sqrt(units), +), embeddings N(0, 1), biases 0; uniform: everything "
        "U(-init_range, +) (Zaremba et al. 2014); orthogonal: the first, with rotations for recurrent weights",
    )
    init_range: PositiveFloat = Field(0.1, description="of init uniform")

    @model_validator(mode="after")
    def _fields_belong_to_the_cell(self) -> Recurrent:
        for name, cells in BELONGS_TO.items():
            if self.cell not in cells and getattr(self, name) != type(self).model_fields[name].default:
                raise misuse(f"{name} is of {' and '.join(cells)}, the cell is {self.cell}", name)
        if self.without == "forget" and self.forget_bias:
            raise misuse("an lstm without its forget gate has no bias of it", "forget_bias")
        if self.init != "uniform" and self.init_range != type(self).model_fields["init_range"].default:
            raise misuse(f"init_range is of init uniform, and init is {self.init}", "init_range")
        return self

    @model_validator(mode="after")
    def _layers_fit_the_cell(self) -> Recurrent:
        if self.cell == "jordan" and (len(self.units) > 1 or self.directions == "both"):
            raise misuse("a jordan network feeds its output back: it has one layer, in one direction", "cell")
        if self.cell in ("mut1", "mut2"):
            if {self.embedding or self.units[0], *self.units} != {self.units[0]}:
                raise misuse(f"{self.cell} adds its inputs to its units: embedding and all units must be equal", "cell")
            if len(self.units) > 1 and self.directions == "both":
                raise misuse(
                    f"{self.cell} adds its inputs to its units: a layer above both directions of another has "
                    "twice as many",
                    "cell",
                )
        return self

    @property
    def slug(self) -> str:
        """`lstm200x2` for two equal layers, `bilstm100-50`, `gru128`."""
        widths = [str(width) for width in self.units]
        layers = f"{widths[0]}x{len(widths)}" if len(widths) > 1 and len(set(widths)) == 1 else "-".join(widths)
        return ("bi" if self.directions == "both" else "") + self.cell + layers

    def unfit(self, task: TaskSpec) -> str | None:
        if self.directions == "both" and task.slug in PREDICTIONS:
            return f"{task.slug} asks for what comes next, which a network in both directions has seen: directions one"
        if self.cell == "jordan" and self.feedback == "softmax" and task.slug in NO_SOFTMAX:
            return f"{task.slug} {NO_SOFTMAX[task.slug]}"
        return super().unfit(task)

    def unfit_data(self, dataset: DatasetSpec) -> str | None:
        if self.directions == "both" and isinstance(dataset, Sequential) and dataset.target_follows:
            return "what is asked of these sequences stands in the next step, which both directions see: directions one"
        return super().unfit_data(dataset)

    def parameters(self, inputs: int, outputs: int) -> int:
        embedded = min(inputs, self.embedding or self.units[0])
        return inputs * embedded + self.multiplications(embedded, outputs)

    def multiplications(self, inputs: int, outputs: int) -> int:
        """Of one step; a vocabulary larger than the first layer counts as a table, which multiplies nothing."""
        sides = 2 if self.directions == "both" else 1
        embedded = min(inputs, self.embedding or self.units[0])
        widths = (embedded, *(sides * width for width in self.units))
        blocks = BLOCKS[self.cell] - (self.without is not None)
        cells = sum(blocks * m * (n + m // sides) for n, m in pairwise(widths))
        return cells + widths[-1] * outputs
