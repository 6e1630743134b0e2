"""Where the last token comes from that a model sees while it learns to write: the data, or itself (Bengio et al. 2015).

Each says with which probability it is the data's at an update; a coin is thrown for every token.
"""

from __future__ import annotations

from functools import partial
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from dlpipe.spec.base import Component, NonNegativeFloat, PositiveFloat, misuse, one_of


class FeedSpec(Component):
    family: ClassVar[str] = "feed"

    def probability(self) -> Any:
        """The function of the update's number, from 0, with these settings."""
        return partial(self.load(), **self.arguments())


class TeacherForcing(FeedSpec):
    """Always the data's."""

    implementation: ClassVar[str] = "dlpipe.tasks.feeding:teacher_forcing"
    kind: Literal["teacher_forcing"] = "teacher_forcing"


class AlwaysSampling(FeedSpec):
    """Always one that the model draws."""

    implementation: ClassVar[str] = "dlpipe.tasks.feeding:always_sampling"
    kind: Literal["always_sampling"] = "always_sampling"


class Linear(FeedSpec):
    """max(floor, start - slope i) at the update i."""

    implementation: ClassVar[str] = "dlpipe.tasks.feeding:linear"
    kind: Literal["linear"] = "linear"
    slope: PositiveFloat = Field(description="how much less at each update; 0.001 takes 1,000 updates from 1 to 0")
    start: float = Field(1.0, ge=0.0, le=1.0, description="probability at the first update")
    floor: NonNegativeFloat = Field(0.0, description="probability below which it does not fall")

    @model_validator(mode="after")
    def _it_falls(self) -> Linear:
        if self.floor > self.start:
            raise misuse(f"it starts at {self.start} and cannot fall to {self.floor}", "floor")
        return self


class Exponential(FeedSpec):
    """base ** i at the update i."""

    implementation: ClassVar[str] = "dlpipe.tasks.feeding:exponential"
    kind: Literal["exponential"] = "exponential"
    base: float = Field(gt=0.0, lt=1.0, description="0.999 is at a half after 693 updates")


class InverseSigmoid(FeedSpec):
    """k / (k + exp(i / k)) at the update i."""

    implementation: ClassVar[str] = "dlpipe.tasks.feeding:inverse_sigmoid"
    kind: Literal["inverse_sigmoid"] = "inverse_sigmoid"
    k: float = Field(ge=1.0, description="it is at a half after k log k updates: 100 is after 461, 1000 after 6,908")


Feed = one_of("feed")
