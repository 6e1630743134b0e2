"""Generative training: what is asked of the model is its own objective as a model of its inputs.

How it gets the gradient (persistent chains, mean field, wake-sleep) is the model's affair, as it is a layer's.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from dlpipe.tasks.base import Examples, Measured, means, of_every_split


class GenerativeModel(Protocol):
    """What a model offers whose spec says `generative`."""

    def step(self, inputs: Tensor, targets: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """Leaves the gradient of the batch's mean objective in `.grad`; returns scalars for the history."""

    def validate(self, inputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Means over the examples, by name."""


class Generative:
    """Asked of a model whose spec says `generative`; inputs [B, ...], targets the class numbers [B] that it may see."""

    def outputs(self, features: int, classes: int) -> int:
        """A class a label, for models that generate labels too or classify."""
        return classes

    def step(
        self, model: GenerativeModel, inputs: Tensor, targets: Tensor, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """Leaves the gradient of the model's own objective in `.grad`; returns its scalars."""
        return model.step(inputs, targets, generator)

    def validate(self, model: GenerativeModel, inputs: Tensor, targets: Tensor) -> dict[str, float]:
        """The model's own metrics, means over all examples."""
        return means(model.validate, inputs, targets)

    def measure(self, model: GenerativeModel, splits: Mapping[str, Examples]) -> Measured:
        """The same metrics of every split."""
        return Measured(of_every_split(partial(self.validate, model), splits))
