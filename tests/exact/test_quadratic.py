"""Linear regression as a quadratic with known eigenvalues and optimum: gradient descent against its closed form."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from dlpipe.artifacts import Store
from dlpipe.datasets.generated import Linear
from dlpipe.models.mlp import MLP
from dlpipe.runtime.batches import Shuffled
from dlpipe.runtime.jobs import Job, Outcome
from dlpipe.runtime.loop import from_cleared, train
from dlpipe.runtime.streams import stream
from dlpipe.spec.datasets import Linear as LinearSpec
from dlpipe.spec.training import TrainingSpec
from dlpipe.tasks.regression import Regression, least_squares_loss
from tests.stages.test_prepare import arrays, make

FEATURES, CONDITION, N = 8, 50.0, 40
EIGENVALUES = CONDITION ** -np.linspace(0, 1, FEATURES)
Floats = NDArray[np.float64]


def examples(**fields: Any) -> tuple[Floats, Floats]:
    declared = {"features": FEATURES, "condition": CONDITION, "train": N, **fields}
    made = Linear.parse(Path(), LinearSpec.model_validate({"kind": "linear", **declared}))
    return made.inputs.astype(np.float64), made.targets.astype(np.float64)


class Descent:
    """The linear model, trained by the loop on all examples at once: its error in each direction, step by step."""

    def __init__(self, optimizer: dict[str, Any], steps: int, **fields: Any) -> None:
        x, y = examples()
        self.values, self.directions = np.linalg.eigh(x.T @ x / N)
        self.optimum = np.linalg.lstsq(x, y, rcond=None)[0]
        self.model = MLP(FEATURES, 1, units=[])
        self.model.initialise(stream(0, "start"))
        self.errors = [self.error()]
        task, data = Regression(), (torch.tensor(x, dtype=torch.float32), torch.tensor(y, dtype=torch.float32))
        step = from_cleared(self.model, partial(task.step, self.model))

        def and_look(*batch: Any) -> dict[str, Tensor]:
            self.errors.append(self.error())
            return dict(step(*batch))

        job = Job(self.model, and_look, dict, Shuffled(data), stage="s", phase="p", seed=0)
        declared = {"duration": {"steps": steps}, "validate_every": {"steps": 1}, "batch_size": N}
        spec = TrainingSpec.model_validate({**declared, "optimizer": {"kind": "sgd", **optimizer}, **fields})
        self.outcome: Outcome = train(job, spec)
        self.errors = [*self.errors[1:], self.error()]

    def error(self) -> Floats:
        """Along each eigenvector, then of the intercept, whose eigenvalue is 1."""
        w, b = (p.detach().double().numpy().flatten() for p in (self.model.weights[0], self.model.biases[0]))
        return np.append(self.directions.T @ (w - self.optimum), b)

    @property
    def all_values(self) -> Floats:
        return np.append(self.values, 1.0)


def test_the_covariance_of_the_training_examples_is_exactly_what_was_asked_for() -> None:
    x, y = examples()
    np.testing.assert_allclose(x.mean(axis=0), 0.0, atol=1e-7)  # inputs are float32
    values, directions = np.linalg.eigh(x.T @ x / N)
    np.testing.assert_allclose(values[::-1], EIGENVALUES, rtol=1e-5)
    assert np.abs(directions).max() < 0.95, "no axis is an eigenvector"
    assert abs(x @ np.linalg.lstsq(x, y, rcond=None)[0] - y).max() < 1e-5, "without noise it is fitted exactly"


def test_the_noise_has_its_deviation_and_test_examples_come_from_the_same_problem() -> None:
    x, y = examples(noise=0.3, train=20_000)
    w = np.linalg.lstsq(x, y, rcond=None)[0]
    assert (y - x @ w).std() == pytest.approx(0.3, rel=4 / math.sqrt(2 * 20_000))
    spec = LinearSpec(features=FEATURES, condition=CONDITION, train=N, test=20_000)
    made = Linear.parse(Path(), spec)
    assert made.test_inputs is not None
    assert made.test_targets is not None
    np.testing.assert_allclose(
        made.test_inputs @ np.linalg.lstsq(*examples(), rcond=None)[0], made.test_targets, atol=1e-4
    )
    values = np.linalg.eigvalsh(made.test_inputs.T @ made.test_inputs / 20_000)[::-1]
    np.testing.assert_allclose(values, EIGENVALUES, rtol=5 * math.sqrt(2 / 20_000))


@pytest.mark.parametrize("valid", [0, 15])
def test_preparing_it_keeps_all_examples_and_real_targets(tmp_path: Path, valid: int) -> None:
    spec = LinearSpec(features=FEATURES, train=N, valid=valid, test=10)
    made = make(spec, Store(tmp_path / "data", tmp_path / "results"))
    got = arrays(made)
    assert made.extra["classes"] == []
    assert got["train.targets"].dtype == np.float32
    assert [len(got[f"{part}.targets"]) for part in ("train", "valid", "test")] == [N, valid, 10]
    x = np.concatenate([got["train.inputs"], got["valid.inputs"]]).astype(np.float64)
    np.testing.assert_allclose(
        np.linalg.eigvalsh(x.T @ x / (N + valid))[::-1], 100.0 ** -np.linspace(0, 1, 8), rtol=1e-5
    )


def test_the_least_squares_loss_and_its_gradient_are_numpys() -> None:
    x, y = examples(noise=0.5)
    augmented = np.column_stack([x, np.ones(N)])
    solution = np.linalg.lstsq(augmented, y, rcond=None)[0]
    expected = float(((augmented @ solution - y) ** 2).mean()) / 2
    inputs, targets = torch.tensor(x, dtype=torch.float32), torch.tensor(y, dtype=torch.float32)
    assert least_squares_loss(inputs, targets) == pytest.approx(expected, rel=1e-6)
    model, task = MLP(FEATURES, 1, units=[]), Regression()
    model.initialise(stream(0, "start"))
    loss = task.step(model, inputs, targets, torch.Generator())["loss"]
    w, b = model.weights[0].detach().double().numpy()[:, 0], float(model.biases[0].detach())
    residual = x @ w + b - y
    np.testing.assert_allclose(model.weights[0].grad.numpy()[:, 0], x.T @ residual / N, rtol=1e-4, atol=1e-6)
    assert float(model.biases[0].grad) == pytest.approx(residual.mean(), rel=1e-4, abs=1e-6)
    assert float(loss) == pytest.approx((residual**2).mean() / 2, rel=1e-5)
    assert task.validate(model, inputs, targets)["rmse"] == pytest.approx(math.sqrt((residual**2).mean()), rel=1e-5)


@pytest.mark.parametrize("rate", [0.3, 1.0, 1.7])
def test_gradient_descent_shrinks_each_direction_by_its_own_factor(rate: float) -> None:
    """(1 - eta lambda)^t, for every eigenvector and every step."""
    descent = Descent({"learning_rate": rate}, steps=60)
    for t, error in enumerate(descent.errors):
        expected = (1 - rate * descent.all_values) ** t * descent.errors[0]
        np.testing.assert_allclose(error, expected, atol=2e-6)  # float32 weights of size 1, a few roundings
    losses = [metrics["train_loss"] for _, _, metrics in descent.outcome.validations]
    quadratic = [0.5 * float(descent.all_values @ error**2) for error in descent.errors[:-1]]
    np.testing.assert_allclose(losses, quadratic, rtol=1e-3, atol=1e-9)


@pytest.mark.parametrize(("factor", "diverges"), [(0.99, False), (1.01, True)])
def test_it_diverges_above_2_over_the_largest_eigenvalue_and_only_there(factor: float, diverges: bool) -> None:
    """1 % to either side. Above, the error grows by 1.02 a step, and the loss leaves float32 where that says: when the
    mean of the squared errors does, or their sum."""
    descent = Descent({"learning_rate": 2 * factor}, steps=2600, on_divergence="record")
    assert descent.outcome.diverged == diverges
    if diverges:
        growth = 2 * factor - 1
        fastest = float(np.linalg.norm(descent.errors[0][-2:]))  # both have eigenvalue 1
        of_sum, of_mean = (1 + math.log(2.0**64 / math.sqrt(n) / fastest, growth) for n in (N, 1))
        assert of_sum - 1 <= descent.outcome.validations[-1][0] <= of_mean + 1
    else:
        assert descent.outcome.validations[-1][2]["train_loss"] < 1e-12


@pytest.mark.parametrize("nesterov", [False, True])
def test_momentum_follows_its_recursion(nesterov: bool) -> None:
    """e(t+1) = (1 + beta - eta lambda) e(t) - beta e(t-1); with Nesterov's, (1 + beta) (1 - eta lambda) and
    beta (1 - eta lambda): torch's form keeps the point that looks ahead, from the first step on."""
    rate, beta = 0.9, 0.7
    descent = Descent({"learning_rate": rate, "momentum": beta, "nesterov": nesterov}, steps=80)
    shrunk = 1 - rate * descent.all_values
    now, later = (1 + beta) * shrunk if nesterov else shrunk + beta, beta * (shrunk if nesterov else 1.0)
    errors = descent.errors[:2]
    for t in range(2, 81):
        errors.append(now * errors[-1] - later * errors[-2])
        np.testing.assert_allclose(descent.errors[t], errors[-1], atol=5e-6)


def test_the_heavy_ball_with_its_best_constants_has_polyaks_rate() -> None:
    """(sqrt(kappa) - 1)/(sqrt(kappa) + 1) a step in the slowest direction, up to the factor 1 + c t of a double root;
    gradient descent with its best rate has (kappa - 1)/(kappa + 1)."""
    root = math.sqrt(CONDITION)
    polyak = (root - 1) / (root + 1)
    best = {"learning_rate": 4 / (1 + 1 / root) ** 2, "momentum": polyak**2}
    heavy, plain = Descent(best, steps=40), Descent({"learning_rate": 2 / (1 + 1 / CONDITION)}, steps=40)

    def rate(descent: Descent, start: int, end: int) -> float:
        first, last = (abs(descent.errors[t][0]) for t in (start, end))
        return float(last / first) ** (1 / (end - start))

    assert rate(plain, 20, 40) == pytest.approx((CONDITION - 1) / (CONDITION + 1), rel=1e-4)
    # (1 + 40 c) / (1 + 20 c) is between 1 and 2.
    assert polyak <= rate(heavy, 20, 40) <= 2 ** (1 / 20) * polyak


def test_golden_numbers() -> None:
    """The first example: if it changes, raise the version of the data set's spec."""
    x, y = examples()
    np.testing.assert_allclose(x[0], [0.6405, 0.8204, 0.0915, 0.183, 0.0173, 0.1484, -0.4128, 0.6882], atol=6e-5)
    assert y[0] == pytest.approx(-0.2083, abs=6e-5)
