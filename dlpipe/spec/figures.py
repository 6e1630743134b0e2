"""The figures of an experiment's report; without a list, those that the experiment's metrics and outputs allow."""

from __future__ import annotations

from typing import ClassVar, Literal

from dlpipe.spec.base import Component


class FigureSpec(Component):
    family: ClassVar[str] = "figure"
    title: str | None = None


class Curves(FigureSpec):
    """A metric of history.csv against epochs, a line a variant, a band over seeds."""

    implementation: ClassVar[str] = "dlpipe.figures.curves:draw"
    kind: Literal["curves"] = "curves"
    metric: str = "valid_error"
    phase: str = "finetune/1"


class Comparison(FigureSpec):
    """A metric of metrics.csv over the levels of one axis, a line a level of another, intervals over seeds."""

    implementation: ClassVar[str] = "dlpipe.figures.comparison:draw"
    kind: Literal["comparison"] = "comparison"
    metric: str = "test_error"
    x: str | None = None
    lines: str | None = None


class Filters(FigureSpec):
    implementation: ClassVar[str] = "dlpipe.figures.images:draw_filters"
    kind: Literal["filters"] = "filters"


class Reconstructions(FigureSpec):
    implementation: ClassVar[str] = "dlpipe.figures.images:draw_reconstructions"
    kind: Literal["reconstructions"] = "reconstructions"


class Confusion(FigureSpec):
    implementation: ClassVar[str] = "dlpipe.figures.confusion:draw"
    kind: Literal["confusion"] = "confusion"
