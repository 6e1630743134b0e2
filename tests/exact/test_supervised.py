"""The supervised layer: its gradient by finite differences, and the perceptron of one hidden layer that it is."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from dlpipe.layers.supervised import Supervised
from dlpipe.models.mlp import MLP
from dlpipe.spec.base import FAMILIES
from dlpipe.spec.layers import LayerSpec

CLASSES = 3


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def make(dtype: torch.dtype = torch.float64) -> tuple[Supervised, Tensor, Tensor]:
    layer = Supervised(6, 4, classes=CLASSES).to(dtype)
    v = torch.rand(9, 6, generator=generator(1), dtype=dtype)
    layer.initialise(v.mean(0), generator(2))
    with torch.no_grad():
        layer.hbias.normal_(generator=generator(3))
        layer.ybias.normal_(generator=generator(4))
    return layer, v, torch.arange(9) % CLASSES


def test_the_gradient_by_finite_differences() -> None:
    layer, v, y = make()
    loss = layer.step(v, y, generator())["loss"]
    assert loss.item() == layer.validate(v, y)["loss"].item()
    step = 1e-5  # of a central difference: error about step^2 times a third derivative of order 1
    for parameter in layer.parameters():
        assert parameter.grad is not None
        values, gradient = parameter.detach().view(-1), parameter.grad.flatten()
        for i in range(len(values)):
            value, losses = values[i].item(), []
            for x in (value + step, value - step):
                values[i] = x
                losses.append(layer.validate(v, y)["loss"].item())
            values[i] = value
            assert gradient[i].item() == pytest.approx((losses[0] - losses[1]) / (2 * step), rel=1e-6, abs=1e-9)


def test_loss_and_error_in_the_papers_words() -> None:
    layer, v, y = make()
    with torch.no_grad():
        h = 1 / (1 + torch.exp(-(v @ layer.W + layer.hbias)))
        p = torch.exp(h @ layer.V + layer.ybias)
        p /= p.sum(1, keepdim=True)
    found = layer.validate(v, y)
    wrong = sum(int(row.argmax()) != int(label) for row, label in zip(p, y, strict=True))
    assert 0 < wrong < 9
    assert found["error"].item() == pytest.approx(100 * wrong / 9, rel=1e-14)
    expected = -sum(math.log(row[label]) for row, label in zip(p, y, strict=True)) / 9
    assert found["loss"].item() == pytest.approx(expected, rel=1e-13)


def test_it_is_a_perceptron_of_one_hidden_layer() -> None:
    """The same initial numbers, and after 60 steps of momentum the same weights, up to the rounding of float64."""
    layer, net = Supervised(6, 4, classes=CLASSES), MLP(6, CLASSES, units=[4], init="glorot_sigmoid")
    _, v, y = make()
    layer.initialise(v.mean(0), generator(5))
    net.initialise(generator(5))
    own = [layer.W, layer.hbias, layer.V, layer.ybias]
    its = [net.weights[0], net.biases[0], net.weights[1], net.biases[1]]
    assert all(torch.equal(one, other) for one, other in zip(own, its, strict=True))
    ours, theirs = (torch.optim.SGD(module.double().parameters(), lr=0.1, momentum=0.9) for module in (layer, net))
    for step in range(60):
        batch = torch.arange(9).roll(step)[:5]
        layer.step(v[batch], y[batch], generator())
        ours.step()
        theirs.zero_grad()
        cross_entropy(net(v[batch]), y[batch]).backward()  # type: ignore[no-untyped-call]
        theirs.step()
    torch.testing.assert_close(own, its, rtol=1e-11, atol=1e-13)
    weight, bias = layer.encoder()
    assert torch.equal(layer.encode(v), torch.sigmoid(v @ weight + bias))


def test_training_lowers_the_loss_of_what_it_was_trained_on() -> None:
    layer, v, y = make()
    before = layer.validate(v, y)
    for _ in range(300):
        layer.step(v, y, generator())
        with torch.no_grad():
            for parameter in layer.parameters():
                parameter -= 2 * parameter.grad  # type: ignore[operator]
    after = layer.validate(v, y)
    assert after["loss"] < 0.3 * before["loss"]
    assert after["error"] < before["error"]


def test_the_gradient_is_a_mean_over_the_batch() -> None:
    layer, v, y = make()
    layer.step(v, y, generator())
    once = [parameter.grad.clone() for parameter in layer.parameters() if parameter.grad is not None]
    layer.step(v.repeat(3, 1), y.repeat(3), generator())
    torch.testing.assert_close([parameter.grad for parameter in layer.parameters()], once, rtol=1e-12, atol=1e-14)


def test_it_draws_only_its_initial_weights() -> None:
    layer, v, y = make()
    random, before = generator(7), torch.get_rng_state()
    state = random.get_state()
    layer.step(v, y, random)
    layer.initialise(v.mean(0), generator(2))
    assert torch.equal(random.get_state(), state)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_step_follows_autocast() -> None:
    layer, v, y = make(torch.float32)
    layer.step(v, y, generator())
    exact = [parameter.grad.clone() for parameter in layer.parameters() if parameter.grad is not None]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        layer.step(v, y, generator())
    for parameter, gradient in zip(layer.parameters(), exact, strict=True):
        assert parameter.grad is not None
        assert parameter.grad.dtype == torch.float32
        assert (parameter.grad - gradient).norm() < 0.02 * gradient.norm()  # bfloat16 has a step of 2^-8 = 0.004


@pytest.mark.parametrize("kind", FAMILIES["layer"])
def test_a_layer_decodes_if_its_spec_says_so(kind: str) -> None:
    spec = FAMILIES["layer"][kind]()
    assert isinstance(spec, LayerSpec)
    work = spec.load()
    assert (hasattr(work, "decode"), hasattr(work, "decoder")) == (spec.decodes, spec.decodes)
