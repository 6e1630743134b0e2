"""What every command has in common, and none needs more than click for."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import click


def examples(*lines: str) -> str:
    """Two examples at the foot of a command's help, each of which works when pasted."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)


def columns(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """A line a row, its cells below one another."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def store_options(command: Callable[..., Any]) -> Callable[..., Any]:
    folder = click.Path(path_type=Path, file_okay=False)
    command = click.option(
        "--results", type=folder, default="results", show_default=True, help="Folder of what is computed."
    )(command)
    return click.option(
        "--data", type=folder, default="data", show_default=True, help="Folder of raw and prepared data."
    )(command)


class FiniteRange(click.FloatRange):
    """A range of numbers; click's own lets NaN through, and infinity where there is no upper end."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number: float = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{number} is not a finite number.", param, ctx)
        return number
