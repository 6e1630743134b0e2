"""Maximum likelihood of a density known up to its integral, p(x) = exp(-E(x)) / Z: by quadrature, or by sampling.

Papers: tieleman2008 (chains that persist), du2019 (Langevin dynamics with a replay buffer).

    L = - mean log p(x) = mean E(x) + log Z
    dL = mean dE(x) - mean dE(y),    y ~ p              since d log Z = - mean dE(y)

On the line and in the plane log Z is a sum over a grid. In more dimensions y are samples: Markov chains that take a few
steps of Langevin dynamics after every update of the model, from where they were. They are the replay buffer: all of it
moves, as persistent chains do; du2019 draws a part of a larger one. With noise n ~ Normal(0, 1) and step size e,

    y' = y - e^2/2 dE(y)/dy + e n                       the proposal; q(y' | y) is its density
    accepted with probability min(1, p(y') q(y | y') / p(y) q(y' | y))

Without the second line the chains' distribution is that of the model only as e tends to 0, and where E is steeper than
about 1/e^2 they leave for infinity.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from dlpipe.errors import StepError
from dlpipe.tasks.base import Examples, Measured
from dlpipe.tasks.density import SHOWN, Density, EnergyModel
from dlpipe.tasks.quadrature import MOST_DIMENSIONS, box_around, grid, log_integral


class ExactLikelihood(Density):
    """log Z on a grid of `points` along each axis, of a box around the training examples."""

    def __init__(self, points: int = 100) -> None:
        self.points = points

    def see(self, inputs: Tensor) -> None:
        """Lays the grid. Raises StepError in more than two dimensions."""
        if inputs.shape[1] > MOST_DIMENSIONS:
            raise StepError(
                f"exact_likelihood integrates over at most {MOST_DIMENSIONS} dimensions; these data have "
                f"{inputs.shape[1]}: take a task such as langevin or score_matching"
            )
        self.cells = grid(box_around(inputs), self.points)

    def objective(self, model: EnergyModel, x: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """`loss` is L in nats."""
        return {"loss": model.energy(x).mean() + log_integral(model.energy, self.cells)}


class Chain(NamedTuple):
    """Markov chains and what the next step needs to know of where they are."""

    y: Tensor
    """[n, d]"""
    energy: Tensor
    """[n]"""
    slope: Tensor
    """[n, d]: dE/dy."""


class Langevin(Density):
    """The chains are `model.samples`; at an update a share `restart` of them begins anew, and all take `steps`."""

    def __init__(self, steps: int = 10, step_size: float = 0.1, adjusted: bool = True, restart: float = 0.0) -> None:
        self.steps, self.step_size, self.adjusted, self.restart = steps, step_size, adjusted, restart

    def objective(self, model: EnergyModel, x: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """`loss` has the gradient of L, not its value: mean E of the data less that of the samples."""
        samples, acceptance = self.carry_on(model, generator)
        model.samples.copy_(samples)
        return {"loss": model.energy(x).mean() - model.energy(samples).mean(), "acceptance": acceptance}

    def measure(self, model: EnergyModel, splits: Mapping[str, Examples]) -> Measured:
        """As always; for the figures the samples too, where they are points of the plane."""
        samples = {"density_samples": model.samples[:SHOWN]} if model.samples.shape[1] == 2 else {}
        return super().measure(model, splits) | Measured({}, tensors=samples)

    def carry_on(self, model: EnergyModel, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Where the chains are after the steps, [n, d], and the share of proposals that was accepted."""
        y, accepted = self._restarted(model, generator), []
        chain = at(model, y)
        for _ in range(self.steps):
            chain, taken = self.move(model, chain, generator)
            accepted.append(taken.float().mean())
        return chain.y, torch.stack(accepted).mean()

    def move(self, model: EnergyModel, chain: Chain, generator: torch.Generator) -> tuple[Chain, Tensor]:
        """One step, and which chains took it [n]."""
        noise = torch.empty_like(chain.y).normal_(generator=generator)
        proposed = at(model, chain.y - self.step_size**2 / 2 * chain.slope + self.step_size * noise)
        if not self.adjusted:
            return proposed, torch.ones_like(proposed.energy, dtype=torch.bool)
        back = (chain.y - proposed.y + self.step_size**2 / 2 * proposed.slope) / self.step_size
        log_ratio = chain.energy - proposed.energy + (noise.square() - back.square()).sum(dim=1) / 2
        uniform = torch.empty_like(chain.y[:, :1]).uniform_(generator=generator).squeeze(1)
        taken = uniform.log() < log_ratio  # never for a proposal whose energy is not finite
        row = taken.unsqueeze(1)
        kept = Chain(
            torch.where(row, proposed.y, chain.y),
            torch.where(taken, proposed.energy, chain.energy),
            torch.where(row, proposed.slope, chain.slope),
        )
        return kept, taken

    def _restarted(self, model: EnergyModel, generator: torch.Generator) -> Tensor:
        if not self.restart:
            return model.samples
        anew = torch.empty_like(model.samples[:, :1]).uniform_(generator=generator) < self.restart
        first = torch.empty_like(model.samples).normal_(0.0, model.spread, generator=generator)
        return torch.where(anew, first, model.samples)


def at(model: EnergyModel, y: Tensor) -> Chain:
    """Chains at y [n, d]."""
    y = y.detach().requires_grad_()
    energy = model.energy(y)
    (slope,) = torch.autograd.grad(energy.sum(), y)
    return Chain(y.detach(), energy.detach(), slope)
