"""RBMs with 16 hidden units, few enough for exact log-likelihoods."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from dlpipe.layers.rbm import RBM

BATCH = 100


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pcd_epochs(v: Tensor, *, centred: bool, epochs: int, learning_rate: float, weight_scale: float) -> Iterator[RBM]:
    """The RBM in training by PCD-1 with 100 chains on v [N, visible], 0 or 1, after each epoch: one and the same."""
    layer = RBM(v.shape[1], 16, persistent=True, centred=centred, weight_scale=weight_scale)
    layer.initialise(v.mean(0), generator(0))
    optimizer = torch.optim.SGD(layer.parameters(), lr=learning_rate)
    for epoch in range(epochs):
        order = torch.randperm(len(v), generator=generator(epoch)).split(BATCH)
        for position, batch in enumerate(order, start=epoch * len(order)):
            layer.step(v[batch], generator(position))
            optimizer.step()
        yield layer


def trained_by_pcd(v: Tensor, *, centred: bool, epochs: int, learning_rate: float, weight_scale: float) -> RBM:
    """The same after the last epoch, in float64."""
    *_, layer = pcd_epochs(v, centred=centred, epochs=epochs, learning_rate=learning_rate, weight_scale=weight_scale)
    return layer.double()
