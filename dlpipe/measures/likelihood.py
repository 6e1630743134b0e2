"""How likely data is to an RBM: the log-likelihood, by enumeration where one side is small, otherwise by annealed
importance sampling; and the pseudo-likelihood, exact whatever the size."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from dlpipe.layers.rbm import RBM
from dlpipe.measures.partition import Partition, mean_of
from dlpipe.tasks.base import Measured


class LogLikelihood(Partition):
    """The arguments are the fields of its spec.

    Where log Z is a lower bound, in expectation, the log-likelihood is an upper one: it flatters the RBM. `reverse`
    adds the other bounds, which hold as far as Gibbs chains from training examples reach the RBM's distribution.
    """

    def __call__(self, layer: RBM, inputs: Mapping[str, Tensor], generator: torch.Generator) -> Measured:
        """`inputs`: the splits [N, visible] by name, `train` among them. Metrics in nats, by name.

        `log_partition`, and `train_log_likelihood`, …, the means over a split. Ends of an interval that are infinite
        are left out.
        """
        log_weights = {name: -mean_of(layer.free_energy, v) for name, v in inputs.items() if len(v)}
        train = inputs["train"]
        return self.normalised("log_likelihood", log_weights, layer, train.mean(dim=0), train, generator)


class PseudoLikelihood:
    """Of so many examples of each split, evenly spaced: a test set in its source's order may begin with easy ones."""

    def __init__(self, *, examples: int) -> None:
        self.examples = examples

    def __call__(self, layer: RBM, inputs: Mapping[str, Tensor], generator: torch.Generator) -> Measured:
        """`test_pseudo_log_likelihood`, …: means over examples, in nats."""
        metrics = {}
        for name, v in inputs.items():
            n = min(self.examples, len(v))
            if n:
                some = v[torch.arange(n, device=v.device) * len(v) // n]
                metrics[f"{name}_pseudo_log_likelihood"] = mean_of(layer.pseudo_log_likelihood, some)
        return Measured(metrics)
