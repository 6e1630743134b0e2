"""`dlpipe status`: real processes looked at while they train, killed and looked at again, and what files alone say."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from dlpipe import running
from dlpipe.artifacts import Stage, Store, write_stages
from dlpipe.cli import command_line, run
from dlpipe.commands.status import _cells, _table
from dlpipe.locks import Holder, Lock, LockedError
from dlpipe.progress import Count
from dlpipe.running import Record, read_progress, record_path
from dlpipe.status import Condition, State, Survey, Watch, log_file
from dlpipe.workflow import Workflow
from tests.stages.attempts import CONTEXT
from tests.stages.small import evaluate_stage, finetune_stage, prepared, pretrain_stage
from tests.workspace import write_experiment

STAGE = Stage("pretrain", "digits-rbm400", {"units": 400}, {"data": "digits-000000000000"}, seeds=(0, 1, 2))
ELSEWHERE = {"host": "node17", "pid": 4711, "started": "1", "slurm_job": "99"}
WITHIN = 30.0
"""Seconds within which something that takes one must have happened."""


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """In the working folder, where the commands look by themselves."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    return Store()


def look(store: Store, *stages: Stage) -> Survey:
    return Watch(store, {stage.id: stage for stage in stages}).look()


def condition(store: Store, stage: Stage) -> Condition:
    (found,) = look(store, stage).conditions
    return found


def state(store: Store, stage: Stage = STAGE) -> State:
    return condition(store, stage).state


def write_log(store: Store, text: str, *, age: float = 0.0, stage: Stage = STAGE) -> Path:
    path = log_file(store, stage)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    os.utime(path, (time.time() - age,) * 2)
    return path


def take_lock(store: Store, owner: dict[str, Any], *, silent: float = 0.0, stage: Stage = STAGE) -> Lock:
    """The lock as somebody else would hold it."""
    path = store.lock_file(stage.rule, stage.id)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(owner))
    os.utime(path, (time.time() - silent,) * 2)
    lock = Lock(path)
    lock.owner = owner
    return lock


def count(done: int = 250, total: int | None = 1000, rate: float | None = 10.0, **figures: float) -> Count:
    return Count(done, total, "steps", (done / 100, 10.0), figures or {"loss": 0.5}, 25.0, rate)


def leave_progress(store: Store, lock: Lock, *, position: int = 1, told: Count | None = None) -> None:
    Record(store, STAGE, lock, units=3).unit("seed 0", position)(told or count())


def plan_file(store: Store, *stages: Stage, **config: Any) -> None:
    """As a snakemake run leaves it."""
    write_stages(store, stages)
    document = {"config": {"experiments": ["depth"], "scale": "demo", **config}, "stages": [s.id for s in stages]}
    store.last_plan.write_text(json.dumps(document))


def status(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> str:
    capsys.readouterr()
    assert run(command_line, ["status", *arguments]) == code
    return capsys.readouterr().out


# Real processes


def _make(rule: str, stage_id: str, log: Path) -> None:
    """In the child: the command as a job calls it, its words in the log, its progress left often."""
    with log.open("w", buffering=1) as file:
        sys.stdout = sys.stderr = file
        running.WRITE_EVERY = 0.05
        sys.exit(run(command_line, [rule, stage_id]))


@contextlib.contextmanager
def started(stage: Stage, store: Store) -> Iterator[Any]:
    """A process that makes the stage; it is killed if it is still there in the end."""
    write_stages(store, [stage])
    log = log_file(store, stage)
    log.parent.mkdir(parents=True, exist_ok=True)
    process = CONTEXT.Process(target=_make, args=(stage.rule, stage.id, log.resolve()))
    process.start()
    try:
        yield process
    finally:
        process.kill()
        process.join()


def until(store: Store, stage: Stage, holds: Callable[[Condition], bool]) -> Condition:
    limit = time.monotonic() + WITHIN
    while not holds(found := condition(store, stage)):
        assert time.monotonic() < limit, found
        time.sleep(0.02)
    return found


def trains(found: Condition) -> bool:
    return found.state is State.RUNNING and found.progress is not None and found.progress.done > 0


def long_stage(store: Store) -> Stage:
    """Minutes of work, in steps of less than a millisecond."""
    return finetune_stage(prepared(store), epochs=100_000.0, validate_every={"epochs": 10_000.0})


def test_a_training_process_is_seen_and_seen_killed(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    stage = long_stage(store)
    assert state(store, stage) is State.WAITING
    with started(stage, store) as process:
        found = until(store, stage, trains)
        assert found.holder is not None
        assert found.progress is not None
        assert (found.holder.owner["pid"], found.holder.owner["host"]) == (process.pid, socket.gethostname())
        assert (found.progress.part, found.progress.position, found.progress.units) == ("seeds 0, 1", 1, 1)
        assert found.progress.total == 500_000
        assert found.progress.epochs == 100_000.0
        assert found.progress.epoch == found.progress.done / 5
        assert found.progress.figures.keys() == {"loss"}
        assert found.progress.rate is not None
        both_seeds = (500_000 - found.progress.done) / found.progress.rate
        assert found.progress.left == pytest.approx(both_seeds)
        assert found.left == pytest.approx(both_seeds, abs=WITHIN)
        later = until(store, stage, lambda c: c.progress is not None and c.progress.done > found.progress.done)
        assert later.holder is not None
        assert later.holder.silent < 5.0, "writing progress shows that the process lives"
        process.kill()
        process.join()
    killed = condition(store, stage)
    assert killed.state is State.KILLED
    assert killed.progress is not None
    assert not killed.saved
    plan_file(store, stage)
    out = status(capsys, code=1)
    assert "0 of 1 stages done, 1 killed" in out
    assert f"\n  dlpipe finetune {stage.id}\n" in out


def test_nothing_is_left_when_a_stage_is_done(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    stage = pretrain_stage(prepared(store), epochs=20.0)
    with started(stage, store) as process:
        process.join(WITHIN)
        assert process.exitcode == 0
    assert state(store, stage) is State.DONE
    assert list((store.results / ".running").iterdir()) == []
    assert list((store.results / ".locks").iterdir()) == []
    plan_file(store, stage)
    assert status(capsys) == "depth (demo): 1 of 1 stages done\n"


def test_a_stage_that_was_asked_to_stop_goes_on(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    stage = long_stage(store)
    with started(stage, store) as process:
        until(store, stage, trains)
        os.kill(process.pid, signal.SIGTERM)
        process.join(WITHIN)
        assert process.exitcode == 1
    found = condition(store, stage)
    assert (found.state, found.saved) == (State.INTERRUPTED, True)
    assert not record_path(store, stage.id).exists()
    plan_file(store, stage)
    out = status(capsys)
    assert "1 interrupted" in out
    assert f"  dlpipe finetune {stage.id}  # goes on where it stopped" in out


def test_a_stage_that_diverges_has_failed_and_others_wait_for_it(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    relu = {"kind": "mlp", "units": [8], "activation": "relu"}
    stage = finetune_stage(prepared(store), model=relu, optimizer={"kind": "sgd", "learning_rate": 1e30})
    measured = evaluate_stage(stage)
    with started(stage, store) as process:
        process.join(WITHIN)
        assert process.exitcode == 1
    failed, waiting = look(store, stage, measured).conditions
    assert failed.state is State.FAILED
    assert "training has diverged" in failed.tail[-1]
    assert (waiting.state, waiting.behind) == (State.WAITING, stage.id)
    assert not record_path(store, stage.id).exists()
    plan_file(store, stage, measured)
    out = status(capsys, code=1)
    assert "0 of 2 stages done, 1 failed, 1 waiting (1 of them for what stopped)" in out
    assert f"  | {failed.tail[-1]}\n" in out
    target = f"results/models/{stage.id}/manifest.json"
    assert out.endswith(f"\n  snakemake --cores all {target} --config experiments=depth scale=demo\n")


def test_watching_ends_when_all_is_done(store: Store) -> None:
    stage = pretrain_stage(prepared(store))
    plan_file(store, stage)
    words = [sys.executable, "-m", "dlpipe", "status", "--watch", "--every", "0.1"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as watching:
        assert watching.stdout is not None
        assert watching.stdout.readline() == "depth (demo): 0 of 1 stages done, 1 waiting\n"
        with started(stage, store) as process:
            process.join(WITHIN)
        looks = watching.stdout.read().split("\n\n")
        assert watching.wait(WITHIN) == 0
    assert looks[-1] == "depth (demo): 1 of 1 stages done\n"


def test_watching_on_a_terminal_ends_with_ctrl_c(store: Store) -> None:
    take_lock(store, ELSEWHERE)
    plan_file(store, STAGE)
    outer, inner = pty.openpty()
    words = [sys.executable, "-m", "dlpipe", "status", "--watch", "--every", "0.1"]
    process = subprocess.Popen(words, stdin=inner, stdout=inner, stderr=inner, env={**os.environ, "TERM": "xterm"})
    os.close(inner)
    shown = b""
    while b"node17" not in shown:
        shown += os.read(outer, 4096)
    process.send_signal(signal.SIGINT)
    with contextlib.suppress(OSError):  # the terminal is gone when the child is
        while chunk := os.read(outer, 4096):
            shown += chunk
    os.close(outer)
    assert process.wait(WITHIN) == 130
    assert b"0 of 1 stages done, 1 running" in shown
    assert b"Traceback" not in shown


# What the files say


def test_a_process_on_another_host_lives_while_it_shows_itself(store: Store) -> None:
    leave_progress(store, take_lock(store, ELSEWHERE))
    found = condition(store, STAGE)
    assert found.state is State.RUNNING
    assert _cells(found)[:4] == (
        ["pretrain", STAGE.id],
        ["node17", "pid 4711", "job 99"],
        ["seed 0 (1 of 3)", "epoch 2.5 of 10"],
        ["0.5"],
    )
    assert found.left == pytest.approx((750 + 2 * 1000) / 10.0, abs=1.0)
    take_lock(store, ELSEWHERE, silent=300)
    assert "silent for 5 min 0 s" in _cells(condition(store, STAGE))[2]
    take_lock(store, ELSEWHERE, silent=Lock.patience + 1)
    assert state(store) is State.KILLED


def test_the_progress_of_a_process_before_says_nothing_of_the_one_that_goes_on(store: Store) -> None:
    leave_progress(store, take_lock(store, {**ELSEWHERE, "pid": 1}))
    take_lock(store, ELSEWHERE)
    found = condition(store, STAGE)
    assert (found.state, found.progress) == (State.RUNNING, None)


def test_progress_without_a_lock_is_of_a_process_that_was_killed(store: Store) -> None:
    leave_progress(store, lock := take_lock(store, ELSEWHERE))
    lock.path.unlink()
    assert state(store) is State.KILLED


TRACEBACK = 'Traceback (most recent call last):\n  File "x.py", line 1\nValueError: no\n'
ENDS = {
    "empty, now": ("", 0, State.STARTING),
    "a warning, now": ("UserWarning: no CUDA\n", 0, State.STARTING),
    "waits for a GPU, a minute ago": ("GPU 0 is used by process 7; waiting\n", 60, State.STARTING),
    "empty, long ago": ("", 600, State.KILLED),
    "no last words": ("seed 0: 100 of 200 steps\n", 600, State.KILLED),
    "a message": ("seed 0: 100 of 200 steps\ndlpipe: the disk is full\n", 0, State.FAILED),
    "a message of several lines": ("dlpipe: a could not be had:\n  b: HTTP 403\nTry again.\n", 0, State.FAILED),
    "a traceback": (TRACEBACK, 0, State.FAILED),
    "a wrong option": ("Usage: dlpipe pretrain\n\nError: No such option: --x\n", 0, State.FAILED),
    "stopped": (f"dlpipe: {STAGE.id} seed 0: stopped by SIGUSR1 at step 3 of 9, state saved\n", 600, State.INTERRUPTED),
    "Ctrl-C": ("interrupted; the same command goes on where it stopped\n", 0, State.INTERRUPTED),
    "ended well, and was deleted since": (f"results/layers/{STAGE.id}\n", 0, State.WAITING),
}


@pytest.mark.parametrize(("text", "age", "expected"), ENDS.values(), ids=ENDS.keys())
def test_what_the_end_of_a_log_says(store: Store, text: str, age: float, expected: State) -> None:
    write_log(store, text, age=age)
    assert state(store) is expected


def test_a_live_lock_counts_more_than_the_log_of_an_earlier_attempt(store: Store) -> None:
    write_log(store, "dlpipe: the disk is full\n", age=600)
    take_lock(store, ELSEWHERE)
    assert state(store) is State.RUNNING


def test_a_log_cannot_command_the_terminal_and_only_its_end_is_read(store: Store) -> None:
    write_log(store, "x" * 100_000 + "\n\n\x1b[2J\x07[bold]one\r\ntwo 10%\rtwo 20%\ndlpipe: \u202ethree\n")
    assert condition(store, STAGE).tail[1:] == ("?[2J?[bold]one", "two 20%", "dlpipe: ?three")
    assert sum(map(len, condition(store, STAGE).tail)) < 10_000


NONSENSE = [b"", b"\xff", b"[]", b'{"host": "x"}', b"[" * 100_000, b'{"pid": "../..", "host": 1, "started": 2}']


@pytest.mark.parametrize("content", NONSENSE)
def test_files_that_make_no_sense_are_no_lock_and_no_progress(store: Store, content: bytes) -> None:
    lock = take_lock(store, ELSEWHERE)
    record = record_path(store, STAGE.id)
    record.parent.mkdir()
    record.write_bytes(content)
    assert condition(store, STAGE).progress is None
    record.unlink()
    lock.path.write_bytes(content)
    assert state(store) is State.WAITING


def test_what_no_target_needs_is_not_waited_for(store: Store) -> None:
    """As in a folder to which metrics were copied without the models."""
    below, measured = STAGE, Stage("evaluate", "e", {}, {"model": STAGE.id})
    assert [c.state for c in look(store, below, measured).conditions] == [State.WAITING] * 2
    with store.make(measured):
        pass
    survey = look(store, below, measured)
    assert [c.state for c in survey.conditions] == [State.NOT_NEEDED, State.DONE]
    assert survey.over


def test_the_time_left_is_what_runs_and_what_is_to_come_by_past_timings(store: Store) -> None:
    """Two run, of 275 s left each; two come, of 100 s: 750 s of work for two at a time, but nobody knows the last."""
    stages = {name: Stage("pretrain", "alike", {"n": name}, seeds=(0,)) for name in "abcd"}
    stages["e"] = Stage("finetune", "unknown", {}, {"layers": [stages["d"].id]})
    for name in "ab":
        lock = take_lock(store, ELSEWHERE, stage=stages[name])
        Record(store, stages[name], lock, units=3).unit("seed 0", 1)(count())
    watch = Watch(store, {stage.id: stage for stage in stages.values()})
    assert watch.look().left == pytest.approx(275.0, abs=1.0)
    watch._timings.add(stages["c"], {"times": {"seconds": 100.0}})
    survey = watch.look()
    assert survey.left == pytest.approx((2 * 275 + 2 * 100) / 2, abs=1.0)
    assert survey.at_least


def test_a_thousand_stages_take_less_than_a_second(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)
    stages = [Stage("finetune", "m", {"n": n}, seeds=(0, 1, 2)) for n in range(1000)]
    for number, stage in enumerate(stages):
        if number % 4:
            with store.make(stage) as draft:
                (draft.folder / "weights.safetensors").write_bytes(b"w")
        else:
            write_log(store, "dlpipe: no\n", stage=stage)
    watch = Watch(store, {stage.id: stage for stage in stages})
    begun = time.monotonic()
    survey = watch.look()
    assert time.monotonic() - begun < 1.0
    assert (len(survey.of(State.DONE)), len(survey.of(State.FAILED))) == (750, 250)


# The record


def test_it_is_written_now_and_then_and_the_lock_with_it(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("dlpipe.progress.time.monotonic", lambda: now[0])
    lock = take_lock(store, ELSEWHERE, silent=500)
    with Record(store, STAGE, lock, units=3) as record:
        told = record.unit("seed 0", 1)
        seen = []
        for now[0], done in ((100.0, 0), (101.0, 10), (104.9, 49), (105.0, 50), (106.0, 60)):
            told(count(done))
            seen.append(json.loads(record.path.read_text())["done"])
        assert seen == [0, 0, 0, 50, 50]
        assert lock.path.stat().st_mtime > time.time() - 60
    assert not record_path(store, STAGE.id).exists()


def test_it_is_gone_when_the_stage_fails(store: Store) -> None:
    def fail() -> None:
        with Record(store, STAGE, take_lock(store, ELSEWHERE), units=1) as record:
            record.unit("seed 0", 1)(count())
            assert record.path.exists()
            raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        fail()
    assert not record_path(store, STAGE.id).exists()


def test_a_full_disk_stops_no_training(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(running, "write_atomically", full)
    leave_progress(store, take_lock(store, ELSEWHERE))


def test_who_lost_the_lock_stops_and_leaves_the_other_ones_progress(store: Store) -> None:
    other = {**ELSEWHERE, "pid": 1}

    def lose_the_lock() -> None:
        with Record(store, STAGE, take_lock(store, ELSEWHERE), units=1) as record:
            leave_progress(store, take_lock(store, other))
            record.unit("seed 0", 1)(count())

    with pytest.raises(LockedError, match="stops without writing"):
        lose_the_lock()
    assert read_progress(store, STAGE.id, other) is not None


def test_the_slurm_job_is_told(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "123")
    with store.make(STAGE) as draft:
        holder = draft.lock.holder()
        assert holder is not None
        assert (holder.owner["slurm_job"], holder.lives) == ("123", True)
        assert "job 123" in _cells(condition(store, STAGE))[1]


# The command


def test_snakemake_leaves_its_plan_and_writes_it_once(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    write_experiment(Path())
    config = {"experiments": ["small"], "set": {"finetune.batch_size": 30}, "data": "elsewhere"}
    Workflow(config)
    os.utime(store.last_plan, (1, 1))
    Workflow({**config, "experiments": "small"})  # as a job on a cluster is told it
    assert store.last_plan.stat().st_mtime == 1
    assert status(capsys) == "small (demo): 0 of 12 stages done, 12 waiting\n"
    assert status(capsys, "small", "-s", "finetune.batch_size=30") == status(capsys)
    (stage_id,) = (p.stem for p in store.results.glob("stages/digits-200-rbm12-*.json"))
    write_log(store, "dlpipe: no\n", stage=read(store, stage_id))
    words = shlex.split(status(capsys, code=1).splitlines()[-1])
    assert words[:4] == ["snakemake", "--cores", "all", f"results/layers/{stage_id}/manifest.json"]
    config = ["experiments=small", "scale=demo", 'set={"finetune.batch_size": 30}', "data=elsewhere"]
    assert words[4:] == ["--config", *sorted(config)]


def read(store: Store, stage_id: str) -> Stage:
    return Stage.from_json(json.loads(store.stage_file(stage_id).read_text()))


def test_without_a_plan_it_says_what_to_do(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(command_line, ["status"]) == 2
    assert "name an experiment" in capsys.readouterr().err
    store.last_plan.parent.mkdir(parents=True)
    store.last_plan.write_text("[]")
    assert run(command_line, ["status"]) == 1
    assert "delete it and plan again" in capsys.readouterr().err


def test_the_plain_table(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    leave_progress(store, take_lock(store, ELSEWHERE))
    other = Stage("finetune", "starts", {})
    write_log(store, "", stage=other)
    plan_file(store, STAGE, other)
    title, blank, heading, first, second = status(capsys).splitlines()
    assert title == "depth (demo): 0 of 2 stages done, 1 running, 1 starting; more than 4 min 35 s left"
    assert blank == ""
    assert heading.split() == ["stage", "where", "at", "loss", "left"]
    assert first.startswith(f"pretrain {STAGE.id}  node17 pid 4711 job 99  seed 0 (1 of 3) epoch 2.5 of 10  0.5")
    assert second.split() == ["finetune", other.id, "starting"]


def test_the_table_fits_80_columns() -> None:
    """With an id of a usual length, no word of it is broken."""
    stage = Stage("pretrain", "mnist-rbm400-layer2", {})
    holder = Holder(ELSEWHERE, lives=True, silent=0.0)
    owner = {"rule": "pretrain", "owner": ELSEWHERE, "part": "seed 12", "position": 13, "units": 20}
    counted = {"done": 1, "total": 9, "counted": "steps", "epoch": 12.4, "epochs": 150.0, "seconds": 1.0, "rate": 1.0}
    progress = running.Progress(
        **owner, **counted, figures={"hidden_activity": 0.1, "loss": 0.12345}, left=7050.0, written=time.time()
    )
    console = Console(width=80, record=True, file=open(os.devnull, "w"))  # noqa: SIM115 - closed with the process
    console.print(_table([_cells(Condition(stage, State.RUNNING, holder, progress))]))
    console.file.close()
    lines = console.export_text().splitlines()
    assert [" ".join(line.split()) for line in lines if line.strip()] == [
        "stage where at loss left",
        "pretrain node17 seed 12 (13 of 20) 0.1235 1 h 57 min",
        f"{stage.id} pid 4711 epoch 12.4 of 150",
        "job 99",
    ]


def test_many_that_failed_are_named_by_one_short_command(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    stages = [Stage("pretrain", "layer", {"n": n}) for n in range(40)]
    for stage in stages:
        write_log(store, "dlpipe: no\n", stage=stage)
    plan_file(store, *stages)
    out = status(capsys, code=1)
    assert len(out.splitlines()) < 60
    assert "and 30 more" in out
    assert "snakemake --cores all $(dlpipe status --targets) --config experiments=depth scale=demo" in out
    targets = status(capsys, "--targets", code=1).splitlines()
    assert targets == [f"results/layers/{stage.id}/manifest.json" for stage in stages]


def test_commands_name_folders_that_are_elsewhere(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    there = Store("my data", "out")
    plan_file(there, STAGE, data="my data", results="out")
    write_log(there, "dlpipe: no\n")
    out = status(capsys, "--data", "my data", "--results", "out", code=1)
    assert f"  dlpipe pretrain {STAGE.id} --data 'my data' --results out\n" in out
    assert "experiments=depth scale=demo 'data=my data' results=out" in out


def test_json(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    leave_progress(store, take_lock(store, ELSEWHERE))
    failed = Stage("finetune", "net", {})
    write_log(store, "one\ndlpipe: two\n", stage=failed)
    plan_file(store, STAGE, failed)
    document = json.loads(status(capsys, "--json", code=1))
    assert document["counts"]["running"] == document["counts"]["failed"] == 1
    first, second = document["stages"]
    assert (first["owner"], first["progress"]["figures"], first["rerun"]) == (ELSEWHERE, {"loss": 0.5}, None)
    assert (second["last_lines"], second["rerun"]) == (["one", "dlpipe: two"], f"dlpipe finetune {failed.id}")
    assert run(command_line, ["status", "--json", "--watch"]) == 2
