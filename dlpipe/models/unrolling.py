"""From pretrained layers to a model that has a place for each."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor


def copy_layers(given: Sequence[tuple[Tensor, Tensor]], weights: Sequence[Tensor], biases: Sequence[Tensor]) -> None:
    """Copies layers, each a weight and a bias, over a model's own, in their order.

    Raises ValueError where there is not one of fitting shape for each.
    """
    if len(given) != len(weights):
        raise ValueError(f"{len(given)} pretrained layers for the model's {len(weights)}")
    for layer, ((weight, bias), own, own_bias) in enumerate(zip(given, weights, biases, strict=True), start=1):
        if weight.shape != own.shape or bias.shape != own_bias.shape:
            pretrained, wanted = (" x ".join(map(str, each.shape)) for each in (weight, own))
            raise ValueError(f"layer {layer} is {wanted}, the pretrained one {pretrained}")
        own.copy_(weight)
        own_bias.copy_(bias)
