"""Samples of a whole generative model: of any class, of one, and what is refused. Of layers: tests/test_commands.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dlpipe import sampling
from dlpipe.artifacts import ArtifactError, Stage, Store, write_stages
from dlpipe.cli import command_line, run
from dlpipe.models.deep_belief_network import DeepBeliefNetwork
from dlpipe.models.deep_boltzmann_machine import DeepBoltzmannMachine
from dlpipe.runtime.data import load_weights
from dlpipe.runtime.streams import stream
from dlpipe.spec.datasets import Plane
from dlpipe.stages import finetune, pretrain
from tests.stages.small import finetune_stage, prepared, pretrain_stage
from tests.stages.test_prepare import make
from tests.workspace import EXPERIMENT, plan_of

DBN = {"kind": "dbn", "units": [8, 6]}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Stage, Store]:
    root = tmp_path_factory.mktemp("sampling")
    store = Store(root / "data", root / "results")
    stage = finetune_stage(prepared(store), model=DBN, task={"kind": "generative"}, epochs=4.0)
    finetune.run(stage, store)
    return stage, store


def drawn(trained: tuple[Stage, Store], label: str | None) -> np.ndarray:
    options: dict[str, Any] = {"seed": 0, "count": 200, "gibbs_steps": 50, "noise": 0, "device": "cpu"}
    return sampling.draw(*trained, label=label, **options)


def test_samples_are_the_trained_models_own_of_the_class_asked_for(trained: tuple[Stage, Store]) -> None:
    stage, store = trained
    model = DeepBeliefNetwork(16, 3, units=[8, 6])
    load_weights(model, store.read("finetune", stage.id), 0)
    for label, options in ((None, {}), ("a", {"label": 0}), ("c", {"label": 2})):
        expected = model.sample(200, 50, stream(0, "sample"), **options)
        np.testing.assert_allclose(drawn(trained, label), expected.reshape(200, 4, 4).numpy(), rtol=1e-6)
    assert not np.array_equal(drawn(trained, "a"), drawn(trained, "c"))


def test_a_class_that_there_is_not_is_refused(trained: tuple[Stage, Store]) -> None:
    with pytest.raises(sampling.SamplingError, match="no class 'd'; there are a, b, c"):
        drawn(trained, "d")


def test_what_is_not_trained_yet_says_what_to_run(trained: tuple[Stage, Store], tmp_path: Path) -> None:
    stage, _ = trained
    with pytest.raises(ArtifactError, match=f"Run `dlpipe finetune {stage.id}`"):
        drawn((stage, Store(tmp_path / "data", tmp_path / "results")), None)


def test_what_is_no_model_of_the_inputs_alone_is_refused(trained: tuple[Stage, Store]) -> None:
    """A layer that sees labels gives examples and labels as one; the model above it gives examples."""
    stage, store = trained
    layer = pretrain_stage(stage.inputs["data"], {"kind": "label_rbm"})
    pretrain.run(layer, store)
    with pytest.raises(sampling.SamplingError, match="no model of its inputs"):
        drawn((layer, store), None)


def test_a_boltzmann_machine_goes_on_from_its_chains(tmp_path: Path) -> None:
    store = Store(tmp_path / "data", tmp_path / "results")
    dbm = {"kind": "dbm", "units": [8, 6], "chains": 10}
    stage = finetune_stage(prepared(store), model=dbm, task={"kind": "generative"})
    finetune.run(stage, store)
    model = DeepBoltzmannMachine(16, 3, units=[8, 6], chains=10)
    load_weights(model, store.read("finetune", stage.id), 0)
    expected = model.sample(200, 50, stream(0, "sample")).reshape(200, 4, 4)
    np.testing.assert_allclose(drawn((stage, store), None), expected.numpy(), rtol=1e-6)
    with pytest.raises(sampling.SamplingError, match="trained without labels: leave out --label"):
        drawn((stage, store), "a")


def test_points_are_numbers_and_no_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of a Gaussian RBM in the plane: as many points as are asked for, where its means were one a state of h."""
    store = Store(tmp_path / "data", tmp_path / "results")
    plane = make(Plane(shape="ica_mixture", train=100, test=20), store).stage.id
    layer = pretrain_stage(plane, {"kind": "rbm", "visible_units": "gaussian"}, units=4)
    pretrain.run(layer, store)
    write_stages(store, [layer])
    what = ["sample", layer.id, "--data", str(store.data), "--results", str(store.results), "--steps", "5"]
    capsys.readouterr()
    assert run(command_line, what) == 0
    path = store.results / "samples" / f"{layer.id}-seed0.npz"
    assert capsys.readouterr().out == f"{path}\n"
    samples = np.load(path, allow_pickle=False)["samples"]
    assert samples.shape == np.unique(samples, axis=0).shape == (100, 2)
    picture = tmp_path / "picture.png"
    assert run(command_line, [*what, "--to", str(picture)]) == 1
    assert f"{picture}: vectors of 2 numbers are no pictures; write them as .npz" in capsys.readouterr().err
    assert not picture.exists()


def test_of_a_generative_model_it_is_the_model_that_is_sampled(tmp_path: Path) -> None:
    text = EXPERIMENT.replace("{kind: mlp, units: [12, 11, 10], activation: sigmoid, init: glorot_sigmoid}", str(DBN))
    text = text[: text.index("pretrain:")] + text[text.index("finetune:") : text.index("axes:")] + "seeds: 3\n"
    plan = plan_of(tmp_path, text.replace("{kind: classification}", "{kind: generative}"))
    stage = sampling.stage_to_sample(plan, {}, 0)
    assert (stage.rule, stage.spec["model"]["kind"]) == ("finetune", "dbn")
    with pytest.raises(sampling.SamplingError, match="no variant at depth=3; it has no axes: leave out --where"):
        sampling.stage_to_sample(plan, {"depth": "3"}, 0)
