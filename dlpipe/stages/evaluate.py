"""Evaluate: what the trained models come to, for every seed, and what the figures need."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from dlpipe.artifacts import Artifact, Stage, Store
from dlpipe.errors import NotMeasurable
from dlpipe.provenance import origin
from dlpipe.runtime import devices, history
from dlpipe.runtime.data import (
    Layers,
    SequenceSplit,
    Stack,
    build_model,
    component,
    declared_task,
    features,
    load_weights,
    read_any,
)
from dlpipe.runtime.streams import stream
from dlpipe.spec.claims import DIVERGED
from dlpipe.tasks.base import Measured, Task

METRICS = ("seed", "metric", "value")
FILTERS = 64
RECONSTRUCTIONS = 10


def run(stage: Stage, store: Store, *, device: str = "auto", threads: int = 1) -> Artifact:
    """Makes the metrics of `stage`. Raises ArtifactError when something that it reads is missing or broken, and
    NotMeasurable where a training diverged and that is no result."""
    if store.is_done(stage.rule, stage.id):
        return store.read_or_set_aside(stage.rule, stage.id)
    chosen = devices.prepare(device, threads)
    facts = {"device": devices.describe(chosen), "gpus": devices.gpus(chosen)}
    with store.make(stage, threads=threads, **facts) as draft:
        Evaluation(stage, store, chosen).write(draft)
    return store.read(stage.rule, stage.id)


class Evaluation:
    """The artifacts that the stage reads, and what is computed from them."""

    def __init__(self, stage: Stage, store: Store, device: torch.device) -> None:
        self.stage, self.device = stage, device
        self.data = store.read_or_set_aside("prepare", stage.inputs["data"])
        self.layers = Layers(store, stage.inputs["layers"], self.data)
        self.phases = [store.read_or_set_aside("finetune", phase) for phase in stage.inputs["phases"]]
        last = stage.inputs["model"]
        self.model = next((p for p in self.phases if p.stage.id == last), None) or store.read_or_set_aside(
            "finetune", last
        )
        self.task: Task = declared_task(stage.spec["task"])
        self.splits: dict[str, Any] = {name: read_any(self.data, name, device) for name in ("train", "valid", "test")}
        self.inputs = {name: split.inputs for name, split in self.splits.items()}
        """Of all examples, with or without label: what the layers were trained on."""
        self.splits["train"] = self.splits["train"].first(stage.spec["labelled"])
        self.history = self._joined_history()
        self.diverged = {row.seed for row in self.history if row.metric == DIVERGED}
        """Seeds without a model: nothing is measured of them but that."""

    def write(self, draft: Any) -> None:
        table: list[tuple[int, str, float]] = []
        times: list[tuple[int, str, float]] = []
        measured: dict[int, Measured] = {}
        for seed in self.stage.seeds:
            found = self._measure(seed)
            if found is not None:
                measured[seed] = found
                table += [(seed, metric, value) for metric, value in found.metrics.items()]
                table += [(seed, f"chosen_{name}", value) for name, value in self._chosen(seed).items()]
            if self._divergence_is_a_result():
                table.append((seed, DIVERGED, float(found is None)))
            times.append((seed, "train_seconds", self._seconds(seed)))
        outputs = self._outputs(measured) if measured else {}
        # Copies: several may be windows on the same test examples, and a file has no tensors that share memory.
        tensors = {name: tensor.cpu().clone(memory_format=torch.contiguous_format) for name, tensor in outputs.items()}
        with draft.tensors("outputs.safetensors") as path:
            save_file(tensors, path)
        (draft.folder / "metrics.csv").write_text(history.to_csv(METRICS, table), encoding="utf-8")
        (draft.folder / "times.csv").write_text(history.to_csv(METRICS, times), encoding="utf-8")
        history.write(draft.folder / "history.csv", self.history)
        draft.extra.update(
            ancestors=[_ancestor(artifact) for artifact in (self.data, *self.layers.artifacts, *self.phases)],
            classes=self.data.extra["classes"],
            seconds_a_step=self._seconds_a_step(),
            input_shape=self.data.extra["input_shape"],
        )

    def _model(self, seed: int) -> Any:
        model = build_model(self.stage.spec["model"], self.task, self.data)
        load_weights(model, self.model, seed)
        return model.to(self.device).eval()

    def _measure(self, seed: int) -> Measured | None:
        """None of a seed whose training diverged. Without validation examples it may be seen here alone, such as by a
        density that has no integral: raises NotMeasurable where that is no result."""
        if seed in self.diverged:
            return None
        try:
            return self._measured(seed)
        except NotMeasurable as error:
            if self._divergence_is_a_result():
                return None
            raise NotMeasurable(f"seed {seed}: {error}; on_divergence: record makes it a result") from error

    def _measured(self, seed: int) -> Measured:
        """What the task measures of the model, and the declared measures of it or of the lowest layer."""
        model = self._model(seed)
        splits = {name: split for name, split in self.splits.items() if len(split)}
        measured = self.task.measure(model, splits)
        model_spec: Any = component("model", self.stage.spec["model"])
        for declared in self.stage.spec.get("measures", ()):
            spec: Any = component("measure", declared)
            measure = spec.load()(**spec.arguments())
            if spec.of_history:
                rows = [(row.phase, row.step, row.metric, row.value) for row in self.history if row.seed == seed]
                measured |= measure(rows)
                continue
            subject = model if model_spec.measured else self.layers.stack(seed, self.device).layers[0]
            inputs = self.splits if model_spec.sequential else self.inputs
            told = {"log_density": self._log_density} if spec.told_density else {}
            measured |= measure(subject, inputs, stream(seed, f"evaluate/{spec.kind}", device=self.device), **told)
        return measured

    def _log_density(self, points: Tensor) -> Tensor:
        """Of what the data are drawn from: [N, features] -> [N] float64, in nats."""
        declared: Any = component("dataset", self.data.stage.spec["dataset"])
        return torch.from_numpy(declared.load().log_density(declared, points.double().cpu().numpy()))

    def _seconds(self, seed: int) -> float:
        """What this seed's chain of layers and phases took to train."""
        chain = (*self.layers.artifacts, *self.phases)
        return float(sum(artifact.extra["seconds"][str(seed)] for artifact in chain))

    def _seconds_a_step(self) -> dict[str, dict[str, float]]:
        """By phase, as the history names it, and seed."""
        layers = {f"pretrain/{number}": layer for number, layer in enumerate(self.layers.artifacts, start=1)}
        phases = {f"finetune/{number}": phase for number, phase in enumerate(self.phases, start=1)}
        return {name: artifact.extra.get("seconds_a_step", {}) for name, artifact in (layers | phases).items()}

    def _divergence_is_a_result(self) -> bool:
        """Whether a layer or a phase was declared so."""
        trained = [layer.stage.spec["training"] for layer in self.layers.artifacts]
        trained += [phase.stage.spec["phase"]["training"] for phase in self.phases]
        return any(training.get("on_divergence") == "record" for training in trained)

    def _chosen(self, seed: int) -> dict[str, float]:
        """What this seed's phases took out of their grids, where it is a number, by its field's name."""
        settings = [phase.extra.get("chosen", {}).get(str(seed), {}) for phase in self.phases]
        named = {path.split(".")[-1]: value for each in settings for path, value in each.items()}
        numbers = {name: value for name, value in named.items() if name != "restart" and not isinstance(value, str)}
        return {name: float(value) for name, value in numbers.items()}

    def _joined_history(self) -> list[history.Row]:
        """All phases joined; fine-tuning phases are numbered within this experiment."""
        joined = [row for layer in self.layers.artifacts for row in history.read(layer.path("history.csv"))]
        for number, phase in enumerate(self.phases, start=1):
            rows = history.read(phase.path("history.csv"))
            joined += [row._replace(phase=f"finetune/{number}") for row in rows]
        return [row for row in joined if row.seed in self.stage.seeds]

    def _outputs(self, measured: Mapping[int, Measured]) -> dict[str, Tensor]:
        """For the figures: what the first seed has to show, and what the task counts in every seed."""
        seed, first = next(iter(measured.items()))
        model = self._model(seed)
        sequential = isinstance(self.splits["test"], SequenceSplit)  # of which there are no pictures
        own = {} if sequential else self._pictures(model, self.layers.stack(seed, self.device))
        pictures = own | first.pictures
        shape = self.data.extra["input_shape"]
        shaped = {name: picture.reshape(len(picture), *shape) for name, picture in pictures.items()}
        stacked = {
            name: torch.stack([each.of_each_seed[name] for each in measured.values()]) for name in first.of_each_seed
        }
        small = {"filters_finetuned/1": model.filters()[:FILTERS]} if hasattr(model, "filters") else {}
        return {**shaped, **small, **first.tensors, **stacked}

    def _pictures(self, model: Any, stack: Stack) -> dict[str, Tensor]:
        """Filters, and reconstructions by pretrained layers that decode: [n, features] each."""
        test = self.splits["test"]
        pictures = {f"filters/{k}": filters for k, filters in enumerate(_projected(stack), start=1)}
        first = next((p for p in model.parameters() if p.ndim == 2 and p.shape[0] == features(self.data)), None)
        if first is not None and not hasattr(model, "filters"):  # whose filters are smaller than an input
            pictures["filters_finetuned/1"] = first.detach().T[:FILTERS]
        if self.layers.decodes:
            pictures["reconstruction_inputs"] = test.inputs[:RECONSTRUCTIONS]
            pictures["reconstructions"] = stack.decode(stack.encode(test.inputs[:RECONSTRUCTIONS]))
        return pictures


def _projected(stack: Stack) -> list[Tensor]:
    """Weights into the first units of each layer [units, features], projected linearly through the layers below."""
    filters: list[Tensor] = []
    projection: Tensor | None = None
    for weight, _ in stack.encoders():
        projection = weight if projection is None else projection @ weight
        filters.append(projection.T[:FILTERS])
    return filters


def _ancestor(artifact: Artifact) -> dict[str, Any]:
    """What the report says of how an artifact came to be, and of the code that made it."""
    manifest = artifact.manifest
    return {
        **origin(manifest),
        "sources": manifest["sources"],
        "implementations": manifest["stage"]["hints"].get("implementations", {}),
    }
