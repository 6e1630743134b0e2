"""Resume state: one file a unit of work (a seed or several trained together, or a restart of them), plain tensors and
JSON, never a pickle.

A file is written beside its target, fsynced and renamed, so it is complete or absent. It belongs to one stage, device,
number of threads and of ranks, and version of torch; another one's file is refused, because going on from it would not
end in the bytes of an undisturbed run.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from dlpipe.files import write_atomically
from dlpipe.progress import say

LARGEST_SHARE = 0.02
"""Of the time of training, for periodic savings."""


class Snapshot(NamedTuple):
    """State of a unit: tensors by name, and what JSON can hold (floats exactly)."""

    tensors: Mapping[str, Tensor]
    values: Mapping[str, Any]


class Checkpoints:
    """The snapshots of one stage. `key` must be the same in the process that goes on; each writing calls `alive`."""

    def __init__(
        self,
        folder: Path,
        key: Mapping[str, Any],
        *,
        every: float = 60.0,
        alive: Callable[[], None] = lambda: None,
    ) -> None:
        """`every`: seconds between two periodic savings, more where a saving takes long; 0 saves at every step."""
        self.folder = folder
        self.key = dict(key)
        self.every = every
        self.seconds = 0.0
        """How long the last saving took."""
        self.spent = 0.0
        """Seconds that this process has spent on savings."""
        self._alive = alive
        self._last = time.monotonic()
        self._pending: dict[str, Snapshot] = {}

    def due(self) -> bool:
        wait = max(self.every, self.seconds / LARGEST_SHARE) if self.every else 0.0
        return time.monotonic() - self._last >= wait

    def keep(self, unit: str, snapshot: Snapshot) -> None:
        """Remembers the result of a finished unit; it goes to disk with the next saving, or now if one is due."""
        self._pending[unit] = snapshot
        if self.due():
            self.flush()

    def save(self, unit: str, snapshot: Snapshot) -> bool:
        """Whether it is on disk, as in `flush`."""
        self._pending[unit] = snapshot
        return self.flush()

    def flush(self) -> bool:
        """Writes what is remembered. A disk that is full ends no training: that is said, and tried again when the next
        saving is due. Raises LockedError (from `alive`) when the stage is no longer ours.
        """
        started = time.monotonic()
        self._alive()
        try:
            self._write()
        except OSError as error:
            say(f"the state could not be saved: {error}; the saving before it stays")
        self._last = time.monotonic()
        self.seconds = self._last - started
        self.spent += self.seconds
        return not self._pending

    def _write(self) -> None:
        for unit, snapshot in self._pending.items():
            tensors = {name: tensor.to("cpu").contiguous() for name, tensor in snapshot.tensors.items()}
            header = {"key": self.key, "values": snapshot.values, "sha256": _digest(tensors, snapshot.values)}
            # One metadata entry: safetensors writes several in an order of its own.
            write_atomically(self._path(unit), save(tensors, metadata={"checkpoint": json.dumps(header)}))
        self._pending.clear()

    def load(self, unit: str) -> Snapshot | None:
        """What was saved of a unit, or None; a file that does not belong here or is damaged is named and ignored."""
        path = self._path(unit)
        if not path.exists():
            return None
        try:
            with safe_open(path, framework="pt") as file:
                header = json.loads(file.metadata()["checkpoint"])
                key, values, sha256 = header["key"], header["values"], header["sha256"]
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
        except (SafetensorError, KeyError, TypeError, ValueError, RecursionError) as error:
            say(f"{path} is damaged ({error}); starting {unit} anew")
            return None
        if key != self.key:
            say(f"{path} is of {key}, this is {self.key}; starting {unit} anew")
            return None
        if sha256 != _digest(tensors, values):
            say(f"{path} is damaged (its content has changed); starting {unit} anew")
            return None
        return Snapshot(tensors, values)

    def _path(self, unit: str) -> Path:
        return self.folder / f"{unit}.safetensors"


def _digest(tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> str:
    """Of all that is saved: safetensors has no checksum of its own."""
    digest = hashlib.sha256(json.dumps(values, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
