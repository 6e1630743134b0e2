"""What is asked of a model: loss, metrics, and what the figures need."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from dlpipe.spec.base import Component
from dlpipe.spec.datasets import DatasetSpec


class TaskSpec(Component):
    family: ClassVar[str] = "task"

    @property
    def slug(self) -> str:
        return self.kind  # type: ignore[attr-defined]

    def unfit(self, dataset: DatasetSpec) -> str | None:
        """Why this cannot be asked on such data; None if it can."""
        return None


class Classification(TaskSpec):
    """Cross-entropy, averaged over examples; errors in per cent."""

    implementation: ClassVar[str] = "dlpipe.tasks.classification:Classification"
    kind: Literal["classification"] = "classification"

    def unfit(self, dataset: DatasetSpec) -> str | None:
        return (
            f"{dataset.kind} has real numbers for targets, no classes: its task is regression"
            if dataset.real_targets
            else None
        )


class Regression(TaskSpec):
    """Half the squared error of one real number, averaged over examples."""

    implementation: ClassVar[str] = "dlpipe.tasks.regression:Regression"
    kind: Literal["regression"] = "regression"

    def unfit(self, dataset: DatasetSpec) -> str | None:
        return (
            None if dataset.real_targets else f"regression needs real numbers for targets; {dataset.kind} has classes"
        )


class Reconstruction(TaskSpec):
    """The model gives its input back: loss and squared error are summed over the features, averaged over examples."""

    implementation: ClassVar[str] = "dlpipe.tasks.reconstruction:Reconstruction"
    kind: Literal["reconstruction"] = "reconstruction"
    loss: Literal["cross_entropy", "squared"] = Field(
        "cross_entropy", description="cross_entropy: sigmoid output, for inputs in [0, 1]; squared: linear output"
    )


class Generative(TaskSpec):
    """The model's own objective as a model of its inputs, such as their likelihood; its metrics are the model's own."""

    implementation: ClassVar[str] = "dlpipe.tasks.generative:Generative"
    kind: Literal["generative"] = "generative"
