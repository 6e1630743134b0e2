"""Score matching: the slope of the model's log-density is fitted to that of the data's, which needs no Z.

Papers: hyvarinen2005, vincent2011.

    s(x) = d log p(x) / dx = - dE(x)/dx                             the score, [B, d]

    score matching:    J = mean |s(x)|^2 / 2 + sum_i ds_i(x)/dx_i
    denoising:         J = mean |sigma s(x + sigma n) + n|^2 / 2,    n ~ Normal(0, 1)

The first is half the mean squared distance from the data's own score, but for a constant and after an integration by
parts. The second is that for data with noise of deviation sigma, times sigma^2 and but for a constant: the model is
one of the noisy data, and no second derivatives are needed. Neither sees how the probability is shared between regions
that are far from each other, since the score within each does not depend on it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dlpipe.tasks.density import Density, EnergyModel, score


class ScoreMatching(Density):
    """By second derivatives (hyvarinen2005): as many backward passes a step as an example has features."""

    def objective(self, model: EnergyModel, x: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """`loss` is J, with the exact trace of the second derivatives: d backward passes."""
        x = x.detach().requires_grad_()
        s = score(model, x)
        trace = sum(torch.autograd.grad(s[:, i].sum(), x, create_graph=True)[0][:, i] for i in range(x.shape[1]))
        return {"loss": (s.square().sum(dim=1) / 2 + trace).mean()}


class DenoisingScoreMatching(Density):
    """By noise of deviation `sigma` in the inputs (vincent2011): two backward passes a step."""

    def __init__(self, sigma: float = 0.1) -> None:
        self.sigma = sigma

    def objective(self, model: EnergyModel, x: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """`loss` is J of the batch with one draw of the noise."""
        noise = torch.empty_like(x).normal_(generator=generator)
        s = score(model, (x + self.sigma * noise).requires_grad_())
        return {"loss": (self.sigma * s + noise).square().sum(dim=1).mean() / 2}
