"""Cross-entropy of a softmax over many classes, such as the words of a language, in the memory of its logits.

torch's `cross_entropy` makes three more tensors of the logits' size, [N, C] of [700, 10000] in a batch of a small
language model: the logarithms, the gradient by these, and that by the logits. Here one holds them all, one after the
other, which halves the time of this part.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def cross_entropy_in_place(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean over the rows of -log softmax(logits)[target]; logits [N, C], targets [N] int64.

    The logits are of no use afterwards; only the gradient of the result is. Those in half precision are computed with
    in float32.
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    loss: Tensor = _CrossEntropy.apply(logits, targets)  # type: ignore[no-untyped-call]
    return loss


class _CrossEntropy(torch.autograd.Function):
    """loss = 1/N sum_n (log sum_c exp z_nc - z_ny), d loss / d z_nc = (softmax(z_n)_c - [c = y_n]) / N."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor) -> Tensor:
        z, y = logits.detach(), targets[:, None]
        z.sub_(z.amax(dim=1, keepdim=True))  # so that no exp overflows; the softmax is the same
        of_target = z.gather(1, y)
        total = z.exp_().sum(dim=1, keepdim=True)
        ctx.save_for_backward(z, y, total)
        return (total.log() - of_target).mean()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        exponentials, y, total = ctx.saved_tensors
        share = gradient / len(y)
        z = exponentials.mul_(share / total)
        return z.scatter_add_(1, y, -share.expand(y.shape)), None
