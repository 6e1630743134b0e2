"""What every task offers to the stages, whatever it asks of a model."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Protocol

import torch
from torch import Tensor, nn

CHUNK = 4096
"""Examples that go through a model at once; fixed, so that the sums are the same bytes whoever asks."""
IGNORE_INDEX = -1
"""The target of a step of which nothing is asked."""


class Examples(Protocol):
    """A split of the data, not empty."""

    @property
    def inputs(self) -> Tensor:
        """[N, features]."""

    @property
    def targets(self) -> Tensor:
        """[N] int64: classes; or float32: real numbers."""


class Sequences(Protocol):
    """A split of sequences, not empty, which lie one behind another."""

    @property
    def inputs(self) -> Tensor:
        """[steps of all, features], or tokens [steps of all] int64."""

    @property
    def lengths(self) -> Tensor:
        """[N] int64, on the CPU."""

    def chunks(self, steps: int) -> Iterator[tuple[Tensor, ...]]:
        """All of them, so many as have `steps` steps at a time, padding included: inputs [B, T, ...], targets if there
        are any, [B, T] with -1 where nothing is asked, or [B], and lengths [B]."""


@dataclass(frozen=True)
class Measured:
    """What one seed's model comes to, and what the figures need of it."""

    metrics: dict[str, float]
    """By name, in the order of the table."""
    pictures: dict[str, Tensor] = field(default_factory=dict)
    """[n, features] each, to be shown in the shape of an input; kept of the first seed."""
    tensors: dict[str, Tensor] = field(default_factory=dict)
    """Of any shape; kept of the first seed."""
    of_each_seed: dict[str, Tensor] = field(default_factory=dict)
    """Of one shape whatever the seed; kept of every seed, stacked."""

    def __or__(self, other: Measured) -> Measured:
        """Both; of what has the same name, the other's."""
        return Measured(*(getattr(self, each.name) | getattr(other, each.name) for each in fields(self)))


class Task(Protocol):
    """The constructor's arguments are the fields of the task's spec.

    One that must know the training examples before the first step has a method `see(inputs)` besides, one that changes
    as training goes on `at(step)`, which is told the number of the step that comes, from 0. One for sequences
    is given a split of them, `Sequences`, where others are given inputs and targets; its step is given what a batch is
    made of, `Sequences.chunks` or the windows of a stream.
    """

    def outputs(self, features: int, classes: int) -> int:
        """How many outputs the model needs for it."""

    def step(self, model: nn.Module, inputs: Tensor, targets: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """Adds the gradient of the batch's objective to `.grad`; returns scalars for the history."""

    def validate(self, model: nn.Module, inputs: Tensor, targets: Tensor) -> dict[str, float]:
        """Metrics over all examples, with the model in evaluation mode."""

    def measure(self, model: Any, splits: Mapping[str, Examples]) -> Measured:
        """Of the splits that have examples; `test` is always among them."""


@torch.no_grad()
def means(validate: Callable[..., Mapping[str, Tensor]], *examples: Tensor) -> dict[str, float]:
    """`validate` of batches gives means over their examples; this is that of all, [N, ...] each and N not 0."""
    totals: dict[str, float] = {}
    for batch in zip(*(tensor.split(CHUNK) for tensor in examples), strict=True):
        for name, value in validate(*batch).items():
            totals[name] = totals.get(name, 0.0) + float(value) * len(batch[0]) / len(examples[0])
    return totals


def of_every_split(
    validate: Callable[[Tensor, Tensor], Mapping[str, float]], splits: Mapping[str, Examples]
) -> dict[str, float]:
    """`validate` of each split's inputs and targets, by the split's name and the metric's: `test_loss`."""
    return of_every_sequence_split(lambda split: validate(split.inputs, split.targets), splits)


def of_every_sequence_split(
    validate: Callable[[Any], Mapping[str, float]], splits: Mapping[str, Any]
) -> dict[str, float]:
    """`validate` of each split as a whole, named as in `of_every_split`."""
    return {f"{name}_{metric}": value for name, split in splits.items() for metric, value in validate(split).items()}


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """The model in evaluation mode, and no gradients, for as long."""
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(training)


def outputs_of(model: nn.Module, inputs: Tensor) -> Tensor:
    """[N, ...] -> [N, outputs], with the model in evaluation mode for as long."""
    with evaluating(model):
        return torch.cat([model(chunk) for chunk in inputs.split(CHUNK)])
