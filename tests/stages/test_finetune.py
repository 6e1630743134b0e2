from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from dlpipe.artifacts import Artifact, Stage, Store
from dlpipe.errors import StepError
from dlpipe.models.mlp import MLP
from dlpipe.runtime.data import read_split
from dlpipe.runtime.jobs import TrainingError
from dlpipe.runtime.streams import stream
from dlpipe.spec.datasets import Plane
from dlpipe.stages import evaluate, finetune, pretrain
from tests.stages.small import SGD, evaluate_stage, finetune_stage, prepared, pretrain_stage
from tests.stages.test_prepare import make

DEEP = {"kind": "mlp", "units": [8, 6]}
STILL: dict[str, Any] = {"optimizer": {"kind": "sgd", "learning_rate": 1e-30}, "epochs": 0.1}
"""One step that moves nothing: what is left is the start."""


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "data", tmp_path / "results")


def weights(artifact: Artifact) -> dict[str, torch.Tensor]:
    return load_file(artifact.path("weights.safetensors"))


def two_layers(store: Store, data: str) -> list[Stage]:
    first = pretrain_stage(data, epochs=1.0)
    second = pretrain_stage(data, {"kind": "autoencoder"}, (first.id,), units=6, epochs=1.0)
    for stage in (first, second):
        pretrain.run(stage, store)
    return [first, second]


def test_starts_from_the_pretrained_weights_exactly(store: Store) -> None:
    """Both layers, for each seed its own; the output layer as initialised."""
    data = prepared(store)
    stages = two_layers(store, data)
    layers = [weights(store.read("pretrain", stage.id)) for stage in stages]
    ids = tuple(stage.id for stage in stages)
    tuned = weights(finetune.run(finetune_stage(data, ids, model=DEEP, **STILL), store))
    for seed in (0, 1):
        for position, layer in enumerate(layers):
            assert torch.equal(tuned[f"{seed}/weights.{position}"], layer[f"{seed}/W"])
            assert torch.equal(tuned[f"{seed}/biases.{position}"], layer[f"{seed}/hbias"])
        fresh = MLP(16, 3, units=[8, 6])
        fresh.initialise(stream(seed, "finetune/1/initialise", 0))
        assert torch.equal(tuned[f"{seed}/weights.2"], fresh.state_dict()["weights.2"])


def test_from_random_initialisation_without_layers(store: Store) -> None:
    tuned = weights(finetune.run(finetune_stage(prepared(store), seeds=(3,), **STILL), store))
    fresh = MLP(16, 3, units=[8])
    fresh.initialise(stream(3, "finetune/1/initialise", 0))
    for name, tensor in fresh.state_dict().items():
        torch.testing.assert_close(tuned[f"3/{name}"], tensor, rtol=0.0, atol=1e-29)  # what the step moves a bias of 0


def test_a_second_phase_goes_on_from_the_first(store: Store) -> None:
    data = prepared(store)
    first = finetune_stage(data)
    before = weights(finetune.run(first, store))
    second = finetune.run(finetune_stage(data, start=first.id, **STILL), store)
    assert all(torch.equal(tensor, before[name]) for name, tensor in weights(second).items())
    assert {line.split(",")[0] for line in second.path("history.csv").read_text().splitlines()[1:]} == {"finetune/2"}


def test_a_start_of_another_shape_gives_what_fits_and_says_what_did_not(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    """8 and 6 hidden units from a start with 8: the first weights, both first biases; the second ones are not it."""
    data = prepared(store)
    first = finetune_stage(data, seeds=(0,))
    before = weights(finetune.run(first, store))
    second = finetune_stage(data, start=first.id, model=DEEP, seeds=(0,), **STILL)
    after = weights(finetune.run(second, store))
    assert torch.equal(after["0/weights.0"], before["0/weights.0"])
    assert f"seed 0: initialised anew, as {first.id} has none that fits: weights.1, weights.2, biases.1, biases.2" in (
        capsys.readouterr().err
    )


def test_a_start_of_which_nothing_fits_is_an_error(store: Store) -> None:
    data = prepared(store)
    first = finetune_stage(data, model={"kind": "mlp", "units": [5, 5]}, seeds=(0,))
    finetune.run(first, store)
    second = finetune_stage(data, start=first.id, model={"kind": "mlp", "units": []}, seeds=(0,))
    with pytest.raises(TrainingError, match=f"no tensor of {first.id} has the name and shape"):
        finetune.run(second, store)


def test_training_the_top_leaves_the_pretrained_layers_as_they_are(store: Store) -> None:
    """Weight decay and momentum do not reach them either; the output layer moves, as far as a probe's would."""
    data = prepared(store)
    stages = two_layers(store, data)
    layers = [weights(store.read("pretrain", stage.id)) for stage in stages]
    ids = tuple(stage.id for stage in stages)
    sgd = {"kind": "sgd", "learning_rate": 0.1, "momentum": 0.5, "weight_decay": 0.1}
    still = weights(finetune.run(finetune_stage(data, ids, model=DEEP, **STILL), store))
    tuned = weights(finetune.run(finetune_stage(data, ids, model=DEEP, train="top", optimizer=sgd), store))
    for seed in (0, 1):
        for position, layer in enumerate(layers):
            assert torch.equal(tuned[f"{seed}/weights.{position}"], layer[f"{seed}/W"])
            assert torch.equal(tuned[f"{seed}/biases.{position}"], layer[f"{seed}/hbias"])
        for name in (f"{seed}/weights.2", f"{seed}/biases.2"):
            assert not torch.equal(tuned[name], still[name])


def test_training_nothing_leaves_the_model_as_it_was_unrolled(store: Store) -> None:
    data = prepared(store)
    ids = tuple(stage.id for stage in two_layers(store, data))
    artifact = finetune.run(finetune_stage(data, ids, model=DEEP, train="none"), store)
    still = finetune.run(finetune_stage(data, ids, model=DEEP, **STILL), store)
    for name, tensor in weights(artifact).items():
        torch.testing.assert_close(tensor, weights(still)[name])
    with artifact.path("history.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["step"] for row in rows} == {"0"}
    assert {row["metric"] for row in rows} == {"valid_loss", "valid_error"}


def test_training_the_top_is_logistic_regression_on_the_code(store: Store) -> None:
    """The same steps of a network without hidden layers, fed with what the frozen layer makes of the examples."""
    data = prepared(store)
    layer = pretrain_stage(data, epochs=1.0)
    code = weights(pretrain.run(layer, store))
    plain = {"kind": "sgd", "learning_rate": 0.1}
    stage = finetune_stage(data, (layer.id,), train="top", epochs=4.0, optimizer=plain, seeds=(0,))
    tuned = weights(finetune.run(stage, store))
    train = read_split(store.read("prepare", data), "train", torch.device("cpu"))
    h = torch.sigmoid(train.inputs @ code["0/W"] + code["0/hbias"])
    probe = MLP(16, 3, units=[8])
    probe.initialise(stream(0, "finetune/1/initialise", 0))
    W, b = probe.weights[1].detach(), probe.biases[1].detach()
    for epoch in range(4):
        order = torch.randperm(len(train), generator=stream(0, "finetune/1/order", 0, epoch))
        for batch in order.split(20):
            p = torch.softmax(h[batch] @ W + b, dim=1)
            p[torch.arange(len(batch)), train.targets[batch]] -= 1
            W, b = W - 0.1 * h[batch].T @ p / len(batch), b - 0.1 * p.mean(0)
    torch.testing.assert_close(tuned["0/weights.1"], W, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(tuned["0/biases.1"], b, rtol=1e-4, atol=1e-5)


def test_a_model_that_names_no_top_is_told_so(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(MLP, "top")
    with pytest.raises(TrainingError, match=r"asks MLP for its output layer, and it has no method top\(\)"):
        finetune.run(finetune_stage(prepared(store), train="top"), store)


def test_only_the_first_labelled_examples_are_seen(store: Store) -> None:
    """30 of 90, in batches of 20: two steps an epoch. Another label of the 31st changes nothing, of the 30th does."""
    runs = {
        wrong_from: finetune.run(finetune_stage(prepared(store, wrong_from=wrong_from), labelled=30), store)
        for wrong_from in (None, 30, 29)
    }
    with runs[None].path("history.csv").open() as file:
        assert {row["step"] for row in csv.DictReader(file)} == {"2", "4"}
    digests = {wrong_from: run.manifest["files"]["weights.safetensors"] for wrong_from, run in runs.items()}
    assert digests[30] == digests[None]
    assert digests[29] != digests[None]


def test_a_boltzmann_machine_is_composed_trained_jointly_and_then_begins_a_classifier(store: Store) -> None:
    """The phases of dbm.yaml: each starts from what the one before left, and fine-tuning leaves the machine be."""
    data, model = prepared(store), {"kind": "dbm", "units": [8, 6], "chains": 10}
    first = pretrain_stage(data, {"kind": "rbm", "doubled": "up"}, seeds=(0,))
    second = pretrain_stage(data, {"kind": "rbm", "doubled": "down"}, (first.id,), units=6, seeds=(0,))
    lower, upper = (weights(pretrain.run(stage, store)) for stage in (first, second))
    options: dict[str, Any] = {"model": model, "task": {"kind": "generative"}, "seeds": (0,)}
    layers = (first.id, second.id)
    composed = weights(finetune.run(finetune_stage(data, layers, train="none", **options), store))
    assert torch.equal(composed["0/weights.0"], lower["0/W"])
    assert torch.equal(composed["0/weights.1"], upper["0/W"])
    torch.testing.assert_close(composed["0/biases.1"], 0.5 * (lower["0/hbias"] + upper["0/vbias"]))
    joint_stage = finetune_stage(data, layers, **options)
    joint = weights(finetune.run(joint_stage, store))
    classifier = finetune_stage(data, start=joint_stage.id, model=model, seeds=(0,), labelled=30)
    tuned = weights(finetune.run(classifier, store))
    machine = {name for name in joint if name.startswith(("0/weights", "0/biases", "0/chains"))}
    assert all(torch.equal(tuned[name], joint[name]) for name in machine)
    assert not any(torch.equal(joint[name], composed[name]) for name in machine)
    assert not any(joint[name].any() for name in joint if name.startswith("0/added"))
    assert all(tuned[name].any() for name in tuned if name.startswith("0/added"))
    metrics = evaluate.run(evaluate_stage(classifier, phases=(joint_stage.id,)), store).path("metrics.csv").read_text()
    assert "0,test_error," in metrics


def test_a_belief_network_is_fine_tuned_to_tell_classes_and_generates_as_before(store: Store) -> None:
    """The level `discriminative` of dbn_generative.yaml: from the pretrained stack, what the logits depend on."""
    data, model = prepared(store), {"kind": "dbn", "units": [8, 6]}
    first = pretrain_stage(data, seeds=(0,))
    second = pretrain_stage(data, {"kind": "label_rbm"}, (first.id,), units=6, seeds=(0,))
    for stage in (first, second):
        pretrain.run(stage, store)
    layers = (first.id, second.id)
    greedy_stage = finetune_stage(data, layers, model=model, task={"kind": "generative"}, train="none", seeds=(0,))
    tuned_stage = finetune_stage(data, layers, model=model, seeds=(0,), epochs=4.0)
    greedy, tuned = (weights(finetune.run(stage, store)) for stage in (greedy_stage, tuned_stage))
    for name in greedy:
        assert torch.equal(greedy[name], tuned[name]) == name.startswith("0/generative"), name
    losses = {}
    for stage in (greedy_stage, tuned_stage):
        with evaluate.run(evaluate_stage(stage), store).path("metrics.csv").open(newline="") as file:
            losses[stage.id] = {row["metric"]: float(row["value"]) for row in csv.DictReader(file)}
    for metric in ("train_loss", "test_loss"):
        assert losses[tuned_stage.id][metric] < losses[greedy_stage.id][metric]


def test_selects_the_best_of_several_restarts(store: Store) -> None:
    data = prepared(store)
    chosen = finetune.run(finetune_stage(data, select={"best_of": 3, "by": "train_loss"}, seeds=(0, 1)), store)
    with chosen.path("selection.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["seed"], row["restart"]) for row in rows] == [(s, r) for s in "01" for r in "012"]
    assert {row["metric"] for row in rows} == {"train_loss"}
    with chosen.path("history.csv").open() as file:
        history = [row for row in csv.DictReader(file) if row["metric"] == "train_loss"]
    for seed in "01":
        values = {row["restart"]: row["value"] for row in rows if row["seed"] == seed}
        assert len(set(values.values())) == 3, "restarts draw from streams of their own"
        best = min(values, key=lambda restart: float(values[restart]))
        assert [row["restart"] for row in rows if row["seed"] == seed and row["chosen"] == "1"] == [best]
        assert [row["value"] for row in history if row["seed"] == seed][-1] == values[best]


def test_the_first_restart_is_what_would_run_without_a_choice(store: Store) -> None:
    data = prepared(store)
    plain = weights(finetune.run(finetune_stage(data), store))
    one = weights(finetune.run(finetune_stage(data, select={"best_of": 1, "by": "train_loss"}), store))
    assert all(torch.equal(one[name], tensor) for name, tensor in plain.items())


def test_selection_by_a_metric_that_should_rise_takes_the_highest(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dlpipe.tasks.classification import Classification

    given = iter([0.2, 0.7, 0.5])
    monkeypatch.setattr(Classification, "validate", lambda *_: {"accuracy": next(given)})
    select = {"best_of": 3, "by": "valid_accuracy"}
    stage = finetune_stage(prepared(store), select=select, seeds=(0,), epochs=1.0)
    rows = finetune.run(stage, store).path("selection.csv").read_text().splitlines()[1:]
    assert [row.split(",")[-1] for row in rows] == ["0", "1", "0"]


def test_selection_by_an_unknown_metric_says_what_there_is(store: Store) -> None:
    stage = finetune_stage(prepared(store), select={"best_of": 2, "by": "valid_eror"})
    with pytest.raises(TrainingError, match=r"select.by is 'valid_eror'; the validations have train_loss, valid_loss"):
        finetune.run(stage, store)


RELU = {"kind": "mlp", "units": [8, 6], "activation": "relu", "init": "he_normal"}
RATES = [0.01, 1e6, 0.3, 0.1]
"""The second diverges."""


def grid_stage(data: str, rates: list[float] = RATES, **fields: Any) -> Stage:
    select = {"grid": {"optimizer.learning_rate": rates}, "by": "valid_loss"}
    return finetune_stage(data, model=RELU, select=select, on_divergence="record", **fields)


def table(artifact: Artifact, name: str) -> list[dict[str, str]]:
    with artifact.path(name).open() as file:
        return list(csv.DictReader(file))


def test_a_grid_keeps_the_best_setting_and_records_all(store: Store) -> None:
    """What is kept is, byte for byte, what a stage of that setting alone would have made: same start, same batches."""
    data = prepared(store)
    made = finetune.run(grid_stage(data), store)
    rows = table(made, "selection.csv")
    assert [(row["seed"], float(row["optimizer.learning_rate"])) for row in rows] == [
        (s, r) for s in "01" for r in RATES
    ]
    alone = {
        rate: finetune.run(finetune_stage(data, model=RELU, optimizer={**SGD, "learning_rate": rate}), store)
        for rate in RATES
        if rate < 1e6
    }
    for seed in "01":
        values = {float(row["optimizer.learning_rate"]): float(row["value"]) for row in rows if row["seed"] == seed}
        assert values[1e6] == math.inf
        ends = {rate: table(each, "history.csv") for rate, each in alone.items()}
        for rate, end in ends.items():
            mine = [row["value"] for row in end if (row["seed"], row["metric"]) == (seed, "valid_loss")]
            assert values[rate] == float(mine[-1])
        best = min(values, key=values.__getitem__)
        assert [float(r["optimizer.learning_rate"]) for r in rows if (r["seed"], r["chosen"]) == (seed, "1")] == [best]
        assert made.extra["chosen"][seed] == {"optimizer.learning_rate": best}
        for name, tensor in weights(alone[best]).items():
            if name.startswith(f"{seed}/"):
                assert torch.equal(weights(made)[name], tensor)


def test_a_grid_of_two_fields_tries_all_combinations(store: Store) -> None:
    grid = {"optimizer.momentum": [0.0, 0.9], "batch_size": [10, 30]}
    stage = finetune_stage(prepared(store), select={"grid": grid, "by": "train_loss"}, seeds=(0,), epochs=1.0)
    rows = table(finetune.run(stage, store), "selection.csv")
    assert [(row["optimizer.momentum"], row["batch_size"]) for row in rows] == [
        ("0", "10"), ("0", "30"), ("0.9", "10"), ("0.9", "30"),
    ]  # fmt: skip
    assert len({row["value"] for row in rows}) == 4


def test_a_seed_of_which_every_setting_diverges_is_evaluated_as_that(store: Store) -> None:
    """Also without a grid: a network whose learning rate is 1e6."""
    data = prepared(store)
    for stage in (grid_stage(data, [1e6, 1e7]), grid_stage(data, [1e6]), diverging_stage(data)):
        made = finetune.run(stage, store)
        assert all(torch.isnan(tensor).all() for tensor in weights(made).values())
        found = evaluate.run(evaluate_stage(stage), store)
        assert found.path("metrics.csv").read_text() == "seed,metric,value\n0,diverged,1\n1,diverged,1\n"
        history = table(found, "history.csv")
        assert [(row["seed"], row["metric"], row["value"]) for row in history] == [
            ("0", "diverged", "1"),
            ("1", "diverged", "1"),
        ]
        assert load_file(found.path("outputs.safetensors")) == {}


def diverging_stage(data: str) -> Stage:
    return finetune_stage(data, model=RELU, optimizer={**SGD, "learning_rate": 1e6}, on_divergence="record")


def test_divergence_stays_an_error_where_nothing_is_said_of_it(store: Store) -> None:
    stage = finetune_stage(prepared(store), model=RELU, optimizer={**SGD, "learning_rate": 1e6})
    with pytest.raises(TrainingError, match="training has diverged"):
        finetune.run(stage, store)


def narrow_energy(store: Store, valid: int, **fields: Any) -> Stage:
    """One step that is too long: what seed 2 then has is too narrow for any grid, while its loss is finite. Of these
    two seeds that is so of this one alone at rates from 360 to 430, with or without validation examples."""
    data = make(Plane(shape="two_moons", train=200, test=50, valid=valid), store).stage.id
    energy, task = {"kind": "energy", "units": []}, {"kind": "denoising_score_matching"}
    sgd, one = {"kind": "sgd", "learning_rate": 400}, {"steps": 1}
    return finetune_stage(data, model=energy, task=task, optimizer=sgd, duration=one, seeds=(0, 2), **fields)


@pytest.mark.parametrize("valid", [50, 0])
def test_an_energy_without_an_integral_has_diverged(store: Store, valid: int) -> None:
    """It is seen at a validation, or where there is none when it is measured; the other seed is as ever."""
    stage = narrow_energy(store, valid, on_divergence="record")
    ended = [(row["seed"], row["step"]) for row in table(finetune.run(stage, store), "history.csv") if diverged(row)]
    assert ended == ([("2", "1")] if valid else [])
    found = evaluate.run(evaluate_stage(stage), store)
    rows = {(row["seed"], row["metric"]): row["value"] for row in table(found, "metrics.csv")}
    assert {metric: value for (seed, metric), value in rows.items() if seed == "2"} == {"diverged": "1"}
    assert rows["0", "diverged"] == "0"
    assert math.isfinite(float(rows["0", "test_log_likelihood"]))


def diverged(row: dict[str, str]) -> bool:
    return row["metric"] == "diverged"


def test_an_energy_without_an_integral_is_an_error_where_nothing_is_said_of_it(store: Store) -> None:
    with pytest.raises(TrainingError, match="seed 2: valid_log_likelihood is nan at step 1 of 1; training has diver"):
        finetune.run(narrow_energy(store, 50), store)
    finetune.run(stage := narrow_energy(store, 0), store)
    with pytest.raises(
        StepError, match=r"seed 2: log Z has no stable value .* on_divergence: record makes it a result"
    ):
        evaluate.run(evaluate_stage(stage), store)


def test_seeds_that_train_are_measured_as_ever(store: Store) -> None:
    """The chosen learning rate and `diverged` come on top of what is measured without grid and record."""
    data = prepared(store)
    chosen, alone = grid_stage(data, [0.1]), finetune_stage(data, model=RELU, optimizer={**SGD, "learning_rate": 0.1})
    tables = []
    for stage in (chosen, alone):
        finetune.run(stage, store)
        rows = table(evaluate.run(evaluate_stage(stage), store), "metrics.csv")
        tables.append({(row["seed"], row["metric"]): row["value"] for row in rows})
    added = {
        (seed, name): value for seed in "01" for name, value in (("chosen_learning_rate", "0.1"), ("diverged", "0"))
    }
    assert tables[0] == tables[1] | added
