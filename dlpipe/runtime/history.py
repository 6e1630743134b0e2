"""The tidy table of training, history.csv: a row a value, a set of rows a validation."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

COLUMNS = ("phase", "seed", "step", "epoch", "metric", "value")
LOWER_IS_BETTER_UNLESS = ("accuracy", "likelihood", "bound")


class Row(NamedTuple):
    phase: str
    seed: int
    step: int
    epoch: float
    metric: str
    value: float


def rows(phase: str, seed: int, validations: Iterable[tuple[int, float, Mapping[str, float]]]) -> list[Row]:
    """One row a metric of each validation (step, epoch, metrics)."""
    return [
        Row(phase, seed, step, epoch, metric, value)
        for step, epoch, metrics in validations
        for metric, value in metrics.items()
    ]


def to_csv(columns: Iterable[str], table: Iterable[Iterable[object]]) -> str:
    """Floats with nine digits: enough to tell any two float32 apart."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([format(cell, ".9g") if isinstance(cell, float) else cell for cell in row] for row in table)
    return text.getvalue()


def write(path: Path, table: Iterable[Row]) -> None:
    path.write_text(to_csv(COLUMNS, table), encoding="utf-8")


def read(path: Path) -> list[Row]:
    with path.open(encoding="utf-8", newline="") as file:
        return [
            Row(
                row["phase"],
                int(row["seed"]),
                int(row["step"]),
                float(row["epoch"]),
                row["metric"],
                float(row["value"]),
            )
            for row in csv.DictReader(file)
        ]


def lower_is_better(metric: str) -> bool:
    return not metric.endswith(LOWER_IS_BETTER_UNLESS)
