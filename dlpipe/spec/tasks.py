"""What is asked of a model: loss, metrics, and what the figures need."""

from __future__ import annotations

from typing import ClassVar, Literal

from dlpipe.spec.base import Component


class TaskSpec(Component):
    family: ClassVar[str] = "task"


class Classification(TaskSpec):
    """Cross-entropy, averaged over examples; errors in per cent."""

    implementation: ClassVar[str] = "dlpipe.tasks.classification:Classification"
    kind: Literal["classification"] = "classification"
