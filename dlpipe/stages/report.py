"""report: claims beside the evidence, as one HTML file and a JSON of the verdicts. Reads metrics and figures alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

from dlpipe.artifacts import Store
from dlpipe.files import write_atomically
from dlpipe.progress import say
from dlpipe.report.evidence import PlannedExperiment, gather
from dlpipe.report.judging import Judgement


class Plan(Protocol):
    @property
    def experiments(self) -> Sequence[PlannedExperiment]: ...


def run(plan: Plan, store: Store, out: Path) -> Path:
    """Writes the page to `out` and the verdicts beside it, as `.json`; returns `out`.

    Artifacts that are missing or damaged do not stop it: they are named on stderr and marked in the report, and the
    claims that need them are inconclusive.
    """
    from dlpipe.report.page import render, verdicts_json

    evidence = [gather(planned, store, say) for planned in plan.experiments]
    page, verdicts = render(evidence), verdicts_json(evidence)
    write_atomically(out.with_suffix(".json"), verdicts)
    write_atomically(out, page)
    return out


def judge(plan: Plan, store: Store) -> Iterator[tuple[str, Judgement]]:
    """Experiment and judgement, for every claim, from the metrics as they stand."""
    for planned in plan.experiments:
        evidence = gather(planned, store, say, figures=False)
        for judgement in evidence.judgements():
            yield evidence.name, judgement
