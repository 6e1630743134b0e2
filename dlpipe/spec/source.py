"""YAML 1.2 with a mark for every key and value, and limits for what a file may do to its reader.

PyYAML's parser makes the events; nodes are built here, since its constructor reads YAML 1.1 (`1e-3` a text, `on` true,
`1:30` ninety), lets a later key overwrite an earlier one, and has no limit on aliases or depth.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from dlpipe.spec.problems import Mark, Problem, Report, SpecError, cropped

MOST_BYTES = 1_000_000
MOST_VALUES = 100_000
"""Values in a document after its aliases are expanded."""
MOST_LEVELS = 40
"""Depth of mappings and lists inside each other."""
MOST_DIGITS = 40

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the one in C is about ten times as fast; same marks
_LINE_BREAK = re.compile("\r\n|[\r\n\x85\u2028\u2029]")  # the line breaks that PyYAML counts
_UNPRINTABLE = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_INTEGER = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_CONSTANTS: Mapping[str, Any] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys((".nan", ".NaN", ".NAN"), math.nan),
    **dict.fromkeys((f"{sign}.{name}" for name in ("inf", "Inf", "INF") for sign in ("", "+")), math.inf),
    **dict.fromkeys((f"-.{name}" for name in ("inf", "Inf", "INF")), -math.inf),
}


class Node:
    """A value and its place. `data` is the plain value, shared between nodes: read it, never change it."""

    __slots__ = ("children", "data", "height", "keys", "mark", "size")

    def __init__(self, data: Any, mark: Mark, children: Any = None, keys: dict[str, Mark] | None = None) -> None:
        self.data = data
        self.mark = mark
        self.children: dict[str, Node] | list[Node] | None = children
        """Of a mapping or a list; None for a scalar."""
        self.keys: dict[str, Mark] = keys or {}
        """The places of a mapping's keys."""
        parts = list(children.values() if isinstance(children, dict) else children or ())
        self.size: int = 1 + sum(part.size for part in parts)
        self.height: int = 1 + max((part.height for part in parts), default=0)

    @classmethod
    def mapping(cls, children: dict[str, Node], keys: dict[str, Mark], mark: Mark) -> Node:
        return cls({key: child.data for key, child in children.items()}, mark, children, keys)

    @classmethod
    def listing(cls, children: list[Node], mark: Mark) -> Node:
        return cls([child.data for child in children], mark, children)

    def get(self, key: str | int) -> Node | None:
        """The part under a key of a mapping or at a position of a list."""
        if isinstance(self.children, dict):
            return self.children.get(key)  # type: ignore[arg-type]
        if isinstance(self.children, list) and isinstance(key, int) and 0 <= key < len(self.children):
            return self.children[key]
        return None

    def items(self) -> Iterator[tuple[str, Node]]:
        """Of a mapping; nothing for other values."""
        return iter(self.children.items()) if isinstance(self.children, dict) else iter(())

    def elements(self) -> list[Node]:
        """Of a list; nothing for other values."""
        return self.children if isinstance(self.children, list) else []

    def with_part(self, key: str | int, part: Node, key_mark: Mark) -> Node:
        """This mapping or list with one part replaced (a mapping: or added)."""
        if isinstance(self.children, dict):
            assert isinstance(key, str)
            return Node.mapping({**self.children, key: part}, {**self.keys, key: key_mark}, self.mark)
        assert isinstance(self.children, list)
        assert isinstance(key, int)
        return Node.listing([*self.children[:key], part, *self.children[key + 1 :]], self.mark)

    def without(self, keys: frozenset[str]) -> Node:
        """This mapping less some of its keys."""
        kept = {key: child for key, child in self.items() if key not in keys}
        return Node.mapping(kept, self.keys, self.mark)


def read(path: Path, report: Report) -> Node:
    """The document of a file, a mapping. Problems that leave a document go to the report; others raise SpecError."""
    name = str(path)
    text = _decoded(_bytes(path), name, report)
    return parse(text, Mark(name, 1, 1), report, root=True)


def parse(text: str, start: Mark, report: Report, *, root: bool = False) -> Node:
    """The document in `text`, which begins at `start`. Raises SpecError with all of the report when there is none."""
    if start.column == 1:
        report.lines[start.file] = split_lines(text)
    unprintable = _UNPRINTABLE.search(text)
    if unprintable:
        lines = split_lines(text[: unprintable.start()])
        place = Mark(start.file, len(lines), len(lines[-1]) + 1)
        report.add(place, f"a character that may not stand in a text file: U+{ord(unprintable[0]):04X}")
        report.raise_if_any()
    builder = _Builder(text, start, report)
    try:
        return builder.document(root)
    except yaml.MarkedYAMLError as error:
        report.add(*_syntax(error, builder))
    except _Stop:
        pass
    report.raise_if_any()
    raise AssertionError("a document that could not be read has a problem")


def split_lines(text: str) -> list[str]:
    return _LINE_BREAK.split(text)


def scalar(text: str) -> Any:
    """The value of a plain scalar by the core schema of YAML 1.2. Raises ValueError for a number that is too long."""
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    if text[0] not in "+-.0123456789":
        return text
    if _INTEGER.fullmatch(text):
        if len(text) > MOST_DIGITS:
            raise ValueError(f"a number of more than {MOST_DIGITS} digits")
        return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))
    return float(text) if _FLOAT.fullmatch(text) else text


def _bytes(path: Path) -> bytes:
    try:
        if path.exists() and not path.is_file():
            raise SpecError([Problem(str(path), None, None, "not a file")])
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
            size = path.stat().st_size
    except FileNotFoundError:
        raise SpecError([Problem(str(path), None, None, "no such file")]) from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise SpecError([Problem(str(path), None, None, f"cannot be read: {reason}")]) from None
    if len(content) > MOST_BYTES:
        size_text = f"{max(size, len(content)) / 1e6:.1f} MB"
        message = f"the file has {size_text}; an experiment may have at most {MOST_BYTES / 1e6:.0f} MB"
        raise SpecError([Problem(str(path), None, None, message)])
    return content


def _decoded(content: bytes, name: str, report: Report) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = content[: error.start].decode("utf-8-sig", errors="replace")
        lines = split_lines(before)
        report.lines[name] = split_lines(content.decode("utf-8-sig", errors="replace"))
        message = f"not UTF-8: the byte 0x{content[error.start]:02X} cannot stand here"
        report.add(Mark(name, len(lines), len(lines[-1]) + 1), message, "save the file as UTF-8")
        report.raise_if_any()
        raise


class _Stop(Exception):
    """Reading cannot go on; the problem is in the report."""


class _Builder:
    """Nodes from the parser's events."""

    def __init__(self, text: str, start: Mark, report: Report) -> None:
        self.text, self.start = text, start
        self.report = report
        self.events = yaml.parse(text, Loader=_Loader)
        self.anchors: dict[str, Node | None] = {}
        """None while the anchor's own value is being built."""
        self.values = 0

    def document(self, root: bool) -> Node:
        next(self.events)  # the stream's start
        event = next(self.events)
        if isinstance(event, yaml.StreamEndEvent):
            if root:
                message = "the file holds nothing but comments" if self.text.strip() else "the file is empty"
                self.stop(self.start, message, "an experiment needs title, dataset, model and finetune")
            return Node(None, self.start)
        event = next(self.events)
        node = self.node(event, 0)
        if root and not isinstance(node.children, dict):
            what = "this line has no ':'" if isinstance(node.data, str) else f"this is {described(node.data)}"
            self.stop(node.mark, f"an experiment is written as lines of 'key: value', and {what}")
        next(self.events)  # the document's end
        event = next(self.events)
        if not isinstance(event, yaml.StreamEndEvent):
            self.stop(self.mark(event), "a second document begins here", "one file holds one experiment")
        return node

    def node(self, event: Any, level: int) -> Node:
        mark = self.mark(event)
        if isinstance(event, yaml.AliasEvent):
            return self.alias(event.anchor, mark, level)
        self.check_depth(level, mark)
        if event.anchor:
            self.anchors[event.anchor] = None
        if event.tag is not None and not (isinstance(event, yaml.ScalarEvent) and event.tag == "!"):
            self.report.add(mark, f"tags such as {cropped(_written_tag(event.tag))} are not allowed", "leave it out")
        self.count(1, mark)
        if isinstance(event, yaml.ScalarEvent):
            node = Node(self.scalar(event, mark), mark)
        elif isinstance(event, yaml.MappingStartEvent):
            node = self.mapping(mark, level)
        else:
            node = self.sequence(mark, level)
        if event.anchor:
            self.anchors[event.anchor] = node
        return node

    def scalar(self, event: Any, mark: Mark) -> Any:
        if not event.implicit[0]:
            return event.value
        try:
            return scalar(event.value)
        except ValueError as error:
            self.report.add(mark, str(error))
            return 0

    def mapping(self, mark: Mark, level: int) -> Node:
        children: dict[str, Node] = {}
        keys: dict[str, Mark] = {}
        while not isinstance(event := next(self.events), yaml.MappingEndEvent):
            key_mark = self.mark(event)
            key = self.key(event, key_mark, level)
            value = self.node(next(self.events), level + 1)
            if key is None:
                continue
            if key in children:
                first = keys[key]
                message = f"'{cropped(key)}' is written twice in the same mapping"
                self.report.add(key_mark, message, f"the first is at line {first.line}, column {first.column}")
                continue
            children[key], keys[key] = value, key_mark
        return Node.mapping(children, keys, mark)

    def key(self, event: Any, mark: Mark, level: int) -> str | None:
        """A key is a text; a number or true stands for its text, as in a level's name. None when it was refused."""
        node = self.node(event, level + 1)
        if node.children is not None:
            self.report.add(mark, f"a key must be a single word, not {described(node.data)}")
        elif node.data is None:
            empty = isinstance(event, yaml.ScalarEvent) and event.value == ""
            self.report.add(mark, "a key is missing before this ':'" if empty else "null cannot be a key")
        elif node.data == "<<":
            self.report.add(mark, "merge keys (<<) are not part of YAML 1.2", "write the keys out")
        else:
            return node.data if isinstance(node.data, str) else described(node.data)
        return None

    def sequence(self, mark: Mark, level: int) -> Node:
        children = []
        while not isinstance(event := next(self.events), yaml.SequenceEndEvent):
            children.append(self.node(event, level + 1))
        return Node.listing(children, mark)

    def alias(self, anchor: str, mark: Mark, level: int) -> Node:
        if anchor not in self.anchors:
            self.report.add(mark, f"no anchor &{cropped(anchor)} before this alias")
            return Node(None, mark)
        node = self.anchors[anchor]
        if node is None:
            self.report.add(mark, f"*{cropped(anchor)} would contain itself")
            return Node(None, mark)
        self.count(node.size, mark)
        self.check_depth(level + node.height - 1, mark)
        return node

    def check_depth(self, level: int, mark: Mark) -> None:
        if level > MOST_LEVELS:
            self.stop(mark, f"nested more than {MOST_LEVELS} levels deep")

    def count(self, values: int, mark: Mark) -> None:
        self.values += values
        if self.values > MOST_VALUES:
            self.stop(mark, f"more than {MOST_VALUES:,} values, with the aliases (*name) written out")

    def stop(self, mark: Mark, message: str, hint: str | None = None) -> None:
        self.report.add(mark, message, hint)
        raise _Stop

    def mark(self, event: Any) -> Mark:
        return self.at(event.start_mark)

    def at(self, mark: Any) -> Mark:
        line, column = mark.line, mark.column
        if mark.index >= len(self.text):  # the parsers differ in where they see the end
            lines = split_lines(self.text.rstrip())
            line, column = len(lines) - 1, len(lines[-1])
        return Mark(self.start.file, self.start.line + line, column + (self.start.column if line == 0 else 1))


def described(value: Any) -> str:
    """A value as its writer would say it: `'five'`, `5`, `true`, `null`, `a list`."""
    if isinstance(value, dict | list):
        kind = "mapping" if isinstance(value, dict) else "list"
        return f"an empty {kind}" if not value else f"a {kind}"
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and not math.isfinite(value):
        return f"{'-' if value < 0 else ''}.{'nan' if math.isnan(value) else 'inf'}"
    return f"'{cropped(value)}'" if isinstance(value, str) else str(value)


def _written_tag(tag: str) -> str:
    return tag.replace("tag:yaml.org,2002:", "!!")


def _syntax(error: yaml.MarkedYAMLError, builder: _Builder) -> tuple[Mark, str, str | None]:
    """PyYAML's complaint in plainer words; the parser in C and the one in Python word it differently."""
    problem = error.problem or "not valid YAML"
    mark = builder.at(error.problem_mark or error.context_mark)
    begun = builder.at(error.context_mark) if error.context_mark is not None else mark
    since = f"line {begun.line}, column {begun.column}"
    context = error.context or ""
    lines = builder.report.lines.get(mark.file, [])
    line = lines[mark.line - 1] if mark.line <= len(lines) else ""
    character = line[mark.column - 1 : mark.column]
    indentation = line[: len(line) - len(line.lstrip())]
    if "\t" in indentation:
        return Mark(mark.file, mark.line, indentation.index("\t") + 1), "indented with a tab", "use spaces"
    if "start any token" in problem:
        quoted = f"put quotes around a text that begins with {character}"
        return mark, f"no value can begin with {character or 'this'}", quoted if character else None
    if "mapping values are not allowed" in problem:
        hint = "a key is followed by ': '; a text that holds ': ' needs quotes"
        return mark, "a ':' too many in this line, or the line is indented too far", hint
    if "quoted scalar" in context:
        return begun, "a quote that opens here is never closed", None
    if "flow" in context:
        brackets = "{ }" if "mapping" in context else "[ ]"
        return mark, f"a comma or the closing bracket is missing before this, in the {brackets} from {since}", None
    if "could not find expected ':'" in problem:
        return begun, "a ':' is missing after this key", "a key and its value are written 'key: value'"
    if "block" in context:
        hint = "lines of one block begin in the same column; list items begin with '- '"
        return mark, f"this does not fit into the block that begins at {since}", hint
    return mark, f"not valid YAML: {problem}", None
