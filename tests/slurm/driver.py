"""Snakemake as a user starts it on a cluster, and what the tests do to its jobs meanwhile."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from dlpipe.artifacts import FOLDERS
from tests.slurm.cluster import Cluster
from tests.workflow.test_workflow import copy_workflow, digests, snakemake
from tests.workspace import write_experiment

LONG = """\
title: A layer that takes a while
paper: somebody2000
dataset: {kind: digits, train: 1000, test: 100, labelled: 100}
model: {kind: mlp, units: [64]}
pretrain:
  layer: {kind: rbm}
  duration: {steps: 60000}
  validate_every: {epochs: 100}
  optimizer: {kind: sgd, learning_rate: 0.05, momentum: 0.5}
finetune:
  task: {kind: classification}
  duration: {epochs: 3}
  optimizer: {kind: sgd, learning_rate: 0.1}
seeds: 1
scales: {demo: {}}
"""
"""Some ten seconds of training on one core: time to do something to it."""

PROFILE = ["--workflow-profile", "profiles/slurm"]
IMPATIENT = ["--slurm-init-seconds-before-status-checks", "1", "--seconds-between-status-checks", "1"]
IMPATIENT += ["--latency-wait", "10"]


class Workspace:
    """A folder with the workflow and one experiment."""

    def __init__(self, folder: Path, text: str) -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)
        copy_workflow(folder)
        write_experiment(folder, text)

    def run_here(self) -> None:
        """The whole workflow, without SLURM."""
        snakemake(self.folder)

    def take_data_from(self, other: Workspace) -> None:
        shutil.copytree(other.folder / "data", self.folder / "data")

    def digests(self, *rules: str) -> dict[str, str]:
        """Files of these rules' artifacts (or of all) to their sha256."""
        found = digests(self.folder) | digests(self.folder, "data/*/*/*")
        folders = tuple(f"{Path(*FOLDERS[rule])}/" for rule in rules or FOLDERS)
        return {name: value for name, value in found.items() if name.startswith(folders)}

    @property
    def layer(self) -> str:
        """Id of the one stage of pretraining of `LONG`."""
        (path,) = (self.folder / "results" / "stages").glob("*-rbm64-*.json")
        return path.stem

    @property
    def target(self) -> str:
        """The artifact of the layer, as a target for Snakemake."""
        return f"results/layers/{self.layer}/manifest.json"

    def layer_is_training(self) -> bool:
        """Its lock is held, by a process that has had a second to begin."""
        lock = self.folder / "results" / ".locks" / f"{self.layer}.json"
        with contextlib.suppress(FileNotFoundError):
            return time.time() - lock.stat().st_ctime > 1.0
        return False

    @contextlib.contextmanager
    def orphan(self) -> Iterator[subprocess.Popen[bytes]]:
        """A process that makes the layer and belongs to no job."""
        command = [sys.executable, "-m", "dlpipe", "pretrain", self.layer]
        process = subprocess.Popen(command, cwd=self.folder, start_new_session=True)
        try:
            yield process
        finally:
            process.kill()
            process.wait()

    @contextlib.contextmanager
    def driver(self, cluster: Cluster, *arguments: str) -> Iterator[subprocess.Popen[str]]:
        """`snakemake` on the cluster, in the background; what it prints goes to driver.log."""
        path = os.pathsep.join([str(Path(sys.executable).parent), cluster.environment["PATH"]])
        with (self.folder / "driver.log").open("a") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "snakemake", *PROFILE, *IMPATIENT, *arguments],
                cwd=self.folder,
                env={**cluster.environment, "PATH": path},
                stdout=log,
                stderr=log,
                text=True,
                start_new_session=True,
            )
        try:
            yield process
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def run_on(self, cluster: Cluster, *arguments: str, code: int = 0) -> None:
        with self.driver(cluster, *arguments) as process:
            self.finish(process, code=code)

    def finish(self, process: subprocess.Popen[str], seconds: float = 240, code: int = 0) -> None:
        try:
            ended = process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the driver hangs:\n{self.log}") from None
        assert ended == code, self.log

    def status(self) -> str:
        """What `dlpipe status` says."""
        command = [sys.executable, "-m", "dlpipe", "status"]
        return subprocess.run(command, cwd=self.folder, capture_output=True, text=True, check=False).stdout

    def runs(self) -> list[str]:
        """What the drivers called their jobs, each driver all of its own."""
        lines = (self.folder / "driver.log").read_text().splitlines()
        return [line.split()[-1] for line in lines if line.startswith("SLURM run ID")]

    @property
    def log(self) -> str:
        """What the driver has said, and the jobs."""
        jobs = sorted((self.folder / "results" / "logs").rglob("*.log"))
        files = [self.folder / "driver.log", *jobs]
        texts = []
        for path in files:
            with contextlib.suppress(FileNotFoundError):  # snakemake removes a job's log when it begins anew
                texts.append(f"== {path.name}\n{path.read_text()[-6000:]}")
        return "\n".join(texts)


def said(log: Path, pattern: str) -> bool:
    """Whether a log says so; snakemake removes a job's log when the job begins anew."""
    with contextlib.suppress(FileNotFoundError):
        return re.search(pattern, log.read_text()) is not None
    return False


def until(ready: Callable[[], bool], seconds: float = 90, otherwise: Callable[[], str] = lambda: "") -> None:
    """Waits for something that is to happen; what to show if it does not."""
    end = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < end, otherwise()
        time.sleep(0.2)
