"""Several processes (ranks) for one stage. torchrun starts them; this process waits and tells how it went, once.

The parts of torchrun are called, not its command: that logs, dumps a traceback for every failed rank and every signal,
and exits with 1 whatever the ranks exit with. They find each other over a file, where `torchrun --standalone` opens a
port to the network and unpickles what it is sent. A rank leaves its error in the file that torchrun names for it.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import logging
import os
import signal
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dlpipe.errors import StepError
from dlpipe.files import write_atomically
from dlpipe.runtime.stopping import SIGNALS

LAUNCHER = "DLPIPE_LAUNCHER"
"""Names the process that a rank was started by."""
ERROR_FILE = "TORCHELASTIC_ERROR_FILE"
"""Names the file in which torchrun looks for a rank's error."""
GRACE = 120
"""Seconds that the ranks have to save and to leave after a signal, before they are killed."""
LINES = 100
"""Of the output of a failed rank that left no message, how much is shown."""
CONSEQUENCES = (signal.SIGTERM, signal.SIGABRT)
"""Signals that end a rank because another one has failed: torchrun's own, and what a lost connection may lead to."""


class RanksFailed(StepError):
    """A rank failed, or all were told to stop; `exit_code` is what the process should exit with."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class PeerLost(StepError):
    """Another rank has gone; the reason is its own to tell."""


def is_rank() -> bool:
    """Whether torchrun started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def launch(ranks: int, arguments: Sequence[str]) -> None:
    """Runs `python -m dlpipe ARGUMENTS` in so many processes, to their end. Raises RanksFailed.

    The first one's stderr is this one's; what the others print is kept, and shown if they fail without a message.
    """
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException, Std
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    with tempfile.TemporaryDirectory(prefix="dlpipe-ranks-") as folder, _surroundings():
        outputs = {rank: Std.ALL if rank else Std.OUT for rank in range(ranks)}
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=ranks,
            run_id="ranks",
            rdzv_backend="c10d",
            rdzv_endpoint=f"{folder}/rendezvous",
            rdzv_configs={"store_type": "file"},
            max_restarts=0,
            monitor_interval=0.1,
            # Passed on to the ranks; without this torchrun dies of SIGUSR1 and leaves them running.
            signals_to_handle=",".join(number.name for number in SIGNALS),
            shutdown_timeout=GRACE,
            logs_specs=DefaultLogsSpecs(log_dir=folder, redirects=outputs),
        )
        try:
            elastic_launch(config, sys.executable)("-m", "dlpipe", *arguments)
        except ChildFailedError as error:
            raise _failure(Path(folder), error.failures) from None
        except SignalException as error:
            raise _stopped(Path(folder), signal.Signals(error.sigval)) from None


@contextlib.contextmanager
def _surroundings() -> Iterator[None]:
    """Keeps torchrun's log out of ours, says who we are, and gives back the signal handlers that torchrun changes."""
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    logging.disable(logging.CRITICAL)
    os.environ[LAUNCHER] = str(os.getpid())
    try:
        yield
    finally:
        del os.environ[LAUNCHER]
        logging.disable(logging.NOTSET)
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _failure(folder: Path, failures: Mapping[int, Any]) -> RanksFailed:
    """The cause, not its consequences: an error that a rank left, else a rank's violent end, else its last output."""
    errors = _errors(folder)
    for error in errors.values():
        if not error["consequence"]:
            return RanksFailed(error["message"], error["errorCode"])
    for rank, failure in sorted(failures.items()):
        if failure.exitcode < 0 and -failure.exitcode not in CONSEQUENCES:
            name = signal.Signals(-failure.exitcode).name
            return RanksFailed(f"rank {rank} (process {failure.pid}) was ended by {name}; the others stopped", 1)
    silent = sorted((failure.exitcode < 0, rank) for rank, failure in failures.items() if rank not in errors)
    if silent:
        _, rank = silent[0]
        return RanksFailed("\n".join([f"rank {rank} failed", *_output(folder, rank)]), 1)
    return RanksFailed("; ".join(error["message"] for error in errors.values()), 1)


def _stopped(folder: Path, number: signal.Signals) -> RanksFailed:
    """What the ranks say of it, which is nothing if they had not begun to train, or had finished."""
    for error in sorted(_errors(folder).values(), key=lambda error: error["consequence"]):
        return RanksFailed(error["message"], error["errorCode"])
    code = 130 if number == signal.SIGINT else 1
    return RanksFailed(f"stopped by {number.name}; run the same command again to go on", code)


def _errors(folder: Path) -> dict[int, dict[str, Any]]:
    """What `leave_error` left, by rank."""
    files = {int(path.parent.name): path for path in folder.glob("ranks_*/attempt_0/*/error.json")}
    return {rank: json.loads(files[rank].read_bytes())["message"] for rank in sorted(files)}


def _output(folder: Path, rank: int) -> list[str]:
    """The last lines of a rank's stderr; none of the first one's, which everybody has seen."""
    files = folder.glob(f"ranks_*/attempt_0/{rank}/stderr.log")
    return [line for path in files for line in path.read_text(errors="replace").splitlines()[-LINES:]]


# In a rank


def folder() -> Path | None:
    """Where a rank may leave what is not kept: the launcher removes it."""
    return Path(os.environ[ERROR_FILE]).parent if ERROR_FILE in os.environ else None


def leave_error(error: Exception) -> None:
    """Leaves a rank's error for the launcher to tell, in the file and the format that torchrun reads."""
    message = {
        "message": str(error),
        "errorCode": getattr(error, "exit_code", 1),
        "consequence": isinstance(error, PeerLost),
        "extraInfo": {"timestamp": "0"},
    }
    write_atomically(Path(os.environ[ERROR_FILE]), json.dumps({"message": message}))


def end_with_launcher() -> None:
    """Has the kernel send SIGTERM to this process when torchrun is no more, however it ended: state is saved, and no
    rank lives on."""
    set_parent_death_signal = 1  # PR_SET_PDEATHSIG of linux/prctl.h
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGTERM)
    if os.environ.get(LAUNCHER, str(os.getppid())) != str(os.getppid()):  # it has ended already
        os.kill(os.getpid(), signal.SIGTERM)
