"""Generated data: the distributions they are drawn from, and the stages they go through without a file."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from dlpipe.artifacts import Store
from dlpipe.datasets import plane
from dlpipe.datasets.draws import Draws
from dlpipe.datasets.generated import Plane
from dlpipe.spec.datasets import Plane as PlaneSpec
from tests.stages.test_prepare import arrays, make

N = 20_000
SHAPES = ("gaussian", "two_moons", "eight_gaussians", "rings", "ica_mixture")
LIKELY = 1e-3
"""Least p-value that passes. The draws are fixed, so that these tests give the same answer every time."""


def drawn(shape: str, **fields: int) -> tuple[np.ndarray, np.ndarray]:
    examples = Plane.parse(Path(), PlaneSpec(shape=shape, **{"train": N, **fields}))  # type: ignore[arg-type]
    return examples.inputs.astype(np.float64), examples.targets


@pytest.mark.parametrize(
    ("name", "distribution"),
    [("uniform", stats.uniform()), ("normal", stats.norm()), ("laplace", stats.laplace(scale=1 / math.sqrt(2)))],
)
def test_draws_follow_their_distribution(name: str, distribution: stats.rv_continuous) -> None:
    draws = getattr(Draws(0, 0), name)(N, 2)
    assert draws.shape == (N, 2)
    assert stats.kstest(draws.ravel(), distribution.cdf).pvalue > LIKELY
    assert abs(np.corrcoef(draws.T)[0, 1]) < 4 / math.sqrt(N)


def test_the_gaussian_has_unit_variances_and_a_correlation_of_4_in_5() -> None:
    points, classes = drawn("gaussian")
    assert not classes.any()
    white = np.linalg.solve(np.linalg.cholesky([[1.0, 0.8], [0.8, 1.0]]), points.T)
    for axis in white:
        assert stats.kstest(axis, "norm").pvalue > LIKELY
    assert abs(np.corrcoef(white)[0, 1]) < 4 / math.sqrt(N)


def test_the_ica_mixture_is_two_independent_laplace_variables_seen_at_30_degrees() -> None:
    points, _ = drawn("ica_mixture")
    cos, sin = math.cos(math.pi / 6), math.sin(math.pi / 6)
    sources = points @ np.array([[cos, -sin], [sin, cos]])
    for source in sources.T:
        assert stats.kstest(source, stats.laplace(scale=1 / math.sqrt(2)).cdf).pvalue > LIKELY
    assert abs(np.corrcoef(np.abs(sources.T))[0, 1]) < 4 / math.sqrt(N)


def test_the_eight_gaussians_are_on_a_circle() -> None:
    points, classes = drawn("eight_gaussians")
    for k in range(8):
        centre = 2 * np.array([math.cos(k * math.pi / 4), math.sin(k * math.pi / 4)])
        assert stats.kstest((points[classes == k] - centre).ravel() / 0.25, "norm").pvalue > LIKELY


def test_rings_and_moons_have_noise_around_a_curve() -> None:
    """Across a curve, the distance from it is nearly normal with the noise's deviation: curvature adds its square."""
    points, classes = drawn("rings")
    for ring, radius in enumerate((1.0, 2.0)):
        across = np.hypot(*points[classes == ring].T) - radius - 0.1**2 / (2 * radius)
        assert stats.kstest(across / 0.1, "norm").pvalue > LIKELY
    points, classes = drawn("two_moons")
    upper = np.where(classes[:, None] == 0, points, [1.0, 0.5] - points)
    angle = np.arctan2(upper[:, 1], upper[:, 0])
    middle = np.abs(angle - math.pi / 2) < 1.0  # far from where the noise bends the ends
    assert stats.kstest(angle[middle], stats.uniform(math.pi / 2 - 1, 2).cdf).pvalue > LIKELY
    across = np.hypot(*upper[middle].T) - 1.0 - 0.1**2 / 2
    assert stats.kstest(across / 0.1, "norm").pvalue > LIKELY


@pytest.mark.parametrize("shape", SHAPES)
def test_classes_are_equally_many(shape: str) -> None:
    _, classes = drawn(shape, train=1601)
    counts = np.bincount(classes)
    assert counts.max() - counts.min() <= 1


@pytest.mark.parametrize("shape", SHAPES)
def test_the_stages_need_no_file(tmp_path: Path, shape: str) -> None:
    store = Store(tmp_path / "data", tmp_path / "results")
    prepared = make(PlaneSpec(shape=shape, train=300, valid=40, test=50), store)  # type: ignore[arg-type]
    assert dict(store.read("fetch", prepared.stage.inputs["raw"]).manifest["files"]) == {}
    assert prepared.extra["sizes"] == {"train": 300, "valid": 40, "test": 50}
    assert prepared.extra["input_shape"] == [2]
    got = arrays(prepared)
    assert got["train.inputs"].dtype == np.float32
    assert got["train.inputs"].min() < 0  # not squeezed into [0, 1]
    everything = np.concatenate([got[f"{split}.inputs"] for split in ("train", "valid", "test")])
    assert len(np.unique(everything, axis=0)) == 390


def test_the_seed_decides_and_test_examples_do_not_move(tmp_path: Path) -> None:
    store = Store(tmp_path / "data", tmp_path / "results")
    first, larger, other = (
        arrays(make(PlaneSpec(shape="rings", train=n, test=50, split_seed=seed), store))
        for n, seed in ((100, 0), (200, 0), (100, 1))
    )
    assert np.array_equal(first["test.inputs"], larger["test.inputs"])
    assert not np.isin(first["test.inputs"], other["test.inputs"]).any()
    assert not np.isin(first["train.inputs"], other["train.inputs"]).any()


def test_standard_scaling(tmp_path: Path) -> None:
    store = Store(tmp_path / "data", tmp_path / "results")
    got = arrays(make(PlaneSpec(shape="two_moons", scaling="standard"), store))
    np.testing.assert_allclose(got["train.inputs"].mean(axis=0), 0.0, atol=1e-5)
    np.testing.assert_allclose(got["train.inputs"].std(axis=0), 1.0, atol=1e-5)


def test_a_scale_multiplies_the_same_points() -> None:
    plain, scaled = (Plane.parse(Path(), PlaneSpec(shape="rings", scale=scale)) for scale in (1.0, 2.5))
    for split in ("inputs", "test_inputs"):
        np.testing.assert_allclose(getattr(scaled, split), 2.5 * getattr(plain, split), rtol=1e-6)
    assert np.array_equal(scaled.targets, plain.targets)


def test_a_scale_of_1_is_not_part_of_a_digest() -> None:
    assert "scale" not in PlaneSpec(shape="rings", scale=1.0).model_dump(mode="json")
    assert PlaneSpec(shape="rings", scale=2.5).model_dump(mode="json")["scale"] == 2.5


@pytest.mark.parametrize("scale", [1.0, 1.5])
@pytest.mark.parametrize("shape", plane.LOG_DENSITIES)
def test_densities_are_those_of_the_points(shape: str, scale: float) -> None:
    """They integrate to 1, and cells of the plane hold as many points as they should."""
    edges, n = np.linspace(-12, 12, 25) * scale, 40
    middles = (np.linspace(-12, 12, 24 * n, endpoint=False) + 0.5 / n) * scale
    grid = np.stack(np.meshgrid(middles, middles, indexing="ij"), axis=-1).reshape(-1, 2)
    density = np.exp(plane.log_density(shape, grid, scale)).reshape(24, n, 24, n).sum(axis=(1, 3)) * (scale / n) ** 2
    assert density.sum() == pytest.approx(1.0, abs=1e-3)
    points = plane.points(shape, N, Draws(0, 0), scale)[0]
    found = np.histogram2d(*points.T, bins=(edges, edges))[0]
    likely = density * N > 5
    assert stats.chisquare(found[likely], density[likely] * found[likely].sum() / density[likely].sum()).pvalue > LIKELY


def test_a_density_is_known_where_there_is_one() -> None:
    known = {shape for shape in SHAPES if PlaneSpec(shape=shape).density_is_known}  # type: ignore[arg-type]
    assert known == set(plane.LOG_DENSITIES)
    assert not PlaneSpec(shape="ica_mixture", scaling="standard").density_is_known
    spec = PlaneSpec(shape="ica_mixture", scale=2.0)
    expected = -math.log(2) - 2 * math.log(2.0)  # at 0, where neither source has any size
    assert Plane.log_density(spec, np.zeros((1, 2))) == pytest.approx(expected)


def test_golden_numbers() -> None:
    """The first point of each shape: if they change, raise the spec's version."""
    firsts = {shape: drawn(shape, train=8)[0][0].round(5).tolist() for shape in SHAPES}
    assert firsts == {
        "gaussian": [-0.13951, -0.83043],
        "two_moons": [-0.71686, 0.83414],
        "eight_gaussians": [1.96512, 0.0829],
        "rings": [-0.40686, -0.92598],
        "ica_mixture": [0.57739, -0.2603],
    }
