from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

import pytest

from dlpipe.runtime.stopping import Interrupted, Stopping


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_a_signal_is_latched_and_the_old_handler_comes_back(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with Stopping() as stopping:
        assert stopping.reason() is None
        os.kill(os.getpid(), number)
        assert stopping.reason() == number.name
    assert signal.getsignal(number) is before


def test_a_second_interrupt_does_not_wait() -> None:
    def twice() -> None:
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)

    with Stopping(), pytest.raises(KeyboardInterrupt):
        twice()


def test_the_deadline_leaves_time_to_save() -> None:
    """A twentieth of it, and what the caller says it needs."""
    now = [100.0]
    stopping = Stopping(deadline=40.0, clock=lambda: now[0])
    for time, needed, reason in ((137.9, 0.0, None), (137.9, 0.2, "deadline"), (138.0, 0.0, "deadline")):
        now[0] = time
        assert stopping.reason(needed) == reason


def test_the_margin_of_a_long_deadline_is_half_a_minute() -> None:
    now = [0.0]
    stopping = Stopping(deadline=36000.0, clock=lambda: now[0])
    now[0] = 35969.9
    assert stopping.reason() is None
    now[0] = 35970.0
    assert stopping.reason() == "deadline"


def test_outside_the_main_thread_signals_are_left_alone() -> None:
    before = signal.getsignal(signal.SIGTERM)
    seen = []

    def enter() -> None:
        with Stopping():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert seen == [before]


def test_exit_codes() -> None:
    assert [Interrupted("", reason).exit_code for reason in ("SIGINT", "SIGTERM", "SIGUSR1", "deadline")] == [
        130,
        1,
        1,
        1,
    ]


def test_does_not_import_torch() -> None:
    """The command line imports it before it knows whether anything will be trained."""
    code = "import sys, dlpipe.runtime.stopping, dlpipe.runtime.history; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
