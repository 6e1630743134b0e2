"""What the specs say is recorded is what the implementations record, and what is gone by at plan."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from dlpipe.runtime.data import component
from dlpipe.spec.base import FAMILIES
from dlpipe.spec.datasets import Digits, Plane
from dlpipe.spec.layers import LayerSpec
from dlpipe.spec.recorded import Recorded, Rows
from dlpipe.spec.sequences import Increments, PolyMusic, Ptb
from dlpipe.spec.tasks import MOST_DIMENSIONS, Generative
from dlpipe.tasks import quadrature
from dlpipe.tasks.base import means
from tests.golden.traces import TRACES, Trace, committed

N, VISIBLE, HIDDEN, CLASSES = 12, 6, 4, 3
LAYERS: list[dict[str, Any]] = [
    {"kind": "rbm", "persistent": True, "hidden_units": "gaussian"},
    {"kind": "rbm", "hidden_units": "relu", "persistent": True},
    {"kind": "rbm", "doubled": "up"},
    {"kind": "label_rbm", "persistent": True},
    {"kind": "autoencoder", "contraction": 0.1, "sparsity_target": 0.1, "sparsity_cost": 0.1},
]
MODELS: list[dict[str, Any]] = [
    {"kind": "dbn", "units": [5]},
    {"kind": "dbn", "units": [5], "labels": False},
    {"kind": "dbn", "units": [5, 4], "labels": False},
    {"kind": "dbm", "units": [5]},
]


def declared(trace: Trace) -> Recorded | None:
    """Of data like the trace's: in the plane, or of more dimensions."""
    spec: Any = component(trace.rule.replace("finetune", "model").replace("pretrain", "layer"), trace.what)
    if isinstance(spec, LayerSpec):
        return spec.recorded
    task: Any = component("task", trace.task)
    if isinstance(task, Generative):
        return spec.recorded  # type: ignore[no-any-return]
    dataset = Plane(shape="rings") if len(trace.shape) == 1 else Digits()
    return task.recorded(dataset)  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", TRACES)
def test_a_history_has_the_rows_that_are_declared(name: str) -> None:
    """Of the committed histories, one or more of every kind, which are those that the implementations write."""
    recorded = declared(TRACES[name])
    assert recorded is not None
    lines = [line for line in committed(name).splitlines() if not line.startswith("#")]
    metrics = {line.split(",")[4] for line in lines[1:]}
    assert metrics == set(Rows(recorded, validated=True).names)


@pytest.mark.parametrize("what", LAYERS, ids=str)
def test_a_layer_gives_what_its_fields_declare(what: dict[str, Any]) -> None:
    spec: Any = component("layer", what)
    seen = {"classes": CLASSES} if spec.sees_labels else {}
    layer = spec.load()(VISIBLE, HIDDEN, **spec.arguments(), **seen)
    generator = torch.Generator().manual_seed(0)
    layer.initialise(torch.full((VISIBLE,), 0.5), generator)
    examples = [torch.rand(N, VISIBLE, generator=generator), torch.arange(N) % CLASSES][: 1 + spec.sees_labels]
    assert Recorded(tuple(layer.step(*examples, generator)), tuple(means(layer.validate, *examples))) == spec.recorded


@pytest.mark.parametrize("what", MODELS, ids=str)
def test_a_model_gives_what_its_fields_declare(what: dict[str, Any]) -> None:
    spec: Any = component("model", what)
    model = spec.load()(VISIBLE, CLASSES, **spec.arguments())
    generator = torch.Generator().manual_seed(0)
    model.initialise(generator)
    examples = torch.rand(N, VISIBLE, generator=generator), torch.arange(N) % CLASSES
    assert Recorded(tuple(model.step(*examples, generator)), tuple(means(model.validate, *examples))) == spec.recorded


def test_every_kind_of_dlpipe_says_what_it_records() -> None:
    layers = [spec() for spec in FAMILIES["layer"].values() if spec.implementation.startswith("dlpipe.")]
    assert all(layer.recorded is not None for layer in layers)  # type: ignore[attr-defined]
    tasks: Any = [spec for spec in FAMILIES["task"].values() if spec.implementation.startswith("dlpipe.")]
    silent = {task for task in tasks if task.records is None and not hasattr(task, "of_a_step")}
    assert silent == {Generative}


def test_a_density_is_integrated_over_as_many_dimensions_as_the_plan_says() -> None:
    assert MOST_DIMENSIONS == quadrature.MOST_DIMENSIONS


def test_there_are_validation_examples_where_they_are_asked_for_or_the_source_has_them() -> None:
    assert [Digits().validated, Digits(valid=0).validated, Digits(valid=9).validated] == [False, False, True]
    assert [Increments().validated, Increments(valid=9).validated] == [False, True]
    assert [Ptb().validated, Ptb(valid=0).validated, PolyMusic(name="jsb").validated] == [True, False, True]
