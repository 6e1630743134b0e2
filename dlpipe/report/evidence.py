"""What a report is made of: an experiment's metrics and figures, verified, and what is missing of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from dlpipe.artifacts import Artifact, ArtifactError, Store
from dlpipe.provenance import source_digests
from dlpipe.report.judging import Judgement, Results, Row, judge
from dlpipe.report.tables import read_metrics
from dlpipe.spec.claims import own_levels

if TYPE_CHECKING:
    from dlpipe.spec.variants import LoadedExperiment


class PlannedVariant(Protocol):
    @property
    def levels(self) -> Mapping[str, str]: ...
    @property
    def metrics(self) -> Sequence[str]:
        """Ids of the variant's evaluate stages, one a block of seeds."""


class PlannedExperiment(Protocol):
    """What a report needs of a plan; `dlpipe.plan.PlannedExperiment` is one."""

    @property
    def loaded(self) -> LoadedExperiment: ...
    @property
    def variants(self) -> Sequence[PlannedVariant]: ...
    @property
    def figures(self) -> str:
        """Id of the plot stage."""


@dataclass(frozen=True)
class VariantEvidence:
    """One variant: its levels, its verified metrics artifacts and what they say."""

    levels: Mapping[str, str]
    artifacts: tuple[Artifact, ...]
    values: Mapping[str, Mapping[int, float]]
    """Metric to seed to value."""
    missing: tuple[str, ...] = ()
    """Ids of metrics artifacts that are absent or damaged."""

    def ancestors(self) -> list[dict[str, Any]]:
        """The stages that this variant comes from, each once, as its artifacts record them."""
        found = {}
        for artifact in self.artifacts:
            for ancestor in artifact.extra.get("ancestors", ()):
                found[ancestor["id"]] = dict(ancestor)
        return list(found.values())


@dataclass(frozen=True)
class Drawing:
    """A figure of the experiment as it was drawn: the bytes of an SVG or PNG file."""

    file: str
    kind: str
    title: str
    caption: str
    content: bytes


@dataclass(frozen=True)
class Evidence:
    """An experiment, its variants and figures."""

    loaded: LoadedExperiment
    variants: tuple[VariantEvidence, ...]
    figures: Artifact | None
    missing: tuple[str, ...] = field(default=())
    """Ids of all artifacts that are absent or damaged."""

    @property
    def name(self) -> str:
        return self.loaded.name

    def results(self) -> Results:
        rows = [
            Row(variant.levels, seed, metric, value)
            for variant in self.variants
            for metric, values in variant.values.items()
            for seed, value in values.items()
        ]
        return Results(self.loaded.axes, [variant.levels for variant in self.variants], self.loaded.seeds, rows)

    def judgements(self) -> list[Judgement]:
        """One for each claim, in the order of the file."""
        results = self.results()
        experiment = self.loaded.experiment
        return [
            judge(claim.settled(own_levels(experiment.axes)), results, self.loaded.scale) for claim in experiment.claims
        ]

    def drawings(self) -> list[Drawing]:
        if self.figures is None:
            return []
        index = json.loads(self.figures.path("figures.json").read_bytes())
        return [
            Drawing(
                entry["file"],
                entry["kind"],
                entry["title"],
                entry["caption"],
                self.figures.path(entry["file"]).read_bytes(),
            )
            for entry in index
        ]

    def made_by_other_code(self) -> list[str]:
        """Components whose source today is not the one that an artifact of this experiment records."""
        changed = set()
        for record, implementations in self._recorded_sources():
            today = source_digests(implementations)
            changed |= {component for component, digest in record.items() if today.get(component, digest) != digest}
        return sorted(changed)

    def _recorded_sources(self) -> list[tuple[Mapping[str, str], Mapping[str, str]]]:
        artifacts = [artifact for variant in self.variants for artifact in variant.artifacts]
        artifacts += [self.figures] if self.figures is not None else []
        records = [(a.manifest["sources"], a.manifest["stage"]["hints"].get("implementations", {})) for a in artifacts]
        for variant in self.variants:
            records += [(a["sources"], a.get("implementations", {})) for a in variant.ancestors() if "sources" in a]
        return records


def gather(planned: PlannedExperiment, store: Store, warn: Callable[[str], None], *, figures: bool = True) -> Evidence:
    """Reads and verifies. What is absent or damaged is set aside, told to `warn`, and listed as missing."""
    missing: list[str] = []

    def read(rule: str, stage_id: str) -> Artifact | None:
        try:
            return store.read_or_set_aside(rule, stage_id)
        except ArtifactError as error:
            warn(str(error))
            missing.append(stage_id)
            return None

    variants = tuple(_variant(variant, read) for variant in planned.variants)
    drawn = read("plot", planned.figures) if figures else None
    return Evidence(planned.loaded, variants, drawn, tuple(dict.fromkeys(missing)))


def _variant(planned: PlannedVariant, read: Callable[[str, str], Artifact | None]) -> VariantEvidence:
    artifacts, missing = [], []
    values: dict[str, dict[int, float]] = {}
    for stage_id in planned.metrics:
        artifact = read("evaluate", stage_id)
        if artifact is None:
            missing.append(stage_id)
            continue
        artifacts.append(artifact)
        for seed, metric, value in read_metrics(artifact):
            values.setdefault(metric, {})[seed] = value
    return VariantEvidence(dict(planned.levels), tuple(artifacts), values, tuple(missing))
