"""Figures made part of a page: SVG with its ids made unique and its colours turned into style variables; PNG as data.

Anybody may have put the file there, so nothing but drawing passes: no script, no link, no foreign address.
"""

from __future__ import annotations

import base64
import re
from xml.etree import ElementTree

from dlpipe.artifacts import ArtifactError
from dlpipe.figures.palette import VARIABLES

SVG = "http://www.w3.org/2000/svg"
XLINK = "http://www.w3.org/1999/xlink"
# fmt: off
ELEMENTS = frozenset((
    "svg", "g", "defs", "clipPath", "path", "rect", "circle", "ellipse", "line", "polyline", "polygon", "text", "tspan",
    "use", "image", "title", "desc",
))
ATTRIBUTES = frozenset((
    "id", "d", "x", "y", "x1", "x2", "y1", "y2", "cx", "cy", "r", "rx", "ry", "width", "height", "viewBox", "points",
    "transform", "style", "class", "clip-path", "href", "fill", "stroke", "stroke-width", "stroke-dasharray",
    "stroke-linecap", "stroke-linejoin", "opacity", "fill-opacity", "stroke-opacity", "text-anchor", "font-family",
    "font-size", "font-weight", "preserveAspectRatio",
))
# fmt: on
LARGEST = 8_000_000
"""Bytes of a figure; more would make the page slow."""
LARGER = 1.6
"""Pixels a point: text of 9 points is shown like the page's small text."""
LEAST_WIDTH = 540.0
"""Pixels below which a figure scrolls rather than becoming unreadable."""
_LOCAL = re.compile(r"url\(#([^)]+)\)")
_COLOUR = re.compile(r"#[0-9a-f]{6}\b")
_FOREIGN = re.compile(r"url\((?!#)|@import|expression|[<>\\]", re.IGNORECASE)


def inline_svg(content: bytes, prefix: str, label: str) -> str:
    """An `<svg>` element to be put into a page. Raises ArtifactError for what is not plain, well-formed SVG."""
    if len(content) > LARGEST or b"<!ENTITY" in content:
        raise ArtifactError(f"the figure {label!r} is too large or not a plain SVG file")
    try:
        root = ElementTree.fromstring(content)
    except ElementTree.ParseError as error:
        raise ArtifactError(f"the figure {label!r} is not a well-formed SVG file: {error}") from None
    cleaned = _clean(root, prefix)
    if cleaned is None or cleaned.tag != "svg":
        raise ArtifactError(f"the figure {label!r} is not an SVG file")
    width, height = (_points(cleaned.attrib.pop(name, "")) for name in ("width", "height"))
    cleaned.attrib.setdefault("viewBox", f"0 0 {width:g} {height:g}")
    cleaned.set("style", f"max-width:{width * LARGER:.0f}px;min-width:{min(width, LEAST_WIDTH):.0f}px")
    cleaned.set("role", "img")
    cleaned.set("aria-label", label)
    return ElementTree.tostring(cleaned, encoding="unicode", short_empty_elements=True)


def _points(length: str) -> float:
    """A width or height such as `547.2pt`; 540 points where it says something else."""
    try:
        return float(length.removesuffix("pt").removesuffix("px"))
    except ValueError:
        return 540.0


def _clean(element: ElementTree.Element, prefix: str) -> ElementTree.Element | None:
    """A copy without namespaces and without whatever is not on the lists."""
    name = str(element.tag).removeprefix(f"{{{SVG}}}")
    if name not in ELEMENTS:
        return None
    copy = ElementTree.Element(name)
    for key, value in element.attrib.items():
        attribute = key.removeprefix(f"{{{XLINK}}}")
        kept = _attribute(name, attribute, value, prefix) if attribute in ATTRIBUTES else None
        if kept is not None:
            copy.set(attribute, kept)
    copy.text, copy.tail = element.text, element.tail
    for child in element:
        cleaned = _clean(child, prefix)
        if cleaned is not None:
            copy.append(cleaned)
    return copy


def _attribute(element: str, name: str, value: str, prefix: str) -> str | None:
    if name == "id":
        return f"{prefix}-{value}"
    if name == "href":
        if value.startswith("#"):
            return f"#{prefix}-{value[1:]}"
        return value if element == "image" and value.startswith("data:image/png;base64,") else None
    if _FOREIGN.search(value):
        return None
    value = _LOCAL.sub(rf"url(#{prefix}-\1)", value)
    if name == "style":
        return _COLOUR.sub(lambda colour: _variable(colour[0]), value)
    return value


def _variable(colour: str) -> str:
    name = VARIABLES.get(colour)
    return f"var({name},{colour})" if name else colour


def png_address(content: bytes) -> str:
    """A PNG file as an address that holds it. Raises ArtifactError for anything else."""
    if len(content) > LARGEST or not content.startswith(b"\x89PNG\r\n\x1a\n"):
        raise ArtifactError("the figure is too large or not a PNG file")
    return "data:image/png;base64," + base64.b64encode(content).decode()
