"""Optimisers by name: torch.optim's own updates on two groups of parameters, weights (decayed) and the rest (never).

What is under torch.optim's classes is called, not the classes: building one of those imports torch's compiler, which
takes as long as importing torch itself, and their state has no names to save it under.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import adagrad as _adagrad
from torch.optim import adam as _adam
from torch.optim import adamw as _adamw
from torch.optim import rmsprop as _rmsprop

Slots = dict[str, list[Any]]
Update = Callable[[list[Tensor], list[Tensor], Slots, float, float], None]
"""update(parameters, gradients, slots, lr, weight_decay): changes parameters and slots in place."""


class StackedParameter(nn.Parameter):
    """A parameter of several seeds, [seeds, ...]: a weight has three dimensions then, and a bias has two."""


@dataclass(frozen=True)
class _Group:
    names: list[str]
    parameters: list[Tensor]
    turned: list[bool]
    """Whether a matrix is stored column by column. It is then updated through its transpose, stored row by row:
    the fused updates are slow for any other parameter, and wrong for any other gradient."""
    views: list[Tensor]
    weight_decay: float
    slots: Slots


class Optimizer:
    """Parameters, what the optimiser remembers of each, and the update."""

    def __init__(
        self,
        parameters: Mapping[str, Tensor],
        update: Update,
        *,
        learning_rate: float,
        weight_decay: float,
        slots: tuple[str, ...] = (),
        counts_steps: bool = False,
    ) -> None:
        """`slots` are zero tensors like the parameter; `counts_steps` adds the slot `step`, a zero scalar."""
        self.learning_rate = learning_rate
        self.at = 0
        """The step that is being done, for an update that changes with it."""
        self._update = update
        self._groups = [_group(group, decay, slots, counts_steps) for group, decay in _split(parameters, weight_decay)]

    @torch.no_grad()
    def step(self, factor: float = 1.0, at: int = 0) -> None:
        """One update from the gradients in `.grad`, which are left as they are, at `factor` times the learning rate.

        `at` is the number of steps before it.
        """
        self.at = at
        for group in self._groups:
            gradients = [
                _gradient(parameter, turned) for parameter, turned in zip(group.parameters, group.turned, strict=True)
            ]
            self._update(group.views, gradients, group.slots, self.learning_rate * factor, group.weight_decay)

    def state(self) -> dict[str, Tensor]:
        """What is remembered, by `slot/parameter`: the tensors themselves, not copies."""
        return {
            f"{slot}/{name}": tensor
            for group in self._groups
            for slot, tensors in group.slots.items()
            for name, tensor in zip(group.names, tensors, strict=True)
        }

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Copies what was saved into place. Raises KeyError for a tensor that is missing."""
        for name, tensor in self.state().items():
            tensor.copy_(state[name])


def _group(group: Mapping[str, Tensor], decay: float, slots: tuple[str, ...], counts_steps: bool) -> _Group:
    parameters = list(group.values())
    turned = [parameter.ndim >= 2 and not parameter.is_contiguous() for parameter in parameters]
    views = [p.detach().mT if turn else p.detach() for p, turn in zip(parameters, turned, strict=True)]
    memory = {slot: [torch.zeros_like(view) for view in views] for slot in slots}
    if counts_steps:
        memory["step"] = [torch.zeros((), device=view.device) for view in views]
    return _Group(list(group), parameters, turned, views, decay, memory)


def _gradient(parameter: Tensor, turned: bool) -> Tensor:
    assert parameter.grad is not None, "the step left no gradient for a parameter"
    return (parameter.grad.mT if turned else parameter.grad).contiguous()


def _split(parameters: Mapping[str, Tensor], weight_decay: float) -> list[tuple[dict[str, Tensor], float]]:
    """One group where nothing is decayed (one call a step instead of two); otherwise weights and the rest."""
    if weight_decay == 0.0:
        return [(dict(parameters), 0.0)]
    weights = {name: parameter for name, parameter in parameters.items() if _is_weight(parameter)}
    rest = {name: parameter for name, parameter in parameters.items() if name not in weights}
    return [(group, decay) for group, decay in ((weights, weight_decay), (rest, 0.0)) if group]


def _is_weight(parameter: Tensor) -> bool:
    return parameter.ndim - isinstance(parameter, StackedParameter) >= 2


def sgd(
    parameters: Mapping[str, Tensor],
    *,
    learning_rate: float,
    weight_decay: float,
    momentum: float,
    nesterov: bool,
    early_momentum: float | None = None,
    early_duration: int | None = None,
) -> Optimizer:
    """v <- momentum v + g; p <- p - lr v (nesterov: p - lr (g + momentum v)); g includes weight_decay p.

    In the first `early_duration` steps the momentum is `early_momentum`.
    """

    def update(parameters: Any, gradients: Any, slots: Slots, lr: float, weight_decay: float) -> None:
        now = momentum
        if early_momentum is not None and early_duration is not None and optimizer.at < early_duration:
            now = early_momentum
        # The operator behind torch.optim's fused SGD. What is around it costs more than a small network's update.
        torch._fused_sgd_(
            parameters,
            gradients,
            slots["velocity"] if momentum else [],
            momentum=now,
            nesterov=nesterov,
            dampening=0.0,
            maximize=False,
            is_first_step=False,  # a velocity of 0 gives what torch's first step gives
            lr=lr,
            weight_decay=weight_decay,
        )

    slots = ("velocity",) if momentum else ()
    optimizer = Optimizer(parameters, update, learning_rate=learning_rate, weight_decay=weight_decay, slots=slots)
    return optimizer


def adagrad(
    parameters: Mapping[str, Tensor], *, learning_rate: float, weight_decay: float, epsilon: float
) -> Optimizer:
    """s <- s + g^2; p <- p - lr g / (sqrt(s) + epsilon) (Duchi, Hazan and Singer 2011)."""

    def update(parameters: Any, gradients: Any, slots: Slots, lr: float, weight_decay: float) -> None:
        _adagrad.adagrad(
            parameters,
            gradients,
            slots["squares"],
            slots["step"],
            fused=True,
            lr_decay=0.0,
            eps=epsilon,
            maximize=False,
            lr=lr,
            weight_decay=weight_decay,
        )

    return Optimizer(
        parameters,
        update,
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        slots=("squares",),
        counts_steps=True,
    )


def rmsprop(
    parameters: Mapping[str, Tensor],
    *,
    learning_rate: float,
    weight_decay: float,
    decay: float,
    epsilon: float,
    momentum: float,
) -> Optimizer:
    """s <- decay s + (1 - decay) g^2; v <- momentum v + g / (sqrt(s) + epsilon); p <- p - lr v."""

    def update(parameters: Any, gradients: Any, slots: Slots, lr: float, weight_decay: float) -> None:
        _rmsprop.rmsprop(
            parameters,
            gradients,
            slots["squares"],
            [],
            slots["velocity"] if momentum else [],
            slots["step"],
            foreach=True,  # there is no fused form
            alpha=decay,
            eps=epsilon,
            momentum=momentum,
            centered=False,
            lr=lr,
            weight_decay=weight_decay,
        )

    slots = ("squares", "velocity") if momentum else ("squares",)
    return Optimizer(
        parameters, update, learning_rate=learning_rate, weight_decay=weight_decay, slots=slots, counts_steps=True
    )


def adam(
    parameters: Mapping[str, Tensor],
    *,
    learning_rate: float,
    weight_decay: float,
    beta1: float,
    beta2: float,
    epsilon: float,
) -> Optimizer:
    """Kingma and Ba 2015; the decay is an L2 penalty, part of the gradient."""
    return _adam_family(_adam.adam, parameters, learning_rate, weight_decay, beta1, beta2, epsilon)


def adamw(
    parameters: Mapping[str, Tensor],
    *,
    learning_rate: float,
    weight_decay: float,
    beta1: float,
    beta2: float,
    epsilon: float,
) -> Optimizer:
    """Adam with p <- p - lr weight_decay p beside its step (Loshchilov and Hutter 2019)."""
    return _adam_family(_adamw.adamw, parameters, learning_rate, weight_decay, beta1, beta2, epsilon)


def _adam_family(
    function: Callable[..., None],
    parameters: Mapping[str, Tensor],
    learning_rate: float,
    weight_decay: float,
    beta1: float,
    beta2: float,
    epsilon: float,
) -> Optimizer:
    def update(parameters: Any, gradients: Any, slots: Slots, lr: float, weight_decay: float) -> None:
        function(
            parameters,
            gradients,
            slots["means"],
            slots["squares"],
            [],
            slots["step"],
            fused=True,
            amsgrad=False,
            beta1=beta1,
            beta2=beta2,
            eps=epsilon,
            maximize=False,
            lr=lr,
            weight_decay=weight_decay,
        )

    return Optimizer(
        parameters,
        update,
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        slots=("means", "squares"),
        counts_steps=True,
    )
