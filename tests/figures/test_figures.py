"""Each figure shows the numbers it says it shows; what it cannot show is explained."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats

from dlpipe.figures import codes, comparison, confusion, curves, gradients, images, landscapes
from dlpipe.figures.canvas import best_columns, to_svg, use_style
from dlpipe.figures.data import FigureData, NothingToDraw, VariantData, line_axis, showcase
from dlpipe.figures.defaults import default_figures
from dlpipe.spec.figures import Landscape
from tests import synthetic


@pytest.fixture(autouse=True)
def _style() -> Iterator[None]:
    with use_style():
        yield


def test_axes_find_their_place(data: FigureData) -> None:
    assert comparison.horizontal_axis(data, None) == "depth"
    assert line_axis(data) == "pretraining"
    assert [variant.levels["depth"] for variant in showcase(data)] == ["4", "4", "4"]
    assert data.label(data.variants[0]) == "rbm, depth 1"
    assert data.slice({"depth": "2"}).label(data.variants[1]) == "rbm"


def test_defaults_are_what_the_runs_have(data: FigureData) -> None:
    kinds = [figure.component for figure in default_figures(data)]
    assert kinds == [
        "figure.comparison", *["figure.curves"] * 3, "figure.filters", "figure.reconstructions", "figure.confusion",
        "figure.mistakes",
    ]  # fmt: skip
    assert default_figures(FigureData({}, [])) == []


def test_comparison_shows_means_and_t_intervals(data: FigureData) -> None:
    picture = comparison.draw(data=data, title=None, where={}, metric="test_error", x=None, lines=None)
    (place,) = picture.figure.axes
    assert picture.title == "Test error by depth"
    assert [label.get_text() for label in place.get_xticklabels()] == list(synthetic.DEPTHS)
    rbm = place.containers[0]
    errors = [list(v.metrics["test_error"].values()) for v in data.variants if v.levels["pretraining"] == "rbm"]
    np.testing.assert_allclose(rbm.lines[0].get_ydata().astype(float), [np.mean(values) for values in errors])
    low, high = rbm.lines[2][0].get_segments()[0][:, 1]
    expected = scipy.stats.t.interval(0.95, 2, np.mean(errors[0]), scipy.stats.sem(errors[0]))
    assert (low, high) == pytest.approx(expected)
    dots = [line for line in place.lines if line.get_marker() == "."]
    assert len(dots) == 12
    assert list(dots[0].get_ydata()) == errors[0]


def test_comparison_leaves_out_panels_with_nothing_to_compare(data: FigureData) -> None:
    three = FigureData({**data.axes, "labels": ["50", "300"]}, [])
    for variant in data.variants:
        copy = VariantData({**variant.levels, "labels": "50"}, variant.artifacts)
        three.variants.append(copy)
    lonely = VariantData({"pretraining": "rbm", "depth": "3", "labels": "300"}, data.variants[2].artifacts)
    three.variants.append(lonely)
    picture = comparison.draw(data=three, title=None, where={}, metric="test_error", x="depth", lines="pretraining")
    assert [place.get_title(loc="left") for place in picture.figure.axes] == ["labels 50"]
    assert picture.caption.endswith("Left out, with a single level of depth: labels 300.")


def test_curves_share_a_colour_a_level_and_have_a_panel_a_depth(data: FigureData) -> None:
    picture = curves.draw(data=data, title=None, where={}, metric="valid_error", phase="finetune/1", lines=None)
    assert [place.get_title(loc="left") for place in picture.figure.axes] == [f"depth {d}" for d in synthetic.DEPTHS]
    colours = [[line.get_color() for line in place.lines] for place in picture.figure.axes]
    assert len(set(map(tuple, colours))) == 1
    assert len(set(colours[0])) == 3
    assert picture.title == "Validation error during fine-tuning"


def test_curves_of_a_shared_layer_are_drawn_once(data: FigureData) -> None:
    picture = curves.draw(
        data=data, title=None, where={}, metric="train_reconstruction_error", phase="pretrain/1", lines=None
    )
    (place,) = picture.figure.axes
    assert len(place.lines) == 2
    assert place.get_title(loc="left") == ""


def test_mean_and_range_stop_where_a_seed_stops_or_breaks() -> None:
    seeds = {
        0: [(1.0, 4.0), (2.0, 2.0), (3.0, 1.0), (4.0, 0.5)],
        1: [(1.0, 6.0), (2.0, 3.0), (3.0, 3.0)],
        2: [(1.0, 5.0), (2.0, math.nan), (3.0, 2.0), (4.0, 0.5)],
    }
    assert curves.mean_and_range(seeds) == ([1.0, 3.0], [5.0, 2.0], [4.0, 1.0], [6.0, 3.0])


def many(levels: int) -> FigureData:
    """One axis with many levels, each a variant with one point of history."""
    names = [f"l{index}" for index in range(levels)]
    variants = []
    for index, name in enumerate(names):
        variant = VariantData({"method": name}, [])
        variant.__dict__["history"] = {("finetune/1", "valid_error"): {0: [(1.0, float(index)), (2.0, float(index))]}}
        variants.append(variant)
    return FigureData({"method": names}, variants)


def test_more_than_six_lines_get_more_panels() -> None:
    picture = curves.draw(data=many(14), title=None, where={}, metric="valid_error", phase="finetune/1", lines=None)
    assert [len(place.lines) for place in picture.figure.axes] == [6, 6, 2]
    assert [place.get_title(loc="left") for place in picture.figure.axes] == ["l0 to l5", "l6 to l11", "l12 to l13"]


@pytest.mark.parametrize(
    ("draw", "fields", "message"),
    [
        (curves.draw, {"metric": "bleu", "phase": "finetune/1", "lines": None}, r"no run has bleu in phase finetune/1"),
        (curves.draw, {"metric": "valid_error", "phase": "finetune/1", "lines": "width"}, r"no axis width; it has"),
        (comparison.draw, {"metric": "bleu", "x": None, "lines": None}, r"no run has the metric bleu; there are test"),
        (comparison.draw, {"metric": "test_error", "x": "width", "lines": None}, r"no axis width; it has pretraining"),
        (images.draw_filters, {"where": {"pretraining": "other"}}, r"no run has filters"),
        (images.draw_reconstructions, {"where": {"pretraining": "none"}}, r"no run has reconstructions"),
        (images.draw_mistakes, {"where": {"pretraining": "other"}}, r"no run has examples"),
        (images.draw_fantasies, {}, r"no run has fantasies; declare"),
        (confusion.draw, {"where": {"pretraining": "other"}}, r"no run has a confusion matrix"),
        (codes.draw, {}, r"no run has a code that is two wide"),
        (gradients.draw, {}, r"no run has norms by distance: add {kind: gradient_by_distance} to measures"),
    ],
)
def test_what_is_not_there_is_named(data: FigureData, draw, fields: dict, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(NothingToDraw, match=message):
        draw(data=data, title=None, **{"where": {}, **fields})


def test_filters_keep_zero_in_the_middle() -> None:
    weights = np.array([[[-2.0, 0.0], [1.0, 2.0]], [[0.0, 0.0], [0.0, 0.0]]], np.float32)
    pictures = images.signed(weights)
    assert pictures[0, 0, 0] == 0
    assert pictures[0, 1, 1] == 1
    assert pictures[0, 0, 1] == 0.5
    assert np.all(pictures[1] == 0.5)


def test_mosaic_puts_every_pixel_where_it_belongs() -> None:
    pictures = np.arange(3 * 2 * 2).reshape(3, 2, 2) / 255
    sheet = images.mosaic(pictures, columns=2)
    assert sheet.shape == (5, 5, 4)
    np.testing.assert_array_equal(sheet[0:2, 3:5, 0], [[4, 5], [6, 7]])
    np.testing.assert_array_equal(sheet[3:5, 0:2, 2], [[8, 9], [10, 11]])
    assert sheet[:, 2, 3].max() == 0  # gaps are transparent
    assert sheet[3:5, 3:5, 3].max() == 0


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((784,), (28, 28)),
        ((7,), (1, 7)),
        ((28, 28), (28, 28)),
        ((1, 4, 5), (4, 5)),
        ((3, 4, 5), (4, 5, 3)),
        ((4, 5, 3), (4, 5, 3)),
        ((3, 3, 1), (3, 3)),
        ((3, 5, 3), (3, 5, 3)),
    ],
)
def test_any_input_shape_becomes_a_picture(shape: tuple[int, ...], expected: tuple[int, ...]) -> None:
    assert images.as_pictures(np.zeros((2, *shape))).shape == (2, *expected)


def test_colours_keep_their_channels() -> None:
    red = np.zeros((1, 3, 2, 2))
    red[:, 0] = 1
    assert images.mosaic(images.unsigned(red))[0, 0].tolist() == [255, 0, 0, 255]


def test_inputs_outside_of_0_and_1_are_scaled() -> None:
    scaled = images.unsigned(np.array([[[-1.0, 3.0], [1.0, 1.0]]]))
    np.testing.assert_allclose(scaled[0], [[0, 1], [0.5, 0.5]])


def test_confusion_is_in_per_cent_of_the_true_class() -> None:
    np.testing.assert_allclose(confusion.share(np.array([[3, 1], [0, 0]])), [[75, 25], [0, 0]])


def test_confusion_sums_the_seeds(data: FigureData) -> None:
    picture = confusion.draw(data=data, title=None, where={"pretraining": "rbm", "depth": "1"})
    (counts,) = data.variants[0].outputs("confusion")
    total = counts.sum(axis=0)
    written = {text.get_position(): text.get_text() for text in picture.figure.axes[0].texts}
    assert written[4, 4] == f"{100 * total[4, 4] / total[4].sum():.0f}"


@pytest.mark.parametrize(("count", "columns"), [(1, 1), (4, 4), (5, 3), (6, 3), (12, 4)])
def test_panels_leave_few_places_empty(count: int, columns: int) -> None:
    assert best_columns(count, 4) == columns


def test_dollars_and_backslashes_are_only_text(data: FigureData) -> None:
    hostile = FigureData({"m": [r"$\frac{", "</text><script>"]}, many(2).variants)
    for variant, level in zip(hostile.variants, hostile.axes["m"], strict=True):
        variant.levels["m"] = level
    with use_style():
        picture = curves.draw(data=hostile, title=None, where={}, metric="valid_error", phase="finetune/1", lines="m")
        drawn = to_svg(picture.figure).decode()
    assert r"$\frac{" in drawn
    assert "<script" not in drawn


def test_what_the_trained_model_gives_back_is_the_lowest_row() -> None:
    """Beside a variant without pretrained layers, which has no row in between."""
    pictures = {name: np.full((3, 2, 2), shade) for shade, name in enumerate(images.RECONSTRUCTIONS)}
    pictures = {name: picture / 2 for name, picture in pictures.items()}
    variants = []
    for level, names in (("rbm", list(pictures)), ("none", ["reconstruction_inputs", "reconstructions_finetuned"])):
        variant = VariantData({"pretraining": level}, [])
        variant.__dict__["output_names"] = names
        variant.first = pictures.__getitem__  # type: ignore[method-assign]
        variants.append(variant)
    data = FigureData({"pretraining": ["rbm", "none"]}, variants)
    picture = images.draw_reconstructions(data=data, title=None, where={})
    for place, shades in zip(picture.figure.axes, ([0, 128, 255], [0, 255]), strict=True):
        sheet = np.asarray(place.images[0].get_array())
        assert sheet[::3, 0, 0].tolist() == shades
    assert "Lowest: what the trained model gives back." in picture.caption


def test_fantasies_stand_in_rows_of_ten() -> None:
    """With labels ten of each class, so that a row is a class."""
    variant = VariantData({}, [])
    variant.__dict__["output_names"] = ["fantasies"]
    variant.first = lambda name: np.repeat(np.arange(3) / 2, 10).reshape(30, 1, 1) * np.ones((1, 2, 2))  # type: ignore[method-assign]
    (place,) = images.draw_fantasies(data=FigureData({}, [variant]), title=None, where={}).figure.axes
    sheet = np.asarray(place.images[0].get_array())
    assert sheet.shape == (3 * 3 - 1, 10 * 3 - 1, 4)
    assert sheet[::3, ::3, 0].tolist() == [[0] * 10, [128] * 10, [255] * 10]


def test_the_longest_name_of_a_row_is_not_cut() -> None:
    levels = ["cd1", "cd1_means", "cd3", "persistent chains in a centred machine"]
    variants = [VariantData({"learning": level, "parameters": "centred"}, []) for level in levels]
    for variant in variants:
        variant.__dict__["output_names"] = ["fantasies"]
        variant.first = lambda name: np.zeros((20, 8, 8))  # type: ignore[method-assign]
    for shown in (3, 4):
        data = FigureData({"learning": levels[:shown], "parameters": ["plain", "centred"]}, variants[:shown])
        figure = images.draw_fantasies(data=data, title=None, where={}).figure
        figure.draw_without_rendering()
        for place in figure.axes:
            name = place.yaxis.label
            assert name.get_text() in [f"{level}\ncentred" for level in levels]
            assert 0 <= name.get_window_extent().x0 < name.get_window_extent().x1 <= place.get_window_extent().x0


def test_pictures_that_fill_the_width_leave_no_height_empty(data: FigureData) -> None:
    figure = images.draw_filters(data=data, title=None, where={}).figure
    figure.draw_without_rendering()
    drawn = figure.get_tightbbox()
    assert drawn.y0 >= 0
    assert figure.get_figheight() - 0.15 < drawn.height <= figure.get_figheight()


def test_a_code_in_the_plane_shows_every_example_as_its_class() -> None:
    outputs = {"code": np.array([[0.0, 1.0], [2.0, -1.0], [4.0, 0.5]]), "code_classes": np.array([2, 0, 2])}
    variant = VariantData({}, [])
    variant.__dict__["output_names"] = list(outputs)
    variant.first = outputs.__getitem__  # type: ignore[method-assign]
    (place,) = codes.draw(data=FigureData({}, [variant]), title=None, where={}).figure.axes
    written = [(text.get_text(), text.get_position()) for text in place.texts]
    assert written == [("2", (0.0, 1.0)), ("0", (2.0, -1.0)), ("2", (4.0, 0.5))]
    (left, right), (bottom, top) = place.get_xlim(), place.get_ylim()
    assert left < 0 < 4 < right
    assert bottom < -1 < 1 < top


def with_history(folder: Path, text: str, **extra: object) -> FigureData:
    """One variant with this history."""

    class Made:
        def __init__(self) -> None:
            self.extra = extra
            self.manifest = {"files": {}}

        def path(self, name: str) -> Path:
            return folder / name

    (folder / "history.csv").write_text("phase,seed,step,epoch,metric,value\n" + text)
    return FigureData({}, [VariantData({}, [Made()])])  # type: ignore[list-item]


TWO_SEEDS = """\
finetune/1,0,10,1,train_loss,4
finetune/1,0,20,2,train_loss,2
finetune/1,0,30,3,train_loss,1
finetune/1,1,10,1,train_loss,6
finetune/1,1,20,2,train_loss,8
finetune/1,1,25,2.5,diverged,1
"""


@pytest.mark.parametrize(
    ("against", "label", "unit"), [("epochs", "epoch", 0.1), ("steps", "step", 1.0), ("seconds", "seconds", 0.5)]
)
def test_curves_against_epochs_steps_and_seconds(tmp_path: Path, against: Any, label: str, unit: float) -> None:
    """The mean of 0.4 and 0.6 seconds a step; the curve ends where the first seed diverges, and a cross says so."""
    data = with_history(tmp_path, TWO_SEEDS, seconds_a_step={"finetune/1": {"0": 0.4, "1": 0.6}})
    picture = curves.draw(
        data=data, title=None, where={}, metric="train_loss", phase="finetune/1", lines=None, against=against
    )
    (place,) = picture.figure.axes
    line, cross = place.lines
    np.testing.assert_allclose(line.get_xydata(), [(10 * unit, 5), (20 * unit, 5)])
    np.testing.assert_allclose(cross.get_xydata(), [(25 * unit, 8)])
    assert picture.figure.get_supxlabel() == label
    assert picture.caption.endswith("Cross: a training that diverged, at its last value.")


def test_a_seed_that_diverged_at_once_leaves_no_mean_of_the_others(tmp_path: Path) -> None:
    text = "finetune/1,0,10,1,train_loss,4\nfinetune/1,1,3,0.3,diverged,1\n"
    picture = curves.draw(
        data=with_history(tmp_path, text), title=None, where={}, metric="train_loss", phase="finetune/1", lines=None
    )
    assert [len(line.get_xdata()) for line in picture.figure.axes[0].lines] == [0]


def test_curves_against_seconds_need_to_know_them(data: FigureData) -> None:
    with pytest.raises(NothingToDraw, match="do not say how long a step of finetune/1 took"):
        curves.draw(
            data=data, title=None, where={}, metric="train_loss", phase="finetune/1", lines=None, against="seconds"
        )


def with_density(level: str, height: float, **more: np.ndarray) -> VariantData:
    """Over 0 <= x <= 2, -1 <= y <= 1, in 2 x 2 pixels: `height` where x is large and y small, else 0."""
    outputs = {
        "density": np.array([[0.0, 0.0], [height, 0.0]]),
        "density_box": np.array([[0.0, -1.0], [2.0, 1.0]]),
        "density_points": np.array([[0.5, 0.5], [1.5, -0.5]]),
        **more,
    }
    variant = VariantData({"estimator": level}, [])
    variant.__dict__["output_names"] = list(outputs)
    variant.first = outputs.__getitem__  # type: ignore[method-assign]
    return variant


def test_a_landscape_has_its_points_where_its_density_is_on_one_scale() -> None:
    high, low = with_density("exact", 1.0), with_density("noise", 0.5)
    data = FigureData({"estimator": ["exact", "noise"]}, [high, low])
    places = landscapes.draw(data=data, title=None, where={}, points="test").figure.axes
    assert [place.get_title(loc="left") for place in places] == ["exact", "noise"]
    darkest = []
    for place in places:
        (picture,), (dots,) = place.images, place.lines
        assert dots.get_xydata().tolist() == [[0.5, 0.5], [1.5, -0.5]]  # type: ignore[union-attr]
        assert tuple(picture.get_extent()) == (0.0, 2.0, -1.0, 1.0)
        shades = np.asarray(picture.get_array())[..., :3].sum(axis=2)
        assert np.unravel_index(shades.argmin(), shades.shape) == (0, 1)  # row of the lower y, column of the larger x
        assert picture.origin == "lower"
        darkest.append(shades.min())
    assert darkest[0] < darkest[1]


def test_samples_are_drawn_over_the_variants_that_have_them() -> None:
    sampled = with_density("langevin", 1.0, density_samples=np.array([[1.25, 0.25]]))
    data = FigureData({"estimator": ["exact", "langevin"]}, [with_density("exact", 1.0), sampled])
    (place,) = landscapes.draw(data=data, title=None, where={}, points="samples").figure.axes
    assert place.lines[0].get_xydata().tolist() == [[1.25, 0.25]]  # type: ignore[union-attr]
    assert default_figures(data)[-2:] == [Landscape(), Landscape(points="samples")]
    with pytest.raises(NothingToDraw, match="no run has a density in the plane with samples over it"):
        landscapes.draw(data=data.slice({"estimator": "exact"}), title=None, where={}, points="samples")


def test_gradients_are_drawn_against_the_distance() -> None:
    """The geometric mean over the seeds of two blocks; nothing where no gradient is left."""
    norms = {"elman": [[1.0, 0.1, 0.0], [1.0, 0.3, 0.0]], "lstm": [[1.0, 0.9, 0.8], [1.0, 0.7, 0.4]]}
    variants = []
    for cell, seeds in norms.items():
        variant = VariantData({"cell": cell}, [])
        variant.__dict__["output_names"] = ["gradient_by_distance"]
        variant.outputs = lambda name, seeds=seeds: [np.array([row]) for row in seeds]  # type: ignore[method-assign]
        variants.append(variant)
    picture = gradients.draw(data=FigureData({"cell": list(norms)}, variants), title=None, where={})
    (place,) = picture.figure.axes
    elman, lstm = place.lines
    assert elman.get_xdata().tolist() == [1, 2, 3]
    assert elman.get_ydata()[:2].tolist() == pytest.approx([1.0, math.sqrt(0.03)])
    assert math.isnan(elman.get_ydata()[2])
    assert lstm.get_ydata().tolist() == pytest.approx([1.0, math.sqrt(0.63), math.sqrt(0.32)])
    assert place.get_yscale() == "log"
