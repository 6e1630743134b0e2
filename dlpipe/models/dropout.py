"""Dropout: units that are silenced at random in training.

Paper: srivastava2014.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dlpipe.layers.units import Generators, draw


def dropout(h: Tensor, p: float, generator: Generators | None, *, training: bool) -> Tensor:
    """Each unit of h, of any shape, is 0 with probability `p`, else scaled up so that its mean stays; in `training`
    alone."""
    if not training or not p:
        return h
    if generator is None:
        raise ValueError("dropout in training mode needs a generator")
    kept = draw(Tensor.uniform_, torch.empty(h.shape, device=h.device), generator) >= p
    return h * kept / (1 - p)
