"""The papers that experiments cite: a reader of the simple part of BibTeX, and where to find `papers.bib`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from dlpipe.spec.problems import Mark, Problem, Report, SpecError

FILE = "papers.bib"
_ENTRY = re.compile(r"@(?P<type>\w+)\s*\{\s*(?P<key>[^\s,{}=]+)\s*,")
_FIELD = re.compile(r"\s*(?P<name>\w+)\s*=\s*")
_BARE = re.compile(r"[\w.-]+")
_ACCENTS = {
    "'": "\u0301", "`": "\u0300", '"': "\u0308", "^": "\u0302", "~": "\u0303", "c": "\u0327", "v": "\u030c"
}  # fmt: skip


@dataclass(frozen=True)
class BibEntry:
    key: str
    author: str
    """As BibTeX has it: `Hinton, Geoffrey E. and Osindero, Simon`."""
    title: str
    year: int
    venue: str = ""
    """Journal, proceedings or institution."""
    url: str = ""

    @property
    def short(self) -> str:
        """`Hinton, Osindero and Teh 2006`; from four authors on `Erhan et al. 2010`."""
        names = [name.partition(",")[0] for name in self.author.split(" and ")]
        if len(names) > 3:
            return f"{names[0]} et al. {self.year}"
        return f"{' and '.join(filter(None, [', '.join(names[:-1]), names[-1]]))} {self.year}"


def find_bibliography(experiment: Path) -> Path | None:
    """The nearest `papers.bib` in the folders above an experiment, else the one of the working directory's `config`."""
    candidates = [parent / FILE for parent in experiment.absolute().parents]
    return next((path for path in (*candidates, Path("config") / FILE) if path.is_file()), None)


def read_bibliography(path: Path) -> dict[str, BibEntry]:
    """Key to entry. Raises SpecError for what this reader does not know: no macros, no string concatenation."""
    try:
        stat = path.stat()
        return dict(_read(path, stat.st_mtime_ns, stat.st_size))
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError([Problem(str(path), None, None, f"the bibliography cannot be read: {error}")]) from None


@lru_cache(maxsize=8)
def _read(path: Path, modified: int, size: int) -> dict[str, BibEntry]:
    return parse_bibliography(path.read_text(encoding="utf-8"), str(path))


def parse_bibliography(text: str, name: str) -> dict[str, BibEntry]:
    report = Report()
    report.lines[name] = text.split("\n")
    entries: dict[str, BibEntry] = {}
    position = 0
    while (at := text.find("@", position)) >= 0:
        match = _ENTRY.match(text, at)
        if match is None:
            report.add(_mark(name, text, at), "an entry is written @article{key, field = {value}, ...}")
            break
        fields, position = _fields(text, match.end(), name, report)
        key = match["key"]
        if key in entries:
            report.add(_mark(name, text, at), f"the key {key} is used twice")
        if position > len(text):  # a field that is wrong has been reported
            break
        lacking = [field for field in ("author", "title", "year") if not fields.get(field)]
        if lacking:
            report.add(_mark(name, text, at), f"{key} lacks {' and '.join(lacking)}")
        elif not fields["year"].isdecimal():
            report.add(_mark(name, text, at), f"the year of {key} must be a number")
        else:
            entries[key] = _entry(key, fields)
    report.raise_if_any()
    return entries


def _entry(key: str, fields: dict[str, str]) -> BibEntry:
    venues = ("journal", "booktitle", "institution", "school", "publisher", "howpublished")
    url = fields.get("url") or (f"https://doi.org/{fields['doi']}" if fields.get("doi") else "")
    venue = next((fields[each] for each in venues if fields.get(each)), "")
    return BibEntry(key, fields["author"], fields["title"], int(fields["year"]), venue, url)


def _fields(text: str, position: int, name: str, report: Report) -> tuple[dict[str, str], int]:
    """The fields up to the entry's closing brace, and the position after it."""
    fields: dict[str, str] = {}
    while True:
        position = _skip(text, position, " \t\r\n,")
        if position >= len(text) or text[position] == "}":
            return fields, position + 1
        match = _FIELD.match(text, position)
        value, after = _value(text, match.end()) if match else ("", -1)
        if match is None or after < 0:
            report.add(_mark(name, text, position), 'a field is written name = {value}, name = "value" or name = 2006')
            return fields, len(text) + 1
        field = match["name"].lower()
        fields[field] = value if field in ("url", "doi") else _plain(value)
        position = after


def _value(text: str, start: int) -> tuple[str, int]:
    """The value that begins at `start` and the position after it, -1 when it does not end."""
    opening = text[start : start + 1]
    if opening not in ("{", '"'):
        match = _BARE.match(text, start)
        return (match[0], match.end()) if match else ("", -1)
    depth = 0
    for position in range(start + (opening == '"'), len(text)):
        depth += (text[position] == "{") - (text[position] == "}")
        if depth == 0 and text[position] == ("}" if opening == "{" else '"'):
            return text[start + 1 : position], position + 1
    return "", -1


def _plain(value: str) -> str:
    """Without TeX's braces, with its accents as letters."""
    import unicodedata

    value = re.sub(r"\{?\\(['`\"^~cv])\s*\{?\\?(\w)\}?\}?", lambda m: m[2] + _ACCENTS[m[1]], value)
    value = value.replace("{", "").replace("}", "").replace("\\&", "&").replace("--", "–").replace("~", " ")
    return unicodedata.normalize("NFC", " ".join(value.split()))


def _skip(text: str, position: int, characters: str) -> int:
    while position < len(text) and text[position] in characters:
        position += 1
    return position


def _mark(name: str, text: str, position: int) -> Mark:
    before = text[:position]
    return Mark(name, before.count("\n") + 1, position - (before.rfind("\n") + 1) + 1)
