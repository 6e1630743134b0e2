"""Pretrain: one layer, on the representation of the layers below it; without labels, unless its kind sees them."""

from __future__ import annotations

from operator import attrgetter
from typing import Any

from torch import Tensor

from dlpipe.artifacts import Artifact, Stage, Store
from dlpipe.runtime.batches import Shuffled
from dlpipe.runtime.block import Block, Cost, block
from dlpipe.runtime.data import Layers, Split, build_layer, component, read_split
from dlpipe.runtime.jobs import Job
from dlpipe.runtime.ranks import join
from dlpipe.runtime.streams import stream
from dlpipe.spec.training import TrainingSpec
from dlpipe.tasks.base import means


def run(
    stage: Stage, store: Store, *, device: str = "auto", threads: int = 1, deadline: float | None = None
) -> Artifact:
    """Makes the layer of `stage`, a state for every seed. Raises Interrupted (run again to go on) and TrainingError."""
    ranks = join()
    if ranks.decide(store.is_done(stage.rule, stage.id)):
        return store.read_or_set_aside(stage.rule, stage.id)
    data = store.read_or_set_aside("prepare", stage.inputs["data"])
    below = Layers(store, stage.inputs["below"], data)
    training = TrainingSpec.model_validate(stage.spec["training"])
    cost = _cost(stage, below, training)
    with block(stage, store, ranks, device=device, threads=threads, deadline=deadline, cost=cost) as work:
        train, valid = (read_split(data, split, work.device) for split in ("train", "valid"))
        train = train.first(stage.spec.get("labelled"))
        for seeds in work.groups:
            jobs = [_job(work, below, seed, train, valid) for seed in seeds]
            for job, outcome in zip(jobs, work.train(jobs, training), strict=True):
                work.add(job, outcome)
        work.write()
    return store.read(stage.rule, stage.id)


def _cost(stage: Stage, below: Layers, training: TrainingSpec) -> Cost | None:
    spec: Any = component("layer", stage.spec["layer"])
    if not spec.batches_seeds or not training.batches_seeds:
        return None
    products = spec.products * spec.parameters(below.outputs, int(stage.spec["units"]))
    examples = stage.spec.get("labelled") or below.data.extra["sizes"]["train"]
    return Cost(products * training.batch_size, examples * below.outputs if below.artifacts else 0)


def _job(work: Block, below: Layers, seed: int, train: Split, valid: Split) -> Job:
    """The layer with its initial parameters, and what the layers below make of the data."""
    phase = f"pretrain/{len(below.artifacts) + 1}"
    declared = work.stage.spec["layer"]
    spec: Any = component("layer", declared)
    layer: Any = build_layer(declared, below.outputs, int(work.stage.spec["units"]), below.data)
    stack = below.stack(seed, work.device)
    inputs = stack.encode(train.inputs)
    layer.initialise(inputs.mean(dim=0).cpu(), stream(seed, f"{phase}/initialise"))
    layer.to(work.device)

    def examples(encoded: Tensor, split: Split) -> tuple[Tensor, ...]:
        return (encoded, split.targets) if spec.sees_labels else (encoded,)

    held_out = examples(stack.encode(valid.inputs), valid) if len(valid) else ()

    def validate() -> dict[str, float]:
        return means(layer.validate, *held_out) if held_out else {}

    batches, name, step_of = Shuffled(examples(inputs, train)), work.stage.id, attrgetter("step")
    return Job(layer, step_of(layer), validate, batches, stage=name, phase=phase, seed=seed, step_of=step_of)
