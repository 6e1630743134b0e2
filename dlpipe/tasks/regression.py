"""Regression: real-valued targets, half the squared error, averaged over examples.

With the model's output f(x) for the target y, both means over the examples:

    loss = 1/2 (f(x) - y)^2        minus the log-likelihood of a normal distribution of variance 1, less its constant
    rmse = sqrt(mean (f(x) - y)^2)

The half makes the loss's second derivatives those of the model: of a linear one, the covariance of its inputs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from dlpipe.tasks.base import Examples, Measured, of_every_split, outputs_of


class Regression:
    """Asked of a model that maps inputs [B, ...] to one output [B, 1]; targets are real numbers [B]."""

    def outputs(self, features: int, classes: int) -> int:
        """The number itself, linear."""
        return 1

    def step(self, model: nn.Module, inputs: Tensor, targets: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """Adds the gradient of the batch's mean loss to `.grad`; returns that loss.

        Of a block of seeds, [seeds, B, ...] and [seeds, B], that of each.
        """
        loss = mse_loss(model(inputs, generator).squeeze(-1), targets, reduction="none").mean(dim=-1) / 2
        loss.backward(torch.ones_like(loss))  # type: ignore[no-untyped-call]
        return {"loss": loss.detach()}

    def validate(self, model: nn.Module, inputs: Tensor, targets: Tensor) -> dict[str, float]:
        """`loss` and `rmse` over all examples."""
        squared = float(mse_loss(outputs_of(model, inputs).squeeze(1).double(), targets.double()))
        return {"loss": squared / 2, "rmse": math.sqrt(squared)}

    def measure(self, model: nn.Module, splits: Mapping[str, Examples]) -> Measured:
        """Both of every split, and how much higher the training loss is than the least of any linear model.

        A linear model's is never below 0, up to rounding; a network's may be.
        """
        metrics = of_every_split(partial(self.validate, model), splits)
        least = least_squares_loss(splits["train"].inputs, splits["train"].targets)
        return Measured(metrics | {"train_excess_loss": metrics["train_loss"] - least})


def least_squares_loss(inputs: Tensor, targets: Tensor) -> float:
    """The least loss of a linear model with intercept, in float64: inputs [N, D], targets [N]."""
    x = torch.cat((inputs.double(), torch.ones_like(inputs[:, :1], dtype=torch.float64)), dim=1).cpu()
    y = targets.double()[:, None].cpu()
    solution = torch.linalg.lstsq(x, y, driver="gelsd").solution
    return float(mse_loss(x @ solution, y)) / 2
