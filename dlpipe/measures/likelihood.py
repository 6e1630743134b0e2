"""How likely data is to an RBM: the log-likelihood, by enumeration where one side is small, otherwise by annealed
importance sampling; and the pseudo-likelihood, exact whatever the size."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from dlpipe.layers import annealing
from dlpipe.layers.rbm import ENUMERABLE, RBM
from dlpipe.tasks.base import Measured

CHUNK = 4096
"""Examples that are computed at once; fixed, so that the sums are the same bytes."""


class LogLikelihood:
    """The arguments are the fields of its spec.

    Where log Z is a lower bound, in expectation, the log-likelihood is an upper one: it flatters the RBM. `reverse`
    adds the other bounds, which hold as far as Gibbs chains from training examples reach the RBM's distribution.
    """

    def __init__(self, *, chains: int, temperatures: int | Sequence[int], reverse: bool, gibbs_steps: int) -> None:
        self.chains, self.reverse, self.gibbs_steps = chains, reverse, gibbs_steps
        self.betas = annealing.temperatures((temperatures,) if isinstance(temperatures, int) else temperatures)

    def __call__(self, layer: RBM, inputs: Mapping[str, Tensor], generator: torch.Generator) -> Measured:
        """`inputs`: the splits [N, visible] by name, `train` among them. Metrics in nats, by name.

        `log_partition`, and `train_log_likelihood`, …, the means over a split. Ends of an interval that are infinite
        are left out.
        """
        energies = {name: _mean(layer.free_energy, v) for name, v in inputs.items() if len(v)}
        if _enumerable(layer):
            exact = float(copy.deepcopy(layer).double().log_partition())
            return Measured({"log_partition": exact, **_likelihoods("log_likelihood", energies, exact)})
        train = inputs["train"]
        base = annealing.base_rates(layer, train.mean(dim=0))
        up = annealing.forward(layer, base, self.betas, self.chains, generator)
        metrics = {**_interval("log_partition", up), **_likelihoods("log_likelihood", energies, up.value)}
        if self.reverse:
            starts = train[torch.arange(self.chains, device=train.device) % len(train)]
            samples = annealing.gibbs(layer, starts, self.gibbs_steps, generator)
            down = annealing.reverse(layer, base, self.betas, samples, generator)
            metrics |= _interval("log_partition_reverse", down)
            metrics |= _likelihoods("reverse_log_likelihood", energies, down.value)
        return Measured(metrics)


class PseudoLikelihood:
    """Of so many examples of each split, evenly spaced: a test set in its source's order may begin with easy ones."""

    def __init__(self, *, examples: int) -> None:
        self.examples = examples

    def __call__(self, layer: RBM, inputs: Mapping[str, Tensor], generator: torch.Generator) -> Measured:
        """`test_pseudo_log_likelihood`, …: means over examples, in nats."""
        metrics = {}
        for name, v in inputs.items():
            n = min(self.examples, len(v))
            if n:
                some = v[torch.arange(n, device=v.device) * len(v) // n]
                metrics[f"{name}_pseudo_log_likelihood"] = _mean(layer.pseudo_log_likelihood, some)
        return Measured(metrics)


def _enumerable(layer: RBM) -> bool:
    visible, hidden = layer.W.shape
    return hidden <= ENUMERABLE or (visible <= ENUMERABLE and not layer.gaussian)


@torch.no_grad()
def _mean(of_each: Callable[[Tensor], Tensor], v: Tensor) -> float:
    """Over the examples, added in float64."""
    total = sum(float(of_each(chunk).sum(dtype=torch.float64)) for chunk in v.split(CHUNK))
    return total / len(v)


def _likelihoods(metric: str, energies: Mapping[str, float], log_partition: float) -> dict[str, float]:
    return {f"{name}_{metric}": -energy - log_partition for name, energy in energies.items()}


def _interval(metric: str, estimate: annealing.LogPartition) -> dict[str, float]:
    ends = {f"{metric}_low": estimate.low, f"{metric}_high": estimate.high}
    return {metric: estimate.value, **{name: end for name, end in ends.items() if math.isfinite(end)}}
