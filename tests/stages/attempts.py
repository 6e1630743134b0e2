"""Real processes that train a stage and are killed on the way, forked from a server that has imported torch once."""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dlpipe.artifacts import Stage, Store

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    [
        *(
            f"dlpipe.stages.{stage}"
            for stage in ("fetch", "prepare", "pretrain", "finetune", "evaluate", "plot", "report")
        ),
        *("dlpipe.cli", "dlpipe.commands.stages", "dlpipe.commands.planning", "dlpipe.commands.inspecting"),
        *("dlpipe.figures.canvas", "dlpipe.report.page", "sklearn.datasets"),
    ]
)


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
class Place:
    """Of a process among those that train together, and where it leaves word."""

    rank: int
    world: int
    meeting: Path

    @property
    def report(self) -> Path:
        return self.meeting.with_suffix(f".{self.rank}.json")

    @property
    def error(self) -> Path:
        return self.meeting.with_suffix(f".{self.rank}.log")


@dataclass(frozen=True)
class Attempt:
    exit_code: int | None
    """Negative: the signal that ended it."""
    steps: int
    seconds: float
    error: str


def attempt(stage: Stage, store: Store, fate: Fate = Fate(), device: str = "auto") -> Attempt:
    """Runs the stage in a process of its own, to its end."""
    return attempt_together(stage, store, [fate], device)[0]


def attempt_together(stage: Stage, store: Store, fates: Sequence[Fate], device: str = "auto") -> list[Attempt]:
    """Runs the stage in as many processes as there are fates, as ranks if there are several, each to its end."""
    store.results.mkdir(parents=True, exist_ok=True)
    meeting = store.results / f"attempt-{time.time_ns()}.meeting"
    places = [Place(rank, len(fates), meeting) for rank in range(len(fates))]
    processes = []
    started = time.monotonic()
    for place, fate in zip(places, fates, strict=True):
        place.report.write_text(json.dumps({"steps": 0}))
        processes.append(CONTEXT.Process(target=_run, args=(stage.to_json(), store, fate, place, device)))
        processes[-1].start()
    attempts = []
    for place, process in zip(places, processes, strict=True):
        process.join(60)
        assert process.exitcode is not None, "the process hangs"
        steps = json.loads(place.report.read_text())["steps"]
        seconds = time.monotonic() - started
        attempts.append(Attempt(process.exitcode, steps, seconds, place.error.read_text()))
    return attempts


def _run(document: dict[str, Any], store: Store, fate: Fate, place: Place, device: str) -> None:
    """In the child. Steps are counted as they are done, whatever happens after."""
    from dlpipe.runtime import loop
    from dlpipe.runtime.checkpoints import Checkpoints
    from dlpipe.stages import finetune, pretrain

    sys.stderr = place.error.open("w", buffering=1)
    if place.world > 1:
        become_rank(place)
    steps, one_step = 0, loop._Loop._one_step

    def counted(self: loop._Loop, *arguments: Any) -> None:
        nonlocal steps
        one_step(self, *arguments)
        steps += 1
        place.report.write_text(json.dumps({"steps": steps}))
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


def become_rank(place: Place) -> None:
    """What torchrun would have set and what `join` would have done, but over a file."""
    import torch.distributed as dist

    os.environ["TORCHELASTIC_RUN_ID"] = "attempt"
    os.environ |= {"RANK": str(place.rank), "WORLD_SIZE": str(place.world), "LOCAL_RANK": str(place.rank)}
    os.environ |= {"GLOO_SOCKET_IFNAME": "lo", "TORCHELASTIC_ERROR_FILE": str(place.error.with_suffix(".json"))}
    dist.init_process_group("gloo", init_method=f"file://{place.meeting}", rank=place.rank, world_size=place.world)
