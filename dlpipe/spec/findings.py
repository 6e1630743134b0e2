"""What is wrong with an experiment, told once however many scales and variants it shows in."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from dlpipe.spec.claims import Levels
from dlpipe.spec.problems import Mark, Report, levels_text, listed

COMMAND_LINE = "command line"
"""Stands for a file in the places of overrides; the line is the override's position."""


@dataclass(frozen=True)
class Finding:
    """A problem at a place of the file, and the scale and the variant in which it was found."""

    mark: Mark
    message: str
    hint: str | None
    scale: str | None
    levels: Levels | None
    """The variant in which it was found, unless it is about the experiment as a whole."""
    patched: bool
    """Whether it was found inside a patch, so that its place tells where it comes from."""


def merge(report: Report, findings: Iterable[Finding]) -> None:
    """Each problem once, with the scale or the variant where it shows, when its place does not tell."""
    groups: dict[tuple[Mark, str], list[Finding]] = {}
    for finding in findings:
        groups.setdefault((finding.mark, finding.message), []).append(finding)
    wrong_yaml = {problem.mark for problem in report.problems.values()}
    for (mark, message), found in groups.items():
        if mark in wrong_yaml:
            continue  # the YAML itself is wrong there: what follows from it is no news
        first = found[0]
        where = []
        if not first.patched:
            if all(each.levels for each in found):
                distinct = {levels_text(each.levels or {}) for each in found}
                more = f" and {len(distinct) - 1} more" if len(distinct) > 1 else ""
                where.append(f"variant {levels_text(first.levels or {})}{more}")
            scales = list(dict.fromkeys(each.scale for each in found))
            if None not in scales and mark.file != COMMAND_LINE:
                where.append(f"scale {listed([str(scale) for scale in scales])}")
        report.add(mark, f"{message} ({'; '.join(where)})" if where else message, first.hint)
