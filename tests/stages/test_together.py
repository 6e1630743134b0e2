"""The seeds of a block, trained together, are what each of them is when it is trained alone, up to rounding."""

from __future__ import annotations

import copy
import csv
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from dlpipe.artifacts import Artifact, Stage, Store
from dlpipe.runtime import block
from dlpipe.runtime.stacks import Stack
from dlpipe.stages import finetune, pretrain
from tests.golden import traces
from tests.golden.traces import TRACES, Trace
from tests.stages.small import finetune_stage, prepared, pretrain_stage

SEEDS = (0, 3, 5)
RUN = {"pretrain": pretrain.run, "finetune": finetune.run}
TOLERANCE: dict[str, float] = {"rtol": 2e-4, "atol": 2e-5}
"""Some times what a few dozen updates make of rounding; a seed with another's batch or noise is 0.01 away and more."""
ROUNDING: dict[str, float] = {"rtol": 1e-6, "atol": 1e-6}
"""Of three steps: ten times float32's; 6e-8 at most was measured, of parameters of order 1."""


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "data", tmp_path / "results")


@pytest.fixture
def stacks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many jobs each stack had that was made."""
    sizes: list[int] = []

    class Counted(Stack):
        def __init__(self, jobs: Any) -> None:
            sizes.append(len(jobs))
            super().__init__(jobs)

    monkeypatch.setattr("dlpipe.runtime.loop.Stack", Counted)
    return sizes


def weights(artifact: Artifact) -> dict[str, torch.Tensor]:
    return load_file(artifact.path("weights.safetensors"))


def history(artifact: Artifact) -> dict[tuple[str, ...], float]:
    with artifact.path("history.csv").open() as file:
        return {(r["phase"], r["seed"], r["step"], r["metric"]): float(r["value"]) for r in csv.DictReader(file)}


def assert_each_is_as_if_alone(stage: Stage, store: Store, tolerance: Mapping[str, float] = TOLERANCE) -> Artifact:
    run: Callable[..., Artifact] = RUN[stage.rule]
    together = run(stage, store, device="cpu")
    rows: dict[tuple[str, ...], float] = {}
    for seed in stage.seeds:
        alone = run(replace(stage, seeds=(seed,)), store, device="cpu")
        rows |= history(alone)
        for name, tensor in weights(alone).items():
            torch.testing.assert_close(weights(together)[name], tensor, **tolerance, equal_nan=True)
    assert list(history(together)) == list(rows), "the same rows in the same order"
    assert list(history(together).values()) == pytest.approx(list(rows.values()), rel=1e-3, abs=1e-5)
    return together


@pytest.mark.parametrize("name", TRACES)
def test_every_kind(name: str, store: Store, stacks: list[int]) -> None:
    """Of layer, model, task, optimiser and schedule, whether or not it trains seeds together."""
    trace = TRACES[name]
    assert_each_is_as_if_alone(replace(trace.stage(traces.prepared(trace, store)), seeds=SEEDS), store)
    assert stacks == ([3] if trains_together(trace) else [])


def trains_together(trace: Trace) -> bool:
    model, task = trace.what["kind"], trace.task["kind"]
    stackable = trace.rule == "pretrain" or (model == "mlp" and task in ("classification", "regression"))
    return stackable and trace.schedule["kind"] != "halve_on_plateau"


STACKED = [name for name, trace in TRACES.items() if trains_together(trace)]


@pytest.mark.parametrize("name", STACKED)
def test_a_few_steps_are_the_same_to_rounding(name: str, store: Store, stacks: list[int]) -> None:
    """Before rounding has grown, so that nothing but rounding can be the difference."""
    trace = TRACES[name]
    stage = replace(trace.stage(traces.prepared(trace, store)), seeds=SEEDS)
    spec = copy.deepcopy(dict(stage.spec))
    training = spec["training"] if trace.rule == "pretrain" else spec["phase"]["training"]
    training["duration"] = {"steps": 3}
    assert_each_is_as_if_alone(replace(stage, spec=spec), store, ROUNDING)
    assert stacks == [3]


def test_the_layer_above_has_data_of_each_seed(store: Store, stacks: list[int]) -> None:
    below = pretrain_stage(prepared(store), seeds=SEEDS, epochs=2.0)
    pretrain.run(below, store)
    stage = pretrain_stage(prepared(store), below=(below.id,), units=6, seeds=SEEDS)
    assert_each_is_as_if_alone(stage, store)
    assert stacks == [3, 3]


def test_dropout_clipping_weight_noise_and_an_output_layer_trained_alone(store: Store, stacks: list[int]) -> None:
    net = {"kind": "mlp", "units": [8, 8], "dropout": 0.3}
    sgd = {"kind": "sgd", "learning_rate": 0.5, "momentum": 0.9, "weight_decay": 0.1}
    for train in ("all", "top"):
        stage = finetune_stage(
            prepared(store),
            model=net,
            seeds=SEEDS,
            optimizer=sgd,
            clip_norm=0.3,
            weight_noise=0.05,
            train=train,
            epochs=4.0,
        )
        assert_each_is_as_if_alone(stage, store)
    assert stacks == [3, 3]


def test_seeds_that_stop_early_leave_the_others_as_they_are(store: Store, stacks: list[int]) -> None:
    """At different epochs, each with its own best parameters; the stack gets smaller."""
    stage = finetune_stage(
        prepared(store, wrong_from=60),
        optimizer={"kind": "sgd", "learning_rate": 0.5, "momentum": 0.9},
        epochs=40.0,
        early_stopping={"by": "valid_error", "patience": {"epochs": 3}},
        seeds=(0, 1, 2, 3),
    )
    made = assert_each_is_as_if_alone(stage, store)
    last = {seed: max(int(step) for _, s, step, _ in history(made) if s == seed) for seed in "0123"}
    assert len(set(last.values())) > 1
    assert stacks[0] == 4
    assert stacks == sorted(set(stacks), reverse=True)
    assert len(stacks) == len(set(last.values()))


def test_restarts_and_settings_are_chosen_for_each_seed(store: Store, stacks: list[int]) -> None:
    """A rate at which training diverges is one of the settings."""
    net = {"kind": "mlp", "units": [8], "activation": "relu"}
    grid = {"optimizer.learning_rate": [0.01, 1e6, 0.1]}
    for select in ({"best_of": 3}, {"grid": grid, "by": "valid_loss"}):
        stage = finetune_stage(
            prepared(store), model=net, select=select, seeds=SEEDS, on_divergence="record", epochs=3.0
        )
        made = assert_each_is_as_if_alone(stage, store)
        with made.path("selection.csv").open() as file:
            assert [row["seed"] for row in csv.DictReader(file) if row["chosen"] == "1"] == [str(s) for s in SEEDS]
    assert len([size for size in stacks if size == 3]) == 6


def test_of_larger_steps_one_seed_after_another(
    store: Store, stacks: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(block.WORTH, "cpu", block.Cost(5 * 16 * 8 * 20 - 1, 10**9))
    pretrain.run(pretrain_stage(prepared(store), seeds=SEEDS), store)
    assert stacks == []


def test_of_more_data_one_seed_after_another(store: Store, stacks: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    below = pretrain_stage(prepared(store), seeds=SEEDS)
    monkeypatch.setitem(block.WORTH, "cpu", block.Cost(1e9, 90 * 8 - 1))
    pretrain.run(below, store)
    pretrain.run(pretrain_stage(prepared(store), below=(below.id,), seeds=SEEDS), store)
    assert stacks == [3], "the first layer's data are those of all"
