"""RBMs with 16 hidden units, few enough for exact log-likelihoods."""

from __future__ import annotations

import torch
from torch import Tensor

from dlpipe.layers.rbm import RBM

BATCH = 100


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def trained_by_pcd(v: Tensor, *, centred: bool, epochs: int, learning_rate: float, weight_scale: float) -> RBM:
    """By PCD-1 with 100 chains on v [N, visible], 0 or 1; afterwards in float64."""
    layer = RBM(v.shape[1], 16, persistent=True, centred=centred, weight_scale=weight_scale)
    layer.initialise(v.mean(0), generator(0))
    optimizer = torch.optim.SGD(layer.parameters(), lr=learning_rate)
    for epoch in range(epochs):
        order = torch.randperm(len(v), generator=generator(epoch)).split(BATCH)
        for position, batch in enumerate(order, start=epoch * len(order)):
            layer.step(v[batch], generator(position))
            optimizer.step()
    return layer.double()
