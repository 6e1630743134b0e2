"""Restricted Boltzmann machine, trained by contrastive divergence or by persistent chains.

Papers: hinton2002 (contrastive divergence), tieleman2008 (persistent chains), melchior2016 (Gaussian visible units,
centring), hinton2010 (how to train it; the sections named below are that guide's).

Visible units v and binary hidden units h with W [visible, hidden], vbias [visible] = c, hbias [hidden] = b:

    E(v, h) = - c.v - b.h - v W h                      Bernoulli visible units, v in {0, 1}
    E(v, h) = |v - c|^2 / 2 - b.h - v W h              Gaussian visible units of variance 1, for standardised data

    p(h_j = 1 | v) = sigmoid(b + v W)_j                propup
    p(v_i = 1 | h) = sigmoid(c + h W')_i               propdown;  Gaussian: v ~ Normal(c + h W', 1)
    F(v) = - c.v - sum_j softplus(b + v W)_j           free energy;  Gaussian: |v - c|^2 / 2 in place of - c.v
    p(v) = exp(-F(v)) / Z

The gradient of -log p(v) is dF(v) minus its mean under the model, which k steps of Gibbs sampling stand in for:

    -dF/dW = v p(h | v),    -dF/db = p(h | v),    -dF/dc = v    (Gaussian: v - c)

A centred RBM is trained by its own parameters, whose biases b', c' belong to units less their means mu, lambda:

    E(v, h) = - c'.(v - mu) - b'.(h - lambda) - (v - mu) W (h - lambda),    b' = b + mu W,    c' = c + W lambda

which is the same distribution. A step along its gradient is, in W, b and c (melchior2016, section 2),

    dW = dW_plain - mu db_plain' - dc_plain lambda',    db = db_plain - mu dW,    dc = dc_plain - dW lambda

so W, b and c are all that is kept, the offsets mu and lambda may move at any time, and exchanging 0 and 1 in the data
changes nothing.

Shapes: v [B, visible], h [B, hidden]. The batch is the last dimension but one throughout.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss, softplus

ENUMERABLE = 20  # units: a million states take about a second for a few hundred units on the other side
CHUNK = 14  # bits: states that are in memory at a time
OFFSET_RATE = 0.01  # share of a batch's means in the offsets of a centred RBM (melchior2016, algorithm 1)


class RBM(nn.Module):
    """What a layer of `kind: rbm` is; the arguments are the fields of its spec.

    `step` writes the gradient of an update into `.grad`; learning rate, momentum and weight decay are the optimiser's.
    The state of persistent chains is the buffer `chains` [chains, hidden], the offsets of a centred RBM are
    `visible_offset` [visible] and `hidden_offset` [hidden]; they are part of `state_dict()`.
    """

    particles: ClassVar[tuple[str, ...]] = ("chains",)
    """Buffers with a row a particle, which several processes share out."""
    averaged: ClassVar[tuple[str, ...]] = ("visible_offset", "hidden_offset")
    """Buffers that a step moves by means over its batch, which several processes average."""
    chains: Tensor
    visible_offset: Tensor
    hidden_offset: Tensor

    def __init__(
        self,
        visible: int,
        hidden: int,
        *,
        visible_units: Literal["bernoulli", "gaussian"] = "bernoulli",
        cd_steps: int = 1,
        persistent: bool = False,
        chains: int = 100,
        centred: bool = False,
        weight_scale: float = 0.01,
        sparsity_target: float = 0.0,
        sparsity_cost: float = 0.0,
    ) -> None:
        super().__init__()
        self.gaussian = visible_units == "gaussian"
        self.cd_steps = cd_steps
        self.persistent = persistent
        self.centred = centred
        self.weight_scale = weight_scale
        self.sparsity_target = sparsity_target
        self.sparsity_cost = sparsity_cost
        self.W = nn.Parameter(torch.zeros(visible, hidden))
        self.hbias = nn.Parameter(torch.zeros(hidden))
        self.vbias = nn.Parameter(torch.zeros(visible))
        if persistent:
            self.register_buffer("chains", torch.zeros(chains, hidden))
        if centred:
            self.register_buffer("visible_offset", torch.zeros(visible))
            self.register_buffer("hidden_offset", torch.zeros(hidden))

    @torch.no_grad()
    def initialise(self, mean: Tensor, generator: torch.Generator) -> None:
        """Section 8: small normal weights, hidden biases 0, visible biases that give the data's `mean` [visible].

        The biases of a centred RBM are so in its own parameters, with the mean and one half as offsets.
        """
        self.W.normal_(0.0, self.weight_scale, generator=generator)
        self.hbias.zero_()
        # A pixel that is always 0 in the sample would get a bias of minus infinity.
        self.vbias.copy_(mean if self.gaussian else torch.logit(mean.clamp(0.01, 0.99)))
        if self.centred:
            self.visible_offset.copy_(mean)
            self.hidden_offset.fill_(0.5)
            self.hbias.addmv_(self.W.mT, self.visible_offset, alpha=-1)
            self.vbias.addmv_(self.W, self.hidden_offset, alpha=-1)
        if self.persistent:
            self.chains.copy_(bernoulli(torch.full_like(self.chains, 0.5), generator))

    # Conditionals

    def propup(self, v: Tensor) -> Tensor:
        """p(h = 1 | v): [B, visible] -> [B, hidden]."""
        return torch.sigmoid(v @ self.W + self.hbias)

    def propdown(self, h: Tensor) -> Tensor:
        """The mean of v given h: [B, hidden] -> [B, visible]."""
        v = h @ self.W.mT + self.vbias
        return v if self.gaussian else torch.sigmoid(v)

    def sample_h_given_v(self, v: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """The means and a sample of the hidden units, both [B, hidden]."""
        mean = self.propup(v)
        return mean, bernoulli(mean, generator)

    def sample_v_given_h(self, h: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """The means and a sample of the visible units, both [B, visible]."""
        mean = self.propdown(h)
        if self.gaussian:
            return mean, mean + torch.empty_like(mean).normal_(generator=generator)
        return mean, bernoulli(mean, generator)

    def gibbs_vhv(self, v: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """One step of Gibbs sampling from v [B, visible]: the means of the new v and a sample of it."""
        return self.sample_v_given_h(self.sample_h_given_v(v, generator)[1], generator)

    def gibbs_hvh(self, h: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """One step of Gibbs sampling from h [B, hidden]: the means of the new h and a sample of it."""
        return self.sample_h_given_v(self.sample_v_given_h(h, generator)[1], generator)

    @torch.no_grad()
    def sample(self, count: int, gibbs_steps: int, generator: torch.Generator) -> Tensor:
        """Fantasies: means of the visible units after so many steps of Gibbs sampling, [count, visible].

        The chains go on from the persistent ones, again and again where they are fewer; else from hidden units that are
        on with probability one half.
        """
        half = self.hbias.new_full((count, len(self.hbias)), 0.5)
        h = self.chains[torch.arange(count) % len(self.chains)] if self.persistent else bernoulli(half, generator)
        for _ in range(gibbs_steps - 1):
            h = self.gibbs_hvh(h, generator)[1]
        return self.propdown(h)

    # Learning

    @torch.no_grad()
    def step(self, v: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """Writes the estimated gradient of the batch's mean -log p(v), and of the sparsity penalty, into `.grad`.

        Returns `hidden_activity`, the mean of the hidden units given the data, and `reconstruction_error` unless the
        chains are persistent, which reconstruct nothing.
        """
        positive = self.propup(v)
        particles, negative = self._negative_phase(positive, generator)
        # One product of the two phases: [visible, 2B] @ [2B, hidden].
        dv = torch.cat((v, particles), dim=-2)
        dh = torch.cat((self._data_term(positive), negative / negative.shape[-2]), dim=-2)
        torch.matmul(dv.mT, dh, out=gradient(self.W))
        torch.sum(dh, dim=-2, out=gradient(self.hbias))
        torch.sub(particles.mean(dim=-2), v.mean(dim=-2), out=gradient(self.vbias))
        if self.centred:
            self._centre(v, positive)
        metrics = {"hidden_activity": positive.mean()}
        return metrics if self.persistent else metrics | {"reconstruction_error": squared_error(particles, v)}

    def _centre(self, v: Tensor, positive: Tensor) -> None:
        """Turns the plain gradient in `.grad` into the centred one; then moves the offsets to the batch's means."""
        mu, lam = self.visible_offset, self.hidden_offset
        dW, db, dc = gradient(self.W), gradient(self.hbias), gradient(self.vbias)
        dW.addr_(mu, db, alpha=-1).addr_(dc, lam, alpha=-1)
        db.addmv_(dW.mT, mu, alpha=-1)
        dc.addmv_(dW, lam, alpha=-1)
        mu.lerp_(v.mean(dim=-2), OFFSET_RATE)
        lam.lerp_(positive.mean(dim=-2), OFFSET_RATE)

    def _negative_phase(self, positive: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Particles v [B or chains, visible] after k steps of Gibbs sampling, and p(h | v) for them.

        Hidden units that the data drive are sampled, those that the last particles drive are not (section 3.1). CD-1
        keeps the probabilities of its reconstruction (section 3.2), which is less noisy; a longer chain samples it, as
        otherwise it would not tend to the model's distribution as k grows.
        """
        h = self.chains if self.persistent else bernoulli(positive, generator)
        for _ in range(self.cd_steps - 1):
            h = self.gibbs_hvh(h, generator)[1]
        mean_field = self.cd_steps == 1 and not self.persistent
        v = self.propdown(h) if mean_field else self.sample_v_given_h(h, generator)[1]
        negative = self.propup(v)
        if self.persistent:
            self.chains.copy_(bernoulli(negative, generator))
        return v, negative

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
        """[B, visible] -> [B, hidden]: what the layer above is trained on."""
        return self.propup(v)

    def decode(self, h: Tensor) -> Tensor:
        """[B, hidden] -> [B, visible]."""
        return self.propdown(h)

    @torch.no_grad()
    def validate(self, v: Tensor) -> dict[str, Tensor]:
        """Means over the examples: squared error of the mean-field reconstruction, and free energy in nats."""
        reconstruction = self.decode(self.encode(v))
        return {"reconstruction_error": squared_error(reconstruction, v), "free_energy": self.free_energy(v).mean()}

    def encoder(self) -> tuple[Tensor, Tensor]:
        """Weight [visible, hidden] and bias [hidden] of the sigmoid layer that this one unrolls into."""
        return self.W.detach(), self.hbias.detach()

    def decoder(self) -> tuple[Tensor, Tensor]:
        """Weight [hidden, visible] and bias [visible] of the way back down."""
        return self.W.detach().mT, self.vbias.detach()

    # Likelihood

    def free_energy(self, v: Tensor) -> Tensor:
        """F(v) = -log sum_h exp(-E(v, h)), in nats: [B, visible] -> [B]."""
        own = 0.5 * (v - self.vbias).square().sum(dim=-1) if self.gaussian else -(v * self.vbias).sum(dim=-1)
        return own - softplus(v @ self.W + self.hbias).sum(dim=-1)

    @torch.no_grad()
    def log_partition(self) -> Tensor:
        """log Z in nats, exactly, by enumerating one side, which must not have more than 20 units."""
        visible, hidden = self.W.shape
        if hidden <= ENUMERABLE and (self.gaussian or hidden <= visible):
            terms = [self._log_weight(h) for h in states(hidden, self.W)]
        elif visible <= ENUMERABLE and not self.gaussian:
            terms = [-self.free_energy(v) for v in states(visible, self.W)]
        else:
            side = "hidden" if self.gaussian else "visible or hidden"
            raise ValueError(f"log Z is enumerated for at most {ENUMERABLE} {side} units, not for {visible} x {hidden}")
        return torch.logsumexp(torch.cat(terms), dim=0)

    def log_likelihood(self, v: Tensor) -> Tensor:
        """log p(v) in nats (of the density, for Gaussian units), exactly: [B, visible] -> [B]."""
        return -self.free_energy(v) - self.log_partition()

    def _log_weight(self, h: Tensor) -> Tensor:
        """log of the sum (integral) of exp(-E(v, h)) over v: [B, hidden] -> [B]."""
        field = h @ self.W.mT
        if self.gaussian:
            over_v = 0.5 * field.square() + field * self.vbias + 0.5 * math.log(2 * math.pi)
        else:
            over_v = softplus(field + self.vbias)
        return (h * self.hbias).sum(dim=-1) + over_v.sum(dim=-1)


def bernoulli(p: Tensor, generator: torch.Generator) -> Tensor:
    """1 with probability p, else 0, in p's type; four times as fast on a CPU as torch.bernoulli."""
    return torch.empty_like(p).uniform_(generator=generator).lt_(p)


def gradient(parameter: Tensor) -> Tensor:
    """The parameter's `.grad`, allocated if there is none, to be written over."""
    if parameter.grad is None:
        parameter.grad = torch.empty_like(parameter)
    return parameter.grad


def squared_error(reconstruction: Tensor, v: Tensor) -> Tensor:
    """Summed over the visible units, averaged over the examples."""
    return mse_loss(reconstruction, v, reduction="sum") / v.shape[-2]


def states(units: int, like: Tensor) -> Iterator[Tensor]:
    """All 2^units binary states in the device and type of `like`, [at most 2^CHUNK, units] at a time."""
    bits = torch.arange(units, device=like.device)
    for numbers in torch.arange(2**units, device=like.device).split(2**CHUNK):
        yield (numbers[:, None] >> bits & 1).to(like.dtype)
