"""Language model: the next token, be it a word or a character, from all those before it.

Papers: mikolov2010, zaremba2014 (truncated backpropagation with the state carried over; the loss's reduction).

With p_t the softmax of the output at step t and w_{t+1} the token that follows, over the T steps of a window and the
B columns of a batch:

    loss        = mean over all steps of - log p_t(w_{t+1})                 nats a token, as reported everywhere
    objective   = 1/B sum over columns, sum over steps = T loss             `over_time: sum`
    objective   = loss                                                      `over_time: mean`
    perplexity  = exp(loss)
    bits_per_token = loss / log 2                                           bits a character, of characters

The papers' learning rates are for the sum: with 20 steps and the mean the same rate would be a twentieth of theirs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from dlpipe.tasks.base import CHUNK, IGNORE_INDEX, Measured, Sequences, evaluating, of_every_sequence_split
from dlpipe.tasks.softmax import cross_entropy_in_place


class LanguageModel:
    """Asked of a model that maps tokens [B, T] and a state to logits [B, T, tokens] and the state after them."""

    def __init__(self, unroll: int, over_time: Literal["sum", "mean"] = "sum", columns: int = 20) -> None:
        """`columns`: how many stretches a split is read in, side by side, when it is evaluated; the state is carried
        through each."""
        self.unroll, self.over_time, self.columns = unroll, over_time, columns

    def outputs(self, features: int, classes: int) -> int:
        """A logit a token."""
        return features

    def step(
        self, model: nn.Module, tokens: Tensor, targets: Tensor, generator: torch.Generator, *, carried: list[Tensor]
    ) -> dict[str, Tensor]:
        """Adds the gradient of a window's objective to `.grad`; tokens and targets [B, T].

        `carried` is the state that the window before ended with, nothing at the beginning, and becomes this one's; the
        gradient ends there.
        """
        logits, state = model(tokens, generator, state=tuple(carried) or None)
        loss = cross_entropy_in_place(logits.flatten(0, 1), targets.flatten())
        objective = tokens.shape[1] * loss if self.over_time == "sum" else loss
        objective.backward()  # type: ignore[no-untyped-call]
        carried[:] = [tensor.detach() for tensor in state]
        return {"loss": loss.detach()}

    def validate(self, model: nn.Module, split: Sequences) -> dict[str, float]:
        """`loss`, `perplexity` and `bits_per_token`, over every token but the first."""
        loss = self.loss(model, split.inputs)
        return {"loss": loss, "perplexity": _exp(loss), "bits_per_token": loss / math.log(2)}

    def measure(self, model: Any, splits: Mapping[str, Sequences]) -> Measured:
        """The same of every split."""
        return Measured(of_every_sequence_split(partial(self.validate, model), splits))

    def loss(self, model: nn.Module, tokens: Tensor) -> float:
        """Nats a token of tokens [T], each but the first predicted once."""
        columns = min(self.columns, len(tokens) - 1)
        length = -(-(len(tokens) - 1) // columns)
        now, later = tokens[:-1], tokens[1:]
        missing = columns * length - len(now)  # at the end of the last column
        now = torch.cat((now, now.new_zeros(missing))).view(columns, length)
        later = torch.cat((later, later.new_full((missing,), IGNORE_INDEX))).view(columns, length)
        total, state, steps = 0.0, None, max(1, CHUNK // columns)
        with evaluating(model):
            for window, targets in zip(now.split(steps, dim=1), later.split(steps, dim=1), strict=True):
                logits, state = model(window, state=state)
                nats = cross_entropy(
                    logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORE_INDEX, reduction="none"
                )
                total += float(nats.double().sum())
        return total / (len(tokens) - 1)


def _exp(loss: float) -> float:
    """Infinite where it has no other value as a float."""
    return math.exp(loss) if loss < 700.0 else math.inf
