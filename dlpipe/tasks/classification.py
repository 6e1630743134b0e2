"""Classification: cross-entropy in nats, averaged over examples; errors in per cent."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

CHUNK = 4096
"""Examples that are classified at once; fixed, so that the sums are the same bytes whoever asks."""


class Classification:
    """Asked of a model that maps inputs [B, ...] to logits [B, classes]; targets are class numbers [B] int64."""

    def step(self, model: nn.Module, inputs: Tensor, targets: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """Adds the gradient of the batch's mean cross-entropy to `.grad`; returns that loss."""
        loss = cross_entropy(model(inputs, generator), targets)
        loss.backward()  # type: ignore[no-untyped-call]
        return {"loss": loss.detach()}

    def validate(self, model: nn.Module, inputs: Tensor, targets: Tensor) -> dict[str, float]:
        """`loss` in nats and `error` in per cent, over all examples, without dropout."""
        logits = self.logits(model, inputs)
        return {"loss": self.loss(logits, targets), "error": self.error(logits, targets)}

    @torch.no_grad()
    def logits(self, model: nn.Module, inputs: Tensor) -> Tensor:
        """[N, ...] -> [N, classes], with the model in evaluation mode for as long."""
        training = model.training
        model.eval()
        try:
            return torch.cat([model(chunk) for chunk in inputs.split(CHUNK)])
        finally:
            model.train(training)

    def loss(self, logits: Tensor, targets: Tensor) -> float:
        return float(cross_entropy(logits.double(), targets))

    def error(self, logits: Tensor, targets: Tensor) -> float:
        return 100.0 * float((logits.argmax(dim=1) != targets).double().mean())

    def confusion(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Counts [classes, classes] int64: row the true class, column the predicted one."""
        classes = logits.shape[1]
        # On the CPU: counting on CUDA has no deterministic form.
        return (targets * classes + logits.argmax(dim=1)).cpu().bincount(minlength=classes**2).reshape(classes, classes)
