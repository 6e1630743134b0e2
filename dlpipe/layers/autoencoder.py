"""Autoencoder with one sigmoid hidden layer, plain or denoising.

Papers: bengio2007 (greedy layerwise training of autoencoders), vincent2008 (denoising).

The input is corrupted, encoded, decoded, and compared with the clean input:

    x  = corrupt(v)                    masking: an input is set to 0 with probability `corruption`
                                       salt_and_pepper: with that probability to 0 or 1, by a fair coin
                                       gaussian: Normal(0, corruption^2) is added
    h  = sigmoid(x W + hbias)          encode
    a  = h W_prime + vbias             W_prime [hidden, visible]; tied: W_prime = W'
    cross_entropy: z = sigmoid(a),     L = sum_i softplus(a_i) - v_i a_i = - sum_i v_i log z_i + (1 - v_i) log(1 - z_i)
    squared:       z = a,              L = sum_i (z_i - v_i)^2

The objective is the mean of L over the batch. With da = (z - v) / B (squared: twice that) and
dh = da W_prime' * h (1 - h), its gradient is

    dW = x' dh,  dW_prime = h' da,  dhbias = sum of dh over the batch,  dvbias = sum of da;  tied: dW = x' dh + da' h

Shapes: v, x, a, z [B, visible], h [B, hidden], W [visible, hidden]. The batch is the last dimension but one throughout.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, mse_loss


class Autoencoder(nn.Module):
    """What a layer of `kind: autoencoder` is; the arguments are the fields of its spec.

    `step` writes the gradient into `.grad`, in closed form; nothing here depends on how it is then followed.
    """

    def __init__(
        self,
        visible: int,
        hidden: int,
        *,
        corruption: float = 0.0,
        corruption_kind: Literal["masking", "salt_and_pepper", "gaussian"] = "masking",
        tied: bool = True,
        reconstruction: Literal["cross_entropy", "squared"] = "cross_entropy",
    ) -> None:
        super().__init__()
        self.corruption = corruption
        self.corruption_kind = corruption_kind
        self.tied = tied
        self.squared = reconstruction == "squared"
        self.W = nn.Parameter(torch.zeros(visible, hidden))
        self.hbias = nn.Parameter(torch.zeros(hidden))
        self.vbias = nn.Parameter(torch.zeros(visible))
        if not tied:
            self.W_prime = nn.Parameter(torch.zeros(hidden, visible))

    @torch.no_grad()
    def initialise(self, mean: Tensor, generator: torch.Generator) -> None:
        """Weights for sigmoid units (glorot2010), hidden biases 0, visible biases from the data's `mean` [visible]."""
        bound = 4 * math.sqrt(6 / sum(self.W.shape))
        self.W.uniform_(-bound, bound, generator=generator)
        if not self.tied:
            self.W_prime.uniform_(-bound, bound, generator=generator)
        self.hbias.zero_()
        # An input that is always 0 in the sample would get a bias of minus infinity.
        self.vbias.copy_(mean if self.squared else torch.logit(mean.clamp(0.01, 0.99)))

    def corrupt(self, v: Tensor, generator: torch.Generator) -> Tensor:
        """A corrupted copy of v [B, visible]; v itself where `corruption` is 0."""
        if not self.corruption:
            return v
        if self.corruption_kind == "gaussian":
            return v + self.corruption * torch.empty_like(v).normal_(generator=generator)
        u = torch.empty_like(v).uniform_(generator=generator)
        kept = v * (u >= self.corruption)
        if self.corruption_kind == "masking":
            return kept
        return kept + (u < self.corruption / 2)  # one draw decides whether to corrupt, and to which value

    def encode(self, v: Tensor) -> Tensor:
        """[B, visible] -> [B, hidden]: what the layer above is trained on, from clean input."""
        return torch.sigmoid(v @ self.W + self.hbias)

    def decode(self, h: Tensor) -> Tensor:
        """[B, hidden] -> [B, visible]."""
        return self._output(self._activation(h))

    def _activation(self, h: Tensor) -> Tensor:
        return h @ (self.W.mT if self.tied else self.W_prime) + self.vbias

    def _output(self, a: Tensor) -> Tensor:
        return a if self.squared else torch.sigmoid(a)

    def loss(self, a: Tensor, v: Tensor) -> Tensor:
        """The mean of L over the examples, of the decoder's activation a against the clean v, both [B, visible]."""
        criterion = mse_loss if self.squared else binary_cross_entropy_with_logits
        return criterion(a, v, reduction="sum") / v.shape[-2]

    @torch.no_grad()
    def step(self, v: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """Writes the gradient of the mean of L over the batch v [B, visible] into `.grad`; returns that `loss`."""
        x = self.corrupt(v, generator)
        h = self.encode(x)
        a = self._activation(h)
        da = (self._output(a) - v) * ((2 if self.squared else 1) / v.shape[-2])
        dh = da @ (self.W if self.tied else self.W_prime.mT) * h * (1 - h)
        if self.tied:  # both terms in one product: [visible, 2B] @ [2B, hidden]
            torch.matmul(torch.cat((x, da), dim=-2).mT, torch.cat((dh, h), dim=-2), out=gradient(self.W))
        else:
            torch.matmul(x.mT, dh, out=gradient(self.W))
            torch.matmul(h.mT, da, out=gradient(self.W_prime))
        torch.sum(dh, dim=-2, out=gradient(self.hbias))
        torch.sum(da, dim=-2, out=gradient(self.vbias))
        return {"loss": self.loss(a, v)}

    @torch.no_grad()
    def validate(self, v: Tensor) -> dict[str, Tensor]:
        """Means over the examples, from clean input: L, and the squared error summed over the inputs."""
        a = self._activation(self.encode(v))
        squared_error = mse_loss(self._output(a), v, reduction="sum") / v.shape[-2]
        return {"loss": self.loss(a, v), "reconstruction_error": squared_error}

    def encoder(self) -> tuple[Tensor, Tensor]:
        """Weight [visible, hidden] and bias [hidden] of the sigmoid layer that this one unrolls into."""
        return self.W.detach(), self.hbias.detach()


def gradient(parameter: Tensor) -> Tensor:
    """The parameter's `.grad`, allocated if there is none, to be written over."""
    if parameter.grad is None:
        parameter.grad = torch.empty_like(parameter)
    return parameter.grad
