"""Classification: cross-entropy in nats, averaged over examples; errors in per cent."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from dlpipe.tasks.base import Examples, Measured, outputs_of

MISTAKES = 20


class Classification:
    """Asked of a model that maps inputs [B, ...] to logits [B, classes]; targets are class numbers [B] int64."""

    def outputs(self, features: int, classes: int) -> int:
        """A logit a class."""
        return classes

    def step(self, model: nn.Module, inputs: Tensor, targets: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """Adds the gradient of the batch's mean cross-entropy to `.grad`; returns that loss.

        Of a block of seeds, [seeds, B, ...] and [seeds, B], that of each.
        """
        loss = _mean_loss(model(inputs, generator), targets)
        loss.backward(torch.ones_like(loss))  # type: ignore[no-untyped-call]
        return {"loss": loss.detach()}

    def validate(self, model: nn.Module, inputs: Tensor, targets: Tensor) -> dict[str, float]:
        """`loss` in nats and `error` in per cent, over all examples, without dropout."""
        logits = self.logits(model, inputs)
        return {"loss": self.loss(logits, targets), "error": self.error(logits, targets)}

    def measure(self, model: nn.Module, splits: Mapping[str, Examples]) -> Measured:
        """Error and loss of every split; of the test examples the confusion and the first that are mistaken."""
        logits = {name: self.logits(model, split.inputs) for name, split in splits.items()}
        metrics: dict[str, float] = {}
        for name, values in logits.items():
            targets = splits[name].targets
            metrics |= {f"{name}_error": self.error(values, targets), f"{name}_loss": self.loss(values, targets)}
        test = splits["test"]
        wrong, labels = _mistakes(logits["test"], test.targets)
        return Measured(
            metrics,
            pictures={"examples_wrong": test.inputs[wrong]},
            tensors={"examples_wrong_labels": labels},
            of_each_seed={"confusion": self.confusion(logits["test"], test.targets)},
        )

    def logits(self, model: nn.Module, inputs: Tensor) -> Tensor:
        """[N, ...] -> [N, classes], with the model in evaluation mode for as long."""
        return outputs_of(model, inputs)

    def loss(self, logits: Tensor, targets: Tensor) -> float:
        """Mean cross-entropy in nats of logits [N, classes] and targets [N]."""
        return float(cross_entropy(logits.double(), targets))

    def error(self, logits: Tensor, targets: Tensor) -> float:
        """Per cent of the targets [N] that are not the largest of the logits [N, classes]."""
        return 100.0 * float((logits.argmax(dim=1) != targets).double().mean())

    def confusion(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Counts [classes, classes] int64: row the true class, column the predicted one."""
        classes = logits.shape[1]
        # On the CPU: counting on CUDA has no deterministic form.
        return (targets * classes + logits.argmax(dim=1)).cpu().bincount(minlength=classes**2).reshape(classes, classes)


def _mean_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """[B, classes] and [B] -> [], [seeds, B, classes] and [seeds, B] -> [seeds]."""
    if targets.ndim == 1:  # a fifth less of a small network's step than the other
        return cross_entropy(logits, targets)
    losses = cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
    return losses.view(targets.shape).mean(dim=-1)


def _mistakes(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Positions of the first examples that are classified wrongly, and their [true, predicted] classes."""
    predicted = logits.argmax(dim=1)
    wrong = (predicted != targets).nonzero().flatten()[:MISTAKES]
    return wrong, torch.stack((targets[wrong], predicted[wrong]), dim=1)
