"""Noise-contrastive estimation: the model learns to tell the data from noise of a known density, and log Z with it.

Paper: gutmann2010.

    log p(x) = - E(x) - c,      c a parameter, which comes to be log Z
    G(x) = log p(x) - log q(x) - log k              the log odds of x to be data and not noise, k times as many
    J = mean over data softplus(-G(x)) + k mean over noise softplus(G(y)),    y ~ q

q is the normal distribution with the mean and the covariance of the training examples. The more noise, the nearer the
estimate is to that of maximum likelihood.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn.functional import softplus

from dlpipe.tasks.base import Examples, Measured
from dlpipe.tasks.density import Density, EnergyModel


class NoiseContrastive(Density):
    """`noise`: samples of the noise for each example of a batch (k)."""

    def __init__(self, noise: int = 10) -> None:
        self.noise = noise

    def see(self, inputs: Tensor) -> None:
        """Fits the noise to the training examples [N, d]."""
        self.mean = inputs.mean(dim=0)
        self.root = torch.linalg.cholesky(torch.cov(inputs.T, correction=0).reshape(len(self.mean), len(self.mean)))

    def objective(self, model: EnergyModel, x: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """`loss` is J, an example."""
        y = self._draw(x, generator)
        of_data, of_noise = self._log_odds(model, x), self._log_odds(model, y)
        return {"loss": softplus(-of_data).mean() + self.noise * softplus(of_noise).mean()}

    def measure(self, model: EnergyModel, splits: Mapping[str, Examples]) -> Measured:
        """As always, and by how much the parameter c misses log Z."""
        measured = super().measure(model, splits)
        if "log_partition" not in measured.metrics:
            return measured
        missed = abs(float(model.log_partition.detach()) - measured.metrics["log_partition"])
        return measured | Measured({"log_partition_error": missed})

    def _draw(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """k times as many as x [B, d], of its type: [k B, d]."""
        standard = x.new_empty(self.noise, *x.shape).normal_(generator=generator)
        return (self.mean + standard @ self.root.T).flatten(0, 1)

    def _log_odds(self, model: EnergyModel, x: Tensor) -> Tensor:
        """G: [B, d] -> [B]."""
        white = torch.linalg.solve_triangular(self.root, (x - self.mean).T, upper=False)
        log_root = self.root.diagonal().log().sum() + len(self.mean) / 2 * math.log(2 * math.pi)
        log_q = -white.square().sum(dim=0) / 2 - log_root
        return -model.energy(x) - model.log_partition - log_q - math.log(self.noise)
