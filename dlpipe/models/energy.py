"""A density by its energy alone, without latent variables: a Gaussian, bent by a multilayer network.

Papers: hyvarinen2005, gutmann2010, vincent2011, du2019 (what it can be trained by; each is a task of its own).

    E(x) = |(x - m) A|^2 / 2 + f(x)                 [B, inputs] -> [B]
    p(x) = exp(-E(x)) / Z,    Z = integral of exp(-E(x)) dx
    h_0 = x
    h_l = activation(h_{l-1} W_l + b_l)             [B, units_l], l = 1 ... L
    f(x) = h_L w

The activations grow at most linearly, so that the square keeps Z finite. They are smooth, as score matching needs the
second derivatives of E. At the start w = 0, m = 0 and A = 1 / spread: the model is the normal distribution of that
deviation, of which the first samples are drawn. Without a hidden layer f is linear, and the model stays normal.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import silu, softplus

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"silu": silu, "softplus": softplus, "tanh": torch.tanh}


class Energy(nn.Module):
    """What a model of `kind: energy` is; the arguments are the fields of its spec.

    `samples` [samples, inputs] are of the model's distribution as far as the task sees to it: Markov chains that go on
    from step to step. `log_partition` is log Z where the task estimates it as a parameter, else 0. Both are part of
    `state_dict()`.
    """

    particles: ClassVar[tuple[str, ...]] = ("samples",)
    """Buffers with a row a particle, which several processes share out."""
    samples: Tensor

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        units: Sequence[int],
        activation: Literal["silu", "softplus", "tanh"] = "silu",
        spread: float = 1.0,
        samples: int = 500,
    ) -> None:
        super().__init__()
        if outputs != 1:
            raise ValueError(f"an energy is one number; {outputs} outputs are asked of it")
        sizes = [inputs, *units, 1]
        self.activation = ACTIVATIONS[activation]
        self.spread = spread
        self.weights = nn.ParameterList(torch.zeros(n, m) for n, m in pairwise(sizes))
        self.biases = nn.ParameterList(torch.zeros(n) for n in sizes[1:-1])
        self.centre = nn.Parameter(torch.zeros(inputs))
        self.root_precision = nn.Parameter(torch.zeros(inputs, inputs))
        self.log_partition = nn.Parameter(torch.zeros(()))
        self.register_buffer("samples", torch.zeros(samples, inputs))

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> None:
        """Uniform weights (he2015), and biases as wide; w = 0. The samples are exact ones of what the model then is.

        With biases of 0 all units would bend at x = 0, and would first have to be moved to where the data are.
        """
        for W, b in zip(self.weights[:-1], self.biases, strict=True):
            bound = math.sqrt(6 / len(W))
            W.uniform_(-bound, bound, generator=generator)
            b.uniform_(-bound, bound, generator=generator)
        for zero in (self.weights[-1], self.centre, self.log_partition):
            zero.zero_()
        self.root_precision.copy_(torch.eye(len(self.centre)) / self.spread)
        self.samples.normal_(0.0, self.spread, generator=generator)

    def energy(self, x: Tensor) -> Tensor:
        """E(x) in nats: [B, inputs] -> [B]."""
        square = ((x - self.centre) @ self.root_precision).square().sum(dim=1)
        for W, b in zip(self.weights[:-1], self.biases, strict=True):
            x = self.activation(torch.addmm(b, x, W))
        return square / 2 + (x @ self.weights[-1]).squeeze(1)
