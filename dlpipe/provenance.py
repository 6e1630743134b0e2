"""What a manifest records of the code and the machine that made an artifact."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
import platform
import socket
import subprocess
import sys
from collections.abc import Mapping
from functools import lru_cache
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import Any


def source_digests(implementations: Mapping[str, str]) -> dict[str, str]:
    """Component to the sha256 (16 digits) of the module that implements it, read as text: nothing is imported."""
    return {
        component: _module_digest(target.partition(":")[0]) for component, target in sorted(implementations.items())
    }


@lru_cache
def _module_digest(module: str) -> str:
    spec = _find(module)
    if spec is None or not spec.has_location or spec.origin is None:
        return "unknown"
    return hashlib.sha256(Path(spec.origin).read_bytes()).hexdigest()[:16]


def _find(module: str) -> ModuleSpec | None:
    """Where a module stands. `find_spec` alone would run its package: a name out of a manifest must not do that."""
    package, *inner = module.split(".")
    try:
        spec = importlib.util.find_spec(package)
    except ValueError:  # an empty name, or `__main__`
        return None
    name = package
    for part in inner:
        if spec is None or spec.origin is None or spec.submodule_search_locations is None:
            return None
        name = f"{name}.{part}"
        spec = PathFinder.find_spec(name, spec.submodule_search_locations)
    return spec


@lru_cache
def environment() -> dict[str, Any]:
    """Commit, versions and hardware of this process. Only what is imported already has its version read."""
    names = ("torch", "torchtext", "numpy", "scipy", "sklearn", "matplotlib", "safetensors")
    versions = {name: str(getattr(sys.modules[name], "__version__", "?")) for name in names if name in sys.modules}
    return {
        "commit": _git("rev-parse", "HEAD"),
        "dirty": bool(_git("status", "--porcelain", "--untracked-files=no")),
        "python": platform.python_version(),
        "versions": versions,
        "host": socket.gethostname(),
        "machine": platform.machine(),
        "processor": _processor(),
        "cores": os.cpu_count(),
    }


def _git(*arguments: str) -> str:
    try:
        root = Path(__file__).parent
        done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()


def origin(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """How an artifact came to be, in short: which stage, how long, by which commit, where."""
    environment, facts, times = manifest["environment"], manifest["facts"], manifest["times"]
    return {
        "id": manifest["stage"]["id"],
        "rule": manifest["stage"]["rule"],
        "seconds": times["seconds"],
        "cpu_seconds": times["cpu_seconds"],
        "commit": environment["commit"],
        "dirty": environment["dirty"],
        "host": environment["host"],
        "processor": environment["processor"],
        "threads": facts.get("threads"),
        "device": facts.get("device"),
    }
