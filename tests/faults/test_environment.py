"""The machine around a run: full disks, read-only disks, folders that vanish, clocks that go back."""

from __future__ import annotations

import contextlib
import shutil
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from tests.faults.conftest import Run, Task
from tests.faults.disks import PAGE, Disk
from tests.faults.running import Running, dlpipe, slow_steps, start, steps


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
        room, count = room + often(12, 1) * PAGE, count + 1
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


def in_training(run: Run, record: Path, pause: float = 0.05, save_every: float = 0.0) -> tuple[Task, Running]:
    """The last stage of fine-tuning, on its way."""
    task = run.of_rule("finetune")[-1]
    run.unmade(task)
    job = start(run.folder, *task.arguments, upset=partial(slow_steps, pause, record, save_every))
    job.wait_for(lambda: len(steps(record)) > 2)
    return task, job


@pytest.mark.parametrize("save_every", [0.0, 60.0], ids=["at-the-next-saving", "at-the-end"])
def test_results_that_vanish_under_a_job_are_noticed(
    save_every: float, run: Run, finished: Run, tmp_path: Path
) -> None:
    """The job ends with a message; the same commands make everything again."""
    task, job = in_training(run, tmp_path / "steps", save_every=save_every)
    run.store.results.rename(tmp_path / "elsewhere")
    ended = job.end()
    assert ended.exit_code == 1
    assert ended.says("dlpipe: "), ended.err
    assert not run.artifact(task).exists()
    assert dlpipe(run.folder, "plan", "small").exit_code == 0
    for again in run.tasks:
        assert dlpipe(run.folder, *again.arguments).exit_code == 0
    assert run.digests(but=("demo.html",)) == finished.digests(but=("demo.html",))


def test_a_draft_that_vanishes_under_a_job_is_noticed(run: Run, finished: Run, tmp_path: Path) -> None:
    task, job = in_training(run, tmp_path / "steps")
    (draft,) = run.artifact(task).parent.glob(".making-*")
    shutil.rmtree(draft)
    ended = job.end()
    assert ended.exit_code == 1
    assert ended.says("No such file or directory", draft.name), ended.err
    assert not run.artifact(task).exists()
    assert dlpipe(run.folder, *task.arguments).exit_code == 0
    assert run.digests() == finished.digests()


@pytest.mark.parametrize("lost", ["checkpoints", "document"])
def test_what_vanishes_under_a_job_and_is_not_needed_does_not_disturb_it(
    lost: str, run: Run, finished: Run, tmp_path: Path
) -> None:
    """Checkpoints are written again; the stage's document was read at the start."""
    task, job = in_training(run, tmp_path / "steps")
    assert task.stage is not None
    if lost == "checkpoints":
        run.store.checkpoints(task.stage).parent.rename(tmp_path / "elsewhere")
    else:
        run.store.stage_file(task.stage.id).unlink()
    ended = job.end()
    assert (ended.exit_code, ended.says()) == (0, True), ended.err
    assert run.digests() == finished.digests()


def test_inputs_that_vanish_under_a_job_are_named(run: Run, finished: Run, tmp_path: Path) -> None:
    """A layer is read for each seed in turn, where seeds are not trained at once: a rate that follows the loss is each
    seed's own. The same commands make it again, and the job goes on."""
    stage = run.planned("finetune", "finetune.schedule={kind: halve_on_plateau}")
    job = start(run.folder, "finetune", stage.id, upset=partial(slow_steps, 0.05, tmp_path / "steps", 0.0))
    job.wait_for(lambda: len(steps(tmp_path / "steps")) > 2)
    layer = run.of_rule("pretrain")[-1]
    run.artifact(layer).rename(tmp_path / "elsewhere")
    ended = job.end()
    assert ended.exit_code == 1
    assert ended.says("No such file", run.artifact(layer).name), ended.err
    for again in (layer.arguments, ("finetune", stage.id)):
        assert dlpipe(run.folder, *again).exit_code == 0
    assert run.digests() == finished.digests()


def clock_going_back(after: float, by: float = 86400.0) -> None:
    """The clock that people set; the one that only counts goes on."""
    true_time, true_gmtime, begun = time.time, time.gmtime, time.monotonic()

    def now() -> float:
        return true_time() - (by if time.monotonic() - begun > after else 0.0)

    time.time = now
    time.gmtime = lambda seconds=None: true_gmtime(now() if seconds is None else seconds)


def set_back_in_training(after: float, record: Path) -> None:
    clock_going_back(after)
    slow_steps(0.05, record, 0.1)


@pytest.mark.parametrize("rule", ["fetch", "prepare", "pretrain", "finetune", "evaluate", "plot"])
def test_a_clock_that_is_set_back_changes_nothing_but_the_date(
    rule: str, run: Run, finished: Run, tmp_path: Path
) -> None:
    """By a day, at the start and in mid-run: sizes, bytes and durations are as they should be."""
    task = run.of_rule(rule)[-1]
    assert task.stage is not None
    for after in (-1.0, task.seconds / 3):
        run.unmade(task)
        begun = time.monotonic()
        upset = partial(set_back_in_training, after, tmp_path / f"steps{after}")
        assert dlpipe(run.folder, *task.arguments, upset=upset).exit_code == 0
        took = run.store.read(rule, task.stage.id).manifest["times"]["seconds"]
        assert 0 <= took <= time.monotonic() - begun
    assert run.digests() == finished.digests()


def test_a_clock_that_is_set_back_does_not_stop_the_saving(run: Run, finished: Run, tmp_path: Path) -> None:
    """Savings go by the clock that only counts: what is lost by a kill after the change is no more than before it."""
    task = run.of_rule("finetune")[-1]
    assert task.stage is not None
    run.unmade(task)
    job = start(run.folder, *task.arguments, upset=partial(set_back_in_training, 0.1, tmp_path / "steps"))
    job.wait_for(lambda: len(steps(tmp_path / "steps")) > 6)
    assert job.kill().exit_code < 0
    record = tmp_path / "again"
    assert dlpipe(run.folder, *task.arguments, upset=partial(slow_steps, 0.0, record)).exit_code == 0
    assert len(steps(record)) < 6, "of 9 steps; it was saved every 0.1 s"
    assert run.digests() == finished.digests()
