"""The machine around a run: full disks, read-only disks, folders that vanish, clocks that go back."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.faults.conftest import Run
from tests.faults.running import dlpipe, slow_steps, start, steps

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


@pytest.fixture
def disk(run: Run) -> Iterator[Callable[[Path, int], Disk]]:
    """Mounts; skips the test where that is not allowed."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount a small file system")
    mounted = []

    def mounted_on(folder: Path, room: int = 1 << 20) -> Disk:
        mounted.append(folder)
        return Disk(folder, room)

    yield mounted_on
    for folder in mounted:
        with contextlib.suppress(OSError):
            subprocess.run(["umount", "-l", str(folder)], check=False)


@pytest.mark.parametrize("rule", ["fetch", "prepare", "pretrain", "finetune", "evaluate", "plot", "report"])
def test_a_full_disk_is_said_and_leaves_nothing_half_there(
    rule: str,
    run: Run,
    finished: Run,
    disk: Callable[..., Disk],
    often: Callable[[int, int], int],
    tried: Callable[..., None],
) -> None:
    """With room for nothing, for a page, for two …, until there is enough; then the same command ends as it should."""
    task = run.of_rule(rule)[-1]
    run.unmade(task)
    small = disk(run.store.data if rule in ("fetch", "prepare") else run.store.results, 0)
    room, count = 0, 0
    while (ended := dlpipe(run.folder, *task.arguments)).exit_code != 0:
        assert ended.exit_code == 1
        assert ended.says("No space left on device", "free some space"), ended.err
        assert len(ended.err.strip().splitlines()) <= 2, ended.err
        assert not run.is_sound(task, finished.digests())
        assert run.litter() == []
        room, count = room + often(4, 1) * PAGE, count + 1
        assert room < 2 << 20, ended.err
        small.resize(room)
    assert count > 0
    assert run.digests() == finished.digests()
    tried(count, f"{rule}: enough with {room // 1024} KiB")


def test_a_full_disk_at_a_saving_does_not_end_training(
    run: Run, finished: Run, disk: Callable[..., Disk], tmp_path: Path
) -> None:
    """It goes on, and the artifact is made once there is room; the state saved before stays as it is."""
    task = run.of_rule("finetune")[-1]
    run.unmade(task)
    disk(run.store.results)
    job = start(run.folder, *task.arguments, upset=partial(slow_steps, 0.05, tmp_path / "steps", 0.0))
    job.wait_for(lambda: len(steps(tmp_path / "steps")) > 3)
    filler = run.store.results / "filler"
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(PAGE))
    job.wait_for(lambda: "the state could not be saved" in job.printed("err"))
    filler.unlink()
    ended = job.end()
    assert ended.exit_code == 0, ended.err
    assert ended.says("No space left on device", "the saving before it stays")
    assert run.digests() == finished.digests()


def test_stopped_while_the_disk_is_full_it_does_not_say_that_the_state_is_saved(
    run: Run, finished: Run, disk: Callable[..., Disk], tmp_path: Path
) -> None:
    task = run.of_rule("finetune")[-1]
    run.unmade(task)
    small = disk(run.store.results, 3 * PAGE)  # a lock, a draft, and no room for the state
    job = start(run.folder, *task.arguments, upset=partial(slow_steps, 0.05, tmp_path / "steps"))
    job.wait_for(lambda: steps(tmp_path / "steps"))
    ended = job.kill(signal.SIGTERM)
    assert ended.exit_code == 1
    assert ended.says("No space left on device", "stopped by SIGTERM", "state not saved")
    small.resize(1 << 20)
    assert dlpipe(run.folder, *task.arguments).exit_code == 0
    assert run.digests() == finished.digests()


@pytest.mark.parametrize("rule", ["fetch", "prepare", "pretrain", "finetune", "evaluate", "plot", "report"])
def test_a_read_only_folder_is_named(rule: str, run: Run, finished: Run, disk: Callable[..., Disk]) -> None:
    task = run.of_rule(rule)[-1]
    run.unmade(task)
    root = run.store.data if rule in ("fetch", "prepare") else run.store.results
    small = disk(root)
    small.remount("ro")
    ended = dlpipe(run.folder, *task.arguments)
    assert ended.exit_code == 1
    assert ended.says("Read-only file system", root.name, "--data and --results")
    small.remount("rw")
    assert dlpipe(run.folder, *task.arguments).exit_code == 0
    assert run.digests() == finished.digests()


def test_what_stands_on_a_read_only_disk_can_be_looked_at(run: Run, disk: Callable[..., Disk], tmp_path: Path) -> None:
    disk(run.store.results).remount("ro")
    for arguments in (["plan", "small"], ["verify"], ["check", "small"], ["report", "small", "--to", "../page.html"]):
        ended = dlpipe(run.folder, *arguments)
        assert ended.exit_code in (0, 3 if arguments[0] == "check" else 0), ended.err
    assert (tmp_path / "page.html").exists()


def test_damage_on_a_read_only_disk_is_named(run: Run, disk: Callable[..., Disk]) -> None:
    """It cannot be moved out of the way; the message says so and what to do."""
    layer, model = run.of_rule("pretrain")[-1], run.of_rule("finetune")[-1]
    weights = run.artifact(layer) / "weights.safetensors"
    weights.write_bytes(bytes(weights.stat().st_size))
    run.unmade(model)
    disk(run.store.results).remount("ro")
    ended = dlpipe(run.folder, *model.arguments)
    assert ended.exit_code == 1
    assert ended.says(
        "weights.safetensors does not match", "could not be moved out of the way", "Read-only file system"
    )
