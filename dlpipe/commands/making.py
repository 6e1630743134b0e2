"""Stages are made: each once nobody else is at it, on a free GPU, in one process or several, up to a deadline."""

from __future__ import annotations

import importlib
import time
from collections.abc import Iterator, Sequence
from typing import Any

import click
from pydantic import ValidationError

from dlpipe.artifacts import ArtifactError, Stage, Store
from dlpipe.errors import StepError
from dlpipe.gpus import Share
from dlpipe.locks import Lock, LockedError, wait_until_free
from dlpipe.progress import say
from dlpipe.runtime import torchrun


def make_stages(
    stages: Sequence[Stage],
    store: Store,
    *,
    deadline: float | None = None,
    ranks: int = 1,
    jobs_per_gpu: int = 1,
    **options: Any,
) -> Iterator[Stage]:
    """Makes them one after another and yields each. `deadline`: seconds for all of them together, waiting included.

    `options` are those of the stage's `run`: device and threads, or where to fetch from.
    """
    until = None if deadline is None else time.monotonic() + deadline
    if torchrun.is_rank():
        for stage in stages:
            _make_as_rank(stage, store, until, options)
            yield stage
        return
    with Share(options.get("device", "cpu"), count=ranks, jobs_per_gpu=jobs_per_gpu) as gpus:
        for stage in stages:
            _make_once_free(stage, store, until, gpus, ranks, options)
            yield stage


def _make_once_free(
    stage: Stage, store: Store, until: float | None, gpus: Share, ranks: int, options: dict[str, Any]
) -> None:
    """Makes the stage, unless a live process is at it: an orphan of a job that was put back into the queue, or another
    driver's job. Its artifact serves as well; if it dies, this process goes on from its checkpoint."""
    lock = store.lock_file(stage.rule, stage.id)
    while not store.is_done(stage.rule, stage.id):  # a stage that stands costs no GPU and no import of torch
        try:
            Lock(lock).check_free()  # before a GPU is taken and processes are started
            if "device" in options:
                device = _device(gpus, f"{stage.rule} {stage.id}", until)
                options = {**options, "device": device, "threads": options["threads"] or stage.hints.get("threads", 1)}
            if ranks == 1:
                _run(stage, store, until, options)
            else:
                _launch(stage, store, until, ranks, options)
            return
        except LockedError as error:
            if error.path != lock:
                raise
            say(f"{error}. Waiting for it")
            wait_until_free(lock, until)


def _device(gpus: Share, what: str, until: float | None) -> str:
    """Takes a GPU if one is to be used, before torch is there; what torch is told. Gives back what torch cannot use."""
    device = gpus.device(what, until)
    if device == "auto" and gpus.devices:
        import torch

        if not torch.cuda.is_available():
            return gpus.give_back()
    return device


def _run(stage: Stage, store: Store, until: float | None, options: dict[str, Any]) -> None:
    try:
        importlib.import_module(f"dlpipe.stages.{stage.rule}").run(stage, store, **options, **_time_left(until))
    except ValidationError as error:  # the plan's own documents are valid
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise ArtifactError(
            f"the stage document of {stage.id} is wrong: {where}: {first['msg']}; plan again"
        ) from error


def _time_left(until: float | None) -> dict[str, float]:
    return {} if until is None else {"deadline": max(0.001, until - time.monotonic())}


def _launch(stage: Stage, store: Store, until: float | None, ranks: int, options: dict[str, Any]) -> None:
    """In several processes, each of which comes to `_make_as_rank`."""
    where = {"data": store.data, "results": store.results, **options, **_time_left(until)}
    words = [str(word) for name, value in where.items() for word in (f"--{name}", value)]
    torchrun.launch(ranks, [stage.rule, stage.id, *words])


def _make_as_rank(stage: Stage, store: Store, until: float | None, options: dict[str, Any]) -> None:
    """An error goes to the launcher, which tells it once."""
    torchrun.end_with_launcher()
    try:
        _run(stage, store, until, options)
    except (StepError, OSError) as error:
        torchrun.leave_error(error)
        raise click.exceptions.Exit(1) from error
