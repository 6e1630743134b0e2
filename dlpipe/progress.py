"""Progress on stderr: a bar on a terminal, a line every few seconds in a log file. stdout is left to data.

Whoever else wants to know (`dlpipe status`, through a file) is told the same count.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

LINE_EVERY = 5.0
"""Seconds between two lines where there is no terminal."""


def say(message: str) -> None:
    """One line for the reader, on stderr."""
    print(message, file=sys.stderr, flush=True)


class Pace:
    """Tells when so many seconds have passed since the last time."""

    def __init__(self, seconds: float, last: float | None = None) -> None:
        self.seconds = seconds
        self._last = time.monotonic() if last is None else last

    def due(self) -> bool:
        return time.monotonic() - self._last >= self.seconds

    def done(self) -> None:
        self._last = time.monotonic()


LINES = Pace(LINE_EVERY)
"""Of the process, as stderr is: what follows one another quickly shares the lines."""


@dataclass(frozen=True)
class Count:
    """How far something is."""

    done: int
    total: int | None
    unit: str
    """What is counted: steps, bytes."""
    epochs: tuple[float, float] | None
    """Of how many; None for what knows none."""
    figures: Mapping[str, float]
    """The last ones, such as the loss."""
    seconds: float
    """Since this process began to count."""
    rate: float | None
    """Units a second, of what this process did; None as long as that is nothing."""

    @property
    def left(self) -> float | None:
        """Seconds, at this rate."""
        return None if self.total is None or self.rate is None else (self.total - self.done) / self.rate


Told = Callable[[Count], object]


class Tracker:
    """Call it with the count and the figures (loss=0.3), first with where it starts: the rate is of what follows."""

    def __init__(self, total: int | None, unit: str, per_epoch: int | None, show: Told, leave: Told) -> None:
        self.total, self.unit, self.per_epoch = total, unit, per_epoch
        self.show, self.leave = show, leave
        self._first: tuple[float, int] | None = None

    def due(self) -> bool:
        """Whether a call would be shown in a log: for who counts often, and has to work for the figures."""
        return LINES.due()

    def __call__(self, done: int, **figures: float) -> None:
        now = time.monotonic()
        started, first = self._first = self._first or (now, done)
        rate = (done - first) / (now - started) if done > first and now > started else None
        epochs = None
        if self.per_epoch is not None and self.total is not None:
            epochs = (done / self.per_epoch, self.total / self.per_epoch)
        count = Count(done, self.total, self.unit, epochs, figures, now - started, rate)
        self.show(count)
        self.leave(count)


@contextlib.contextmanager
def track(
    what: str,
    total: int | None,
    unit: str = "steps",
    *,
    per_epoch: int | None = None,
    leave: Told = lambda count: None,
) -> Iterator[Tracker]:
    """Yields what is to be called with each new count. `per_epoch`: units; `leave` is told every count as well."""
    if sys.stderr.isatty():
        with _bar(what, total) as show:
            yield Tracker(total, unit, per_epoch, show, leave)
    else:
        yield Tracker(total, unit, per_epoch, _lines(what), leave)


@contextlib.contextmanager
def _bar(what: str, total: int | None) -> Iterator[Told]:
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

        def show(count: Count) -> None:
            progress.update(task, completed=count.done, figures=_in_words(count.figures))
            if LINES.due():
                LINES.done()

        yield show


def _lines(what: str) -> Told:
    def show(count: Count) -> None:
        if LINES.due() and count.rate is not None:
            LINES.done()
            say(f"{what}: {_line(count)}")

    return show


def _line(count: Count) -> str:
    parts = [
        f"{count.done:,} {count.unit}" if count.total is None else f"{count.done:,} of {count.total:,} {count.unit}"
    ]
    if count.epochs is not None:
        parts.append("epoch {:g} of {:g}".format(*(round(epoch, 1) for epoch in count.epochs)))
    if count.rate is not None:
        parts.append(f"{count.rate:,.0f} a second" if count.rate >= 10 else f"{count.rate:.2g} a second")
    if count.left is not None:
        parts.append(f"{duration(count.left)} left")
    if count.figures:
        parts.append(_in_words(count.figures))
    return ", ".join(parts)


def _in_words(figures: Mapping[str, float]) -> str:
    return " ".join(f"{name} {value:.4g}" for name, value in figures.items())


def duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
