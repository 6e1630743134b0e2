"""Patches: dotted paths to values, set in a document of nodes. A value replaces what was there; it never merges."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from dlpipe.spec.problems import Mark, closest, cropped
from dlpipe.spec.source import Node, described


class PatchError(Exception):
    """A patch that cannot be applied, at the part of its path that is wrong."""

    def __init__(self, mark: Mark, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.mark, self.message, self.hint = mark, message, hint


class IntoNothing(Exception):
    """The patch points into a part that a level of another axis has set to null."""


@dataclass(frozen=True)
class Setting:
    """One path of a patch, and the value that is set there."""

    parts: tuple[str, ...]
    value: Node
    mark: Mark
    exact: bool
    """Whether the path stands at `mark` as it is, without quotes, so that its parts can be pointed at."""

    @classmethod
    def of(cls, path: str, value: Node, mark: Mark, lines: Sequence[str]) -> Setting:
        line = lines[mark.line - 1] if 0 < mark.line <= len(lines) else ""
        return cls(tuple(path.split(".")), value, mark, line.startswith(path, mark.column - 1))

    @property
    def path(self) -> str:
        return ".".join(self.parts)

    def mark_of(self, index: int) -> Mark:
        """The place of the part at `index`."""
        offset = sum(len(part) + 1 for part in self.parts[:index]) if self.exact else 0
        return self.mark._replace(column=self.mark.column + offset)

    def inside(self, other: Setting) -> bool:
        """Whether `other` sets this path or a part that holds it."""
        return self.parts[: len(other.parts)] == other.parts


def settings(patch: Node, lines: Sequence[str]) -> Iterator[Setting]:
    for path, value in patch.items():
        yield Setting.of(path, value, patch.keys[path], lines)


def apply(setting: Setting, document: Node, nulls: Collection[int] = ()) -> Node:
    """The document with one path set. `nulls` are the ids of the null nodes that levels have set.

    Raises PatchError when the path's parent is not in the document, IntoNothing when it is one of `nulls`.
    """
    return _applied(setting, document, 0, nulls)


def _applied(setting: Setting, node: Node, index: int, nulls: Collection[int]) -> Node:
    if node.children is None and id(node) in nulls:
        raise IntoNothing
    key = _key(setting, node, index)
    mark = setting.mark_of(index)
    if index == len(setting.parts) - 1:
        return node.with_part(key, setting.value, mark)
    below = node.get(key)
    if below is None:
        assert isinstance(node.children, dict)
        here = ".".join(setting.parts[: index + 1])
        close = closest(str(key), node.children)
        hint = f"did you mean '{close}'?" if close else f"set {cropped(here)} as a whole"
        raise PatchError(mark, f"the file has no {cropped(here)} to set a part of", hint)
    kept = node.keys.get(key, mark) if isinstance(key, str) else mark
    return node.with_part(key, _applied(setting, below, index + 1, nulls), kept)


def _key(setting: Setting, node: Node, index: int) -> str | int:
    """The part of the path at `index`, as a key or position of `node`."""
    part = setting.parts[index]
    here = cropped(".".join(setting.parts[:index])) or "the file"
    mark = setting.mark_of(index)
    if not part:
        raise PatchError(mark, f"the path '{cropped(setting.path)}' has an empty part")
    if isinstance(node.children, dict):
        return part
    if node.children is None:
        raise PatchError(mark, f"{here} is {described(node.data)}: it has no part '{cropped(part)}'")
    length = len(node.children)
    positions = f"its items are 0 to {length - 1}" if length > 1 else "it has item 0 alone" if length else "it is empty"
    if not (part.isascii() and part.isdecimal()):
        raise PatchError(mark, f"{here} is a list: it has no part '{cropped(part)}'", positions)
    if len(part) > 9 or int(part) >= length:
        raise PatchError(mark, f"{here} has no item {cropped(part)}", positions)
    return int(part)
