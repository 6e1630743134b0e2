"""The deep belief network against enumeration, and its up-down algorithm against appendix B, line by line in numpy."""

from __future__ import annotations

import copy
import inspect
import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from dlpipe.layers.label_rbm import LabelRBM
from dlpipe.layers.rbm import RBM
from dlpipe.models.deep_belief_network import DeepBeliefNetwork
from dlpipe.spec.boltzmann import Dbn
from dlpipe.tasks.classification import Classification

ROUNDING = {"rtol": 1e-11, "atol": 1e-12}
INPUTS, UNITS, CLASSES = 8, (6, 5), 3


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def small(*units: int, inputs: int = INPUTS, scale: float = 0.7, **options: object) -> DeepBeliefNetwork:
    """Weights of order 1 that differ in the two directions, and labels that matter."""
    model = DeepBeliefNetwork(inputs, CLASSES, units=units or UNITS, **options).double()  # type: ignore[arg-type]
    with torch.no_grad():
        for number, parameter in enumerate(model.parameters()):
            parameter.normal_(0.0, scale, generator=generator(number))
        model.memory.W[model._below :] *= 2.0
    return model


def binary_states(units: int) -> Tensor:
    return torch.tensor(list(itertools.product([0.0, 1.0], repeat=units)), dtype=torch.float64)


def examples(count: int = 7, inputs: int = INPUTS) -> tuple[Tensor, Tensor]:
    v = torch.rand(count, inputs, generator=generator(50), dtype=torch.float64).round()
    return v, torch.arange(count) % CLASSES


def log_bernoulli(states: Tensor, mean: Tensor) -> Tensor:
    """[N, units], [M, units] -> log p of every state under every mean, [N, M]."""
    return states @ mean.log().T + (1 - states) @ (1 - mean).log().T


def log_memory(model: DeepBeliefNetwork) -> Tensor:
    """log p(h_{L-1}, y) of the top RBM, over all states [2^units] and labels [C or 1], by its energy."""
    memory, top = model.memory, binary_states(model.memory.W.shape[1])
    h = binary_states(model._below)
    labels = torch.eye(model.classes, dtype=h.dtype) if model.classes else torch.zeros(1, 0, dtype=h.dtype)
    joint = torch.cat((h.repeat_interleave(len(labels), 0), labels.repeat(len(h), 1)), dim=1)
    minus_energy = (joint @ memory.vbias)[:, None] + top @ memory.hbias + joint @ memory.W @ top.T
    log_p = torch.logsumexp(minus_energy, dim=1) - torch.logsumexp(minus_energy.flatten(), dim=0)
    return log_p.detach().view(len(h), len(labels))


def log_likelihood(model: DeepBeliefNetwork, v: Tensor) -> Tensor:
    """log p(v) by the sum over all states of every layer."""
    log_p = torch.logsumexp(log_memory(model), dim=1)
    if not len(model.generative):
        return log_p[(v @ 2.0 ** torch.arange(v.shape[1], dtype=v.dtype).flip(0)).long()]
    for k in reversed(range(len(model.generative))):
        V, c = model.generative[k], model.generative_biases[k]
        below = v if k == 0 else binary_states(V.shape[1])
        given = torch.sigmoid(binary_states(V.shape[0]) @ V + c)
        log_p = torch.logsumexp(log_bernoulli(below, given) + log_p, dim=1)
    return log_p.detach()


def pretrained(labels: bool = True) -> list[RBM]:
    """Two layers, the upper one with labels or not, as pretraining might have left them."""
    layers = [RBM(INPUTS, UNITS[0]), LabelRBM(*UNITS, classes=CLASSES) if labels else RBM(*UNITS)]
    for number, layer in enumerate(layers):
        layer.double()
        with torch.no_grad():
            for parameter in layer.parameters():
                parameter.normal_(0.0, 0.7, generator=generator(10 * number + parameter.dim() + parameter.numel()))
    return layers


def unrolled(layers: list[RBM]) -> DeepBeliefNetwork:
    labels = isinstance(layers[-1], LabelRBM)
    units = [layer.W.shape[1] for layer in layers]
    model = DeepBeliefNetwork(layers[0].W.shape[0], CLASSES, units=units, labels=labels).double()
    model.unroll([layer.encoder() for layer in layers])
    model.unroll_back([layer.decoder() for layer in layers])
    if isinstance(layers[-1], LabelRBM):
        model.unroll_labels(*layers[-1].labels())
    return model


# From pretrained layers


def test_the_unrolled_top_is_the_pretrained_density() -> None:
    layers = pretrained()
    model = unrolled(layers)
    h = binary_states(UNITS[0])
    expected = torch.stack(
        [layers[1].log_likelihood(layers[1].join(h, torch.full((len(h),), y))) for y in range(CLASSES)]
    )  # type: ignore[operator]
    torch.testing.assert_close(log_memory(model), expected.T.detach(), **ROUNDING)
    v, _ = examples()
    torch.testing.assert_close(model.means(v), layers[0].encode(v), **ROUNDING)
    down = torch.sigmoid(h @ model.generative[0] + model.generative_biases[0])
    torch.testing.assert_close(down, layers[0].decode(h), **ROUNDING)


def test_a_second_layer_that_begins_as_the_first_one_turned_round_changes_nothing() -> None:
    """hinton2006, section 4: with W_2 = W_1' the top RBM's p(h_1) is the first RBM's, and so p(v) is."""
    first = pretrained()[0]
    second = RBM(UNITS[0], INPUTS).double()
    with torch.no_grad():
        second.W.copy_(first.W.T)
        second.vbias.copy_(first.hbias)
        second.hbias.copy_(first.vbias)
    v = binary_states(INPUTS)
    model = unrolled([first, second])
    torch.testing.assert_close(log_likelihood(model, v), first.log_likelihood(v).detach(), **ROUNDING)
    assert log_likelihood(model, v).exp().sum().item() == pytest.approx(1.0)


def test_layers_that_do_not_fit_are_refused() -> None:
    model = DeepBeliefNetwork(INPUTS, CLASSES, units=UNITS)
    with pytest.raises(ValueError, match="1 pretrained layers for the model's 2"):
        model.unroll([RBM(INPUTS, 6).encoder()])
    with pytest.raises(ValueError, match="layer 2 is 6 x 5, the pretrained one 6 x 4"):
        model.unroll([RBM(INPUTS, 6).encoder(), RBM(6, 4).encoder()])


# Classification


@pytest.mark.parametrize("units", [(6, 5), (6, 4, 5), (5,)], ids=["two", "three", "one"])
def test_the_label_is_the_likeliest_of_the_joint_density_at_the_top(units: tuple[int, ...]) -> None:
    """Given the means r that the recognition weights pass up, by the sum over all states of the top layer."""
    model = small(*units, scale=2.0)
    v, targets = examples(40)
    with torch.no_grad():  # so that no class is the likeliest of all examples
        model.memory.vbias[model._below :] -= model(v).mean(0)
    r = v
    for W, b in zip(model.recognition, model.recognition_biases, strict=True):
        r = torch.sigmoid(r @ W + b)
    memory, below = model.memory, model._below
    top = binary_states(units[-1])
    joint = torch.stack(
        [
            torch.logsumexp(
                (r @ memory.vbias[:below] + memory.vbias[below + y])[:, None]
                + (r @ memory.W[:below] + memory.W[below + y] + memory.hbias) @ top.T,
                dim=1,
            )
            for y in range(CLASSES)
        ],
        dim=1,
    )
    torch.testing.assert_close(model(v).detach(), joint.detach(), **ROUNDING)
    found = model.validate(v, targets)
    assert found["error"].item() == pytest.approx(100 * (joint.argmax(1) != targets).double().mean().item())
    assert found["loss"].item() == pytest.approx(torch.nn.functional.cross_entropy(joint, targets).item())
    assert len(set(joint.argmax(1).tolist())) > 1


def test_the_logits_depend_on_the_parameters_that_are_named() -> None:
    model = small(6, 4, 5)
    v, targets = examples()
    torch.nn.functional.cross_entropy(model(v), targets).backward()  # type: ignore[no-untyped-call]
    named = {id(parameter) for parameter in model.discriminative()}
    assert named == {id(parameter) for parameter in model.parameters() if parameter.grad is not None}


@pytest.mark.parametrize("units", [(5,), (6, 5), (6, 4, 5)], ids=["one", "two", "three"])
def test_each_step_of_classification_lowers_the_loss_and_leaves_the_way_down_as_it_is(units: tuple[int, ...]) -> None:
    """A small step against the gradient, five times; the first lowers the loss by rate times the gradient's square."""
    model, (v, targets), task, rate = small(*units), examples(30), Classification(), 0.001
    down = [V.detach().clone() for V in (*model.generative, *model.generative_biases)]
    optimizer = torch.optim.SGD(model.discriminative(), lr=rate)
    losses, square = [model.validate(v, targets)["loss"].item()], 0.0
    for step in range(5):
        optimizer.zero_grad()
        task.step(model, v, targets, generator(step))
        if step == 0:
            square = sum(p.grad.square().sum().item() for p in model.discriminative() if p.grad is not None)
        optimizer.step()
        losses.append(model.validate(v, targets)["loss"].item())
    assert all(later < earlier for earlier, later in itertools.pairwise(losses))
    assert losses[0] - losses[1] == pytest.approx(rate * square, rel=0.02)
    for before, after in zip(down, (*model.generative, *model.generative_biases), strict=True):
        assert torch.equal(before, after)


def test_without_labels_there_are_no_logits() -> None:
    model = small(labels=False)
    with pytest.raises(ValueError, match="without labels has no logits"):
        model(examples()[0])
    assert set(model.validate(*examples())) == {"reconstruction_error"}


# The up-down algorithm


def logistic(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


class Draws:
    """The uniform numbers that the model draws, in its order."""

    def __init__(self, seed: int) -> None:
        self.generator = generator(seed)

    def __call__(self, *shape: int) -> np.ndarray:
        return torch.empty(shape, dtype=torch.float64).uniform_(generator=self.generator).numpy()


def appendix_b(model: DeepBeliefNetwork, data: np.ndarray, targets: np.ndarray, rand: Draws) -> dict[str, np.ndarray]:
    """The changes of all parameters at learning rate 1, summed over the batch, by the names of the paper's code.

    Where the model says it differs, this does too: it takes probabilities of the top's hidden units for statistics, and
    draws the label of the Gibbs steps.
    """
    vishid, hidpen = (W.detach().numpy() for W in model.recognition)
    hidrecbiases, penrecbiases = (b.detach().numpy() for b in model.recognition_biases)
    hidvis, penhid = (V.detach().numpy() for V in model.generative)
    visgenbiases, hidgenbiases = (c.detach().numpy() for c in model.generative_biases)
    pentop, labtop = np.split(model.memory.W.detach().numpy(), [model._below])
    pengenbiases, labgenbiases = np.split(model.memory.vbias.detach().numpy(), [model._below])
    topbiases = model.memory.hbias.detach().numpy()
    cases, numpen = len(data), len(pengenbiases)

    wakehidprobs = logistic(data @ vishid + hidrecbiases)
    wakehidstates = (wakehidprobs > rand(cases, len(hidrecbiases))).astype(float)
    wakepenprobs = logistic(wakehidstates @ hidpen + penrecbiases)
    wakepenstates = (wakepenprobs > rand(cases, numpen)).astype(float)
    waketopprobs = logistic(wakepenstates @ pentop + targets @ labtop + topbiases)
    negtopstates = (waketopprobs > rand(cases, len(topbiases))).astype(float)
    for _ in range(model.gibbs_steps):
        negpenprobs = logistic(negtopstates @ pentop.T + pengenbiases)
        negpenstates = (negpenprobs > rand(cases, numpen)).astype(float)
        weights = np.exp(negtopstates @ labtop.T + labgenbiases)
        neglabprobs = weights / weights.sum(1, keepdims=True)
        chosen = (rand(cases, 1) > neglabprobs.cumsum(1)).sum(1)
        neglabstates = np.eye(len(labgenbiases))[chosen]
        negtopprobs = logistic(negpenstates @ pentop + neglabstates @ labtop + topbiases)
        negtopstates = (negtopprobs > rand(cases, len(topbiases))).astype(float)
    sleeppenstates = negpenstates
    sleephidprobs = logistic(sleeppenstates @ penhid + hidgenbiases)
    sleephidstates = (sleephidprobs > rand(cases, len(hidrecbiases))).astype(float)
    sleepvisprobs = logistic(sleephidstates @ hidvis + visgenbiases)

    psleeppenstates = logistic(sleephidstates @ hidpen + penrecbiases)
    psleephidstates = logistic(sleepvisprobs @ vishid + hidrecbiases)
    pvisprobs = logistic(wakehidstates @ hidvis + visgenbiases)
    phidprobs = logistic(wakepenstates @ penhid + hidgenbiases)
    return {
        "generative.0": wakehidstates.T @ (data - pvisprobs),
        "generative_biases.0": (data - pvisprobs).sum(0),
        "generative.1": wakepenstates.T @ (wakehidstates - phidprobs),
        "generative_biases.1": (wakehidstates - phidprobs).sum(0),
        "memory.W": np.concatenate(
            (
                wakepenstates.T @ waketopprobs - negpenstates.T @ negtopprobs,
                targets.T @ waketopprobs - neglabstates.T @ negtopprobs,
            )
        ),
        "memory.vbias": np.concatenate(((wakepenstates - negpenstates).sum(0), (targets - neglabstates).sum(0))),
        "memory.hbias": (waketopprobs - negtopprobs).sum(0),
        "recognition.1": sleephidstates.T @ (sleeppenstates - psleeppenstates),
        "recognition_biases.1": (sleeppenstates - psleeppenstates).sum(0),
        "recognition.0": sleepvisprobs.T @ (sleephidstates - psleephidstates),
        "recognition_biases.0": (sleephidstates - psleephidstates).sum(0),
    }


@pytest.mark.parametrize("gibbs_steps", [1, 3])
def test_a_step_is_that_of_appendix_b(gibbs_steps: int) -> None:
    model = small(6, 4, 5, gibbs_steps=gibbs_steps)
    v, targets = examples(11)
    expected = appendix_b(model, v.numpy(), np.eye(CLASSES)[targets.numpy()], Draws(5))
    model.step(v, targets, generator(5))
    found = {name: parameter.grad for name, parameter in model.named_parameters()}
    assert found.keys() == expected.keys()
    for name, change in expected.items():
        torch.testing.assert_close(found[name], -torch.from_numpy(change) / len(v), **ROUNDING)


def test_the_wake_phase_is_the_gradient_of_the_likelihood_of_what_was_recognised() -> None:
    model = small(6, 4, 5)
    v, targets = examples(11)
    states = model._recognise(v, generator(5))
    objective = torch.zeros((), dtype=torch.float64)
    for k, (V, c) in enumerate(zip(model.generative, model.generative_biases, strict=True)):
        mean = torch.sigmoid(states[k + 1].detach() @ V + c)
        objective = objective + torch.nn.functional.binary_cross_entropy(mean, states[k].detach(), reduction="sum")
    wanted = [*model.generative, *model.generative_biases]
    expected = torch.autograd.grad(objective / len(v), wanted)
    model.step(v, targets, generator(5))
    for parameter, gradient in zip(wanted, expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, **ROUNDING)


@pytest.mark.parametrize("units", [(5,), (6, 5)], ids=["one", "two"])
def test_up_down_raises_the_likelihood_of_a_model_that_begins_at_random(units: tuple[int, ...]) -> None:
    patterns = torch.tensor([[1, 1, 1, 0, 0, 0, 0, 0], [0, 0, 0, 1, 1, 1, 0, 0], [0, 0, 1, 0, 0, 0, 1, 1]]).double()
    targets = torch.arange(CLASSES).repeat(30)
    flips = (torch.rand(90, INPUTS, generator=generator(1)) < 0.1).double()
    v = (patterns[targets] - flips).abs()
    model = DeepBeliefNetwork(INPUTS, CLASSES, units=units).double()
    model.initialise(generator())
    before = log_likelihood(model, v).mean().item()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2)
    for step in range(1000):
        model.step(v, targets, generator(step))
        optimizer.step()
    rates = v.mean(0)
    independent = (rates * rates.log() + (1 - rates) * (1 - rates).log()).sum().item()
    assert log_likelihood(model, v).mean().item() > max(before, independent) + 0.5
    assert model.validate(v, targets)["error"] < 10.0  # chance: 67


def test_same_generator_same_bits() -> None:
    results = []
    for _ in range(2):
        model = small()
        metrics = model.step(*examples(), generator(2))
        results.append({**metrics, **{name: p.grad for name, p in model.named_parameters()}})
    assert all(torch.equal(results[0][name], results[1][name]) for name in results[0])


@pytest.mark.parametrize("labels", [True, False])
def test_under_autocast_the_products_that_give_the_gradient_are_in_bfloat16_too(labels: bool) -> None:
    model = DeepBeliefNetwork(30, CLASSES, units=(12, 10, 8), labels=labels)
    model.initialise(generator())
    v = (torch.rand(400, 30, generator=generator(1)) < 0.3).float()
    y, exact = torch.arange(400) % CLASSES, copy.deepcopy(model)
    exact.step(v, y, generator(2))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        model.step(v, y, generator(2))
    for (name, parameter), other in zip(model.named_parameters(), exact.parameters(), strict=True):
        assert parameter.grad is not None
        assert parameter.grad.dtype == torch.float32
        rounded = torch.equal(parameter.grad, parameter.grad.bfloat16().float())
        assert rounded == (parameter.dim() == 2), f"{name}: sums over the batch stay in float32"
        # Means over 400 examples, some units of which are over their threshold in one type only; they are up to 0.25.
        torch.testing.assert_close(parameter.grad, other.grad, rtol=0.0, atol=0.015)


# Sampling


@pytest.mark.parametrize("units", [(5,), (6, 5), (4, 3, 5)], ids=["one", "two", "three"])
def test_samples_with_a_label_are_of_the_density_given_the_label(units: tuple[int, ...]) -> None:
    """The mean of v over samples, against the enumerated mean of p(v | y)."""
    model = small(*units, inputs=4, scale=0.8)
    with torch.no_grad():
        for V in model.generative:
            V *= 2.0
    count, v, expected = 40_000, binary_states(4), []
    for label in (1, 2):
        log_p = log_memory(model)[:, label]
        log_p = log_p - torch.logsumexp(log_p, dim=0)
        for k in reversed(range(len(model.generative))):
            V, c = model.generative[k], model.generative_biases[k]
            given = torch.sigmoid(binary_states(V.shape[0]) @ V + c).detach()
            log_p = torch.logsumexp(log_bernoulli(binary_states(V.shape[1]), given) + log_p, dim=1)
        expected.append(log_p.exp() @ v)
        means = model.sample(count, 100, generator(3), label)
        assert means.shape == (count, 4)
        # Means of independent numbers in [0, 1], each within five standard deviations of at most 0.5 / sqrt(count).
        torch.testing.assert_close(means.mean(0), expected[-1], rtol=0.0, atol=5 * 0.5 / math.sqrt(count))
    # Of the other label's samples it would fail.
    assert (expected[0] - expected[1]).abs().max() > 5 * 0.5 / math.sqrt(count), expected


@pytest.mark.parametrize("labels", [True, False])
def test_samples_without_a_label_are_of_the_density(labels: bool) -> None:
    model = small(6, 5, inputs=4, scale=0.8, labels=labels)
    count, v = 40_000, binary_states(4)
    expected = log_likelihood(model, v).exp() @ v
    means = model.sample(count, 100, generator(3))
    torch.testing.assert_close(means.mean(0), expected, rtol=0.0, atol=5 * 0.5 / math.sqrt(count))


def test_a_label_that_is_not_there_is_refused() -> None:
    with pytest.raises(ValueError, match="there is no label 3; the model has 3"):
        small().sample(1, 1, generator(), 3)
    with pytest.raises(ValueError, match="there is no label 0; the model has 0"):
        small(labels=False).sample(1, 1, generator(), 0)


def test_defaults_are_those_of_the_spec() -> None:
    parameters = inspect.signature(DeepBeliefNetwork).parameters.items()
    defaults = {name: p.default for name, p in parameters if p.kind is p.KEYWORD_ONLY}
    assert defaults == {**Dbn(units=(3,)).arguments(), "units": inspect.Parameter.empty}
