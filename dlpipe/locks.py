"""One process at a time makes an artifact, over a network file system too, whatever became of the one before."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from dlpipe.errors import StepError

POLL_EVERY = 0.5
"""Seconds between two looks at a lock that is waited for."""


class LockedError(StepError):
    """Another live process has the lock: that at `path`, or, without `path`, the one that this process had."""

    def __init__(self, message: str, path: Path | None = None) -> None:
        super().__init__(message)
        self.path = path


class Holder(NamedTuple):
    owner: dict[str, Any]
    """host, pid, the process's start, and slurm_job where it runs in one."""
    lives: bool
    silent: float
    """Seconds since it took the lock or last showed itself."""


class Lock:
    """At most one live process makes an artifact. The owner is known by host, process id and the process's start time.

    A dead owner on this host frees the lock at once; one on another host when it has not shown itself for `patience`
    seconds (`beat` shows it). Those seconds are between two times that the file system gave, as hosts' clocks differ.
    Whoever finds that it has lost the lock stops without writing.
    """

    patience = 900.0

    def __init__(self, path: Path) -> None:
        self.path = path
        self.owner = {"host": socket.gethostname(), "pid": os.getpid(), "started": process_start(os.getpid())}
        if "SLURM_JOB_ID" in os.environ:
            self.owner["slurm_job"] = os.environ["SLURM_JOB_ID"]

    def __enter__(self) -> Lock:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        content = json.dumps(self.owner).encode()
        temporary = self.path.with_name(f".{self.path.name}.{self.owner['host']}.{os.getpid()}")
        try:
            temporary.write_bytes(content)
            for _ in range(10):
                try:
                    os.link(temporary, self.path)  # atomic, on network file systems too, and never without content
                    return self
                except FileExistsError:
                    self._clear_if_dead(temporary.stat().st_mtime)
        finally:
            temporary.unlink(missing_ok=True)
        raise LockedError(f"{self.path} could not be taken", self.path)

    def __exit__(self, *_: object) -> None:
        if read_owner(self.path) == self.owner:
            self.path.unlink(missing_ok=True)

    def beat(self) -> None:
        """Shows that the owner lives. Raises LockedError when the lock is no longer ours."""
        self.check()
        os.utime(self.path)

    def check(self) -> None:
        holder = read_owner(self.path)
        if holder != self.owner:
            now = f"was taken over by process {holder['pid']} on {holder['host']}" if holder else "is gone"
            raise LockedError(f"{self.path} {now}; this process stops without writing")

    def holder(self) -> Holder | None:
        """Who holds the lock, and whether they live, as far as one can tell from here. Changes nothing."""
        owner = read_owner(self.path)
        with contextlib.suppress(FileNotFoundError):
            silent = time.time() - self.path.stat().st_mtime
            return None if owner is None else Holder(owner, self._lives(owner, time.time()), silent)
        return None

    def check_free(self) -> None:
        """Raises LockedError when a live process holds the lock, as far as one can tell from here. Changes nothing."""
        holder = self.holder()
        if holder is not None and holder.lives:
            raise self._held_by(holder.owner)

    def _held_by(self, owner: Mapping[str, Any]) -> LockedError:
        return LockedError(f"process {owner['pid']} on {owner['host']} is making {self.path.stem}", self.path)

    def _clear_if_dead(self, now: float) -> None:
        """`now` by the clock of the lock's file system."""
        holder = read_owner(self.path)
        if holder is not None and self._lives(holder, now):
            raise self._held_by(holder)
        _bury(self.path, holder)

    def _lives(self, holder: Mapping[str, Any], now: float) -> bool:
        if holder.get("host") == self.owner["host"]:
            return lives_here(holder)
        with contextlib.suppress(FileNotFoundError):
            return now - self.path.stat().st_mtime < self.patience
        return False


def wait_until_free(path: Path, until: float | None = None) -> None:
    """Blocks while a live process holds the lock at `path`, and clears it when that process has died.

    An owner on another host that has not shown itself for `Lock.patience` seconds of this process's own clock, which
    nobody sets, counts as dead. Raises LockedError when the monotonic clock reaches `until`.
    """
    seen, since = None, time.monotonic()
    while (holder := read_owner(path)) is not None:
        now = time.monotonic()
        with contextlib.suppress(FileNotFoundError):
            if (holder, path.stat().st_mtime) != seen:
                seen, since = (holder, path.stat().st_mtime), now
        here = holder.get("host") == socket.gethostname()
        if not lives_here(holder) if here else now - since >= Lock.patience:
            _bury(path, holder)
            return
        if until is not None and now >= until:
            raise LockedError(f"process {holder['pid']} on {holder['host']} is still making {path.stem}", path)
        time.sleep(POLL_EVERY)


def read_owner(path: Path) -> dict[str, Any] | None:
    """Who holds the lock at `path`; None when it is free or says nothing that can be read."""
    try:
        owner = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    complete = isinstance(owner, dict) and {"host", "pid", "started"} <= owner.keys() and isinstance(owner["pid"], int)
    return owner if complete else None


def lives_here(owner: Mapping[str, Any]) -> bool:
    """Whether the process that a lock of this host names is alive, and not another one with its number."""
    return owner["started"] is not None and process_start(owner["pid"]) == owner["started"]


def _bury(path: Path, holder: Mapping[str, Any] | None) -> None:
    """Takes a dead owner's lock away; of two that find it dead, one succeeds."""
    grave = path.with_name(f".{path.name}.dead.{os.getpid()}")
    with contextlib.suppress(FileNotFoundError):
        os.rename(path, grave)
        if read_owner(grave) != holder:  # meanwhile another process has buried it and taken the lock
            with contextlib.suppress(FileExistsError):
                os.link(grave, path)
    grave.unlink(missing_ok=True)


def process_start(pid: int) -> str | None:
    """Boot-relative start of a process, which tells a reused process id apart; None when there is no such process."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        if sys.platform == "linux":
            return None
        try:
            os.kill(pid, 0)
        except OSError:
            return None
        return "alive"
    return None if fields[0] == "Z" else fields[19]
