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


class LockedError(StepError):
    """Another live process is making the same artifact."""


class Holder(NamedTuple):
    owner: dict[str, Any]
    """host, pid, the process's start, and slurm_job where it runs in one."""
    lives: bool
    silent: float
    """Seconds since it took the lock or last showed itself."""


class Lock:
    """At most one live process makes an artifact. The owner is known by host, process id and the process's start time.

    A dead owner on this host frees the lock at once; one on another host when it has not shown itself for `patience`
    seconds (`beat` shows it). Whoever finds that it has lost the lock stops without writing.
    """

    patience = 900.0

    def __init__(self, path: Path) -> None:
        self.path = path
        self.owner = {"host": socket.gethostname(), "pid": os.getpid(), "started": _process_start(os.getpid())}
        if "SLURM_JOB_ID" in os.environ:
            self.owner["slurm_job"] = os.environ["SLURM_JOB_ID"]

    def __enter__(self) -> Lock:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        content = json.dumps(self.owner).encode()
        temporary = self.path.with_name(f".{self.path.name}.{self.owner['host']}.{os.getpid()}")
        temporary.write_bytes(content)
        try:
            for _ in range(10):
                try:
                    os.link(temporary, self.path)  # atomic, on network file systems too, and never without content
                    return self
                except FileExistsError:
                    self._clear_if_dead()
        finally:
            temporary.unlink(missing_ok=True)
        raise LockedError(f"{self.path} could not be taken")

    def __exit__(self, *_: object) -> None:
        if self._read() == self.owner:
            self.path.unlink(missing_ok=True)

    def beat(self) -> None:
        """Shows that the owner lives. Raises LockedError when the lock is no longer ours."""
        self.check()
        os.utime(self.path)

    def check(self) -> None:
        if self._read() != self.owner:
            raise LockedError(f"{self.path} was taken over by {self._read()}; this process stops without writing")

    def holder(self) -> Holder | None:
        """Who holds the lock, and whether they live, as far as one can tell from here. Changes nothing."""
        owner = self._read()
        with contextlib.suppress(FileNotFoundError):
            silent = time.time() - self.path.stat().st_mtime
            return None if owner is None else Holder(owner, self._lives(owner), silent)
        return None

    def _read(self) -> dict[str, Any] | None:
        """The owner's document; None when there is none, or none that a lock would have written."""
        try:
            owner = json.loads(self.path.read_bytes())
        except (OSError, ValueError, RecursionError):
            return None
        sound = isinstance(owner, dict) and {"host", "started"} <= owner.keys() and isinstance(owner.get("pid"), int)
        return owner if sound else None

    def _clear_if_dead(self) -> None:
        holder = self._read()
        if holder is not None and self._lives(holder):
            raise LockedError(
                f"process {holder['pid']} on {holder['host']} is making {self.path.stem}; wait for it, or end it"
            )
        grave = self.path.with_name(f".{self.path.name}.dead.{os.getpid()}")
        with contextlib.suppress(FileNotFoundError):
            os.rename(self.path, grave)  # of two that find it dead, one succeeds
        grave.unlink(missing_ok=True)

    def _lives(self, holder: Mapping[str, Any]) -> bool:
        if holder["host"] == self.owner["host"]:
            return holder["started"] is not None and _process_start(holder["pid"]) == holder["started"]
        with contextlib.suppress(FileNotFoundError):
            return time.time() - self.path.stat().st_mtime < self.patience
        return False


def _process_start(pid: int) -> str | None:
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
