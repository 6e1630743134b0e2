"""Figures in a page: unique ids, style variables, nothing but drawing."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from dlpipe.artifacts import ArtifactError
from dlpipe.figures.palette import INK, SERIES
from dlpipe.report.drawings import inline_svg, png_address
from dlpipe.report.intervals import PADDING, WIDTH, interval_marks
from dlpipe.report.judging import Judgement, Part
from dlpipe.report.statistics import Estimate
from dlpipe.spec.claims import Claim

HEAD = '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" width="90pt" height="45pt">'


def inline(body: str) -> str:
    return inline_svg(f"{HEAD}{body}</svg>".encode(), "f1", "A figure")


def test_ids_and_their_uses_get_the_prefix() -> None:
    text = inline('<defs><path id="m1" d="M 0 0"/></defs><g clip-path="url(#p2)"><use xlink:href="#m1"/></g>')
    assert 'id="f1-m1"' in text
    assert 'href="#f1-m1"' in text
    assert 'clip-path="url(#f1-p2)"' in text


def test_colours_become_variables_with_themselves_as_fallback() -> None:
    text = inline(
        f'<path d="M 0 0" style="stroke: {SERIES[1][0]}; fill: #123456"/><text style="fill: {INK[0]}">a</text>'
    )
    assert f"stroke: var(--series-2,{SERIES[1][0]}); fill: #123456" in text
    assert f"fill: var(--ink,{INK[0]})" in text


def test_size_becomes_a_view_box_and_a_label_is_added() -> None:
    root = ElementTree.fromstring(inline("<g/>"))
    assert root.attrib["viewBox"] == "0 0 90 45"
    assert (root.attrib["role"], root.attrib["aria-label"]) == ("img", "A figure")
    assert "width" not in root.attrib


@pytest.mark.parametrize(
    "body",
    [
        "<script>evil</script>", "<style>evil</style>", "<foreignObject>evil</foreignObject>", '<g onclick="evil"/>',
        '<image href="https://evil"/>', '<use href="other.svg#evil"/>', '<g style="fill:url( https://evil)"/>',
        '<image href="data:text/html,evil"/>', '<animate attributeName="evil"/>', '<g style="@import evil"/>',
    ],
)  # fmt: skip
def test_nothing_but_drawing_passes(body: str) -> None:
    assert "evil" not in inline(body)


@pytest.mark.parametrize(
    "content",
    [b"not xml", b"<html/>", b'<!DOCTYPE x [<!ENTITY a "b">]><svg xmlns="http://www.w3.org/2000/svg">&a;</svg>', b""],
)
def test_what_is_no_svg_is_refused(content: bytes) -> None:
    with pytest.raises(ArtifactError, match="A figure"):
        inline_svg(content, "f1", "A figure")


def test_png_is_known_by_its_first_bytes() -> None:
    assert png_address(b"\x89PNG\r\n\x1a\nrest").removeprefix("data:image/png;base64,") == "iVBORw0KGgpyZXN0"
    with pytest.raises(ArtifactError):
        png_address(b"GIF89a")


def test_marks_of_a_claim_have_one_scale() -> None:
    claim = Claim.model_validate({"says": "x", "compare": {"a": "b"}, "with": {"a": "c"}, "margin": 2.0})
    parts = (
        Part({}, "reproduced", "", Estimate(3, 3.0, 1.0, 5.0)),
        Part({}, "inconclusive", "missing"),
        Part({}, "inconclusive", "", Estimate(1, 0.0, None, None)),
    )
    first, second, third = interval_marks(Judgement(claim, "inconclusive", "", parts))
    assert first is not None
    assert third is not None
    assert second is None
    assert (first.reference, first.high) == (PADDING, WIDTH - PADDING)  # 0 and 5 are the ends of the scale
    assert first.band == (PADDING, pytest.approx(PADDING + (WIDTH - 2 * PADDING) * 2 / 5, abs=0.05))  # rounded to 0.1
    assert (third.mean, third.low) == (PADDING, None)


def test_the_band_of_a_margin_below_0_is_on_the_other_side() -> None:
    claim = Claim.model_validate({"says": "x", "compare": {"a": "b"}, "with": {"a": "c"}, "margin": -1.0})
    (mark,) = interval_marks(
        Judgement(claim, "reproduced", "", (Part({}, "reproduced", "", Estimate(3, 0.5, 0.0, 1.0)),))
    )
    assert mark is not None
    assert mark.band == (PADDING, mark.reference) == (PADDING, WIDTH / 2)
