"""What a job asks for: memory, time, processors and GPUs, from the size of its stage and the number of the attempt.

The size is estimated from the declared numbers alone, before anything is downloaded: examples, features, parameters,
steps. The estimates are generous, and they need not be right: a job that met its limit is tried again with twice as
much, and training goes on from its checkpoint. Nothing here changes a result, but for `threads`, which change the order
of sums: they depend on the stage alone, never on the machine or the attempt.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import dlpipe.spec.training  # noqa: F401 - registers every kind, those of other packages too
from dlpipe.artifacts import Stage
from dlpipe.spec.base import FAMILIES
from dlpipe.spec.datasets import DatasetSpec
from dlpipe.spec.layers import LayerSpec
from dlpipe.spec.measures import MeasureSpec
from dlpipe.spec.models import ModelSpec
from dlpipe.spec.schedules import Duration
from dlpipe.spec.selection import Select
from dlpipe.spec.sequences import Sequential
from dlpipe.spec.tasks import SequentialTask, TaskSpec

ON_A_DEVICE = frozenset({"pretrain", "finetune", "evaluate"})
CLASSES = 10
"""Outputs of a classifier, where only the data know: of no weight beside the hidden layers."""

FLOPS_A_SECOND = 2e10
"""Of one core, well below what a matrix product reaches."""
SECONDS_A_STEP = 5e-4
"""What a step costs besides its products."""
TIME_MARGIN = 3.0
MINUTES_TO_START = 10
"""Imports over a slow file system, a full node."""

PROGRAM_MB = {"fetch": 400, "prepare": 1500, "pretrain": 1500, "finetune": 1500, "evaluate": 1500, "plot": 800}
"""What the imports take, torch's on a machine with CUDA among them; `prepare` imports it, with torchtext, for text."""
DATA_COPIES = 3
"""Raw bytes, float32, what the layers below make of it, batches: in units of the float32 examples."""
PARAMETER_COPIES = 8
"""Parameter, gradient, two slots of the optimiser, the best so far, a snapshot, and the bytes that are written."""
FLOAT_BYTES = 4

GPU_SECONDS = 600.0
"""A stage that one core would be busy for longer with asks for a GPU, if the device is left to us."""
FLOPS_A_THREAD = 1e9
"""Floating-point operations a step that occupy one thread; less is not worth sharing out."""
MOST_THREADS = 4
CAPS = {"mem_mb": 128_000, "runtime": 2880, "gpu": 8}
"""MB, minutes and devices that no attempt exceeds, unless the config says otherwise."""


@dataclass(frozen=True)
class Size:
    """How much a stage has to do, over all its seeds."""

    examples: int = 0
    features: int = 0
    """Numbers an example, the representation that a layer is trained on included."""
    parameters: int = 0
    """Of one seed."""
    seeds: int = 1
    steps: int = 0
    flops: float = 0.0
    flops_a_step: float = 0.0

    @property
    def seconds(self) -> float:
        """On one core, without the margin."""
        return self.flops / FLOPS_A_SECOND + self.steps * SECONDS_A_STEP


def size_of(stage: Stage, find: Callable[[str], Stage]) -> Size:
    """`find` gives the stage of an id, for the data and the layers that a stage builds on."""
    if stage.rule == "plot":
        return Size()
    dataset = _dataset(stage if stage.rule in ("fetch", "prepare") else find(stage.inputs["data"]))
    examples, features = dataset.extent()
    if stage.rule in ("fetch", "prepare"):
        return Size(examples, features)
    if isinstance(dataset, Sequential):
        return _of_sequences(stage, dataset)
    if stage.rule == "evaluate":
        model = _model(stage)
        parameters = model.parameters(features, CLASSES)
        forward = 2.0 * model.multiplications(features, CLASSES) * examples
        flops = forward + len(stage.seeds) * _measuring(stage, parameters, features, find)
        return Size(examples, features, parameters, len(stage.seeds), flops=flops)
    trained_on = min(examples, dataset.train or examples)
    if stage.rule == "pretrain":
        below = stage.inputs["below"]
        visible = int(find(below[-1]).spec["units"]) if below else features
        layer = _component("layer", stage.spec["layer"], LayerSpec)
        trained_on = min(trained_on, stage.spec.get("labelled") or trained_on)
        parameters = layer.parameters(visible, int(stage.spec["units"]))
        work = 2.0 * layer.products * parameters
        return _training(stage, stage.spec["training"], trained_on, features + visible, parameters, work)
    phase, labelled = stage.spec["phase"], stage.spec["labelled"]
    model = _model(stage)
    tries = Select.model_validate(phase["select"]).tries if phase["select"] else 1
    trained = 0 if phase["train"] == "none" else tries
    trained_on = min(trained_on, labelled or trained_on)
    task: TaskSpec = _component("task", phase["task"], TaskSpec)
    batch = min(phase["training"]["batch_size"], trained_on)
    parameters = model.parameters(features, CLASSES)
    work = 2.0 * model.training_multiplications(task, features, CLASSES, batch)
    return _training(stage, phase["training"], trained_on, features, parameters, work, trained)


def _of_sequences(stage: Stage, dataset: Sequential) -> Size:
    """Of a stage that trains or evaluates on sequences, where `multiplications` are those of a step."""
    steps, features = dataset.extent()
    inputs, outputs = dataset.vocabulary_size() or features, dataset.vocabulary_size() or CLASSES
    model = _model(stage)
    parameters = model.parameters(inputs, outputs)
    if stage.rule == "evaluate":
        forward = 2.0 * model.multiplications(inputs, outputs) * steps
        return Size(steps, features, parameters, len(stage.seeds), flops=forward * len(stage.seeds))
    phase = stage.spec["phase"]
    task: Any = _component("task", phase["task"], SequentialTask)
    tries = Select.model_validate(phase["select"]).tries if phase["select"] else 1
    trained = 0 if phase["train"] == "none" else tries
    examples, length = task.examples(dataset)
    work = 2.0 * model.training_multiplications(task, inputs, outputs, phase["training"]["batch_size"]) * length
    size = _training(stage, phase["training"], examples, features, parameters, work, trained)
    # A step of a sequence costs what a step of training does, where no kernel of the library goes through all of them.
    return replace(size, examples=steps, steps=size.steps * length)


def _measuring(stage: Stage, parameters: int, features: int, find: Callable[[str], Stage]) -> float:
    """Operations of one seed that the measures take, of the model of so many parameters or of the lowest layer."""
    declared = [_component("measure", each, MeasureSpec) for each in stage.spec.get("measures", ())]
    measures = [measure for measure in declared if not measure.of_history]
    if measures and not _model(stage).measured:
        lowest = find(stage.inputs["layers"][0]).spec
        parameters = _component("layer", lowest["layer"], LayerSpec).parameters(features, int(lowest["units"]))
    return float(sum(measure.flops(parameters) for measure in measures))


def _training(
    stage: Stage,
    training: Mapping[str, Any],
    examples: int,
    features: int,
    parameters: int,
    flops_an_example: float,
    tries: int = 1,
) -> Size:
    batch = min(training["batch_size"], examples)
    steps = Duration.model_validate(training["duration"]).in_steps(examples, batch) * len(stage.seeds) * tries
    a_step = flops_an_example * batch
    return Size(examples, features, parameters, len(stage.seeds), steps, a_step * steps, a_step)


def mem_mb(stage: Stage, size: Size) -> int:
    numbers = DATA_COPIES * size.examples * size.features + PARAMETER_COPIES * size.parameters * size.seeds
    return PROGRAM_MB[stage.rule] + math.ceil(numbers * FLOAT_BYTES / 1e6)


def runtime(stage: Stage, size: Size) -> int:
    """Minutes. A download goes by the network, about which nothing is known: an hour."""
    if stage.rule == "fetch":
        return 60
    return MINUTES_TO_START + math.ceil(TIME_MARGIN * size.seconds / 60)


def gpu(size: Size, device: str) -> int:
    """Devices of a stage that computes: one if it is named, or if the stage is worth it."""
    return int(device != "auto" or size.seconds > GPU_SECONDS)


def threads(size: Size) -> int:
    """A power of two, as many as a step's products can occupy."""
    wanted = max(1.0, size.flops_a_step / FLOPS_A_THREAD)
    return min(MOST_THREADS, 2 ** round(math.log2(wanted)))


def ask(
    name: str, stage: Stage, size: Size, *, declared: int | None = None, device: str, attempt: int, cap: int
) -> int:
    """How much of `mem_mb`, `runtime` or `gpu` a job asks for: what its experiments declare, else the estimate.

    Of memory and time twice as much at each further attempt. A stage that computes nothing never asks for a GPU.
    """
    if name == "gpu":
        if stage.rule not in ON_A_DEVICE or device == "cpu":
            return 0
        most = 1 if stage.rule == "evaluate" else cap  # it is one process
        return min(gpu(size, device) if declared is None else declared, most)
    estimate = {"mem_mb": mem_mb, "runtime": runtime}[name]
    amount = estimate(stage, size) if declared is None else declared
    return int(min(amount * 2 ** (attempt - 1), cap))


def _component(family: str, declared: Mapping[str, Any], base: type[Any]) -> Any:
    spec = FAMILIES[family][declared["kind"]].model_validate(declared)
    assert isinstance(spec, base)
    return spec


def _dataset(stage: Stage) -> DatasetSpec:
    found: DatasetSpec = _component("dataset", stage.hints["dataset"], DatasetSpec)
    return found


def _model(stage: Stage) -> ModelSpec:
    found: ModelSpec = _component("model", stage.spec["model"], ModelSpec)
    return found
