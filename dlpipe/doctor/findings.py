"""What a check finds, and how a check asks another program."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

PATIENCE = 20.0
"""Seconds a program may take: SLURM's own commands give up, and say why, after ten."""


class State(StrEnum):
    OK = "ok"
    NOTE = "note"
    """Fine as it is, and good to know."""
    WARN = "warn"
    """Works, but slower, later or less safely than it could."""
    FAIL = "FAIL"
    """dlpipe cannot work like this."""


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's: what was looked at, what was found, and, unless all is well, what to do about it."""

    state: State
    subject: str
    found: str
    advice: str = ""


def ok(subject: str, found: str) -> Finding:
    return Finding(State.OK, subject, found)


def note(subject: str, found: str, advice: str) -> Finding:
    return Finding(State.NOTE, subject, found, advice)


def warn(subject: str, found: str, advice: str) -> Finding:
    return Finding(State.WARN, subject, found, advice)


def fail(subject: str, found: str, advice: str) -> Finding:
    return Finding(State.FAIL, subject, found, advice)


def look(subject: str, check: Callable[..., list[Finding]], *arguments: object) -> list[Finding]:
    """What the check finds; that it could not finish is a finding too, and the next check has its turn."""
    try:
        return check(*arguments)
    except (ImportError, OSError, ValueError, LookupError) as error:
        advice = "This check could not be made; the rest of the list still holds."
        return [fail(subject, f"{type(error).__name__}: {error}", advice)]


@dataclass(frozen=True)
class Answer:
    """What a program said on stdout, and, when it failed, why in one line."""

    text: str
    problem: str = ""


def ask(*command: str, patience: float | None = None) -> Answer:
    """Runs a program, without a shell, in the C locale, and not for ever."""
    seconds = PATIENCE if patience is None else patience
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            env={**os.environ, "LC_ALL": "C"},
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Answer("", f"no answer within {seconds:g} s")
    except OSError as error:
        return Answer("", f"{command[0]}: {error.strerror}")
    if done.returncode == 0:
        return Answer(done.stdout)
    if done.returncode < 0:
        return Answer(done.stdout, f"ended by signal {-done.returncode}")
    lines = done.stderr.split("\n") if done.stderr.strip() else done.stdout.split("\n")[:1]
    said = [line.strip() for line in lines if line.strip()]
    return Answer(done.stdout, said[-1] if said else f"exit code {done.returncode}")
