"""A choice inside a stage, part of the record: which of several trainings of a seed is kept."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field, model_validator

from dlpipe.spec.base import Example, Many, PositiveInt, Spec, misuse

MOST_TRIES = 1000
"""Trainings of one seed."""

Value = bool | int | float | str
Settings = dict[str, Value]
"""Dotted path of a field of the training to its value: `{optimizer.learning_rate: 0.1}`."""
Grid = Annotated[dict[str, Annotated[tuple[Value, ...], Many]], Example("{optimizer.learning_rate: [0.01, 0.1]}")]


class Select(Spec):
    """Of several restarts of each seed, or of a grid of settings, the one that is best by a metric."""

    best_of: PositiveInt | None = Field(
        None,
        description="number of restarts, each with random numbers of its own",
        exclude_if=lambda value: value is None,
    )
    grid: Grid | None = Field(
        None,
        description="fields of the training, by dotted path, with the values to try: all combinations, each from the "
        "same initial parameters and with the same batches",
        exclude_if=lambda value: value is None,  # so that a choice of restarts is digested as before there were grids
    )
    by: str = Field("train_loss", description="metric of the last row of history.csv; lower is better")

    @model_validator(mode="after")
    def _exactly_one(self) -> Select:
        if (self.best_of is None) == (self.grid is None):
            raise misuse("give either best_of or grid")
        for path, values in (self.grid or {}).items():
            if not values:
                raise misuse(f"there is no value for {path}", "grid", path)
            if len(set(values)) < len(values):
                raise misuse(f"a value for {path} is there twice", "grid", path)
        if self.tries > MOST_TRIES:
            raise misuse(f"{self.tries:,} trainings of each seed are more than {MOST_TRIES:,}", "grid")
        return self

    @property
    def tries(self) -> int:
        """Trainings of each seed."""
        return self.best_of or math.prod(map(len, (self.grid or {}).values()))

    @property
    def settings(self) -> list[Settings]:
        """All combinations of the grid, the last path's values in turn; none where there is no grid."""
        if self.grid is None:
            return []
        return [dict(zip(self.grid, values, strict=True)) for values in itertools.product(*self.grid.values())]


def with_settings(training: Mapping[str, Any], settings: Settings) -> dict[str, Any]:
    """The declared training with other values at some paths. Raises KeyError with a path that leads nowhere."""
    changed = copy.deepcopy(dict(training))
    for path, value in settings.items():
        *above, last = path.split(".")
        inside: Any = changed
        for name in above:
            inside = inside.get(name) if isinstance(inside, dict) else None
        if not isinstance(inside, dict):
            raise KeyError(path)
        inside[last] = value
    return changed
