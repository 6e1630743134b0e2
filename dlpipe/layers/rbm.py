"""Restricted Boltzmann machine, trained by contrastive divergence or by persistent chains.

Papers: hinton2002 (contrastive divergence), tieleman2008 (persistent chains), tieleman2009 (fast weights), melchior2016
(centring), melchior2017 (Gaussian visible units, and where their RBM starts), nair2010 (rectified hidden units),
salakhutdinov2009 (doubled), hinton2010 (how to train it; the sections named below are that guide's).

Visible units v and hidden units h with W [visible, hidden], vbias [visible] = c, hbias [hidden] = b; here binary ones:

    E(v, h) = - c.v - b.h - v W h
    p(h_j = 1 | v) = sigmoid(b + v W)_j                propup
    p(v_i = 1 | h) = sigmoid(c + h W')_i               propdown
    F(v) = - c.v - sum_j softplus(b + v W)_j           free energy
    p(v) = exp(-F(v)) / Z

Gaussian units of variance 1, on one side, have |v - c|^2 / 2 in place of - c.v, for standardised data, or |h - b|^2 / 2
in place of - b.h, for a linear code (`dlpipe/layers/units.py`):

    v ~ Normal(c + h W', 1),    F(v) = |v - c|^2 / 2 - sum_j softplus(b + v W)_j
    h ~ Normal(b + v W, 1),     F(v) = - c.v - |b + v W|^2 / 2 + |b|^2 / 2 - hidden log(2 pi) / 2

Rectified hidden units have the same updates and no free energy. The gradient of -log p(v) is dF(v) minus its mean under
the model, which k steps of Gibbs sampling stand in for:

    -dF/dW = v E[h | v],    -dF/db = E[h | v],    -dF/dc = v    (Gaussian: less c or b, the same in both phases)

A centred RBM is trained by its own parameters, whose biases b', c' belong to units less their means mu, lambda:

    E(v, h) = - c'.(v - mu) - b'.(h - lambda) - (v - mu) W (h - lambda),    b' = b + mu W,    c' = c + W lambda

which is the same distribution. A step along its gradient is, in W, b and c (melchior2016, section 2),

    dW = dW_plain - mu db_plain' - dc_plain lambda',    db = db_plain - mu dW,    dc = dc_plain - dW lambda

so W, b and c are all that is kept, the offsets mu and lambda may move at any time, and exchanging 0 and 1 in the data
changes nothing.

Fast weights U, added to W where persistent chains move and nowhere else, follow the same gradient at a rate of their
own and fade: U <- 19/20 U - fast_rate dW; so do fast biases. They raise the energy where the particles just were, which
drives these on.

A doubled RBM (salakhutdinov2009, section 3.1) is a layer of a deep Boltzmann machine in the making. Its hidden units
will have input from above, too, and as long as they have none the input from below counts twice (`up`); in the top
layer it is the visible units that lack input from below (`down`):

    up      p(h_j = 1 | v) = sigmoid(b + 2 v W)_j,    p(v_i = 1 | h) = sigmoid(c + h W')_i
    down    p(h_j = 1 | v) = sigmoid(b + v W)_j,      p(v_i = 1 | h) = sigmoid(c + 2 h W')_i

So it has two tied copies of one side. Contrastive divergence takes both to be in the same state, as the authors' code
does, and its step is the plain one's at these conditionals: along the gradient for one of the copies. There is no
density of one v.

Shapes: v [B, visible], h [B, hidden]. The batch is the last dimension but one throughout; a step takes all seeds of a
block at once where everything, parameters and buffers too, has them for a further first dimension.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid, mse_loss

from dlpipe.layers.gradients import gradient, product
from dlpipe.layers.units import UNITS, Generators, Units

ENUMERABLE = 20  # units: a million states take about a second for a few hundred units on the other side
CHUNK = 14  # bits: states that are in memory at a time
FADING = 19 / 20  # of fast weights, at each step (tieleman2009)
OFFSET_RATE = 0.01  # share of a batch's means in the offsets of a centred RBM (melchior2016, algorithm 1)

Doubled = Literal["none", "up", "down"]
"""Which input counts twice: that of the hidden units, from below, or that of the visible units."""


class Conditionals:
    """One side given the other, at the parameters that a subclass has."""

    visible_units: Units
    hidden_units: Units
    W: Tensor
    hbias: Tensor
    vbias: Tensor
    doubled: Doubled = "none"

    def hidden_input(self, v: Tensor) -> Tensor:
        """The total input of the hidden units: [B, visible] -> [B, hidden]."""
        return v @ (2 * self.W if self.doubled == "up" else self.W) + self.hbias.unsqueeze(-2)

    def visible_input(self, h: Tensor) -> Tensor:
        """The total input of the visible units: [B, hidden] -> [B, visible]."""
        return h @ (2 * self.W if self.doubled == "down" else self.W).mT + self.vbias.unsqueeze(-2)

    def propup(self, v: Tensor) -> Tensor:
        """The mean of h given v: [B, visible] -> [B, hidden]."""
        return self.hidden_units.mean(self.hidden_input(v))

    def propdown(self, h: Tensor) -> Tensor:
        """The mean of v given h: [B, hidden] -> [B, visible]."""
        return self.visible_units.mean(self.visible_input(h))

    def sample_h_given_v(self, v: Tensor, generator: Generators) -> tuple[Tensor, Tensor]:
        """The means and a sample of the hidden units, both [B, hidden]."""
        return self.hidden_units.mean_and_sample(self.hidden_input(v), generator)

    def sample_v_given_h(self, h: Tensor, generator: Generators) -> tuple[Tensor, Tensor]:
        """The means and a sample of the visible units, both [B, visible]."""
        return self.visible_units.mean_and_sample(self.visible_input(h), generator)

    def gibbs_vhv(self, v: Tensor, generator: Generators) -> tuple[Tensor, Tensor]:
        """One step of Gibbs sampling from v [B, visible]: the means of the new v and a sample of it."""
        return self.sample_v_given_h(self.sample_h_given_v(v, generator)[1], generator)

    def gibbs_hvh(self, h: Tensor, generator: Generators) -> tuple[Tensor, Tensor]:
        """One step of Gibbs sampling from h [B, hidden]: the means of the new h and a sample of it."""
        return self.sample_h_given_v(self.sample_v_given_h(h, generator)[1], generator)


class RBM(Conditionals, nn.Module):
    """What a layer of `kind: rbm` is; the arguments are the fields of its spec.

    `step` writes the gradient of an update into `.grad`; learning rate, momentum and weight decay are the optimiser's.
    The state of persistent chains is the buffer `chains` [chains, hidden], the offsets of a centred RBM are
    `visible_offset` [visible] and `hidden_offset` [hidden], fast weights and biases are `fast_W`, `fast_hbias` and
    `fast_vbias`, shaped as the others; they are part of `state_dict()`.
    """

    particles: ClassVar[tuple[str, ...]] = ("chains",)
    """Buffers with a row a particle, which several processes share out."""
    averaged: ClassVar[tuple[str, ...]] = ("visible_offset", "hidden_offset", "fast_W", "fast_hbias", "fast_vbias")
    """Buffers that a step moves by means over its batch, which several processes average."""
    chains: Tensor
    visible_offset: Tensor
    hidden_offset: Tensor
    fast_W: Tensor
    fast_hbias: Tensor
    fast_vbias: Tensor

    def __init__(
        self,
        visible: int,
        hidden: int,
        *,
        visible_units: Literal["bernoulli", "gaussian"] = "bernoulli",
        hidden_units: Literal["bernoulli", "gaussian", "relu"] = "bernoulli",
        cd_steps: int = 1,
        sampled_reconstruction: bool = False,
        persistent: bool = False,
        chains: int = 100,
        fast_rate: float = 0.0,
        centred: bool = False,
        weight_scale: float = 0.01,
        initial_odds: float | None = None,
        sparsity_target: float = 0.0,
        sparsity_cost: float = 0.0,
        doubled: Doubled = "none",
    ) -> None:
        super().__init__()
        self.doubled = doubled
        self.visible_units, self.hidden_units = UNITS[visible_units], UNITS[hidden_units]
        self.gaussian = visible_units == "gaussian"
        self.cd_steps = cd_steps
        self.sampled_reconstruction = sampled_reconstruction
        self.persistent = persistent
        self.fast_rate = fast_rate
        self.centred = centred
        self.weight_scale = weight_scale
        self.initial_odds = initial_odds
        self.sparsity_target = sparsity_target
        self.sparsity_cost = sparsity_cost
        self.W = nn.Parameter(torch.zeros(visible, hidden))
        self.hbias = nn.Parameter(torch.zeros(hidden))
        self.vbias = nn.Parameter(torch.zeros(visible))
        if persistent:
            self.register_buffer("chains", torch.zeros(chains, hidden))
        if fast_rate:
            for name, parameter in dict(self.named_parameters()).items():
                self.register_buffer(f"fast_{name}", torch.zeros_like(parameter))
        if centred:
            self.register_buffer("visible_offset", torch.zeros(visible))
            self.register_buffer("hidden_offset", torch.zeros(hidden))

    @torch.no_grad()
    def initialise(self, mean: Tensor, generator: torch.Generator) -> None:
        """Section 8: small normal weights, hidden biases 0, visible biases that give the data's `mean` [visible].

        The biases of a centred RBM are so in its own parameters, with the means of either side's units as offsets.
        With `initial_odds`, hidden biases are such that p(one unit on) / p(none on) is that: where weights are large,
        biases of 0 would put most of the probability where many units are on, far from the data (melchior2017).
        """
        self.W.normal_(0.0, self.weight_scale, generator=generator)
        self.hbias.zero_()
        self.vbias.copy_(self.visible_units.bias_for(mean))
        if self.initial_odds is not None:
            none_on = self.visible_units.log_normaliser(torch.zeros_like(self.vbias), self.vbias)
            one_on = self.visible_units.log_normaliser(self.W.mT, self.vbias)  # [hidden]
            self.hbias.copy_(math.log(self.initial_odds) + none_on - one_on)
        if self.centred:
            self.visible_offset.copy_(mean)
            self.hidden_offset.copy_(self.hidden_units.mean(self.hbias))
            self.hbias.addmv_(self.W.mT, self.visible_offset, alpha=-1)
            self.vbias.addmv_(self.W, self.hidden_offset, alpha=-1)
        if self.persistent:
            self.chains.copy_(self.hidden_units.mean_and_sample(torch.zeros_like(self.chains), generator)[1])

    @torch.no_grad()
    def sample(self, count: int, gibbs_steps: int, generator: torch.Generator) -> Tensor:
        """Fantasies: the visible units after so many steps of Gibbs sampling, [count, visible].

        Of binary units the means, as pictures are shown; Gaussian ones are drawn, as all of their variance given h is
        part of the density, and their means are only as many points as there are states of h. The chains go on from the
        persistent ones, again and again where they are fewer; else from hidden units with no input.
        """
        if self.persistent:
            h = self.chains[torch.arange(count, device=self.W.device) % len(self.chains)]
        else:
            _, h = self.hidden_units.mean_and_sample(self.W.new_zeros(count, self.W.shape[1]), generator)
        for _ in range(gibbs_steps - 1):
            h = self.gibbs_hvh(h, generator)[1]
        return self.sample_v_given_h(h, generator)[1] if self.gaussian else self.propdown(h)

    # Learning

    @torch.no_grad()
    def step(self, v: Tensor, generator: Generators) -> dict[str, Tensor]:
        """Writes the estimated gradient of the batch's mean -log p(v), and of the sparsity penalty, into `.grad`.

        Returns `hidden_activity`, the mean of the hidden units given the data, and `reconstruction_error` unless the
        chains are persistent, which reconstruct nothing.
        """
        positive, h = (self.propup(v), self.chains) if self.persistent else self.sample_h_given_v(v, generator)
        particles, negative = self._negative_phase(h, generator)
        # One product of the two phases: [visible, 2B] @ [2B, hidden].
        dv = torch.cat((v, particles), dim=-2)
        dh = torch.cat((self._data_term(positive), negative / negative.shape[-2]), dim=-2)
        product(dv.mT, dh, out=gradient(self.W))
        torch.sum(dh, dim=-2, out=gradient(self.hbias))
        metrics = {"hidden_activity": positive.mean(dim=(-2, -1))}
        if self.persistent:
            torch.sub(particles.mean(dim=-2), v.mean(dim=-2), out=gradient(self.vbias))
        else:
            difference = particles - v
            torch.mean(difference, dim=-2, out=gradient(self.vbias))
            metrics["reconstruction_error"] = difference.square_().sum(dim=(-2, -1)) / v.shape[-2]
        if self.centred:
            self._centre(v, positive)
        if self.fast_rate:
            for fast, parameter in (
                (self.fast_W, self.W),
                (self.fast_hbias, self.hbias),
                (self.fast_vbias, self.vbias),
            ):
                fast.mul_(FADING).sub_(gradient(parameter), alpha=self.fast_rate)
        return metrics

    def _centre(self, v: Tensor, positive: Tensor) -> None:
        """Turns the plain gradient in `.grad` into the centred one; then moves the offsets to the batch's means."""
        mu, lam = self.visible_offset, self.hidden_offset
        dW, db, dc = gradient(self.W), gradient(self.hbias), gradient(self.vbias)
        dW.addcmul_(mu.unsqueeze(-1), db.unsqueeze(-2), value=-1)
        dW.addcmul_(dc.unsqueeze(-1), lam.unsqueeze(-2), value=-1)
        db.sub_((mu.unsqueeze(-2) @ dW).squeeze(-2))
        dc.sub_((dW @ lam.unsqueeze(-1)).squeeze(-1))
        mu.lerp_(v.mean(dim=-2), OFFSET_RATE)
        lam.lerp_(positive.mean(dim=-2), OFFSET_RATE)

    def _negative_phase(self, h: Tensor, generator: Generators) -> tuple[Tensor, Tensor]:
        """Particles v [B or chains, visible] after k steps of Gibbs sampling from h, and the mean of h given them.

        Hidden units that the data drive are sampled, those that the last particles drive are not (section 3.1). CD-1
        keeps the probabilities of its reconstruction (section 3.2), which is less noisy, unless told to sample it as in
        the authors' code of salakhutdinov2008; a longer chain always does, as otherwise it would not tend to the
        model's distribution as k grows.
        """
        model = Overlaid(self) if self.fast_rate else self
        for _ in range(self.cd_steps - 1):
            h = model.gibbs_hvh(h, generator)[1]
        mean_field = self.cd_steps == 1 and not (self.persistent or self.sampled_reconstruction)
        v = model.propdown(h) if mean_field else model.sample_v_given_h(h, generator)[1]
        if not self.persistent:
            return v, self.propup(v)
        negative, h = model.sample_h_given_v(v, generator)
        self.chains.copy_(h)
        return v, negative if model is self else self.propup(v)

    def _data_term(self, positive: Tensor) -> Tensor:
        """Derivative of the objective by the hidden units' total input from the data, [B, hidden].

        Sparsity (section 11): cost * sum_j of the cross-entropy between the target and q_j, unit j's mean in the batch.
        """
        term = positive / -positive.shape[-2]
        if self.sparsity_cost:
            q = positive.mean(dim=-2, keepdim=True)
            slope = (q - self.sparsity_target) / (q * (1 - q)).clamp_min(torch.finfo(q.dtype).tiny)
            term += self.sparsity_cost / positive.shape[-2] * slope * positive * (1 - positive)
        return term

    # What the pipeline asks of a layer

    def encode(self, v: Tensor) -> Tensor:
        """[B, visible] -> [B, hidden]: what the layer above is trained on, and a network of such units computes."""
        return self.hidden_units.activation(self.hidden_input(v))

    def decode(self, h: Tensor) -> Tensor:
        """[B, hidden] -> [B, visible]."""
        return self.propdown(h)

    @torch.no_grad()
    def validate(self, v: Tensor) -> dict[str, Tensor]:
        """Means over the examples: squared error of the mean-field reconstruction, and any free energy in nats."""
        metrics = {"reconstruction_error": squared_error(self.decode(self.encode(v)), v)}
        if not self.hidden_units.have_energy or self.doubled != "none":
            return metrics
        return metrics | {"free_energy": self.free_energy(v).mean()}

    def encoder(self) -> tuple[Tensor, Tensor]:
        """Weight [visible, hidden] and bias [hidden] of the layer that this one unrolls into: what `encode` has."""
        W = self.W.detach()
        return 2 * W if self.doubled == "up" else W, self.hbias.detach()

    def decoder(self) -> tuple[Tensor, Tensor]:
        """Weight [hidden, visible] and bias [visible] of the way back down."""
        W = self.W.detach()
        return (2 * W if self.doubled == "down" else W).mT, self.vbias.detach()

    # Likelihood

    def free_energy(self, v: Tensor) -> Tensor:
        """F(v) = -log sum_h exp(-E(v, h)), in nats: [B, visible] -> [B]. Raises ValueError for a doubled one."""
        self._must_be_a_density()
        return self.visible_units.energy(v, self.vbias) - self.hidden_units.log_normaliser(v @ self.W, self.hbias)

    def enumerable(self) -> bool:
        """Whether one side can be summed over for log Z: of binary units, and not of more than 20."""
        return any(size <= ENUMERABLE for size, _ in self._binary_sides())

    @torch.no_grad()
    def log_partition(self) -> Tensor:
        """log Z in nats, exactly, by enumerating the smaller side of binary units. Raises ValueError where none is
        `enumerable`, and for a doubled one."""
        self._must_be_a_density()
        binary = self._binary_sides()
        if not self.enumerable():
            visible, hidden = self.W.shape
            few = " or ".join(side for _, side in binary) or "binary"
            raise ValueError(f"log Z is enumerated for at most {ENUMERABLE} {few} units, not for {visible} x {hidden}")
        size, side = min(binary)
        weights = [self._log_weight(s) if side == "hidden" else -self.free_energy(s) for s in states(size, self.W)]
        return torch.logsumexp(torch.cat(weights), dim=0)

    def log_likelihood(self, v: Tensor) -> Tensor:
        """log p(v) in nats (of the density, for Gaussian units), exactly: [B, visible] -> [B]."""
        return -self.free_energy(v) - self.log_partition()

    @torch.no_grad()
    def pseudo_log_likelihood(self, v: Tensor) -> Tensor:
        """sum_i log p(v_i | the other v), in nats, for binary visible units (besag1975): [B, visible] -> [B].

        Without Z: p(v_i | the others) = sigmoid(F(v with unit i flipped) - F(v)). A flip moves the hidden units' input
        by a row of W, so that all of them cost B * visible * hidden, and no matrix product. Raises ValueError for other
        units, and for a doubled one.
        """
        self._must_be_a_density()
        if not self.visible_units.binary:
            raise ValueError("pseudo-likelihood is for binary visible units")
        field, flips = v @ self.W, 1 - 2 * v
        own = self.hidden_units.log_normaliser(field, self.hbias)
        total = torch.zeros_like(own)
        for i, (row, bias) in enumerate(zip(self.W, self.vbias, strict=True)):
            flip = flips[..., i]
            flipped = self.hidden_units.log_normaliser(torch.addcmul(field, flip.unsqueeze(-1), row), self.hbias)
            total += logsigmoid(own - flipped - flip * bias)
        return total

    def _must_be_a_density(self) -> None:
        if self.doubled != "none":
            raise ValueError("a doubled RBM is a layer of a deep Boltzmann machine, no density of its own")

    def _binary_sides(self) -> list[tuple[int, str]]:
        """Size and name of each side whose states can be enumerated."""
        visible, hidden = self.W.shape
        sides = {"visible": (visible, self.visible_units), "hidden": (hidden, self.hidden_units)}
        return [(size, side) for side, (size, units) in sides.items() if units.binary]

    def _log_weight(self, h: Tensor) -> Tensor:
        """log of the sum (integral) of exp(-E(v, h)) over v: [B, hidden] -> [B]."""
        return self.visible_units.log_normaliser(h @ self.W.mT, self.vbias) - self.hidden_units.energy(h, self.hbias)


class Overlaid(Conditionals):
    """An RBM with its fast weights added."""

    def __init__(self, rbm: RBM) -> None:
        self.visible_units, self.hidden_units = rbm.visible_units, rbm.hidden_units
        self.W, self.hbias, self.vbias = rbm.W + rbm.fast_W, rbm.hbias + rbm.fast_hbias, rbm.vbias + rbm.fast_vbias


def squared_error(reconstruction: Tensor, v: Tensor) -> Tensor:
    """Summed over the visible units, averaged over the examples."""
    return mse_loss(reconstruction, v, reduction="none").sum(dim=(-2, -1)) / v.shape[-2]


def states(units: int, like: Tensor) -> Iterator[Tensor]:
    """All 2^units binary states in the device and type of `like`, [at most 2^CHUNK, units] at a time."""
    bits = torch.arange(units, device=like.device)
    for numbers in torch.arange(2**units, device=like.device).split(2**CHUNK):
        yield (numbers[:, None] >> bits & 1).to(like.dtype)
