"""Weight noise, a regulariser: the gradient of a step is that of weights near the present ones (Graves 2011)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import torch

from dlpipe.runtime.jobs import Job
from dlpipe.runtime.streams import stream


@contextlib.contextmanager
def weight_noise(jobs: Sequence[Job], step: int, deviation: float | None) -> Iterator[None]:
    """While entered, each parameter that is trained is off by a draw from N(0, deviation^2); then it is as it was.

    The draws are the same on all ranks. Of jobs that are trained together the parameters are windows into the stack's.
    """
    if deviation is None:
        yield
        return
    clean = []
    for job in jobs:
        generator = stream(job.seed, f"{job.phase}/weights", job.restart, step, device=job.batches.device)
        for parameter in job.module.parameters():
            if parameter.requires_grad:
                weights = parameter.data
                clean.append((weights, weights.clone()))
                weights.add_(torch.empty_like(weights).normal_(0.0, deviation, generator=generator))
    try:
        yield
    finally:
        for weights, before in clean:
            weights.copy_(before)
