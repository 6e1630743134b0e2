"""What several variants had in common and was therefore done once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dlpipe.report.evidence import Evidence

TRAINED = ("pretrain", "finetune")


@dataclass(frozen=True)
class SharedStage:
    id: str
    rule: str
    seconds: float
    variants: int
    """How many variants use it, in all experiments of the report."""
    experiments: tuple[str, ...]

    @property
    def seconds_saved(self) -> float:
        return self.seconds * (self.variants - 1)


@dataclass(frozen=True)
class Sharing:
    """Stages of training (layers and fine-tuning phases): how many ran, and how many would have without sharing."""

    trained: int
    without_sharing: int
    seconds: float
    shared: tuple[SharedStage, ...]

    @property
    def seconds_saved(self) -> float:
        return sum(stage.seconds_saved for stage in self.shared)


def sharing(evidence: Sequence[Evidence], of: Evidence | None = None) -> Sharing:
    """Over all variants of all experiments, or the stages that experiment `of` uses."""
    stages: dict[str, tuple[str, float]] = {}
    users: dict[str, list[str]] = {}
    for experiment in evidence:
        for variant in experiment.variants:
            for ancestor in variant.ancestors():
                if ancestor["rule"] in TRAINED:
                    stages[ancestor["id"]] = (ancestor["rule"], float(ancestor["seconds"]))
                    users.setdefault(ancestor["id"], []).append(experiment.name)
    if of is not None:
        stages = {stage_id: stage for stage_id, stage in stages.items() if of.name in users[stage_id]}
    shared = [
        SharedStage(stage_id, rule, seconds, len(users[stage_id]), tuple(dict.fromkeys(users[stage_id])))
        for stage_id, (rule, seconds) in stages.items()
        if len(users[stage_id]) > 1
    ]
    return Sharing(
        trained=len(stages),
        without_sharing=sum(len(users[stage_id]) for stage_id in stages),
        seconds=sum(seconds for _, seconds in stages.values()),
        shared=tuple(shared),
    )
