"""Stopping in time: latched signals and a deadline, acted on at a step boundary, after the state is saved."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

from dlpipe.errors import StepError

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
MARGIN = 0.05
"""Share of the deadline (at most 30 s) that is kept for saving and for leaving."""


class Interrupted(StepError):
    """Training was asked to stop and has saved its state. `exit_code` is what the process should exit with."""

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.exit_code = 130 if reason == "SIGINT" else 1


class Stopping:
    """While entered, SIGTERM, SIGUSR1 and SIGINT only set `reason`; so does the deadline, `deadline` seconds from now.

    A second SIGINT raises KeyboardInterrupt at once. Outside the main thread signals are left alone.
    """

    def __init__(self, deadline: float | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._until = None if deadline is None else clock() + deadline - min(MARGIN * deadline, 30.0)
        self._signal: str | None = None
        self._previous: dict[signal.Signals, Any] = {}

    def reason(self, needed: float = 0.0) -> str | None:
        """Why to stop now (SIGTERM, SIGUSR1, SIGINT, deadline), or None. `needed`: seconds that stopping takes."""
        if self._signal is not None:
            return self._signal
        if self._until is not None and self._clock() + needed >= self._until:
            return "deadline"
        return None

    def __enter__(self) -> Stopping:
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._latch) for number in SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _latch(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self._signal == "SIGINT":
            raise KeyboardInterrupt
        self._signal = signal.Signals(number).name
