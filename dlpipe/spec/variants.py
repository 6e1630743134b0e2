"""An experiment as it was read: its settings at a scale, and every variant that its axes make of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dlpipe.spec.bibliography import BibEntry
from dlpipe.spec.claims import Levels
from dlpipe.spec.experiment import Experiment
from dlpipe.spec.problems import Mark
from dlpipe.spec.source import Node

ALIASES = {"start": "from", "against": "with", "end": "to"}
"""The field of a part of a path that a file writes differently: `from` and `with` are keywords of Python."""


@dataclass(frozen=True)
class Variant:
    """One combination of levels. Its `experiment` lacks axes, skip, scales, claims and figures: they compare."""

    levels: Levels
    experiment: Experiment
    source: tuple[LoadedExperiment, Variant] | None = None
    """Whose trained model this one starts from (`from`)."""
    document: Node = field(repr=False, compare=False, kw_only=True)

    def where(self, path: Sequence[str | int]) -> Mark | None:
        """The place in the YAML that the value at `path` came from (a patch, perhaps); None for a default."""
        return where(self.document, path)


@dataclass(frozen=True)
class LoadedExperiment:
    name: str
    path: Path
    scale: str | None
    experiment: Experiment
    """The file with the scale's patch and the overrides applied."""
    variants: tuple[Variant, ...]
    seeds: list[int]
    papers: dict[str, BibEntry]
    """Those that the experiment and its claims cite."""
    document: Node = field(repr=False, compare=False, kw_only=True)

    @property
    def axes(self) -> dict[str, list[str]]:
        """Every axis with the levels that have a variant, both in the order of the file."""
        kept = {(axis, level) for variant in self.variants for axis, level in variant.levels.items()}
        return {
            axis: [level for level in levels if (axis, level) in kept] for axis, levels in self.experiment.axes.items()
        }

    def where(self, path: Sequence[str | int]) -> Mark | None:
        """The place of the value at `path`; None for a default."""
        return where(self.document, path)


def where(document: Node, path: Sequence[str | int]) -> Mark | None:
    """The place of the value at `path`. A position is passed over where the file has one recipe instead of a list."""
    node: Node | None = document
    for part in path:
        if isinstance(part, int) and node is not None and isinstance(node.children, dict):
            continue
        below = node.get(part) if node is not None else None
        if below is None and node is not None and part in ALIASES:
            below = node.get(ALIASES[part])  # type: ignore[index]
        node = below
    return None if node is None else node.mark
