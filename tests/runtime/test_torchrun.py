"""The real command with --ranks 2, from outside: what it prints, how it ends, and that nothing lives on."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from dlpipe.artifacts import Stage, Store, write_stages
from dlpipe.locks import Lock
from tests.stages.small import finetune_stage, prepared, pretrain_stage

ROOT = Path(__file__).parents[2]
PCD = {"kind": "rbm", "persistent": True, "chains": 10}
ADAM = {"kind": "adam", "learning_rate": 0.001}
NET = {"kind": "mlp", "units": [8], "dropout": 0.2}
LONG = {"epochs": 400.0, "validate_every": {"epochs": 100.0}, "seeds": (0,)}
"""2,000 steps, about two seconds: long enough to be stopped on the way."""


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "data", tmp_path / "results")


def planned(store: Store, stage: Stage) -> Stage:
    write_stages(store, [stage])
    return stage


def command(store: Store, stage: Stage, *options: str) -> list[str]:
    where = ["--data", str(store.data), "--results", str(store.results)]
    return [sys.executable, "-m", "dlpipe", stage.rule, stage.id, *where, *(options or ("--ranks", "2"))]


def start(store: Store, stage: Stage, faults: Path | None = None) -> subprocess.Popen[str]:
    path = os.pathsep.join(str(folder) for folder in (faults, ROOT) if folder is not None)
    # A launcher that is killed leaves its temporary folder behind.
    environment = {**os.environ, "PYTHONPATH": path, "TMPDIR": str(store.results.parent)}
    return subprocess.Popen(
        command(store, stage), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )


def ranks_of(stage: Stage) -> list[int]:
    """Processes whose command line names the stage, the launcher among them."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if stage.id.encode() in words:
            found.append(int(folder.name))
    return found


def wait_for(condition: Callable[[], bool], seconds: float) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not come to pass"
        time.sleep(0.05)


def training(store: Store, stage: Stage) -> bool:
    """Whether the ranks have begun: the lock is taken, and a little time has passed for the first steps."""
    if not (store.results / ".locks" / f"{stage.id}.json").exists():
        return False
    time.sleep(0.5)
    return True


def bytes_of(store: Store, stage: Stage) -> dict[str, str]:
    return {name: about["sha256"] for name, about in store.read(stage.rule, stage.id).manifest["files"].items()}


def messages(error: str) -> list[str]:
    """Its lines without those of progress, for which a busy machine has time."""
    return [line for line in error.splitlines() if " of 2,000 steps, " not in line]


STAGES: dict[str, Callable[[Store], Stage]] = {
    "pcd": lambda store: pretrain_stage(prepared(store), PCD, **LONG),
    "classifier": lambda store: finetune_stage(prepared(store), model=NET, optimizer=ADAM, clip_norm=1.0, **LONG),
}


@pytest.mark.slow  # three real launches, each of which imports torch in three processes
@pytest.mark.parametrize("name", STAGES)
def test_stopped_by_sigusr1_to_the_launcher_it_ends_in_the_same_bytes(name: str, store: Store, tmp_path: Path) -> None:
    stage = planned(store, STAGES[name](store))
    with start(store, stage) as process:
        wait_for(lambda: training(store, stage), 60)
        process.send_signal(signal.SIGUSR1)
        out, error = process.communicate(timeout=60)
    assert (process.returncode, out) == (1, "")
    told = re.findall(r"^dlpipe: .* stopped by SIGUSR1 at step (\d+) of 2000, state saved; run the same", error, re.M)
    assert len(told) == 1, error
    assert 0 < int(told[0]) < 2000
    assert "Traceback" not in error
    assert len(messages(error)) == 1, error
    assert [path.name for path in store.checkpoints(stage).iterdir()] == ["seed0-restart0.safetensors"]
    done = subprocess.run(command(store, stage), check=True, capture_output=True, text=True, cwd=ROOT)
    assert done.stdout == f"{store.folder(stage.rule, stage.id)}\n"
    other = Store(tmp_path / "other" / "data", tmp_path / "other" / "results")
    planned(other, STAGES[name](other))
    # The undisturbed run is torchrun's own command: two ways to start the same ranks.
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    python, *words = command(other, stage, "--threads", "1")
    subprocess.run([python, *torchrun, *words], check=True, capture_output=True, cwd=ROOT)
    assert bytes_of(store, stage) == bytes_of(other, stage)
    assert ranks_of(stage) == []


def test_ctrl_c_exits_with_130_once_the_state_is_saved(store: Store) -> None:
    stage = planned(store, STAGES["pcd"](store))
    with start(store, stage) as process:
        wait_for(lambda: training(store, stage), 60)
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert error.count("stopped by SIGINT") == 1
    assert len(messages(error)) == 1, error
    assert store.checkpoints(stage).exists()


def test_when_the_launcher_is_killed_the_ranks_save_and_end(store: Store) -> None:
    stage = planned(store, STAGES["pcd"](store))
    with start(store, stage) as process:
        wait_for(lambda: training(store, stage), 60)
        assert len(ranks_of(stage)) == 3
        process.kill()
        wait_for(lambda: not ranks_of(stage), 10)
    assert store.checkpoints(stage).exists()
    assert not store.is_done(stage.rule, stage.id)


def test_when_a_rank_is_killed_all_end_and_the_launcher_says_so(store: Store) -> None:
    stage = planned(store, STAGES["pcd"](store))
    with start(store, stage) as process:
        wait_for(lambda: training(store, stage), 60)
        owner = json.loads((store.results / ".locks" / f"{stage.id}.json").read_text())["pid"]
        (second,) = set(ranks_of(stage)) - {owner, process.pid}
        os.kill(second, signal.SIGKILL)
        _, error = process.communicate(timeout=20)
    assert process.returncode == 1
    assert messages(error) == [f"dlpipe: rank 1 (process {second}) was ended by SIGKILL; the others stopped"]
    assert ranks_of(stage) == []


def test_what_all_ranks_refuse_is_said_once(store: Store) -> None:
    stage = planned(store, pretrain_stage(prepared(store), batch_size=15))
    done = subprocess.run(command(store, stage), capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 1
    assert re.fullmatch(r"dlpipe: .*2 ranks cannot have equal shares of batch_size 15; make it .*\n", done.stderr)


def test_a_lock_that_a_live_process_holds_is_waited_for_to_the_deadline_and_said_once(store: Store) -> None:
    """Before any rank is started."""
    stage = planned(store, STAGES["pcd"](store))
    with Lock(store.results / ".locks" / f"{stage.id}.json"):
        waiting = [*command(store, stage), "--deadline", "2"]
        done = subprocess.run(waiting, capture_output=True, text=True, cwd=ROOT, check=False, timeout=30)
    assert done.returncode == 1
    holder = f"process {os.getpid()} on .*"
    said = f"{holder} is making {stage.id}. Waiting for it\ndlpipe: {holder} is still making {stage.id}\n"
    assert re.fullmatch(said, done.stderr)
    assert ranks_of(stage) == []


FAULT = """
import os
if os.environ.get("RANK") == "{rank}":
    from dlpipe.layers.rbm import RBM
    steps = 0
    def step(self, v, generator, own=RBM.step):
        global steps
        steps += 1
        if steps == 5:
            {what}
        return own(self, v, generator)
    RBM.step = step
"""


@pytest.mark.parametrize(
    ("rank", "what", "lines"),
    [
        (1, "raise OSError('the disk of rank 1 is full')", ["dlpipe: the disk of rank 1 is full"]),
        (1, "raise ValueError('a mistake')", ["dlpipe: rank 1 failed", "[rank1]: Traceback (most recent call last):"]),
        (0, "raise ValueError('a mistake')", ["[rank0]: Traceback (most recent call last):"]),
    ],
)
def test_an_error_in_one_rank_ends_all_within_seconds(
    rank: int, what: str, lines: list[str], store: Store, tmp_path: Path
) -> None:
    """An expected error is a message; a mistake in the program shows its traceback, whichever rank has it."""
    (tmp_path / "sitecustomize.py").write_text(FAULT.format(rank=rank, what=what))
    stage = planned(store, STAGES["pcd"](store))
    with start(store, stage, faults=tmp_path) as process:
        _, error = process.communicate(timeout=30)
    assert process.returncode == 1
    assert messages(error)[: len(lines)] == lines
    assert error.count("ValueError: a mistake") == (1 if "mistake" in what else 0), error
    assert error.count("full") == (1 if "full" in what else 0), error
    assert "torch/distributed" not in error
    assert ranks_of(stage) == []
