"""Can data and results be written where they shall be, does the file system keep what locks and artifacts rest on."""

from __future__ import annotations

import fcntl
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from dlpipe.doctor.findings import Finding, fail, ok, warn

GIB = 1024**3
LEAST_FREE = 2 * GIB
"""The demo leaves 60 MB behind, the lab scale a few hundred with its data."""
LEAST_FILES = 10_000
CLOCKS_APART = 60.0
"""Seconds. Another host's lock counts as dead after 900 without a sign of life, by the file's time and our clock."""


def write(folder: Path) -> None:
    with (folder / "file").open("wb") as file:
        file.write(b"x" * 4096)
        file.flush()
        os.fsync(file.fileno())


def rename(folder: Path) -> None:
    """As an artifact is put in place: a folder, and a file over another."""
    (folder / "making").mkdir()
    (folder / "making").rename(folder / "made")
    (folder / "other").touch()
    os.replace(folder / "other", folder / "file")


def link(folder: Path) -> None:
    os.link(folder / "file", folder / "link")


def lock(folder: Path) -> None:
    with (folder / "file").open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


class Trial(NamedTuple):
    """Something that a folder must allow."""

    attempt: Callable[[Path], None]
    verb: str
    why: str


WRITE = Trial(write, "written and flushed to the disk", "Every stage writes there")
RENAME = Trial(rename, "renamed", "A finished artifact is renamed into place")
LINK = Trial(link, "linked by a second name", "The lock that keeps two jobs from making one artifact is a hard link")
LOCK = Trial(lock, "locked with flock", "Two downloads of one file are kept apart by flock")


def data(folder: Path) -> list[Finding]:
    return _folder("data", folder, (WRITE, RENAME, LOCK))


def results(folder: Path) -> list[Finding]:
    return _folder("results", folder, (WRITE, RENAME, LINK))


def _folder(name: str, folder: Path, trials: tuple[Trial, ...]) -> list[Finding]:
    """Tries it in a hidden folder that is removed again, in the nearest folder that exists; makes none to stay."""
    place = existing(folder)
    elsewhere = f"choose another folder, here with `--{name} DIR`, for snakemake with `--config {name}=DIR`."
    tried = trials[0]
    try:
        with tempfile.TemporaryDirectory(prefix=".dlpipe-doctor-", dir=place) as scratch:
            for tried in trials:
                tried.attempt(Path(scratch))
            apart = (Path(scratch) / "file").stat().st_mtime - time.time()
    except OSError as error:
        found = f"{place}: a file cannot be {tried.verb}: {error.strerror}"
        return [fail(name, found, f"{tried.why}; {elsewhere}")]
    return _room(name, place, elsewhere) + _clock(name, place, apart)


def existing(folder: Path) -> Path:
    """The folder, absolute, or the nearest one above it that is there already."""
    absolute = folder.resolve()
    return next(path for path in (absolute, *absolute.parents) if path.exists())


def _room(name: str, place: Path, elsewhere: str) -> list[Finding]:
    status = os.statvfs(place)
    free = status.f_bavail * status.f_frsize
    found = f"{place}, {file_system(place)}, {free / GIB:.1f} GiB free"
    if free < LEAST_FREE:
        return [warn(name, found, f"Make room, 2 GiB at least, or {elsewhere}")]
    if status.f_files > 0 and status.f_favail < LEAST_FILES:
        return [warn(name, f"{found}, but room for {status.f_favail} files only", f"Delete files, or {elsewhere}")]
    return [ok(name, found)]


def _clock(name: str, place: Path, apart: float) -> list[Finding]:
    if abs(apart) <= CLOCKS_APART:
        return []
    found = f"{place} dates files {abs(apart):.0f} s {'after' if apart > 0 else 'before'} this machine's clock"
    advice = "Have the clocks set, by NTP, say: a lock of another host is judged by its file's time."
    return [warn(f"{name} clock", found, advice)]


def file_system(path: Path, root: Path = Path("/")) -> str:
    """The type of the file system that holds a path, as `mount` names it; empty when that is unknown."""
    kind, longest = "", -1
    mounts = root / "proc/mounts"
    for line in mounts.read_text().splitlines() if mounts.exists() else []:
        _, escaped, type_, *_ = line.split(" ")
        point = Path(escaped.replace("\\040", " ").replace("\\134", "\\"))
        if path.is_relative_to(point) and len(point.parts) >= longest:  # of two on one point the later is on top
            kind, longest = type_, len(point.parts)
    return kind
