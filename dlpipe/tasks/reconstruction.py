"""Reconstruction: the model gives its input back. Loss and squared error are summed over the inputs' features.

Papers: hinton2006science (squared error an image; the comparison with principal components).

With the model's output a [B, features] for the input x, both means over the examples:

    cross_entropy: z = sigmoid(a),    L = sum_i softplus(a_i) - x_i a_i = - sum_i x_i log z_i + (1 - x_i) log(1 - z_i)
    squared:       z = a,             L = sum_i (z_i - x_i)^2
    reconstruction_error = sum_i (z_i - x_i)^2, whichever the loss
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, mse_loss

from dlpipe.tasks.base import CHUNK, Examples, Measured, outputs_of

SHOWN = 10


class Reconstruction:
    """Asked of a model that maps inputs [B, features] to as many outputs, before any sigmoid; targets are not used."""

    def __init__(self, loss: Literal["cross_entropy", "squared"] = "cross_entropy") -> None:
        self.squared = loss == "squared"

    def outputs(self, features: int, classes: int) -> int:
        """As many as inputs."""
        return features

    def step(self, model: nn.Module, inputs: Tensor, targets: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """Adds the gradient of the batch's mean L to `.grad`; returns that loss."""
        loss = self._criterion(model(inputs, generator), inputs) / len(inputs)
        loss.backward()  # type: ignore[no-untyped-call]
        return {"loss": loss.detach()}

    def validate(self, model: nn.Module, inputs: Tensor, targets: Tensor) -> dict[str, float]:
        """`loss` and `reconstruction_error`, means over all examples."""
        return self._errors(outputs_of(model, inputs), inputs)

    def measure(self, model: Any, splits: Mapping[str, Examples]) -> Measured:
        """Both means of every split. A model with a code is compared with principal components as wide as the code.

        These are of the splits' training examples. Such a model offers `encode`: [B, features] -> [B, code].
        """
        inputs = {name: split.inputs for name, split in splits.items()}
        outputs = {name: outputs_of(model, x) for name, x in inputs.items()}
        metrics = {
            f"{name}_{metric}": value
            for name, a in outputs.items()
            for metric, value in self._errors(a, inputs[name]).items()
        }
        shown = {"reconstruction_inputs": inputs["test"], "reconstructions_finetuned": self._mean(outputs["test"])}
        tensors = {}
        if hasattr(model, "encode"):
            code = torch.cat([model.encode(chunk).detach() for chunk in inputs["test"].split(CHUNK)])
            metrics |= _beside_pca(metrics["test_reconstruction_error"], inputs, code.shape[1])
            if code.shape[1] == 2:
                tensors = {"code": code, "code_classes": splits["test"].targets}
        return Measured(metrics, pictures={name: x[:SHOWN] for name, x in shown.items()}, tensors=tensors)

    def _errors(self, a: Tensor, x: Tensor) -> dict[str, float]:
        a, x = a.double(), x.double()
        squared = mse_loss(self._mean(a), x, reduction="sum")
        return {"loss": float(self._criterion(a, x)) / len(x), "reconstruction_error": float(squared) / len(x)}

    def _criterion(self, a: Tensor, x: Tensor) -> Tensor:
        """L summed over the examples."""
        return (mse_loss if self.squared else binary_cross_entropy_with_logits)(a, x, reduction="sum")

    def _mean(self, a: Tensor) -> Tensor:
        return a if self.squared else torch.sigmoid(a)


def _beside_pca(error: float, inputs: Mapping[str, Tensor], components: int) -> dict[str, float]:
    """The squared error of principal components on the test examples, and the model's `error` as a part of it."""
    pca = pca_error(inputs["train"], inputs["test"], components)
    return {"test_pca_reconstruction_error": pca, "test_ratio_to_pca": error / pca if pca else float("inf")}


def pca_error(train: Tensor, test: Tensor, components: int) -> float:
    """Squared error of `test` [N, features] seen through the first principal components of `train`, as above."""
    mean = train.double().mean(dim=0)
    covariance = torch.zeros(len(mean), len(mean), dtype=mean.dtype, device=mean.device)
    for chunk in train.split(CHUNK):
        centred = chunk.double() - mean
        covariance.addmm_(centred.T, centred)
    directions = torch.linalg.eigh(covariance).eigenvectors[:, -components:]  # eigenvalues ascend
    centred = test.double() - mean
    return float((centred - centred @ directions @ directions.T).square().sum()) / len(test)
