"""dlpipe's own commands as processes that something can happen to, forked from a server that has imported all once."""

from __future__ import annotations

import contextlib
import os
import signal
import struct
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.stages.attempts import CONTEXT

Upset = Callable[[], object]
"""What is done in the process before its command: a module's function, or a `partial` of one."""
PATIENCE = 120.0
"""Seconds after which a process counts as hanging."""


@dataclass(frozen=True)
class Ended:
    exit_code: int
    """Negative: the signal that ended it."""
    out: str
    err: str
    seconds: float

    def says(self, *words: str) -> bool:
        """A message with these words and no traceback."""
        return all(word in self.err for word in words) and "Traceback" not in self.out + self.err


@dataclass
class Running:
    process: Any
    folder: Path
    """Of what it prints."""
    started: float = field(default_factory=time.monotonic)

    def kill(self, number: int = signal.SIGKILL) -> Ended:
        with contextlib.suppress(ProcessLookupError):  # it has ended by itself
            os.kill(self.process.pid, number)
        return self.end()

    def end(self) -> Ended:
        self.process.join(PATIENCE)
        assert self.process.exitcode is not None, f"the process hangs: {self.printed('err')}"
        return Ended(self.process.exitcode, self.printed("out"), self.printed("err"), time.monotonic() - self.started)

    @property
    def lives(self) -> bool:
        return bool(self.process.is_alive())

    def printed(self, what: str) -> str:
        path = self.folder / what
        return path.read_text() if path.exists() else ""

    def wait_for(self, event: Callable[[], object]) -> None:
        """Until something is seen; the test fails when the process ends first."""
        end = time.monotonic() + PATIENCE
        while not event():
            assert self.lives, self.printed("err")
            assert time.monotonic() < end, "it never came"
            time.sleep(0.005)


def start(folder: Path, *arguments: str, upset: Upset | None = None) -> Running:
    """`dlpipe ARGUMENTS` in `folder`, in a process of its own."""
    prints = Path(tempfile.mkdtemp(dir=folder.parent, prefix="prints-"))
    process = CONTEXT.Process(target=_run, args=(folder, arguments, upset, prints))
    process.start()
    return Running(process, prints)


def dlpipe(folder: Path, *arguments: str, upset: Upset | None = None) -> Ended:
    return start(folder, *arguments, upset=upset).end()


def _run(folder: Path, arguments: tuple[str, ...], upset: Upset | None, prints: Path) -> None:
    """In the child."""
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(prints / name, os.O_WRONLY | os.O_CREAT), number)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1, closefd=False) for number in (1, 2))
    os.chdir(folder)
    from dlpipe.cli import command_line, run

    if upset is not None:
        upset()
    sys.exit(run(command_line, list(arguments)))


def saving_every(seconds: float) -> None:
    """Checkpoints that often, and not once a minute, however long a saving takes."""
    from dlpipe.runtime import block, checkpoints

    block.CHECKPOINT_EVERY = seconds
    checkpoints.LARGEST_SHARE = float("inf")


def slow_steps(seconds: float, record: Path, save_every: float = 60.0) -> None:
    """Steps of training that take at least so long, each with its time (by the monotonic clock) in `record`."""
    from dlpipe.runtime import loop

    saving_every(save_every)
    one_step = loop._Loop._one_step
    file = record.open("ab", buffering=0)

    def slowly(self: loop._Loop, *arguments: Any) -> None:
        one_step(self, *arguments)
        time.sleep(seconds)
        file.write(struct.pack("d", time.monotonic()))

    loop._Loop._one_step = slowly  # type: ignore[method-assign]


def steps(record: Path) -> list[float]:
    """When each step ended that `slow_steps` recorded."""
    content = record.read_bytes() if record.exists() else b""
    return [moment for (moment,) in struct.iter_unpack("d", content[: len(content) // 8 * 8])]


WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
CHANGES = ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "shutil.rmtree", "os.truncate")
_allowed: list[Path] = []
_written: list[str] = []
_installed: list[bool] = []


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    """An audit hook, which stays for good: idle while nothing is allowed."""
    if not _allowed or not arguments or not isinstance(arguments[0], str | os.PathLike):
        return
    if event in CHANGES or (event == "open" and isinstance(arguments[2], int) and arguments[2] & WRITING):
        path = Path(os.path.abspath(os.fspath(arguments[0])))
        if not path.is_relative_to(_allowed[-1]) and path != Path(os.devnull) and "__pycache__" not in path.parts:
            _written.append(f"{event} {path}")


@contextlib.contextmanager
def no_writing_outside(folder: Path) -> Iterator[None]:
    """The test fails when this process opens a file for writing, or moves or removes one, anywhere else."""
    if not _installed:
        sys.addaudithook(_watch)
        _installed.append(True)
    _allowed.append(folder)
    _written.clear()
    try:
        yield
    finally:
        _allowed.pop()
    assert not _written
