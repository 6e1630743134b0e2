"""Deep belief network: a model of examples and their labels whose top is an RBM, above layers that are directed down.

Papers: hinton2006 (the model, and its up-down algorithm: section 5 and appendix B); larochelle2008 (one layer, `units`
with one number: an RBM that classifies); salakhutdinov2008 (the bound).

With h_0 = v [B, inputs], h_k [B, units_k] and the label y, one of C, the model generates from the top down:

    p(v, h_1 ... h_L, y) = p(v | h_1) ... p(h_{L-2} | h_{L-1}) p(h_{L-1}, y, h_L)
    p(h_{L-1}, y, h_L)                an RBM's joint density (`dlpipe/layers/label_rbm.py`): the associative memory
    p(h_{k-1} = 1 | h_k) = sigmoid(h_k V_k + c_{k-1})       k = 1 ... L-1, generative weights V_k [units_k, units_{k-1}]

What lies behind a v is guessed from the bottom up, by recognition weights W_k [units_{k-1}, units_k]:

    q(h_k = 1 | h_{k-1}) = sigmoid(h_{k-1} W_k + b_k)

Pretrained layers give V_k = W_k'; then the two go their own ways. A step of the up-down algorithm:

    wake     h_k ~ q(h_k | h_{k-1}) from the data up; V_k and c learn to predict h_{k-1} from h_k
    top      contrastive divergence of the RBM, k Gibbs steps from (h_{L-1}, y)
    sleep    from where the Gibbs steps ended, h_{k-1} ~ p(h_{k-1} | h_k) down to the means of v; W_k and b_k learn to
             predict h_k from h_{k-1}

Each prediction p of states s from states t moves along t'(s - p): the gradient of log-likelihood. Two things are other
than in appendix B, neither in expectation but for the label: the statistics of the top's hidden units are of their
probabilities, and the label that the Gibbs steps reach is drawn, as the other units are, where the paper keeps its
probabilities.

The likelihood has a bound (salakhutdinov2008), whose Z is the top RBM's and known by annealed importance sampling:

    log p(v) >= E_q[ log p(v | h_1) + ... + log p*(h_{L-1}) - log q(h_1 ... h_{L-1} | v) ] - log Z

A label is judged by the top's free energy, its likelihood with the means of q passed up:

    logits_y = -F(r_{L-1}, y),    r_0 = v,    r_k = sigmoid(r_{k-1} W_k + b_k)
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, one_hot, softplus
from torch.special import entr

from dlpipe.layers.gradients import gradient, product
from dlpipe.layers.label_rbm import LabelRBM
from dlpipe.layers.rbm import RBM, squared_error
from dlpipe.layers.units import bernoulli
from dlpipe.models.unrolling import copy_layers

WEIGHT_SCALE = 0.01
"""Standard deviation of weights that are not pretrained, as of an RBM's (hinton2010)."""


class DeepBeliefNetwork(nn.Module):
    """What a model of `kind: dbn` is; the arguments are the fields of its spec.

    `recognition` and `generative` hold W_1 ... W_{L-1} and V_1 ... V_{L-1}, both from the bottom up, `memory` is the
    RBM on top. Without `labels` it is a plain one and there are no logits.
    """

    def __init__(
        self, inputs: int, outputs: int, *, units: Sequence[int], labels: bool = True, gibbs_steps: int = 3
    ) -> None:
        super().__init__()
        self.classes, self.gibbs_steps = outputs if labels else 0, gibbs_steps
        *sizes, top = inputs, *units
        self.recognition = nn.ParameterList(torch.zeros(n, m) for n, m in pairwise(sizes))
        self.recognition_biases = nn.ParameterList(torch.zeros(m) for m in sizes[1:])
        self.generative = nn.ParameterList(torch.zeros(m, n) for n, m in pairwise(sizes))
        self.generative_biases = nn.ParameterList(torch.zeros(n) for n in sizes[:-1])
        self.memory: RBM = LabelRBM(sizes[-1], top, classes=outputs) if labels else RBM(sizes[-1], top)

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> None:
        """Small normal weights, the same in both directions; biases 0."""
        for W, V in zip(self.recognition, self.generative, strict=True):
            V.copy_(W.normal_(0.0, WEIGHT_SCALE, generator=generator).T)
        self.memory.initialise(torch.full((self._below,), 0.5), generator)

    @property
    def _below(self) -> int:
        return self.memory.W.shape[0] - self.classes

    # From pretrained layers

    @torch.no_grad()
    def unroll(self, encoders: Sequence[tuple[Tensor, Tensor]]) -> None:
        """Copies pretrained layers, bottom to top, over the recognition weights and the top RBM's.

        Each is a weight [in, out] and a bias [out]. Raises ValueError where there is not one of fitting shape for each.
        """
        weights, biases = [*self.recognition, self._top_weight()], [*self.recognition_biases, self.memory.hbias]
        copy_layers(encoders, weights, biases)

    @torch.no_grad()
    def unroll_back(self, decoders: Sequence[tuple[Tensor, Tensor]]) -> None:
        """The same for the way down: each is a weight [out, in] and a bias [in], again from the bottom to the top."""
        visible = self.memory.vbias[: self._below]
        copy_layers(decoders, [*self.generative, self._top_weight().T], [*self.generative_biases, visible])

    @torch.no_grad()
    def unroll_labels(self, weight: Tensor, bias: Tensor) -> None:
        """The labels' weights [C, units_L] and biases [C] of a top layer that was pretrained with labels."""
        copy_layers([(weight, bias)], [self.memory.W[self._below :]], [self.memory.vbias[self._below :]])

    def _top_weight(self) -> Tensor:
        return self.memory.W[: self._below]

    # Inference

    def means(self, v: Tensor) -> Tensor:
        """r_{L-1}: [B, inputs] -> [B, units_{L-1}]."""
        for W, b in zip(self.recognition, self.recognition_biases, strict=True):
            v = torch.sigmoid(torch.addmm(b, v, W))
        return v

    def forward(self, v: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """[B, inputs] -> logits [B, C]. Draws nothing: `generator` is for models that do."""
        if not isinstance(self.memory, LabelRBM):
            raise ValueError("a deep belief network without labels has no logits")
        return -self.memory.class_free_energies(self.means(v))

    def top(self) -> list[nn.Parameter]:
        """The top RBM's parameters."""
        return list(self.memory.parameters())

    def discriminative(self) -> list[nn.Parameter]:
        """The parameters that the logits depend on."""
        return [*self.recognition, *self.recognition_biases, *self.top()]

    # The up-down algorithm

    @torch.no_grad()
    def step(self, inputs: Tensor, targets: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """Writes the estimated gradient, a mean over the batch, into `.grad`.

        Returns `hidden_activity`, the mean of the top's hidden units given the data, and where there are layers below
        the top `reconstruction_error`, of v as it is predicted from h_1.
        """
        wake = self._recognise(inputs, generator)
        joint = self.memory.join(wake[-1], targets) if isinstance(self.memory, LabelRBM) else wake[-1]
        metrics, end = self._top_step(joint, generator)
        sleep = self._generate(end, generator)
        for k, (V, c) in enumerate(zip(self.generative, self.generative_biases, strict=True)):
            predicted = _learn_to_predict(wake[k], wake[k + 1], V, c)
            if k == 0:
                metrics["reconstruction_error"] = squared_error(predicted, inputs)
        for k, (W, b) in enumerate(zip(self.recognition, self.recognition_biases, strict=True)):
            _learn_to_predict(sleep[k + 1], sleep[k], W, b)
        return metrics

    def _recognise(self, v: Tensor, generator: torch.Generator) -> list[Tensor]:
        """v, and a sample of q: h_0 ... h_{L-1}."""
        states = [v]
        for W, b in zip(self.recognition, self.recognition_biases, strict=True):
            states.append(bernoulli(torch.sigmoid(torch.addmm(b, states[-1], W)), generator))
        return states

    def _generate(self, h: Tensor, generator: torch.Generator) -> list[Tensor]:
        """A sample down from h_{L-1}, and the means of v: h_0 ... h_{L-1} in the order of `_recognise`."""
        states = [h]
        for k in reversed(range(len(self.generative))):
            mean = torch.sigmoid(torch.addmm(self.generative_biases[k], states[0], self.generative[k]))
            states.insert(0, bernoulli(mean, generator) if k else mean)
        return states

    def _top_step(self, joint: Tensor, generator: torch.Generator) -> tuple[dict[str, Tensor], Tensor]:
        """Contrastive divergence from the visible side's state [B, units_{L-1} + C]: the metrics, and h_{L-1} after it.

        Every state is drawn, as the sleep phase starts from the last one.
        """
        memory = self.memory
        positive, h = memory.sample_h_given_v(joint, generator)
        for _ in range(self.gibbs_steps):
            end = memory.sample_v_given_h(h, generator)[1]
            negative, h = memory.sample_h_given_v(end, generator)
        gradient(memory.W).copy_((end.T @ negative - joint.T @ positive) / len(joint))
        gradient(memory.hbias).copy_((negative - positive).mean(dim=0))
        gradient(memory.vbias).copy_((end - joint).mean(dim=0))
        return {"hidden_activity": positive.mean()}, end[:, : self._below]

    @torch.no_grad()
    def validate(self, inputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Means over the examples: squared error of what a pass of means up and down makes of v and, with labels, the
        error of the likeliest one in per cent and -log p(y | r_{L-1}) in nats."""
        below_top = self.means(inputs)
        down = self.memory.decode(self.memory.encode(below_top))
        for V, c in reversed(list(zip(self.generative, self.generative_biases, strict=True))):
            down = torch.sigmoid(torch.addmm(c, down, V))
        metrics = {"reconstruction_error": squared_error(down, inputs)}
        if isinstance(self.memory, LabelRBM):
            logits = -self.memory.class_free_energies(below_top)
            metrics["loss"] = cross_entropy(logits, targets)
            metrics["error"] = 100 * (logits.argmax(dim=1) != targets).to(inputs.dtype).mean()
        return metrics

    # The variational bound: log p(v) >= the mean of unnormalised_bound(v) - log Z of the normaliser

    @torch.no_grad()
    def unnormalised_bound(self, v: Tensor, samples: int, generator: torch.Generator) -> Tensor:
        """An unbiased estimate of the bound without its -log Z, in nats, by samples of q: [B, inputs] -> [B]."""
        return torch.stack([self._bound_by_a_sample(v, generator) for _ in range(samples)]).mean(dim=0)

    def _bound_by_a_sample(self, v: Tensor, generator: torch.Generator) -> Tensor:
        bound = v.new_zeros(len(v))
        for W, b, V, c in zip(
            self.recognition, self.recognition_biases, self.generative, self.generative_biases, strict=True
        ):
            mean = torch.sigmoid(torch.addmm(b, v, W))
            h = bernoulli(mean, generator)
            total = torch.addmm(c, h, V)
            bound += (entr(mean) + entr(1 - mean)).sum(dim=1) + (v * total - softplus(total)).sum(dim=1)
            v = h
        if isinstance(self.memory, LabelRBM):
            return bound + torch.logsumexp(-self.memory.class_free_energies(v), dim=1)
        return bound - self.memory.free_energy(v)

    def normaliser(self) -> RBM:
        """The RBM whose log Z it is."""
        return self.memory

    def normaliser_means(self, v: Tensor) -> Tensor:
        """What examples are to its visible side: the means that are passed up and any label alike, [B, visible]."""
        labels = v.new_full((len(v), self.classes), 1 / max(self.classes, 1))
        return torch.cat((self.means(v), labels), dim=1)

    # The model as a source of examples

    @torch.no_grad()
    def sample(self, count: int, gibbs_steps: int, generator: torch.Generator, label: int | None = None) -> Tensor:
        """Means of v [count, inputs] after so many Gibbs steps in the top RBM, from a random state, and a way down.

        With a `label` its unit stays on meanwhile: examples of that class. Raises ValueError for one that is not there.
        """
        if label is not None and not 0 <= label < self.classes:
            raise ValueError(f"there is no label {label}; the model has {self.classes}")
        half = self.memory.W.new_full((count, self.memory.W.shape[1]), 0.5)
        mean, state = self.memory.sample_v_given_h(bernoulli(half, generator), generator)
        for _ in range(gibbs_steps):
            if label is not None:
                state[:, self._below :] = one_hot(torch.tensor(label), self.classes).to(state)
            mean, state = self.memory.gibbs_vhv(state, generator)
        if not len(self.generative):
            return mean[:, : self._below]
        return self._generate(state[:, : self._below], generator)[0]


def _learn_to_predict(states: Tensor, given: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """The gradient of the batch's mean -log p(states | given), where p = sigmoid(given weight + bias); returns p."""
    predicted = torch.sigmoid(torch.addmm(bias, given, weight))
    slope = (predicted - states) / len(states)
    product(given.T, slope, out=gradient(weight))
    torch.sum(slope, dim=0, out=gradient(bias))
    return predicted
