"""The figures of an experiment's report; without a list, those that the experiment's metrics and outputs allow."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from dlpipe.spec.base import Component
from dlpipe.spec.claims import Levels


class FigureSpec(Component):
    family: ClassVar[str] = "figure"
    title: str | None = Field(None, description="a heading; by the figure's kind and metric if absent")
    where: Levels = Field(default_factory=dict, description="the slice that is shown; all variants if empty")


class Curves(FigureSpec):
    """A metric of history.csv against epochs, steps or seconds: a line a level of one axis, a panel a level of the
    others. A cross where a training diverged."""

    implementation: ClassVar[str] = "dlpipe.figures.curves:draw"
    kind: Literal["curves"] = "curves"
    metric: str = "valid_error"
    phase: str = Field("finetune/1", description="as in history.csv; pretrain/1 is the lowest layer")
    lines: str | None = Field(None, description="the axis told apart by colour; one with few levels if absent")
    against: Literal["epochs", "steps", "seconds"] = Field(
        "epochs",
        description="the horizontal axis; seconds are steps times the mean time of a step, validation included",
        exclude_if=lambda value: value == "epochs",  # so that figures are digested as before there was a choice
    )


class Comparison(FigureSpec):
    """A metric of metrics.csv over the levels of one axis, a line a level of another, intervals over seeds."""

    implementation: ClassVar[str] = "dlpipe.figures.comparison:draw"
    kind: Literal["comparison"] = "comparison"
    metric: str = "test_error"
    x: str | None = Field(None, description="the horizontal axis; one with numbers for levels if absent")
    lines: str | None = Field(None, description="the axis told apart by colour; one with few levels if absent")


class Filters(FigureSpec):
    """What the hidden units of each layer look for, as pretrained and (the lowest layer) as fine-tuned."""

    implementation: ClassVar[str] = "dlpipe.figures.images:draw_filters"
    version: ClassVar[int] = 2  # before, the longest name of a row was cut
    kind: Literal["filters"] = "filters"


class Reconstructions(FigureSpec):
    """Test examples above; below, what the pretrained stack makes of them, and what a trained autoencoder does."""

    implementation: ClassVar[str] = "dlpipe.figures.images:draw_reconstructions"
    version: ClassVar[int] = 2  # before, the longest name of a row was cut
    kind: Literal["reconstructions"] = "reconstructions"


class Fantasies(FigureSpec):
    """What a model takes for data, by the measure `fantasies`: samples of an RBM or of a generative model."""

    implementation: ClassVar[str] = "dlpipe.figures.images:draw_fantasies"
    version: ClassVar[int] = 2  # before, the longest name of a row was cut
    kind: Literal["fantasies"] = "fantasies"


class Mistakes(FigureSpec):
    """Test examples that are classified wrongly, with their class and the one they were taken for."""

    implementation: ClassVar[str] = "dlpipe.figures.images:draw_mistakes"
    version: ClassVar[int] = 2  # before, the longest name of a row was cut
    kind: Literal["mistakes"] = "mistakes"


class Confusion(FigureSpec):
    """Which class is taken for which, over all seeds, in per cent of the true class."""

    implementation: ClassVar[str] = "dlpipe.figures.confusion:draw"
    kind: Literal["confusion"] = "confusion"


class Code(FigureSpec):
    """Test examples in the plane of an autoencoder's code, where that is two wide."""

    implementation: ClassVar[str] = "dlpipe.figures.codes:draw"
    kind: Literal["code"] = "code"


class Gradients(FigureSpec):
    """How far back a gradient reaches, by the measure `gradient_by_distance`: its norm against the distance."""

    implementation: ClassVar[str] = "dlpipe.figures.gradients:draw"
    kind: Literal["gradients"] = "gradients"


class Landscape(FigureSpec):
    """The density over the plane, a panel a variant: of a model of kind energy, or of an RBM by the measure of that
    name."""

    implementation: ClassVar[str] = "dlpipe.figures.landscapes:draw"
    kind: Literal["landscape"] = "landscape"
    points: Literal["test", "samples"] = Field("test", description="the dots over it; samples: of the task langevin")
