"""What figures are drawn from: the metrics artifacts of an experiment's variants, read when asked for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal

from dlpipe.artifacts import Artifact
from dlpipe.report.tables import History, read_history, read_metrics

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure

    Array = np.ndarray


class NothingToDraw(Exception):
    """The runs do not have what the figure shows; the message says what is missing and what there is."""


@dataclass(frozen=True)
class Picture:
    figure: Figure
    title: str
    caption: str


class VariantData:
    """One variant: its levels and its artifacts, one a block of seeds."""

    def __init__(self, levels: Mapping[str, str], artifacts: Sequence[Artifact]) -> None:
        self.levels = dict(levels)
        self.artifacts = artifacts

    @cached_property
    def metrics(self) -> dict[str, dict[int, float]]:
        """Metric to seed to value."""
        values: dict[str, dict[int, float]] = {}
        for artifact in self.artifacts:
            for seed, metric, value in read_metrics(artifact):
                values.setdefault(metric, {})[seed] = value
        return values

    @cached_property
    def history(self) -> History:
        """(phase, metric) to seed to its (epoch, value) pairs."""
        return self._history("epoch")

    @cached_property
    def history_by_step(self) -> History:
        """(phase, metric) to seed to its (step, value) pairs."""
        return self._history("step")

    def _history(self, against: Literal["epoch", "step"]) -> History:
        joined: History = {}
        for artifact in self.artifacts:
            for key, seeds in read_history(artifact.path("history.csv"), against).items():
                joined.setdefault(key, {}).update(seeds)
        return joined

    def seconds_a_step(self, phase: str) -> float | None:
        """The mean over the seeds; None where the artifacts do not say."""
        told = [artifact.extra.get("seconds_a_step", {}).get(phase, {}).values() for artifact in self.artifacts]
        seconds = [value for values in told for value in values]
        return sum(seconds) / len(seconds) if seconds else None

    @cached_property
    def output_names(self) -> list[str]:
        """Keys of the first block's outputs.safetensors."""
        if not self.artifacts or "outputs.safetensors" not in self.artifacts[0].manifest["files"]:
            return []
        with self.artifacts[0].tensors("outputs.safetensors", "numpy") as file:
            return sorted(file.keys())

    def outputs(self, name: str) -> list[Array]:
        """The tensor `name` of every block of seeds that has it."""
        found = []
        for artifact in self.artifacts if name in self.output_names else ():
            with artifact.tensors("outputs.safetensors", "numpy") as file:
                if name in file.keys():  # noqa: SIM118 - a safetensors file, not a dict
                    found.append(file.get_tensor(name))
        return found

    def first(self, name: str) -> Array:
        """The tensor `name` of the first block of seeds, which holds the first seed; it must be there."""
        return self.outputs(name)[0]

    @property
    def classes(self) -> list[str]:
        return list(self.artifacts[0].extra.get("classes", [])) if self.artifacts else []


class FigureData:
    """The variants of an experiment. `axes` are axis to levels, in the order of declaration."""

    def __init__(self, axes: Mapping[str, Sequence[str]], variants: Iterable[VariantData]) -> None:
        self.axes = {axis: list(levels) for axis, levels in axes.items()}
        self.variants = list(variants)

    def slice(self, where: Mapping[str, str]) -> FigureData:
        """The variants at these levels; an axis that is fixed so has one level left."""
        axes = {axis: [where[axis]] if axis in where else levels for axis, levels in self.axes.items()}
        kept = [
            variant
            for variant in self.variants
            if all(variant.levels.get(axis) == level for axis, level in where.items())
        ]
        return FigureData(axes, kept)

    @property
    def open_axes(self) -> list[str]:
        """The axes with more than one level."""
        return [axis for axis, levels in self.axes.items() if len(levels) > 1]

    def label(self, variant: VariantData, *, without: Iterable[str] = ()) -> str:
        """What tells the variant apart: `rbm, depth 3`; a level that is a number is given with its axis."""
        left_out = set(without)
        return ", ".join(
            level_text(axis, variant.levels[axis])
            for axis in self.open_axes
            if axis not in left_out and axis in variant.levels
        )

    def metric_names(self) -> list[str]:
        return sorted({metric for variant in self.variants for metric in variant.metrics})

    def history_names(self) -> list[tuple[str, str]]:
        return sorted({key for variant in self.variants for key in variant.history})


def level_text(axis: str, level: str) -> str:
    """`depth 3` for a level that is a number, else the level alone."""
    return f"{axis.replace('_', ' ')} {level}" if is_number(level) else level


def is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


MOST_LINES = 6


def line_axis(data: FigureData, taken: Iterable[str] = ()) -> str | None:
    """The axis to tell apart by colour: one with few levels, with names rather than numbers, the first declared."""
    candidates = [axis for axis in data.open_axes if axis not in set(taken)]
    return min(
        candidates,
        key=lambda axis: (len(data.axes[axis]) > MOST_LINES, all(map(is_number, data.axes[axis]))),
        default=None,
    )


def showcase(data: FigureData, most: int = 4) -> list[VariantData]:
    """Few variants that stand for all: the last declared one (the deepest, say) at each level of the line axis."""
    axis = line_axis(data)
    if axis is None:
        return data.variants[:1]
    last = {variant.levels.get(axis): variant for variant in data.variants}
    return [last[level] for level in data.axes[axis] if level in last][:most]
