"""The deep Boltzmann machine against enumeration, automatic derivatives and the RBM that it is when W_2 = 0."""

from __future__ import annotations

import inspect
import itertools
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from dlpipe.layers import annealing
from dlpipe.layers.rbm import RBM
from dlpipe.models.deep_boltzmann_machine import DeepBoltzmannMachine
from dlpipe.spec.boltzmann import Dbm

ROUNDING = {"rtol": 1e-10, "atol": 1e-12}
CLASSES = 3
DEPTHS = pytest.mark.parametrize("units", [(5,), (5, 4), (4, 3, 3), (3, 2, 3, 2)], ids=["one", "two", "three", "four"])


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def machine(*units: int, inputs: int = 6, scale: float = 0.8, **options: int) -> DeepBoltzmannMachine:
    model = DeepBoltzmannMachine(inputs, CLASSES, units=units, **options).double()
    model.initialise(generator(99))
    with torch.no_grad():
        for number, parameter in enumerate((*model.weights, *model.biases)):
            parameter.normal_(0.0, scale, generator=generator(number))
    return model


def binary_states(units: int) -> Tensor:
    return torch.tensor(list(itertools.product([0.0, 1.0], repeat=units)), dtype=torch.float64)


def examples(count: int = 7, inputs: int = 6) -> Tensor:
    return torch.rand(count, inputs, generator=generator(50), dtype=torch.float64).round()


def minus_energies(model: DeepBoltzmannMachine) -> tuple[list[Tensor], Tensor]:
    """All states of all layers, [2^units, units_k] each, and -E of them, by the definition."""
    layers = list(binary_states(sum(model.sizes)).split(model.sizes, dim=1))
    total = sum(h @ b for h, b in zip(layers, model.biases, strict=True))
    for (below, above), W in zip(pairwise(layers), model.weights, strict=True):
        total = total + torch.einsum("ni,ij,nj->n", below, W, above)
    return layers, total  # type: ignore[return-value]


def log_likelihood(model: DeepBoltzmannMachine, v: Tensor) -> Tensor:
    """log p(v) by the sum over all states of all layers; with a gradient."""
    layers, total = minus_energies(model)
    here = (layers[0][None] == v[:, None]).all(dim=2)
    return torch.logsumexp(total.where(here, torch.tensor(-torch.inf)), dim=1) - torch.logsumexp(total, dim=0)


# The distribution


@DEPTHS
def test_energy_and_likelihood_are_those_of_the_definition(units: tuple[int, ...]) -> None:
    model = machine(*units)
    layers, total = minus_energies(model)
    torch.testing.assert_close(model.energy(layers), -total, **ROUNDING)
    torch.testing.assert_close(model.log_likelihood(examples()), log_likelihood(model, examples()).detach(), **ROUNDING)
    assert model.log_likelihood(binary_states(6)).exp().sum().item() == pytest.approx(1.0)


def test_too_many_units_are_not_enumerated() -> None:
    with pytest.raises(ValueError, match="21 units in even hidden layers are too many to enumerate"):
        machine(3, 21).log_likelihood(examples())


def test_annealing_meets_enumeration() -> None:
    """A machine of 12-8-6: the interval, and the estimate within 0.1, from the base rates of its own samples."""
    for seed, scale in enumerate((0.5, 1.0, 2.0)):
        model = machine(8, 6, inputs=12, scale=scale).float()
        rbm, v = model.normaliser(), examples(200, 12).float()
        base = annealing.base_rates(rbm, model.normaliser_means(v).mean(0))
        exact = float(model.double().normaliser().log_partition())
        up = annealing.forward(rbm, base, annealing.temperatures((50, 200, 500)), 300, generator(seed))
        assert up.value == pytest.approx(exact, abs=0.1)
        assert up.low <= exact <= up.high


@DEPTHS
def test_samples_are_of_the_density(units: tuple[int, ...]) -> None:
    model = machine(*units)
    layers, total = minus_energies(model)
    expected = torch.softmax(total, dim=0) @ layers[0]
    means = model.sample(10_000, 40, generator(3))
    error = 5 * means.std(0) / 10_000**0.5
    assert ((means.mean(0) - expected).abs() < error).all()


# With no second layer to speak of


def test_without_a_second_layer_it_is_the_rbm() -> None:
    """W_2 = 0 leaves the first layer's plain conditionals, not the doubled ones, and its likelihood."""
    model = machine(5, 4)
    rbm = RBM(6, 5).double()
    with torch.no_grad():
        model.weights[1].zero_()
        for own, given in ((rbm.W, model.weights[0]), (rbm.vbias, model.biases[0]), (rbm.hbias, model.biases[1])):
            own.copy_(given)
    v = examples()
    layers = [v, examples(7, 5), examples(7, 4)]
    torch.testing.assert_close(model._mean(1, layers), rbm.propup(v), **ROUNDING)
    torch.testing.assert_close(model._mean(0, layers), rbm.propdown(layers[1]), **ROUNDING)
    torch.testing.assert_close(model._mean(2, layers), torch.sigmoid(model.biases[2]).expand(7, -1), **ROUNDING)
    torch.testing.assert_close(model.mean_field(v)[1], rbm.propup(v), **ROUNDING)
    torch.testing.assert_close(model.log_likelihood(v), rbm.log_likelihood(v), **ROUNDING)
    bound = model.unnormalised_bound(v) - model.normaliser().log_partition()
    torch.testing.assert_close(bound, rbm.log_likelihood(v).detach(), **ROUNDING)  # q is the posterior


# Mean field


@DEPTHS
def test_the_mean_field_is_a_fixed_point_and_a_maximum_of_the_bound(units: tuple[int, ...]) -> None:
    model = machine(*units, scale=0.5, mean_field_steps=200)
    q = model.mean_field(examples())
    for k in range(1, len(q)):
        torch.testing.assert_close(q[k], model._mean(k, q), **ROUNDING)
    logits = [torch.logit(each).requires_grad_() for each in q[1:]]
    means = [q[0], *(torch.sigmoid(each) for each in logits)]
    entropy = sum(torch.distributions.Bernoulli(each).entropy().sum() for each in means[1:])
    slopes = torch.autograd.grad(entropy - model.energy(means).sum(), logits)
    assert all(slope.abs().max() < 1e-10 for slope in slopes)


@DEPTHS
@pytest.mark.parametrize("scale", [0.5, 2.0])
def test_the_bound_is_never_above_the_likelihood_and_every_update_raises_it(
    units: tuple[int, ...], scale: float
) -> None:
    v, before = binary_states(6), None
    for steps in (1, 2, 3, 10, 50):
        model = machine(*units, scale=scale, mean_field_steps=steps)
        bound = model.unnormalised_bound(v) - model.normaliser().log_partition()
        assert (bound <= model.log_likelihood(v) + 1e-10).all()
        assert before is None or (bound >= before - 1e-10).all()
        before = bound


def test_the_bound_of_12_8_6_is_below_the_exact_value_by_a_gap_that_is_the_divergence_of_q() -> None:
    model = machine(8, 6, inputs=12)
    v = examples(50, 12)
    gap = model.log_likelihood(v) - (model.unnormalised_bound(v) - model.normaliser().log_partition())
    assert (gap >= 0).all()
    assert gap.mean() > 1e-3  # the posterior is not factorial


def test_the_first_guess_is_a_pass_upwards_with_doubled_input() -> None:
    model = machine(4, 3, 3)
    model.mean_field_steps = 0
    (W1, W2, W3), (_, b1, b2, b3), v = model.weights, model.biases, examples()
    q1 = torch.sigmoid(2 * v @ W1 + b1)
    q2 = torch.sigmoid(2 * q1 @ W2 + b2)
    for found, expected in zip(model.mean_field(v), (v, q1, q2, torch.sigmoid(q2 @ W3 + b3)), strict=True):
        torch.testing.assert_close(found, expected.detach(), **ROUNDING)


# Learning


@DEPTHS
def test_a_step_is_the_gradient_of_the_bound_and_of_the_chains_free_energy(units: tuple[int, ...]) -> None:
    """Exactly: of the bound with q held fixed, less log sum exp(-E) over the odd layers of the particles' even ones."""
    model = machine(*units, chains=8)
    v = examples()
    q, start = model.mean_field(v), model.chains.clone()
    with torch.no_grad():
        particles = model._negative_phase(generator(5))
    even = torch.cat(particles[0::2], dim=1)
    rbm = model.normaliser()
    free_energy = rbm.free_energy(even).mean()
    free_energy.backward()  # type: ignore[no-untyped-call]
    wanted = [*model.weights, *model.biases]
    expected = list(torch.autograd.grad(model.energy(q).mean(), wanted))
    split_even, split_odd = model.sizes[0::2], model.sizes[1::2]
    for k in range(len(units)):
        block = rbm.W.grad.split(split_even, 0)[(k + 1) // 2].split(split_odd, 1)[k // 2]  # type: ignore[union-attr]
        expected[k] -= block.T if k % 2 else block
    for k, bias in enumerate(expected[len(units) :]):
        grad = (rbm.hbias if k % 2 else rbm.vbias).grad
        bias -= grad.split(split_odd if k % 2 else split_even)[k // 2]  # type: ignore[union-attr]
    model.chains.copy_(start)
    model.step(v, torch.zeros(7), generator(5))
    for parameter, gradient in zip(wanted, expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, **ROUNDING)


@pytest.mark.parametrize("units", [(5,), (4, 3)], ids=["one", "two"])
def test_with_exact_expectations_a_step_is_the_gradient_of_the_likelihood(
    units: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mean field that is exact (no second layer to speak of), and 50,000 chains that have forgotten their start."""
    model = machine(*units, chains=50_000, gibbs_steps=20)
    if len(units) > 1:
        with torch.no_grad():
            model.weights[1].zero_()
    v, wanted = examples(), [*model.weights, *model.biases]
    expected = torch.autograd.grad(-log_likelihood(model, v).mean(), wanted)
    model.step(v, torch.zeros(7), generator(1))
    for parameter, gradient in zip(wanted, expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=0, atol=5 * 0.5 / 50_000**0.5)


def test_joint_training_raises_the_likelihood() -> None:
    patterns = torch.tensor([[1, 1, 1, 0, 0, 0], [0, 0, 0, 1, 1, 1], [0, 1, 0, 0, 1, 1]]).double()
    targets = torch.arange(CLASSES).repeat(30)
    v = (patterns[targets] - (torch.rand(90, 6, generator=generator(1)) < 0.1).double()).abs()
    model = DeepBoltzmannMachine(6, CLASSES, units=(5, 4), gibbs_steps=1).double()
    model.initialise(generator())
    machine_only = [*model.weights, *model.biases]
    optimizer = torch.optim.SGD(machine_only, lr=0.2)
    for step in range(600):
        model.step(v, targets, generator(step))
        optimizer.step()
    rates = v.mean(0)
    independent = (rates * rates.log() + (1 - rates) * (1 - rates).log()).sum().item()
    assert model.log_likelihood(v).mean().item() > independent + 0.5
    found = model.validate(v, targets)
    assert found["variational_free_energy"] >= (-(model.log_likelihood(v) + model.normaliser().log_partition())).mean()


def test_same_generator_same_bits() -> None:
    results = []
    for _ in range(2):
        model = machine(4, 3, 3)
        metrics = model.step(examples(), torch.zeros(7), generator(2))
        results.append({**metrics, "chains": model.chains, **{str(k): W.grad for k, W in enumerate(model.weights)}})
    assert all(torch.equal(results[0][name], results[1][name]) for name in results[0])


# From pretrained layers


def pretrained(*sizes: int) -> list[RBM]:
    layers = []
    for number, (visible, hidden) in enumerate(pairwise(sizes)):
        doubled = "up" if number == 0 else "down" if number == len(sizes) - 2 else "none"
        layer = RBM(visible, hidden, doubled=doubled).double()
        with torch.no_grad():
            for position, parameter in enumerate(layer.parameters()):
                parameter.normal_(0.0, 0.7, generator=generator(10 * number + position))
        layers.append(layer)
    return layers


def composed(layers: list[RBM]) -> DeepBoltzmannMachine:
    units = [layer.W.shape[1] for layer in layers]
    model = DeepBoltzmannMachine(layers[0].W.shape[0], CLASSES, units=units).double()
    model.unroll([layer.encoder() for layer in layers])
    model.unroll_back([layer.decoder() for layer in layers])
    return model


@pytest.mark.parametrize("sizes", [(6, 5, 4), (6, 5, 4, 3), (6, 5, 4, 3, 2)], ids=["two", "three", "four"])
def test_a_composed_layer_gets_the_mean_of_its_two_total_inputs(sizes: tuple[int, ...]) -> None:
    layers = pretrained(*sizes)
    model = composed(layers)
    h = [examples(7, size) for size in sizes]
    for k in range(1, len(sizes) - 1):
        total = 0.5 * (layers[k - 1].hidden_input(h[k - 1]) + layers[k].visible_input(h[k + 1]))
        torch.testing.assert_close(model._mean(k, h), torch.sigmoid(total).detach(), **ROUNDING)
    torch.testing.assert_close(model._mean(0, h), layers[0].propdown(h[1]).detach(), **ROUNDING)
    torch.testing.assert_close(model._mean(len(sizes) - 1, h), layers[-1].propup(h[-2]).detach(), **ROUNDING)


def test_layers_that_do_not_fit_are_refused() -> None:
    model = machine(5, 4)
    with pytest.raises(ValueError, match="1 pretrained layers for the model's 2"):
        model.unroll([RBM(6, 5).encoder()])
    with pytest.raises(ValueError, match="layer 2 is 5 x 4, the pretrained one 5 x 3"):
        model.unroll([RBM(6, 5).encoder(), RBM(5, 3).encoder()])


# The classifier


@DEPTHS
def test_the_classifier_begins_as_the_mean_field(units: tuple[int, ...]) -> None:
    model = machine(*units, scale=0.5, mean_field_steps=200)
    v = examples()
    q = model.mean_field(v)
    for found, expected in zip(model.hidden(v), q[1:], strict=True):
        torch.testing.assert_close(found.detach(), expected, **ROUNDING)
    torch.testing.assert_close(model(v), q[-1] @ model.output + model.output_bias, **ROUNDING)


def test_fine_tuning_leaves_the_machine_as_it_is() -> None:
    """And what it trains is all that the logits depend on besides."""
    model = machine(4, 3, 3)
    v, targets = examples(9), torch.arange(9) % CLASSES
    bound = model.unnormalised_bound(v)
    model.requires_grad_(False)
    trained = model.discriminative()
    for parameter in trained:
        parameter.requires_grad_(True)
    optimizer = torch.optim.SGD(trained, lr=1.0)
    losses = []
    for _ in range(50):
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(v), targets)
        loss.backward()  # type: ignore[no-untyped-call]
        assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in trained)
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert torch.equal(model.unnormalised_bound(v), bound)
    machine_only = {id(parameter) for parameter in (*model.weights, *model.biases)}
    assert machine_only | set(map(id, trained)) == set(map(id, model.parameters()))


def test_what_fine_tuning_trains_gets_no_gradient_before() -> None:
    model = machine(4, 3)
    assert {id(p) for p in model.parameters() if p.requires_grad} == {id(p) for p in (*model.weights, *model.biases)}


def test_arguments_are_those_of_the_spec() -> None:
    parameters = inspect.signature(DeepBoltzmannMachine).parameters
    names = {n for n, p in parameters.items() if p.kind is p.KEYWORD_ONLY}
    declared = Dbm(units=(5, 4))
    assert names == set(declared.arguments())
    for name, value in declared.arguments().items():
        assert name == "units" or parameters[name].default == value
