"""The perceptron: initial weights, unrolling, dropout, and logistic regression against scikit-learn."""

from __future__ import annotations

import inspect
import math

import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from torch.nn.functional import cross_entropy

from dlpipe.layers.autoencoder import Autoencoder
from dlpipe.layers.rbm import RBM
from dlpipe.models.mlp import MLP
from dlpipe.spec.models import Mlp


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


BOUNDS = {
    "uniform_fan_in": (lambda m, n: 1 / math.sqrt(m),) * 2,
    "glorot_uniform": (lambda m, n: math.sqrt(6 / (m + n)),) * 2,
    # Four times for the sigmoid layers; the output layer is linear.
    "glorot_sigmoid": (lambda m, n: 4 * math.sqrt(6 / (m + n)), lambda m, n: math.sqrt(6 / (m + n))),
}


@pytest.mark.parametrize("init", BOUNDS)
def test_uniform_initial_weights(init: str) -> None:
    model = MLP(300, 200, units=[250], init=init)  # type: ignore[arg-type]
    model.initialise(generator())
    for weight, bound_of in zip(model.weights, BOUNDS[init], strict=True):
        bound, n = bound_of(*weight.shape), weight.numel()
        largest = weight.abs().max().item()
        # The largest of n uniform numbers falls short of the bound by bound / n on average; float32 may round up to it.
        assert bound * (1 - 20 / n) < largest <= bound * (1 + 1e-6)
        # Five deviations of a uniform sample's mean square, bound^2 * sqrt(4 / 45 / n).
        assert weight.square().mean().item() == pytest.approx(bound**2 / 3, abs=5 * bound**2 * math.sqrt(4 / 45 / n))
    assert all(bias.abs().max() == 0 for bias in model.biases)


def test_he_and_zero_initial_weights() -> None:
    model = MLP(300, 200, units=[250], init="he_normal", activation="relu")
    model.initialise(generator())
    for weight in model.weights:
        sigma, n = math.sqrt(2 / weight.shape[0]), weight.numel()
        assert weight.mean().item() == pytest.approx(0.0, abs=5 * sigma / math.sqrt(n))
        assert weight.std().item() == pytest.approx(sigma, abs=5 * sigma / math.sqrt(2 * n))
    model.init = "zeros"
    model.initialise(generator())
    assert all(parameter.abs().max() == 0 for parameter in model.parameters())


def test_initialise_is_a_function_of_its_generator() -> None:
    before = torch.get_rng_state()
    one, other = (MLP(20, 5, units=[7, 6]) for _ in range(2))
    one.initialise(generator(3))
    other.initialise(generator(3))
    assert all(torch.equal(p, q) for p, q in zip(one.parameters(), other.parameters(), strict=True))
    assert torch.equal(torch.get_rng_state(), before)


def stack() -> list[RBM | Autoencoder]:
    layers = [RBM(30, 20), Autoencoder(20, 15), RBM(15, 10)]
    for number, layer in enumerate(layers):
        layer.initialise(torch.rand(layer.W.shape[0], generator=generator(number)), generator(number))
        with torch.no_grad():  # as if trained: biases that are not 0
            layer.hbias.normal_(generator=generator(number))
    return layers


def test_the_unrolled_classifier_computes_what_the_stack_encodes() -> None:
    x = torch.rand(50, 30, generator=generator(9), dtype=torch.float64)
    layers = [layer.double() for layer in stack()]
    model = MLP(30, 10, units=[20, 15, 10, 5]).double()
    model.initialise(generator())
    untouched = [model.weights[3].clone(), model.weights[4].clone()]
    model.unroll([layer.encoder() for layer in layers])
    hidden, expected = model.hidden(x), x
    for layer, activation in zip(layers, hidden, strict=False):
        expected = layer.encode(expected)
        # The parameters are equal; the classifier adds the bias inside the product, which rounds in another order.
        torch.testing.assert_close(activation, expected, rtol=1e-13, atol=0.0)
    for layer, weight, bias in zip(layers, model.weights, model.biases, strict=False):
        assert torch.equal(weight, layer.W)
        assert torch.equal(bias, layer.hbias)
    assert torch.equal(model.weights[3], untouched[0])
    assert torch.equal(model.weights[4], untouched[1])
    torch.testing.assert_close(model(x), hidden[-1] @ model.weights[4] + model.biases[4], rtol=1e-11, atol=1e-12)


def test_the_classifier_owns_its_copy() -> None:
    layers = stack()
    model = MLP(30, 10, units=[20])
    model.unroll([layers[0].encoder()])
    with torch.no_grad():
        model.weights[0].zero_()
    assert layers[0].W.abs().max() > 0


def test_a_stack_that_does_not_fit_is_refused() -> None:
    encoders = [layer.encoder() for layer in stack()]
    with pytest.raises(ValueError, match="3 pretrained layers for 2 hidden layers"):
        MLP(30, 10, units=[20, 15]).unroll(encoders)
    with pytest.raises(ValueError, match="hidden layer 2 is 20 x 16, the pretrained one 20 x 15"):
        MLP(30, 10, units=[20, 16, 10]).unroll(encoders)


def test_without_hidden_layers_it_is_logistic_regression() -> None:
    """At scikit-learn's solution the logits agree and the gradient of the same objective vanishes."""
    inputs, targets = load_digits(return_X_y=True)
    inputs, targets = inputs[:300] / 16, targets[:300]
    reference = LogisticRegression(C=1.0, tol=1e-8, max_iter=2000).fit(inputs, targets)
    x, y = torch.tensor(inputs), torch.tensor(targets)
    model = MLP(64, 10, units=()).double()
    with torch.no_grad():
        model.weights[0].copy_(torch.tensor(reference.coef_.T))
        model.biases[0].copy_(torch.tensor(reference.intercept_))
    torch.testing.assert_close(model(x).detach(), torch.tensor(reference.decision_function(inputs)))
    # scikit-learn: C * summed loss + |W|^2 / 2, here divided by C * n.
    (cross_entropy(model(x), y) + model.weights[0].square().sum() / (2 * len(x))).backward()
    for parameter in model.parameters():
        assert parameter.grad is not None
        # lbfgs stops at a gradient of tol, or where float64 shows no more progress of the loss: about sqrt(1e-16).
        assert parameter.grad.abs().max() < 1e-7


@pytest.mark.parametrize("activation", ["sigmoid", "tanh", "relu"])
def test_forward_is_the_definition(activation: str) -> None:
    model = MLP(5, 3, units=[4, 6], activation=activation).double()  # type: ignore[arg-type]
    model.initialise(generator())
    with torch.no_grad():
        for bias in model.biases:
            bias.normal_(generator=generator(1))
    x = torch.randn(7, 5, generator=generator(2), dtype=torch.float64)
    f = {"sigmoid": lambda a: 1 / (1 + torch.exp(-a)), "tanh": torch.tanh, "relu": lambda a: a.clamp(min=0)}[activation]
    W, b = model.weights, model.biases
    expected = f(f(x @ W[0] + b[0]) @ W[1] + b[1]) @ W[2] + b[2]
    torch.testing.assert_close(model(x), expected)


def test_dropout_silences_hidden_units_and_keeps_their_mean() -> None:
    share = 0.3
    model = MLP(5, 2, units=[400], dropout=share)
    model.initialise(generator())
    x = torch.ones(500, 5)
    dropped = model.hidden(x, generator(1))[0]
    n, silent = dropped.numel(), dropped == 0
    # Three standard deviations of a binomial share.
    assert silent.float().mean().item() == pytest.approx(share, abs=3 * math.sqrt(share * (1 - share) / n))
    model.eval()
    whole = model.hidden(x)[0]
    torch.testing.assert_close(dropped[~silent], whole[~silent] / (1 - share))


def test_dropout_draws_from_its_generator_in_training_only() -> None:
    model = MLP(5, 2, units=[40, 30], dropout=0.5)
    model.initialise(generator())
    x = torch.rand(8, 5, generator=generator(1))
    assert torch.equal(model(x, generator(2)), model(x, generator(2)))
    assert not torch.equal(model(x, generator(2)), model(x, generator(3)))
    with pytest.raises(ValueError, match="dropout in training mode needs a generator"):
        model(x)
    model.eval()
    assert torch.equal(model(x), model(x, generator(2)))


def test_defaults_are_those_of_the_spec() -> None:
    defaults = {n: p.default for n, p in inspect.signature(MLP).parameters.items() if p.kind is p.KEYWORD_ONLY}
    del defaults["units"]
    expected = Mlp(units=()).arguments()
    del expected["units"]
    assert defaults == expected
