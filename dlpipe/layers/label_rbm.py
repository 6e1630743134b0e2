"""Restricted Boltzmann machine of examples and their labels: a joint density, and a classifier by its free energy.

Papers: hinton2006 (the top of a deep belief network), larochelle2008 (as a classifier of its own).

Its visible side is an example v and its label y, one of C units that is on. With the label's weights U [C, hidden] and
biases d [C]:

    E(v, y, h) = - c.v - d_y - b.h - (v W + U_y).h
    p(h_j = 1 | v, y) = sigmoid(b + v W + U_y)_j
    p(v_i = 1 | h)    = sigmoid(c + h W')_i
    p(y | h)          = softmax(d + h U')_y                                      one of C, not C of which each may be on
    F(v, y)           = - c.v - d_y - sum_j softplus(b + v W + U_y)_j
    p(y | v)          = softmax over y of -F(v, y)                               exactly, as C is small
    p(v, y)           = exp(-F(v, y)) / Z

In all else, learning included, it is an RBM. The parameters `W` [visible + C, hidden] and `vbias` [visible + C] hold
those of v above those of y, so that the statistics of both are one product.

As just one label is on, what every U_y has in common could as well be in b. `encoder` puts the mean of the U_y there,
`labels` leaves it out: a network above that sees no label gets the bias of an average one.

Shapes: v [B, visible], targets [B] int64, joint [B, visible + C], h [B, hidden].
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, one_hot, softplus

from dlpipe.layers.rbm import RBM, squared_error
from dlpipe.layers.units import Bernoulli, Generators, Units, draw


class LabelRBM(RBM):
    """What a layer of `kind: label_rbm` is; `classes` apart, the arguments are the fields of its spec.

    What it has from `RBM` (conditionals, Gibbs steps, `free_energy`, `log_likelihood`) takes and gives v and y as one,
    as `join` makes it: of p(v, y). What the pipeline asks of a layer takes v.
    """

    def __init__(
        self,
        visible: int,
        hidden: int,
        *,
        classes: int,
        cd_steps: int = 1,
        persistent: bool = False,
        chains: int = 100,
        weight_scale: float = 0.01,
    ) -> None:
        super().__init__(
            visible + classes,
            hidden,
            cd_steps=cd_steps,
            persistent=persistent,
            chains=chains,
            weight_scale=weight_scale,
        )
        self.classes = classes
        self.visible_units = Labelled(classes)

    @torch.no_grad()
    def initialise(self, mean: Tensor, generator: torch.Generator) -> None:
        """As an RBM's, by the mean of v [visible]; the labels' biases are equal."""
        super().initialise(torch.cat((mean, mean.new_full((self.classes,), 1 / self.classes))), generator)

    def join(self, v: Tensor, targets: Tensor) -> Tensor:
        """v and its label as the visible side's state: [B, visible], [B] -> [B, visible + C]."""
        return torch.cat((v, one_hot(targets, self.classes).to(v)), dim=-1)

    # What the pipeline asks of a layer that sees labels

    def step(self, v: Tensor, targets: Tensor, generator: Generators) -> dict[str, Tensor]:  # type: ignore[override]
        """Writes the estimated gradient of the batch's mean -log p(v, y) into `.grad`; an RBM's metrics of both."""
        return super().step(self.join(v, targets), generator)

    def encode(self, v: Tensor) -> Tensor:
        """[B, visible] -> [B, hidden]: p(h | v, y) of a label of which each class is an equal part."""
        weight, bias = self.encoder()
        return torch.sigmoid(v @ weight + bias)

    def decode(self, h: Tensor) -> Tensor:
        """[B, hidden] -> [B, visible]: the mean of v."""
        return self.propdown(h)[..., : -self.classes]

    @torch.no_grad()
    def validate(self, v: Tensor, targets: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        """Means over the examples: the error of the likeliest label in per cent, -log p(y | v) in nats, the free energy
        of v and its label, and the squared error of v's mean-field reconstruction from v alone."""
        logits = -self.class_free_energies(v)
        return {
            "reconstruction_error": squared_error(self.decode(self.encode(v)), v),
            "free_energy": -logits.gather(-1, targets[..., None]).mean(),
            "loss": cross_entropy(logits, targets),
            "error": 100 * (logits.argmax(dim=-1) != targets).to(v.dtype).mean(),
        }

    def encoder(self) -> tuple[Tensor, Tensor]:
        """Weight [visible, hidden] and bias [hidden], an average label's part included."""
        return self.W.detach()[: -self.classes], self.hbias.detach() + self._label_weights().mean(dim=0)

    def decoder(self) -> tuple[Tensor, Tensor]:
        """Weight [hidden, visible] and bias [visible] of the way back to v."""
        return self.W.detach()[: -self.classes].mT, self.vbias.detach()[: -self.classes]

    def labels(self) -> tuple[Tensor, Tensor]:
        """Weights [C, hidden], without the part that the encoder's bias has, and biases [C] of the labels."""
        U = self._label_weights()
        return U - U.mean(dim=0), self.vbias.detach()[-self.classes :]

    def _label_weights(self) -> Tensor:
        return self.W.detach()[-self.classes :]

    # Classification

    def class_free_energies(self, v: Tensor) -> Tensor:
        """F(v, y) of every label in nats: [B, visible] -> [B, C]."""
        W, U = self.W[: -self.classes], self.W[-self.classes :]
        c, d = self.vbias[: -self.classes], self.vbias[-self.classes :]
        field = v @ W + self.hbias
        # One class after the other: [B, C, hidden] at once would be the largest tensor of all.
        hidden = torch.stack([softplus(field + label).sum(dim=-1) for label in U], dim=-1)
        return -(v @ c)[..., None] - d - hidden


class Labelled(Units):
    """Visible units of which the last C are a label's, one of them on; the others are Bernoulli."""

    def __init__(self, classes: int) -> None:
        self.classes, self.others = classes, Bernoulli()

    def _split(self, units: Tensor) -> tuple[Tensor, Tensor]:
        return units[..., : -self.classes], units[..., -self.classes :]

    def mean(self, total: Tensor) -> Tensor:
        others, label = self._split(total)
        return torch.cat((self.others.mean(others), torch.softmax(label, dim=-1)), dim=-1)

    def mean_and_sample(self, total: Tensor, generator: Generators) -> tuple[Tensor, Tensor]:
        others, label = self._split(total)
        mean, sample = self.others.mean_and_sample(others, generator)
        p = torch.softmax(label, dim=-1)
        uniform = draw(Tensor.uniform_, torch.empty_like(p[..., :1]), generator)
        drawn = (uniform >= p.cumsum(dim=-1)[..., :-1]).sum(dim=-1)
        label = one_hot(drawn, self.classes).to(p)
        return torch.cat((mean, p), dim=-1), torch.cat((sample, label), dim=-1)

    def bias_for(self, mean: Tensor) -> Tensor:
        others, label = self._split(mean)
        return torch.cat((self.others.bias_for(others), label.log()), dim=-1)

    def energy(self, u: Tensor, bias: Tensor) -> Tensor:
        return -(u * bias).sum(dim=-1)

    def log_normaliser(self, x: Tensor, bias: Tensor) -> Tensor:
        (x, x_label), (bias, bias_label) = self._split(x), self._split(bias)
        return self.others.log_normaliser(x, bias) + torch.logsumexp(x_label + bias_label, dim=-1)
