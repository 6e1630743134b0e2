"""Multilayer perceptron: a classifier of any depth, from random weights or unrolled from a pretrained stack.

Papers: erhan2010 (unrolling), glorot2010 and he2015 (initial weights), srivastava2014 (dropout).

    h_0 = x                                         [B, inputs]
    h_l = activation(h_{l-1} W_l + b_l)             [B, units_l], l = 1 ... L; in training some are silenced
    logits = h_L W_{L+1} + b_{L+1}                  [B, outputs]

Weights are stored [in, out], as the layers do that are pretrained. With no hidden layer this is logistic regression.
All seeds of a block go through at once where everything has them for a further first dimension.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from dlpipe.layers.units import Generators
from dlpipe.models.dropout import dropout

ACTIVATIONS = {"sigmoid": torch.sigmoid, "tanh": torch.tanh, "relu": torch.relu}
Init = Literal["uniform_fan_in", "glorot_uniform", "glorot_sigmoid", "he_normal", "zeros"]


class MLP(nn.Module):
    """What a model of `kind: mlp` is; the arguments are the fields of its spec."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        units: Sequence[int],
        activation: Literal["sigmoid", "tanh", "relu"] = "sigmoid",
        init: Init = "uniform_fan_in",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        sizes = [inputs, *units, outputs]
        self.activation = ACTIVATIONS[activation]
        self.init: Init = init
        self.dropout = dropout
        # Stored column by column, as torch's Linear does: the product that makes the gradient is a tenth faster so.
        self.weights = nn.ParameterList(torch.zeros(n, m).T for m, n in pairwise(sizes))
        self.biases = nn.ParameterList(torch.zeros(n) for n in sizes[1:])

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> None:
        """Draws every weight as `init` says, from the input upwards; biases are 0."""
        for layer, (W, b) in enumerate(zip(self.weights, self.biases, strict=True)):
            fan_in, fan_out = W.shape
            glorot = math.sqrt(6 / (fan_in + fan_out))
            # Four times is for the sigmoid's slope at 0; the output layer is linear.
            sigmoid = 4 if layer < len(self.weights) - 1 else 1
            drawn = torch.empty(W.shape, device=W.device)  # row by row, however W is stored
            if self.init == "he_normal":
                drawn.normal_(0.0, math.sqrt(2 / fan_in), generator=generator)
            elif self.init == "zeros":
                drawn.zero_()
            else:
                bounds = {
                    "uniform_fan_in": 1 / math.sqrt(fan_in),
                    "glorot_uniform": glorot,
                    "glorot_sigmoid": sigmoid * glorot,
                }
                drawn.uniform_(-bounds[self.init], bounds[self.init], generator=generator)
            W.copy_(drawn)
            b.zero_()

    @torch.no_grad()
    def unroll(self, encoders: Sequence[tuple[Tensor, Tensor]]) -> None:
        """Copies pretrained layers, bottom to top, over the lowest hidden layers; the rest keeps its initial weights.

        Each is a weight [in, out] and a bias [out]. Raises ValueError where there are too many or a shape differs.
        """
        if len(encoders) > len(self.weights) - 1:
            raise ValueError(f"{len(encoders)} pretrained layers for {len(self.weights) - 1} hidden layers")
        for layer, (weight, bias) in enumerate(encoders):
            W, b = self.weights[layer], self.biases[layer]
            if weight.shape != W.shape or bias.shape != b.shape:
                pretrained, own = " x ".join(map(str, weight.shape)), " x ".join(map(str, W.shape))
                raise ValueError(f"hidden layer {layer + 1} is {own}, the pretrained one {pretrained}")
            W.copy_(weight)
            b.copy_(bias)

    def top(self) -> list[nn.Parameter]:
        """Weight and bias of the output layer: what a linear probe of the rest trains."""
        return [self.weights[-1], self.biases[-1]]

    def hidden(self, x: Tensor, generator: Generators | None = None) -> list[Tensor]:
        """The hidden layers' activations [B, units_l], from the input upwards."""
        layers = []
        for W, b in list(zip(self.weights, self.biases, strict=True))[:-1]:
            x = dropout(self.activation(_affine(x, W, b)), self.dropout, generator, training=self.training)
            layers.append(x)
        return layers

    def forward(self, x: Tensor, generator: Generators | None = None) -> Tensor:
        """[B, inputs] -> logits [B, outputs]. Dropout acts in training mode and then draws from `generator`."""
        top = self.hidden(x, generator)[-1] if len(self.weights) > 1 else x
        return _affine(top, self.weights[-1], self.biases[-1])


def _affine(x: Tensor, W: Tensor, b: Tensor) -> Tensor:
    """x W + b, with or without a first dimension of seeds; the backward pass beats that of x @ W + b."""
    return torch.addmm(b, x, W) if W.ndim == 2 else torch.baddbmm(b.unsqueeze(-2), x, W)
