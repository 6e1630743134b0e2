"""Every broken file gives exactly the text beside it: place, line, caret, hint."""

from __future__ import annotations

from pathlib import Path

import pytest

from dlpipe.spec.loading import load
from dlpipe.spec.problems import SHOWN, Mark, Problem, SpecError
from tests.spec import spec_goldens

FOREIGN = (
    "pydantic",
    "NoneType",
    "int_type",
    "float_type",
    "Literal",
    "tuple",
    "dict",
    "str_type",
    "Traceback",
    "Input",
)
"""Words of Python and pydantic, of no use to who writes YAML."""


@pytest.mark.parametrize("name", spec_goldens.names())
def test_text_of_a_broken_file(name: str) -> None:
    assert spec_goldens.text_of(name) == (spec_goldens.FOLDER / f"{name}.txt").read_text()


def test_texts_speak_of_yaml_not_of_python() -> None:
    texts = {path.name: path.read_text() for path in spec_goldens.FOLDER.glob("*.txt")}
    assert len(texts) >= 60
    messages = {
        name: "\n".join(line for line in text.split("\n") if line[:4] != "    ") for name, text in texts.items()
    }
    found = {(name, word) for name, text in messages.items() for word in FOREIGN if word in text}
    assert found == {("custom-tag.txt", "tuple")}  # the file's own !!python/tuple
    assert not any("nothing is wrong" in text for text in texts.values())


def test_a_file_of_10_mb_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "big.yaml"
    path.write_bytes(b"title: x\n" + b"# " + b"x" * 10_000_000)
    with pytest.raises(SpecError) as caught:
        load(path)
    assert str(caught.value) == f"{path}: the file has 10.0 MB; an experiment may have at most 1 MB"


def test_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / "latin1.yaml"
    path.write_bytes("title: x\nquestion: Wie groß?\n".encode("latin-1"))
    with pytest.raises(SpecError) as caught:
        load(path)
    assert str(caught.value) == (
        f"{path}:2:18: not UTF-8: the byte 0xDF cannot stand here\n"
        "    question: Wie gro\ufffd?\n"
        "                     ^\n"
        "    save the file as UTF-8"
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"title: \x00", "1:8: a character that may not stand in a text file: U+0000"),
        (b"title: x\r\nquestion: \x07", "2:11: a character that may not stand in a text file: U+0007"),
        ("title: x".encode("utf-16"), "1:1: not UTF-8: the byte 0xFF cannot stand here"),
    ],
)
def test_what_is_no_text(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "x.yaml"
    path.write_bytes(content)
    with pytest.raises(SpecError) as caught:
        load(path)
    assert str(caught.value).split("\n")[0] == f"{path}:{message}"


def test_no_file(tmp_path: Path) -> None:
    for path, message in ((tmp_path / "x.yaml", "no such file"), (tmp_path, "not a file")):
        with pytest.raises(SpecError, match=message) as caught:
            load(path)
        assert caught.value.problems == [Problem(str(path), None, None, message)]


def test_a_long_line_is_shown_around_the_place(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(f"title: {'x' * 500}\nwrong: {'y' * 500}\nfigures: [{' ' * 500}{{kind: nothing}}{' ' * 500}]\n")
    with pytest.raises(SpecError) as caught:
        load(path)
    lines = str(caught.value).split("\n")
    assert max(map(len, lines)) < 200
    caret = lines.index(next(line for line in lines if "unknown kind 'nothing'" in line)) + 2
    assert lines[caret].index("^") == lines[caret - 1].index("nothing")


def test_the_caret_stands_under_a_place_behind_tabs() -> None:
    problem = Problem("x.yaml", 1, 4, "wrong", source="a:\tb")
    assert str(problem).split("\n")[1:] == ["    a:\tb", "      \t^"]


def test_thousands_of_problems_are_cut_short() -> None:
    error = SpecError(Problem("x.yaml", line, 1, "wrong") for line in range(1000, 0, -1))
    lines = str(error).split("\n")
    assert lines[0] == "x.yaml:1:1: wrong"
    assert lines[-1] == "... and 950 more problems"
    assert len(lines) == SHOWN + 1


def test_problems_come_in_the_order_of_their_places() -> None:
    problems = [
        Problem("x", 2, 1, "c"),
        Problem("x", 1, 9, "b"),
        Problem("x", 1, 2, "a"),
        Problem("x", None, None, "0"),
    ]
    assert [problem.message for problem in SpecError(problems).problems] == ["0", "a", "b", "c"]


def test_a_mark_reads_as_editors_write_it() -> None:
    assert str(Mark("x.yaml", 3, 7)) == "x.yaml:3:7"
