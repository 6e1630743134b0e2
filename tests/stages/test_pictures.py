"""Models that look at pictures, through the stages: what they are told, what starts from them, what is shown."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from dlpipe.artifacts import Artifact, ArtifactError, Store
from dlpipe.runtime.data import picture_shape
from dlpipe.stages import evaluate, finetune
from tests.stages.small import evaluate_stage, finetune_stage, prepared

AUTOENCODER = {"kind": "convolutional_autoencoder", "channels": [6, 4], "kernel": 3}
CLASSIFIER = {**AUTOENCODER, "kind": "convolutional_classifier"}
RECONSTRUCTION = {"kind": "reconstruction"}
ADAM = {"kind": "adam", "learning_rate": 0.01}
SHAPE = (6, 5, 3)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "data", tmp_path / "results")


def weights(artifact: Artifact) -> dict[str, torch.Tensor]:
    return load_file(artifact.path("weights.safetensors"))


@pytest.mark.parametrize("shape", [(4, 4), SHAPE])
def test_an_autoencoder_learns_and_shows_its_filters_and_reconstructions(store: Store, shape: tuple[int, ...]) -> None:
    data = prepared(store, shape=shape)
    short, long = (
        finetune_stage(data, model=AUTOENCODER, task=RECONSTRUCTION, optimizer=ADAM, epochs=n) for n in (1.0, 20.0)
    )
    errors = []
    for stage in (short, long):
        finetune.run(stage, store)
        evaluated = evaluate.run(evaluate_stage(stage), store)
        table = evaluated.path("metrics.csv").read_text()
        errors.append(float(re.search(r"0,test_reconstruction_error,(.*)", table)[1]))  # type: ignore[index]
    assert errors[1] < 0.9 * errors[0]
    outputs = load_file(evaluated.path("outputs.safetensors"))
    colours = shape[2] if len(shape) == 3 else 1
    assert outputs["filters_finetuned/1"].shape == (6, 3, 3, colours)
    assert outputs["reconstructions_finetuned"].shape == (10, *shape)
    assert "test_ratio_to_pca" in table


def test_a_probe_reads_the_filters_that_the_autoencoder_left(store: Store) -> None:
    data = prepared(store, shape=(8, 8))
    trained = finetune_stage(data, model=AUTOENCODER, task=RECONSTRUCTION, optimizer=ADAM, epochs=5.0)
    below = weights(finetune.run(trained, store))
    for train, kept in (("top", True), ("all", False)):
        stage = finetune_stage(data, model=CLASSIFIER, start=trained.id, train=train, epochs=5.0)
        own = weights(finetune.run(stage, store))
        shared = [name for name in own if name in below]
        assert len(shared) == 2 * 4  # of two seeds
        assert all(torch.equal(own[name], below[name]) for name in shared) == kept
        assert own["0/output"].abs().max() > 0
    evaluated = evaluate.run(evaluate_stage(stage), store)
    assert load_file(evaluated.path("outputs.safetensors"))["filters_finetuned/1"].shape == (6, 3, 3, 1)


def test_what_is_no_picture_is_refused(store: Store) -> None:
    data = prepared(store, shape=(16,))
    with pytest.raises(ArtifactError, match=rf"the model looks at pictures; an example of {data} has the shape \[16\]"):
        finetune.run(finetune_stage(data, model=AUTOENCODER, task=RECONSTRUCTION), store)


def test_grey_pictures_have_one_colour(store: Store) -> None:
    grey, coloured = (store.read("prepare", prepared(store, shape=shape)) for shape in ((4, 4), SHAPE))
    assert picture_shape(grey) == (4, 4, 1)
    assert picture_shape(coloured) == SHAPE
