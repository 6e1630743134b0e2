"""Each optimiser against its update written out, and against torch.optim's class of the same name."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from dlpipe.runtime.optimizers import Optimizer
from dlpipe.spec.optimizers import Adagrad, Adam, AdamW, OptimizerSpec, RmsProp, Sgd

SPECS: list[OptimizerSpec] = [
    Sgd(learning_rate=0.1),
    Sgd(learning_rate=0.1, weight_decay=0.01),
    Sgd(learning_rate=0.1, momentum=0.9, weight_decay=0.01),
    Sgd(learning_rate=0.1, momentum=0.9, nesterov=True),
    Adagrad(learning_rate=0.1, weight_decay=0.01),
    RmsProp(learning_rate=0.01, decay=0.9),
    RmsProp(learning_rate=0.01, momentum=0.5, weight_decay=0.01),
    Adam(learning_rate=0.01, weight_decay=0.01),
    AdamW(learning_rate=0.01, weight_decay=0.1),
]
STEPS = 7


def by_name(spec: OptimizerSpec) -> str:
    return "-".join(f"{value}" for value in spec.model_dump().values())


def parameters() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "weight": torch.randn(3, 5, generator=generator).requires_grad_(),
        "bias": torch.randn(5, generator=generator).requires_grad_(),
    }


def gradients(step: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(100 + step)
    return [torch.randn(3, 5, generator=generator), torch.randn(5, generator=generator)]


def optimizer(spec: OptimizerSpec, own: dict[str, Tensor]) -> Optimizer:
    made: Optimizer = spec.load()(own, **spec.arguments())
    return made


def run(spec: OptimizerSpec, factors: list[float]) -> dict[str, Tensor]:
    own = parameters()
    made = optimizer(spec, own)
    for step, factor in enumerate(factors):
        for parameter, gradient in zip(own.values(), gradients(step), strict=True):
            parameter.grad = gradient
        made.step(factor)
    return own


def by_hand(spec: Any, p: Tensor, grads: list[Tensor], factors: list[float]) -> Tensor:
    """The textbook's update of one tensor, in float64."""
    p, decay = p.detach().double(), spec.weight_decay if p.ndim >= 2 else 0.0
    m, s = torch.zeros_like(p), torch.zeros_like(p)
    for t, (factor, gradient) in enumerate(zip(factors, grads, strict=True), start=1):
        lr, g = spec.learning_rate * factor, gradient.double()
        if spec.kind == "adamw":
            p = p - lr * decay * p
        else:
            g = g + decay * p
        if spec.kind == "sgd":
            m = spec.momentum * m + g
            p = p - lr * (g + spec.momentum * m if spec.nesterov else m)
        elif spec.kind == "adagrad":
            s = s + g**2
            p = p - lr * g / (s.sqrt() + spec.epsilon)
        elif spec.kind == "rmsprop":
            s = spec.decay * s + (1 - spec.decay) * g**2
            m = spec.momentum * m + g / (s.sqrt() + spec.epsilon)
            p = p - lr * m
        else:
            m = spec.beta1 * m + (1 - spec.beta1) * g
            s = spec.beta2 * s + (1 - spec.beta2) * g**2
            unbiased = s / (1 - spec.beta2**t)
            p = p - lr * m / (1 - spec.beta1**t) / (unbiased.sqrt() + spec.epsilon)
    return p


@pytest.mark.parametrize("spec", SPECS, ids=by_name)
def test_update_is_the_textbooks(spec: OptimizerSpec) -> None:
    factors = [1.0, 1.0, 0.5, 0.5, 0.25, 0.0, 1.0]
    result = run(spec, factors)
    for position, (name, start) in enumerate(parameters().items()):
        expected = by_hand(spec, start, [gradients(step)[position] for step in range(STEPS)], factors)
        # Seven float32 updates against float64 ones: a few roundings of 6e-8 each.
        torch.testing.assert_close(result[name].detach().double(), expected, rtol=2e-6, atol=2e-6)


CLASSES: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": lambda groups, s: torch.optim.SGD(groups, lr=s.learning_rate, momentum=s.momentum, nesterov=s.nesterov),
    "adagrad": lambda groups, s: torch.optim.Adagrad(groups, lr=s.learning_rate, eps=s.epsilon),
    "rmsprop": lambda groups, s: torch.optim.RMSprop(
        groups, lr=s.learning_rate, alpha=s.decay, eps=s.epsilon, momentum=s.momentum
    ),
    "adam": lambda groups, s: torch.optim.Adam(groups, lr=s.learning_rate, betas=(s.beta1, s.beta2), eps=s.epsilon),
    "adamw": lambda groups, s: torch.optim.AdamW(groups, lr=s.learning_rate, betas=(s.beta1, s.beta2), eps=s.epsilon),
}


@pytest.mark.parametrize("spec", SPECS, ids=by_name)
def test_update_is_that_of_torch_optim(spec: Any) -> None:
    theirs = parameters()
    groups = [
        {"params": [theirs["weight"]], "weight_decay": spec.weight_decay},
        {"params": [theirs["bias"]], "weight_decay": 0.0},
    ]
    made = CLASSES[spec.kind](groups, spec)
    for step in range(STEPS):
        for parameter, gradient in zip(theirs.values(), gradients(step), strict=True):
            parameter.grad = gradient
        made.step()
    ours = run(spec, [1.0] * STEPS)
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name], tensor, rtol=2e-6, atol=2e-6)  # fused and plain forms round differently


@pytest.mark.parametrize("spec", SPECS, ids=by_name)
def test_restored_state_goes_on_with_the_same_bits(spec: OptimizerSpec) -> None:
    own = parameters()
    made = optimizer(spec, own)
    for step in range(STEPS):
        if step == 3:
            saved = {name: tensor.clone() for name, tensor in made.state().items()}
            made = optimizer(spec, own)
            made.load_state(saved)
        for parameter, gradient in zip(own.values(), gradients(step), strict=True):
            parameter.grad = gradient
        made.step()
    for name, tensor in run(spec, [1.0] * STEPS).items():
        assert torch.equal(own[name], tensor)


def by_columns(matrix: Tensor) -> Tensor:
    return matrix.detach().T.contiguous().T


@pytest.mark.parametrize("spec", SPECS, ids=by_name)
@pytest.mark.parametrize("turned", ["weight", "gradient", "both"])
def test_the_update_does_not_depend_on_how_a_matrix_lies_in_memory(spec: OptimizerSpec, turned: str) -> None:
    """By rows or by columns, in place; torch's fused updates on their own mix up elements where the two differ."""
    own = parameters()
    if turned != "gradient":
        own["weight"] = by_columns(own["weight"]).requires_grad_()
    made = optimizer(spec, own)
    for step in range(STEPS):
        weight, bias = gradients(step)
        own["weight"].grad = weight if turned == "weight" else by_columns(weight)
        own["bias"].grad = bias
        made.step()
    for name, tensor in run(spec, [1.0] * STEPS).items():
        # Vector instructions cover other elements, and the rest is rounded once more: a few float32 roundings.
        torch.testing.assert_close(own[name], tensor, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("nesterov", [False, True])
def test_momentum_is_early_momentum_at_first(nesterov: bool) -> None:
    """For three steps; the update written out."""
    spec = Sgd(learning_rate=0.1, momentum=0.9, nesterov=nesterov, weight_decay=0.01)
    own, theirs = parameters(), parameters()
    made = spec.load()(own, **spec.arguments() | {"early_momentum": 0.5, "early_duration": 3})
    velocities = {name: torch.zeros_like(p) for name, p in own.items()}
    for step in range(STEPS):
        momentum = 0.5 if step < 3 else 0.9
        for (name, parameter), gradient in zip(own.items(), gradients(step), strict=True):
            parameter.grad = gradient
            g = gradient + (0.01 if name == "weight" else 0.0) * theirs[name].detach()
            velocities[name] = momentum * velocities[name] + g
            with torch.no_grad():
                theirs[name] -= 0.1 * (g + momentum * velocities[name] if nesterov else velocities[name])
        made.step(1.0, step)
        for name in own:
            torch.testing.assert_close(own[name], theirs[name])


def test_biases_are_never_decayed_and_gradients_are_left_alone() -> None:
    own = parameters()
    bias, weight = own["bias"].detach().clone(), own["weight"].detach().clone()
    for parameter in own.values():
        parameter.grad = torch.zeros_like(parameter)
    optimizer(Sgd(learning_rate=0.1, weight_decay=0.5), own).step()
    assert torch.equal(own["bias"], bias)
    torch.testing.assert_close(own["weight"].detach(), weight * (1 - 0.1 * 0.5))
    assert math.isclose(float(own["weight"].grad.abs().sum()), 0.0)  # type: ignore[union-attr]
