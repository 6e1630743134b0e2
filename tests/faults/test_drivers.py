"""Snakemake itself: two drivers on one results folder, a driver that was killed, files whose times are wrong."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from tests.workflow.test_workflow import NOTHING, SNAKEMAKE, copy_workflow, digests, jobs, snakemake
from tests.workspace import write_experiment

pytestmark = pytest.mark.slow  # each test starts snakemake, and the jobs import torch

EXPERIMENT = """\
title: One layer
dataset: {kind: digits, train: 200, test: 100, labelled: 60}
model: {kind: mlp, units: [12]}
pretrain: {layer: {kind: rbm}, duration: {epochs: 1}, optimizer: {kind: sgd, learning_rate: 0.1}}
finetune: {task: {kind: classification}, duration: {epochs: 2}, optimizer: {kind: sgd, learning_rate: 0.1}}
scales: {demo: {}}
"""


def workspace(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    copy_workflow(folder)
    write_experiment(folder, EXPERIMENT)
    return folder


def made(folder: Path) -> Mapping[str, str]:
    """Artifacts' files, and not the page, which tells how long all took."""
    found = {**digests(folder, "results/*/*/*"), **digests(folder, "data/*/*/*")}
    return {path: digest for path, digest in found.items() if not path.endswith("demo.html")}


def driver(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return subprocess.Popen(
        [*SNAKEMAKE, *arguments],
        cwd=folder,
        env={**os.environ, "PATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def to_the_end(folder: Path, *arguments: str) -> int:
    """How often it was run until it succeeded: a job that meets another that makes the same may end with a message."""
    for attempt in range(1, 6):
        running = driver(folder, *arguments)
        output, _ = running.communicate(timeout=240)
        assert "Traceback" not in output
        if running.returncode == 0:
            return attempt
        time.sleep(1.0)
    raise AssertionError(output)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = workspace(tmp_path_factory.mktemp("drivers") / "undisturbed")
    snakemake(folder)
    return folder


def test_two_drivers_on_one_results_folder_end_in_the_right_bytes(
    undisturbed: Path, tmp_path: Path, tried: Callable[..., None]
) -> None:
    """From two working folders, at once. One may fail where the other is in its way; run again, it ends right."""
    folders = [workspace(tmp_path / name) for name in ("ours", "theirs")]
    shared = ["--config", f"data={tmp_path / 'ours' / 'data'}", f"results={tmp_path / 'ours' / 'results'}"]
    running = [driver(folder, *shared) for folder in folders]
    outputs = [one.communicate(timeout=240)[0] for one in running]
    assert not any("Traceback" in output for output in outputs)
    assert all(one.returncode in (0, 1) for one in running)
    again = [to_the_end(folder, *shared) for folder in folders]
    assert NOTHING in snakemake(folders[0], *shared)
    assert made(folders[0]) == made(undisturbed)
    codes = " and ".join(str(one.returncode) for one in running)
    tried(1, f"exit codes {codes}, then 0 after {max(again)} more")


def test_a_lock_of_snakemakes_own_is_said_with_what_frees_it(undisturbed: Path, tmp_path: Path) -> None:
    """Of a second driver in the working folder of the first; then of one that was killed, whose job lives on and makes
    its artifact: that stands, and all the rest is made."""
    folder = workspace(tmp_path / "run")
    first = driver(folder)
    end = time.monotonic() + 60
    while not list(folder.glob("results/*/.making-*")) and time.monotonic() < end:
        time.sleep(0.02)
    assert first.poll() is None
    assert "--unlock" in snakemake(folder, code=1)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    assert "--unlock" in snakemake(folder, code=1)
    snakemake(folder, "--unlock")
    to_the_end(folder)
    assert made(folder) == made(undisturbed)


def test_times_of_files_that_make_no_sense_rerun_nothing(undisturbed: Path, tmp_path: Path) -> None:
    """As after a clock that was set back, a copy, a restore. The report alone may be written again."""
    folder = tmp_path / "run"
    shutil.copytree(undisturbed, folder)
    draw = random.Random(1)
    for path in sorted([*folder.glob("data/**/*"), *folder.glob("results/**/*")]):
        moment = time.time() + draw.uniform(-1e6, 1e6)
        os.utime(path, (moment, moment))
    output = snakemake(folder, "-n")
    assert NOTHING in output or set(jobs(output)) <= {"all", "report", "total"}
