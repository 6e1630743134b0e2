"""Why a stage would run: what differs from the most similar artifact there is, and what the work cost last time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

from dlpipe.artifacts import Stage, Store
from dlpipe.plan import FieldPath, Plan

ABSENT = "(absent)"
LONGEST_VALUE = 80
"""Characters of a value that are shown, such as one of many ids."""


@dataclass(frozen=True)
class Change:
    """A field of a stage, before and after; `place` is file:line:column of the value, if the YAML has it."""

    field: str
    old: Any
    new: Any
    place: str | None

    def __str__(self) -> str:
        where = f"  ({self.place})" if self.place else ""
        return f"{self.field}: {_text(self.old)} -> {_text(self.new)}{where}"


@dataclass(frozen=True)
class Reason:
    stage: Stage
    compared_with: str | None
    """Id of the most similar artifact; None when the rule has made nothing like it yet."""
    changes: tuple[Change, ...]
    inputs: tuple[str, ...]
    """Ids of the inputs that are to be made first."""
    seconds: float | None
    """What such a stage took, by past artifacts."""


def _text(value: Any) -> str:
    text = value if value == ABSENT else repr(value)
    return text if len(text) <= LONGEST_VALUE else f"{text[:LONGEST_VALUE]} ..."


class Timings:
    """What stages took that stand: for each second that their size lets one expect, where they have such a size."""

    def __init__(self) -> None:
        self._alike: dict[tuple[str, bool, str, int], list[float]] = {}
        self._of_rule: dict[tuple[str, bool], list[float]] = {}

    def add(self, stage: Stage, manifest: Mapping[str, Any]) -> None:
        for rates in self._lists(stage):
            rates.append(manifest["times"]["seconds"] / _expected(stage))

    def seconds(self, stage: Stage) -> float | None:
        """By the median of the stages of this name and number of seeds, else of this rule; None without any."""
        return next((median(rates) * _expected(stage) for rates in self._lists(stage) if rates), None)

    def _lists(self, stage: Stage) -> tuple[list[float], list[float]]:
        of_rule = (stage.rule, "core_seconds" in stage.hints)
        alike = (*of_rule, stage.name, len(stage.seeds))
        return self._alike.setdefault(alike, []), self._of_rule.setdefault(of_rule, [])


def _expected(stage: Stage) -> float:
    """Seconds by the stage's size; 1 for one without, whose rate is then its time."""
    return float(stage.hints.get("core_seconds", 1.0))


class History:
    """The artifacts that stand, read once, by rule."""

    def __init__(self, store: Store) -> None:
        self.of_rule: dict[str, list[Stage]] = {}
        self.timings = Timings()
        for rule, _, manifest in store.manifests():
            stage = Stage.from_json(manifest["stage"])
            self.of_rule.setdefault(rule, []).append(stage)
            self.timings.add(stage, manifest)

    def nearest(self, stage: Stage, excluded: Mapping[str, Any]) -> Stage | None:
        """The artifact of the same rule that differs in the fewest fields, leaving out those of the present plan, and
        those of another kind of data, from which nothing has changed."""
        candidates = [s for s in self.of_rule.get(stage.rule, []) if s.id not in excluded and _data(s) == _data(stage)]
        same_name = [s for s in candidates if s.name == stage.name] or candidates
        return min(same_name, key=lambda other: (len(list(_differences(other, stage))), other.id), default=None)


def _data(stage: Stage) -> Any:
    """The kind of data that a stage gets or prepares; None for what works on prepared ones."""
    dataset = stage.spec.get("dataset")
    return dataset["kind"] if isinstance(dataset, Mapping) else dataset


def explain(plan: Plan, stage: Stage, store: Store, history: History) -> Reason:
    """Why `stage`, which is not done, would run."""
    nearest = history.nearest(stage, plan.stages)
    changes = () if nearest is None else tuple(_changes(plan, nearest, stage))
    inputs = tuple(i for i in stage.input_ids() if not store.is_done(plan.stages[i].rule, i))
    return Reason(stage, nearest.id if nearest else None, changes, inputs, history.timings.seconds(stage))


def _changes(plan: Plan, old: Stage, new: Stage) -> Iterator[Change]:
    origin = plan.origins.get(new.id)
    for path, before, after in _differences(old, new):
        place = None
        name = ".".join(map(str, path))
        if path[0] == "spec" and origin is not None:
            experiment_path = origin.experiment_path(path[1:])
            if experiment_path is not None:
                name = ".".join(map(str, experiment_path))
                mark = origin.variant.where(experiment_path)
                place = str(mark) if mark else None
        yield Change(name.removeprefix("spec."), before, after, place)


def _differences(old: Stage, new: Stage) -> Iterator[tuple[FieldPath, Any, Any]]:
    """The leaves that differ. Inputs count by role, since their own differences are told where they arise."""
    yield from _leaves_that_differ(
        {"spec": old.spec, "seeds": list(old.seeds), "versions": old.versions, "inputs": old.inputs},
        {"spec": new.spec, "seeds": list(new.seeds), "versions": new.versions, "inputs": new.inputs},
        (),
    )


def _leaves_that_differ(old: Any, new: Any, path: FieldPath) -> Iterator[tuple[FieldPath, Any, Any]]:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in dict.fromkeys([*old, *new]):
            yield from _leaves_that_differ(old.get(key, ABSENT), new.get(key, ABSENT), (*path, key))
    elif old != new:
        yield path, old, new
