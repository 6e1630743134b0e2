from __future__ import annotations

import csv
import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.nn.functional import cross_entropy

from dlpipe.artifacts import Artifact, Stage, Store
from dlpipe.layers.rbm import RBM
from dlpipe.models.mlp import MLP
from dlpipe.runtime.data import load_weights
from dlpipe.runtime.streams import stream
from dlpipe.spec.datasets import Plane
from dlpipe.spec.measures import Fantasies, KlDivergence, Landscape, LogLikelihood, StepsUntil
from dlpipe.stages import evaluate, finetune, pretrain
from dlpipe.tasks.base import Measured
from dlpipe.tasks.classification import Classification
from tests.stages.small import CLASSES, SHAPE, evaluate_stage, finetune_stage, prepared, pretrain_stage
from tests.stages.test_prepare import make

LABELLED = 60


class Chain:
    """Two layers, a first phase on some labels, a second, and their evaluation, for seeds 0 and 1."""

    def __init__(self, store: Store) -> None:
        data = prepared(store)
        model = {"kind": "mlp", "units": [8, 6]}
        first = pretrain_stage(data, epochs=2.0)
        second = pretrain_stage(data, {"kind": "autoencoder"}, (first.id,), units=6, epochs=2.0)
        self.layers = [pretrain.run(stage, store) for stage in (first, second)]
        ids = (first.id, second.id)
        phase1 = finetune_stage(data, ids, model=model, labelled=LABELLED, epochs=1.0)
        phase2 = finetune_stage(data, start=phase1.id, model=model, labelled=LABELLED, epochs=2.0)
        self.phases = [finetune.run(stage, store) for stage in (phase1, phase2)]
        self.stage = evaluate_stage(phase2, ids, (phase1.id,))
        self.artifact = evaluate.run(self.stage, store)
        self.data = store.read("prepare", data)
        self.tensors = load_file(self.data.path("data.safetensors"))
        self.outputs = load_file(self.artifact.path("outputs.safetensors"))

    def model(self, seed: int) -> MLP:
        net = MLP(SHAPE[0] * SHAPE[1], CLASSES, units=[8, 6])
        weights = load_file(self.phases[-1].path("weights.safetensors"))
        net.load_state_dict({name: weights[f"{seed}/{name}"] for name in net.state_dict()})
        return net.eval()

    def logits(self, seed: int, split: str) -> torch.Tensor:
        with torch.no_grad():
            return self.model(seed)(self.tensors[f"{split}.inputs"].flatten(1) / 255)

    def metrics(self, name: str = "metrics.csv") -> dict[tuple[int, str], float]:
        with self.artifact.path(name).open() as file:
            reader = csv.DictReader(file)
            assert reader.fieldnames == ["seed", "metric", "value"]
            return {(int(row["seed"]), row["metric"]): float(row["value"]) for row in reader}


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chain]:
    root: Path = tmp_path_factory.mktemp("evaluate")
    return Chain(Store(root / "data", root / "results"))


def test_metrics_are_what_their_definitions_give(chain: Chain) -> None:
    metrics = chain.metrics()
    for seed in (0, 1):
        for split, n in (("train", LABELLED), ("valid", 30), ("test", 30)):
            logits, targets = chain.logits(seed, split)[:n], chain.tensors[f"{split}.targets"][:n]
            wrong = int((logits.argmax(dim=1) != targets).sum())
            assert metrics[seed, f"{split}_error"] == pytest.approx(100 * wrong / n, rel=1e-8)  # nine digits
            # float32 logits of a batch of another size may round differently.
            assert metrics[seed, f"{split}_loss"] == pytest.approx(float(cross_entropy(logits, targets)), rel=1e-5)


def test_measures_of_the_lowest_layer_join_the_metrics(tmp_path: Path) -> None:
    """On all training examples, though fine-tuning saw some; the same numbers when asked again."""
    store = Store(tmp_path / "data", tmp_path / "results")
    data = prepared(store)
    layer = pretrain_stage(data)
    pretrain.run(layer, store)
    phase = finetune_stage(data, (layer.id,), labelled=LABELLED)
    finetune.run(phase, store)
    plain = evaluate_stage(phase, (layer.id,))
    declared = LogLikelihood(chains=30, temperatures=50).model_dump(mode="json")
    stage = Stage(plain.rule, plain.name, {**plain.spec, "measures": [declared]}, plain.inputs, plain.seeds, {})
    without, with_measures = (values(evaluate.run(each, store)) for each in (plain, stage))
    assert without.items() <= with_measures.items()
    inputs = load_file(store.read("prepare", data).path("data.safetensors"))
    for seed in (0, 1):
        rbm = RBM(16, 8)
        load_weights(rbm, store.read("pretrain", layer.id), seed)
        for split in ("train", "valid", "test"):
            v = inputs[f"{split}.inputs"].flatten(1).double() / 255
            exact = rbm.double().log_likelihood(v).mean().item()
            assert with_measures[seed, f"{split}_log_likelihood"] == pytest.approx(exact, abs=1e-4)
        assert with_measures[seed, "log_partition"] == pytest.approx(float(rbm.log_partition()), abs=1e-6)
    assert len(with_measures) == len(without) + 2 * 4


def test_fantasies_are_pictures_of_the_first_seeds_layer(tmp_path: Path) -> None:
    store = Store(tmp_path / "data", tmp_path / "results")
    layer = pretrain_stage(data := prepared(store))
    pretrain.run(layer, store)
    phase = finetune_stage(data, (layer.id,))
    finetune.run(phase, store)
    plain = evaluate_stage(phase, (layer.id,))
    declared = Fantasies(count=7, gibbs_steps=5).model_dump(mode="json")
    stage = Stage(plain.rule, plain.name, {**plain.spec, "measures": [declared]}, plain.inputs, plain.seeds, {})
    fantasies = load_file(evaluate.run(stage, store).path("outputs.safetensors"))["fantasies"]
    rbm = RBM(16, 8)
    load_weights(rbm, store.read("pretrain", layer.id), 0)
    torch.testing.assert_close(fantasies, rbm.sample(7, 5, stream(0, "evaluate/fantasies")).reshape(7, *SHAPE))


def test_a_gaussian_rbm_in_the_plane_is_set_against_what_its_points_are_drawn_from(tmp_path: Path) -> None:
    """The divergence is the gap between the two log-likelihoods; the figure's density is the first seed's."""
    store = Store(tmp_path / "data", tmp_path / "results")
    plane = Plane(shape="ica_mixture", scale=1.5, train=400, test=3000)
    data = make(plane, store).stage.id
    pretrain.run(layer := pretrain_stage(data, {"kind": "rbm", "visible_units": "gaussian"}, units=3), store)
    model = {"kind": "mlp", "units": [3]}
    finetune.run(phase := finetune_stage(data, (layer.id,), model=model, train="none"), store)
    plain = evaluate_stage(phase, (layer.id,))
    declared = [each.model_dump(mode="json") for each in (LogLikelihood(), KlDivergence(), Landscape())]
    stage = Stage(plain.rule, plain.name, {**plain.spec, "measures": declared}, plain.inputs, plain.seeds, {})
    artifact = evaluate.run(stage, store)
    found, outputs = values(artifact), load_file(artifact.path("outputs.safetensors"))
    test = load_file(store.read("prepare", data).path("data.safetensors"))["test.inputs"].double()
    turn = math.pi / 6
    first = test @ torch.tensor([math.cos(turn), math.sin(turn)]).double()
    second = test @ torch.tensor([-math.sin(turn), math.cos(turn)]).double()
    true = -math.sqrt(2) / 1.5 * (first.abs() + second.abs()) - math.log(2 * 1.5**2)
    for seed in (0, 1):
        gap = float(true.mean()) - found[seed, "test_log_likelihood"]
        assert found[seed, "test_kl_divergence"] == pytest.approx(gap, abs=1e-5)  # free energies there are float32
    assert outputs["density"].shape == (150, 150)
    assert torch.equal(outputs["density_points"], test[:1000].float())
    assert (0, "valid_kl_divergence") not in found


def values(artifact: Artifact) -> dict[tuple[int, str], float]:
    with artifact.path("metrics.csv").open() as file:
        return {(int(row["seed"]), row["metric"]): float(row["value"]) for row in csv.DictReader(file)}


def test_seconds_are_those_of_the_whole_chain(chain: Chain) -> None:
    for seed in (0, 1):
        parts = [artifact.extra["seconds"][str(seed)] for artifact in (*chain.layers, *chain.phases)]
        assert chain.metrics("times.csv")[seed, "train_seconds"] == pytest.approx(sum(parts), rel=1e-8)


def test_confusion_counts_true_by_predicted(chain: Chain) -> None:
    assert chain.outputs["confusion"].dtype == torch.int64
    for seed in (0, 1):
        expected = torch.zeros(CLASSES, CLASSES, dtype=torch.int64)
        for true, predicted in zip(
            chain.tensors["test.targets"], chain.logits(seed, "test").argmax(dim=1), strict=True
        ):
            expected[true, predicted] += 1
        assert torch.equal(chain.outputs["confusion"][seed], expected)


def test_filters_are_the_first_seeds_weights_projected_to_the_input(chain: Chain) -> None:
    lower, upper = (load_file(artifact.path("weights.safetensors"))["0/W"] for artifact in chain.layers)
    assert torch.equal(chain.outputs["filters/1"], lower.T.reshape(8, *SHAPE))
    # A float32 product of 8 terms.
    torch.testing.assert_close(chain.outputs["filters/2"], (lower @ upper).T.reshape(6, *SHAPE), rtol=1e-5, atol=1e-6)
    assert torch.equal(chain.outputs["filters_finetuned/1"], chain.model(0).weights[0].detach().T.reshape(8, *SHAPE))


def test_reconstructions_go_up_and_down_the_stack(chain: Chain) -> None:
    first, second = (
        {name: load_file(artifact.path("weights.safetensors"))[f"0/{name}"] for name in ("W", "hbias", "vbias")}
        for artifact in chain.layers
    )
    x = chain.tensors["test.inputs"][:10].flatten(1) / 255
    up = x
    for layer in (first, second):
        up = torch.sigmoid(up @ layer["W"] + layer["hbias"])
    for layer in (second, first):
        up = torch.sigmoid(up @ layer["W"].T + layer["vbias"])
    assert torch.equal(chain.outputs["reconstruction_inputs"], x.reshape(10, *SHAPE))
    torch.testing.assert_close(chain.outputs["reconstructions"], up.reshape(10, *SHAPE), rtol=1e-5, atol=1e-6)


def test_a_stack_with_no_way_back_has_no_reconstructions(tmp_path: Path) -> None:
    """Of two layers the upper one was trained to classify."""
    store = Store(tmp_path / "data", tmp_path / "results")
    data = prepared(store)
    first = pretrain_stage(data, epochs=1.0)
    second = pretrain_stage(data, {"kind": "supervised"}, (first.id,), units=6, epochs=1.0)
    for layer in (first, second):
        pretrain.run(layer, store)
    phase = finetune_stage(data, (first.id, second.id), model={"kind": "mlp", "units": [8, 6]})
    finetune.run(phase, store)
    artifact = evaluate.run(evaluate_stage(phase, (first.id, second.id)), store)
    outputs = load_file(artifact.path("outputs.safetensors"))
    assert {"filters/1", "filters/2"} <= set(outputs)
    assert not any(name.startswith("reconstruction") for name in outputs)


def test_wrong_examples_are_wrong_and_labelled_true_then_predicted(chain: Chain) -> None:
    predicted, targets = chain.logits(0, "test").argmax(dim=1), chain.tensors["test.targets"]
    wrong = (predicted != targets).nonzero().flatten()[:20]
    assert len(wrong) > 0
    expected = torch.stack((targets[wrong], predicted[wrong]), dim=1)
    assert torch.equal(chain.outputs["examples_wrong_labels"], expected)
    assert torch.equal(chain.outputs["examples_wrong"], chain.tensors["test.inputs"][wrong].float() / 255)


def test_history_joins_all_phases(chain: Chain) -> None:
    with chain.artifact.path("history.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(dict.fromkeys(row["phase"] for row in rows)) == ["pretrain/1", "pretrain/2", "finetune/1", "finetune/2"]
    for phase, source in (("pretrain/2", chain.layers[1]), ("finetune/2", chain.phases[1])):
        with source.path("history.csv").open() as file:
            assert [row for row in rows if row["phase"] == phase] == list(csv.DictReader(file))


def test_ancestors_tell_where_the_numbers_come_from(chain: Chain) -> None:
    expected: list[Artifact] = [chain.data, *chain.layers, *chain.phases]
    ancestors = chain.artifact.extra["ancestors"]
    assert [ancestor["id"] for ancestor in ancestors] == [artifact.stage.id for artifact in expected]
    for ancestor, artifact in zip(ancestors, expected, strict=True):
        assert ancestor["seconds"] == artifact.manifest["times"]["seconds"]
        assert ancestor["device"] == artifact.manifest["facts"].get("device")
    assert chain.artifact.extra["classes"] == list("abc")
    assert chain.artifact.extra["input_shape"] == list(SHAPE)


def test_without_layers_and_validation_examples(tmp_path: Path) -> None:
    store = Store(tmp_path / "data", tmp_path / "results")
    data = prepared(store, {"train": 40, "valid": 0, "test": 20})
    stage = finetune_stage(data, model={"kind": "mlp", "units": []}, seeds=(2,))
    finetune.run(stage, store)
    artifact = evaluate.run(evaluate_stage(stage), store)
    metrics = [line.split(",")[1] for line in artifact.path("metrics.csv").read_text().splitlines()[1:]]
    assert metrics == ["train_error", "train_loss", "test_error", "test_loss"]
    outputs = load_file(artifact.path("outputs.safetensors"))
    assert set(outputs) == {"confusion", "filters_finetuned/1", "examples_wrong", "examples_wrong_labels"}
    assert outputs["confusion"].shape == (1, 3, 3)


def test_same_inputs_same_outputs(chain: Chain, tmp_path: Path) -> None:
    """All but the seconds of training, which times.csv holds."""
    store = Store(tmp_path / "data", tmp_path / "results")
    again = Chain(store).artifact
    for name in ("metrics.csv", "history.csv", "outputs.safetensors"):
        assert again.manifest["files"][name] == chain.artifact.manifest["files"][name]


def test_what_a_task_says_is_what_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures and tensors of the first seed, what it counts of every seed, its metrics of each; nothing else."""
    given = [
        Measured(
            {"test_wit": float(seed)},
            pictures={"jokes": torch.full((3, 16), float(seed))},
            tensors={"names": torch.tensor([seed])},
            of_each_seed={"laughs": torch.tensor([seed, 7])},
        )
        for seed in (0, 1)
    ]
    store = Store(tmp_path / "data", tmp_path / "results")
    phase = finetune_stage(prepared(store))
    finetune.run(phase, store)
    answers = iter(given)
    monkeypatch.setattr(Classification, "measure", lambda *_: next(answers))
    artifact = evaluate.run(evaluate_stage(phase), store)
    assert values(artifact) == {(0, "test_wit"): 0.0, (1, "test_wit"): 1.0}
    outputs = load_file(artifact.path("outputs.safetensors"))
    assert set(outputs) == {"jokes", "names", "laughs", "filters_finetuned/1"}
    assert torch.equal(outputs["jokes"], torch.zeros(3, *SHAPE))
    assert outputs["names"].tolist() == [0]
    assert outputs["laughs"].tolist() == [[0, 7], [1, 7]]


def test_reconstruction_needs_an_output_a_feature_and_no_labels(tmp_path: Path) -> None:
    store = Store(tmp_path / "data", tmp_path / "results")
    task = {"kind": "reconstruction", "loss": "squared"}
    phase = finetune_stage(prepared(store), task=task)
    finetune.run(phase, store)
    artifact = evaluate.run(evaluate_stage(phase), store)
    error = values(artifact)[0, "test_reconstruction_error"]
    outputs = load_file(artifact.path("outputs.safetensors"))
    assert set(outputs) == {"reconstruction_inputs", "reconstructions_finetuned", "filters_finetuned/1"}
    shown = outputs["reconstructions_finetuned"]
    assert shown.shape == (10, *SHAPE)
    net = MLP(16, 16, units=[8])
    load_weights(net, store.read("finetune", phase.id), 0)
    x = load_file(store.read("prepare", phase.inputs["data"]).path("data.safetensors"))["test.inputs"].flatten(1) / 255
    with torch.no_grad():
        assert error == pytest.approx((net(x) - x).square().sum(dim=1).mean().item(), rel=1e-5)  # float32
        torch.testing.assert_close(shown.flatten(1), net(x)[:10], rtol=1e-5, atol=1e-6)


def test_steps_until_a_metric_of_the_history_is_low_enough(tmp_path: Path) -> None:
    """The first validation at which it is; infinite where it never is; no layer is asked for."""
    store = Store(tmp_path / "data", tmp_path / "results")
    phase = finetune_stage(prepared(store), epochs=6.0)
    finetune.run(phase, store)
    losses: dict[int, list[tuple[int, float]]] = {0: [], 1: []}
    with store.read("finetune", phase.id).path("history.csv").open() as file:
        for row in csv.DictReader(file):
            if row["metric"] == "train_loss":
                losses[int(row["seed"])].append((int(row["step"]), float(row["value"])))
    at_most = losses[0][3][1]
    plain = evaluate_stage(phase)
    for limit, metric in ((at_most, "train_loss"), (0.0, "train_loss")):
        declared = StepsUntil(metric=metric, at_most=limit).model_dump(mode="json")
        stage = Stage(plain.rule, plain.name, {**plain.spec, "measures": [declared]}, plain.inputs, plain.seeds, {})
        found = values(evaluate.run(stage, store))
        for seed in (0, 1):
            expected = next((step for step, loss in losses[seed] if loss <= limit), math.inf)
            assert found[seed, "steps_until_train_loss"] == expected
    assert losses[0][3][0] == 20


def test_seconds_a_step_are_in_the_manifest_by_phase_and_seed(chain: Chain) -> None:
    told = chain.artifact.extra["seconds_a_step"]
    assert set(told) == {"pretrain/1", "pretrain/2", "finetune/1", "finetune/2"}
    steps = 2 * -(-LABELLED // 20)
    for seed in ("0", "1"):
        whole = chain.phases[-1].extra["seconds"][seed]  # to a millisecond
        assert told["finetune/2"][seed] * steps == pytest.approx(whole, abs=6e-4)
