"""Progress on stderr: a bar on a terminal, a line now and then in a log file. stdout is left to data."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

Update = Callable[..., None]
LINE_EVERY = 5.0
"""Seconds between two lines where there is no terminal."""


def say(message: str) -> None:
    """One line for the reader, on stderr."""
    print(message, file=sys.stderr, flush=True)


@contextlib.contextmanager
def track(what: str, total: int | None, unit: str = "steps") -> Iterator[Update]:
    """Yields `update(done, **figures)`; figures (loss=0.3) are shown beside the count."""
    if sys.stderr.isatty():
        with _bar(what, total) as update:
            yield update
    else:
        yield _lines(what, total, unit)


@contextlib.contextmanager
def _bar(what: str, total: int | None) -> Iterator[Update]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[figures]}"),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(what, total=total, figures="")

        def update(done: int, **figures: float) -> None:
            progress.update(task, completed=done, figures=_figures(figures))

        yield update


def _lines(what: str, total: int | None, unit: str) -> Update:
    started = last = time.monotonic()

    def update(done: int, **figures: float) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last < LINE_EVERY:
            return
        last = now
        rate = done / (now - started)
        count = f"{done:,}" if total is None else f"{done:,} of {total:,}"
        left = "" if total is None or not rate else f", {_duration((total - done) / rate)} left"
        say(f"{what}: {count} {unit}, {rate:,.0f} a second{left} {_figures(figures)}".rstrip())

    return update


def _figures(figures: dict[str, float]) -> str:
    return " ".join(f"{name} {value:.4g}" for name, value in figures.items())


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
