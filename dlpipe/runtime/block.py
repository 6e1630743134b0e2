"""A block of seeds: what the stages that train have in common. One process trains all of them, together where a step of
each is small, else one after another.

Of several ranks all train, and the first one writes.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import save_file
from torch import Tensor

from dlpipe.artifacts import Draft, Stage, Store
from dlpipe.locks import Lock
from dlpipe.running import Record
from dlpipe.runtime import devices, history, torchrun
from dlpipe.runtime.checkpoints import Checkpoints, Snapshot
from dlpipe.runtime.jobs import Job, Outcome, in_words, unit
from dlpipe.runtime.loop import part, train_together
from dlpipe.runtime.ranks import Ranks
from dlpipe.runtime.stopping import Stopping
from dlpipe.spec.training import TrainingSpec

CHECKPOINT_EVERY = 60.0
"""Seconds between two periodic savings."""


class Cost(NamedTuple):
    """Of training one seed of several together."""

    multiplications: float
    """Of a step."""
    numbers: int
    """Of training data that are the seed's own: what its layers make of them."""


WORTH = {"cpu": Cost(1e7, 2 * 10**6), "cuda": Cost(1e9, 2 * 10**8)}
"""Up to which cost of a seed stacking is of use: of larger products those of one seed occupy the device, and the data
of all seeds need their memory at a time. For the CPU measured (benchmarks/seeds.py), for GPUs a guess."""


class Block:
    """The artifact of trained seeds in the making: weights.safetensors and history.csv."""

    def __init__(
        self,
        stage: Stage,
        draft: Draft,
        ranks: Ranks,
        device: torch.device,
        groups: Sequence[tuple[int, ...]],
        checkpoints: Checkpoints,
        stopping: Stopping,
        record: Record | None,
    ) -> None:
        self.stage, self.draft, self.ranks, self.device = stage, draft, ranks, device
        self.checkpoints, self.stopping, self.record = checkpoints, stopping, record
        self.groups = groups
        """Seeds that are trained together."""
        self.begun = 0
        """Trainings, up to the present one."""
        self.weights: dict[str, Tensor] = {}
        self.rows: list[history.Row] = []
        self.seconds: dict[str, float] = {}
        self.seconds_a_step: dict[str, float] = {}

    def train(self, jobs: Sequence[Job], training: TrainingSpec) -> list[Outcome]:
        """Trains the jobs of a group, or goes on where an earlier process stopped, or takes up what one had finished.

        An earlier process's order of seeds and tries is this one's.
        """
        self.begun += 1
        saved = self.checkpoints.load(unit(jobs))
        if saved is not None and saved.values["finished"]:
            for job in jobs:
                job.module.load_state_dict(part(saved.tensors, str(job.seed)))
            return [Outcome(**outcome) for outcome in saved.values["outcomes"]]
        told = {} if self.record is None else {"leave": self.record.unit(in_words(jobs), self.begun)}
        outcomes = train_together(
            jobs, training, checkpoints=self.checkpoints, stopping=self.stopping, saved=saved, ranks=self.ranks, **told
        )
        modules = {
            f"{job.seed}/{name}": tensor.clone() for job in jobs for name, tensor in job.module.state_dict().items()
        }
        if self.ranks.first:
            values = {"finished": True, "outcomes": [vars(outcome) for outcome in outcomes]}
            self.checkpoints.keep(unit(jobs), Snapshot(modules, values))
        return outcomes

    def add(self, job: Job, outcome: Outcome, seconds: float | None = None) -> None:
        """Takes a finished job into the artifact. `seconds`: what the seed cost, where it is more than this job."""
        state = job.module.state_dict()
        self.weights |= {
            f"{job.seed}/{name}": tensor.to("cpu", copy=True).contiguous() for name, tensor in state.items()
        }
        self.rows += history.rows(job.phase, job.seed, outcome.validations)
        self.seconds[str(job.seed)] = round(outcome.seconds if seconds is None else seconds, 3)
        if steps := outcome.validations[-1][0]:  # there are none where nothing was to be trained
            self.seconds_a_step[str(job.seed)] = outcome.seconds / steps

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
    cost: Cost | None,
    tries: int = 1,
) -> Iterator[Block]:
    """Prepares the device, takes the stage's lock and latches signals; the artifact stands when the context is left.

    `cost`: of a seed among those that are trained together; None where they cannot be. `tries`: jobs a seed.
    """
    with Stopping(deadline) as stopping:
        chosen = devices.prepare(ranks.device(device), threads)
        name = devices.describe(chosen)
        facts = {"threads": threads, "device": name, "ranks": ranks.world}
        key: Mapping[str, Any] = {"stage": stage.id, "torch": torch.__version__, "groups": True, **facts}
        groups = [stage.seeds] if ranks.world == 1 and _worth(cost, chosen) else [(seed,) for seed in stage.seeds]
        making = store.make(stage, **facts, gpus=devices.gpus(chosen)) if ranks.first else _scratch()
        with contextlib.ExitStack() as stack:
            draft = stack.enter_context(making)
            record = None
            if ranks.first:
                record = stack.enter_context(Record(store, stage, draft.lock, units=len(groups) * tries))
            checkpoints = Checkpoints(store.checkpoints(stage), key, every=CHECKPOINT_EVERY, alive=draft.lock.beat)
            yield Block(stage, draft, ranks, chosen, groups, checkpoints, stopping, record)
        ranks.barrier()


def _worth(cost: Cost | None, device: torch.device) -> bool:
    most = WORTH.get(device.type)
    return cost is not None and most is not None and all(own <= limit for own, limit in zip(cost, most, strict=True))


@contextlib.contextmanager
def _scratch() -> Iterator[Draft]:
    """The draft of a rank that writes nothing: what lands in it is thrown away."""
    with tempfile.TemporaryDirectory(prefix="dlpipe-rank-", dir=torchrun.folder()) as folder:
        yield Draft(Path(folder), Lock(Path(folder) / "lock"))
