"""Stages on a GPU: the same bytes every time, stopped or not, and on the whole what the CPU gives."""

from __future__ import annotations

import csv
import random
import signal
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from dlpipe import sampling
from dlpipe.artifacts import Artifact, Stage, Store
from dlpipe.runtime import devices, stacks
from dlpipe.runtime.streams import stream
from dlpipe.stages import evaluate, finetune, pretrain
from tests.gpu.conftest import NAME
from tests.gpu.stages import STAGES, STEPS, language_model, network, second_layer
from tests.stages.attempts import Attempt, Fate, attempt
from tests.stages.small import evaluate_stage
from tests.stages.test_resume import files

pytestmark = [pytest.mark.gpu, pytest.mark.slow]  # each process starts CUDA, which takes seconds

RESUMED = (
    *("rbm-cd", "rbm-pcd", "autoencoder", "mlp", "mlp-bfloat16", "mlp-early-stopping", "mlp-best-of"),
    *("language-model", "continuation", "tagging-both-ways"),
)


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[dict[str, str], Attempt]]:
    """Files of a stage made in one go (name to sha256), and how it went; each stage once."""
    root = tmp_path_factory.mktemp("undisturbed")
    store = Store(root / "data", root / "results")
    attempts: dict[str, Attempt] = {}

    def made(name: str) -> tuple[dict[str, str], Attempt]:
        stage = STAGES[name](store)
        if name not in attempts:
            attempts[name] = attempt(stage, store, device=NAME)
            assert attempts[name].exit_code == 0, attempts[name].error
        return files(store, stage), attempts[name]

    return made


@pytest.mark.parametrize("name", STAGES)
def test_same_stage_twice_same_bytes(name: str, store: Store, undisturbed: Callable) -> None:
    """In two processes. That they come to their end shows that no step needs what has no deterministic form."""
    stage = STAGES[name](store)
    again = attempt(stage, store, device=NAME)
    assert again.exit_code == 0, again.error
    assert files(store, stage) == undisturbed(name)[0]


@pytest.mark.parametrize("name", RESUMED)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_stopped_and_started_again_ends_in_the_same_bytes(
    name: str, number: signal.Signals, store: Store, undisturbed: Callable
) -> None:
    """As on the CPU: stopped twice at random steps; a kill loses the steps since the last saving, a signal none."""
    expected, whole = undisturbed(name)
    stage = STAGES[name](store)
    draw = random.Random(f"{name} {number.name}")
    first = draw.randrange(4, whole.steps // 2)
    second = draw.randrange(1, (whole.steps - first) // 2)
    save_every = 3 if number == signal.SIGKILL else None
    done = 0
    for after in (first, second):
        stopped = attempt(stage, store, Fate(number, after, save_every), device=NAME)
        assert stopped.exit_code == (-signal.SIGKILL if number == signal.SIGKILL else 1), stopped.error
        assert not store.is_done(stage.rule, stage.id)
        done += after if save_every is None else (after - 1) // save_every * save_every
    last = attempt(stage, store, device=NAME)
    assert last.exit_code == 0, last.error
    assert files(store, stage) == expected
    assert last.steps == whole.steps - done, "it went on, and did not start anew"


def test_the_steps_are_as_many_as_they_should_be(undisturbed: Callable) -> None:
    """Otherwise the stops above would not be in mid-training."""
    assert undisturbed("rbm-cd")[1].steps == (2 * STEPS if NAME == "cpu" else STEPS)


@pytest.mark.skipif(NAME == "cpu", reason="needs two devices: the CPU and another")
def test_another_devices_checkpoint_is_refused(store: Store, undisturbed: Callable) -> None:
    """Of a stage whose seeds are trained one after another everywhere, so that its checkpoints have the same names."""
    stage, (expected, whole) = STAGES["language-model"](store), undisturbed("language-model")
    assert attempt(stage, store, Fate(signal.SIGTERM, after=10), device="cpu").exit_code == 1
    last = attempt(stage, store, device=NAME)
    assert (last.exit_code, last.steps) == (0, whole.steps)
    assert "starting seed0-restart0 anew" in last.error
    assert files(store, stage) == expected


def test_a_second_layer_sees_the_first_and_both_unroll(store: Store, device: torch.device) -> None:
    second = second_layer(store, NAME)
    artifact = pretrain.run(second, store, device=NAME)
    layers = (*second.inputs["below"], second.id)
    tuned = network(store, layers=layers)
    finetune.run(tuned, store, device=NAME)
    measured = evaluate.run(evaluate_stage(tuned, layers), store, device=NAME)
    for each in (artifact, measured):
        facts = each.manifest["facts"]
        assert facts["device"] == devices.describe(device)
        assert facts["gpus"] == devices.gpus(device)
    # Three random patterns with a fifth of the pixels flipped: told apart by any network that learns at all.
    assert metrics(measured)["0", "test_error"] == 0.0


def metrics(artifact: Artifact) -> dict[tuple[str, str], float]:
    with artifact.path("metrics.csv").open() as file:
        return {(row["seed"], row["metric"]): float(row["value"]) for row in csv.DictReader(file)}


def measured_on_both(trained: Stage, store: Store, *measures: dict[str, Any]) -> list[dict[tuple[str, str], float]]:
    """The metrics of the same weights, on the device and on the CPU."""
    finetune.run(trained, store, device=NAME)
    stage = evaluate_stage(trained)
    stage = replace(stage, spec={**stage.spec, "measures": list(measures)})
    there = metrics(evaluate.run(stage, store, device=NAME))
    store.set_aside("evaluate", stage.id)
    return [there, metrics(evaluate.run(stage, store, device="cpu"))]


EVALUATED = ("mlp", "language-model", "continuation", "tagging-both-ways", "next-frame", "next-frame-reset-after")


@pytest.mark.parametrize("name", EVALUATED)
def test_evaluation_measures_what_the_cpu_measures(name: str, store: Store) -> None:
    """Of the same weights: logits are sums of at most 784 float32 products, rounded otherwise on another device."""
    there, here = measured_on_both(STAGES[name](store), store)
    assert there.keys() == here.keys()
    for key, value in here.items():
        # An example that lies on the border between two classes may fall on the other side: one of 300; of some 800
        # tokens in a sequence of up to 24 that the model writes itself, all that come after.
        several = 24 * 100 / 800 if key[1].endswith("free_running_error") else 100 / 300
        expected = pytest.approx(value, abs=several) if key[1].endswith("_error") else pytest.approx(value, rel=1e-4)
        assert there[key] == expected, key


def test_how_far_a_gradient_reaches_is_what_the_cpu_finds(store: Store) -> None:
    """In float64. The network has one output, and so no direction that another device would draw otherwise."""
    measure = {"kind": "gradient_by_distance", "steps": 20, "windows": 10}
    there, here = measured_on_both(STAGES["regression-elman"](store), store, measure)
    for seed in ("0", "1"):
        assert there[seed, "gradient_factor"] == pytest.approx(here[seed, "gradient_factor"], rel=1e-9)


def test_text_that_a_model_writes(store: Store) -> None:
    """At temperature 0 the CPU's; else it is the noise that decides, the same for the same seed."""
    trained = language_model(store, epochs=4.0, seeds=(0,))
    finetune.run(trained, store, device=NAME)

    def text(**options: Any) -> str:
        given = {
            "seed": 0,
            "prompt": "\u0200\u0201\u0202",
            "length": 30,
            "temperature": 0.0,
            "noise": 0,
            "device": NAME,
        }
        return sampling.text(trained, store, **(given | options))

    assert text() == text(device="cpu") == text(noise=1)
    assert len(text()) == 33
    assert text(temperature=1.0) == text(temperature=1.0)
    assert text(temperature=1.0) != text(temperature=1.0, noise=1)


LEARNT = {
    "rbm-cd": ("valid_reconstruction_error", 0.0005),
    "rbm-cd-bfloat16": ("valid_reconstruction_error", 0.0005),
    "rbm-pcd": ("valid_reconstruction_error", 0.001),
    "rbm-gaussian": ("valid_reconstruction_error", 0.007),
    "rbm-sparse": ("valid_reconstruction_error", 0.0005),
    "autoencoder": ("valid_loss", 0.03),
    "autoencoder-bfloat16": ("valid_loss", 0.03),
    "mlp-momentum": ("valid_loss", 0.006),
    "language-model": ("valid_loss", 0.05),
    "continuation": ("valid_loss", 0.004),
    "tagging-both-ways": ("valid_loss", 0.06),
    "next-frame": ("valid_loss", 0.001),
}
"""What training comes to, and how far, relative to the value, it may be on a device that draws other numbers: five
times the range of five runs on the CPU that differ in what their steps draw, rounded up. The start and the order of the
examples are the same on every device."""


@pytest.mark.parametrize("name", LEARNT)
def test_training_comes_to_what_it_comes_to_on_the_cpu(name: str, store: Store) -> None:
    metric, allowed = LEARNT[name]
    here, there = (learnt(STAGES[name](store), store, metric, place) for place in ("cpu", NAME))
    assert there == pytest.approx(here, rel=allowed)


@pytest.mark.parametrize("name", LEARNT)
def test_what_is_allowed_is_what_other_draws_make(name: str, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the CPU: the steps' streams have another name, as good as another device."""
    metric, allowed = LEARNT[name]
    here = learnt(STAGES[name](store), store, metric, "cpu")

    def other(seed: int, purpose: str, *steps: int, **options: Any) -> torch.Generator:
        return stream(seed, f"{purpose} again" if purpose.endswith("/step") else purpose, *steps, **options)

    monkeypatch.setattr(stacks, "stream", other)
    again = learnt(STAGES[name](store), store, metric, "cpu")
    assert again != here
    assert again == pytest.approx(here, rel=allowed)
    assert again != pytest.approx(here, rel=allowed / 100), "it is not much more than that"


def learnt(stage: Stage, store: Store, metric: str, device: str) -> list[float]:
    """The metric's last value of each seed."""
    if store.folder(stage.rule, stage.id).exists():
        store.set_aside(stage.rule, stage.id)
    run = {"pretrain": pretrain.run, "finetune": finetune.run}[stage.rule]
    with run(stage, store, device=device).path("history.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["metric"] == metric]
    return [float([row for row in rows if row["seed"] == str(seed)][-1]["value"]) for seed in stage.seeds]


def test_bfloat16_is_really_at_work(store: Store, undisturbed: Callable) -> None:
    """Its bytes are not those of float32; otherwise the tests above would show nothing of it."""
    for name in ("rbm-cd", "rbm-pcd", "autoencoder", "mlp", "language-model"):
        assert undisturbed(name)[0]["weights.safetensors"] != undisturbed(f"{name}-bfloat16")[0]["weights.safetensors"]


def test_what_has_no_deterministic_form_raises(device: torch.device) -> None:
    index = torch.zeros(2, dtype=torch.int64, device=device)
    with pytest.raises(RuntimeError, match="does not have a deterministic implementation"):
        torch.zeros(3, device=device).put_(index, torch.ones(2, device=device))
