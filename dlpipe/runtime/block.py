"""A block of seeds: what the stages that train have in common. One process trains its seeds one after another.

Of several ranks all train, and the first one writes.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from dlpipe.artifacts import Draft, Stage, Store
from dlpipe.locks import Lock
from dlpipe.running import Record
from dlpipe.runtime import devices, history, torchrun
from dlpipe.runtime.checkpoints import Checkpoints, Snapshot
from dlpipe.runtime.loop import Job, Outcome, part, train
from dlpipe.runtime.ranks import Ranks
from dlpipe.runtime.stopping import Stopping
from dlpipe.spec.training import TrainingSpec

CHECKPOINT_EVERY = 60.0
"""Seconds between two periodic savings."""


class Block:
    """The artifact of trained seeds in the making: weights.safetensors and history.csv."""

    def __init__(
        self,
        stage: Stage,
        draft: Draft,
        ranks: Ranks,
        device: torch.device,
        checkpoints: Checkpoints,
        stopping: Stopping,
        record: Record | None,
    ) -> None:
        self.stage, self.draft, self.ranks, self.device = stage, draft, ranks, device
        self.checkpoints, self.stopping, self.record = checkpoints, stopping, record
        self.begun = 0
        """Jobs, up to the one that is trained."""
        self.weights: dict[str, Tensor] = {}
        self.rows: list[history.Row] = []
        self.seconds: dict[str, float] = {}
        self.seconds_a_step: dict[str, float] = {}

    def train(self, job: Job, training: TrainingSpec) -> Outcome:
        """Trains one job, or goes on where an earlier process stopped, or takes up what one had finished."""
        self.begun += 1
        saved = self.checkpoints.load(job.unit)
        if saved is not None and saved.values["finished"]:
            job.module.load_state_dict(part(saved.tensors, "module"))
            return Outcome(**saved.values["outcome"])
        told = {} if self.record is None else {"leave": self.record.unit(job.unit_in_words, self.begun)}
        outcome = train(
            job, training, checkpoints=self.checkpoints, stopping=self.stopping, saved=saved, ranks=self.ranks, **told
        )
        values = {"finished": True, "outcome": vars(outcome)}
        module = {f"module/{name}": tensor.clone() for name, tensor in job.module.state_dict().items()}
        if self.ranks.first:
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
        self.seconds_a_step[str(job.seed)] = outcome.seconds / outcome.validations[-1][0]

    def write(self, **extra: Any) -> None:
        if not self.ranks.first:
            return
        with self.draft.tensors("weights.safetensors") as path:
            save_file(self.weights, path)
        history.write(self.draft.folder / "history.csv", self.rows)
        self.draft.extra.update(
            seconds=self.seconds,
            seconds_a_step=self.seconds_a_step,
            saving_seconds=round(self.checkpoints.spent, 3),
            **extra,
        )


@contextlib.contextmanager
def block(
    stage: Stage,
    store: Store,
    ranks: Ranks,
    *,
    device: str,
    threads: int,
    deadline: float | None,
    tries: int = 1,
) -> Iterator[Block]:
    """Prepares the device, takes the stage's lock and latches signals; the artifact stands when the context is left.

    `tries`: jobs a seed.
    """
    with Stopping(deadline) as stopping:
        chosen = devices.prepare(ranks.device(device), threads)
        name = devices.describe(chosen)
        facts = {"threads": threads, "device": name, "ranks": ranks.world}
        key: Mapping[str, Any] = {"stage": stage.id, "torch": torch.__version__, **facts}
        making = store.make(stage, **facts, gpus=devices.gpus(chosen)) if ranks.first else _scratch()
        with contextlib.ExitStack() as stack:
            draft = stack.enter_context(making)
            record = None
            if ranks.first:
                record = stack.enter_context(Record(store, stage, draft.lock, units=len(stage.seeds) * tries))
            checkpoints = Checkpoints(store.checkpoints(stage), key, every=CHECKPOINT_EVERY, alive=draft.lock.beat)
            yield Block(stage, draft, ranks, chosen, checkpoints, stopping, record)
        ranks.barrier()


@contextlib.contextmanager
def _scratch() -> Iterator[Draft]:
    """The draft of a rank that writes nothing: what lands in it is thrown away."""
    with tempfile.TemporaryDirectory(prefix="dlpipe-rank-", dir=torchrun.folder()) as folder:
        yield Draft(Path(folder), Lock(Path(folder) / "lock"))
