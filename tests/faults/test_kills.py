"""kill -9 at any moment of any stage, and jobs that meet themselves: the same command ends in the same bytes."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest

from dlpipe.files import write_atomically
from tests.faults.conftest import Run, Task
from tests.faults.running import Ended, Running, dlpipe, saving_every, slow_steps, start, steps

SEED = 20260611
HARMLESS = re.compile(r"results/(stages/\.|report/\.)|(data|results)/\.locks/")
"""Where a killed process may leave a file of its own, which nobody takes for anything: a half-written file under a name
of its own, and its lock, which is free."""
STEPS = 9
"""Of fine-tuning one network of the small experiment: three epochs of three batches, all seeds at once."""
OFTEN = partial(saving_every, 0.005)


def found_at_death(run: Run, task: Task) -> str:
    if task.stage is not None and run.store.checkpoints(task.stage).exists():
        return "with a checkpoint"
    if list(run.artifact(task).parent.glob(".making-*")):
        return "with a draft"
    return "with nothing yet"


def test_killed_at_any_moment_of_any_stage(
    finished: Run, tmp_path: Path, often: Callable[[int, int], int], tried: Callable[..., None]
) -> None:
    """Each stage in turn, at a moment drawn uniformly from the time that it takes undisturbed."""
    draw, expected = random.Random(SEED), finished.digests()
    kills, late, died = 0, 0, Counter[str]()
    left: set[str] = set()
    while kills < often(len(finished.tasks), 300):
        task = finished.tasks[(kills + late) % len(finished.tasks)]
        run = finished.copy(tmp_path / f"run{kills + late}")
        run.unmade(task)
        moment = draw.uniform(0.0, task.seconds)
        print(f"{task}: killed after {moment:.3f} s")
        process = start(run.folder, *task.arguments, upset=OFTEN)
        process.process.join(moment)
        ended = process.kill()
        kills, late = (kills + 1, late) if ended.exit_code < 0 else (kills, late + 1)
        died["with the artifact" if run.is_sound(task, expected) else found_at_death(run, task)] += ended.exit_code < 0
        again = dlpipe(run.folder, *task.arguments, upset=OFTEN)
        assert again.exit_code == 0, again.err
        assert run.is_sound(task, expected)
        assert run.digests() == expected
        left |= set(run.litter())
    assert not [path for path in left if not HARMLESS.match(path)]
    how = ", ".join(f"{n} {what}" for what, n in died.most_common())
    tried(
        kills, f"seed {SEED}; killed {how}; {late} more draws came after the end; {len(left)} stray files, all harmless"
    )


@pytest.mark.parametrize("interval", [0.25, 60.0])
def test_a_kill_loses_at_most_the_time_between_two_savings(
    run: Run, tmp_path: Path, interval: float, often: Callable[[int, int], int], tried: Callable[..., None]
) -> None:
    """Besides the step that it falls into."""
    if interval > often(1, 60):
        pytest.skip("only in the campaign: it takes two minutes")
    draw, lost = random.Random(SEED), []
    stage = run.planned("finetune", "finetune.duration={steps: 300}")
    for number in range(1 if interval == 60.0 else often(2, 20)):
        records = [tmp_path / f"steps-{number}-{part}" for part in "ab"]
        job = start(run.folder, "finetune", stage.id, upset=partial(slow_steps, interval / 100, records[0], interval))
        job.wait_for(partial(steps, records[0]))
        job.process.join(interval * draw.uniform(0.5, 2.0))
        killed_at = time.monotonic()
        assert job.kill().exit_code < 0
        assert dlpipe(run.folder, "finetune", stage.id, upset=partial(slow_steps, 0.0, records[1])).exit_code == 0
        before, after = (steps(record) for record in records)
        saved = 300 - len(after)
        assert 0 <= saved <= len(before) < 300
        lost.append(killed_at - before[max(saved, 1) - 1])
        assert lost[-1] <= interval + max(later - earlier for earlier, later in pairwise(before))
        shutil.rmtree(run.store.folder("finetune", stage.id))
    tried(len(lost), f"savings every {interval} s: at most {max(lost):.2f} s lost")


def training(run: Run, record: Path, pause: float = 0.04) -> Running:
    """A process in mid-training of the last stage of fine-tuning, saving at every step."""
    task = run.of_rule("finetune")[-1]
    job = start(run.folder, *task.arguments, upset=partial(slow_steps, pause, record, 0.0))
    job.wait_for(lambda: len(steps(record)) > 1)
    return job


def went_on(run: Run, job: Running | None, record: Path) -> Ended:
    """How the second job ended. It may have refused to begin while the first was alive: then it is started again."""
    ended = job.end() if job is not None else None
    if ended is None or ended.exit_code != 0:
        assert ended is None or ended.says("is making"), ended.err
        ended = dlpipe(run.folder, *run.of_rule("finetune")[-1].arguments, upset=partial(slow_steps, 0.0, record))
    assert ended.exit_code == 0, ended.err
    return ended


@pytest.fixture
def requeued(run: Run) -> Run:
    """A run whose last model is to be trained."""
    run.unmade(run.of_rule("finetune")[-1])
    return run


def test_a_requeued_job_that_meets_its_orphan_writes_nothing(requeued: Run, finished: Run, tmp_path: Path) -> None:
    """It waits, or is told who is at it; in the end the orphan's artifact stands, and no step was done twice."""
    task = requeued.of_rule("finetune")[-1]
    orphan = training(requeued, tmp_path / "orphan")
    second = start(requeued.folder, *task.arguments, upset=partial(slow_steps, 0.0, tmp_path / "second"))
    assert orphan.end().exit_code == 0
    manifest = (requeued.artifact(task) / "manifest.json").read_bytes()
    went_on(requeued, second, tmp_path / "second")
    assert steps(tmp_path / "second") == []
    assert (requeued.artifact(task) / "manifest.json").read_bytes() == manifest
    assert requeued.digests() == finished.digests()


@pytest.mark.parametrize("early", [True, False], ids=["while-it-lives", "once-it-is-dead"])
def test_a_requeued_job_goes_on_where_its_killed_orphan_stopped(
    requeued: Run, finished: Run, tmp_path: Path, early: bool
) -> None:
    """Started while the orphan lives, or when it is dead already."""
    orphan = training(requeued, tmp_path / "orphan")
    arguments = requeued.of_rule("finetune")[-1].arguments
    upset = partial(slow_steps, 0.0, tmp_path / "second")
    second = start(requeued.folder, *arguments, upset=upset) if early else None
    if second is not None:
        second.process.join(0.3)  # it has met the lock by now
    orphan.kill()
    went_on(requeued, second, tmp_path / "second")
    done = len(steps(tmp_path / "orphan"))
    again = done + len(steps(tmp_path / "second")) - STEPS
    assert again in (0, 1), "at most the step that was not yet saved is done again"
    assert requeued.digests() == finished.digests()


def impatient(seconds: float) -> None:
    from dlpipe.locks import Lock

    Lock.patience = seconds


@pytest.mark.parametrize("age", [3600.0, 0.0, -86400.0], ids=["old", "fresh", "of-tomorrow"])
def test_a_lock_of_another_host_that_shows_no_life_is_taken_over(
    requeued: Run, finished: Run, tmp_path: Path, age: float
) -> None:
    """After `patience`, here a second and not a quarter of an hour, whatever the other host's clock says."""
    task = requeued.of_rule("finetune")[-1]
    assert task.stage is not None
    lock = requeued.store.lock_file("finetune", task.stage.id)
    lock.parent.mkdir(exist_ok=True)
    lock.write_text(json.dumps({"host": "elsewhere", "pid": 1, "started": "1"}))
    os.utime(lock, (time.time() - age,) * 2)
    ended = dlpipe(requeued.folder, *task.arguments, upset=partial(impatient, 1.0))
    assert ended.exit_code == 0
    assert ended.says("process 1 on elsewhere is making", "Waiting for it") == (age < 3600)
    assert requeued.digests() == finished.digests()


def test_a_job_whose_lock_was_taken_over_stops_without_writing(requeued: Run, tmp_path: Path) -> None:
    """As when the machine slept, or the file system was away, for longer than the others' patience."""
    task = requeued.of_rule("finetune")[-1]
    assert task.stage is not None
    job = training(requeued, tmp_path / "steps", pause=0.1)
    taken = json.dumps({"host": "elsewhere", "pid": 1, "started": "1"})
    write_atomically(requeued.store.lock_file("finetune", task.stage.id), taken)
    before = len(steps(tmp_path / "steps"))
    ended = job.end()
    assert ended.exit_code == 1
    assert ended.says("was taken over by", "elsewhere", "this process stops without writing")
    assert len(steps(tmp_path / "steps")) <= before + 1, "it notices at the next saving"
    assert not requeued.artifact(task).exists()
    assert requeued.store.lock_file("finetune", task.stage.id).read_text() == taken
