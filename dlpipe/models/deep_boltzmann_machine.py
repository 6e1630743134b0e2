"""Deep Boltzmann machine: layers of binary units, each joined to the ones below and above, in both directions.

Paper: salakhutdinov2009 (the model, its pretraining, mean field and persistent chains, the classifier).

With h_0 = v [B, inputs], h_k [B, units_k], weights W_k [units_{k-1}, units_k] and biases b_k, k = 0 ... L:

    E(v, h_1 ... h_L) = - sum_k b_k.h_k - sum_{k>0} h_{k-1} W_k h_k
    p(h_k = 1 | the others) = sigmoid(b_k + h_{k-1} W_k + h_{k+1} W_{k+1}')

Even layers given the odd ones are independent of each other, and odd ones given the even: two steps of Gibbs sampling
for a machine of any depth. With the even layers for one side and the odd for the other it *is* an RBM, `normaliser`,
whose log Z is the machine's.

What lies behind a v is approximated by independent units, means q_k, that satisfy

    q_k = sigmoid(b_k + q_{k-1} W_k + q_{k+1} W_{k+1}'),    q_0 = v                                       mean field
    log p(v) >= -E(v, q) + sum_k H(q_k) - log Z                                                the variational bound

Every update of one q_k raises the bound. The first guess is a pass upwards in which the input of all but the top layer
is doubled, for the input from above that is not there yet. Learning follows the bound, with persistent chains for Z:

    dW_k = <q_{k-1}' q_k> of the data - <h_{k-1}' h_k> of the chains

Pretrained layers are RBMs in which the input of one side is doubled (`dlpipe/layers/rbm.py`): that of the hidden side
in the lowest, of the visible side in the top one, and of both in those between, which are plain RBMs with the weights
2 W_k. Each hidden layer then has its whole input from below, and once more from above: the mean of both is taken.

The classifier is a feed-forward network that begins as one more pass of mean field and sees the q of the machine beside
the data. Its weights are the machine's and what fine-tuning adds, A_k and B_k, from below and from above:

    x_k = sigmoid(b_k + a_k + x_{k-1} (W_k + A_k) + q_{k+1} (W_{k+1} + B_{k+1})'),    x_0 = v
    logits = x_L O + o

In the paper, which has L = 2, q_2 is an additional input of the first layer. The machine itself stays as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.special import entr

from dlpipe.layers.gradients import gradient
from dlpipe.layers.rbm import ENUMERABLE, RBM, squared_error, states
from dlpipe.layers.units import bernoulli
from dlpipe.models.unrolling import copy_layers

WEIGHT_SCALE = 0.01
"""Standard deviation of weights that are not pretrained, as of an RBM's (hinton2010)."""


class DeepBoltzmannMachine(nn.Module):
    """What a model of `kind: dbm` is; the arguments are the fields of its spec.

    `weights` are W_1 ... W_L, `biases` b_0 ... b_L. `chains` [chains, odd units] is the state of all odd layers.
    `added_below`, `added_above` and `added_biases` are A, B and a; they and the output layer take no part in what the
    machine is as a model of its inputs, and get no gradient unless `discriminative` or `top` is trained.
    """

    particles: ClassVar[tuple[str, ...]] = ("chains",)
    """Buffers with a row a particle, which several processes share out."""
    chains: Tensor

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        units: Sequence[int],
        mean_field_steps: int = 10,
        gibbs_steps: int = 5,
        chains: int = 100,
    ) -> None:
        super().__init__()
        self.sizes = (inputs, *units)
        self.mean_field_steps, self.gibbs_steps = mean_field_steps, gibbs_steps
        self.weights = nn.ParameterList(torch.zeros(n, m) for n, m in pairwise(self.sizes))
        self.biases = nn.ParameterList(torch.zeros(n) for n in self.sizes)
        self.register_buffer("chains", torch.zeros(chains, sum(self.sizes[1::2])))
        self.added_below = nn.ParameterList(torch.zeros_like(W) for W in self.weights)
        self.added_above = nn.ParameterList(torch.zeros_like(W) for W in self.weights[1:])
        self.added_biases = nn.ParameterList(torch.zeros_like(b) for b in self.biases[1:])
        self.output = nn.Parameter(torch.zeros(self.sizes[-1], outputs))
        self.output_bias = nn.Parameter(torch.zeros(outputs))
        for parameter in self.discriminative():
            parameter.requires_grad_(False)

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> None:
        """Small normal weights and biases 0, chains in which every unit is on half of the time."""
        for parameter in self.parameters():
            parameter.zero_()
        for W in (*self.weights, self.output):
            W.normal_(0.0, WEIGHT_SCALE, generator=generator)
        self.chains.copy_(bernoulli(torch.full_like(self.chains, 0.5), generator))

    # From pretrained layers

    @torch.no_grad()
    def unroll(self, encoders: Sequence[tuple[Tensor, Tensor]]) -> None:
        """Composes pretrained layers, from the bottom to the top: the weights [in, out] and biases [out] of the way up.

        All but the top one's weights are twice the machine's. Raises ValueError where there is not one of fitting shape
        for each.
        """
        copy_layers(encoders, list(self.weights), list(self.biases[1:]))
        for W in self.weights[:-1]:
            W.mul_(0.5)

    @torch.no_grad()
    def unroll_back(self, decoders: Sequence[tuple[Tensor, Tensor]]) -> None:
        """The biases of the way down, each layer's second after `unroll`: of the two that a hidden layer has, the mean.

        Each is a weight [out, in], which is the way up's, and a bias [in], again from the bottom to the top.
        """
        for number, ((_, bias), own) in enumerate(zip(decoders, self.biases[:-1], strict=True)):
            own.copy_(0.5 * (own + bias) if number else bias)

    # The distribution

    def energy(self, layers: Sequence[Tensor]) -> Tensor:
        """E of states [B, units_k] of all layers, v first, in nats; of means, its mean if all are independent: [B]."""
        total = -sum(h @ b for h, b in zip(layers, self.biases, strict=True))
        for (below, above), W in zip(pairwise(layers), self.weights, strict=True):
            total = total - ((below @ W) * above).sum(dim=-1)
        return total

    @torch.no_grad()
    def normaliser(self) -> RBM:
        """The machine as an RBM: its visible side all even layers, its hidden side all odd ones, in their order."""
        even, odd = self.sizes[0::2], self.sizes[1::2]
        rbm = RBM(sum(even), sum(odd)).to(self.weights[0])
        blocks = [[self.chains.new_zeros(n, m) for m in odd] for n in even]
        for k, W in enumerate(self.weights):  # W joins layer k to layer k + 1
            blocks[(k + 1) // 2][k // 2] = W.T if k % 2 else W
        rbm.W.copy_(torch.cat([torch.cat(row, dim=1) for row in blocks]))
        rbm.vbias.copy_(torch.cat(list(self.biases[0::2])))
        rbm.hbias.copy_(torch.cat(list(self.biases[1::2])))
        return rbm

    @torch.no_grad()
    def log_likelihood(self, v: Tensor) -> Tensor:
        """log p(v) in nats, exactly: [B, inputs] -> [B].

        By enumeration of the even hidden layers, and of either side for log Z: not of more than 20 units each time.
        """
        rbm, hidden = self.normaliser(), sum(self.sizes[2::2])
        if hidden > ENUMERABLE:
            raise ValueError(f"{hidden} units in even hidden layers are too many to enumerate, more than {ENUMERABLE}")
        log_weights = [
            -rbm.free_energy(torch.cat((v.expand(len(h), *v.shape), h[:, None].expand(-1, len(v), -1)), dim=-1))
            for h in states(hidden, v)
        ]
        return torch.logsumexp(torch.cat(log_weights), dim=0) - rbm.log_partition()

    # Inference

    @torch.no_grad()
    def mean_field(self, v: Tensor) -> list[Tensor]:
        """v, and the means q_1 ... q_L [B, units_k] after `mean_field_steps` updates of every layer in turn."""
        layers = [v]
        for W, b in zip(self.weights[:-1], self.biases[1:-1], strict=True):
            layers.append(torch.sigmoid(torch.addmm(b, layers[-1], W, alpha=2)))
        layers.append(torch.sigmoid(torch.addmm(self.biases[-1], layers[-1], self.weights[-1])))
        if len(self.weights) == 1:  # exact at once
            return layers
        from_v = torch.addmm(self.biases[1], v, self.weights[0])
        for _ in range(self.mean_field_steps):
            layers[1] = torch.sigmoid(torch.addmm(from_v, layers[2], self.weights[1].T))
            for k in range(2, len(layers)):
                layers[k] = self._mean(k, layers)
        return layers

    def _mean(self, k: int, layers: Sequence[Tensor]) -> Tensor:
        """Probabilities of layer k [B, units_k] given the layers next to it."""
        total = self.biases[k]
        if k > 0:
            total = torch.addmm(total, layers[k - 1], self.weights[k - 1])
        if k < len(self.weights):
            total = torch.addmm(total, layers[k + 1], self.weights[k].T)
        return torch.sigmoid(total)

    # The variational bound: log p(v) >= unnormalised_bound(v) - log Z of the normaliser

    @torch.no_grad()
    def unnormalised_bound(self, v: Tensor, samples: int = 1, generator: torch.Generator | None = None) -> Tensor:
        """-E(v, q) + H(q) in nats: [B, inputs] -> [B]. Exact: samples are for models that draw them."""
        return self._unnormalised_bound_at(self.mean_field(v))

    def _unnormalised_bound_at(self, q: Sequence[Tensor]) -> Tensor:
        """Of v and independent means q_1 ... q_L: [B]."""
        return -self.energy(q) + sum((entr(each) + entr(1 - each)).sum(dim=-1) for each in q[1:])

    def normaliser_means(self, v: Tensor) -> Tensor:
        """What examples are to its visible side: v and the means of the other even layers, [B, visible]."""
        return torch.cat(self.mean_field(v)[0::2], dim=-1)

    # Learning

    @torch.no_grad()
    def step(self, inputs: Tensor, targets: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """Writes the estimated gradient of the batch's mean -log p(v), by its bound, into `.grad` of the machine.

        Returns `hidden_activity`, the mean of the top layer's units given the data.
        """
        data = self.mean_field(inputs)
        model = self._negative_phase(generator)
        for k, (W, b) in enumerate(zip(self.weights, self.biases[1:], strict=True)):
            positive, negative = (layers[k].T @ layers[k + 1] / len(layers[k]) for layers in (data, model))
            torch.sub(negative, positive, out=gradient(W))
            torch.sub(model[k + 1].mean(dim=0), data[k + 1].mean(dim=0), out=gradient(b))
        torch.sub(model[0].mean(dim=0), inputs.mean(dim=0), out=gradient(self.biases[0]))
        return {"hidden_activity": data[-1].mean()}

    def _negative_phase(self, generator: torch.Generator) -> list[Tensor]:
        """All layers after `gibbs_steps` from the chains: states of the even ones and, given these, means of the odd.

        As the odd ones are independent then, these statistics are those of states, with less noise.
        """
        odd = self._chains()
        for _ in range(self.gibbs_steps):
            _, even = self._given(0, odd, generator)
            means, odd = self._given(1, even, generator)
        self.chains.copy_(torch.cat(odd, dim=-1))
        layers = [*even, *means]
        layers[0::2], layers[1::2] = even, means
        return layers

    def _chains(self) -> list[Tensor]:
        """States of the odd layers."""
        return list(self.chains.split(self.sizes[1::2], dim=-1))

    def _given(
        self, first: int, others: Sequence[Tensor], generator: torch.Generator
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Means and a sample of every second layer from `first` (0 or 1) on, given states of the other ones."""
        layers = [self.chains] * len(self.sizes)  # whose places are taken: a layer's neighbours are among the others
        layers[1 - first :: 2] = others
        means = [self._mean(k, layers) for k in range(first, len(layers), 2)]
        return means, [bernoulli(mean, generator) for mean in means]

    @torch.no_grad()
    def validate(self, inputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Means over the examples: squared error of v's means given q_1, and the unnormalised bound in nats, negative:
        the variational free energy, which is never below -log p*(v)."""
        q = self.mean_field(inputs)
        bound = self._unnormalised_bound_at(q)
        return {
            "reconstruction_error": squared_error(self._mean(0, q), inputs),
            "variational_free_energy": -bound.mean(),
        }

    @torch.no_grad()
    def sample(self, count: int, gibbs_steps: int, generator: torch.Generator) -> Tensor:
        """Fantasies: means of v after so many steps of Gibbs sampling, [count, inputs].

        They go on from the persistent chains, again and again where these are fewer.
        """
        chosen = torch.arange(count, device=self.chains.device) % len(self.chains)
        odd = [layer[chosen] for layer in self._chains()]
        for _ in range(gibbs_steps - 1):
            odd = self._given(1, self._given(0, odd, generator)[1], generator)[1]
        return self._given(0, odd, generator)[0][0]

    # The classifier

    def forward(self, v: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """[B, inputs] -> logits [B, outputs]. Draws nothing: `generator` is for models that do."""
        return torch.addmm(self.output_bias, self.hidden(v)[-1], self.output)

    def hidden(self, v: Tensor) -> list[Tensor]:
        """The classifier's layers x_1 ... x_L, [B, units_k]."""
        q, layers, top = self.mean_field(v), [v], len(self.weights)
        for k in range(1, top + 1):
            total = self.biases[k] + self.added_biases[k - 1]
            total = torch.addmm(total, layers[-1], self.weights[k - 1] + self.added_below[k - 1])
            if k < top:
                total = torch.addmm(total, q[k + 1], (self.weights[k] + self.added_above[k - 1]).T)
            layers.append(torch.sigmoid(total))
        return layers[1:]

    def top(self) -> list[nn.Parameter]:
        """Weight and bias of the output layer."""
        return [self.output, self.output_bias]

    def discriminative(self) -> list[nn.Parameter]:
        """What fine-tuning trains: all that the logits depend on and the machine does not."""
        return [*self.added_below, *self.added_above, *self.added_biases, *self.top()]
