"""The cross-entropy that overwrites its logits is torch's."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn.functional import cross_entropy

from dlpipe.tasks.softmax import cross_entropy_in_place


@pytest.mark.parametrize("scale", [1.0, 300.0])
def test_loss_and_gradient_are_those_of_torch(scale: float) -> None:
    """Also of logits whose exponentials overflow."""
    generator = torch.Generator().manual_seed(0)
    drawn = scale * torch.randn(13, 29, generator=generator, dtype=torch.float64)
    targets = torch.randint(29, (13,), generator=generator)
    theirs, ours = drawn.clone().requires_grad_(), drawn.clone().requires_grad_()
    expected, loss = cross_entropy(theirs, targets), cross_entropy_in_place(ours * 1, targets)
    torch.testing.assert_close(loss, expected, rtol=1e-14, atol=0)
    (3 * expected).backward()
    (3 * loss).backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-12, atol=1e-16)


def test_equal_logits_cost_the_logarithm_of_the_classes() -> None:
    assert cross_entropy_in_place(torch.full((4, 50), 7.0), torch.arange(4)).item() == pytest.approx(math.log(50))


def test_its_memory_is_that_of_the_logits() -> None:
    logits = torch.randn(3, 5, requires_grad=True) * 1
    cross_entropy_in_place(logits, torch.arange(3))
    torch.testing.assert_close(logits.amax(dim=1), torch.ones(3))  # the exponentials, the largest of a row being 1


def test_another_backward_pass_is_refused() -> None:
    loss = cross_entropy_in_place(torch.randn(3, 5, requires_grad=True) * 1, torch.arange(3))
    loss.backward(retain_graph=True)  # type: ignore[no-untyped-call]
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()  # type: ignore[no-untyped-call]


def test_logits_that_something_else_needs_are_noticed() -> None:
    """torch keeps count of what is overwritten."""
    weights = torch.randn(3, 5, requires_grad=True)
    logits = weights * 1
    squares = logits.square().sum()
    loss = cross_entropy_in_place(logits, torch.arange(3))
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        (squares + loss).backward()  # type: ignore[no-untyped-call]


def test_half_precision_is_computed_in_float32() -> None:
    logits = torch.randn(3, 5, generator=torch.Generator().manual_seed(0)).bfloat16()
    loss = cross_entropy_in_place(logits, torch.arange(3))
    torch.testing.assert_close(loss, cross_entropy(logits.float(), torch.arange(3)))
