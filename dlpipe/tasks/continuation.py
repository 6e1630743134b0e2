"""Continuation: the rest of each sequence, from its first tokens, the prompt.

Paper: bengio2015 (scheduled sampling), there the rest from an image or from a sentence.

With the T_n tokens of sequence n, of which P are the prompt, and M = sum_n (T_n - P) tokens to be told:

    loss                  = 1/M sum - log p(y_t)      nats a token, p given all tokens of the data before it
    error                 = share of the y_t that are not the most likely token, given the same, in per cent
    free_running_error    = that given the prompt and after it what the model itself held for the most likely

The loss in training is given what was fed: see dlpipe/tasks/feeding.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from dlpipe.tasks.base import CHUNK, IGNORE_INDEX, Measured, Sequences, evaluating, of_every_sequence_split
from dlpipe.tasks.feeding import continued, fed


class Continuation:
    """Asked of a model that maps tokens [B, T] and a state to logits [B, T, tokens] and the state after them."""

    def __init__(self, prompt: int, feed: Callable[[int], float]) -> None:
        """`prompt`: tokens, 1 or more; `feed`: of an update's number, the probability of the data's token."""
        self.prompt, self.feed = prompt, feed
        self.epsilon = feed(0)

    def at(self, step: int) -> None:
        """Which update comes next."""
        self.epsilon = self.feed(step)

    def outputs(self, features: int, classes: int) -> int:
        """A logit a token."""
        return features

    def step(self, model: nn.Module, tokens: Tensor, lengths: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """Adds the gradient of the mean loss over the batch's tokens to `.grad`; tokens [B, T], lengths [B]."""
        targets = self.asked(tokens, lengths)
        inputs = fed(model, tokens[:, :-1], generator, given=self.prompt, epsilon=self.epsilon).tokens
        logits, _ = model(inputs, generator)
        loss = cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORE_INDEX)
        loss.backward()  # type: ignore[no-untyped-call]
        return {"loss": loss.detach(), "epsilon": loss.new_tensor(self.epsilon)}

    def asked(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """The token that follows each but the last, [B, T - 1]; -1 within the prompt and behind the end."""
        places = torch.arange(1, tokens.shape[1])
        there = (places >= self.prompt) & (places < lengths[:, None])
        return tokens[:, 1:].masked_fill(~there.to(tokens.device), IGNORE_INDEX)

    def validate(self, model: nn.Module, split: Sequences) -> dict[str, float]:
        """`loss`, `error` and `free_running_error`, over all tokens behind the prompts."""
        nats, wrong, wrong_alone, asked = 0.0, 0, 0, 0
        with evaluating(model):
            for tokens, lengths in split.chunks(CHUNK):
                targets = self.asked(tokens, lengths)
                logits, _ = model(tokens[:, :-1])
                nats += float(
                    cross_entropy(
                        logits.flatten(0, 1).double(), targets.flatten(), ignore_index=IGNORE_INDEX, reduction="sum"
                    )
                )
                there = targets != IGNORE_INDEX
                wrong += int(((logits.argmax(dim=2) != targets) & there).sum())
                alone = continued(model, tokens[:, : self.prompt], tokens.shape[1] - self.prompt, temperature=0.0)
                wrong_alone += int(((alone != tokens[:, self.prompt :]) & there[:, self.prompt - 1 :]).sum())
                asked += int(there.sum())
        return {"loss": nats / asked, "error": 100.0 * wrong / asked, "free_running_error": 100.0 * wrong_alone / asked}

    def measure(self, model: Any, splits: Mapping[str, Sequences]) -> Measured:
        """The same of every split."""
        return Measured(of_every_sequence_split(partial(self.validate, model), splits))
