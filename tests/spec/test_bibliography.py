"""The simple part of BibTeX, and the bibliography that is committed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from dlpipe.spec.bibliography import BibEntry, find_bibliography, parse_bibliography, read_bibliography
from dlpipe.spec.problems import SpecError

ROOT = Path(__file__).parents[2]
COMMITTED = ROOT / "config" / "papers.bib"


def test_braces_quotes_numbers_accents_and_comments() -> None:
    text = r"""
    % a comment
    @article{a2009, author = {Louradour, J{\'e}r{\^o}me and Hyv\"{a}rinen, A.}, title = "A {Boltzmann} \& {B} Machine",
      journal={JMLR}, year = 2009, pages = {1--40}, doi = {10.1/x_~y}}
    Free text between entries is ignored.
    @misc{b, author={B, C}, title={T}, year={2010}, url={https://x.org/~b/}}
    """
    entries = parse_bibliography(text, "x.bib")
    assert entries == {
        "a2009": BibEntry(
            "a2009",
            "Louradour, Jérôme and Hyvärinen, A.",
            "A Boltzmann & B Machine",
            2009,
            "JMLR",
            "https://doi.org/10.1/x_~y",
        ),
        "b": BibEntry("b", "B, C", "T", 2010, "", "https://x.org/~b/"),
    }


@pytest.mark.parametrize(
    ("authors", "short"),
    [
        ("Hinton, G. E.", "Hinton 2002"),
        ("Glorot, X. and Bengio, Y.", "Glorot and Bengio 2002"),
        ("A, X. and B, Y. and C, Z.", "A, B and C 2002"),
        ("A, X. and B, Y. and C, Z. and D, W.", "A et al. 2002"),
    ],
)
def test_short_citations(authors: str, short: str) -> None:
    assert BibEntry("k", authors, "t", 2002).short == short


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("@article{a, author={A}, title={T}}", "x.bib:1:1: a lacks year"),
        ("@article{a, author={A}, title={T}, year={soon}}", "x.bib:1:1: the year of a must be a number"),
        ("\n@article(a, x={b})", "x.bib:2:1: an entry is written @article{key, field = {value}, ...}"),
        ("@article{a, author={A", "x.bib:1:13: a field is written name = {value}"),
        (
            "@misc{a, author={A}, title={T}, year=1}\n@misc{a, author={A}, title={T}, year=1}",
            "x.bib:2:1: the key a is used twice",
        ),
    ],
)
def test_what_it_does_not_know_is_a_problem(text: str, message: str) -> None:
    with pytest.raises(SpecError) as caught:
        parse_bibliography(text, "x.bib")
    assert str(caught.value).startswith(message)


def test_the_committed_bibliography() -> None:
    entries = read_bibliography(COMMITTED)
    assert {"hinton2002", "hinton2006", "bengio2007", "erhan2010", "tieleman2008", "vincent2008"} <= set(entries)
    for key, entry in entries.items():
        assert key.startswith(entry.author.partition(",")[0].lower().replace("ä", "a")), key
        assert str(entry.year) in key
        assert entry.venue, key
        assert not set("{}\\") & set(entry.author + entry.title + entry.venue), key


def test_the_nearest_one_above_an_experiment_is_used(tmp_path: Path) -> None:
    experiment = tmp_path / "a" / "b" / "x.yaml"
    experiment.parent.mkdir(parents=True)
    for folder in (tmp_path, tmp_path / "a"):
        (folder / "papers.bib").write_text("")
    assert find_bibliography(experiment) == tmp_path / "a" / "papers.bib"


def test_what_the_code_says_it_follows_is_in_the_bibliography() -> None:
    """The keys behind `Paper:` or `Papers:` at the head of a module, up to the next blank line."""
    cited = {
        key
        for path in (ROOT / "dlpipe").rglob("*.py")
        for paragraph in re.findall(r"^Papers?: (.*?)\n\n", path.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
        for key in re.findall(r"\b[a-z][a-z-]+(?:19|20)\d\d\b", paragraph)
    }
    assert len(cited) > 20
    assert cited <= read_bibliography(COMMITTED).keys()
