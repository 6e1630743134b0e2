"""What has become of a plan's stages, told from files alone, so that it can be asked on any machine that sees them.

The artifact, the lock and the log say it. A job's log is there before its lock: it is opened when the job starts, and
importing torch takes a while, waiting for a GPU longer. So a log that has not come to an end, and was written to not
long ago, is of a job that is starting.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from dlpipe.artifacts import RULES, Stage, Store
from dlpipe.changes import Timings
from dlpipe.locks import Holder, Lock
from dlpipe.running import Progress, read_progress, record_path

STARTING_FOR = 120.0
"""Seconds a job may be silent before it holds its lock; one that waits for a GPU says so every minute."""
TAIL_BYTES = 8192
TARGETS = ("evaluate", "plot")
"""Rules whose artifacts the report reads: what is missing below one that stands is not needed."""
FAILURE = re.compile(r"(?m)^(dlpipe: |Error: |Traceback \(most recent call last\))")
INTERRUPTION = re.compile(r"(?m)^(dlpipe: .* stopped by (SIG[A-Z0-9]+|deadline) at step |interrupted\b)")


class State(StrEnum):
    DONE = "done"
    RUNNING = "running"
    STARTING = "starting"
    FAILED = "failed"
    KILLED = "killed"
    """Its process ended without a word."""
    INTERRUPTED = "interrupted"
    """It was asked to stop, and said so."""
    WAITING = "waiting"
    NOT_NEEDED = "not needed"


RUNS = (State.RUNNING, State.STARTING)
STOPPED = (State.FAILED, State.KILLED, State.INTERRUPTED)


@dataclass(frozen=True)
class Condition:
    """The state of one stage, and what there is to say about it."""

    stage: Stage
    state: State
    holder: Holder | None = None
    """Of the lock: the process that makes the stage, or was killed at it."""
    progress: Progress | None = None
    saved: bool = False
    """Whether there is saved state, from which the same command goes on."""
    log: Path | None = None
    silent: float | None = None
    """Seconds since the last sign of life: on the lock, or in the log."""
    tail: tuple[str, ...] = ()
    """The last lines of the log."""
    behind: str | None = None
    """Id of the stage for which it waits in vain, because that one has stopped."""

    @property
    def left(self) -> float | None:
        """Seconds to its end, as its process expected and minus what has passed since."""
        if self.progress is None or self.progress.left is None:
            return None
        return max(0.0, self.progress.left - (time.time() - self.progress.written))


@dataclass(frozen=True)
class Survey:
    """All stages at one moment, in the order of the plan."""

    conditions: tuple[Condition, ...]
    left: float | None
    """Seconds until all that can run has run, with as many jobs at a time as run now; None when nobody knows."""
    at_least: bool
    """Whether `left` leaves out stages of which nobody knows how long they take."""

    def of(self, *states: State) -> list[Condition]:
        return [condition for condition in self.conditions if condition.state in states]

    @property
    def over(self) -> bool:
        """Whether nothing runs and nothing could."""
        return not self.of(*RUNS) and all(c.behind is not None for c in self.of(State.WAITING))


class Watch:
    """Looks at the stages of a plan, again and again: an artifact that stands is read once."""

    def __init__(self, store: Store, stages: Mapping[str, Stage]) -> None:
        self.store, self.stages = store, stages
        self._done: set[str] = set()
        self._timings = Timings()

    def look(self) -> Survey:
        traces = _Traces(self.store)  # before the artifacts: a stage that ends meanwhile is then done, or runs
        for stage in self.stages.values():
            self._is_done(stage)
        needed = self._needed()
        conditions: dict[str, Condition] = {}
        for stage in self.stages.values():
            condition = self._condition(stage, traces, stage.id in needed)
            conditions[stage.id] = self._or_behind(condition, conditions)
        left, at_least = self._left(list(conditions.values()))
        return Survey(tuple(conditions.values()), left, at_least)

    def _is_done(self, stage: Stage) -> bool:
        if stage.id not in self._done:
            manifest = self.store.standing(stage.rule, stage.id)
            if manifest is None:
                return False
            self._done.add(stage.id)
            self._timings.add(stage, manifest)
        return True

    def _needed(self) -> set[str]:
        needed: set[str] = set()
        read = {i for stage in self.stages.values() for i in stage.input_ids()}
        queue = [stage.id for stage in self.stages.values() if stage.rule in TARGETS or stage.id not in read]
        while queue:
            stage_id = queue.pop()
            if stage_id in self.stages and stage_id not in needed and stage_id not in self._done:
                needed.add(stage_id)
                queue.extend(self.stages[stage_id].input_ids())
        return needed

    def _condition(self, stage: Stage, traces: _Traces, needed: bool) -> Condition:
        if stage.id in self._done:
            return Condition(stage, State.DONE)
        saved = stage.id in traces.checkpoints
        if stage.id in traces.locks:
            holder = Lock(self.store.lock_file(stage.rule, stage.id)).holder()
            if holder is not None:
                return self._held(stage, holder, saved)
            if self._is_done(stage):  # it ended while we looked
                return Condition(stage, State.DONE)
        if stage.id in traces.records and record_path(self.store, stage.id).exists():
            return Condition(stage, State.KILLED, saved=saved, **self._words(stage))
        if not needed:
            return Condition(stage, State.NOT_NEEDED)
        if stage.id not in traces.logs[stage.rule]:
            return Condition(stage, State.WAITING, saved=saved)
        words = self._words(stage)
        state = _by_its_log(stage, words.get("tail", ()), words.get("silent"))
        return Condition(stage, state, saved=saved, **words)

    def _held(self, stage: Stage, holder: Holder, saved: bool) -> Condition:
        progress = read_progress(self.store, stage.id, holder.owner)
        if holder.lives:
            return Condition(stage, State.RUNNING, holder, progress, saved, silent=holder.silent)
        words = {**self._words(stage), "silent": holder.silent}
        return Condition(stage, State.KILLED, holder, progress, saved, **words)

    def _words(self, stage: Stage) -> dict[str, Any]:
        """The log, its age and its last lines; nothing where there is none."""
        path = log_file(self.store, stage)
        with contextlib.suppress(OSError):
            age = time.time() - path.stat().st_mtime
            return {"log": path, "silent": max(0.0, age), "tail": tail(path)}
        return {}

    def _or_behind(self, condition: Condition, before: Mapping[str, Condition]) -> Condition:
        if condition.state is not State.WAITING:
            return condition
        for input_id in condition.stage.input_ids():
            below = before.get(input_id)
            if below is not None and (below.state in STOPPED or below.behind is not None):
                behind = below.behind or below.stage.id
                return Condition(condition.stage, State.WAITING, saved=condition.saved, behind=behind)
        return condition

    def _left(self, conditions: Sequence[Condition]) -> tuple[float | None, bool]:
        running = [c for c in conditions if c.state in RUNS]
        to_come = [c for c in conditions if c.state is State.WAITING and c.behind is None]
        now = [self._expected(c) for c in running]
        later = [self._expected(c) for c in to_come]
        known = [seconds for seconds in [*now, *later] if seconds is not None]
        if not running or not known:
            return None, False
        return max(sum(known) / len(running), *known), len(known) < len(running) + len(to_come)

    def _expected(self, condition: Condition) -> float | None:
        """Seconds to the end of a stage that runs or will."""
        if condition.left is not None:
            return condition.left
        seconds = self._timings.seconds(condition.stage)
        if seconds is None or condition.state is State.WAITING:
            return seconds
        return max(0.0, seconds - (condition.silent or 0.0))  # without progress, silent since it took the lock


class _Traces:
    """The names of what stages leave while they are made: a listing a folder instead of many questions a stage."""

    def __init__(self, store: Store) -> None:
        self.records = _names(record_path(store, "any").parent, ".json")  # first: a record without a lock is an orphan
        locks = {store.lock_file(rule, "any").parent for rule in RULES}
        self.locks = {name for folder in locks for name in _names(folder, ".json")}
        self.checkpoints = _names(store.results / ".checkpoints", "")
        self.logs = {rule: _names(store.results / "logs" / rule, ".log") for rule in RULES}


def _names(folder: Path, suffix: str) -> set[str]:
    with contextlib.suppress(OSError):
        return {name.removesuffix(suffix) for name in os.listdir(folder) if name.endswith(suffix)}
    return set()


def log_file(store: Store, stage: Stage) -> Path:
    """Where the workflow's rules send what a stage says."""
    return store.results / "logs" / stage.rule / f"{stage.id}.log"


def tail(path: Path) -> tuple[str, ...]:
    """The last lines of a log, without blank ones, and without what a terminal would obey."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - TAIL_BYTES))
        text = file.read().decode(errors="replace")
    lines = [line.rsplit("\r", 1)[-1].expandtabs() for line in text.replace("\r\n", "\n").split("\n")]
    shown = ["".join(c if c.isprintable() else "?" for c in line).rstrip() for line in lines]
    return tuple(line for line in shown if line)


def _by_its_log(stage: Stage, lines: Sequence[str], age: float | None) -> State:
    """The state of a stage that nobody holds and that does not stand, by how its log ends."""
    if lines and Path(lines[-1]).name == stage.id:
        return State.WAITING  # it ended well, and named its folder, which has gone since
    text = "\n".join(lines)
    if INTERRUPTION.search(text):
        return State.INTERRUPTED
    if FAILURE.search(text):
        return State.FAILED
    return State.STARTING if age is not None and age < STARTING_FOR else State.KILLED
