"""What a model is fed with when it writes: the tokens of the data, its own, or now this and now that.

Paper: bengio2015.

A model gives logits a_t for the token at step t + 1 and is told at that step which token it is to take for it. With
gold tokens y_t and the model's own, all steps of a training sequence at the update i have

    x_t = y_t                        with probability epsilon_i, a coin for every token of every sequence
    x_t ~ softmax(a_{t-1})           otherwise; no gradient goes through the draw
    objective: - log softmax(a_t)[y_{t+1}], whichever tokens were fed

    teacher forcing   epsilon_i = 1
    always sampling   epsilon_i = 0
    linear            epsilon_i = max(floor, start - slope i)
    exponential       epsilon_i = base^i
    inverse sigmoid   epsilon_i = k / (k + exp(i / k))

A model here is anything that maps tokens [B, T], a generator and a `state` to logits [B, T, tokens] and the state
after them: a recurrent network, or the decoder of one that has read something else before.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn


def teacher_forcing(step: int) -> float:
    return 1.0


def always_sampling(step: int) -> float:
    return 0.0


def linear(step: int, *, slope: float, start: float, floor: float) -> float:
    return max(floor, start - slope * step)


def exponential(step: int, *, base: float) -> float:
    return float(base**step)


def inverse_sigmoid(step: int, *, k: float) -> float:
    odds = math.exp(math.log(k) - step / k)  # k / exp(i / k), which does not overflow
    return odds / (1.0 + odds)


class RollOut(NamedTuple):
    """A model taken through sequences."""

    logits: Tensor
    """[B, T, tokens]."""
    fed: Tensor
    """[B, T] the tokens that it saw."""
    gold: Tensor
    """[B, T] bool: whether the data's was taken, be it that the model had the same."""


def roll_out(
    model: nn.Module,
    gold: Tensor,
    generator: torch.Generator | None = None,
    *,
    given: int,
    epsilon: float,
    state: Any = None,
) -> RollOut:
    """Through as many steps as gold [B, T] has, from `state`; the first `given` tokens, 1 or more, are gold.

    Each of the others is gold with probability `epsilon`, or else drawn from the step before. With 1 nothing is drawn,
    and all steps are one call of the model; otherwise each is one. The coins come first out of `generator`, all
    together; then what the steps draw.
    """
    coins = torch.ones(gold.shape, dtype=torch.bool, device=gold.device)
    if epsilon >= 1.0 or given >= gold.shape[1]:
        logits, _ = model(gold, generator, state=state)
        return RollOut(logits, gold, coins)
    coins[:, given:] = torch.rand(gold[:, given:].shape, generator=generator, device=gold.device) < epsilon
    logits, state = model(gold[:, :given], generator, state=state)
    steps, fed = [logits], [gold[:, :given]]
    for t in range(given, gold.shape[1]):
        own = drawn(logits[:, -1].detach(), generator=generator)
        token = torch.where(coins[:, t], gold[:, t], own)[:, None]
        logits, state = model(token, generator, state=state)
        steps.append(logits)
        fed.append(token)
    return RollOut(torch.cat(steps, dim=1), torch.cat(fed, dim=1), coins)


@torch.no_grad()
def continued(
    model: nn.Module,
    prompt: Tensor,
    steps: int,
    temperature: float = 1.0,
    generator: torch.Generator | None = None,
    state: Any = None,
) -> Tensor:
    """What the model writes after prompt [B, P], P not 0: tokens [B, steps], each fed back to it."""
    written, token = [], prompt
    for _ in range(steps):
        logits, state = model(token, state=state)
        token = drawn(logits[:, -1], temperature, generator)[:, None]
        written.append(token)
    return torch.cat(written, dim=1)


def drawn(logits: Tensor, temperature: float = 1.0, generator: torch.Generator | None = None) -> Tensor:
    """[B, tokens] -> [B] from softmax(logits / temperature); at temperature 0 the most likely, the first of equals."""
    if temperature == 0.0:
        return logits.argmax(dim=1)
    probabilities = torch.softmax(logits.float() / temperature, dim=1)
    return torch.multinomial(probabilities, 1, generator=generator)[:, 0]
