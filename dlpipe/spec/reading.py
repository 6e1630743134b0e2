"""An experiment's file at one scale: its patch, the overrides, the product of its axes, every variant checked."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from pydantic import ValidationError

from dlpipe.spec import source
from dlpipe.spec.claim_check import ClaimCheck
from dlpipe.spec.claims import SCALES, Claim, Levels
from dlpipe.spec.experiment import Experiment
from dlpipe.spec.explain import explain
from dlpipe.spec.findings import COMMAND_LINE, Finding
from dlpipe.spec.patches import IntoNothing, PatchError, Setting, apply, settings
from dlpipe.spec.problems import Mark, SpecError, cropped, did_you_mean, levels_text, listed
from dlpipe.spec.source import Node
from dlpipe.spec.variants import LoadedExperiment, Variant

if TYPE_CHECKING:
    from dlpipe.spec.loading import ExperimentFile

MOST_VARIANTS = 10_000
MOST_COMBINATIONS = 1_000_000
"""Combinations of levels that are looked at, before `skip`."""
OF_A_VARIANT = ("dataset", "model", "from", "pretrain", "finetune", "measures", "resources")
"""What an axis may patch; the rest belongs to the experiment as a whole."""
OF_THE_WHOLE = frozenset({"axes", "skip", "scales", "claims", "figures"})
"""What the experiment of a variant leaves out."""


class Reading:
    """A file at a scale: its document, experiment and variants, and what is wrong with them."""

    def __init__(self, file: ExperimentFile, scale: str | None, overrides: Sequence[str] = ()) -> None:
        self.file, self.scale, self.overrides = file, scale, overrides
        self.document = file.document
        self.experiment: Experiment | None = None
        self.variants: list[Variant] = []
        self.cited: set[str] = set()
        self.findings: list[Finding] = []
        self.patches: set[int] = set()
        """Ids of the nodes that patches have set."""
        file.readings.append(self)

    def find(
        self, mark: Mark, message: str, hint: str | None = None, levels: Levels | None = None, *, patched: bool = False
    ) -> None:
        self.findings.append(Finding(mark, message, hint, self.scale, levels, patched))

    def check(self, *, claims: bool) -> None:
        self._scale()
        self._override()
        self.experiment = self._validated(self.document, Experiment)
        self._papers()
        axes = self._axes()
        if axes is None:
            return
        self._expand(axes, self._skip(axes))
        self._figures(axes)
        if claims:
            self._claims(axes)

    def _validated(self, document: Node, model: type[Experiment], levels: Levels | None = None) -> Experiment | None:
        try:
            return model.model_validate(document.data)
        except ValidationError as error:
            for path, mark, message, hint in explain(error, model, document):
                self.find(mark, message, hint, levels, patched=self._is_patched(document, path))
        return None

    def _is_patched(self, document: Node, path: Iterable[str | int]) -> bool:
        node: Node | None = document
        for part in path:
            node = node.get(part) if node is not None else None
            if node is not None and id(node) in self.patches:
                return True
        return False

    # The document of the scale

    def _scale(self) -> None:
        scales = self.file.document.get("scales")
        patch = scales.get(self.scale) if scales is not None and self.scale is not None else None
        for setting in settings(patch, self.file.lines) if patch is not None else ():
            self._set(setting, "a scale")

    def _override(self) -> None:
        report = self.file.report
        report.lines[COMMAND_LINE] = self.overrides
        for number, text in enumerate(self.overrides, start=1):
            path, equals, written = text.partition("=")
            mark = Mark(COMMAND_LINE, number, 1)
            if not equals:
                self.find(mark, "an override is written path=value", patched=True)
                continue
            try:
                value = source.parse(written, mark._replace(column=len(path) + 2), report)
            except SpecError:
                continue  # it is in the report
            self._set(Setting.of(path, value, mark, self.overrides), "an override")

    def _set(self, setting: Setting, who: str) -> None:
        if setting.parts[0] == "scales":
            self.find(setting.mark, f"{who} cannot change the scales", patched=True)
            return
        try:
            self.document = apply(setting, self.document)
            self.patches.add(id(setting.value))
        except PatchError as error:
            self.find(error.mark, error.message, error.hint, patched=True)

    # The variants

    def _axes(self) -> dict[str, dict[str, list[Setting]]] | None:
        """Axis, level, patch; None where the file has something else, which validation has found."""
        node = self.document.get("axes")
        if node is None:
            return {}
        if not all(isinstance(part.children, dict) for part in _mappings(node)):
            return None
        axes: dict[str, dict[str, list[Setting]]] = {}
        for axis, levels in node.items():
            axes[axis] = {level: list(settings(patch, self.file.lines)) for level, patch in levels.items()}
            if not axes[axis]:
                self.find(node.keys[axis], f"the axis '{cropped(axis)}' has no levels")
            for patch in axes[axis].values():
                self._check_patch(patch)
        return axes

    def _check_patch(self, patch: list[Setting]) -> None:
        for setting in patch:
            first = setting.parts[0]
            if first in Experiment.model_fields and first not in OF_A_VARIANT:
                message = f"an axis cannot patch {first}: it belongs to the experiment as a whole"
                self.find(setting.mark, message, f"an axis may patch {listed(OF_A_VARIANT)}", patched=True)
            for other in patch:
                if other is not setting and setting.inside(other):
                    self.find(
                        setting.mark,
                        f"{setting.path} lies inside {other.path}, which this patch replaces",
                        patched=True,
                    )

    def _skip(self, axes: Mapping[str, Mapping[str, object]]) -> list[dict[str, set[str]]]:
        node = self.document.get("skip")
        rules = []
        for item in node.elements() if node is not None else ():
            rule: dict[str, set[str]] = {}
            for axis, levels in item.items():
                written = levels.elements() if isinstance(levels.children, list) else [levels]
                named = [each for each in written if each.children is None and each.data is not None]
                if self.check_axis(axis, item.keys[axis], axes):
                    rule[axis] = {_level(each) for each in named if self.check_level(axis, each, axes)}
            if rule and all(rule.values()):
                rules.append(rule)
        return rules

    def _expand(self, axes: Mapping[str, Mapping[str, list[Setting]]], skip: list[dict[str, set[str]]]) -> None:
        place = self.document.keys.get("axes", self.document.mark)
        combinations = math.prod(map(len, axes.values()))
        if combinations > MOST_COMBINATIONS:
            self.find(
                place, f"the axes have {combinations:,} combinations; at most {MOST_VARIANTS:,} variants are possible"
            )
            return
        kept = [levels for levels in _product(axes) if not any(_matches(levels, rule) for rule in skip)]
        if len(kept) > MOST_VARIANTS:
            self.find(place, f"the axes give {len(kept):,} variants; at most {MOST_VARIANTS:,} are possible")
            return
        if not kept and combinations:
            self.find(self.document.keys["skip"], "skip leaves no variant")
        patches = [setting for levels in axes.values() for patch in levels.values() for setting in patch]
        self.patches.update(id(setting.value) for setting in patches)
        nulls = {id(setting.value) for setting in patches if setting.value.data is None}
        base = self.document.without(OF_THE_WHOLE)
        for levels in kept:
            document = self._patched(base, levels, axes, nulls)
            experiment = self._validated(document, Experiment, levels)
            if experiment is not None and not self._failed(levels):
                origin = self._origin(experiment, document, levels)
                self.variants.append(Variant(levels, experiment, origin, document=document))
        self._idle_axes(axes, base)

    def _patched(
        self, document: Node, levels: Levels, axes: Mapping[str, Mapping[str, list[Setting]]], nulls: set[int]
    ) -> Node:
        done: list[tuple[Setting, str]] = []
        for axis, level in levels.items():
            for setting in axes[axis][level]:
                if setting.parts[0] in Experiment.model_fields and setting.parts[0] not in OF_A_VARIANT:
                    continue
                for earlier, other in done:
                    if other != axis and earlier.inside(setting) and setting.value.data is not None:
                        message = f"this replaces what the axis '{cropped(other)}' has set at {earlier.path}"
                        hint = (
                            "move this axis before it" if earlier.parts != setting.parts else "only one axis can set it"
                        )
                        self.find(setting.mark, message, hint, patched=True)
                try:
                    document = apply(setting, document, nulls)
                    done.append((setting, axis))
                except IntoNothing:
                    continue
                except PatchError as error:
                    self.find(error.mark, error.message, error.hint, levels, patched=True)
        return document

    def _failed(self, levels: Levels) -> bool:
        """Whether a patch of the variant that has just been made could not be applied."""
        return bool(self.findings) and self.findings[-1].levels is levels

    def _origin(
        self, experiment: Experiment, document: Node, levels: Levels
    ) -> tuple[LoadedExperiment, Variant] | None:
        """The trained model that `from` names."""
        if experiment.start is None:
            return None
        node = document.get("from")
        assert node is not None
        named = node.get("experiment")
        assert named is not None
        try:
            other = self.file.other(experiment.start.experiment, self.scale)
        except SpecError as error:
            first = error.problems[0]
            message, hint = first.message, first.hint
            if first.line is not None:
                message = f"{cropped(experiment.start.experiment)} has problems of its own: {message}"
                hint = f"see {first.file}:{first.line}:{first.column}"
            self.find(named.mark, message, hint, levels, patched=self._is_patched(document, ("from",)))
            return None
        matches = [v for v in other.variants if experiment.start.where.items() <= v.levels.items()]
        if len(matches) == 1:
            return other, matches[0]
        axes = {axis: dict.fromkeys(v.levels[axis] for v in other.variants) for axis in _axes_of(other)}
        chosen = node.get("where")
        known = [self.check_pair(axis, level, chosen, axes) for axis, level in chosen.items()] if chosen else []
        if all(known):
            mark = chosen.mark if chosen is not None else node.mark
            which = f"are {len(matches)} variants" if matches else "is no variant"
            slice_ = f" with {levels_text(experiment.start.where)}" if experiment.start.where else ""
            left = [axis for axis in axes if axis not in experiment.start.where]
            hint = f"say which {listed(left)}" if matches and left else None
            self.find(mark, f"there {which} of {other.name}{slice_}; it must be exactly one", hint, levels)
        return None

    def _idle_axes(self, axes: Mapping[str, Mapping[str, list[Setting]]], base: Node) -> None:
        """Axes that change nothing, and levels that mean the same."""
        keys = {tuple(variant.levels.values()): variant.experiment.model_dump_json() for variant in self.variants}
        node = self.document.get("axes")
        for position, (axis, levels) in enumerate(axes.items()):
            assert node is not None
            means: dict[str, dict[tuple[str, ...], str]] = {level: {} for level in levels}
            for combination, key in keys.items():
                rest = combination[:position] + combination[position + 1 :]
                means[combination[position]][rest] = key
            if self._changes_nothing(base, levels):
                self.find(node.keys[axis], f"no level of the axis '{cropped(axis)}' changes anything")
                continue
            marks = node.children[axis].keys  # type: ignore[call-overload,index,union-attr]
            for one, two in _equal_pairs(means):
                message = (
                    f"the levels '{cropped(one)}' and '{cropped(two)}' of the axis '{cropped(axis)}' mean the same"
                )
                self.find(marks[two], message)

    def _changes_nothing(self, base: Node, levels: Mapping[str, list[Setting]]) -> bool:
        try:
            before = Experiment.model_validate(base.data)
            for patch in levels.values():
                document = base
                for setting in patch:
                    document = apply(setting, document)
                if document is not base and Experiment.model_validate(document.data) != before:
                    return False
        except (PatchError, ValidationError):
            return False
        return bool(levels)

    # What refers to axes and papers

    def check_axis(self, axis: str, mark: Mark, axes: Mapping[str, object]) -> bool:
        if axis in axes:
            return True
        hint = did_you_mean(axis, axes, "the axes are {}") or "the experiment has no axes"
        self.find(mark, f"no axis is called '{cropped(axis)}'", hint)
        return False

    def check_level(self, axis: str, node: Node, axes: Mapping[str, Mapping[str, object]]) -> bool:
        level = _level(node)
        if level in axes[axis]:
            return True
        hint = did_you_mean(level, axes[axis], "its levels are {}")
        self.find(node.mark, f"the axis '{cropped(axis)}' has no level '{cropped(level)}'", hint)
        return False

    def check_pair(self, axis: str, node: Node, levels: Node | None, axes: Mapping[str, Mapping[str, object]]) -> bool:
        assert levels is not None
        return self.check_axis(axis, levels.keys[axis], axes) and self.check_level(axis, node, axes)

    def _figures(self, axes: Mapping[str, Mapping[str, object]]) -> None:
        node = self.document.get("figures")
        for figure in node.elements() if node is not None else ():
            for name in ("x", "lines"):
                axis = figure.get(name)
                if axis is not None and isinstance(axis.data, str):
                    self.check_axis(axis.data, axis.mark, axes)
            shown = figure.get("where")
            for axis_name, level in shown.items() if shown is not None else ():
                self.check_pair(axis_name, level, shown, axes)

    def _papers(self) -> None:
        cited = [self.document.get("paper")]
        claims = self.document.get("claims")
        cited += [claim.get("paper") for claim in claims.elements()] if claims is not None else []
        for node in cited:
            for key in (node.elements() or [node]) if node is not None else ():
                if not isinstance(key.data, str):
                    continue
                self.cited.add(key.data)
                papers = self.file.papers()
                if key.data not in papers:
                    hint = did_you_mean(key.data, papers, "")
                    self.find(key.mark, f"the paper '{cropped(key.data)}' is not in {self.file.bibliography}", hint)

    def _claims(self, axes: Mapping[str, Mapping[str, object]]) -> None:
        node = self.document.get("claims")
        for item in node.elements() if node is not None else ():
            try:
                claim = Claim.model_validate(item.data)
            except ValidationError:
                continue  # found with the experiment
            if claim.scales == SCALES if self.scale is None else self.scale in claim.scales:
                ClaimCheck(self, item, claim, axes).check()


def _mappings(axes: Node) -> Iterator[Node]:
    """All that must be a mapping in `axes`: itself, every axis and every level."""
    yield axes
    for _, axis in axes.items():
        yield axis
        yield from (level for _, level in axis.items())


def _product(axes: Mapping[str, Iterable[str]]) -> Iterator[Levels]:
    for combination in itertools.product(*axes.values()):
        yield dict(zip(axes, combination, strict=True))


def _matches(levels: Levels, rule: Mapping[str, set[str]]) -> bool:
    return all(levels[axis] in named for axis, named in rule.items())


def _level(node: Node) -> str:
    """A level's name; numbers stand for their text, as in `claims.Level`."""
    return str(node.data).lower() if isinstance(node.data, bool) else str(node.data)


def _equal_pairs(means: Mapping[str, Mapping[tuple[str, ...], str]]) -> Iterator[tuple[str, str]]:
    """Levels that mean the same in every variant that has them."""
    seen: dict[frozenset[tuple[tuple[str, ...], str]], str] = {}
    for level, meaning in means.items():
        if meaning:
            first = seen.setdefault(frozenset(meaning.items()), level)
            if first != level:
                yield first, level


def _axes_of(loaded: LoadedExperiment) -> list[str]:
    return list(loaded.variants[0].levels) if loaded.variants else []
