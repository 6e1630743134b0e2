"""Sequences through finetune and evaluate: every task, in the format of prepare."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from dlpipe.artifacts import Stage, Store
from dlpipe.figures import gradients
from dlpipe.measures.gradients import GradientByDistance
from dlpipe.models.recurrent import Recurrent
from dlpipe.runtime import history
from dlpipe.runtime.data import SequenceSplit
from dlpipe.runtime.streams import stream
from dlpipe.stages import evaluate, finetune, plot
from dlpipe.tasks.language_model import LanguageModel
from tests.golden.traces import SEQUENCE_TASKS, sequences
from tests.stages.small import evaluate_stage, finetune_stage

METRICS = {
    "language_model": ["loss", "perplexity", "bits_per_token"],
    "continuation": ["loss", "error", "free_running_error"],
    "next_frame": ["loss"],
    "tagging": ["loss", "error"],
    "sequence_regression": ["loss", "mse"],
}
FIELDS: dict[str, dict[str, Any]] = {"continuation": {"prompt": 1, "feed": {"kind": "linear", "slope": 0.1}}}
NET = {"kind": "recurrent", "units": [6]}
ADAM = {"kind": "adam", "learning_rate": 0.02}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "data", tmp_path / "results")


def metrics(artifact: Any) -> dict[tuple[int, str], float]:
    with artifact.path("metrics.csv").open(newline="") as file:
        return {(int(row["seed"]), row["metric"]): float(row["value"]) for row in csv.DictReader(file)}


def of_test(store: Store) -> SequenceSplit:
    """The test sequences of the language model's data."""
    data = sequences(store, **SEQUENCE_TASKS["language_model"])
    tensors = load_file(store.read("prepare", data).path("data.safetensors"))
    return SequenceSplit(tensors["test.inputs"].long(), tensors["test.lengths"])


def trained(weights: dict[str, Tensor], seed: int, cell: str = "lstm") -> Recurrent:
    """The network of a seed among an artifact's."""
    model = Recurrent(5, 5, tokens=True, units=[6], cell=cell)
    own = {name.removeprefix(f"{seed}/"): tensor for name, tensor in weights.items() if name.startswith(f"{seed}/")}
    model.load_state_dict(own)
    return model.eval()


@pytest.mark.parametrize("kind", METRICS)
def test_every_task_is_trained_and_evaluated(kind: str, store: Store) -> None:
    data = sequences(store, **SEQUENCE_TASKS[kind])
    stage = finetune_stage(data, model=NET, task={"kind": kind, **FIELDS.get(kind, {})}, epochs=3.0, optimizer=ADAM)
    trained = finetune.run(stage, store, device="cpu")
    evaluated = evaluate.run(evaluate_stage(stage), store, device="cpu")
    table = metrics(evaluated)
    parts = [f"{part}_{name}" for part in ("train", "valid", "test") for name in METRICS[kind]]
    assert list(table) == [(seed, metric) for seed in (0, 1) for metric in parts]
    rows = {(row.seed, row.step, row.metric): row.value for row in history.read(trained.path("history.csv"))}
    last = max(step for _, step, _ in rows)
    for seed in (0, 1):
        for name in METRICS[kind]:
            assert table[seed, f"valid_{name}"] == pytest.approx(rows[seed, last, f"valid_{name}"], rel=1e-6)
        assert rows[seed, last, "train_loss"] < rows[seed, min(step for _, step, _ in rows), "train_loss"]
    assert load_file(evaluated.path("outputs.safetensors")) == {}  # there is nothing to look at


def test_the_metric_is_that_of_the_saved_network_on_the_stored_tokens(store: Store) -> None:
    data = sequences(store, **SEQUENCE_TASKS["language_model"])
    stage = finetune_stage(data, model=NET, task={"kind": "language_model"}, epochs=1.0, seeds=(3,))
    weights = load_file(finetune.run(stage, store, device="cpu").path("weights.safetensors"))
    loss = LanguageModel(20).validate(trained(weights, 3), of_test(store))["loss"]
    assert metrics(evaluate.run(evaluate_stage(stage), store, device="cpu"))[3, "test_loss"] == pytest.approx(loss)


def test_gradients_by_distance_go_from_the_networks_to_their_figure(store: Store) -> None:
    """Two cells, two seeds each: measured of the saved weights, stored, and drawn as the geometric mean over seeds."""
    steps, test = 5, of_test(store)
    evaluated: dict[str, Any] = {}
    expected: dict[str, list[Tensor]] = {}
    for cell in ("elman", "lstm"):
        stage = finetune_stage(
            sequences(store, **SEQUENCE_TASKS["language_model"]),
            model={**NET, "cell": cell},
            task={"kind": "language_model"},
            epochs=1.0,
        )
        weights = load_file(finetune.run(stage, store, device="cpu").path("weights.safetensors"))
        declared = {"kind": "gradient_by_distance", "steps": steps, "windows": 4}
        evaluated[cell] = evaluate.run(evaluate_stage(stage, measures=[declared]), store, device="cpu")
        measure = GradientByDistance(steps=steps, windows=4)
        networks = [(seed, trained(weights, seed, cell)) for seed in (0, 1)]
        found = [measure(net, {"test": test}, stream(seed, "evaluate/gradient_by_distance")) for seed, net in networks]
        expected[cell] = [each.of_each_seed["gradient_by_distance"] for each in found]
        for seed, each in enumerate(found):
            assert metrics(evaluated[cell])[seed, "gradient_factor"] == pytest.approx(each.metrics["gradient_factor"])
        stored = load_file(evaluated[cell].path("outputs.safetensors"))["gradient_by_distance"]
        torch.testing.assert_close(stored, torch.stack(expected[cell]), rtol=1e-6, atol=0.0)
        assert stored.shape == (2, steps)
        assert stored[:, 0].tolist() == pytest.approx([1.0, 1.0])
    variants = [{"levels": {"cell": cell}, "metrics": [artifact.stage.id]} for cell, artifact in evaluated.items()]
    spec = {"experiment": "cells", "axes": [["cell", list(evaluated)]], "figures": [], "variants": variants}
    figures = Stage("plot", "cells", spec, {"metrics": [artifact.stage.id for artifact in evaluated.values()]})
    drawn = plot.run(figures, store)
    (entry,) = [each for each in json.loads(drawn.path("figures.json").read_text()) if each["kind"] == "gradients"]
    assert drawn.path(entry["file"]).read_text().count("<svg") == 1
    (place,) = gradients.draw(data=plot.read_data(figures, store), title=None, where={}).figure.axes
    for line, norms in zip(place.lines, expected.values(), strict=True):
        assert line.get_xdata().tolist() == list(range(1, steps + 1))
        assert line.get_ydata().tolist() == pytest.approx((norms[0] * norms[1]).sqrt().tolist(), rel=1e-6)


def test_a_part_of_the_sequences_has_labels(store: Store) -> None:
    """The first 10 alone are trained on: one batch an epoch."""
    data = sequences(store, **SEQUENCE_TASKS["tagging"])
    stage = finetune_stage(data, model=NET, task={"kind": "tagging"}, epochs=2.0, labelled=10)
    rows = history.read(finetune.run(stage, store, device="cpu").path("history.csv"))
    assert {row.step for row in rows} == {1, 2}


def test_the_same_spec_gives_the_same_bytes(store: Store, tmp_path: Path) -> None:
    other = Store(tmp_path / "other" / "data", tmp_path / "other" / "results")
    weights = []
    for place in (store, other):
        data = sequences(place, **SEQUENCE_TASKS["next_frame"])
        stage = finetune_stage(data, model={**NET, "dropout": 0.3}, task={"kind": "next_frame"}, epochs=1.0)
        weights.append(load_file(finetune.run(stage, place, device="cpu").path("weights.safetensors")))
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][name], tensor) for name, tensor in weights[1].items())
