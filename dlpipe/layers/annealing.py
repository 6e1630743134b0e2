"""The partition function of an RBM too large to enumerate, by annealed importance sampling, from below and from above.

Papers: salakhutdinov2008 (AIS for the RBM), burda2015 and grosse2015 (the same chain run backwards).

Between a base-rate model, whose units know nothing of each other, and the RBM lies an RBM for every inverse
temperature beta from 0 to 1, with a the base-rate model's visible biases:

    W_beta = beta W,    hbias_beta = beta hbias,    vbias_beta = (1 - beta) a + beta vbias
    log p*(v; beta) = v . vbias_beta + sum_j softplus(beta (hbias + v W)_j)      Bernoulli visible units
                      - |v - vbias_beta|^2 / 2 in place of v . vbias_beta        Gaussian visible units

A label among the visible units (`dlpipe/layers/label_rbm.py`) is one of C throughout.

At beta 0 the sum over v is known: log Z_0. A chain of Gibbs steps, one at each temperature, collects the weight

    log w = sum_k log p*(v_k; beta_{k+1}) - log p*(v_k; beta_k)

From samples of the base-rate model upwards, the mean of w is an unbiased estimate of Z / Z_0: its logarithm is in
expectation too low. From samples of the RBM downwards it is one of Z_0 / Z: log Z comes out too high. Together they
enclose log Z, on average, as long as what the second one starts from are samples of the RBM.

Shapes: v [chains, visible], h [chains, hidden]. Units are drawn in the RBM's own type, weights added in float64: the
increments are so small against their sum that float32 would lose nats over thousands of temperatures.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn.functional import softplus

from dlpipe.layers.units import Units, bernoulli

BORDERS = (0.0, 0.5, 0.9, 1.0)
TEMPERATURES = (500, 4_000, 10_000)
"""Temperatures from border to border, as in section 6 of the 2008 paper: the closer to the RBM the denser."""


class AnnealedRBM(Protocol):
    """What is asked of an RBM with binary hidden units."""

    @property
    def W(self) -> Tensor: ...  # [visible, hidden]
    @property
    def hbias(self) -> Tensor: ...
    @property
    def vbias(self) -> Tensor: ...
    @property
    def gaussian(self) -> bool: ...
    @property
    def visible_units(self) -> Units: ...


class LogPartition(NamedTuple):
    """log Z in nats, with the ends of mean +- 3 standard errors of the weights, taken to the log scale.

    Where the weights scatter so much that the lower end of their mean is not positive, nothing is known on that side:
    `low` (upwards) is -inf, or `high` (downwards) is inf.
    """

    value: float
    low: float
    high: float


def temperatures(counts: Sequence[int] = TEMPERATURES) -> Tensor:
    """Inverse temperatures from 0 to 1, float64 [sum of counts + 1]: one count for each stretch between BORDERS, or
    a single one, evenly spaced. Raises ValueError for another number of counts."""
    borders = (0.0, 1.0) if len(counts) == 1 else BORDERS
    if len(counts) != len(borders) - 1:
        raise ValueError(f"temperatures are given for 1 stretch or for {len(BORDERS) - 1}, not for {len(counts)}")
    stretches = [
        torch.linspace(start, end, count + 1, dtype=torch.float64)[1:]
        for count, (start, end) in zip(counts, pairwise(borders), strict=True)
    ]
    return torch.cat((torch.zeros(1, dtype=torch.float64), *stretches))


def base_rates(rbm: AnnealedRBM, mean: Tensor) -> Tensor:
    """Visible biases of the base-rate model of data with that mean [visible]; no pixel is quite certain."""
    return rbm.visible_units.bias_for(mean)


@torch.no_grad()
def forward(rbm: AnnealedRBM, base: Tensor, betas: Tensor, chains: int, generator: torch.Generator) -> LogPartition:
    """log Z from samples of the base-rate model with visible biases `base`: in expectation a lower bound."""
    v = rbm.visible_units.mean_and_sample(base.to(rbm.W).expand(chains, -1).contiguous(), generator)[1]
    return _estimate(_log_base(rbm, base), anneal(rbm, base, betas, v, generator), 1)


@torch.no_grad()
def reverse(rbm: AnnealedRBM, base: Tensor, betas: Tensor, samples: Tensor, generator: torch.Generator) -> LogPartition:
    """log Z from samples of the RBM [chains, visible]: in expectation an upper bound, if they are such samples."""
    return _estimate(_log_base(rbm, base), anneal(rbm, base, betas.flip(0), samples, generator), -1)


@torch.no_grad()
def gibbs(rbm: AnnealedRBM, v: Tensor, steps: int, generator: torch.Generator) -> Tensor:
    """What Gibbs sampling makes of v [chains, visible]: samples of the RBM, when it has forgotten where it began."""
    for _ in range(steps):
        v = _transition(rbm, 1.0, rbm.vbias, torch.addmm(rbm.hbias, v, rbm.W), generator)
    return v


@torch.no_grad()
def anneal(rbm: AnnealedRBM, base: Tensor, betas: Tensor, v: Tensor, generator: torch.Generator) -> Tensor:
    """log w of chains that start at v, a sample at the first temperature, and end at the last one: float64 [chains]."""
    base, steps = base.to(rbm.W), betas.tolist()
    slope = rbm.vbias - base  # of the visible bias, by beta
    log_w = torch.zeros(len(v), dtype=torch.float64, device=v.device)
    for beta, following in pairwise(steps):
        field = torch.addmm(rbm.hbias, v, rbm.W)
        gain = softplus(following * field).sub_(softplus(beta * field))
        log_w += gain.sum(dim=1, dtype=torch.float64)
        log_w += (following - beta) * (v @ slope).double()
        if rbm.gaussian:
            log_w -= 0.5 * (_norm(base + following * slope) - _norm(base + beta * slope))
        if following != steps[-1]:
            v = _transition(rbm, following, base + following * slope, field, generator)
    return log_w


def _transition(rbm: AnnealedRBM, beta: float, bias: Tensor, field: Tensor, generator: torch.Generator) -> Tensor:
    """A Gibbs step at a temperature: v from hidden units with the total input `field` [chains, hidden]."""
    h = bernoulli(torch.sigmoid(beta * field), generator)
    return rbm.visible_units.mean_and_sample(torch.addmm(bias, h, rbm.W.mT, alpha=beta), generator)[1]


def _norm(bias: Tensor) -> float:
    """|bias|^2 in float64."""
    return float(bias.double().square().sum())


def _log_base(rbm: AnnealedRBM, base: Tensor) -> float:
    """log Z_0: visible units at their base rates, and hidden units that are off or on alike."""
    base = base.double()
    return float(rbm.visible_units.log_normaliser(torch.zeros_like(base), base)) + len(rbm.hbias) * math.log(2)


def _estimate(log_base: float, log_w: Tensor, sign: int) -> LogPartition:
    """log Z_0 +- log of the mean weight, and the interval. `sign`: 1 upwards, -1 downwards."""
    largest = log_w.max()
    w = (log_w - largest).exp()
    mean, error = float(w.mean()), float(w.std()) / math.sqrt(len(w))
    ends = [mean, mean - 3 * error, mean + 3 * error]
    value, one, other = (log_base + sign * (float(largest) + _log(end)) for end in ends)
    return LogPartition(value, min(one, other), max(one, other))


def _log(x: float) -> float:
    return math.log(x) if x > 0 else -math.inf
