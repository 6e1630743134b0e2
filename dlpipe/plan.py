"""From experiments to stages: which work is needed, under which content digest, and what is shared.

An experiment's variants become chains (fetch, prepare, pretrain, …, finetune, …, evaluate). A stage's digest covers its
own slice of the experiment, the digests of its inputs and the versions of the components that do the work. So equal
prefixes of chains are one stage: a study of depths is a trie. Nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from dlpipe.artifacts import Stage, Store
from dlpipe.resources import ON_A_DEVICE, size_of, threads
from dlpipe.spec.base import Component
from dlpipe.spec.claims import Levels
from dlpipe.spec.experiment import Experiment, Phase
from dlpipe.spec.training import training_fields
from dlpipe.spec.variants import LoadedExperiment, Variant

STAGE_VERSIONS = {"fetch": 1, "prepare": 1, "pretrain": 1, "finetune": 1, "evaluate": 1, "plot": 1}
"""Raised when a stage's own code (the loop, a split, what evaluate measures) gives other results for the same spec."""

EXPERIMENTS = Path("config/experiments")

FieldPath = tuple[str | int, ...]


@dataclass(frozen=True)
class Origin:
    """Where a stage's spec comes from: a variant, and for each part of the spec its field's path in the experiment."""

    variant: Variant
    paths: Mapping[FieldPath, FieldPath]

    def experiment_path(self, spec_path: FieldPath) -> FieldPath | None:
        """The experiment's field behind a field of the stage's spec, by its longest known prefix."""
        for length in range(len(spec_path), 0, -1):
            known = self.paths.get(spec_path[:length])
            if known is not None:
                return known + spec_path[length:]
        return None


@dataclass(frozen=True)
class PlannedVariant:
    levels: Levels
    chains: tuple[tuple[str, ...], ...]
    """For each block of seeds the ids of its stages, in order; the last is the evaluate stage."""

    @property
    def metrics(self) -> tuple[str, ...]:
        return tuple(chain[-1] for chain in self.chains)


@dataclass(frozen=True)
class PlannedExperiment:
    loaded: LoadedExperiment
    variants: tuple[PlannedVariant, ...]
    figures: str
    """Id of the plot stage."""

    @property
    def name(self) -> str:
        return self.loaded.name


@dataclass
class Plan:
    """All stages of some experiments, each once, inputs before the stages that read them."""

    experiments: list[PlannedExperiment] = field(default_factory=list)
    stages: dict[str, Stage] = field(default_factory=dict)
    origins: dict[str, Origin] = field(default_factory=dict)
    resources: dict[str, dict[str, int]] = field(default_factory=dict)
    """Stage id to what its experiments ask of a cluster: the largest, where several share it."""

    def add(self, stage: Stage, origin: Origin | None = None) -> str:
        if stage.id not in self.stages:
            self.stages[stage.id] = stage
            if origin is not None:
                self.origins[stage.id] = origin
        return stage.id

    def of_rule(self, rule: str) -> list[Stage]:
        return [stage for stage in self.stages.values() if stage.rule == rule]

    def users(self) -> dict[str, list[tuple[str, Levels]]]:
        """Stage id to the variants (experiment, levels) whose chain it is part of."""
        users: dict[str, list[tuple[str, Levels]]] = {}
        for experiment in self.experiments:
            for variant in experiment.variants:
                for stage_id in dict.fromkeys(stage_id for chain in variant.chains for stage_id in chain):
                    users.setdefault(stage_id, []).append((experiment.name, variant.levels))
        return users

    def unshared_stages(self) -> list[str]:
        """The stages as often as they would run if no two variants shared any."""
        return [s for experiment in self.experiments for v in experiment.variants for chain in v.chains for s in chain]

    def missing(self, store: Store) -> set[str]:
        """Ids of the stages that must run so that every figure and metric stands: a missing one below a standing
        target is not needed."""
        needed: set[str] = set()
        queue = [
            target for e in self.experiments for target in (e.figures, *(m for v in e.variants for m in v.metrics))
        ]
        while queue:
            stage = self.stages[queue.pop()]
            if stage.id in needed or store.is_done(stage.rule, stage.id):
                continue
            needed.add(stage.id)
            queue.extend(stage.input_ids())
        return needed


def make_plan(experiments: Sequence[LoadedExperiment]) -> Plan:
    """The stages of loaded experiments. Raises StepError when a data set's own files cannot be read."""
    plan = Plan()
    for loaded in experiments:
        _add_experiment(plan, loaded)
    return plan


def _add_experiment(plan: Plan, loaded: LoadedExperiment) -> None:
    planned = []
    for variant in loaded.variants:
        blocks = seed_blocks(loaded.seeds, variant.experiment.seeds_per_job)
        chains = tuple(_Chain(plan, loaded, variant, block).ids for block in blocks)
        planned.append(PlannedVariant(variant.levels, chains))
        asked = {name: value for name, value in variant.experiment.resources.model_dump().items() if value is not None}
        for stage_id in (stage_id for chain in chains for stage_id in chain):
            known = plan.resources.setdefault(stage_id, {})
            known.update({name: max(value, known.get(name, 0)) for name, value in asked.items()})
    experiment = loaded.experiment
    metrics = [stage_id for variant in planned for stage_id in variant.metrics]
    figures = Stage(
        rule="plot",
        name=f"{loaded.name}-{loaded.scale}" if loaded.scale else loaded.name,
        spec={
            "experiment": loaded.name,
            "axes": [[axis, levels] for axis, levels in loaded.axes.items()],  # JSON sorts the keys of objects
            "figures": [figure.model_dump(mode="json") for figure in experiment.figures],
            "variants": [{"levels": dict(v.levels), "metrics": list(v.metrics)} for v in planned],
        },
        inputs={"metrics": list(dict.fromkeys(metrics))},
        versions=_versions("plot", experiment.figures),
        hints={"implementations": _implementations("plot", experiment.figures)},
    )
    plan.add(figures)
    plan.experiments.append(PlannedExperiment(loaded, tuple(planned), figures.id))


def seed_blocks(seeds: Sequence[int], per_job: int | None) -> list[tuple[int, ...]]:
    size = per_job or len(seeds)
    return [tuple(seeds[start : start + size]) for start in range(0, len(seeds), size)]


class _Chain:
    """The stages of one variant and one block of seeds, added to the plan from the bottom up."""

    def __init__(self, plan: Plan, loaded: LoadedExperiment, variant: Variant, seeds: tuple[int, ...]) -> None:
        self.plan, self.loaded, self.variant, self.seeds = plan, loaded, variant, seeds
        self.experiment: Experiment = variant.experiment
        self.dataset = self.experiment.dataset
        self.data = self._prepare(self._fetch())
        self.layers: list[str] = []
        for position, units in enumerate(self.experiment.layer_units):
            self.layers.append(self._pretrain(position, units))
        self.phases: list[str] = []
        for position, phase in enumerate(self.experiment.phases):
            self.phases.append(self._finetune(position, phase))
        self.evaluation = self._evaluate()
        below = self.plan.stages[self.data].inputs["raw"]
        self.ids = (below, self.data, *self.layers, *self.phases, self.evaluation)

    def _add(
        self, rule: str, name: str, components: Sequence[Any], origins: Mapping[FieldPath, FieldPath], **parts: Any
    ) -> str:
        hints = {**parts.pop("hints", {}), "implementations": _implementations(rule, components)}
        stage = Stage(rule=rule, name=name, versions=_versions(rule, components), hints=hints, **parts)
        if rule in ON_A_DEVICE:
            size = size_of(stage, self.plan.stages.__getitem__)
            hints |= {"threads": threads(size), "core_seconds": 1.0 + size.seconds}  # one to begin
        return self.plan.add(stage, Origin(self.variant, origins))

    def _fetch(self) -> str:
        files = {source.name: source.sha256 for source in self.dataset.load().sources(self.dataset)}
        spec = {"dataset": self.dataset.kind, "files": files}
        hints = {"dataset": self.dataset.model_dump(mode="json")}
        return self._add("fetch", self.dataset.kind, (), {("dataset",): ("dataset", "kind")}, spec=spec, hints=hints)

    def _prepare(self, raw: str) -> str:
        excluded = set(self.dataset.FINETUNE_FIELDS | self.dataset.LOCAL_FIELDS)
        spec = {"dataset": self.dataset.model_dump(mode="json", exclude=excluded)}
        hints = {"dataset": self.dataset.model_dump(mode="json")}
        return self._add(
            "prepare",
            self.dataset.slug,
            (self.dataset,),
            {("dataset",): ("dataset",)},
            spec=spec,
            inputs={"raw": raw},
            hints=hints,
        )

    def _pretrain(self, position: int, units: int) -> str:
        recipe = self.experiment.recipe(position)
        where: FieldPath = ("pretrain", position) if isinstance(self.experiment.pretrain, tuple) else ("pretrain",)
        height = "" if position == 0 else f"-layer{position + 1}"
        spec = {"layer": recipe.layer.model_dump(mode="json"), "units": units, "training": training_fields(recipe)}
        if recipe.layer.sees_labels:
            spec["labelled"] = self.dataset.labels_seen
        return self._add(
            "pretrain",
            f"{self.dataset.slug}-{recipe.layer.slug}{units}{height}",
            (recipe,),
            {
                ("layer",): (*where, "layer"),
                ("units",): ("model", *self.experiment.model.layer_field(position)),
                ("training",): where,
                ("labelled",): ("dataset", "labelled"),
            },
            spec=spec,
            inputs={"data": self.data, "below": list(self.layers)},
            seeds=self.seeds,
        )

    def _finetune(self, position: int, phase: Phase) -> str:
        where: FieldPath = ("finetune", position) if isinstance(self.experiment.finetune, tuple) else ("finetune",)
        spec = {
            "phase": {
                "task": phase.task.model_dump(mode="json"),
                "training": training_fields(phase),
                "train": phase.train,
                "select": phase.select.model_dump(mode="json") if phase.select else None,
            },
            "model": self.experiment.model.model_dump(mode="json"),
            "labelled": self.dataset.labels_seen if self.experiment.model.sees_labels(phase.task) else None,
        }
        inputs: dict[str, Any] = {"data": self.data, "layers": [] if position else list(self.layers)}
        start = self.phases[-1] if position else self._from()
        if start is not None:
            inputs["start"] = start
        return self._add(
            "finetune",
            f"{self._slug()}{f'-phase{position + 1}' if position else ''}",
            (phase, self.experiment.model),
            {
                ("phase", "training"): where,
                ("phase", "task"): (*where, "task"),
                ("phase", "train"): (*where, "train"),
                ("phase", "select"): (*where, "select"),
                ("model",): ("model",),
                ("labelled",): ("dataset", "labelled"),
            },
            spec=spec,
            inputs=inputs,
            seeds=self.seeds,
        )

    def _slug(self) -> str:
        pretrained = f"-{self.experiment.recipe(0).layer.slug}" if self.layers else ""
        return f"{self.dataset.slug}{pretrained}-{self.experiment.model.slug}"

    def _from(self) -> str | None:
        """The id of another experiment's last phase, for the same seeds, if this one starts from it."""
        if self.variant.source is None:
            return None
        return _Chain(self.plan, *self.variant.source, self.seeds).phases[-1]

    def _evaluate(self) -> str:
        last = self.experiment.phases[-1]
        spec: dict[str, Any] = {
            "task": last.task.model_dump(mode="json"),
            "model": self.experiment.model.model_dump(mode="json"),
            "labelled": self.dataset.labels_seen,
        }
        measures = self.experiment.measures
        if measures:  # only then, so that without them the digest is what it was before there were any
            spec["measures"] = [measure.model_dump(mode="json") for measure in measures]
        inputs = {"data": self.data, "model": self.phases[-1], "phases": self.phases, "layers": self.layers}
        return self._add(
            "evaluate",
            self._slug(),
            (last.task, self.experiment.model, *measures),
            {
                ("task",): ("finetune", "task"),
                ("model",): ("model",),
                ("labelled",): ("dataset", "labelled"),
                ("measures",): ("measures",),
            },
            spec=spec,
            inputs=inputs,
            seeds=self.seeds,
        )


def _components(value: Any) -> Iterator[Component]:
    """Every component inside specs, whatever the nesting."""
    if isinstance(value, Component):
        yield value
    if isinstance(value, BaseModel):
        for name in type(value).model_fields:
            yield from _components(getattr(value, name))
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _components(item)


def _versions(rule: str, specs: Sequence[Any]) -> dict[str, int]:
    return {f"stage.{rule}": STAGE_VERSIONS[rule], **{c.component: type(c).version for c in _components(specs)}}


def _implementations(rule: str, specs: Sequence[Any]) -> dict[str, str]:
    loop = {"runtime.loop": "dlpipe.runtime.loop"} if rule in ("pretrain", "finetune") else {}
    named = {c.component: c.implementation for c in _components(specs) if c.implementation}
    return {f"stage.{rule}": f"dlpipe.stages.{rule}", **loop, **named}
