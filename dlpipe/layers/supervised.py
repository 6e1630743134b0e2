"""One sigmoid hidden layer trained to classify; what it was trained with, the output layer, is thrown away afterwards.

Paper: bengio2007 (section 4: greedy layerwise training with a supervised criterion, beside RBMs and autoencoders);
glorot2010 (initial weights).

Each layer is the hidden layer of a classifier of its own, on what the layers below make of the labelled examples v with
their classes y, as one-hot rows:

    h = sigmoid(v W + hbias)           encode: all that the layer above, and the whole network, are given
    a = h V + ybias                    logits
    L = - sum_k y_k log softmax(a)_k

The objective is the mean of L over the batch of B examples. With da = (softmax(a) - y) / B, its gradient is

    dV = h' da,    dh = da V' * h (1 - h),    dW = v' dh
    dybias = sum of da over the batch,    dhbias = sum of dh

There is no way back from h to v: the layer does not decode.

Shapes: v [B, visible], h [B, hidden], a, y [B, classes], W [visible, hidden], V [hidden, classes]. The batch is the
last dimension but one throughout; a step takes all seeds of a block at once where everything has them for a further
first dimension.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import log_softmax, one_hot

from dlpipe.layers.units import Generators


class Supervised(nn.Module):
    """What a layer of `kind: supervised` is. `step` writes the gradient into `.grad`, in closed form."""

    def __init__(self, visible: int, hidden: int, *, classes: int) -> None:
        super().__init__()
        self.classes = classes
        self.W = nn.Parameter(torch.zeros(visible, hidden))
        self.hbias = nn.Parameter(torch.zeros(hidden))
        self.V = nn.Parameter(torch.zeros(hidden, classes))
        self.ybias = nn.Parameter(torch.zeros(classes))

    @torch.no_grad()
    def initialise(self, mean: Tensor, generator: torch.Generator) -> None:
        """As a perceptron of `init: glorot_sigmoid`, from the same numbers; biases 0. The `mean` is of no use."""
        for weight, scale in ((self.W, 4), (self.V, 1)):  # four times for the sigmoid's slope at 0; logits are linear
            bound = scale * math.sqrt(6 / sum(weight.shape))
            weight.uniform_(-bound, bound, generator=generator)
        self.hbias.zero_()
        self.ybias.zero_()

    def encode(self, v: Tensor) -> Tensor:
        """[B, visible] -> [B, hidden]: what the layer above is trained on."""
        return torch.sigmoid(v @ self.W + self.hbias.unsqueeze(-2))

    def logits(self, h: Tensor) -> Tensor:
        """[B, hidden] -> [B, classes]."""
        return h @ self.V + self.ybias.unsqueeze(-2)

    @torch.no_grad()
    def step(self, v: Tensor, targets: Tensor, generator: Generators) -> dict[str, Tensor]:
        """Writes the gradient of the batch's mean L into `.grad`; returns that `loss`, in nats. Draws nothing.

        v [B, visible], targets [B] int64: class numbers.
        """
        y = one_hot(targets, self.classes)
        h = self.encode(v)
        log_p = log_softmax(self.logits(h), dim=-1)
        da = (log_p.exp() - y) / v.shape[-2]
        dh = da @ self.V.mT * h * (1 - h)
        gradients = {self.W: v.mT @ dh, self.hbias: dh.sum(dim=-2), self.V: h.mT @ da, self.ybias: da.sum(dim=-2)}
        for parameter, gradient in gradients.items():
            parameter.grad = gradient.to(parameter.dtype)
        return {"loss": _mean_loss(log_p, y)}

    @torch.no_grad()
    def validate(self, v: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Means over the examples: `loss` in nats, `error` in per cent."""
        log_p = log_softmax(self.logits(self.encode(v)), dim=-1)
        error = 100 * (log_p.argmax(dim=-1) != targets).double().mean(dim=-1)
        return {"loss": _mean_loss(log_p, one_hot(targets, self.classes)), "error": error}

    def encoder(self) -> tuple[Tensor, Tensor]:
        """Weight [visible, hidden] and bias [hidden] of the sigmoid layer that this one unrolls into."""
        return self.W.detach(), self.hbias.detach()


def _mean_loss(log_p: Tensor, y: Tensor) -> Tensor:
    """L averaged over the examples, of log softmax(a) and the one-hot classes, both [B, classes]."""
    return -(y * log_p).sum(dim=(-2, -1)) / y.shape[-2]
