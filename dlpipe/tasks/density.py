"""Estimating a density known up to its integral, p(x) = exp(-E(x)) / Z: what its five ways have in common.

Where x is a number or a point of the plane, Z is found by quadrature, so that all are measured by the exact likelihood.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from dlpipe.tasks.base import CHUNK, Examples, Measured
from dlpipe.tasks.quadrature import MOST_DIMENSIONS, Box, Energy, NoIntegral, box_around, grid, log_partition

SHOWN = 1000
"""Test examples, and samples, in a figure."""
PIXELS = 150
"""Of a density, along an axis."""
SEEN = 0.6
"""How much of the box that is integrated over is drawn, along an axis: those points and a little around them."""


class EnergyModel(Protocol):
    """What is asked of a model that is trained so; `dlpipe.models.energy.Energy` is one."""

    log_partition: nn.Parameter
    """log Z, where it is estimated as a parameter."""
    samples: Tensor
    """[n, d]: where Markov chains are."""
    spread: float
    """Standard deviation of the normal distribution from which a chain is begun."""

    def energy(self, x: Tensor) -> Tensor:
        """[B, d] -> [B], in nats, differentiable twice."""

    def parameters(self) -> Any: ...


class Density:
    """To be inherited: a way of estimating says what its objective is."""

    def outputs(self, features: int, classes: int) -> int:
        """The energy."""
        return 1

    def objective(self, model: EnergyModel, x: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """Scalars for the history, `loss` among them, whose gradient training follows. x: [B, d]."""
        raise NotImplementedError

    def step(
        self, model: EnergyModel, inputs: Tensor, targets: Tensor, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """Adds the gradient of the objective to `.grad`: 0 for what it does not depend on. Targets are not used."""
        scalars = self.objective(model, inputs, generator)
        scalars["loss"].backward()  # type: ignore[no-untyped-call]
        for parameter in model.parameters():
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        return {name: value.detach() for name, value in scalars.items()}

    def validate(self, model: EnergyModel, inputs: Tensor, targets: Tensor) -> dict[str, float]:
        """`log_likelihood` in nats, the mean over all examples; in more than two dimensions the mean `energy`.

        NaN where exp(-E) has no integral: a training that came to that has diverged, as by any number that is not
        finite, which the loop judges for all ranks at once.
        """
        exact = in_float64(model)
        energy = mean_energy(exact, inputs)
        if inputs.shape[1] > MOST_DIMENSIONS:
            return {"energy": energy}
        try:
            return {"log_likelihood": -energy - log_partition(exact.energy, box_around(inputs.double()))}
        except NoIntegral:
            return {"log_likelihood": math.nan}

    def measure(self, model: EnergyModel, splits: Mapping[str, Examples]) -> Measured:
        """The same of every split, and `log_partition`; for the figures the density in the plane. Raises NoIntegral."""
        exact, test = in_float64(model), splits["test"].inputs
        energies = {name: mean_energy(exact, split.inputs) for name, split in splits.items()}
        if test.shape[1] > MOST_DIMENSIONS:
            return Measured({f"{name}_energy": energy for name, energy in energies.items()})
        box = box_around(splits["train"].inputs.double())
        log_z = log_partition(exact.energy, box)
        metrics = {f"{name}_log_likelihood": -energy - log_z for name, energy in energies.items()}
        tensors = landscape(exact.energy, log_z, box, test) if test.shape[1] == 2 else {}
        return Measured(metrics | {"log_partition": log_z}, tensors=tensors)


def score(model: EnergyModel, x: Tensor) -> Tensor:
    """The gradient of log p by x, [B, d] -> [B, d], which is that of -E: Z has no part in it. It has a gradient again.

    x must be a leaf that asks for its gradient.
    """
    (slope,) = torch.autograd.grad(model.energy(x).sum(), x, create_graph=True)
    return -slope


@torch.no_grad()
def mean_energy(model: EnergyModel, inputs: Tensor) -> float:
    """Of a model in float64, over inputs [N, d]."""
    return float(torch.cat([model.energy(chunk.double()) for chunk in inputs.split(CHUNK)]).mean())


def in_float64(model: Any) -> Any:
    """A copy, in evaluation mode."""
    return copy.deepcopy(model).double().eval()


@torch.no_grad()
def landscape(energy: Energy, log_z: float, box: Box, test: Tensor) -> dict[str, Tensor]:
    """For the figure of that name, a density exp(-E) / Z in the plane; `box` is that of `box_around` some points.

    `density` [PIXELS, PIXELS], x by y; the `density_box` [2, 2] it is of, low and high; test points over it.
    """
    box = box.widened(SEEN)
    log_density = -energy(grid(box, PIXELS).points) - log_z
    return {
        "density": log_density.exp().reshape(PIXELS, PIXELS).float(),
        "density_box": torch.stack(box).float(),
        "density_points": test[:SHOWN],
    }
