"""What tests/exact/test_rbm_mnist.py asks of trained RBMs with 16 hidden units, in seconds: here of 8x8 digits.

600 updates of PCD-1 with 100 chains and batches of 100, learning rate 0.1; log Z is a sum over 65,536 states.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache

import pytest
import torch
from torch import Tensor

from dlpipe.layers import annealing
from dlpipe.layers.rbm import RBM
from tests.exact.small_rbms import generator, trained_by_pcd

Trained = Callable[[bool, bool], tuple[RBM, float]]
"""(centred, flipped) to the RBM and its exact test log-likelihood in nats."""


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """For products as small as these, several only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def trained(digits: tuple[Tensor, Tensor]) -> Trained:
    @cache
    def train(centred: bool, flipped: bool) -> tuple[RBM, float]:
        v, test = ((1 - part if flipped else part) for part in digits)
        layer = trained_by_pcd(v, centred=centred, epochs=60, learning_rate=0.1, weight_scale=0.1)
        return layer, layer.log_likelihood(test.double()).mean().item()

    return train


@pytest.mark.parametrize("flipped", [False, True], ids=["digits", "negative"])
@pytest.mark.parametrize("centred", [True, False], ids=["centred", "plain"])
def test_annealing_from_either_side_meets_enumeration(
    centred: bool, flipped: bool, digits: tuple[Tensor, Tensor], trained: Trained
) -> None:
    """Within 1 nat is what is wanted; within 0.09 was measured, over six seeds, and 0.2 is asked for."""
    layer, _ = trained(centred, flipped)
    v = (1 - digits[0] if flipped else digits[0]).double()
    exact = float(layer.log_partition())
    base, betas = annealing.base_rates(layer, v.mean(0)), annealing.temperatures((20, 100, 300))
    samples = annealing.gibbs(layer, v[:100], 200, generator(3))
    assert annealing.forward(layer, base, betas, 100, generator(1)).value == pytest.approx(exact, abs=0.2)
    assert annealing.reverse(layer, base, betas, samples, generator(2)).value == pytest.approx(exact, abs=0.2)


def test_the_negative_is_nothing_to_a_centred_rbm_and_hard_for_a_plain_one(trained: Trained) -> None:
    """Over eight seeds the centred one's likelihoods, -20.3 to -20.4, were up to 0.05 nat apart, and the plain one lost
    1.4 to 3.6. At a lower rate or from smaller weights there are seeds of which it loses nothing."""
    assert trained(True, True)[1] == pytest.approx(trained(True, False)[1], abs=0.15)
    assert trained(False, True)[1] < trained(False, False)[1] - 1
