"""The gradient against the distance: autograd through the whole window, and networks where it is known."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from dlpipe.measures.gradients import GradientByDistance, gradient_by_distance
from dlpipe.models.recurrent import Recurrent
from dlpipe.spec.datasets import DatasetSpec
from dlpipe.spec.layers import Rbm
from dlpipe.spec.measures import GradientByDistance as Spec
from dlpipe.spec.recurrent import Recurrent as RecurrentSpec

BATCH, STEPS = 3, 8


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("cell", ["elman", "lstm", "gru", "mut1", "jordan"])
def test_it_is_the_gradient_through_the_whole_window(cell: Any) -> None:
    """By each state from which the rest of the window is computed anew, all layers' together."""
    units = [5] if cell == "jordan" else [5, 5]
    model = Recurrent(7, 4, tokens=True, cell=cell, units=units, init="uniform", init_range=0.7).double()
    model.initialise(generator())
    x = torch.randint(7, (BATCH, STEPS), generator=generator(1))
    norms = gradient_by_distance(model, x, generator(2))
    v = torch.randn(BATCH, 1, 4, generator=generator(2), dtype=torch.float64)
    for distance in range(1, STEPS + 1):
        _, state = model(x[:, : STEPS - distance]) if distance < STEPS else (None, model.empty_state(BATCH))
        state = tuple(part.detach().requires_grad_() for part in state)
        outputs, _ = model(x[:, STEPS - distance :], state=state)
        gradients = torch.autograd.grad(outputs[:, -1:], state, v)
        torch.testing.assert_close(norms[:, distance - 1], torch.cat(gradients, dim=1).norm(dim=1), rtol=1e-10, atol=0)


@pytest.mark.parametrize("scale", [0.9, 1.0, 1.2])
def test_a_rotation_times_a_number_changes_it_by_that_number(scale: float) -> None:
    """With inputs of 0 the state stays 0, where tanh has the slope 1."""
    model = Recurrent(2, 3, tokens=False, cell="elman", units=[6], init="orthogonal")
    model.initialise(generator())
    with torch.no_grad():
        model.layers[0][0].W_h.mul_(scale)
    split: Any = SimpleNamespace(inputs=torch.zeros(50, 2), lengths=torch.tensor([50]))
    found = GradientByDistance(steps=50, windows=4)(model, {"test": split}, generator(1))
    assert found.metrics["gradient_factor"] == pytest.approx(scale, rel=1e-5)
    assert found.of_each_seed["gradient_by_distance"].shape == (50,)
    assert math.log(found.of_each_seed["gradient_by_distance"][-1]) == pytest.approx(49 * math.log(scale), abs=1e-4)


def test_a_memory_that_nothing_is_forgotten_of_keeps_its_gradient() -> None:
    """An LSTM without forget gate whose hidden units do not come back: all there is goes through the memory."""
    model = Recurrent(2, 3, tokens=False, cell="lstm", units=[4], without="forget")
    model.initialise(generator())
    with torch.no_grad():
        cell = model.layers[0][0]
        cell.W_h.zero_()
    split: Any = SimpleNamespace(inputs=torch.randn(60, 2, generator=generator(3)), lengths=torch.tensor([60]))
    relative = GradientByDistance(steps=30, windows=2)(model, {"test": split}, generator(1)).of_each_seed
    torch.testing.assert_close(relative["gradient_by_distance"], torch.ones(30, dtype=torch.float64))


def test_windows_stay_within_their_sequences() -> None:
    lengths = torch.tensor([5, 2, 9, 4])
    split: Any = SimpleNamespace(inputs=torch.arange(20), lengths=lengths)
    windows = GradientByDistance(steps=4, windows=10)._inputs(split)
    assert windows[:, 0].tolist() == [0, 7, 11, 16]
    assert torch.equal(windows, windows[:, :1] + torch.arange(4))
    assert GradientByDistance(steps=4, windows=2)._inputs(split)[:, 0].tolist() == [0, 16]
    assert GradientByDistance(steps=100, windows=2)._inputs(split).tolist() == [list(range(7, 16))]


def test_it_is_for_recurrent_models_that_read_forward() -> None:
    dataset: DatasetSpec = SimpleNamespace()  # type: ignore[assignment]
    spec = Spec()
    assert spec.unfit(RecurrentSpec(units=(4,)), dataset) is None
    assert "one direction" in (spec.unfit(RecurrentSpec(units=(4,), directions="both"), dataset) or "")
    assert "a measure of a recurrent model, not of a rbm" in (spec.unfit(Rbm(), dataset) or "")
