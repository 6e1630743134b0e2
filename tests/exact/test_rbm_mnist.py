"""RBMs with 16 hidden units on MNIST, whose log Z is a sum over 65,536 states: exact log-likelihoods against published
ones (PyDeep's tutorial on a small binary RBM, after melchior2016).

The setting is the tutorial's: 60,000 binarised digits, PCD-1 with 100 chains, batches of 100, learning rate 0.01, 50
epochs, and initial weights with the deviation of its uniform ones, 4 sqrt(6 / 800) / sqrt(3).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor

from dlpipe.datasets.mnist import Mnist
from dlpipe.layers import annealing
from dlpipe.layers.rbm import RBM
from dlpipe.spec.datasets import Mnist as MnistSpec
from tests.exact.small_rbms import generator, trained_by_pcd

pytestmark = [pytest.mark.mirror, pytest.mark.slow]  # four trainings of 30,000 updates: about five minutes


@pytest.fixture(scope="module")
def data(mirror: Path) -> tuple[Tensor, Tensor]:
    """Training and test digits [N, 784], 0 or 1."""
    digits = Mnist.parse(mirror / "mnist", MnistSpec())
    assert digits.test_inputs is not None
    train, test = (torch.from_numpy(part > 127).flatten(1).float() for part in (digits.inputs, digits.test_inputs))
    return train, test


@pytest.fixture(scope="module")
def trained(data: tuple[Tensor, Tensor]) -> Callable[[bool, bool], tuple[RBM, float]]:
    """The RBM, centred or not, of the digits or their negative, and its exact test log-likelihood in nats."""

    @cache
    def train(centred: bool, flipped: bool) -> tuple[RBM, float]:
        v, test = ((1 - part if flipped else part) for part in data)
        layer = trained_by_pcd(v, centred=centred, epochs=50, learning_rate=0.01, weight_scale=0.2)
        return layer, layer.log_likelihood(test.double()).mean().item()

    return train


@pytest.mark.parametrize(("centred", "published"), [(True, -142.56), (False, -149.05)], ids=["centred", "plain"])
def test_the_published_log_likelihood(
    centred: bool, published: float, trained: Callable[[bool, bool], tuple[RBM, float]]
) -> None:
    assert trained(centred, False)[1] == pytest.approx(published, abs=2)


def test_the_negative_is_nothing_to_a_centred_rbm_and_hard_for_a_plain_one(
    trained: Callable[[bool, bool], tuple[RBM, float]],
) -> None:
    """Published for the negative: -142.09 and -183.36."""
    assert trained(True, True)[1] == pytest.approx(trained(True, False)[1], abs=2)
    assert trained(False, True)[1] < trained(False, False)[1] - 20


@pytest.mark.parametrize("centred", [True, False], ids=["centred", "plain"])
def test_annealing_from_either_side_is_within_a_nat(
    centred: bool, data: tuple[Tensor, Tensor], trained: Callable[[bool, bool], tuple[RBM, float]]
) -> None:
    layer, _ = trained(centred, False)
    exact = float(layer.log_partition())
    base, betas = annealing.base_rates(layer, data[0].mean(0)), annealing.temperatures()
    start = data[0][:100].to(layer.W)
    samples = annealing.gibbs(layer, start, 1_000, generator(3))
    assert annealing.forward(layer, base, betas, 100, generator(1)).value == pytest.approx(exact, abs=1)
    assert annealing.reverse(layer, base, betas, samples, generator(2)).value == pytest.approx(exact, abs=1)
