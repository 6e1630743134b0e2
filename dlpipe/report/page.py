"""The report: one HTML page that needs nothing else, and the verdicts as JSON. Same evidence, same bytes."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from dlpipe.artifacts import ArtifactError
from dlpipe.provenance import origin
from dlpipe.report.drawings import inline_svg, png_address
from dlpipe.report.evidence import Drawing, Evidence, VariantEvidence
from dlpipe.report.intervals import HEIGHT, WIDTH, interval_marks
from dlpipe.report.judging import VERDICTS, Judgement, Part
from dlpipe.report.sharing import Sharing, sharing
from dlpipe.report.statistics import Estimate, estimate
from dlpipe.report.units import (
    decimals,
    difference_unit,
    duration,
    levels_text,
    list_text,
    metric_name,
    metric_unit,
    number,
    with_unit,
)
from dlpipe.spec.base import Component
from dlpipe.spec.claims import DIVERGED, Claim

TEMPLATES = Path(__file__).with_name("templates")
FORMAT = 1
MOST_SINGLE_METRICS = 3
SCALE_NOTES = {
    "demo": "Built-in data, small networks, few seeds: it shows the effect, not the paper's numbers.",
    "lab": "Real data at a size for a workstation: it shows the effect, not the paper's numbers.",
}


def verdicts_json(evidence: Sequence[Evidence]) -> str:
    """The verdicts, for programs."""
    judgements = [experiment.judgements() for experiment in evidence]
    experiments = [
        {
            "name": experiment.name,
            "title": experiment.loaded.experiment.title,
            "scale": experiment.loaded.scale,
            "seeds": list(experiment.loaded.seeds),
            "missing": list(experiment.missing),
            "claims": [judgement.to_json() for judgement in claims],
        }
        for experiment, claims in zip(evidence, judgements, strict=True)
    ]
    verdicts = [judgement.verdict for claims in judgements for judgement in claims]
    document = {
        "format": FORMAT,
        "summary": {verdict: verdicts.count(verdict) for verdict in VERDICTS},
        "experiments": experiments,
    }
    return json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def render(evidence: Sequence[Evidence]) -> str:
    """The page. Raises ArtifactError for a figure that is not plain SVG or PNG."""
    environment = _environment()
    style, script = _asset("report.css"), _asset("tables.js")
    scales = list(dict.fromkeys(experiment.loaded.scale or "" for experiment in evidence))
    experiments = [_experiment_view(experiment, position, evidence) for position, experiment in enumerate(evidence, 1)]
    verdicts = [claim["verdict"] for experiment in experiments for claim in experiment["claims"]]
    return environment.get_template("report.html.j2").render(
        experiments=experiments,
        title=_title(evidence),
        scales=scales,
        scale_notes=SCALE_NOTES,
        summary=[(verdict, verdicts.count(verdict)) for verdict in VERDICTS if verdicts.count(verdict)],
        verdict_count=len(verdicts),
        sharing=_sharing_view(sharing(evidence)) if len(evidence) > 1 else None,
        style=style,
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


@lru_cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.globals.update(mark_width=WIDTH, mark_height=HEIGHT)
    environment.filters.update(duration=duration, slug=_slug)
    return environment


def _asset(name: str) -> Markup:
    return Markup((TEMPLATES / name).read_text(encoding="utf-8"))


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def _title(evidence: Sequence[Evidence]) -> str:
    if len(evidence) == 1:
        return evidence[0].loaded.experiment.title
    return "Experiments: " + (list_text([experiment.name for experiment in evidence]) or "none")


# One experiment


def _experiment_view(evidence: Evidence, position: int, everything: Sequence[Evidence]) -> dict[str, Any]:
    loaded = evidence.loaded
    key = f"{_slug(evidence.name) or 'experiment'}-{position}"
    judgements = evidence.judgements()
    return {
        "key": key,
        "name": evidence.name,
        "title": loaded.experiment.title,
        "scale": loaded.scale,
        "question": loaded.experiment.question,
        "papers": [loaded.papers[paper] for paper in loaded.experiment.papers if paper in loaded.papers],
        "facts": _facts(evidence),
        "missing": evidence.missing,
        "claims": [_claim_view(judgement, evidence, f"{key}-claim-{n}") for n, judgement in enumerate(judgements, 1)],
        "variants": _variant_table(evidence, judgements),
        "metrics": _metric_table(evidence),
        "figures": [_figure_view(drawing, f"{key}-figure-{n}") for n, drawing in enumerate(evidence.drawings(), 1)],
        "sharing": _sharing_view(sharing(everything, evidence)),
        "provenance": _provenance(evidence),
    }


def _facts(evidence: Evidence) -> list[tuple[str, str]]:
    experiment = evidence.loaded.experiment
    seeds = len(evidence.loaded.seeds)
    return [
        ("Data", component_text(experiment.dataset)),
        ("Model", component_text(experiment.model)),
        ("Variants", f"{len(evidence.variants)}" + (f" ({_axes_text(evidence)})" if evidence.loaded.axes else "")),
        ("Seeds", f"{seeds} each"),
    ]


def _axes_text(evidence: Evidence) -> str:
    return "; ".join(f"{axis}: {', '.join(levels)}" for axis, levels in evidence.loaded.axes.items())


def component_text(component: Component) -> str:
    """`digits, labelled 100`: the kind and what was declared beside it."""
    declared = component.model_dump(mode="json", exclude_unset=True)
    kind = getattr(component, "kind", type(component).__name__.lower())
    details = [f"{name.replace('_', ' ')} {_plain(value)}" for name, value in declared.items() if name != "kind"]
    return ", ".join([kind, *details])


def _plain(value: Any) -> str:
    if isinstance(value, list):
        return "-".join(map(_plain, value)) or "none"
    return value if isinstance(value, str) else json.dumps(value)


# Claims


def _claim_view(judgement: Judgement, evidence: Evidence, key: str) -> dict[str, Any]:
    claim = judgement.claim
    paper = evidence.loaded.papers.get(claim.paper or "")
    marks = interval_marks(judgement)
    return {
        "key": key,
        "says": claim.says,
        "verdict": judgement.verdict,
        "reason": judgement.reason,
        "source": claim.source or (paper.short if paper else None),
        "asks": _asks(claim),
        "kind": "value" if claim.value is not None else "growth" if claim.grows is not None else "gain",
        "paper": _papers_value(claim),
        "axes": list(claim.axes_repeated),
        "columns": _claim_columns(claim),
        "parts": [{**_part_view(part, claim), "mark": mark} for part, mark in zip(judgement.parts, marks, strict=True)],
    }


def _asks(claim: Claim) -> str:
    """What is compared, in a line: `test error (%), pretraining rbm against pretraining none; depth 1`."""
    unit = metric_unit(claim.metric)
    text = metric_name(claim.metric) + (f" ({unit})" if unit else "")
    if claim.compare is not None and claim.against is not None:
        text += f": {levels_text(claim.compare)} against {levels_text(claim.against)}, paired by seed"
    if claim.better_than is not None:
        text += f" against {metric_name(claim.better_than)}, of the same runs"
    if claim.grows is not None:
        text += f"; gain at {claim.grows.axis} {claim.grows.end} less gain at {claim.grows.axis} {claim.grows.start}"
    if claim.where:
        text += f"; at {levels_text(claim.where)}"
    if claim.margin:
        size = f"{abs(claim.margin):g} {difference_unit(claim.metric)}"
        text += f"; more than {size}" if claim.margin > 0 else f"; worse by less than {size}"
    return text


def _papers_value(claim: Claim) -> str:
    if claim.value is not None and claim.tolerance is not None:
        return f"{with_unit(f'{claim.value:g}', metric_unit(claim.metric))} (± {claim.tolerance:g})"
    better = "lower" if claim.lower_is_better else "higher"
    return "larger gain" if claim.grows is not None else better


def _claim_columns(claim: Claim) -> list[str]:
    if claim.value is not None:
        return ["ours"]
    end = f", {claim.grows.axis} {claim.grows.end}" if claim.grows is not None else ""
    sides = [", ".join(side.values()) + end for side in (claim.compare, claim.against) if side is not None]
    if claim.better_than is not None:
        sides = [metric_name(claim.metric), metric_name(claim.better_than)]
    unit = difference_unit(claim.metric)
    return [*sides, f"{'growth' if claim.grows is not None else 'gain'}{f' ({unit})' if unit else ''}"]


def _part_view(part: Part, claim: Claim) -> dict[str, Any]:
    unit = metric_unit(claim.metric)
    result = part.estimate
    places = 2
    if result is not None:
        places = decimals(result.mean, result.low, result.high, unit=unit, half_width=result.half_width)
    mean = number(None if result is None else result.mean, places)
    # The two sides to the digits of their difference, or it could not be seen in them.
    sides = [number(value, max(places, decimals(value, unit=unit))) for value in (part.ours, part.theirs)]
    return {
        "levels": [part.levels[axis] for axis in claim.axes_repeated],
        "values": [mean] if claim.value is not None else [*sides, mean],
        "interval": interval_text(result, places),
        "n": 0 if result is None else result.n,
        "verdict": part.verdict,
        "reason": part.reason,
    }


def interval_text(result: Estimate | None, places: int) -> str:
    if result is None or result.low is None or result.high is None:
        return "–"
    return f"{number(result.low, places)} to {number(result.high, places)}"


# Tables


def _variant_table(evidence: Evidence, judgements: Sequence[Judgement]) -> dict[str, Any]:
    """Axes, then the metrics that matter with interval, n and time."""
    known = set(evidence.results().metrics())
    wanted = dict.fromkeys(["test_error", *_judged(judgements), "valid_error"])
    metrics = [metric for metric in wanted if metric in known and metric != "train_seconds"][:MOST_SINGLE_METRICS]
    axes = list(evidence.loaded.axes)
    return {
        "axes": axes,
        "metrics": [(metric_name(metric), metric_unit(metric)) for metric in metrics],
        "rows": [_variant_row(variant, axes, metrics, evidence) for variant in evidence.variants],
    }


def _judged(judgements: Sequence[Judgement]) -> list[str]:
    """The metrics that the claims speak of."""
    return [metric for judgement in judgements for metric in (judgement.claim.metric, judgement.claim.other_metric)]


def _variant_row(
    variant: VariantEvidence, axes: Sequence[str], metrics: Sequence[str], evidence: Evidence
) -> dict[str, Any]:
    first = variant.values.get(metrics[0], {}) if metrics else {}
    diverged = [seed for seed, value in variant.values.get(DIVERGED, {}).items() if value]
    missing = [seed for seed in evidence.loaded.seeds if seed not in first and seed not in diverged]
    seconds = [value for value in variant.values.get("train_seconds", {}).values() if math.isfinite(value)]
    return {
        "levels": [variant.levels[axis] for axis in axes],
        "cells": [_cell(variant.values.get(metric, {}), metric) for metric in metrics],
        "n": len(first),
        "missing": len(missing),
        "diverged": len(diverged),
        "seconds": math.fsum(seconds) / len(seconds) if seconds else None,
    }


def _cell(values: Mapping[int, float], metric: str) -> dict[str, Any]:
    """Mean and interval of the finite values; how many are not."""
    finite = [value for value in values.values() if math.isfinite(value)]
    if not finite:
        return {"mean": "–", "sort": "", "interval": "–", "broken": len(values)}
    result = estimate(finite)
    places = decimals(result.mean, unit=metric_unit(metric), half_width=result.half_width)
    return {
        "mean": number(result.mean, places),
        "sort": repr(result.mean),
        "interval": interval_text(result, places),
        "broken": len(values) - len(finite),
    }


def _metric_table(evidence: Evidence) -> dict[str, Any]:
    """Every metric of every seed, one row a variant and seed."""
    metrics = evidence.results().metrics()
    rows = []
    for variant in evidence.variants:
        for seed in sorted({seed for values in variant.values.values() for seed in values}):
            cells = [_single(variant.values.get(metric, {}).get(seed), metric) for metric in metrics]
            rows.append({"levels": list(variant.levels.values()), "seed": seed, "cells": cells})
    return {"metrics": [(metric_name(m), metric_unit(m)) for m in metrics], "rows": rows}


def _single(value: float | None, metric: str) -> tuple[str, str]:
    finite = value is not None and math.isfinite(value)
    return number(value, decimals(value, unit=metric_unit(metric))), repr(value) if finite else ""


# Figures, sharing, provenance


def _figure_view(drawing: Drawing, key: str) -> dict[str, Any]:
    view: dict[str, Any] = {"key": key, "title": drawing.title, "caption": drawing.caption, "kind": drawing.kind}
    if drawing.file.endswith(".svg"):
        return {**view, "svg": Markup(inline_svg(drawing.content, key, drawing.title)), "png": None}
    if drawing.file.endswith(".png"):
        return {**view, "svg": None, "png": png_address(drawing.content)}
    raise ArtifactError(f"{drawing.file} is neither SVG nor PNG")


def _sharing_view(found: Sharing) -> dict[str, Any]:
    return {
        "trained": found.trained,
        "without": found.without_sharing,
        "seconds": found.seconds,
        "saved": found.seconds_saved,
        "stages": sorted(found.shared, key=lambda stage: -stage.seconds_saved),
    }


def _provenance(evidence: Evidence) -> dict[str, Any]:
    """Where the numbers come from: every stage, and in a few lines what they have in common."""
    stages: dict[str, dict[str, Any]] = {}
    for variant in evidence.variants:
        for ancestor in variant.ancestors():
            stages[ancestor["id"]] = {**ancestor, "versions": ""}
    artifacts = [artifact for variant in evidence.variants for artifact in variant.artifacts]
    for artifact in [*artifacts, *([evidence.figures] if evidence.figures is not None else [])]:
        stages[artifact.stage.id] = _stage_of(artifact.manifest)
    rows = list(stages.values())
    return {
        "stages": rows,
        "commits": _distinct(_commit(row) for row in rows),
        "hosts": _distinct(f"{row.get('host', '?')} ({row.get('processor', '?')})" for row in rows),
        "devices": _distinct(_device(row) for row in rows if row["rule"] in ("pretrain", "finetune")),
        "versions": _distinct(row["versions"] for row in rows if row["versions"]),
        "changed": evidence.made_by_other_code(),
    }


def _stage_of(manifest: Mapping[str, Any]) -> dict[str, Any]:
    versions = {"python": manifest["environment"]["python"], **manifest["environment"]["versions"]}
    return {**origin(manifest), "versions": ", ".join(f"{name} {version}" for name, version in versions.items())}


def _commit(row: Mapping[str, Any]) -> str:
    commit = str(row.get("commit") or "")[:12] or "unknown commit"
    return f"{commit}, with uncommitted changes" if row.get("dirty") else commit


def _device(row: Mapping[str, Any]) -> str:
    threads = row.get("threads")
    return f"{row.get('device') or 'cpu'}" + (f", {threads} thread{'s' if threads != 1 else ''}" if threads else "")


def _distinct(values: Any) -> list[str]:
    return sorted(set(values))
