"""How many cores and how much memory a process here may use: the machine's, or less in a container or a job."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from dlpipe.doctor.findings import Finding, ok, warn

MEMORY_OF_A_JOB = 0.5
"""GiB: a training process on a CPU peaks at 0.3 GiB with torch loaded and data of MNIST's size doubles that."""
GIB = 1024**3


def cores(root: Path = Path("/")) -> list[Finding]:
    """The cores this process may run on, and the share of their time that its cgroup may use."""
    usable = len(os.sched_getaffinity(0))
    share = _cpu_limit(root)
    if share is None or share >= usable:
        return [ok("CPU", f"{usable} cores")]
    whole = max(1, int(share))
    advice = f"Say `snakemake --cores {whole}`: `--cores all` would start {usable} jobs that wait for each other."
    return [warn("CPU", f"{usable} cores, of whose time this container or job may use {share:g}", advice)]


def memory(root: Path = Path("/")) -> list[Finding]:
    lines = (line.split() for line in (root / "proc/meminfo").read_text().splitlines())
    sizes = {fields[0].rstrip(":"): int(fields[1]) * 1024 for fields in lines}
    limit = _memory_limit(root)
    free = sizes.get("MemAvailable", sizes["MemTotal"])
    found = f"{sizes['MemTotal'] / GIB:.1f} GiB, {free / GIB:.1f} GiB of it free"
    if limit is not None and limit < sizes["MemTotal"]:
        found += f"; this container or job may use {limit / GIB:.1f} GiB"
        free = min(free, limit)
    jobs = int(free / GIB / MEMORY_OF_A_JOB)
    if jobs < len(os.sched_getaffinity(0)):
        advice = f"Say `snakemake --cores {max(1, jobs)}`: a training job takes about {MEMORY_OF_A_JOB} GiB."
        return [warn("memory", found, advice)]
    return [ok("memory", found)]


def _cpu_limit(root: Path) -> float | None:
    """The least CPU time a second that this process's cgroup, or one above it, allows."""
    limits = []
    for folder in _cgroups("cpu", root):
        both, quota, period = (folder / name for name in ("cpu.max", "cpu.cfs_quota_us", "cpu.cfs_period_us"))
        texts = both.read_text().split() if both.exists() else []
        if quota.exists() and period.exists():
            texts = [quota.read_text().strip(), period.read_text().strip()]
        if len(texts) == 2 and texts[0].isdigit():
            limits.append(int(texts[0]) / int(texts[1]))
    return min(limits, default=None)


def _memory_limit(root: Path) -> int | None:
    """Bytes; the least of this process's cgroup and those above it."""
    files = [folder / name for folder in _cgroups("memory", root) for name in ("memory.max", "memory.limit_in_bytes")]
    texts = [file.read_text().strip() for file in files if file.exists()]
    return min((int(text) for text in texts if text.isdigit()), default=None)


def _cgroups(controller: str, root: Path) -> Iterator[Path]:
    """This process's cgroup for a controller and all above it, in version 1 and 2; some may not be there."""
    listed = root / "proc/self/cgroup"
    for line in listed.read_text().splitlines() if listed.exists() else []:
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        top = root / "sys/fs/cgroup" / (controller if controllers else "")
        own = top / path.strip("/")
        yield from (folder for folder in (own, *own.parents) if folder.is_relative_to(top))
