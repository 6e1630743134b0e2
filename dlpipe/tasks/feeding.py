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

These five (section 2.4 of the paper) are functions of i, the number of updates before this one.

A model here is anything that maps tokens [B, T], a generator and a `state` to logits [B, T, tokens] and the state
after them: a recurrent network, or the decoder of one that has read something else before.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from dlpipe.tasks.base import evaluating


def teacher_forcing(step: int) -> float:
    """Always the data's: the probability 1 at every update."""
    return 1.0


def always_sampling(step: int) -> float:
    """Always the model's own: the probability 0 at every update."""
    return 0.0


def linear(step: int, *, slope: float, start: float, floor: float) -> float:
    """From `start` down by `slope` an update to `floor`, both in [0, 1], after `step` updates."""
    return max(floor, start - slope * step)


def exponential(step: int, *, base: float) -> float:
    """From 1 towards 0 after `step` updates, each of which leaves the share `base` of it, in (0, 1)."""
    return float(base**step)


def inverse_sigmoid(step: int, *, k: float) -> float:
    """From k / (k + 1) towards 0 after `step` updates, a half after k log k of them; k is 1 or above."""
    odds = math.exp(math.log(k) - step / k)  # k / exp(i / k), which does not overflow
    return odds / (1.0 + odds)


class Fed(NamedTuple):
    """What a model is given, step by step."""

    tokens: Tensor
    """[B, T]."""
    gold: Tensor
    """[B, T] bool: whether the data's was taken, be it that the model had the same."""


def fed(
    model: nn.Module,
    gold: Tensor,
    generator: torch.Generator | None = None,
    *,
    given: int,
    epsilon: float,
) -> Fed:
    """Tokens to train on for gold [B, T]: the first `given`, 1 or more, are gold, each of the others with probability
    `epsilon`, or else it is the model's own, which is in evaluation mode.

    As no gradient goes through a draw, one call of the model on these tokens then gives the logits and the gradient of
    all steps. The coins come first out of `generator`, all together; then what the steps draw.
    """
    coins = torch.ones(gold.shape, dtype=torch.bool, device=gold.device)
    if epsilon >= 1.0 or given >= gold.shape[1]:
        return Fed(gold, coins)
    coins[:, given:] = torch.rand(gold[:, given:].shape, generator=generator, device=gold.device) < epsilon
    tokens, state = gold.clone(), None
    with evaluating(model):
        token = tokens[:, :given]
        for t in range(given, gold.shape[1]):
            logits, state = model(token, state=state)
            own = drawn(logits[:, -1], generator=generator)
            tokens[:, t] = torch.where(coins[:, t], gold[:, t], own)
            token = tokens[:, t : t + 1]
    return Fed(tokens, coins)


@torch.no_grad()
def continued(
    model: nn.Module,
    prompt: Tensor,
    steps: int,
    temperature: float = 1.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """What the model writes after prompt [B, P], P not 0: tokens [B, steps], each fed back to it."""
    written, token, state = [], prompt, None
    for _ in range(steps):
        logits, state = model(token, state=state)
        token = drawn(logits[:, -1], temperature, generator)[:, None]
        written.append(token)
    return torch.cat(written, dim=1)


def drawn(logits: Tensor, temperature: float = 1.0, generator: torch.Generator | None = None) -> Tensor:
    """[B, tokens] -> [B] from softmax(logits / temperature); at temperature 0 the most likely.

    With E exponentially distributed, logits / temperature - log E is largest at a token with just its probability (the
    Gumbel trick), in half the time of torch.multinomial.
    """
    noise = torch.empty_like(logits, dtype=torch.float32).exponential_(generator=generator).log_()
    return (logits - temperature * noise).argmax(dim=1)
