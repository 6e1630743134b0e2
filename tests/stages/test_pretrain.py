from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from dlpipe.artifacts import Artifact, ArtifactError, Stage, Store
from dlpipe.layers.autoencoder import Autoencoder
from dlpipe.layers.rbm import RBM
from dlpipe.layers.supervised import Supervised
from dlpipe.runtime.jobs import TrainingError
from dlpipe.runtime.streams import stream
from dlpipe.stages import pretrain
from tests.stages.small import CLASSES, SHAPE, SIZES, prepared, pretrain_stage

PIXELS = SHAPE[0] * SHAPE[1]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "data", tmp_path / "results")


def weights(artifact: Artifact) -> dict[str, torch.Tensor]:
    return load_file(artifact.path("weights.safetensors"))


def images(store: Store, data: str, split: str = "train") -> torch.Tensor:
    file = store.read("prepare", data).path("data.safetensors")
    return load_file(file)[f"{split}.inputs"].flatten(1) / 255


def test_a_stage_is_its_layer_trained_by_a_plain_loop(store: Store) -> None:
    """The whole chain of definitions: initial values, order, contrastive divergence, momentum 0.5."""
    data = prepared(store)
    artifact = pretrain.run(pretrain_stage(data, epochs=2.0, seeds=(4,)), store)
    x = images(store, data)
    layer = RBM(PIXELS, 8)
    layer.initialise(x.mean(dim=0), stream(4, "pretrain/1/initialise"))
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1, momentum=0.5, fused=True)
    step = 0
    for epoch in range(2):
        for batch in torch.randperm(len(x), generator=stream(4, "pretrain/1/order", 0, epoch)).split(20):
            layer.step(x[batch], stream(4, "pretrain/1/step", 0, step))
            optimizer.step()
            step += 1
    for name, tensor in layer.state_dict().items():
        assert torch.equal(weights(artifact)[f"4/{name}"], tensor), name


def test_the_second_layer_sees_what_the_first_makes_of_the_data(store: Store) -> None:
    data = prepared(store)
    first = pretrain_stage(data, seeds=(0, 1))
    below = pretrain.run(first, store)
    recipe: Mapping[str, Any] = {"kind": "autoencoder", "tied": False}
    artifact = pretrain.run(pretrain_stage(data, recipe, (first.id,), units=5, epochs=1.0, seeds=(1,)), store)
    state = {name.removeprefix("1/"): tensor for name, tensor in weights(below).items() if name.startswith("1/")}
    x = torch.sigmoid(images(store, data) @ state["W"] + state["hbias"])
    layer = Autoencoder(8, 5, tied=False)
    layer.initialise(x.mean(dim=0), stream(1, "pretrain/2/initialise"))
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1, momentum=0.5, fused=True)
    for step, batch in enumerate(torch.randperm(len(x), generator=stream(1, "pretrain/2/order", 0, 0)).split(20)):
        layer.step(x[batch], stream(1, "pretrain/2/step", 0, step))
        optimizer.step()
    for name, tensor in layer.state_dict().items():
        assert torch.equal(weights(artifact)[f"1/{name}"], tensor), name


def test_a_layer_that_sees_labels_is_trained_on_the_labelled_examples_alone(store: Store) -> None:
    data = prepared(store)
    first = pretrain_stage(data, {"kind": "supervised"}, epochs=2.0, seeds=(4,))
    first = replace(first, spec={**first.spec, "labelled": 40})
    artifact = pretrain.run(first, store)
    tensors = load_file(store.read("prepare", data).path("data.safetensors"))
    x, y = images(store, data)[:40], tensors["train.targets"][:40]
    layer = Supervised(PIXELS, 8, classes=CLASSES)
    layer.initialise(x.mean(dim=0), stream(4, "pretrain/1/initialise"))
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1, momentum=0.5, fused=True)
    for epoch in range(2):
        for batch in torch.randperm(40, generator=stream(4, "pretrain/1/order", 0, epoch)).split(20):
            layer.step(x[batch], y[batch], stream(4, "pretrain/1/step"))
            optimizer.step()
    for name, tensor in layer.state_dict().items():
        assert torch.equal(weights(artifact)[f"4/{name}"], tensor), name
    with artifact.path("history.csv").open() as file:
        last = {row["metric"]: float(row["value"]) for row in csv.DictReader(file) if row["epoch"] == "2"}
    valid = layer.validate(images(store, data, "valid"), tensors["valid.targets"])
    assert last["valid_error"] == pytest.approx(float(valid["error"]), rel=1e-8)
    assert last["valid_loss"] == pytest.approx(float(valid["loss"]), rel=1e-8)


def test_files_and_facts(store: Store) -> None:
    artifact = pretrain.run(pretrain_stage(prepared(store), epochs=3.0), store, threads=2)
    assert set(artifact.manifest["files"]) == {"weights.safetensors", "history.csv"}
    assert artifact.manifest["facts"] == {"threads": 2, "device": "cpu", "gpus": [], "ranks": 1}
    assert set(artifact.extra["seconds"]) == {"0", "1"}
    shapes = {"W": (PIXELS, 8), "hbias": (8,), "vbias": (PIXELS,)}
    found = {name: tuple(tensor.shape) for name, tensor in weights(artifact).items()}
    assert found == {f"{seed}/{name}": shape for seed in (0, 1) for name, shape in shapes.items()}


def test_history_has_a_set_of_rows_a_validation_and_true_values(store: Store) -> None:
    data = prepared(store)
    artifact = pretrain.run(pretrain_stage(data, epochs=3.0), store)
    with artifact.path("history.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["phase", "seed", "step", "epoch", "metric", "value"]
    assert {row["phase"] for row in rows} == {"pretrain/1"}
    times = {(row["seed"], row["step"], row["epoch"]) for row in rows}
    assert times == {(seed, str(5 * epoch), str(epoch)) for seed in "01" for epoch in (1, 2, 3)}
    metrics = {"train_reconstruction_error", "train_hidden_activity", "valid_reconstruction_error"}
    metrics |= {"valid_free_energy", "learning_rate", "grad_norm"}
    assert {row["metric"] for row in rows} == metrics
    layer = RBM(PIXELS, 8)
    layer.load_state_dict({name: weights(artifact)[f"1/{name}"] for name in layer.state_dict()})
    expected = float(layer.validate(images(store, data, "valid"))["free_energy"])
    last = next(r for r in rows if (r["seed"], r["epoch"], r["metric"]) == ("1", "3", "valid_free_energy"))
    assert float(last["value"]) == pytest.approx(expected, rel=1e-8)  # nine digits are written


def test_without_validation_examples_there_are_no_validation_metrics(store: Store) -> None:
    data = prepared(store, {**SIZES, "valid": 0})
    history = pretrain.run(pretrain_stage(data), store).path("history.csv").read_text()
    assert "train_reconstruction_error" in history
    assert "valid_" not in history


def test_a_seed_does_not_depend_on_the_block_it_is_in(store: Store) -> None:
    data = prepared(store)
    """But for rounding: a block's products are one computation."""
    together, alone = (pretrain.run(pretrain_stage(data, seeds=seeds), store) for seeds in ((0, 1), (1,)))
    for name, tensor in weights(alone).items():
        torch.testing.assert_close(weights(together)[name], tensor)
    assert not torch.equal(weights(together)["0/W"], weights(together)["1/W"])


def test_what_stands_is_not_made_again(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = pretrain_stage(prepared(store))
    made = pretrain.run(stage, store)
    monkeypatch.setattr(pretrain, "block", None)
    assert pretrain.run(stage, store).manifest == made.manifest


def test_a_missing_seed_below_is_named(store: Store) -> None:
    data = prepared(store)
    first = pretrain_stage(data, seeds=(0,))
    pretrain.run(first, store)
    with pytest.raises(ArtifactError, match=rf"{first.id} has seeds \(0,\), not 1"):
        pretrain.run(pretrain_stage(data, below=(first.id,), seeds=(0, 1)), store)


def test_divergence_leaves_no_artifact(store: Store) -> None:
    """A rate so large that squared error overflows within a few steps."""
    recipe = {"kind": "autoencoder", "reconstruction": "squared"}
    stage = pretrain_stage(prepared(store), recipe, optimizer={"kind": "sgd", "learning_rate": 1e30})
    with pytest.raises(TrainingError, match=rf"{stage.id} seed 0: .* at step \d+ of 10; training has diverged"):
        pretrain.run(stage, store)
    assert not store.folder("pretrain", stage.id).exists()
    assert list(store.folder("pretrain", stage.id).parent.iterdir()) == []


def test_float_data_are_taken_as_they_are(store: Store) -> None:
    from safetensors.torch import save_file

    stage = Stage("prepare", "normal", {}, {"raw": "none-000000000000"})
    x = torch.randn(40, *SHAPE, generator=stream(0, "normal"))
    with store.make(stage) as draft:
        tensors = {f"{split}.inputs": x.clone() for split in SIZES}
        tensors |= {f"{split}.targets": torch.arange(40) % CLASSES for split in SIZES}
        save_file(tensors, draft.folder / "data.safetensors")
        sizes = dict.fromkeys(SIZES, 40)
        draft.extra.update(input_shape=list(SHAPE), classes=list("abc"), scale=1.0, sizes=sizes, terms="")
    recipe = {"kind": "rbm", "visible_units": "gaussian"}
    artifact = pretrain.run(pretrain_stage(stage.id, recipe, epochs=1.0, seeds=(0,)), store)
    # The visible bias starts at the mean and moves with a rate of 0.1 for two steps.
    assert torch.allclose(weights(artifact)["0/vbias"], x.flatten(1).mean(dim=0), atol=0.5)
