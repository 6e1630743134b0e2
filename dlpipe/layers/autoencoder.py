"""Autoencoder with one hidden layer: plain, denoising, contractive or sparse, or several of these at once.

Papers: bengio2007 (greedy layerwise training of autoencoders), vincent2008 (denoising), vincent2010 (emphasis; salt and
pepper), rifai2011 (contractive), hinton2010 (the sparsity penalty, section 11, as the RBM has it), glorot2011
(rectified hidden units).

The input is corrupted, encoded, decoded, and compared with the clean input:

    x  = corrupt(v)                    masking: an input is set to 0 with probability `corruption`
                                       salt_and_pepper: with that probability to 0 or 1, by a fair coin
                                       gaussian: Normal(0, corruption^2) is added
    h  = sigmoid(x W + hbias)          encode;  rectified: max(0, x W + hbias)
    a  = h W_prime + vbias             W_prime [hidden, visible]; tied: W_prime = W'
    cross_entropy: z = sigmoid(a),     L = sum_i softplus(a_i) - v_i a_i = - sum_i v_i log z_i + (1 - v_i) log(1 - z_i)
    squared:       z = a,              L = sum_i (z_i - v_i)^2

Emphasis: the i-th term of L has the weight e_i, `corrupted_weight` (alpha) for the inputs chosen for corruption and
`untouched_weight` (beta) for the others. The objective is the mean of L over the batch, plus two penalties on the code,
each 0 unless asked for. With s = h (1 - h), the slope of the sigmoid:

    contraction * mean over the batch of C,    C = |dh/dx|_F^2 = sum_j s_j^2 |W_j|^2    W_j: column j of W
    sparsity_cost * sum_j KL(t | q_j),         q_j: unit j's mean in the batch, t: `sparsity_target`
                                               KL(t | q) = t log(t / q) + (1 - t) log((1 - t) / (1 - q))

With da = e (z - v) / B (squared: twice that), its gradient is

    dh = da W_prime' * s  +  2 contraction / B * s^2 (1 - 2 h) |W_j|^2  +  sparsity_cost / B * (q - t) / (q (1 - q)) * s
    dW = x' dh + 2 contraction * W * (mean of s^2 over the batch),    dW_prime = h' da    (tied: da' h is added to dW)
    dhbias = sum of dh over the batch,    dvbias = sum of da

Rectified units have the slope s = 1 where h > 0, else 0, and none of the penalties, which are of sigmoid units.

Shapes: v, x, a, z [B, visible], h, s [B, hidden], W [visible, hidden]. The batch is the last dimension but one
throughout; a step takes all seeds of a block at once where everything has them for a further first dimension.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, mse_loss

from dlpipe.layers.gradients import gradient, product
from dlpipe.layers.units import Generators, draw


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
        corrupted_weight: float = 1.0,
        untouched_weight: float = 1.0,
        contraction: float = 0.0,
        sparsity_target: float = 0.0,
        sparsity_cost: float = 0.0,
        hidden_units: Literal["sigmoid", "relu"] = "sigmoid",
    ) -> None:
        super().__init__()
        self.corruption = corruption
        self.corruption_kind = corruption_kind
        self.tied = tied
        self.squared = reconstruction == "squared"
        self.corrupted_weight = corrupted_weight
        self.untouched_weight = untouched_weight
        self.contraction = contraction
        self.sparsity_target = sparsity_target
        self.sparsity_cost = sparsity_cost
        self.rectified = hidden_units == "relu"
        self.W = nn.Parameter(torch.zeros(visible, hidden))
        self.hbias = nn.Parameter(torch.zeros(hidden))
        self.vbias = nn.Parameter(torch.zeros(visible))
        if not tied:
            self.W_prime = nn.Parameter(torch.zeros(hidden, visible))

    @torch.no_grad()
    def initialise(self, mean: Tensor, generator: torch.Generator) -> None:
        """Weights for the hidden units' slope, hidden biases 0, visible biases from the data's `mean` [visible].

        Four times glorot2010's for sigmoid units; twice its variance for rectified ones, half of which are 0 (he2015).
        """
        bound = (math.sqrt(2) if self.rectified else 4) * math.sqrt(6 / sum(self.W.shape))
        self.W.uniform_(-bound, bound, generator=generator)
        if not self.tied:
            self.W_prime.uniform_(-bound, bound, generator=generator)
        self.hbias.zero_()
        # An input that is always 0 in the sample would get a bias of minus infinity.
        self.vbias.copy_(mean if self.squared else torch.logit(mean.clamp(0.01, 0.99)))

    def corrupt(self, v: Tensor, generator: Generators) -> tuple[Tensor, Tensor | None]:
        """A corrupted copy of v [B, visible], and which inputs were chosen for that; v itself where `corruption` is 0.

        An input is chosen whether or not the corruption changes it: a 0 that is masked counts. None: all or none are.
        """
        if not self.corruption:
            return v, None
        if self.corruption_kind == "gaussian":
            return v + self.corruption * draw(Tensor.normal_, torch.empty_like(v), generator), None
        u = draw(Tensor.uniform_, torch.empty_like(v), generator)
        chosen = u < self.corruption
        kept = v * ~chosen
        if self.corruption_kind == "masking":
            return kept, chosen
        return kept + (u < self.corruption / 2), chosen  # one draw decides whether to corrupt, and to which value

    def encode(self, v: Tensor) -> Tensor:
        """[B, visible] -> [B, hidden]: what the layer above is trained on, from clean input."""
        total = v @ self.W + self.hbias.unsqueeze(-2)
        return torch.relu(total) if self.rectified else torch.sigmoid(total)

    def decode(self, h: Tensor) -> Tensor:
        """[B, hidden] -> [B, visible]."""
        return self._output(self._activation(h))

    def _activation(self, h: Tensor) -> Tensor:
        return h @ (self.W.mT if self.tied else self.W_prime) + self.vbias.unsqueeze(-2)

    def _output(self, a: Tensor) -> Tensor:
        return a if self.squared else torch.sigmoid(a)

    def loss(self, a: Tensor, v: Tensor, emphasis: Tensor | None = None) -> Tensor:
        """The mean of L over the examples, of the decoder's activation a against the clean v, both [B, visible]."""
        criterion = mse_loss if self.squared else binary_cross_entropy_with_logits
        terms = criterion(a, v, reduction="none")
        return (terms if emphasis is None else emphasis * terms).sum(dim=(-2, -1)) / v.shape[-2]

    @torch.no_grad()
    def step(self, v: Tensor, generator: Generators) -> dict[str, Tensor]:
        """Writes the gradient of the objective on the batch v [B, visible] into `.grad`.

        Returns `loss`, the mean of L, without penalties; besides, where they are penalised, the mean of C as
        `contraction` and the mean of the hidden units as `hidden_activity`.
        """
        x, chosen = self.corrupt(v, generator)
        emphasis = self._emphasis(v, chosen)
        h = self.encode(x)
        a = self._activation(h)
        da = (self._output(a) - v) * ((2 if self.squared else 1) / v.shape[-2])
        if emphasis is not None:
            da *= emphasis
        dh = da @ (self.W if self.tied else self.W_prime.mT)
        dh = dh * (h > 0) if self.rectified else dh * h * (1 - h)
        if self.contraction or self.sparsity_cost:
            dh = dh + self._penalty(h)
        if self.tied:  # both terms in one product: [visible, 2B] @ [2B, hidden]
            product(torch.cat((x, da), dim=-2).mT, torch.cat((dh, h), dim=-2), out=gradient(self.W))
        else:
            product(x.mT, dh, out=gradient(self.W))
            product(h.mT, da, out=gradient(self.W_prime))
        if self.contraction:
            gradient(self.W).addcmul_(self.W, _slope(h).square().mean(dim=-2, keepdim=True), value=2 * self.contraction)
        torch.sum(dh, dim=-2, out=gradient(self.hbias))
        torch.sum(da, dim=-2, out=gradient(self.vbias))
        return {"loss": self.loss(a, v, emphasis)} | self._code(h)

    def _emphasis(self, v: Tensor, chosen: Tensor | None) -> Tensor | None:
        """The weights e [B, visible] of the terms of L; None where all are 1."""
        if chosen is None or self.corrupted_weight == self.untouched_weight == 1:
            return None
        return torch.full_like(v, self.untouched_weight).masked_fill_(chosen, self.corrupted_weight)

    def _penalty(self, h: Tensor) -> Tensor:
        """Derivative of the two penalties by the hidden units' total input, [B, hidden]."""
        s = _slope(h)
        term = torch.zeros_like(s)
        if self.contraction:
            term += 2 * self.contraction / h.shape[-2] * s.square() * (1 - 2 * h) * self._column_norms()
        if self.sparsity_cost:
            q = h.mean(dim=-2, keepdim=True)
            slope = (q - self.sparsity_target) / (q * (1 - q)).clamp_min(torch.finfo(q.dtype).tiny)
            term += self.sparsity_cost / h.shape[-2] * slope * s
        return term

    def _column_norms(self) -> Tensor:
        """|W_j|^2, [1, hidden]."""
        return self.W.square().sum(dim=-2, keepdim=True)

    def _code(self, h: Tensor) -> dict[str, Tensor]:
        """What is recorded of the code h [B, hidden], where it is penalised."""
        metrics = {}
        if self.contraction:
            metrics["contraction"] = (_slope(h).square() * self._column_norms()).sum(dim=(-2, -1)) / h.shape[-2]
        if self.sparsity_cost:
            metrics["hidden_activity"] = h.mean(dim=(-2, -1))
        return metrics

    @torch.no_grad()
    def validate(self, v: Tensor) -> dict[str, Tensor]:
        """Means over the examples, from clean input: L with weights 1, and the squared error summed over the inputs.

        What is penalised comes besides, as from `step`.
        """
        h = self.encode(v)
        a = self._activation(h)
        squared_error = mse_loss(self._output(a), v, reduction="sum") / v.shape[-2]
        return {"loss": self.loss(a, v), "reconstruction_error": squared_error} | self._code(h)

    def encoder(self) -> tuple[Tensor, Tensor]:
        """Weight [visible, hidden] and bias [hidden] of the layer that this one unrolls into."""
        return self.W.detach(), self.hbias.detach()

    def decoder(self) -> tuple[Tensor, Tensor]:
        """Weight [hidden, visible] and bias [visible] of the way back down."""
        return (self.W.detach().mT if self.tied else self.W_prime.detach()), self.vbias.detach()


def _slope(h: Tensor) -> Tensor:
    """The derivative of a sigmoid unit's activity by its total input."""
    return h * (1 - h)
