"""The variational bound on the log-likelihood of a model whose hidden layers cannot be summed over."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from dlpipe.layers.rbm import RBM
from dlpipe.measures.partition import Partition, mean_of
from dlpipe.tasks.base import CHUNK, Measured


class Bounded(Protocol):
    """What a model offers whose spec says `bounded`: log p(v) >= unnormalised_bound(v) - log Z of the normaliser."""

    def unnormalised_bound(self, v: Tensor, samples: int, generator: torch.Generator) -> Tensor:
        """The bound less its -log Z, in nats, by so many samples of the approximate posterior if it needs any: [B]."""

    def normaliser(self) -> RBM:
        """The RBM whose log Z it is."""

    def normaliser_means(self, v: Tensor) -> Tensor:
        """What examples are to its visible side: [B, inputs] -> [B, visible]."""


class VariationalBound(Partition):
    """The arguments are the fields of its spec.

    A log Z that is too low, as annealing's is in expectation, puts the estimate above the bound itself; `reverse`
    adds one that is too low instead, as far as Gibbs chains from training examples reach the model's distribution.
    """

    def __init__(
        self, *, chains: int, temperatures: int | Sequence[int], reverse: bool, gibbs_steps: int, samples: int
    ) -> None:
        super().__init__(chains=chains, temperatures=temperatures, reverse=reverse, gibbs_steps=gibbs_steps)
        self.samples = samples

    def __call__(self, model: Bounded, inputs: Mapping[str, Tensor], generator: torch.Generator) -> Measured:
        """`inputs`: the splits [N, features] by name, `train` among them. Metrics in nats, by name.

        `test_variational_bound`, …, the means over a split, and `log_partition`, of the normaliser.
        """
        bound = partial(model.unnormalised_bound, samples=self.samples, generator=generator)
        bounds = {name: mean_of(bound, v) for name, v in inputs.items() if len(v)}
        with torch.no_grad():
            train = torch.cat([model.normaliser_means(chunk) for chunk in inputs["train"].split(CHUNK)])
        rbm = model.normaliser()
        return self.normalised("variational_bound", bounds, rbm, train.mean(dim=0), train, generator)
