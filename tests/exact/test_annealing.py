"""Annealed importance sampling against enumeration of RBMs that are small enough for it."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import softplus

from dlpipe.layers import annealing
from dlpipe.layers.annealing import base_rates, forward, gibbs, reverse, temperatures
from dlpipe.layers.rbm import RBM, states

BETAS = temperatures((50, 400, 1_000))
KINDS = pytest.mark.parametrize("kind", ["bernoulli", "gaussian"])


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_rbm(visible: int, hidden: int, scale: float, kind: Any = "bernoulli") -> RBM:
    layer = RBM(visible, hidden, visible_units=kind)
    with torch.no_grad():
        for number, parameter in enumerate(layer.parameters()):
            parameter.normal_(0.0, scale, generator=generator(number))
    return layer


def exact_samples(layer: RBM, count: int, random: torch.Generator) -> Tensor:
    """v of the RBM itself: h by its weight in the enumeration, then v given h."""
    h = torch.cat(list(states(layer.W.shape[1], layer.W)))
    drawn = torch.multinomial(torch.softmax(layer._log_weight(h), dim=0), count, replacement=True, generator=random)
    return layer.sample_v_given_h(h[drawn], random)[1].detach()


def log_z(layer: RBM) -> float:
    return float(layer.double().log_partition())


def uniform(layer: RBM) -> Tensor:
    return torch.zeros(layer.W.shape[0])


@KINDS
@pytest.mark.parametrize("scale", [0.3, 1.0])
def test_both_directions_meet_enumeration(kind: str, scale: float) -> None:
    layer = random_rbm(10, 6, scale if kind == "bernoulli" else 0.5 * scale, kind)
    base = base_rates(layer, layer.propdown(torch.full((1, 6), 0.5))[0].detach())
    up = forward(layer, base, BETAS, 500, generator(1))
    down = reverse(layer, base, BETAS, exact_samples(layer, 500, generator(2)), generator(3))
    exact = log_z(layer)
    for estimate in (up, down):
        assert estimate.value == pytest.approx(exact, abs=0.1)
        assert estimate.low <= exact <= estimate.high  # three standard errors; the seeds are fixed


def test_strong_weights_that_make_a_gibbs_sampler_stick() -> None:
    """Weights of 3 leave deep modes: a thousand temperatures still find their masses."""
    layer = random_rbm(12, 8, 3.0)
    up = forward(layer, uniform(layer), temperatures(), 500, generator(1))
    assert up.value == pytest.approx(log_z(layer), abs=0.1)


@KINDS
def test_too_few_temperatures_are_too_low_upwards_and_too_high_downwards(kind: str) -> None:
    """On average over runs; Jensen's inequality puts them there, and few temperatures make the gap visible."""
    layer = random_rbm(10, 6, 1.5 if kind == "bernoulli" else 0.6, kind)
    base, few = uniform(layer), temperatures((8,))
    samples = exact_samples(layer, 10 * 200, generator(1)).split(10)
    up = torch.tensor([forward(layer, base, few, 10, generator(n)).value for n in range(200)])
    down = torch.tensor([reverse(layer, base, few, v, generator(n)).value for n, v in enumerate(samples)])
    exact = log_z(layer)
    for gap in (exact - up, down - exact):
        # More than three standard errors of the mean over runs above 0.
        assert gap.mean() > 3 * gap.std() / math.sqrt(len(gap))


@KINDS
def test_the_weights_themselves_are_unbiased(kind: str) -> None:
    """With any number of temperatures the mean of w is Z / Z_0, though that of log w is not."""
    layer = random_rbm(6, 4, 0.7 if kind == "bernoulli" else 0.4, kind)
    bare = RBM(6, 4, visible_units=kind)  # type: ignore[arg-type]
    v = bare.sample_v_given_h(torch.zeros(40_000, 4), generator(1))[1].detach()
    w = annealing.anneal(layer, uniform(layer), temperatures((4,)), v, generator(2)).exp()
    exact = math.exp(log_z(layer) - float(bare.log_partition()))
    assert abs(w.mean().item() - exact) < 4 * w.std().item() / math.sqrt(len(w))


def test_independent_units_have_no_variance_and_float32_sums_would_be_off_by_nats() -> None:
    """Without weights every chain collects the same: log Z to rounding, although 14,500 increments add up to it."""
    layer = RBM(3, 500)
    with torch.no_grad():
        layer.hbias.fill_(21.37)
    exact = 500 * float(softplus(layer.hbias.detach()[0].double())) + 3 * math.log(2)
    estimate = forward(layer, uniform(layer), temperatures(), 2, generator())
    assert estimate.value == pytest.approx(exact, abs=1e-3)
    assert estimate.high - estimate.low < 1e-9
    single = torch.tensor(503 * math.log(2))
    field = layer.hbias.detach()
    for beta, following in pairwise(temperatures().tolist()):
        single += (softplus(following * field) - softplus(beta * field)).sum()
    assert abs(float(single) - exact) > 1


def test_the_schedule_is_the_papers() -> None:
    betas = temperatures()
    assert len(betas) == 14_501
    assert (betas.diff() > 0).all()
    assert betas[[0, 500, 4_500, 14_500]].tolist() == [0.0, 0.5, 0.9, 1.0]
    assert temperatures((4,)).tolist() == [0.0, 0.25, 0.5, 0.75, 1.0]
    with pytest.raises(ValueError, match="for 1 stretch or for 3, not for 2"):
        temperatures((3, 4))


def test_same_generator_same_bits_and_the_global_one_untouched() -> None:
    before = torch.get_rng_state()
    layer = random_rbm(7, 5, 1.0)
    samples = exact_samples(layer, 20, generator(1))
    for run in (
        lambda seed: forward(layer, uniform(layer), temperatures((30,)), 20, generator(seed)),
        lambda seed: reverse(layer, uniform(layer), temperatures((30,)), samples, generator(seed)),
    ):
        assert run(5) == run(5)
        assert run(5) != run(6)
    assert torch.equal(torch.get_rng_state(), before)


def test_weights_that_one_chain_dominates_leave_one_end_open() -> None:
    log_w = torch.tensor([0.0, 0.0, 0.0, 50.0], dtype=torch.float64)
    up, down = annealing._estimate(1.0, log_w, 1), annealing._estimate(1.0, log_w, -1)
    assert up.value == pytest.approx(1 + 50 - math.log(4))
    assert up.low == -math.inf
    assert up.high == pytest.approx(1 + 50 - math.log(4) + math.log(4))
    assert down.value == pytest.approx(1 - 50 + math.log(4))
    assert (down.low, down.high) == (pytest.approx(1 - 50), math.inf)


@KINDS
def test_gibbs_sampling_reaches_the_models_means(kind: str) -> None:
    layer = random_rbm(6, 4, 0.5, kind)
    v = gibbs(layer, torch.zeros(20_000, 6), 50, generator(1))
    expected = exact_samples(layer, 20_000, generator(2))
    # Five standard errors of a difference of two means.
    error = 5 * (v.std(0) + expected.std(0)) / math.sqrt(20_000)
    assert ((v.mean(0) - expected.mean(0)).abs() < error).all()
