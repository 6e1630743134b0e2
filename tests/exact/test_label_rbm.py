"""The RBM of examples and labels against enumeration of its joint distribution, in float64."""

from __future__ import annotations

import inspect
import itertools
import math

import pytest
import torch
from torch import Tensor

from dlpipe.layers.label_rbm import LabelRBM
from dlpipe.spec.layers import LabelRbm

ROUNDING = {"rtol": 1e-11, "atol": 1e-12}
VISIBLE, CLASSES, HIDDEN = 4, 3, 3


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def small(visible: int = VISIBLE, hidden: int = HIDDEN, scale: float = 1.0, **options: object) -> LabelRBM:
    layer = LabelRBM(visible, hidden, classes=CLASSES, **options).double()  # type: ignore[arg-type]
    layer.initialise(torch.full((visible,), 0.5, dtype=torch.float64), generator(7))
    with torch.no_grad():
        for number, parameter in enumerate(layer.parameters()):
            parameter.normal_(0.0, scale, generator=generator(8 + number))
    return layer


def binary_states(units: int) -> Tensor:
    return torch.tensor(list(itertools.product([0.0, 1.0], repeat=units)), dtype=torch.float64)


def all_joint(layer: LabelRBM) -> tuple[Tensor, Tensor, Tensor]:
    """Every v with every label: v [N, visible], targets [N], both as one [N, visible + C]."""
    v = binary_states(layer.W.shape[0] - CLASSES)
    targets = torch.arange(CLASSES).repeat(len(v))
    v = v.repeat_interleave(CLASSES, dim=0)
    label = torch.zeros(len(v), CLASSES, dtype=v.dtype)
    label[torch.arange(len(v)), targets] = 1.0
    return v, targets, torch.cat((v, label), dim=1)


def probabilities(layer: LabelRBM) -> Tensor:
    """p(v, y, h) by the energy as the paper writes it, one state after the other: [N, 2^hidden], N as `all_joint`'s."""
    v, targets, _ = all_joint(layer)
    h = binary_states(layer.W.shape[1])
    W, U = layer.W[:-CLASSES].detach(), layer.W[-CLASSES:].detach()
    c, d = layer.vbias[:-CLASSES].detach(), layer.vbias[-CLASSES:].detach()
    minus_energy = torch.empty(len(v), len(h), dtype=v.dtype)
    for n, m in itertools.product(range(len(v)), range(len(h))):
        y = int(targets[n])
        minus_energy[n, m] = c @ v[n] + d[y] + layer.hbias.detach() @ h[m] + (v[n] @ W + U[y]) @ h[m]
    return torch.softmax(minus_energy.flatten(), dim=0).view(len(v), len(h))


def gradients(layer: LabelRBM) -> dict[str, Tensor]:
    return {name: parameter.grad.clone() for name, parameter in layer.named_parameters() if parameter.grad is not None}


def test_likelihood_of_examples_and_labels_is_the_enumerated_one() -> None:
    layer = small()
    v, targets, joint = all_joint(layer)
    assert torch.equal(layer.join(v, targets), joint)
    torch.testing.assert_close(layer.log_likelihood(joint).exp().detach(), probabilities(layer).sum(1), **ROUNDING)


def test_conditionals_are_those_of_the_joint_distribution() -> None:
    layer = small()
    _, _, joint = all_joint(layer)
    p, h = probabilities(layer), binary_states(HIDDEN)
    torch.testing.assert_close(layer.propup(joint).detach(), p / p.sum(1, keepdim=True) @ h, **ROUNDING)
    torch.testing.assert_close(layer.propdown(h).detach(), (p / p.sum(0)).T @ joint, **ROUNDING)


def test_the_label_is_judged_by_the_exact_posterior() -> None:
    layer = small(scale=2.0)
    v, targets, _ = all_joint(layer)
    posterior = probabilities(layer).sum(1).view(-1, CLASSES)
    posterior = posterior / posterior.sum(1, keepdim=True)
    logits = -layer.class_free_energies(binary_states(VISIBLE)).detach()
    torch.testing.assert_close(torch.softmax(logits, dim=1), posterior, **ROUNDING)
    found = layer.validate(v, targets)
    likeliest = posterior.argmax(1).repeat_interleave(CLASSES)
    assert found["error"].item() == pytest.approx(100 * (likeliest != targets).double().mean().item())
    assert found["loss"].item() == pytest.approx(-posterior.flatten().log().mean().item())
    _, _, joint = all_joint(layer)
    assert found["free_energy"].item() == pytest.approx(layer.free_energy(joint).mean().item())


def test_samples_are_of_the_conditional_and_have_one_label_on() -> None:
    layer = small(scale=0.7)
    n = 50_000
    h = binary_states(HIDDEN)[[5]].repeat(n, 1)
    mean, sample = layer.sample_v_given_h(h, generator())
    torch.testing.assert_close(mean, layer.propdown(h))
    assert torch.equal(sample[:, -CLASSES:].sum(1), torch.ones(n, dtype=sample.dtype))
    # Five standard deviations of a fraction of n draws, at most 0.5 / sqrt(n).
    torch.testing.assert_close(sample.mean(0), mean[0].detach(), rtol=0.0, atol=5 * 0.5 / math.sqrt(n))


def exact_gradient(layer: LabelRBM, v: Tensor, targets: Tensor) -> dict[str, Tensor]:
    """Of the batch's mean -log p(v, y), with log Z by autograd through the sum over all v and y."""
    _, _, joint = all_joint(layer)
    log_z = torch.logsumexp(-layer.free_energy(joint), dim=0)
    objective = layer.free_energy(layer.join(v, targets)).mean() + log_z
    names, parameters = zip(*layer.named_parameters(), strict=True)
    return dict(zip(names, torch.autograd.grad(objective, parameters), strict=True))


@pytest.mark.parametrize("options", [{"cd_steps": 40}, {"persistent": True, "chains": 60_000}], ids=["CD-40", "PCD"])
def test_the_update_tends_to_the_exact_gradient(options: dict[str, object]) -> None:
    layer = small(scale=0.8, **options)
    v, targets, _ = all_joint(layer)
    v, targets = v[[3, 17, 40]], targets[[3, 17, 40]]
    exact = exact_gradient(layer, v, targets)
    copies = 20_000
    for step in range(40 if layer.persistent else 1):  # the chains come to the model's distribution: nothing is updated
        layer.step(v.repeat(copies, 1), targets.repeat(copies), generator(step))
    # An entry is a mean over 60,000 particles of numbers in an interval of length 1: five times its deviation.
    for name, gradient in gradients(layer).items():
        torch.testing.assert_close(gradient, exact[name], rtol=0.0, atol=5 * 0.5 / math.sqrt(3 * copies))


RULES = {"CD-1": {}, "CD-3": {"cd_steps": 3}, "PCD": {"persistent": True, "chains": 7}}


@pytest.mark.parametrize("options", RULES.values(), ids=RULES.keys())
def test_the_gradient_is_that_of_the_free_energy_difference(options: dict[str, object]) -> None:
    layer = small(**options)
    v, targets, joint = all_joint(layer)
    random = generator(5)
    h = layer.chains if layer.persistent else layer.sample_h_given_v(joint, random)[1]
    for _ in range(layer.cd_steps - 1):
        h = layer.gibbs_hvh(h, random)[1]
    mean_field = layer.cd_steps == 1 and not layer.persistent
    particles = (layer.propdown(h) if mean_field else layer.sample_v_given_h(h, random)[1]).detach()
    objective = layer.free_energy(joint).mean() - layer.free_energy(particles).mean()
    names, parameters = zip(*layer.named_parameters(), strict=True)
    expected = dict(zip(names, torch.autograd.grad(objective, parameters), strict=True))
    layer.step(v, targets, generator(5))
    torch.testing.assert_close(gradients(layer), expected, **ROUNDING)


def test_learning_raises_the_likelihood_and_lowers_the_error() -> None:
    patterns = torch.tensor([[1, 1, 1, 0, 0, 0, 0, 0], [0, 0, 0, 1, 1, 1, 0, 0], [0, 0, 1, 0, 0, 0, 1, 1]]).float()
    targets = torch.arange(CLASSES).repeat(30)
    flips = (torch.rand(90, 8, generator=generator(1)) < 0.1).float()
    v = (patterns[targets] - flips).abs()
    layer = LabelRBM(8, 6, classes=CLASSES, cd_steps=3, weight_scale=0.1)
    layer.initialise(v.mean(0), generator())
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.2)
    likelihoods = [layer.log_likelihood(layer.join(v, targets)).mean().item()]
    for step in range(1, 401):
        layer.step(v, targets, generator(step))
        optimizer.step()
        if step % 100 == 0:
            likelihoods.append(layer.log_likelihood(layer.join(v, targets)).mean().item())
    assert likelihoods == sorted(likelihoods)
    assert layer.validate(v, targets)["error"] < 10.0  # chance: 67


def test_what_labels_have_in_common_may_as_well_be_a_bias() -> None:
    layer, moved = small(), small()
    with torch.no_grad():
        (weight, bias), (U, d) = layer.encoder(), layer.labels()
        moved.W.copy_(torch.cat((weight, U)))
        moved.hbias.copy_(bias)
        moved.vbias.copy_(torch.cat((layer.decoder()[1], d)))
    _, _, joint = all_joint(layer)
    torch.testing.assert_close(moved.log_likelihood(joint), layer.log_likelihood(joint), **ROUNDING)
    v = binary_states(VISIBLE)
    torch.testing.assert_close(layer.encode(v), torch.sigmoid(v @ weight + bias), **ROUNDING)
    average = torch.cat((v, torch.full((len(v), CLASSES), 1 / CLASSES, dtype=v.dtype)), dim=1)
    torch.testing.assert_close(layer.encode(v), layer.propup(average).detach(), **ROUNDING)


def test_labels_begin_equal() -> None:
    layer = LabelRBM(6, 5, classes=CLASSES)
    mean = torch.linspace(0.1, 0.9, 6)
    layer.initialise(mean, generator())
    h = torch.zeros(1, 5)
    torch.testing.assert_close(layer.propdown(h)[0, :6].detach(), mean)
    torch.testing.assert_close(layer.propdown(h)[0, 6:].detach(), torch.full((CLASSES,), 1 / CLASSES))


def test_defaults_are_those_of_the_spec() -> None:
    defaults = {n: p.default for n, p in inspect.signature(LabelRBM).parameters.items() if p.kind is p.KEYWORD_ONLY}
    assert defaults == {"classes": inspect.Parameter.empty, **LabelRbm().arguments()}
