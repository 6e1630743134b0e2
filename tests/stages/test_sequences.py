"""Sequences through finetune and evaluate: every task, in the format of prepare."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from dlpipe.artifacts import Store
from dlpipe.models.recurrent import Recurrent
from dlpipe.runtime import history
from dlpipe.runtime.data import SequenceSplit
from dlpipe.stages import evaluate, finetune
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
    tensors = load_file(store.read("prepare", data).path("data.safetensors"))
    model = Recurrent(5, 5, tokens=True, units=[6])
    model.load_state_dict({name.removeprefix("3/"): tensor for name, tensor in weights.items()})
    test = SequenceSplit(tensors["test.inputs"].long(), tensors["test.lengths"])
    loss = LanguageModel(20).validate(model.eval(), test)["loss"]
    assert metrics(evaluate.run(evaluate_stage(stage), store, device="cpu"))[3, "test_loss"] == pytest.approx(loss)


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
