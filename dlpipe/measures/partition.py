"""The partition function of an RBM, by enumeration where one side is small, else by annealed importance sampling."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from dlpipe.layers import annealing
from dlpipe.layers.rbm import RBM
from dlpipe.tasks.base import CHUNK, Measured


class Partition:
    """What the measures that need log Z have in common. The arguments are the fields of their specs."""

    def __init__(self, *, chains: int, temperatures: int | Sequence[int], reverse: bool, gibbs_steps: int) -> None:
        self.chains, self.reverse, self.gibbs_steps = chains, reverse, gibbs_steps
        self.betas = annealing.temperatures((temperatures,) if isinstance(temperatures, int) else temperatures)

    def normalised(
        self,
        metric: str,
        unnormalised: Mapping[str, float],
        rbm: RBM,
        mean: Tensor,
        starts: Tensor,
        generator: torch.Generator,
    ) -> Measured:
        """`unnormalised` less log Z, by split, and log Z itself, in nats; with `reverse` of the other direction, too.

        `rbm` is whose log Z it is, `mean` [visible] that of its visible units over the training examples, `starts`
        [n, visible] states from which Gibbs sampling goes on to samples. Infinite ends of an interval are left out.
        """
        if rbm.enumerable():
            exact = float(copy.deepcopy(rbm).double().log_partition())
            return Measured({"log_partition": exact, **_less(metric, unnormalised, exact)})
        base = annealing.base_rates(rbm, mean)
        up = annealing.forward(rbm, base, self.betas, self.chains, generator)
        metrics = {**_interval("log_partition", up), **_less(metric, unnormalised, up.value)}
        if self.reverse:
            starts = starts[torch.arange(self.chains, device=starts.device) % len(starts)]
            samples = annealing.gibbs(rbm, starts, self.gibbs_steps, generator)
            down = annealing.reverse(rbm, base, self.betas, samples, generator)
            metrics |= _interval("log_partition_reverse", down)
            metrics |= _less(f"reverse_{metric}", unnormalised, down.value)
        return Measured(metrics)


@torch.no_grad()
def mean_of(of_each: Callable[[Tensor], Tensor], v: Tensor) -> float:
    """Over the examples, added in float64: `of_each` gives [B] of [B, visible]."""
    total = sum(float(of_each(chunk).sum(dtype=torch.float64)) for chunk in v.split(CHUNK))
    return total / len(v)


def _less(metric: str, unnormalised: Mapping[str, float], log_partition: float) -> dict[str, float]:
    return {f"{name}_{metric}": value - log_partition for name, value in unnormalised.items()}


def _interval(metric: str, estimate: annealing.LogPartition) -> dict[str, float]:
    ends = {f"{metric}_low": estimate.low, f"{metric}_high": estimate.high}
    return {metric: estimate.value, **{name: end for name, end in ends.items() if math.isfinite(end)}}
