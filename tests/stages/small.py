"""Small stages for the tests of training: stage documents and prepared data, made without plan, fetch and prepare."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from safetensors.torch import save_file

from dlpipe.artifacts import Stage, Store

SHAPE = (4, 4)
CLASSES = 3
SIZES = {"train": 90, "valid": 30, "test": 30}
SGD = {"kind": "sgd", "learning_rate": 0.1, "momentum": 0.5}
RBM = {"kind": "rbm"}
CLASSIFICATION = {"kind": "classification"}


def prepared(
    store: Store,
    sizes: Mapping[str, int] = SIZES,
    wrong_from: int | None = None,
    shape: tuple[int, ...] = SHAPE,
) -> str:
    """Noisy copies of three random patterns, uint8, in the format of prepare; the id of the artifact.

    The training examples from number `wrong_from` on have another class's label.
    """
    spec = {"sizes": dict(sizes), "wrong_from": wrong_from, "shape": list(shape)}
    stage = Stage("prepare", "blobs", spec, {"raw": "none-000000000000"})
    if store.is_done("prepare", stage.id):
        return stage.id
    generator = torch.Generator().manual_seed(0)
    patterns = torch.rand(CLASSES, *shape, generator=generator) < 0.5
    tensors = {}
    for split, n in sizes.items():
        targets = torch.arange(n) % CLASSES
        flips = torch.rand(n, *shape, generator=generator) < 0.2
        tensors[f"{split}.inputs"] = (patterns[targets] ^ flips).to(torch.uint8) * 255
        tensors[f"{split}.targets"] = targets
    if wrong_from is not None:
        tensors["train.targets"][wrong_from:] = (tensors["train.targets"][wrong_from:] + 1) % CLASSES
    with store.make(stage) as draft:
        save_file(tensors, draft.folder / "data.safetensors")
        draft.extra.update(input_shape=list(shape), classes=list("abc"), scale=255.0, sizes=dict(sizes), terms="none")
    return stage.id


def training(epochs: float = 2.0, optimizer: Mapping[str, Any] = SGD, **fields: Any) -> dict[str, Any]:
    return {"duration": {"epochs": epochs}, "optimizer": dict(optimizer), "batch_size": 20, **fields}


def pretrain_stage(
    data: str,
    layer: Mapping[str, Any] = RBM,
    below: tuple[str, ...] = (),
    units: int = 8,
    seeds: tuple[int, ...] = (0, 1),
    **fields: Any,
) -> Stage:
    spec = {"layer": dict(layer), "units": units, "training": training(**fields)}
    versions = {"layer.rbm": 1}
    return Stage("pretrain", "blobs-layer", spec, {"data": data, "below": list(below)}, seeds, versions)


def finetune_stage(
    data: str,
    layers: tuple[str, ...] = (),
    start: str | None = None,
    model: Mapping[str, Any] | None = None,
    labelled: int | None = None,
    select: Mapping[str, Any] | None = None,
    seeds: tuple[int, ...] = (0, 1),
    train: str = "all",
    task: Mapping[str, Any] = CLASSIFICATION,
    **fields: Any,
) -> Stage:
    phase = {"task": dict(task), "training": training(**fields), "train": train, "select": select}
    spec = {"phase": phase, "model": dict(model or {"kind": "mlp", "units": [8]}), "labelled": labelled}
    inputs: dict[str, Any] = {"data": data, "layers": list(layers)}
    if start is not None:
        inputs["start"] = start
    return Stage("finetune", "blobs-mlp", spec, inputs, seeds, {"model.mlp": 1})


def evaluate_stage(
    finetune: Stage,
    layers: tuple[str, ...] = (),
    phases: tuple[str, ...] = (),
    measures: Sequence[Mapping[str, Any]] = (),
) -> Stage:
    """Of the model that `finetune` leaves; `phases` are the ids of the phases before it."""
    spec = {
        "task": finetune.spec["phase"]["task"],
        "model": finetune.spec["model"],
        "labelled": finetune.spec["labelled"],
    }
    if measures:
        spec["measures"] = [dict(measure) for measure in measures]
    inputs = {
        "data": finetune.inputs["data"],
        "model": finetune.id,
        "phases": [*phases, finetune.id],
        "layers": list(layers),
    }
    return Stage("evaluate", "blobs-mlp", spec, inputs, finetune.seeds, {})
