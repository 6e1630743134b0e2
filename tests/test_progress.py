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


def test_lines_in_a_log(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    now = iter([0.0, 1.0, 6.0, 7.0, 12.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(now))
    with progress.track("layer 1", 2000) as update:
        for done in (100, 600, 700, 1200):
            update(done, loss=0.25)
    out, err = capsys.readouterr()
    assert out == ""
    assert err == (
        "layer 1: 600 of 2,000 steps, 100 a second, 14 s left loss 0.25\n"
        "layer 1: 1,200 of 2,000 steps, 100 a second, 8 s left loss 0.25\n"
    )
