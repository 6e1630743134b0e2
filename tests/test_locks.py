"""Waiting for whoever makes the same artifact, whatever becomes of them and of the clocks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from dlpipe import locks
from dlpipe.artifacts import Store, write_stages
from dlpipe.locks import Lock, LockedError, wait_until_free
from tests.stages.small import prepared, pretrain_stage

ELSEWHERE = {"host": "elsewhere", "pid": 1, "started": "1"}


@pytest.fixture(autouse=True)
def _looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "POLL_EVERY", 0.02)


def held_elsewhere(path: Path, age: float = 0.0) -> Path:
    path.write_text(json.dumps(ELSEWHERE))
    os.utime(path, (time.time() - age,) * 2)
    return path


def test_a_free_lock_is_not_waited_for(tmp_path):
    wait_until_free(tmp_path / "lock.json", until=0.0)


def test_a_live_owner_is_waited_for_until_it_lets_go(tmp_path):
    path = tmp_path / "lock.json"
    with Lock(path):
        threading.Timer(0.3, path.unlink).start()
        started = time.monotonic()
        wait_until_free(path)
    assert 0.25 < time.monotonic() - started < 5


def test_waiting_ends_with_the_deadline(tmp_path):
    with Lock(tmp_path / "x.json"), pytest.raises(LockedError, match=f"process {os.getpid()} on .* is still making x"):
        wait_until_free(tmp_path / "x.json", until=time.monotonic() + 0.2)


def test_a_dead_owner_is_not_waited_for(tmp_path):
    path = tmp_path / "lock.json"
    path.write_text(json.dumps({**Lock(path).owner, "started": "1"}))
    wait_until_free(path, until=0.0)
    assert not path.exists()


@pytest.mark.parametrize("age", [0.0, -86400.0, 86400.0], ids=["of-now", "of-tomorrow", "of-yesterday"])
def test_a_silent_owner_elsewhere_counts_as_dead_after_its_patience_whatever_clocks_say(tmp_path, monkeypatch, age):
    monkeypatch.setattr(Lock, "patience", 0.3)
    path = held_elsewhere(tmp_path / "lock.json", age)
    started = time.monotonic()
    wait_until_free(path)
    assert 0.3 <= time.monotonic() - started < 5
    assert not path.exists()


def test_an_owner_elsewhere_that_shows_itself_is_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(Lock, "patience", 0.3)
    path = held_elsewhere(tmp_path / "lock.json")
    for beat in range(4):
        threading.Timer(0.15 * beat, os.utime, (path,)).start()
    started = time.monotonic()
    wait_until_free(path)
    assert time.monotonic() - started >= 0.45 + 0.3


def test_a_lock_taken_anew_while_it_was_being_cleared_stays_with_its_owner(tmp_path):
    """Between the look and the clearing another process has buried the dead owner and taken the lock."""
    path = held_elsewhere(tmp_path / "lock.json")
    with Lock(tmp_path / "own.json") as lock:
        path.write_text((tmp_path / "own.json").read_text())
        locks._bury(path, ELSEWHERE)
        assert locks.read_owner(path) == lock.owner
    assert sorted(p.name for p in tmp_path.iterdir()) == ["lock.json"]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"host": "x"}', '{"host": "x", "pid": "../1", "started": "1"}'])
def test_a_lock_that_says_nothing_is_free(tmp_path, text):
    path = tmp_path / "lock.json"
    path.write_text(text)
    wait_until_free(path, until=0.0)
    with Lock(path) as lock:
        assert locks.read_owner(path) == lock.owner


def test_a_command_waits_for_the_process_that_makes_the_same_stage_and_takes_its_artifact(tmp_path):
    """Two of the same command at once: one trains, both end well, and the second says what it waited for."""
    store = Store(tmp_path / "data", tmp_path / "results")
    stage = pretrain_stage(prepared(store), epochs=1500.0, seeds=(0,), validate_every={"epochs": 100.0})
    write_stages(store, [stage])
    command = [sys.executable, "-m", "dlpipe", "pretrain", stage.id]
    command += ["--data", str(store.data), "--results", str(store.results), "--device", "cpu"]
    first, second = (subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(2))
    said = [process.communicate(timeout=60)[1] for process in (first, second)]
    assert (first.returncode, second.returncode) == (0, 0), said
    waited = [text for text in said if "Waiting for it" in text]
    assert len(waited) == 1
    assert f"is making {stage.id}" in waited[0]
    assert store.read("pretrain", stage.id).manifest["files"]
