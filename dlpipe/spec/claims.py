"""What a paper claims, in a form that can be judged."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, FiniteFloat, model_validator

from dlpipe.spec.base import Many, OneOrMany, PositiveFloat, Spec, misuse


def _as_text(value: object) -> object:
    return str(value).lower() if isinstance(value, bool) else str(value) if isinstance(value, int | float) else value


Level = Annotated[str, BeforeValidator(_as_text, json_schema_input_type=str | float | bool)]
"""A level's name; a number in YAML is taken as its text."""
Levels = dict[str, Level]
"""Axis to level: one cell, or one slice, of the comparison."""

Scale = Literal["demo", "lab", "paper"]
SCALES: tuple[Scale, ...] = ("demo", "lab", "paper")

DIVERGED = "diverged"
"""A metric where `on_divergence` is `record`: 1 for a seed whose training diverged, 0 for the others. In history.csv:
the last row of such a seed, at the first step with a number that is not finite."""


class Growth(Spec):
    """The gain of `compare` over `with` is larger at level `to` of `axis` than at level `from`."""

    axis: str
    start: Level = Field(alias="from")
    end: Level = Field(alias="to")


class Claim(Spec):
    """A comparison by seed, of `compare` with `with` or of `metric` with another metric of the same runs
    (`better_than`); its growth along an axis; or a value with a tolerance."""

    says: str = Field(min_length=1, description="the claim, in a sentence")
    source: str | None = Field(None, description="where the paper says so: figure, table, section")
    paper: str | None = Field(None, description="key in papers.bib; the experiment's paper if absent")
    metric: str = "test_error"
    better: Literal["lower", "higher"] | None = Field(None, description="by the metric's name if absent")
    where: Levels = Field(default_factory=dict, description="the slice the claim speaks of")
    compare: Levels | None = Field(None, description="the levels that should be better")
    against: Levels | None = Field(None, alias="with", description="the levels they are compared with")
    better_than: str | None = Field(
        None, description="another metric of the same runs that `metric` is compared with, such as a baseline's"
    )
    for_each: OneOrMany[str] | None = Field(None, description="axes at whose every level it must hold")
    margin: FiniteFloat = Field(
        0.0,
        description="smallest gain that counts, in the metric's unit; below 0: the largest loss that does not, for a "
        "claim that one is no worse than the other",
    )
    grows: Growth | None = None
    value: float | None = Field(None, description="the paper's value, in the metric's unit")
    tolerance: PositiveFloat | None = None
    scales: Annotated[tuple[Scale, ...], Many] = Field(
        SCALES, description="the scales at which it can be judged; say why in `because`"
    )
    because: str | None = Field(None, description="why it is not judged at the other scales")

    @model_validator(mode="after")
    def _one_form(self) -> Claim:
        comparison = self.compare is not None or self.against is not None
        if comparison + (self.better_than is not None) + (self.value is not None) != 1:
            raise misuse("give either compare and with, or better_than, or value and tolerance")
        if self.better_than == self.metric:
            raise misuse("metric and better_than are the same", "better_than")
        if comparison and (self.compare is None or self.against is None):
            raise misuse("compare and with go together")
        if self.value is not None and self.tolerance is None:
            raise misuse("a value needs a tolerance", "value")
        if self.grows is not None and not comparison:
            raise misuse("grows needs compare and with", "grows")
        return self

    @property
    def other_metric(self) -> str:
        """That of the side which `metric` is compared with."""
        return self.better_than or self.metric

    @property
    def axes_repeated(self) -> tuple[str, ...]:
        if self.for_each is None:
            return ()
        return (self.for_each,) if isinstance(self.for_each, str) else self.for_each

    @property
    def axes_named(self) -> set[str]:
        """The axes that the claim says something of, in whatever role."""
        grown = () if self.grows is None else (self.grows.axis,)
        return {*self.where, *(self.compare or ()), *(self.against or ()), *self.axes_repeated, *grown}

    def settled(self, own_levels: Levels) -> Claim:
        """The claim with every axis it leaves out held at that axis's own level `{}`, where there is one."""
        missing = {axis: level for axis, level in own_levels.items() if axis not in self.axes_named}
        return self.model_copy(update={"where": {**missing, **self.where}})

    @property
    def lower_is_better(self) -> bool:
        if self.better is not None:
            return self.better == "lower"
        return not self.metric.endswith(("accuracy", "likelihood", "bound"))


def own_levels(axes: Mapping[str, Mapping[str, object]]) -> Levels:
    """Axis to its level `{}`, which is the file itself; a claim that leaves the axis out speaks of that level."""
    return {axis: level for axis, levels in axes.items() for level, patch in levels.items() if not patch}
