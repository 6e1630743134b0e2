"""Variations of pictures: rotation against numpy's and scipy's, noise against its distribution, and what stays put."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.ndimage
import scipy.stats

from dlpipe.datasets import variations
from dlpipe.datasets.examples import Examples
from dlpipe.datasets.sources import DataError
from dlpipe.datasets.variations import rotate, vary

DRAWS = np.random.default_rng(0)
PICTURES = DRAWS.integers(0, 256, (40, 9, 9), np.uint8)
KINDS = ("rotated", "random_background")


def examples(n: int = 40, test: int = 10) -> Examples:
    targets = np.arange(40) % 4
    return Examples(PICTURES[:n], targets[:n], tuple("abcd"), 255.0, PICTURES[::-1][:test], targets[:test])


@pytest.mark.parametrize("side", [1, 8, 9])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("quarters", [0, 1, 2, 3, 4])
def test_quarter_turns_are_numpys(side: int, dtype: type, quarters: int) -> None:
    pictures = DRAWS.integers(0, 256, (5, side, side)).astype(dtype)
    turned = rotate(pictures, np.full(5, quarters * np.pi / 2))
    assert turned.dtype == dtype
    expected = np.rot90(pictures, quarters, axes=(1, 2))
    if dtype == np.uint8:
        assert np.array_equal(turned, expected)
    else:
        np.testing.assert_allclose(turned, expected, atol=1e-12 * 255)


def test_any_angle_is_scipys_bilinear_rotation() -> None:
    """scipy turns the other way round; its pixels that reach over the border are left out of the comparison."""
    pictures, angles = DRAWS.random((20, 28, 28)), DRAWS.uniform(0, 2 * np.pi, 20)
    turned = rotate(pictures, angles)
    inside = np.hypot(*(np.indices((28, 28)) - 13.5)) < 13
    for picture, angle, ours in zip(pictures, angles, turned, strict=True):
        theirs = scipy.ndimage.rotate(picture, np.degrees(angle), reshape=False, order=1)
        np.testing.assert_allclose(ours[inside], theirs[inside], atol=1e-9)


def test_what_comes_in_from_outside_is_0_and_the_corners_go() -> None:
    turned = rotate(np.full((1, 20, 20), 200, np.uint8), np.array([np.pi / 4]))[0]
    assert (turned[0, 0], turned[0, -1], turned[-1, 0], turned[-1, -1]) == (0, 0, 0, 0)
    assert (turned[5:15, 5:15] == 200).all()


def test_angles_are_uniform_and_of_each_example_its_own() -> None:
    """Seen by where a bright pixel on the right edge goes."""
    spot = np.zeros((2000, 21, 21), np.float32)
    spot[:, 10, 20] = 1
    varied = vary(Examples(spot, np.zeros(2000, np.int64), ("a",), 1.0), "rotated", 0)
    rows, columns = np.indices((21, 21)) - 10
    height, width = ((varied.inputs * each).sum(axis=(1, 2)) for each in (-rows, columns))
    angles = np.arctan2(height, width) % (2 * np.pi)
    assert scipy.stats.kstest(angles, "uniform", (0, 2 * np.pi)).pvalue > 0.01
    assert abs(np.corrcoef(angles[:-1], angles[1:])[0, 1]) < 3 / np.sqrt(2000)


@pytest.mark.parametrize("kind", KINDS)
def test_an_example_gets_the_same_whoever_else_is_there(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, few = vary(examples(), kind, 0), vary(examples(n=7, test=3), kind, 0)
    assert whole.test_inputs is not None
    assert few.test_inputs is not None
    assert np.array_equal(whole.inputs[:7], few.inputs)
    assert np.array_equal(whole.test_inputs[:3], few.test_inputs)
    monkeypatch.setattr(variations, "CHUNK", 3)
    assert np.array_equal(vary(examples(), kind, 0).inputs, whole.inputs)


@pytest.mark.parametrize("kind", KINDS)
def test_seeds_and_parts_differ_and_the_rest_stays(kind: str) -> None:
    given = examples(test=40)
    one, again, other = vary(given, kind, 0), vary(given, kind, 0), vary(given, kind, 1)
    assert np.array_equal(one.inputs, again.inputs)
    assert not np.array_equal(one.inputs, other.inputs)
    assert one.test_inputs is not None
    assert not np.array_equal(one.inputs, one.test_inputs[::-1])  # the same pictures, in the other part
    assert one.targets is given.targets
    assert one.test_targets is given.test_targets
    assert one.inputs.dtype == np.uint8
    assert np.array_equal(given.inputs, PICTURES)


@pytest.mark.parametrize(("dtype", "scale"), [(np.uint8, 16.0), (np.uint8, 255.0), (np.float32, 1.0)])
def test_a_background_is_uniform_over_the_shades_behind_the_picture(dtype: type, scale: float) -> None:
    pictures = np.zeros((500, 9, 9), dtype)
    pictures[:, 3, 3] = scale
    noise = vary(Examples(pictures, np.zeros(500, np.int64), ("a",), scale), "random_background", 0).inputs
    assert (noise[:, 3, 3] == scale).all()
    behind = np.delete(noise.reshape(500, -1), 3 * 9 + 3, axis=1).ravel()
    if dtype == np.uint8:
        counts = np.bincount(behind, minlength=int(scale) + 1)
        assert len(counts) == scale + 1
        assert scipy.stats.chisquare(counts).pvalue > 0.01
    else:
        assert scipy.stats.kstest(behind, "uniform").pvalue > 0.01
    assert len(np.unique(noise.reshape(500, -1), axis=0)) == 500


@pytest.mark.parametrize("shape", [(64,), (8, 9), (8, 8, 3)])
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_square_picture_in_grey_is_refused(kind: str, shape: tuple[int, ...]) -> None:
    given = Examples(np.zeros((4, *shape), np.uint8), np.arange(4), tuple("abcd"), 255.0)
    message = f"variation: {kind} is for square pictures in grey, [side, side]; an example here is {list(shape)}"
    with pytest.raises(DataError) as caught:
        vary(given, kind, 0)
    assert str(caught.value) == message
