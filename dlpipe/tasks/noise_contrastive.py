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

from dlpipe.errors import StepError
from dlpipe.tasks.base import Examples, Measured
from dlpipe.tasks.density import Density, EnergyModel


class NoiseContrastive(Density):
    """`noise`: samples of the noise for each example of a batch (k)."""

    def __init__(self, noise: int = 10) -> None:
        self.noise = noise

    def see(self, inputs: Tensor) -> None:
        """Fits the noise to the training examples [N, d]. Raises StepError where these have no density of their own."""
        self.mean = inputs.mean(dim=0)
        covariance = torch.cov(inputs.T, correction=0).reshape(len(self.mean), len(self.mean))
        try:
            self.root = torch.linalg.cholesky(covariance)
        except torch.linalg.LinAlgError:
            raise StepError(_flat(inputs)) from None

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


def _flat(inputs: Tensor) -> str:
    """Why no normal distribution with a density has the covariance of inputs [N, d], and what to do."""
    constant = int((inputs == inputs[0]).all(dim=0).sum())
    why = (
        f"{constant:,} of the {inputs.shape[1]:,} features are the same in all training examples"
        if constant
        else f"the {len(inputs):,} training examples are too few for {inputs.shape[1]:,} features, or some features "
        "follow from others"
    )
    return (
        f"noise_contrastive draws noise with the data's covariance, which must not be 0 in any direction; {why}: "
        "take a task such as langevin or denoising_score_matching, or leave out features"
    )
