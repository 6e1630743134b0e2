"""Gradients in closed form: where a layer's step writes them, and the type of the products that they are."""

from __future__ import annotations

import torch
from torch import Tensor


def gradient(parameter: Tensor) -> Tensor:
    """The parameter's `.grad`, allocated if there is none, to be written over."""
    if parameter.grad is None:
        parameter.grad = torch.empty_like(parameter)
    return parameter.grad


def product(a: Tensor, b: Tensor, out: Tensor) -> None:
    """a @ b into `out`, in the type that autocast multiplies in: it does not reach products that are given an `out`."""
    if torch.is_autocast_enabled(out.device.type):
        out.copy_(a @ b)
    else:
        torch.matmul(a, b, out=out)
