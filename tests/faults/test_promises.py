"""docs/reliability.md names tests that there are, and all tests of faults."""

from __future__ import annotations

import ast
from pathlib import Path

from tests.faults.campaign import ROOT, promises


def names_in(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")}


def test_every_test_that_the_documentation_names_exists() -> None:
    named = [test.split("::") for promise in promises() for test in promise.tests]
    assert len(named) > 50
    for file, name in named:
        assert name in names_in(ROOT / file), f"{file} has no {name}"


def test_every_test_of_a_fault_stands_in_the_documentation() -> None:
    named = {test for promise in promises() for test in promise.tests}
    for path in Path(__file__).parent.glob("test_*.py"):
        if path != Path(__file__):
            file = path.relative_to(ROOT).as_posix()
            assert {f"{file}::{name}" for name in names_in(path)} <= named


def test_every_line_of_the_tables_names_a_test() -> None:
    text = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line.startswith("| ") and not line.startswith("| What happens")]
    assert len(lines) == len(promises())
