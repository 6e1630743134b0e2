"""A block of seeds: what the stages that train have in common. One process trains its seeds one after another."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from dlpipe.artifacts import Draft, Stage, Store
from dlpipe.runtime import devices, history
from dlpipe.runtime.checkpoints import Checkpoints, Snapshot
from dlpipe.runtime.loop import Job, Outcome, part, train
from dlpipe.runtime.stopping import Stopping
from dlpipe.spec.training import TrainingSpec

CHECKPOINT_EVERY = 60.0
"""Seconds between two periodic savings."""


class Block:
    """The artifact of trained seeds in the making: weights.safetensors and history.csv."""

    def __init__(
        self, stage: Stage, draft: Draft, device: torch.device, checkpoints: Checkpoints, stopping: Stopping
    ) -> None:
        self.stage, self.draft, self.device = stage, draft, device
        self.checkpoints, self.stopping = checkpoints, stopping
        self.weights: dict[str, Tensor] = {}
        self.rows: list[history.Row] = []
        self.seconds: dict[str, float] = {}

    def train(self, job: Job, training: TrainingSpec) -> Outcome:
        """Trains one job, or goes on where an earlier process stopped, or takes up what one had finished."""
        saved = self.checkpoints.load(job.unit)
        if saved is not None and saved.values["finished"]:
            job.module.load_state_dict(part(saved.tensors, "module"))
            return Outcome(**saved.values["outcome"])
        outcome = train(job, training, checkpoints=self.checkpoints, stopping=self.stopping, saved=saved)
        values = {"finished": True, "outcome": vars(outcome)}
        module = {f"module/{name}": tensor.clone() for name, tensor in job.module.state_dict().items()}
        self.checkpoints.keep(job.unit, Snapshot(module, values))
        return outcome

    def add(self, job: Job, outcome: Outcome, seconds: float | None = None) -> None:
        """Takes a finished job into the artifact. `seconds`: what the seed cost, where it is more than this job."""
        state = job.module.state_dict()
        self.weights |= {
            f"{job.seed}/{name}": tensor.to("cpu", copy=True).contiguous() for name, tensor in state.items()
        }
        self.rows += history.rows(job.phase, job.seed, outcome.validations)
        self.seconds[str(job.seed)] = round(outcome.seconds if seconds is None else seconds, 3)

    def write(self, **extra: Any) -> None:
        save_file(self.weights, self.draft.folder / "weights.safetensors")
        history.write(self.draft.folder / "history.csv", self.rows)
        self.draft.extra.update(seconds=self.seconds, **extra)


@contextlib.contextmanager
def block(stage: Stage, store: Store, *, device: str, threads: int, deadline: float | None) -> Iterator[Block]:
    """Prepares the device, takes the stage's lock and latches signals; the artifact stands when the context is left."""
    with Stopping(deadline) as stopping:
        chosen = devices.prepare(device, threads)
        name = devices.describe(chosen)
        with store.make(stage, threads=threads, device=name, gpus=devices.gpus(chosen)) as draft:
            key: Mapping[str, Any] = {
                "stage": stage.id,
                "device": name,
                "threads": threads,
                "torch": torch.__version__,
            }
            checkpoints = Checkpoints(store.checkpoints(stage), key, every=CHECKPOINT_EVERY, alive=draft.lock.beat)
            yield Block(stage, draft, chosen, checkpoints, stopping)
