"""YAML is read by the rules of 1.2, with the place of everything."""

from __future__ import annotations

import math
from typing import Any

import pytest
import yaml

from dlpipe.spec import source
from dlpipe.spec.problems import Mark, Report, SpecError

START = Mark("x.yaml", 1, 1)


def parsed(text: str) -> source.Node:
    return source.parse(text, START, Report())


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 1e-3),
        ("1E5", 1e5),
        (".5", 0.5),
        ("5.", 5.0),
        ("-2.5e+3", -2500.0),
        ("12", 12),
        ("+12", 12),
        ("012", 12),
        ("0o17", 15),
        ("0x1F", 31),
        (".inf", math.inf),
        ("-.inf", -math.inf),
        ("true", True),
        ("False", False),
        ("null", None),
        ("~", None),
        ("", None),
        # texts, though YAML 1.1 takes them for other things
        ("on", "on"),
        ("off", "off"),
        ("yes", "yes"),
        ("No", "No"),
        ("y", "y"),
        ("1:30", "1:30"),
        ("1_000", "1_000"),
        ("0b11", "0b11"),
        ("2026-07-30", "2026-07-30"),
        ("tRUE", "tRUE"),
        ("1e", "1e"),
        (".", "."),
        ("-", "-"),
        ("0o8", "0o8"),
        ("nan", "nan"),
        ("inf", "inf"),
    ],
)
def test_plain_scalars(text: str, value: Any) -> None:
    got = source.scalar(text)
    assert got == value
    assert type(got) is type(value)


def test_not_a_number() -> None:
    assert math.isnan(source.scalar(".nan"))


@pytest.mark.parametrize("text", ["'1e-3'", '"true"', "'null'", "|-\n  12", ">-\n  12"])
def test_quoted_and_block_scalars_are_texts(text: str) -> None:
    assert isinstance(parsed(f"a: {text}").data["a"], str)


def test_numbers_and_booleans_as_keys_are_their_texts() -> None:
    assert parsed("{1: a, 0.10: b, true: c, 1e-3: d}").data == {"1": "a", "0.1": "b", "true": "c", "0.001": "d"}


def test_a_number_with_too_many_digits() -> None:
    report = Report()
    source.parse(f"a: {'9' * 5000}", START, report)
    assert [problem.message for problem in report.problems.values()] == ["a number of more than 40 digits"]


TEXT = """\
# a comment
title: "übergroß"   # with a tail
model: {kind: mlp, units: [4, 5]}
list:
  - one
  - key: value
    other:
      - deep
anchored: &here {a: 1}
alias: *here
empty:
"""
PLACES = {
    ("title",): (2, 8),
    ("model",): (3, 8),
    ("model", "kind"): (3, 15),
    ("model", "units", 1): (3, 31),
    ("list",): (5, 3),
    ("list", 0): (5, 5),
    ("list", 1, "key"): (6, 10),
    ("list", 1, "other", 0): (8, 9),
    ("anchored",): (9, 11),
    ("anchored", "a"): (9, 21),
    ("alias", "a"): (9, 21),
}


@pytest.mark.parametrize("loader", [yaml.SafeLoader, yaml.CSafeLoader])
@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_places_are_the_same_with_both_parsers(monkeypatch: pytest.MonkeyPatch, loader: Any, newline: str) -> None:
    monkeypatch.setattr(source, "_Loader", loader)
    root = parsed(TEXT.replace("\n", newline))
    for path, place in PLACES.items():
        node: source.Node | None = root
        for part in path:
            assert node is not None
            node = node.get(part)
        assert node is not None
        assert (node.mark.line, node.mark.column) == place, path
    assert root.keys["empty"] == Mark("x.yaml", 11, 1)


SYNTAX = [
    "a: [1, 2",
    "a: 'b",
    "a: b: c",
    "a:\n\tb: 1",
    "a: 1\n  b: 2",
    "a: @b",
    "a: {b: 1]",
    "a\nb: 1",
    "- a\nb: 1",
    "&",
    "*",
]


@pytest.mark.parametrize("text", SYNTAX)
def test_syntax_errors_are_told_alike_by_both_parsers(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    messages = []
    for loader in (yaml.SafeLoader, yaml.CSafeLoader):
        monkeypatch.setattr(source, "_Loader", loader)
        with pytest.raises(SpecError) as caught:
            parsed(text)
        messages.append([(p.line, p.message.split(":")[0]) for p in caught.value.problems])
    assert messages[0] == messages[1]


def test_parts_are_shared_not_copied() -> None:
    node = parsed("{a: {b: 1}, c: {d: 2}}")
    changed = node.with_part("a", source.Node(5, START), START)
    assert changed.data == {"a": 5, "c": {"d": 2}}
    assert node.data == {"a": {"b": 1}, "c": {"d": 2}}
    assert changed.data["c"] is node.data["c"]


def test_aliases_are_fine_up_to_a_limit() -> None:
    assert parsed("a: &x [1, 2]\nb: *x\nc: [*x, *x]").data["c"] == [[1, 2], [1, 2]]
    lines = ["a0: &a0 [1, 1]", *(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 30))]
    with pytest.raises(SpecError, match="more than 100,000 values"):
        parsed("\n".join(lines))


def test_depth_counts_through_aliases() -> None:
    lines = ["a0: &a0 [" + "[" * 20 + "]" * 20 + "]", "a1: &a1 [" + "[" * 20 + "*a0" + "]" * 20 + "]"]
    with pytest.raises(SpecError, match="nested more than 40 levels deep"):
        parsed("\n".join(lines))


@pytest.mark.parametrize("opening", ["[", "{a: ", "- ", "? "])
def test_deep_nesting_is_a_problem_not_a_crash(opening: str) -> None:
    with pytest.raises(SpecError):
        parsed(opening * 100_000)
