"""The RBM against enumeration of its joint distribution, in float64 on sizes where every state can be listed."""

from __future__ import annotations

import copy
import inspect
import itertools
import math

import pytest
import torch
from torch import Tensor

from dlpipe.layers.rbm import RBM, states
from dlpipe.layers.units import UNITS, Units
from dlpipe.spec.layers import Rbm

ROUNDING = {"rtol": 1e-11, "atol": 1e-12}  # float64 sums of at most a few thousand terms


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def small_rbm(visible: int = 4, hidden: int = 3, scale: float = 1.0, **options: object) -> RBM:
    """Weights and biases of order 1, so that no unit is near independent of the others."""
    layer = RBM(visible, hidden, **options).double()  # type: ignore[arg-type]
    layer.initialise(torch.full((visible,), 0.5, dtype=torch.float64), generator(7))
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.normal_(0.0, scale, generator=generator(8 + parameter.dim()))
    return layer


def binary_states(units: int) -> Tensor:
    return torch.tensor(list(itertools.product([0.0, 1.0], repeat=units)), dtype=torch.float64)


def energy(layer: RBM, v: Tensor, h: Tensor) -> Tensor:
    """E(v, h) as the paper writes it: v [N, visible], h [M, hidden] -> [N, M]."""
    own_v, own_h = own(layer.visible_units, v, layer.vbias), own(layer.hidden_units, h, layer.hbias)
    return (own_v[:, None] + own_h - v @ layer.W @ h.T).detach()


def own(units: Units, u: Tensor, bias: Tensor) -> Tensor:
    """[N, units] -> [N]."""
    return -u @ bias if units.binary else 0.5 * torch.sum((u - bias) ** 2, dim=1)


@pytest.mark.parametrize("visible_units", ["bernoulli", "gaussian"])
def test_a_hidden_unit_starts_with_the_odds_that_are_asked_for(visible_units: str) -> None:
    layer = RBM(4, 3, visible_units=visible_units, weight_scale=1.0, initial_odds=0.1).double()  # type: ignore[arg-type]
    layer.initialise(torch.tensor([0.2, 0.5, 0.7, 0.9], dtype=torch.float64), generator())
    none_on, one_on = layer._log_weight(torch.zeros(1, 3).double()), layer._log_weight(torch.eye(3).double())
    torch.testing.assert_close(
        (one_on - none_on).exp().detach(), torch.full((3,), 0.1, dtype=torch.float64), **ROUNDING
    )


def gradients(layer: RBM) -> dict[str, Tensor]:
    return {name: parameter.grad.clone() for name, parameter in layer.named_parameters() if parameter.grad is not None}


def autograd(layer: RBM, objective: Tensor) -> dict[str, Tensor]:
    names, parameters = zip(*layer.named_parameters(), strict=True)
    return dict(zip(names, torch.autograd.grad(objective, parameters), strict=True))


def exact_gradient(layer: RBM, v: Tensor) -> dict[str, Tensor]:
    """Of the batch's mean -log p(v), with log Z by autograd through the sum over all visible states."""
    log_z = torch.logsumexp(-layer.free_energy(binary_states(layer.W.shape[0])), dim=0)
    return autograd(layer, layer.free_energy(v).mean() + log_z)


# Free energy, conditionals, partition function


@pytest.mark.parametrize("kind", ["bernoulli", "gaussian"])
def test_free_energy_is_the_energy_summed_over_hidden_states(kind: str) -> None:
    layer = small_rbm(visible_units=kind)
    v = torch.randn(6, 4, generator=generator(), dtype=torch.float64) if kind == "gaussian" else binary_states(4)
    expected = -torch.logsumexp(-energy(layer, v, binary_states(3)), dim=1)
    torch.testing.assert_close(layer.free_energy(v).detach(), expected, **ROUNDING)


def test_conditionals_are_those_of_the_joint_distribution() -> None:
    layer = small_rbm()
    v, h = binary_states(4), binary_states(3)
    joint = torch.softmax(-energy(layer, v, h).flatten(), dim=0).view(len(v), len(h))
    torch.testing.assert_close(layer.propup(v).detach(), joint / joint.sum(1, keepdim=True) @ h, **ROUNDING)
    torch.testing.assert_close(layer.propdown(h).detach(), (joint / joint.sum(0)).T @ v, **ROUNDING)


def test_gaussian_conditionals_by_quadrature() -> None:
    layer = small_rbm(visible=1, visible_units="gaussian")
    v, h = torch.linspace(-20, 20, 4001, dtype=torch.float64)[:, None], binary_states(3)
    joint = torch.exp(-energy(layer, v, h))  # on a grid, which for a Gaussian is exact to rounding (trapezoid rule)
    given_h = joint / joint.sum(0)
    mean = given_h.T @ v
    torch.testing.assert_close(layer.propdown(h).detach(), mean, **ROUNDING)
    torch.testing.assert_close(given_h.T @ v**2 - mean**2, torch.ones(8, 1, dtype=torch.float64), **ROUNDING)
    torch.testing.assert_close(layer.propup(v).detach(), joint / joint.sum(1, keepdim=True) @ h, **ROUNDING)


def grid(units: int, ends: float = 12.0, points: int = 121) -> tuple[Tensor, float]:
    """Points [points^units, units] and the log of a cell's size. For Gaussians of deviation 1 the trapezoid rule's
    error falls like exp(-(2 pi sigma / step)^2 / 2): nothing at a step of 0.2."""
    axis = torch.linspace(-ends, ends, points, dtype=torch.float64)
    return torch.cartesian_prod(*[axis] * units).view(-1, units), units * math.log(2 * ends / (points - 1))


def test_gaussian_hidden_units_by_quadrature() -> None:
    layer = small_rbm(hidden=2, hidden_units="gaussian")
    v, (h, log_cell) = binary_states(4), grid(2)
    log_joint = -energy(layer, v, h)
    torch.testing.assert_close(-layer.free_energy(v).detach(), log_joint.logsumexp(1) + log_cell, **ROUNDING)
    torch.testing.assert_close(layer.log_partition(), log_joint.flatten().logsumexp(0) + log_cell, **ROUNDING)
    given_v = log_joint.softmax(1)
    mean = given_v @ h
    torch.testing.assert_close(layer.propup(v).detach(), mean, **ROUNDING)
    torch.testing.assert_close(given_v @ h**2 - mean**2, torch.ones_like(mean), **ROUNDING)
    some = h[::1000]
    torch.testing.assert_close(layer.propdown(some).detach(), log_joint[:, ::1000].softmax(0).T @ v, **ROUNDING)


@pytest.mark.parametrize(("visible", "hidden"), [(4, 3), (3, 5)], ids=["over-hidden", "over-visible"])
def test_log_partition_is_the_sum_over_all_states(visible: int, hidden: int) -> None:
    layer = small_rbm(visible, hidden)
    expected = torch.logsumexp(-energy(layer, binary_states(visible), binary_states(hidden)).flatten(), dim=0)
    torch.testing.assert_close(layer.log_partition(), expected, **ROUNDING)
    torch.testing.assert_close(
        layer.log_likelihood(binary_states(visible)).exp().sum().item(), 1.0, rtol=1e-11, atol=0.0
    )


def test_both_sides_give_the_same_log_partition_over_several_chunks() -> None:
    layer = small_rbm(visible=15, hidden=16, scale=0.3)
    over_hidden = torch.cat([layer._log_weight(h) for h in states(16, layer.W)]).logsumexp(0).detach()
    torch.testing.assert_close(layer.log_partition(), over_hidden, rtol=1e-11, atol=0.0)


def test_gaussian_log_partition_by_quadrature() -> None:
    layer = small_rbm(visible=2, hidden=2, visible_units="gaussian")
    axis = torch.linspace(-15, 15, 601, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)
    integral = torch.logsumexp(-layer.free_energy(grid), dim=0).detach() + 2 * math.log(30 / 600)
    # The trapezoid rule's error falls like exp(-(2 pi sigma / step)^2 / 2): nothing at sigma 1 and step 0.05.
    torch.testing.assert_close(layer.log_partition(), integral, rtol=1e-11, atol=0.0)


def test_too_large_to_enumerate_is_said() -> None:
    with pytest.raises(ValueError, match="at most 20 visible or hidden units, not for 21 x 22"):
        RBM(21, 22).log_partition()
    with pytest.raises(ValueError, match="at most 20 hidden units, not for 3 x 21"):
        RBM(3, 21, visible_units="gaussian").log_partition()
    with pytest.raises(ValueError, match="at most 20 visible units, not for 21 x 3"):
        RBM(21, 3, hidden_units="gaussian").log_partition()
    with pytest.raises(ValueError, match="at most 20 binary units, not for 2 x 3"):
        RBM(2, 3, visible_units="gaussian", hidden_units="relu").log_partition()


def test_rectified_units_have_no_likelihood() -> None:
    layer = small_rbm(hidden_units="relu")
    for ask in (layer.free_energy, layer.log_likelihood):
        with pytest.raises(ValueError, match="neither free energy nor likelihood is defined"):
            ask(binary_states(4))
    assert set(layer.validate(binary_states(4))) == {"reconstruction_error"}


@pytest.mark.parametrize("kind", ["bernoulli", "gaussian"])
def test_pseudo_likelihood_is_that_of_the_conditionals(kind: str) -> None:
    """From the probabilities of all states: p(v_i | the others) is a share of two of them."""
    layer = small_rbm(hidden_units=kind)
    v = binary_states(4)
    p = (-layer.free_energy(v)).softmax(0).detach().view(2, 2, 2, 2)
    expected = sum((p / p.sum(unit, keepdim=True)).log() for unit in range(4))
    torch.testing.assert_close(layer.pseudo_log_likelihood(v), torch.as_tensor(expected).flatten(), **ROUNDING)


def test_pseudo_likelihood_is_for_binary_visible_units_with_a_free_energy() -> None:
    with pytest.raises(ValueError, match="for binary visible units"):
        small_rbm(visible_units="gaussian").pseudo_log_likelihood(binary_states(4))
    with pytest.raises(ValueError, match="neither free energy nor likelihood"):
        small_rbm(hidden_units="relu").pseudo_log_likelihood(binary_states(4))


# Noisy rectified linear units


def test_a_rectified_unit_stands_for_binary_ones_of_which_some_are_on() -> None:
    """nair2010: biases of one half less, three halves less, ...; the number that is on is log(1 + exp(x)), nearly."""
    x = torch.linspace(-5, 10, 61, dtype=torch.float64)
    on = torch.sigmoid(x[:, None] + 0.5 - torch.arange(1, 200)).sum(1)
    torch.testing.assert_close(on, torch.nn.functional.softplus(x), rtol=0.0, atol=0.02)


def test_mean_of_a_rectified_unit_by_quadrature() -> None:
    x = torch.tensor([-30.0, -4.0, -1.0, 0.0, 0.5, 3.0, 40.0], dtype=torch.float64)
    noise = torch.linspace(-9, 9, 2_000_001, dtype=torch.float64)
    density = torch.exp(-0.5 * noise**2) / math.sqrt(2 * math.pi)
    expected = [torch.trapezoid((t + t.sigmoid().sqrt() * noise).clamp_min(0) * density, noise).item() for t in x]
    # The integrand has a kink, where the rule is off by the square of a step, 1e-10.
    assert UNITS["relu"].mean(x).tolist() == pytest.approx(expected, abs=1e-9)
    far = UNITS["relu"].mean(torch.tensor([-1e4, -200.0, 200.0, 1e4]))
    assert far.tolist() == [0.0, 0.0, 200.0, 1e4]


def test_a_rectified_layer_is_one_of_a_network_upwards_and_draws_about_its_mean() -> None:
    layer = small_rbm(hidden_units="relu")
    v = binary_states(4)
    torch.testing.assert_close(layer.encode(v), torch.relu(v @ layer.W + layer.hbias), **ROUNDING)
    n = 50_000
    mean, sample = layer.sample_h_given_v(v[[11]].repeat(n, 1), generator())
    torch.testing.assert_close(mean[0], layer.propup(v[[11]])[0])
    total = (v[11] @ layer.W + layer.hbias).detach()
    assert (sample >= 0).all()
    # Five standard errors; a rectified normal deviates no more than the normal.
    assert ((sample.mean(0) - mean[0]).abs() < 5 * total.sigmoid().sqrt() / math.sqrt(n)).all()
    on = (sample > 0).double().mean(0)
    torch.testing.assert_close(on, torch.special.ndtr(total / total.sigmoid().sqrt()), rtol=0.0, atol=2.5 / n**0.5)


def test_the_update_of_rectified_units_is_the_difference_of_two_correlations() -> None:
    layer = small_rbm(hidden_units="relu", cd_steps=2)
    v = batch(layer)
    model = particles(layer, v, generator(5))
    layer.step(v, generator(5))
    statistics = [(data.T @ layer.propup(data) / len(data)).detach() for data in (model, v)]
    torch.testing.assert_close(gradients(layer)["W"], statistics[0] - statistics[1], **ROUNDING)
    means = [layer.propup(data).mean(0).detach() for data in (model, v)]
    torch.testing.assert_close(gradients(layer)["hbias"], means[0] - means[1], **ROUNDING)
    torch.testing.assert_close(gradients(layer)["vbias"], model.mean(0) - v.mean(0), **ROUNDING)


# The gradient


def expected_update(layer: RBM, v: Tensor, k: int, *, drawn: bool = False) -> dict[str, Tensor]:
    """The exact mean of CD-k's update over its random numbers, by the transition matrix between hidden states."""
    all_v, all_h = binary_states(4), binary_states(3)
    joint = torch.softmax(-energy(layer, all_v, all_h).flatten(), dim=0).view(16, 8)
    h_given_v, v_given_h = joint / joint.sum(1, keepdim=True), (joint / joint.sum(0)).T
    start = torch.stack([h_given_v[(all_v == row).all(1)][0] for row in v]).mean(0)
    h = start @ torch.linalg.matrix_power(v_given_h @ h_given_v, k - 1)
    weight, particles = (h @ v_given_h, all_v) if drawn or k > 1 else (h, v_given_h @ all_v)
    positive, negative = layer.propup(v).detach(), layer.propup(particles).detach()
    return {
        "W": torch.einsum("n,ni,nj->ij", weight, particles, negative) - v.T @ positive / len(v),
        "hbias": weight @ negative - positive.mean(0),
        "vbias": weight @ particles - v.mean(0),
    }


def distance(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    return max((one[name] - other[name]).abs().max().item() for name in other)


def test_the_expected_update_tends_to_the_exact_gradient() -> None:
    layer = small_rbm(scale=1.5)
    v = binary_states(4)[[3, 5, 12]]
    exact = exact_gradient(layer, v)
    bias = [distance(expected_update(layer, v, k), exact) for k in (1, 2, 5, 20, 200)]
    assert bias == sorted(bias, reverse=True)
    assert bias[0] > 0.05
    assert bias[-1] < 1e-8  # the chain's second eigenvalue to the power of 200

    copies = 100_000
    # Each entry is a mean of 3 * copies numbers within an interval of length 1, so its deviation is at most
    # 0.5 / sqrt(3 * copies). Five of them: a correct step misses this for one seed in 10^5.
    bound = 5 * 0.5 / math.sqrt(3 * copies)
    assert bound < bias[0] / 5
    for k in (1, 2, 5, 20):
        layer.cd_steps = k
        layer.step(v.repeat(copies, 1), generator(k))
        assert distance(gradients(layer), expected_update(layer, v, k)) < bound

    # A reconstruction that is drawn is another estimate, and the exact one's expectation can tell the two apart.
    layer.cd_steps, layer.sampled_reconstruction = 1, True
    layer.step(v.repeat(copies, 1), generator(1))
    assert distance(gradients(layer), expected_update(layer, v, 1, drawn=True)) < bound
    assert distance(gradients(layer), expected_update(layer, v, 1)) > bound


def expected_linear_update(layer: RBM, v: Tensor, k: int) -> dict[str, Tensor]:
    """The same for one Gaussian hidden unit, by quadrature over it: v to h to v is a transition between 16 states."""
    all_v, (h, log_cell) = binary_states(4), grid(1)
    h_given_v = torch.exp(-0.5 * (h.T - layer.propup(all_v)) ** 2 + log_cell) / math.sqrt(2 * math.pi)
    v_given_h = torch.softmax(-energy(layer, all_v, h), dim=0).T
    start = torch.stack([(all_v == row).all(1).double() for row in v]).mean(0)
    weight, particles = (start @ h_given_v, layer.propdown(h)) if k == 1 else (start, all_v)
    if k > 1:
        weight = start @ torch.linalg.matrix_power(h_given_v @ v_given_h, k)
    weight, particles, positive = weight.detach(), particles.detach(), layer.propup(v).detach()
    negative = layer.propup(particles).detach()
    return {
        "W": torch.einsum("n,ni,nj->ij", weight, particles, negative) - v.T @ positive / len(v),
        "hbias": weight @ negative - positive.mean(0),
        "vbias": weight @ particles - v.mean(0),
    }


def test_the_expected_update_with_a_linear_hidden_unit() -> None:
    layer = small_rbm(hidden=1, scale=1.5, hidden_units="gaussian")
    v = binary_states(4)[[3, 5, 12]]
    exact = exact_gradient(layer, v)
    bias = [distance(expected_linear_update(layer, v, k), exact) for k in (1, 2, 5, 10, 20)]
    assert bias == sorted(bias, reverse=True)
    assert bias[0] > 0.05
    assert bias[-1] < 1e-8
    copies = 100_000
    # As above, but what is averaged lies within an interval of twice the largest mean of h.
    bound = 5 * layer.propup(binary_states(4)).abs().max().item() / math.sqrt(3 * copies)
    assert bound < bias[0] / 5
    for k in (1, 2, 5):
        layer.cd_steps = k
        layer.step(v.repeat(copies, 1), generator(k))
        assert distance(gradients(layer), expected_linear_update(layer, v, k)) < bound


VARIANTS = {
    "CD-1": {},
    "CD-1, drawn": {"sampled_reconstruction": True},
    "CD-3": {"cd_steps": 3},
    "PCD": {"persistent": True, "chains": 7, "cd_steps": 2},
    "gaussian CD-1": {"visible_units": "gaussian"},
    "gaussian CD-1, drawn": {"visible_units": "gaussian", "sampled_reconstruction": True},
    "gaussian CD-2": {"visible_units": "gaussian", "cd_steps": 2},
    "gaussian PCD": {"visible_units": "gaussian", "persistent": True, "chains": 5},
    "linear CD-1": {"hidden_units": "gaussian"},
    "linear PCD": {"hidden_units": "gaussian", "persistent": True, "chains": 5, "cd_steps": 2},
    "sparse": {"sparsity_cost": 0.3, "sparsity_target": 0.1},
    "fast PCD": {"persistent": True, "chains": 7, "fast_rate": 0.1},
    "sparse PCD": {"sparsity_cost": 2.0, "sparsity_target": 0.05, "persistent": True, "chains": 9},
}
variants = pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS.keys())


def batch(layer: RBM, size: int = 11) -> Tensor:
    v = torch.rand(size, layer.W.shape[0], generator=generator(3), dtype=layer.W.dtype)
    return 3 * v - 1 if layer.gaussian else v.round()


def particles(layer: RBM, v: Tensor, random: torch.Generator) -> Tensor:
    """The negative phase again, from the public conditionals and the same random numbers."""
    h = layer.chains if layer.persistent else layer.sample_h_given_v(v, random)[1]
    for _ in range(layer.cd_steps - 1):
        h = layer.gibbs_hvh(h, random)[1]
    if layer.cd_steps == 1 and not (layer.persistent or layer.sampled_reconstruction):
        return layer.propdown(h).detach()
    return layer.sample_v_given_h(h, random)[1].detach()


@variants
def test_the_gradient_is_that_of_the_free_energy_difference(options: dict[str, object]) -> None:
    layer = small_rbm(**options)
    v = batch(layer)
    objective = layer.free_energy(v).mean() - layer.free_energy(particles(layer, v, generator(5))).mean()
    if layer.sparsity_cost:
        q, p = layer.propup(v).mean(0), layer.sparsity_target
        objective = objective - layer.sparsity_cost * (p * q.log() + (1 - p) * (1 - q).log()).sum()
    layer.step(v, generator(5))
    torch.testing.assert_close(gradients(layer), autograd(layer, objective), **ROUNDING)


def test_sparsity_of_a_saturated_unit_is_finite() -> None:
    """Where a mean activity rounds to 0 or 1 the cross-entropy is infinite, its gradient by the weights is not."""
    layer = RBM(4, 3, sparsity_cost=1.0, sparsity_target=0.1)
    with torch.no_grad():
        layer.hbias.copy_(torch.tensor([-200.0, 0.0, 200.0]))
    layer.step(batch(layer), generator())
    assert all(torch.isfinite(gradient).all() for gradient in gradients(layer).values())


def test_sparsity_brings_the_mean_activity_to_its_target() -> None:
    layer = RBM(12, 8, sparsity_cost=5.0, sparsity_target=0.1)
    layer.initialise(torch.full((12,), 0.5), generator())
    v = (torch.rand(200, 12, generator=generator(1)) < 0.5).float()
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    for step in range(300):
        layer.step(v, generator(step))
        optimizer.step()
    # Of each unit; contrastive divergence pulls too, and alone leaves them between 0.4 and 0.6. Over four seeds 0.1001
    # to 0.1002 was measured.
    torch.testing.assert_close(layer.propup(v).mean(dim=0), torch.full((8,), 0.1), rtol=0.0, atol=0.005)


REST: list[dict[str, object]] = [
    {"hidden_units": "relu"},
    {"hidden_units": "relu", "persistent": True},
    {"centred": True},
    {"centred": True, "persistent": True},
]


@pytest.mark.parametrize("options", [*VARIANTS.values(), *REST])
def test_same_generator_same_bits_and_the_global_one_untouched(options: dict[str, object]) -> None:
    before = torch.get_rng_state()
    results = []
    for _ in range(2):
        layer = RBM(6, 5, **options)  # type: ignore[arg-type]
        v = batch(layer)
        layer.initialise(v.mean(0), generator(1))
        metrics = layer.step(v, generator(2))
        assert all(metric.dim() == 0 for metric in metrics.values())
        results.append({**layer.state_dict(), **gradients(layer), **metrics})
    assert results[0].keys() == results[1].keys()
    assert all(torch.equal(results[0][name], results[1][name]) for name in results[0])
    assert torch.equal(torch.get_rng_state(), before)


def test_step_overwrites_what_gradient_was_there() -> None:
    layer = small_rbm()
    layer.step(batch(layer), generator(1))
    first = gradients(layer)
    place = layer.W.grad
    layer.step(batch(layer), generator(1))
    assert layer.W.grad is place
    torch.testing.assert_close(gradients(layer), first, rtol=0.0, atol=0.0)


@pytest.mark.parametrize("options", [{}, {"persistent": True, "chains": 20}])
def test_under_autocast_the_product_that_gives_the_gradient_is_in_bfloat16_too(options: dict[str, object]) -> None:
    exact, rounded = (RBM(30, 20, **options) for _ in range(2))  # type: ignore[arg-type]
    v = (torch.rand(200, 30, generator=generator()) < 0.3).float()
    for layer in (exact, rounded):
        layer.initialise(v.mean(0), generator(1))
    exact.step(v, generator(2))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded.step(v, generator(2))
    ours, theirs = gradients(rounded), gradients(exact)
    assert all(each.dtype == torch.float32 for each in ours.values())
    assert torch.equal(ours["W"], ours["W"].bfloat16().float())
    assert not torch.equal(ours["hbias"], ours["hbias"].bfloat16().float()), "sums over the batch stay in float32"
    # Means over 200 examples, and a rounding by up to 0.4 % moves a unit over its threshold in one of them, or two.
    torch.testing.assert_close(ours, theirs, rtol=0.0, atol=0.02)


# Learning


BARS = torch.tensor(
    [
        [[1.0 if (i if rows else j) == bar else 0.0 for i in range(3) for j in range(3)]]
        for rows in (0, 1)
        for bar in range(3)
    ]
).squeeze(1)


@pytest.mark.parametrize(
    "options",
    [{}, {"sampled_reconstruction": True}, {"cd_steps": 5}, {"persistent": True}, {"hidden_units": "gaussian"}],
    ids=["CD-1", "CD-1, drawn", "CD-5", "PCD", "linear"],
)
def test_exact_log_likelihood_rises_in_training(options: dict[str, object]) -> None:
    """Six patterns of 9 pixels: log(1/6) = -1.79 is the best there is, independent pixels at their means give -5.73."""
    layer = RBM(9, 12, weight_scale=0.1, **options)  # type: ignore[arg-type]
    layer.initialise(BARS.mean(0), generator())
    # Persistent chains need the smaller rate, so that they keep up with the parameters (tieleman2008).
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1 if layer.persistent else 0.2)
    v = BARS.repeat(20, 1)
    likelihoods = [layer.log_likelihood(BARS).mean().item()]
    for step in range(1, 601):
        layer.step(v, generator(step))
        optimizer.step()
        if step % 150 == 0:
            likelihoods.append(layer.log_likelihood(BARS).mean().item())
    assert likelihoods == sorted(likelihoods)
    independent = 9 * (math.log(1 / 3) / 3 + math.log(2 / 3) * 2 / 3)
    assert likelihoods[-1] > independent + 1  # a nat: far more than pixels that know nothing of each other can reach


def test_persistent_chains_reach_the_models_distribution() -> None:
    layer = small_rbm(persistent=True, chains=20_000)
    v, h = binary_states(4), binary_states(3)
    joint = torch.softmax(-energy(layer, v, h).flatten(), dim=0).view(16, 8)
    for step in range(30):
        layer.step(v, generator(step))
    # Fractions of 20,000 independent chains; five standard deviations of at most 0.5 / sqrt(20,000).
    found = torch.stack([(layer.chains == state).all(1).double().mean() for state in h])
    torch.testing.assert_close(found, joint.sum(0), rtol=0.0, atol=5 * 0.5 / math.sqrt(20_000))


def test_persistent_chains_are_part_of_the_state() -> None:
    layer = small_rbm(persistent=True, chains=6)
    layer.step(batch(layer), generator(1))
    resumed = small_rbm(persistent=True, chains=6)
    resumed.load_state_dict(copy.deepcopy(layer.state_dict()))
    for each in (layer, resumed):
        each.step(batch(layer, size=4), generator(2))
    assert resumed.chains.shape == (6, 3)
    assert torch.equal(layer.chains, resumed.chains)
    assert torch.equal(layer.W.grad, resumed.W.grad)  # type: ignore[arg-type]
    assert "chains" not in small_rbm().state_dict()


# Fast weights


def test_fast_weights_of_a_vanishing_rate_are_plain_pcd_bit_for_bit() -> None:
    options = {"persistent": True, "chains": 6, "cd_steps": 2}
    plain, fast = small_rbm(**options), small_rbm(fast_rate=1e-200, **options)
    for step in range(20):
        for layer in (plain, fast):
            layer.step(batch(layer), generator(step))
    assert (fast.fast_W != 0).any()
    assert torch.equal(plain.chains, fast.chains)
    for name, gradient in gradients(plain).items():
        assert torch.equal(gradients(fast)[name], gradient)


def test_fast_weights_follow_the_gradient_and_fade() -> None:
    layer = small_rbm(persistent=True, chains=6, fast_rate=0.3)
    expected = {name: torch.zeros_like(parameter) for name, parameter in layer.named_parameters()}
    for step in range(3):
        layer.step(batch(layer), generator(step))
        for name, gradient in gradients(layer).items():
            expected[name] = 0.95 * expected[name] - 0.3 * gradient
            torch.testing.assert_close(layer.get_buffer(f"fast_{name}"), expected[name], **ROUNDING)


def test_fast_weights_move_the_chains_and_not_what_is_learned_from_them() -> None:
    """The particles are those of an RBM of which they are a part; the gradient is that of the one without."""
    layer = small_rbm(persistent=True, chains=6, fast_rate=0.3)
    for step in range(3):
        layer.step(batch(layer), generator(step))
    whole = small_rbm(persistent=True, chains=6)
    with torch.no_grad():
        whole.chains.copy_(layer.chains)
        for name, parameter in whole.named_parameters():
            parameter += layer.get_buffer(f"fast_{name}")
    v = batch(layer)
    objective = layer.free_energy(v).mean() - layer.free_energy(particles(whole, v, generator(7))).mean()
    expected = autograd(layer, objective)
    for each in (layer, whole):
        each.step(v, generator(7))
    torch.testing.assert_close(gradients(layer), expected, **ROUNDING)
    assert torch.equal(layer.chains, whole.chains)


def test_fast_weights_let_chains_keep_up_with_a_large_learning_rate() -> None:
    """Exact log-likelihood of the 30 bars and stripes of 4 x 4 pixels, log(1/30) = -3.4 at best, after 2,000 steps at a
    rate that falls from 0.5 to 0: chains without fast weights do not follow. From 0.1 they do, and nothing is gained.
    """
    lines = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 4)
    v = torch.cat([lines.repeat_interleave(4, 1), lines.repeat(1, 4)]).unique(dim=0)
    assert len(v) == 30

    def trained(fast_rate: float, seed: int) -> float:
        layer = RBM(16, 12, persistent=True, chains=20, weight_scale=0.1, fast_rate=fast_rate)
        layer.initialise(v.mean(0), generator(seed))
        for step in range(2000):
            layer.step(v, generator(100_000 * seed + step))
            with torch.no_grad():
                for parameter in layer.parameters():
                    parameter -= 0.5 * (1 - step / 2000) * parameter.grad
        return layer.log_likelihood(v).mean().item()

    gains = torch.tensor([trained(0.2, seed) - trained(0.0, seed) for seed in range(4)])
    assert gains.mean() > 1
    assert (gains > 0).all()


# Centring


CENTRED = {
    "CD-1": {},
    "PCD": {"persistent": True, "chains": 7},
    "gaussian CD-2": {"visible_units": "gaussian", "cd_steps": 2},
    "linear": {"hidden_units": "gaussian"},
    "sparse": {"sparsity_cost": 0.3, "sparsity_target": 0.1},
}
centred_variants = pytest.mark.parametrize("options", CENTRED.values(), ids=CENTRED.keys())


def offset(layer: RBM) -> RBM:
    """Offsets as any data might have left them."""
    layer.visible_offset.uniform_(generator=generator(11))
    layer.hidden_offset.uniform_(generator=generator(12))
    return layer


@centred_variants
def test_with_offsets_at_zero_it_is_the_plain_rbm_bit_for_bit(options: dict[str, object]) -> None:
    plain, centred = small_rbm(**options), small_rbm(centred=True, **options)
    centred.visible_offset.zero_()
    centred.hidden_offset.zero_()
    for layer in (plain, centred):
        layer.step(batch(layer), generator(5))
    for name, gradient in gradients(plain).items():
        assert torch.equal(gradients(centred)[name], gradient)


@centred_variants
def test_a_step_is_the_one_of_gradient_descent_in_the_centred_parameters(options: dict[str, object]) -> None:
    """With the offsets held: plain parameters are linear in the centred ones, so the steps are equal."""
    layer = offset(small_rbm(centred=True, **options))
    mu, lam = layer.visible_offset.clone(), layer.hidden_offset.clone()
    v = batch(layer)
    own = {
        "W": layer.W.detach().clone(),
        "hbias": (layer.hbias + mu @ layer.W).detach(),
        "vbias": (layer.vbias + layer.W @ lam).detach(),
    }
    for parameter in own.values():
        parameter.requires_grad_()

    def plain() -> dict[str, Tensor]:
        W = own["W"]
        return {"W": W, "hbias": own["hbias"] - mu @ W, "vbias": own["vbias"] - W @ lam}

    def objective(v: Tensor) -> Tensor:
        return torch.func.functional_call(free_energy, {f"layer.{name}": p for name, p in plain().items()}, (v,)).mean()

    free_energy = FreeEnergy(layer)
    loss = objective(v) - objective(particles(layer, v, generator(5)))
    if layer.sparsity_cost:
        q, p = torch.sigmoid(v @ plain()["W"] + plain()["hbias"]).mean(0), layer.sparsity_target
        loss = loss - layer.sparsity_cost * (p * q.log() + (1 - p) * (1 - q).log()).sum()
    slopes = torch.autograd.grad(loss, list(own.values()))
    with torch.no_grad():
        for parameter, slope in zip(own.values(), slopes, strict=True):
            parameter -= 0.5 * slope
    layer.step(v, generator(5))
    for name, parameter in plain().items():
        stepped = layer.get_parameter(name) - 0.5 * gradients(layer)[name]
        torch.testing.assert_close(stepped.detach(), parameter.detach(), **ROUNDING)


class FreeEnergy(torch.nn.Module):
    def __init__(self, layer: RBM) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, v: Tensor) -> Tensor:
        return self.layer.free_energy(v)


def trained_on(v: Tensor, start: Tensor, centred: bool) -> list[float]:
    """Exact log-likelihood after every tenth of 100 steps of CD-1, from weights `start`."""
    layer = RBM(9, 5, centred=centred).double()
    layer.initialise(v.mean(0), generator())
    with torch.no_grad():
        if centred:
            layer.hbias += layer.visible_offset @ (layer.W - start)
            layer.vbias += (layer.W - start) @ layer.hidden_offset
        layer.W.copy_(start)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.2, momentum=0.5)
    likelihoods = []
    for step in range(100):
        layer.step(v, generator(step))
        optimizer.step()
        if step % 10 == 9:
            likelihoods.append(layer.log_likelihood(v).mean().item())
    return likelihoods


def test_a_centred_rbm_learns_the_same_from_the_negative_of_its_data() -> None:
    """CD-1 draws hidden units alone, and a step on 1 - v from -W draws the same ones."""
    v = BARS.double()
    start = 0.1 * torch.randn(9, 5, generator=generator(1), dtype=torch.float64)
    centred, flipped = trained_on(v, start, True), trained_on(1 - v, -start, True)
    assert flipped == pytest.approx(centred, abs=1e-9)
    assert centred[-1] > centred[0] + 0.5
    plain, flipped = trained_on(v, start, False), trained_on(1 - v, -start, False)
    assert abs(plain[-1] - flipped[-1]) > 0.01


def test_offsets_begin_at_the_data_and_follow_it() -> None:
    layer = RBM(9, 5, centred=True)
    layer.initialise(BARS.mean(0), generator())
    torch.testing.assert_close(layer.visible_offset, BARS.mean(0))
    torch.testing.assert_close(layer.hidden_offset, torch.full((5,), 0.5))
    # In the centred parameters the hidden biases are 0 and the visible ones those of the data's means.
    torch.testing.assert_close(layer.hbias + layer.visible_offset @ layer.W, torch.zeros(5), rtol=0.0, atol=1e-6)
    own = torch.sigmoid(layer.vbias + layer.W @ layer.hidden_offset)
    torch.testing.assert_close(own.detach(), BARS.mean(0))
    ones = torch.ones(3, 9)
    activity = layer.propup(ones).mean(0).detach()
    layer.step(ones, generator(1))
    torch.testing.assert_close(layer.visible_offset, 0.99 * BARS.mean(0) + 0.01)
    torch.testing.assert_close(layer.hidden_offset, 0.99 * 0.5 + 0.01 * activity)
    assert {"visible_offset", "hidden_offset"} <= set(layer.state_dict())
    assert "visible_offset" not in small_rbm().state_dict()


# The rest of the interface


def test_initialisation_follows_the_guide() -> None:
    layer = RBM(784, 500)
    mean = torch.linspace(0, 1, 784)
    layer.initialise(mean, generator())
    assert layer.hbias.abs().max() == 0
    torch.testing.assert_close(torch.sigmoid(layer.vbias).detach(), mean.clamp(0.01, 0.99))
    n = layer.W.numel()
    # Standard errors of a normal sample's mean and deviation: sigma / sqrt(n), sigma / sqrt(2 n); five of them.
    assert abs(layer.W.mean().item()) < 5 * 0.01 / math.sqrt(n)
    assert layer.W.std().item() == pytest.approx(0.01, abs=5 * 0.01 / math.sqrt(2 * n))
    gaussian = RBM(784, 2, visible_units="gaussian")
    gaussian.initialise(mean, generator())
    assert torch.equal(gaussian.vbias, mean)


def test_validate_is_deterministic_and_means_over_examples() -> None:
    layer = small_rbm()
    v = batch(layer)
    metrics = layer.validate(v)
    reconstruction = layer.decode(layer.encode(v))
    torch.testing.assert_close(metrics["reconstruction_error"], ((reconstruction - v) ** 2).sum(1).mean().detach())
    torch.testing.assert_close(metrics["free_energy"], layer.free_energy(v).mean().detach())


def test_samples_have_the_conditionals_moments() -> None:
    layer = small_rbm(visible_units="gaussian")
    h = binary_states(3)[[5]].repeat(50_000, 1)
    mean, sample = layer.sample_v_given_h(h, generator())
    # Five standard errors of the mean and of the variance (sqrt(2 / n)) of a unit normal sample.
    torch.testing.assert_close(sample.mean(0), mean[0], rtol=0.0, atol=5 / math.sqrt(50_000))
    torch.testing.assert_close(sample.var(0), torch.ones_like(mean[0]), rtol=0.0, atol=5 * math.sqrt(2 / 50_000))
    v = torch.zeros(50_000, 4, dtype=torch.float64)
    mean, sample = layer.sample_h_given_v(v, generator())
    torch.testing.assert_close(sample.mean(0), mean[0], rtol=0.0, atol=5 * 0.5 / math.sqrt(50_000))
    assert set(sample.unique().tolist()) == {0.0, 1.0}


def test_defaults_are_those_of_the_spec() -> None:
    defaults = {n: p.default for n, p in inspect.signature(RBM).parameters.items() if p.kind is p.KEYWORD_ONLY}
    assert defaults == Rbm().arguments()


def test_fantasies_have_the_exact_marginals() -> None:
    layer = small_rbm(5, 3)
    v = binary_states(5)
    probabilities = torch.exp(layer.log_likelihood(v)).to(v)
    fantasies = layer.sample(20_000, 60, generator())
    error = fantasies.std(dim=0) / math.sqrt(len(fantasies))
    assert ((fantasies.mean(dim=0) - probabilities @ v).abs() < 5 * error).all()


def test_fantasies_go_on_from_the_persistent_chains() -> None:
    layer = RBM(4, 3, persistent=True, chains=2)
    layer.initialise(torch.full((4,), 0.5), generator())
    layer.chains.copy_(torch.tensor([[0.0, 1.0, 0.0], [1.0, 1.0, 1.0]]))
    assert torch.equal(layer.sample(5, 1, generator()), layer.propdown(layer.chains[[0, 1, 0, 1, 0]]))


def test_fantasies_of_gaussian_units_have_their_variance_too() -> None:
    """Mean and covariance of the mixture that the RBM is, by enumeration of h; the means alone would lack 1 in each."""
    layer = small_rbm(2, 3, visible_units="gaussian")
    h = binary_states(3)
    share, mean = torch.softmax(layer._log_weight(h), dim=0).detach(), layer.propdown(h).detach()
    centre = share @ mean
    covariance = torch.eye(2).double() + (mean - centre).T @ (share[:, None] * (mean - centre))
    fantasies = layer.sample(20_000, 60, generator())
    assert len(fantasies.unique(dim=0)) == 20_000
    error = fantasies.std(dim=0) / math.sqrt(len(fantasies))
    assert ((fantasies.mean(dim=0) - centre).abs() < 5 * error).all()
    torch.testing.assert_close(torch.cov(fantasies.T), covariance, rtol=0.05, atol=0.05)


# Doubled: a layer of a deep Boltzmann machine


def test_doubled_conditionals_are_those_of_the_paper() -> None:
    """salakhutdinov2009, equations 11 to 14."""
    v, h = binary_states(4), binary_states(3)
    for doubled, up, down in (("up", 2, 1), ("down", 1, 2)):
        layer = small_rbm(doubled=doubled)
        torch.testing.assert_close(layer.propup(v), torch.sigmoid(up * v @ layer.W + layer.hbias), **ROUNDING)
        torch.testing.assert_close(layer.propdown(h), torch.sigmoid(down * h @ layer.W.T + layer.vbias), **ROUNDING)
        weight, bias = layer.encoder()
        torch.testing.assert_close(layer.encode(v).detach(), torch.sigmoid(v @ weight + bias), **ROUNDING)
        weight, bias = layer.decoder()
        torch.testing.assert_close(layer.decode(h).detach(), torch.sigmoid(h @ weight + bias), **ROUNDING)


def test_a_doubled_step_is_that_of_an_rbm_with_two_tied_copies_of_its_input() -> None:
    """CD-1 of 2 x 4 visible units with the weights twice and every example twice: the same for one of the copies."""
    layer = small_rbm(doubled="up")
    twice = RBM(8, 3).double()
    with torch.no_grad():
        twice.W.copy_(layer.W.repeat(2, 1))
        twice.vbias.copy_(layer.vbias.repeat(2))
        twice.hbias.copy_(layer.hbias)
    v = batch(layer)
    layer.step(v, generator(3))
    twice.step(v.repeat(1, 2), generator(3))
    for own, copies in ((layer.W, twice.W), (layer.vbias, twice.vbias)):
        torch.testing.assert_close(own.grad, copies.grad[: len(own)], **ROUNDING)
        torch.testing.assert_close(own.grad, copies.grad[len(own) :], **ROUNDING)
    torch.testing.assert_close(layer.hbias.grad, twice.hbias.grad, **ROUNDING)


@pytest.mark.parametrize("cd_steps", [1, 2])
@pytest.mark.parametrize(("doubled", "up", "down"), [("up", 2, 1), ("down", 1, 2)])
def test_a_doubled_step_has_the_statistics_of_its_conditionals(doubled: str, up: int, down: int, cd_steps: int) -> None:
    layer = small_rbm(doubled=doubled, cd_steps=cd_steps)
    v, random = batch(layer), generator(3)
    W, b, c = layer.W.detach(), layer.hbias.detach(), layer.vbias.detach()

    def drawn(p: Tensor) -> Tensor:
        return (torch.empty_like(p).uniform_(generator=random) < p).to(p)

    positive = torch.sigmoid(up * v @ W + b)
    h = drawn(positive)
    for _ in range(cd_steps - 1):
        h = drawn(torch.sigmoid(up * drawn(torch.sigmoid(down * h @ W.T + c)) @ W + b))
    particles = torch.sigmoid(down * h @ W.T + c)
    particles = particles if cd_steps == 1 else drawn(particles)
    negative = torch.sigmoid(up * particles @ W + b)
    layer.step(v, generator(3))
    torch.testing.assert_close(layer.W.grad, (particles.T @ negative - v.T @ positive) / len(v), **ROUNDING)
    torch.testing.assert_close(layer.hbias.grad, (negative - positive).mean(0), **ROUNDING)
    torch.testing.assert_close(layer.vbias.grad, (particles - v).mean(0), **ROUNDING)


def test_a_doubled_rbm_has_no_likelihood() -> None:
    layer = small_rbm(doubled="down")
    v = binary_states(4)
    for ask in (layer.log_partition, lambda: layer.log_likelihood(v), lambda: layer.pseudo_log_likelihood(v)):
        with pytest.raises(ValueError, match="no density of its own"):
            ask()
    assert set(layer.validate(v)) == {"reconstruction_error"}
