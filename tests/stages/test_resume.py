"""A run that was stopped and started again ends in the bytes of an undisturbed one, whatever stopped it, and where."""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from dlpipe.artifacts import Stage, Store, write_stages
from tests.stages.attempts import Attempt, Fate, attempt
from tests.stages.small import finetune_stage, prepared, pretrain_stage

EPOCHS = 6.0
"""Of 5 steps, for two seeds at once; one after another where the rate follows the loss."""
ADAM = {"kind": "adam", "learning_rate": 0.01}
MOMENTUM = {"kind": "sgd", "learning_rate": 0.1, "momentum": 0.9}
NET = {"kind": "mlp", "units": [8, 8], "dropout": 0.2}


def first_layer(store: Store) -> str:
    stage = pretrain_stage(prepared(store), epochs=1.0)
    assert attempt(stage, store).exit_code == 0
    return stage.id


STAGES: dict[str, Callable[[Store], Stage]] = {
    "rbm-cd": lambda store: pretrain_stage(prepared(store), {"kind": "rbm", "cd_steps": 2}, epochs=EPOCHS),
    "rbm-pcd": lambda store: pretrain_stage(
        prepared(store), {"kind": "rbm", "persistent": True, "chains": 7}, epochs=EPOCHS
    ),
    "autoencoder": lambda store: pretrain_stage(
        prepared(store), {"kind": "autoencoder", "corruption": 0.3}, epochs=EPOCHS
    ),
    "second-layer": lambda store: pretrain_stage(
        prepared(store), {"kind": "rbm"}, (first_layer(store),), units=6, epochs=EPOCHS
    ),
    "momentum": lambda store: finetune_stage(prepared(store), model=NET, optimizer=MOMENTUM, epochs=EPOCHS),
    "adam": lambda store: finetune_stage(prepared(store), model=NET, optimizer=ADAM, epochs=EPOCHS, clip_norm=0.1),
    "weight-noise": lambda store: finetune_stage(prepared(store), model=NET, epochs=EPOCHS, weight_noise=0.1),
    # It is still getting better, with a best to remember, when it is stopped early on, and stops by itself later.
    "early-stopping": lambda store: finetune_stage(
        prepared(store),
        optimizer=MOMENTUM,
        epochs=40.0,
        early_stopping={"by": "valid_error", "patience": {"epochs": 2.0}},
    ),
    # A rate at which the loss does not fall for long.
    "plateau": lambda store: finetune_stage(
        prepared(store),
        optimizer={"kind": "sgd", "learning_rate": 5.0},
        epochs=EPOCHS,
        schedule={"kind": "halve_on_plateau", "patience": 1},
        validate_every={"steps": 3},
    ),
    "best-of": lambda store: finetune_stage(
        prepared(store), optimizer=ADAM, epochs=3.0, select={"best_of": 3, "by": "valid_loss"}, labelled=60
    ),
    # One setting of the three diverges after a few steps.
    "grid": lambda store: finetune_stage(
        prepared(store),
        model={**NET, "activation": "relu", "dropout": 0.0},
        optimizer=MOMENTUM,
        epochs=3.0,
        select={"grid": {"optimizer.learning_rate": [0.01, 1e6, 0.1]}, "by": "valid_loss"},
        on_divergence="record",
    ),
}


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[dict[str, str], Attempt]]:
    """Files of a stage made in one go (name to sha256), and how it went; each stage once."""
    root = tmp_path_factory.mktemp("undisturbed")
    store = Store(root / "data", root / "results")
    attempts: dict[str, Attempt] = {}

    def made(name: str) -> tuple[dict[str, str], Attempt]:
        stage = STAGES[name](store)
        if name not in attempts:
            attempts[name] = attempt(stage, store)
        return files(store, stage), attempts[name]

    return made


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "data", tmp_path / "results")


def files(store: Store, stage: Stage) -> dict[str, str]:
    return {name: about["sha256"] for name, about in store.read(stage.rule, stage.id).manifest["files"].items()}


@pytest.mark.parametrize("name", STAGES)
def test_same_spec_twice_same_bytes(name: str, store: Store, undisturbed: Callable) -> None:
    stage = STAGES[name](store)
    assert attempt(stage, store).exit_code == 0
    assert files(store, stage) == undisturbed(name)[0]


@pytest.mark.parametrize("name", STAGES)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_stopped_and_started_again_ends_in_the_same_bytes(
    name: str, number: signal.Signals, store: Store, undisturbed: Callable
) -> None:
    """Stopped twice, each time at a random step; a kill loses the steps since the last saving, a signal none."""
    expected, whole = undisturbed(name)
    stage = STAGES[name](store)
    draw = random.Random(f"{name} {number.name}")
    first = draw.randrange(4, whole.steps // 2)
    second = draw.randrange(1, (whole.steps - first) // 2)
    save_every = 3 if number == signal.SIGKILL else None
    done = 0
    for after in (first, second):
        stopped = attempt(stage, store, Fate(number, after, save_every))
        assert stopped.exit_code == (-signal.SIGKILL if number == signal.SIGKILL else 1)
        assert not store.is_done(stage.rule, stage.id)
        done += after if save_every is None else (after - 1) // save_every * save_every
    last = attempt(stage, store)
    assert last.exit_code == 0
    assert files(store, stage) == expected
    assert last.steps == whole.steps - done, "it went on, and did not start anew"
    assert not store.checkpoints(stage).exists()


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 1), (signal.SIGUSR1, 1), (signal.SIGINT, 130)], ids=lambda value: str(value)
)
def test_every_signal_says_where_it_stopped_and_what_to_do(
    number: signal.Signals, code: int, store: Store, undisturbed: Callable
) -> None:
    stage = STAGES["rbm-cd"](store)
    stopped = attempt(stage, store, Fate(number, after=13))
    assert stopped.exit_code == code
    message = f"{stage.id} seeds 0, 1: stopped by {number.name} at step 13 of 30, state saved; run the same command"
    assert message in stopped.error
    assert attempt(stage, store).steps == 17
    assert files(store, stage) == undisturbed("rbm-cd")[0]


def test_a_deadline_stops_in_time_and_the_same_command_goes_on(store: Store, undisturbed: Callable) -> None:
    """30 steps of 40 ms would take 1.2 s; the deadline is 0.6 s from the start."""
    stage = STAGES["momentum"](store)
    stopped = attempt(stage, store, Fate(sleep=0.04, deadline=0.6))
    assert stopped.exit_code == 1
    assert "stopped by deadline" in stopped.error
    assert 0 < stopped.steps < 30
    last = attempt(stage, store, Fate(deadline=60.0))
    assert (last.exit_code, last.steps) == (0, 30 - stopped.steps)
    assert files(store, stage) == undisturbed("momentum")[0]


COMMAND = """
import sys
from dlpipe.artifacts import Store, read_stage
from dlpipe.stages import finetune
from dlpipe.runtime.stopping import Interrupted
store = Store(*sys.argv[1:3])
try:
    finetune.run(read_stage(store, sys.argv[3]), store)
except Interrupted as interrupted:
    sys.exit(interrupted.exit_code)
"""


def test_a_program_of_its_own_stopped_from_outside(store: Store, tmp_path: Path) -> None:
    """Nothing is put in its way: 4,000 steps, which take about a second, and SIGTERM soon after they have begun."""
    stage = finetune_stage(prepared(store), epochs=800.0, validate_every={"epochs": 100.0}, seeds=(0,))
    write_stages(store, [stage])
    command = [sys.executable, "-c", COMMAND, str(store.data), str(store.results), stage.id]
    with subprocess.Popen(command, stderr=subprocess.PIPE) as process:
        while not (store.results / ".locks" / f"{stage.id}.json").exists():
            assert process.poll() is None, process.communicate()[1].decode()
            time.sleep(0.01)
        time.sleep(0.3)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 1
    assert [path.name for path in store.checkpoints(stage).iterdir()] == ["seed0-restart0.safetensors"]
    assert subprocess.run(command, check=True, capture_output=True).returncode == 0
    other = Store(tmp_path / "other" / "data", tmp_path / "other" / "results")
    prepared(other)
    assert attempt(stage, other).exit_code == 0
    assert files(store, stage) == files(other, stage)


def test_another_stages_checkpoint_is_refused(store: Store, undisturbed: Callable) -> None:
    """What was saved by one learning rate is put in the place of another's."""
    own, other = STAGES["momentum"](store), STAGES["adam"](store)
    assert attempt(other, store, Fate(signal.SIGTERM, after=10)).exit_code == 1
    shutil.copytree(store.checkpoints(other), store.checkpoints(own))
    last = attempt(own, store)
    assert (last.exit_code, last.steps) == (0, 30)
    assert "starting seeds0-1-restart0 anew" in last.error
    assert files(store, own) == undisturbed("momentum")[0]


def test_the_kinds_of_state_are_really_at_work(undisturbed: Callable, store: Store) -> None:
    """Early stopping stops, the plateau halves, and restarts differ: otherwise their tests above would show nothing."""
    assert undisturbed("early-stopping")[1].steps < 40 * 5
    stage = STAGES["plateau"](store)
    attempt(stage, store)
    history = store.read(stage.rule, stage.id).path("history.csv").read_text()
    rates = {float(line.split(",")[-1]) for line in history.splitlines() if ",learning_rate," in line}
    assert 5.0 in rates
    assert len(rates) > 1
