"""What is asked of whole sequences: their next frame, a class a step, or one number at the end.

Papers: boulanger-lewandowski2012, chung2014 (music: the log-likelihood of a frame of 88 keys); hochreiter1997 (the
adding problem).

With a_t the model's output at step t of a sequence, of which there are B in a batch, and M the steps asked for in all:

    next frame   a_t [features] from x_1 ... x_{t-1}, the first from a frame of zeros
                 nll_t = sum_i softplus(a_ti) - x_ti a_ti,  loss = 1/M sum nll_t        nats a frame
                 objective = 1/B sum nll_t (`over_time: sum`) or the loss (`over_time: mean`)
    tagging      loss = - 1/M sum log softmax(a_t)[y_t] over the steps with a y_t,      nats a step
                 error = the share of these where another class has the largest output
    regression   loss = 1/B sum (a_T - y)^2 / 2 with the output at the last step,       mse = twice that
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, mse_loss, pad

from dlpipe.tasks.base import CHUNK, IGNORE_INDEX, Measured, Sequences, evaluating, of_every_sequence_split


class NextFrame:
    """Asked of a model that maps frames [B, T, features] of zeros and ones to as many logits a step."""

    def __init__(self, over_time: Literal["sum", "mean"] = "sum") -> None:
        self.over_time = over_time

    def outputs(self, features: int, classes: int) -> int:
        """A logit a feature of a frame, such as a key."""
        return features

    def step(self, model: nn.Module, frames: Tensor, lengths: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """Adds the gradient of the batch's objective to `.grad`; frames [B, T, features], lengths [B]."""
        total, asked = self.nats(model, frames, lengths, generator), int(lengths.sum())
        objective = total / (len(frames) if self.over_time == "sum" else asked)
        objective.backward()  # type: ignore[no-untyped-call]
        return {"loss": total.detach() / asked}

    def nats(
        self, model: nn.Module, frames: Tensor, lengths: Tensor, generator: torch.Generator | None = None
    ) -> Tensor:
        """Minus the log-likelihood of all frames together."""
        before = pad(frames[:, :-1], (0, 0, 1, 0))
        logits, _ = model(before, generator, lengths=lengths)
        there = torch.arange(frames.shape[1]) < lengths[:, None]
        nats = binary_cross_entropy_with_logits(logits, frames, reduction="none").sum(dim=2)
        return (nats * there.to(nats.device)).sum()

    def validate(self, model: nn.Module, split: Sequences) -> dict[str, float]:
        """`loss`: nats a frame, over all frames of all sequences."""
        with evaluating(model):
            total = sum(float(self.nats(model, frames, lengths)) for frames, lengths in split.chunks(CHUNK))
        return {"loss": total / len(split.inputs)}

    def measure(self, model: Any, splits: Mapping[str, Sequences]) -> Measured:
        """The same of every split."""
        return Measured(of_every_sequence_split(partial(self.validate, model), splits))


class Tagging:
    """Asked of a model that maps sequences [B, T, ...] to logits [B, T, classes].

    Targets are class numbers [B, T] int64, -1 where nothing is asked.
    """

    def outputs(self, features: int, classes: int) -> int:
        """A logit a class."""
        return classes

    def step(
        self, model: nn.Module, inputs: Tensor, targets: Tensor, lengths: Tensor, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """Adds the gradient of the batch's mean cross-entropy a step to `.grad`; returns that loss."""
        logits, _ = model(inputs, generator, lengths=lengths)
        loss = cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORE_INDEX)
        loss.backward()  # type: ignore[no-untyped-call]
        return {"loss": loss.detach()}

    def validate(self, model: nn.Module, split: Sequences) -> dict[str, float]:
        """`loss` in nats a step and `error` in per cent of the steps, over all steps with a target."""
        nats, wrong, asked = 0.0, 0, 0
        with evaluating(model):
            for inputs, targets, lengths in split.chunks(CHUNK):
                logits, _ = model(inputs, lengths=lengths)
                there = targets != IGNORE_INDEX
                logits, targets = logits[there], targets[there]
                nats += float(cross_entropy(logits.double(), targets, reduction="sum"))
                wrong += int((logits.argmax(dim=1) != targets).sum())
                asked += len(targets)
        return {"loss": nats / asked, "error": 100.0 * wrong / asked}

    def measure(self, model: Any, splits: Mapping[str, Sequences]) -> Measured:
        """Both of every split."""
        return Measured(of_every_sequence_split(partial(self.validate, model), splits))


class SequenceRegression:
    """Asked of a model that maps sequences [B, T, ...] to one output a step, the last of which counts; targets [B]."""

    def outputs(self, features: int, classes: int) -> int:
        """The number itself, linear."""
        return 1

    def step(
        self, model: nn.Module, inputs: Tensor, targets: Tensor, lengths: Tensor, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """Adds the gradient of the batch's mean loss to `.grad`; returns that loss."""
        outputs, _ = model(inputs, generator, lengths=lengths)
        loss = mse_loss(_last(outputs, lengths), targets) / 2
        loss.backward()  # type: ignore[no-untyped-call]
        return {"loss": loss.detach()}

    def validate(self, model: nn.Module, split: Sequences) -> dict[str, float]:
        """`loss` and `mse`, the mean squared error, over all sequences."""
        squared = 0.0
        with evaluating(model):
            for inputs, targets, lengths in split.chunks(CHUNK):
                outputs, _ = model(inputs, lengths=lengths)
                squared += float(mse_loss(_last(outputs, lengths).double(), targets.double(), reduction="sum"))
        mse = squared / len(split.lengths)
        return {"loss": mse / 2, "mse": mse}

    def measure(self, model: Any, splits: Mapping[str, Sequences]) -> Measured:
        """Both of every split."""
        return Measured(of_every_sequence_split(partial(self.validate, model), splits))


def _last(outputs: Tensor, lengths: Tensor) -> Tensor:
    """The output [B] at the last step of each sequence, of outputs [B, T, 1]."""
    return outputs[torch.arange(len(outputs)), lengths - 1, 0]
