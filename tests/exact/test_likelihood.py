"""The measure of an RBM's log-likelihood: exact where it can be, two estimates on either side where it cannot."""

from __future__ import annotations

import inspect

import pytest
import torch

from dlpipe.layers.rbm import RBM
from dlpipe.measures.likelihood import LogLikelihood, PseudoLikelihood
from dlpipe.spec import measures

MEASURE = LogLikelihood(chains=300, temperatures=(50, 200, 500), reverse=True, gibbs_steps=200)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def layer() -> RBM:
    rbm = RBM(9, 6)
    with torch.no_grad():
        for number, parameter in enumerate(rbm.parameters()):
            parameter.normal_(0.0, 0.7, generator=generator(number))
    return rbm


def splits(examples: int = 50) -> dict[str, torch.Tensor]:
    return {name: torch.rand(examples, 9, generator=generator(7)).round() for name in ("train", "test")}


def test_a_small_one_is_exact(layer: RBM) -> None:
    found = MEASURE(layer, {**splits(), "valid": torch.zeros(0, 9)}, generator()).metrics
    layer.double()
    exact = layer.log_likelihood(splits()["test"].double()).mean().item()
    assert set(found) == {"log_partition", "train_log_likelihood", "test_log_likelihood"}
    assert found["log_partition"] == pytest.approx(float(layer.log_partition()), rel=1e-12)
    assert found["test_log_likelihood"] == pytest.approx(exact, abs=1e-5)  # free energies are float32


def test_a_large_one_is_annealed_both_ways(layer: RBM, monkeypatch: pytest.MonkeyPatch) -> None:
    exact = MEASURE(layer, splits(), generator()).metrics
    monkeypatch.setattr("dlpipe.layers.rbm.ENUMERABLE", 5)
    found = MEASURE(layer, splits(), generator()).metrics
    for way in ("", "_reverse"):
        low, high = (found[f"log_partition{way}_{end}"] for end in ("low", "high"))
        assert low < exact["log_partition"] < high
        assert found[f"log_partition{way}"] == pytest.approx(exact["log_partition"], abs=0.1)
    for metric in ("log_likelihood", "reverse_log_likelihood"):
        assert found[f"test_{metric}"] == pytest.approx(exact["test_log_likelihood"], abs=0.1)
    assert found["test_log_likelihood"] != found["test_reverse_log_likelihood"]
    assert MEASURE(layer, splits(), generator()).metrics == found
    assert layer.W.dtype == torch.float32  # as it was


def test_fewer_examples_than_chains_are_taken_again_and_again(layer: RBM, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dlpipe.layers.rbm.ENUMERABLE", 5)
    assert "log_partition_reverse" in MEASURE(layer, splits(3), generator()).metrics


def test_an_infinite_end_is_left_out(layer: RBM, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dlpipe.layers.rbm.ENUMERABLE", 5)
    with torch.no_grad():
        layer.W.mul_(20)
    found = LogLikelihood(chains=2, temperatures=1, reverse=False, gibbs_steps=1)(layer, splits(), generator()).metrics
    assert "log_partition_low" not in found
    assert "log_partition_high" in found


def test_pseudo_likelihood_is_of_evenly_spaced_examples(layer: RBM) -> None:
    v = torch.rand(50, 9, generator=generator(7)).round()
    found = PseudoLikelihood(examples=20)(layer, {"train": v, "valid": v[:0], "test": v[:5]}, generator()).metrics
    spaced = [0, 2, 5, 7, 10, 12, 15, 17, 20, 22, 25, 27, 30, 32, 35, 37, 40, 42, 45, 47]
    for split, chosen in (("train", v[spaced]), ("test", v[:5])):
        mean = layer.pseudo_log_likelihood(chosen).mean().item()
        assert found.pop(f"{split}_pseudo_log_likelihood") == pytest.approx(mean, rel=1e-6)
    assert not found


@pytest.mark.parametrize("declared", [measures.LogLikelihood(), measures.PseudoLikelihood()])
def test_arguments_are_those_of_the_spec(declared: measures.MeasureSpec) -> None:
    names = {n for n, p in inspect.signature(declared.load()).parameters.items() if p.kind is p.KEYWORD_ONLY}
    assert names == set(declared.arguments())
