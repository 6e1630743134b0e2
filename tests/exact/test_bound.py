"""The variational bound of deep belief networks and deep Boltzmann machines against enumeration of small ones."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
from torch import Tensor

from dlpipe.layers import annealing
from dlpipe.layers.label_rbm import LabelRBM
from dlpipe.measures.bound import VariationalBound
from dlpipe.spec import measures
from tests.exact import test_dbm, test_dbn
from tests.exact.test_dbn import binary_states, generator

MEASURE = VariationalBound(chains=300, temperatures=(50, 200, 500), reverse=True, gibbs_steps=200, samples=20)
UNITS = pytest.mark.parametrize("units", [(5,), (6, 5), (5, 4, 5)], ids=["one", "two", "three"])
LABELS = pytest.mark.parametrize("labels", [True, False], ids=["labels", "plain"])


def expected_bound(model: Any, v: Tensor) -> Tensor:
    """E_q[log p(v | h_1) + ... + log p(h_{L-1}) - log q] by the sum over all states of the layers between."""
    log_top = torch.logsumexp(test_dbn.log_memory(model), dim=1)  # log p of every state of layer L-1
    depth = len(model.recognition)
    if not depth:
        return test_dbn.log_likelihood(model, v)
    layers = [v, *(binary_states(W.shape[1]) for W in model.recognition)]
    value = log_top.expand(len(layers[-2]), -1)  # [states of the layer below, states of this one]
    for k in reversed(range(depth)):
        below, here = layers[k], layers[k + 1]
        log_q = test_dbn.log_bernoulli(
            here, torch.sigmoid(below @ model.recognition[k] + model.recognition_biases[k])
        ).T
        log_p = test_dbn.log_bernoulli(below, torch.sigmoid(here @ model.generative[k] + model.generative_biases[k]))
        total = (log_q.exp() * (value + log_p - log_q)).sum(dim=1)  # [states of the layer below]
        value = total.expand(len(layers[k - 1]), -1) if k else total
    return value.detach()


@UNITS
@LABELS
def test_the_bound_of_a_belief_network_is_the_enumerated_one_and_below_the_likelihood(
    units: tuple[int, ...], labels: bool
) -> None:
    model = test_dbn.small(*units, labels=labels)
    v, _ = test_dbn.examples()
    log_z = model.normaliser().log_partition()
    drawn = torch.stack([model.unnormalised_bound(v, 1, generator(n)) for n in range(2_000)]) - log_z
    expected = expected_bound(model, v)
    error = drawn.std(0) / 2_000**0.5
    assert ((drawn.mean(0) - expected).abs() <= 5 * error + 1e-9).all()
    exact = test_dbn.log_likelihood(model, v)
    assert (expected <= exact + 1e-9).all()
    if len(units) > 1:
        assert (drawn.mean(0) < exact + 3 * error).all()
    torch.testing.assert_close(
        model.unnormalised_bound(v, 3, generator(1)),
        torch.stack([model.unnormalised_bound(v, 1, random) for random in [generator(1)] for _ in range(3)]).mean(0),
    )


@LABELS
def test_annealing_of_the_top_meets_enumeration(labels: bool) -> None:
    """Also where a label is among the visible units, of which one is on."""
    model = test_dbn.small(12, 8, labels=labels)
    if labels:
        assert isinstance(model.memory, LabelRBM)
    rbm = model.normaliser().float()
    mean = model.normaliser_means(test_dbn.examples(50)[0]).mean(0).float()
    base, betas = annealing.base_rates(rbm, mean), annealing.temperatures((50, 200, 500))
    exact = float(model.double().normaliser().log_partition())
    samples = annealing.gibbs(rbm.float(), mean.expand(500, -1), 500, generator(2))
    for estimate in (
        annealing.forward(rbm, base, betas, 500, generator(1)),
        annealing.reverse(rbm, base, betas, samples, generator(3)),
    ):
        assert estimate.value == pytest.approx(exact, abs=0.1)
        assert estimate.low <= exact <= estimate.high


def subject(kind: str) -> tuple[Any, dict[str, Tensor], Tensor]:
    """A model, splits of examples, and the exact log-likelihood of the test examples."""
    if kind == "dbm":
        model: Any = test_dbm.machine(8, 6, inputs=12)
        v = test_dbm.examples(50, 12)
        exact = model.log_likelihood(v)
    else:
        model = test_dbn.small(6, 5)
        v = test_dbn.examples(50)[0]
        exact = test_dbn.log_likelihood(model, v)
    return model.float(), {"train": v[:20].float(), "valid": v[:0].float(), "test": v.float()}, exact


@pytest.mark.parametrize("kind", ["dbm", "dbn"])
def test_the_measure_is_exact_for_small_models_and_annealed_for_others(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, splits, exact = subject(kind)
    found = MEASURE(model, splits, generator()).metrics
    assert set(found) == {"log_partition", "train_variational_bound", "test_variational_bound"}
    assert found["log_partition"] == pytest.approx(float(model.normaliser().log_partition()), abs=1e-4)
    assert found["test_variational_bound"] < exact.mean().item()
    monkeypatch.setattr("dlpipe.layers.rbm.ENUMERABLE", 3)
    annealed = MEASURE(model, splits, generator()).metrics
    for way, prefix in (("", ""), ("_reverse", "reverse_")):
        low, high = (annealed[f"log_partition{way}_{end}"] for end in ("low", "high"))
        assert low < found["log_partition"] < high
        difference = annealed[f"test_{prefix}variational_bound"] - found["test_variational_bound"]
        assert difference == pytest.approx(0.0, abs=0.1)
    assert MEASURE(model, splits, generator()).metrics == annealed


def test_arguments_are_those_of_the_spec() -> None:
    declared = measures.VariationalBound()
    names = {n for n, p in inspect.signature(VariationalBound).parameters.items() if p.kind is p.KEYWORD_ONLY}
    assert names == set(declared.arguments())
