"""Small file systems in memory, to be filled up or made read-only."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

PAGE = 4096
"""A file system in memory gives out its room by pages."""


class Disk:
    """A small file system of its own, mounted in place of a folder, with what the folder held."""

    def __init__(self, folder: Path, room: int) -> None:
        """`room`: bytes besides what is there."""
        self.folder, aside = folder, folder.with_name(f"{folder.name}-before")
        folder.rename(aside)
        folder.mkdir()
        mount("-t", "tmpfs", "-o", f"size={_size(aside) + (200 << 10) + room}", "tmpfs", str(folder))
        shutil.copytree(aside, folder, dirs_exist_ok=True)
        self.resize(room)

    def resize(self, room: int) -> None:
        status = os.statvfs(self.folder)
        used = (status.f_blocks - status.f_bfree) * status.f_frsize
        self.remount(f"size={used + room}")

    def remount(self, options: str) -> None:
        mount("-o", f"remount,{options}", str(self.folder))


def _size(folder: Path) -> int:
    return sum(-(-path.stat().st_size // PAGE) * PAGE for path in folder.rglob("*"))


def mount(*arguments: str) -> None:
    done = subprocess.run(["mount", *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"mount {' '.join(arguments[:-1])} is refused here: {done.stderr.strip()}")
