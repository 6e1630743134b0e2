"""What is wrong with a file, and where: all of it at once, in words for the person who wrote the file."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

WIDTH = 110
"""A source line that is longer is shown in part."""
SHOWN = 50
"""Problems printed in full; hostile files have thousands."""


class Mark(NamedTuple):
    """A place in a file; line and column count from 1, columns in characters."""

    file: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong. Line and column are None when it is about the file as a whole."""

    file: str
    line: int | None
    column: int | None
    message: str
    hint: str | None = None
    source: str | None = None
    """The line of the file, to be shown with a caret under the column."""

    @property
    def mark(self) -> Mark | None:
        return None if self.line is None or self.column is None else Mark(self.file, self.line, self.column)

    def __str__(self) -> str:
        place = self.file if self.line is None else f"{self.file}:{self.line}:{self.column}"
        lines = [f"{place}: {self.message}"]
        if self.source and self.column is not None:
            shown, at = _window(self.source, self.column - 1)
            lines += [f"    {shown}", f"    {_blank(shown[:at])}^"]
        if self.hint:
            lines.append(f"    {self.hint}")
        return "\n".join(lines)


class SpecError(Exception):
    """Everything that is wrong with a file; `str()` is the text to print."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = sorted(problems, key=lambda p: (p.file, p.line or 0, p.column or 0, p.message))
        super().__init__(self.problems)

    @classmethod
    def single(cls, file: object, mark: Mark | None, message: str, hint: str | None = None) -> SpecError:
        """One problem: at a place, or about the file (or folder) as a whole."""
        line, column = (mark.line, mark.column) if mark else (None, None)
        return cls([Problem(mark.file if mark else str(file), line, column, message, hint)])

    def __str__(self) -> str:
        parts = [str(problem) for problem in self.problems[:SHOWN]]
        left = len(self.problems) - len(parts)
        if left:
            parts.append(f"... and {left:,} more problems")
        return "\n".join(parts)


class Report:
    """Collects problems, each once."""

    def __init__(self) -> None:
        self.lines: dict[str, Sequence[str]] = {}
        """File to its lines, for those that are shown."""
        self.problems: dict[tuple[str, int | None, int | None, str], Problem] = {}

    def add(self, mark: Mark, message: str, hint: str | None = None) -> None:
        key = (*mark, message)
        if key not in self.problems:
            lines = self.lines.get(mark.file, ())
            source = lines[mark.line - 1] if 0 < mark.line <= len(lines) else None
            self.problems[key] = Problem(*mark, message, hint, source)

    def extend(self, error: SpecError) -> None:
        for problem in error.problems:
            self.problems[problem.file, problem.line, problem.column, problem.message] = problem

    def raise_if_any(self) -> None:
        if self.problems:
            raise SpecError(self.problems.values())


def did_you_mean(name: str, known: Iterable[str], otherwise: str, last: str = "and") -> str | None:
    """`did you mean 'x'?`, else the list of what is known (`otherwise`, with {} for the list), else None."""
    names = list(dict.fromkeys(known))
    found = closest(name, names)
    if found is not None:
        return f"did you mean '{found}'?"
    return otherwise.format(listed(names, last)) if names and otherwise else None


def closest(name: str, known: Iterable[str]) -> str | None:
    """The known name that is spelt most like `name`; case, hyphens and underscores do not count."""
    if len(name) > 100:
        return None
    names = {_folded(each): each for each in known}
    match = difflib.get_close_matches(_folded(name), list(names), n=1, cutoff=0.6)
    return names[match[0]] if match else None


def listed(names: Sequence[str], last: str = "and", most: int = 20) -> str:
    """`a, b and c`."""
    shown = [cropped(name) for name in names[:most]]
    if len(names) > most:
        return f"{', '.join(shown)} {last} {len(names) - most:,} more"
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} {last} {shown[-1]}"


def levels_text(levels: Mapping[str, object]) -> str:
    """`pretraining rbm, depth 3`."""
    return ", ".join(f"{axis} {level}" for axis, level in levels.items())


def cropped(text: str, most: int = 60) -> str:
    """On one line and not too long."""
    text = "".join(character if character.isprintable() else "\ufffd" for character in text[: most + 1])
    return text if len(text) <= most else text[: most - 1] + "…"


def _folded(name: str) -> str:
    return name.lower().replace("-", "_")


def _window(line: str, at: int) -> tuple[str, int]:
    """The part of a long line around a position, and the position in that part."""
    if len(line) <= WIDTH:
        return line.rstrip(), at
    start = max(0, at - WIDTH // 2)
    end = start + WIDTH
    left, right = ("…" if start else ""), ("…" if end < len(line) else "")
    return f"{left}{line[start:end]}{right}", at - start + len(left)


def _blank(text: str) -> str:
    return "".join("\t" if character == "\t" else " " for character in text)
