"""Reading the tables of an evaluated variant."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from dlpipe.artifacts import Artifact, ArtifactError


def read_metrics(artifact: Artifact) -> list[tuple[int, str, float]]:
    """Rows (seed, metric, value) of metrics.csv and of times.csv, apart because no two runs take the same time.

    A value may be NaN. Raises ArtifactError, naming file and line.
    """
    rows = []
    for path in (artifact.path("metrics.csv"), artifact.path("times.csv")):
        for line, (seed, metric, value) in _rows(path, ("seed", "metric", "value")):
            try:
                rows.append((int(seed), metric, float(value)))
            except ValueError as error:
                raise ArtifactError(f"{path}:{line}: {error}") from None
    return rows


History = dict[tuple[str, str], dict[int, list[tuple[float, float]]]]


def read_history(path: Path, against: Literal["epoch", "step"] = "epoch") -> History:
    """(phase, metric) to seed to its (epoch or step, value) pairs. Raises ArtifactError, naming file and line."""
    history: History = {}
    for line, (phase, seed, step, epoch, metric, value) in _rows(
        path, ("phase", "seed", "step", "epoch", "metric", "value")
    ):
        try:
            point = (float(epoch if against == "epoch" else step), float(value))
            history.setdefault((phase, metric), {}).setdefault(int(seed), []).append(point)
        except ValueError as error:
            raise ArtifactError(f"{path}:{line}: {error}") from None
    return history


def _rows(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, list[str]]]:
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.reader(file)
        header = next(reader, [])
        if header != list(columns):
            raise ArtifactError(f"{path}: its columns are {','.join(header)}; they should be {','.join(columns)}")
        for row in reader:
            if len(row) != len(columns):
                raise ArtifactError(f"{path}:{reader.line_num}: {len(row)} columns instead of {len(columns)}")
            yield reader.line_num, row
