"""Measures of an RBM with Gaussian visible units in the plane, where its density exp(-F(v)) / Z is integrated and seen.

log Z is found by quadrature, whatever the number of hidden units.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from dlpipe.layers.rbm import RBM
from dlpipe.measures.partition import mean_of
from dlpipe.tasks.base import Measured
from dlpipe.tasks.density import SHOWN, in_float64, landscape
from dlpipe.tasks.quadrature import box_around, log_partition


class Landscape:
    """For the figure `landscape`: the density over the plane."""

    def __call__(self, layer: RBM, inputs: Mapping[str, Tensor], generator: torch.Generator) -> Measured:
        """`inputs`: the splits [N, 2] by name, `train` and `test` among them."""
        (rbm, log_z), test = normalised(layer, inputs), inputs["test"]
        shown = box_around(test[:SHOWN].double())  # of heavy tails, many training points are far outside of it
        return Measured({}, tensors=landscape(rbm.free_energy, log_z, shown, test))


class KlDivergence:
    """From the density p that the data are drawn from to the RBM's q: the mean of log p - log q over points of p.

    It is never below 0; its estimate may be, by the standard error of that mean over finitely many points.
    """

    def __call__(
        self,
        layer: RBM,
        inputs: Mapping[str, Tensor],
        generator: torch.Generator,
        log_density: Callable[[Tensor], Tensor],
    ) -> Measured:
        """`inputs`: the splits [N, 2] by name; `log_density`: log p in nats, [N, 2] -> [N].

        Metrics in nats: `test_kl_divergence`, …, of each split that is not empty.
        """
        rbm, log_z = normalised(layer, inputs)
        metrics = {}
        for name, v in inputs.items():
            if len(v):
                log_q = -mean_of(rbm.free_energy, v.double()) - log_z
                metrics[f"{name}_kl_divergence"] = mean_of(log_density, v) - log_q
        return Measured(metrics)


def normalised(layer: RBM, inputs: Mapping[str, Tensor]) -> tuple[RBM, float]:
    """The RBM in float64, and its log Z in nats by quadrature from a box around the training points on.

    Raises NoIntegral.
    """
    rbm = in_float64(layer)
    return rbm, log_partition(rbm.free_energy, box_around(inputs["train"].double()))
