"""A finished run of the small experiment, stage by stage, that the faults' tests copy and spoil."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import subprocess
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from dlpipe.artifacts import Stage, Store, write_stages
from dlpipe.plan import make_plan
from dlpipe.spec.loading import load
from tests.faults.disks import Disk
from tests.faults.running import dlpipe
from tests.stages.test_fetch import web  # noqa: F401 - its server, as a fixture
from tests.workspace import write_experiment

REPORT = ("report", "small")


@dataclass(frozen=True)
class Task:
    """A command of the flow and how long it takes undisturbed."""

    arguments: tuple[str, ...]
    seconds: float
    stage: Stage | None
    """None: the report."""

    def __str__(self) -> str:
        return " ".join(self.arguments)


@dataclass
class Run:
    """A folder in which the small experiment was run."""

    folder: Path
    tasks: list[Task] = field(default_factory=list)

    @property
    def store(self) -> Store:
        return Store(self.folder / "data", self.folder / "results")

    def copy(self, to: Path) -> Run:
        shutil.copytree(self.folder, to, symlinks=True)
        return Run(to, self.tasks)

    def of_rule(self, rule: str) -> list[Task]:
        return [task for task in self.tasks if task.arguments[0] == rule]

    def artifact(self, task: Task) -> Path:
        """The folder that a task makes."""
        if task.stage is None:
            return self.store.results / "report"
        return self.store.folder(task.stage.rule, task.stage.id)

    def planned(self, rule: str, *overrides: str) -> Stage:
        """The last stage of a rule with some fields changed; its document lies ready."""
        experiment = self.folder / "config" / "experiments" / "small.yaml"
        plan = make_plan([load(experiment, scale="demo", overrides=overrides)])
        write_stages(self.store, plan.stages.values())
        return plan.of_rule(rule)[-1]

    def unmade(self, task: Task) -> None:
        shutil.rmtree(self.artifact(task))

    def digests(self, but: Collection[str] = ()) -> dict[str, str]:
        """Every file of every artifact and of the report to its sha256, less those that tell the time, and `but`."""
        return {
            path.relative_to(self.folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
            for task in self.tasks
            for path in sorted(self.artifact(task).rglob("*"))
            if path.is_file() and path.name not in ("manifest.json", "times.csv", *but) and path.name[0] != "."
        }

    def is_sound(self, task: Task, digests: Mapping[str, str]) -> bool:
        """Whether what a task makes stands. If anything is there it must be whole; `digests` are the right ones."""
        folder = self.artifact(task)
        if task.stage is None:
            there = {path: digest for path, digest in self.digests().items() if path.startswith("results/report/")}
            assert there.items() <= digests.items()
            return len(there) == 2
        if not self.store.is_done(task.stage.rule, task.stage.id):
            assert not folder.exists()
            return False
        self.store.read(task.stage.rule, task.stage.id)
        return True

    def litter(self) -> list[str]:
        """Hidden files and folders: drafts, checkpoints, locks, what was set aside, parts of files."""
        found = [path for root in (self.store.data, self.store.results) for path in root.rglob(".*")]
        found += [path for root in (self.store.data, self.store.results) for path in (root / ".locks").glob("*")]
        found += (self.store.results / ".running").glob("*")
        kept = (".locks", ".checkpoints", ".running")
        return sorted(path.relative_to(self.folder).as_posix() for path in found if path.name not in kept)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Run:
    run = Run(tmp_path_factory.mktemp("finished") / "run")
    plan = make_plan([load(write_experiment(run.folder), scale="demo")])
    assert dlpipe(run.folder, "plan", "small").exit_code == 0
    for stage in plan.stages.values():
        run.tasks.append(_do(run, (stage.rule, stage.id), stage))
    run.tasks.append(_do(run, REPORT, None))
    assert run.litter() == []
    return run


def _do(run: Run, arguments: tuple[str, ...], stage: Stage | None) -> Task:
    done = dlpipe(run.folder, *arguments)
    assert done.exit_code == 0, done.err
    return Task(arguments, done.seconds, stage)


@pytest.fixture
def run(finished: Run, tmp_path: Path) -> Run:
    """A copy that the test may spoil."""
    return finished.copy(tmp_path / "run")


@pytest.fixture
def disk() -> Iterator[Callable[[Path, int], Disk]]:
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
