"""The table that `--campaign` prints: the lines of docs/reliability.md, what was tried of each, and what was lost."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PROMISES = ROOT / "docs" / "reliability.md"
TEST = re.compile(r"\[`(?P<name>test_\w+)`\]\(\.\./(?P<file>tests/[\w/]+\.py)\)")


@dataclass
class Promise:
    section: str
    what: str
    """What happens."""
    tests: tuple[str, ...]
    """As tests/file.py::test_name."""


def promises(path: Path = PROMISES) -> list[Promise]:
    """The lines of the tables that name tests."""
    found, section = [], ""
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("## "):
            section = line.removeprefix("## ")
        tests = tuple(f"{match['file']}::{match['name']}" for match in TEST.finditer(line))
        if line.startswith("|") and tests:
            found.append(Promise(section, re.sub(r"[`*]", "", line.split("|")[1]).strip(), tests))
    return found


@dataclass
class Outcome:
    tried: int = 0
    lost: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0


class Campaign:
    """A pytest plugin: runs the tests that a promise names, and no others."""

    def __init__(self) -> None:
        self.promises = promises()
        self.outcomes: dict[str, Outcome] = {}
        self.passed: set[str] = set()
        self.left_out: list[str] = []

    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        named = {test for promise in self.promises for test in promise.tests}
        kept = [item for item in items if _test(item.nodeid) in named]
        config.hook.pytest_deselected(items=[item for item in items if _test(item.nodeid) not in named])
        self.left_out = sorted(named - {_test(item.nodeid) for item in kept})
        items[:] = kept

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        outcome = self.outcomes.setdefault(_test(report.nodeid), Outcome())
        outcome.seconds += report.duration
        if report.skipped:
            reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else getattr(report, "wasxfail", "")
            outcome.skipped[str(reason).removeprefix("Skipped: ")] += 1
        elif report.failed:
            outcome.tried += 1
            outcome.lost += 1
        elif report.when == "call":
            self.passed.add(report.nodeid)
        elif report.when == "teardown" and report.nodeid in self.passed:
            times, note = dict(report.user_properties).get("tried", (1, ""))
            outcome.tried += times
            outcome.notes += [note] if note else []

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        terminalreporter.section("faults: what was tried, what was lost")
        for line in self.table():
            terminalreporter.write_line(line)

    def table(self) -> list[str]:
        """Markdown; the notes, which are long, under it."""
        lines = ["| What happens | tried | lost | seconds |", "|---|---:|---:|---:|"]
        notes: list[str] = []
        section = ""
        tried = lost = 0
        for promise in self.promises:
            if promise.section != section:
                section = promise.section
                lines.append(f"| **{section}** | | | |")
            of = [self.outcomes[test] for test in promise.tests if test in self.outcomes]
            tried += sum(o.tried for o in of)
            lost += sum(o.lost for o in of)
            skipped = ", ".join(f"{n} skipped: {why}" for o in of for why, n in o.skipped.items())
            missing = [test for test in promise.tests if test in self.left_out]
            what = promise.what + (f" ({skipped})" if skipped else "") + (" (NOT RUN)" if missing else "")
            lines.append(
                f"| {what} | {sum(o.tried for o in of):,} | {sum(o.lost for o in of)} "
                f"| {sum(o.seconds for o in of):.0f} |"
            )
            notes += [f"* {promise.what}: {note}" for o in of for note in o.notes]
        lines.append(f"| **all** | **{tried:,}** | **{lost}** | |")
        return [*lines, "", *notes]


def _test(nodeid: str) -> str:
    """A test's name without its parameters."""
    return nodeid.partition("[")[0]
