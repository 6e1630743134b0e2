"""What a process that makes a stage lets others see: a small file, `results/.running/<stage id>.json`.

It is replaced every few seconds and removed when the stage ends. A process that is killed leaves it, and its lock.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dlpipe.artifacts import Stage, Store
from dlpipe.files import write_atomically
from dlpipe.locks import Lock
from dlpipe.progress import Count, Pace, Told

WRITE_EVERY = 5.0
"""Seconds between two writings."""

Finite = Annotated[float, Field(allow_inf_nan=False)]


class Progress(BaseModel):
    """How far a stage is. One that trains does one unit of work after another: its seeds, and a seed's restarts."""

    model_config = ConfigDict(frozen=True)

    rule: str
    owner: dict[str, Any]
    """Of the stage's lock: the file of a process that was killed says nothing of the one that goes on."""
    part: str
    """The unit it is at, in words: seed 3, or the name of a file."""
    position: int
    """Of this unit, from 1, among `units`."""
    units: int
    done: int
    total: int | None
    counted: str
    """What `done` and `total` count: steps, bytes."""
    epoch: Finite | None
    epochs: Finite | None
    figures: dict[str, Finite]
    seconds: Finite
    """That this process has spent on the unit."""
    rate: Finite | None
    """Counted things a second."""
    left: Finite | None
    """Seconds to the end of the stage, if the units to come take as long; with early stopping it may be sooner."""
    written: Finite
    """Unix time."""


class Record:
    """The file, from when the lock is held to the end of the stage. To write it shows that the lock's owner lives."""

    def __init__(self, store: Store, stage: Stage, lock: Lock, units: int) -> None:
        self.store, self.stage, self.lock, self.units = store, stage, lock, units
        self.path = record_path(store, stage.id)
        self._pace = Pace(WRITE_EVERY, last=-WRITE_EVERY)

    def __enter__(self) -> Record:
        for left in (self.path, *self.path.parent.glob(f".{self.path.name}.*")):
            left.unlink(missing_ok=True)  # of a process that was killed, as we hold the lock
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if read_progress(self.store, self.stage.id, self.lock.owner) is not None:  # not that of who took the lock over
            with contextlib.suppress(OSError):
                self.path.unlink()

    def unit(self, part: str, position: int, after: int | None = None) -> Told:
        """What is to be told a unit's count. `after`: how much there is to count in those that follow, if it is known;
        else as much in each."""
        return lambda count: self._leave(part, position, after, count)

    def _leave(self, part: str, position: int, after: int | None, count: Count) -> None:
        """Raises LockedError when the lock is no longer ours. A disk that is full is no reason to stop."""
        if not self._pace.due():
            return
        self._pace.done()
        self.lock.beat()
        left = count.left
        if count.left is not None and count.total is not None and count.rate is not None:
            left = count.left + ((self.units - position) * count.total if after is None else after) / count.rate
        epoch, epochs = count.epochs or (None, None)
        progress = Progress(
            rule=self.stage.rule,
            owner=self.lock.owner,
            part=part,
            position=position,
            units=self.units,
            done=count.done,
            total=count.total,
            counted=count.unit,
            epoch=epoch,
            epochs=epochs,
            figures=dict(count.figures),
            seconds=count.seconds,
            rate=count.rate,
            left=left,
            written=time.time(),
        )
        with contextlib.suppress(OSError):
            write_atomically(self.path, progress.model_dump_json(indent=1))


def record_path(store: Store, stage_id: str) -> Path:
    return store.results / ".running" / f"{stage_id}.json"


def read_progress(store: Store, stage_id: str, owner: Mapping[str, Any]) -> Progress | None:
    """What `owner` has left, or None: it may have been killed before it left anything."""
    try:
        progress = Progress.model_validate_json(record_path(store, stage_id).read_bytes())
    except (OSError, ValidationError):
        return None
    return progress if progress.owner == owner else None
