"""Pretrain: one layer, without labels, on the representation of the layers below it."""

from __future__ import annotations

from typing import Any

from dlpipe.artifacts import Artifact, Stage, Store
from dlpipe.runtime.block import Block, block
from dlpipe.runtime.data import Layers, build, chunks, component, features, read_split
from dlpipe.runtime.loop import Job
from dlpipe.runtime.ranks import join
from dlpipe.runtime.streams import stream
from dlpipe.spec.training import TrainingSpec


def run(
    stage: Stage, store: Store, *, device: str = "auto", threads: int = 1, deadline: float | None = None
) -> Artifact:
    """Makes the layer of `stage`, a state for every seed. Raises Interrupted (run again to go on) and TrainingError."""
    ranks = join()
    if ranks.decide(store.is_done(stage.rule, stage.id)):
        return store.read_or_set_aside(stage.rule, stage.id)
    data = store.read_or_set_aside("prepare", stage.inputs["data"])
    below = Layers(store, stage.inputs["below"], features(data))
    with block(stage, store, ranks, device=device, threads=threads, deadline=deadline) as work:
        train, valid = (read_split(data, split, work.device).inputs for split in ("train", "valid"))
        training = TrainingSpec.model_validate(stage.spec["training"])
        for seed in stage.seeds:
            stack = below.stack(seed, work.device)
            job = _job(work, below, seed, stack.encode(train), stack.encode(valid) if len(valid) else valid)
            work.add(job, work.train(job, training))
        work.write()
    return store.read(stage.rule, stage.id)


def _job(work: Block, below: Layers, seed: int, train: Any, valid: Any) -> Job:
    """The layer with its initial parameters; `train` and `valid` are what the layers below make of the data."""
    phase = f"pretrain/{len(below.artifacts) + 1}"
    spec = component("layer", work.stage.spec["layer"])
    layer: Any = build(spec, visible=below.outputs, hidden=int(work.stage.spec["units"]))
    layer.initialise(train.mean(dim=0).cpu(), stream(seed, f"{phase}/initialise"))
    layer.to(work.device)

    def validate() -> dict[str, float]:
        """The layer's metrics are means over examples; so is their mean over chunks, weighted by size."""
        totals: dict[str, float] = {}
        for chunk in chunks(valid):
            for name, value in layer.validate(chunk).items():
                totals[name] = totals.get(name, 0.0) + float(value) * len(chunk) / len(valid)
        return totals

    return Job(layer, layer.step, validate, (train,), stage=work.stage.id, phase=phase, seed=seed)
