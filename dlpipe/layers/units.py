"""Units of a restricted Boltzmann machine, for either of its sides: binary, Gaussian and rectified linear ones.

Papers: hinton2006science (linear units for a code), nair2010 (rectified linear units).

A unit u with the bias b gets the input x from the other side, and E(u) is its own part of the energy:

    Bernoulli       E(u) = - b u, u in {0, 1}       u is 1 with probability sigmoid(b + x)
    Gaussian        E(u) = (u - b)^2 / 2            u ~ Normal(b + x, 1)
    rectified       u = max(0, b + x + Normal(0, sigmoid(b + x)))

A rectified unit stands for infinitely many binary ones with the same weights and the biases b - 1/2, b - 3/2, ..., of
which about log(1 + exp(b + x)) are on. Drawn so, it belongs to no joint distribution of both sides: where the variance
depends on the input, log p(u | x) is not u x less a function of u and one of x. It has no energy, and a layer of such
units neither free energy nor likelihood.

Shapes: u and x [..., units], b [units]; what is summed over the units [...].
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import softplus

Generators = torch.Generator | tuple[torch.Generator, ...]
"""One, or one for each seed where the first dimension of what is drawn are the seeds."""


class Units:
    """What the kinds have in common; `total` is the total input, b + x."""

    binary: ClassVar[bool] = False
    """Whether their states can be enumerated."""
    have_energy: ClassVar[bool] = True

    def mean(self, total: Tensor) -> Tensor:
        """[..., units] -> their means given that input, as large."""
        raise NotImplementedError

    def mean_and_sample(self, total: Tensor, generator: Generators) -> tuple[Tensor, Tensor]:
        """[..., units] -> means and one draw of the units, both as large."""
        raise NotImplementedError

    def activation(self, total: Tensor) -> Tensor:
        """What the unit of a network computes that such a layer is unrolled into."""
        return self.mean(total)

    def bias_for(self, mean: Tensor) -> Tensor:
        """Biases that give units with no other input that mean."""
        raise NotImplementedError

    def energy(self, u: Tensor, bias: Tensor) -> Tensor:
        """[..., units] -> [...]: the sum of E(u) over the units. Raises ValueError for units that have none."""
        raise NotImplementedError

    def log_normaliser(self, x: Tensor, bias: Tensor) -> Tensor:
        """[..., units] -> [...]: log of the sum (integral) of exp(u.x - E(u)) over all u. Raises as `energy` does."""
        raise NotImplementedError


class Bernoulli(Units):
    """On or off."""

    binary = True

    def mean(self, total: Tensor) -> Tensor:
        return torch.sigmoid(total)

    def mean_and_sample(self, total: Tensor, generator: Generators) -> tuple[Tensor, Tensor]:
        mean = torch.sigmoid(total)
        return mean, bernoulli(mean, generator)

    def bias_for(self, mean: Tensor) -> Tensor:
        # A pixel that is always 0 in the sample would get a bias of minus infinity.
        return torch.logit(mean.clamp(0.01, 0.99))

    def energy(self, u: Tensor, bias: Tensor) -> Tensor:
        return -(u * bias).sum(dim=-1)

    def log_normaliser(self, x: Tensor, bias: Tensor) -> Tensor:
        return softplus(x + bias).sum(dim=-1)


class Gaussian(Units):
    """Real numbers around their total input, with variance 1."""

    def mean(self, total: Tensor) -> Tensor:
        return total

    def mean_and_sample(self, total: Tensor, generator: Generators) -> tuple[Tensor, Tensor]:
        return total, total + draw(Tensor.normal_, torch.empty_like(total), generator)

    def bias_for(self, mean: Tensor) -> Tensor:
        return mean

    def energy(self, u: Tensor, bias: Tensor) -> Tensor:
        return 0.5 * (u - bias).square().sum(dim=-1)

    def log_normaliser(self, x: Tensor, bias: Tensor) -> Tensor:
        return (0.5 * x.square() + x * bias + 0.5 * math.log(2 * math.pi)).sum(dim=-1)


class Rectified(Units):
    """max(0, total input + noise), the noise of variance sigmoid(total input) (nair2010)."""

    have_energy = False

    def mean(self, total: Tensor) -> Tensor:
        """That of max(0, Normal(total, s^2)): total Phi(total / s) + s phi(total / s), with s^2 = sigmoid(total)."""
        s = torch.sigmoid(total).sqrt()
        z = total / s.clamp_min(torch.finfo(s.dtype).tiny)
        density = torch.exp(-0.5 * z.square()) / math.sqrt(2 * math.pi)
        return (total * torch.special.ndtr(z) + s * density).clamp_min(0.0)

    def mean_and_sample(self, total: Tensor, generator: Generators) -> tuple[Tensor, Tensor]:
        noise = draw(Tensor.normal_, torch.empty_like(total), generator)
        return self.mean(total), torch.relu(total + torch.sigmoid(total).sqrt() * noise)

    def activation(self, total: Tensor) -> Tensor:
        return torch.relu(total)

    def energy(self, u: Tensor, bias: Tensor) -> Tensor:
        raise ValueError("rectified linear units have no energy")

    def log_normaliser(self, x: Tensor, bias: Tensor) -> Tensor:
        raise ValueError("rectified linear units have no energy: neither free energy nor likelihood is defined")


UNITS: dict[str, Units] = {"bernoulli": Bernoulli(), "gaussian": Gaussian(), "relu": Rectified()}


def bernoulli(p: Tensor, generator: Generators) -> Tensor:
    """1 with probability p, else 0, in p's type; four times as fast on a CPU as torch.bernoulli."""
    return draw(Tensor.uniform_, torch.empty_like(p), generator).lt_(p)


def draw(fill: Callable[..., Tensor], tensor: Tensor, generator: Generators) -> Tensor:
    """The tensor, filled in place by `Tensor.uniform_` or `Tensor.normal_`; [seeds, ...] by each seed's generator."""
    if isinstance(generator, torch.Generator):
        return fill(tensor, generator=generator)
    for own, each in zip(tensor, generator, strict=True):
        fill(own, generator=each)
    return tensor
