"""Real processes that train a stage and are killed on the way, forked from a server that has imported torch once."""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dlpipe.artifacts import Stage, Store

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["dlpipe.stages.pretrain", "dlpipe.stages.finetune", "dlpipe.stages.evaluate"])


@dataclass(frozen=True)
class Fate:
    """What befalls the process: a signal after so many steps, saving every so many, steps that take a while."""

    signal: int | None = None
    after: int = 0
    save_every: int | None = None
    """Steps between savings; by the clock, which is a minute, if absent."""
    sleep: float = 0.0
    """Seconds a step."""
    deadline: float | None = None


@dataclass(frozen=True)
class Attempt:
    exit_code: int | None
    """Negative: the signal that ended it."""
    steps: int
    seconds: float
    error: str


def attempt(stage: Stage, store: Store, fate: Fate = Fate(), device: str = "auto") -> Attempt:
    """Runs the stage in a process of its own, to its end."""
    report = store.results / "attempt.json"
    report.parent.mkdir(parents=True, exist_ok=True)
    report.write_text(json.dumps({"steps": 0}))
    error = store.results / "attempt.log"
    process = CONTEXT.Process(target=_run, args=(stage.to_json(), store, fate, device, report, error))
    started = time.monotonic()
    process.start()
    process.join(60)
    assert process.exitcode is not None, "the process hangs"
    steps = json.loads(report.read_text())["steps"]
    return Attempt(process.exitcode, steps, time.monotonic() - started, error.read_text())


def _run(document: dict[str, Any], store: Store, fate: Fate, device: str, report: Path, error: Path) -> None:
    """In the child. Steps are counted as they are done, whatever happens after."""
    from dlpipe.runtime import loop
    from dlpipe.runtime.checkpoints import Checkpoints
    from dlpipe.stages import finetune, pretrain

    sys.stderr = error.open("w", buffering=1)
    steps, one_step = 0, loop._Loop._one_step

    def counted(self: loop._Loop, *arguments: Any) -> None:
        nonlocal steps
        one_step(self, *arguments)
        steps += 1
        report.write_text(json.dumps({"steps": steps}))
        time.sleep(fate.sleep)
        if fate.signal is not None and steps == fate.after:
            os.kill(os.getpid(), fate.signal)

    def due(self: Checkpoints) -> bool:
        return fate.save_every is not None and steps % fate.save_every == 0

    loop._Loop._one_step = counted  # type: ignore[method-assign]
    if fate.save_every is not None:
        Checkpoints.due = due  # type: ignore[method-assign]
    stage = Stage.from_json(document)
    run = {"pretrain": pretrain.run, "finetune": finetune.run}[stage.rule]
    try:
        run(stage, store, device=device, deadline=fate.deadline)
    except loop.Interrupted as interrupted:
        print(interrupted, file=sys.stderr)
        sys.exit(interrupted.exit_code)
