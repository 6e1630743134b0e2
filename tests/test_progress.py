"""Bars on a terminal, a line now and then elsewhere; stdout is left alone."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import subprocess
import sys

import pytest

from dlpipe import progress

TRAINING = """
import time
from dlpipe.progress import track
with track("layer 1", 20) as update:
    for step in range(1, 21):
        time.sleep(0.02)
        update(step, loss=1 / step)
"""


def on_a_terminal(**environment: str) -> tuple[bytes, bytes]:
    """What TRAINING writes to a terminal on stderr, and to a pipe on stdout."""
    outer, inner = pty.openpty()
    child = subprocess.Popen(
        [sys.executable, "-c", TRAINING],
        stdout=subprocess.PIPE,
        stderr=inner,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "120", **environment},
    )
    os.close(inner)
    shown = b""
    with contextlib.suppress(OSError):  # the terminal is gone when the child is
        while chunk := os.read(outer, 4096):
            shown += chunk
    out, _ = child.communicate()
    os.close(outer)
    return shown, out


def test_a_bar_on_a_terminal():
    shown, out = on_a_terminal()
    assert b"layer 1" in shown
    assert b"20/20" in shown
    assert b"loss 0.05" in shown
    assert out == b""


def test_no_color_is_respected():
    coloured, _ = on_a_terminal()
    plain, _ = on_a_terminal(NO_COLOR="1")
    colour = re.compile(rb"\x1b\[(?:3|9)\d")
    assert colour.search(coloured)
    assert not colour.search(plain)


class Clock:
    """Time that a test sets."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr(progress.time, "monotonic", lambda: self.now)
        monkeypatch.setattr(progress, "LINES", progress.Pace(progress.LINE_EVERY))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def test_lines_in_a_log(clock: Clock, capsys: pytest.CaptureFixture[str]):
    with progress.track("layer 1", 2000, per_epoch=400) as update:
        for clock.now, done in ((0, 0), (1, 100), (6, 600), (7, 700), (12, 1200)):
            update(done, loss=0.25)
    out, err = capsys.readouterr()
    assert out == ""
    assert err == (
        "layer 1: 600 of 2,000 steps, epoch 1.5 of 5, 100 a second, 14 s left, loss 0.25\n"
        "layer 1: 1,200 of 2,000 steps, epoch 3 of 5, 100 a second, 8 s left, loss 0.25\n"
    )


def test_the_rate_is_that_of_this_process(clock: Clock, capsys: pytest.CaptureFixture[str]):
    """It goes on at step 900; 10 steps in 10 s are one a second, and 90 are left."""
    with progress.track("layer 1", 1000) as update:
        for clock.now, done in ((0, 900), (10, 910)):
            update(done)
    assert capsys.readouterr().err == "layer 1: 910 of 1,000 steps, 1 a second, 1 min 30 s left\n"


def test_what_is_short_shares_the_lines(clock: Clock, capsys: pytest.CaptureFixture[str]):
    """Twelve seeds of a second each: a line every five seconds, not none at all, and not one a seed."""
    for seed in range(12):
        with progress.track(f"seed {seed}", 10) as update:
            for step in range(11):
                clock.now = seed + step / 10
                update(step)
    assert [line.split(":")[0] for line in capsys.readouterr().err.splitlines()] == ["seed 4", "seed 9"]


def test_of_what_size_it_is_may_not_be_known(clock: Clock, capsys: pytest.CaptureFixture[str]):
    told: list[progress.Count] = []
    with progress.track("archive.zip", None, "bytes", leave=told.append) as update:
        for clock.now, done in ((0, 1000), (8, 5000)):
            update(done)
    assert capsys.readouterr().err == "archive.zip: 5,000 bytes, 500 a second\n"
    assert [(count.done, count.rate, count.left) for count in told] == [(1000, None, None), (5000, 500.0, None)]


def test_slow_steps_are_shown_by_the_clock(clock: Clock):
    with progress.track("layer 1", 10) as update:
        update(0)
        assert not update.due()
        clock.now = 4.9
        assert not update.due()
        clock.now = 5.0
        assert update.due()
        update(1)
        assert not update.due()
