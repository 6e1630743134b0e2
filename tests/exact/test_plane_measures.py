"""Measures of a Gaussian RBM in the plane: against the mixture of Gaussians that it is, and against closed forms."""

from __future__ import annotations

import copy
import inspect
import math

import pytest
import torch
from torch import Tensor

from dlpipe.layers.rbm import RBM, states
from dlpipe.measures.plane import KlDivergence, Landscape
from dlpipe.spec import measures
from dlpipe.tasks.quadrature import Box, box_around, grid, log_partition

N = 50_000
WIDE = Box(torch.full((2,), -16.0, dtype=torch.float64), torch.full((2,), 16.0, dtype=torch.float64))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def layer() -> RBM:
    """Of four hidden units, with weights as large as those that two Laplace sources ask for."""
    rbm = RBM(2, 4, visible_units="gaussian")
    with torch.no_grad():
        for number, parameter in enumerate(rbm.parameters()):
            parameter.normal_(0.0, 1.2, generator=generator(number))
    return rbm


def mixture(layer: RBM, v: Tensor) -> Tensor:
    """The density, [N, 2] -> [N]: sum over the 16 states h of p(h) Normal(v; c + W h, 1), p(h) from energies alone."""
    W, b, c = (p.detach().double() for p in (layer.W, layer.hbias, layer.vbias))
    (h,) = states(4, W)
    means = c + h @ W.T
    p = torch.softmax(h @ b + 0.5 * (means.square().sum(dim=1) - c.square().sum()), dim=0)
    return torch.exp(-0.5 * torch.cdist(v, means).square()) @ p / (2 * math.pi)


def drawn(layer: RBM, n: int = N) -> Tensor:
    """Points of the layer's own distribution, by choosing one of its 16 Gaussians."""
    W, b, c = (p.detach().double() for p in (layer.W, layer.hbias, layer.vbias))
    (h,) = states(4, W)
    means = c + h @ W.T
    p = torch.softmax(h @ b + 0.5 * means.square().sum(dim=1), dim=0)
    chosen = means[torch.multinomial(p, n, replacement=True, generator=generator(5))]
    return (chosen + torch.randn(n, 2, dtype=torch.float64, generator=generator(6))).float()


def test_log_z_by_quadrature_is_that_of_the_enumeration(layer: RBM) -> None:
    layer.double()
    exact = float(layer.log_partition())
    assert log_partition(layer.free_energy, box_around(drawn(layer, 500).double())) == pytest.approx(exact, abs=1e-6)
    cells = grid(WIDE, 400)
    with torch.no_grad():
        whole = float(torch.logsumexp(-layer.free_energy(cells.points) - exact, dim=0) + cells.log_cell)
    assert whole == pytest.approx(0.0, abs=1e-9)  # exp(-F) / Z integrates to 1


def test_the_landscape_is_the_layers_density(layer: RBM) -> None:
    v = drawn(layer)
    measured = Landscape()(layer, {"train": v, "test": v[:2000]}, generator())
    density, box = measured.tensors["density"], Box(*measured.tensors["density_box"].double())
    expected = mixture(layer, grid(box, len(density)).points).reshape(density.shape)
    torch.testing.assert_close(density.double(), expected, rtol=1e-5, atol=1e-7)
    cell = float(((box.high - box.low) / len(density)).prod())
    assert float(density.sum()) * cell == pytest.approx(1.0, abs=0.01)  # the box holds the test points that are shown
    assert torch.equal(measured.tensors["density_points"], v[:1000])
    assert not measured.metrics
    assert layer.W.dtype == torch.float32  # as it was


def test_the_landscapes_box_is_that_of_the_points_shown(layer: RBM) -> None:
    """One training point far away, as of heavy tails, does not make the picture empty."""
    v = drawn(layer, 3000)
    far = torch.cat((v, torch.tensor([[40.0, 0.0]])))
    near, with_far = (Landscape()(layer, {"train": x, "test": v}, generator()).tensors for x in (v, far))
    assert torch.equal(near["density_box"], with_far["density_box"])
    torch.testing.assert_close(near["density"], with_far["density"])


def test_the_divergence_between_gaussians_has_its_closed_form() -> None:
    """Without weights the RBM is Normal(c, 1): |m - c|^2 / 2 from Normal(m, 1), up to the mean's error."""
    layer = RBM(2, 3, visible_units="gaussian")
    m, c = torch.tensor([0.5, -0.2]), torch.tensor([-0.3, 0.4])
    with torch.no_grad():
        layer.vbias.copy_(c)
        layer.hbias.fill_(0.7)  # of no effect: what no weight reaches is integrated out

    def log_density(v: Tensor) -> Tensor:
        return -0.5 * (v.double() - m).square().sum(dim=1) - math.log(2 * math.pi)

    v = m + torch.randn(N, 2, generator=generator())
    found = KlDivergence()(layer, {"train": v, "valid": v[:0], "test": v}, generator(), log_density).metrics
    assert set(found) == {"train_kl_divergence", "test_kl_divergence"}
    error = 4 * float((m - c).norm()) / math.sqrt(N)  # log p - log q has the deviation |m - c|
    exact = float((m - c).square().sum()) / 2
    assert exact > 10 * error
    assert found["test_kl_divergence"] == pytest.approx(exact, abs=error)


def test_from_its_own_density_alone_there_is_no_divergence(layer: RBM) -> None:
    v, own = drawn(layer), copy.deepcopy(layer)
    splits = {"train": v, "test": v}

    def divergence() -> float:
        measured = KlDivergence()(layer, splits, generator(), lambda x: mixture(own, x.double()).log())
        return measured.metrics["test_kl_divergence"]

    assert divergence() == pytest.approx(0.0, abs=1e-5)
    with torch.no_grad():
        layer.W.mul_(0.9)
    assert divergence() > 0.01


@pytest.mark.parametrize("declared", [measures.Landscape(), measures.KlDivergence()])
def test_arguments_are_those_of_the_spec(declared: measures.MeasureSpec) -> None:
    assert not declared.arguments()
    names = list(inspect.signature(declared.load().__call__).parameters)
    assert names[1:] == ["layer", "inputs", "generator", *(["log_density"] if declared.told_density else [])]
