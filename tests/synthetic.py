"""Made-up metrics artifacts of a depth study on 8x8 digits, so that plots and reports can be measured and tested alone.

The numbers look like real ones (pretraining helps, more so at depth) and are fixed by a seed; they are no results.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from dlpipe.artifacts import Stage, Store
from dlpipe.plan import Plan, make_plan
from dlpipe.provenance import source_digests
from dlpipe.spec.loading import load
from dlpipe.stages import plot, report

PRETRAINING = ("rbm", "dae", "none")
DEPTHS = ("1", "2", "3", "4")
ERROR = {"rbm": (9.0, 7.5, 7.0, 7.2), "dae": (9.2, 8.0, 7.4, 7.8), "none": (10.0, 10.5, 13.0, 17.0)}
"""Mean test error, per cent, by pretraining and depth."""
SIDE = 8
CLASSES = [str(digit) for digit in range(10)]


EXPERIMENT = """
title: Greedy layerwise pretraining against random initialisation
question: Does pretraining lower the test error, and more so the deeper the network is?
paper: erhan2010
dataset: {kind: digits, labelled: 100}
model: {kind: mlp, units: [100, 100, 100, 100], activation: sigmoid, init: uniform_fan_in}
pretrain:
  layer: {kind: rbm, cd_steps: 1}
  duration: {epochs: 15}
  optimizer: {kind: sgd, learning_rate: 0.05, momentum: 0.5}
finetune:
  task: {kind: classification}
  duration: {epochs: 60}
  optimizer: {kind: sgd, learning_rate: 0.1}
axes:
  pretraining:
    rbm: {}
    dae: {pretrain.layer: {kind: autoencoder, corruption: 0.25}}
    none: {pretrain: null}
  depth: {1: {model.units: [100]}, 2: {model.units: [100, 100]}, 3: {model.units: [100, 100, 100]}, 4: {}}
seeds: 3
scales:
  demo: {}
claims:
  - says: Pretraining lowers the test error at depths 3 and 4.
    source: Erhan et al. 2010, figure 1
    compare: {pretraining: rbm}
    with: {pretraining: none}
    where: {depth: 4}
    margin: 1.0
  - says: Pretraining lowers the test error at every depth.
    compare: {pretraining: rbm}
    with: {pretraining: none}
    for_each: depth
  - says: The gain grows with depth.
    compare: {pretraining: rbm}
    with: {pretraining: none}
    grows: {axis: depth, from: 1, to: 4}
  - says: Random initialisation is better at depth 4.
    compare: {pretraining: none}
    with: {pretraining: rbm}
    where: {depth: 4}
  - says: A pretrained network reaches 7 % at depth 3.
    where: {pretraining: rbm, depth: 3}
    value: 7.0
    tolerance: 1.0
  - says: A deep belief network reaches 1.25 % on MNIST.
    where: {pretraining: rbm, depth: 3}
    value: 1.25
    tolerance: 0.25
    scales: [paper]
    because: it is a number for MNIST with all of its labels
  - says: The test error is lower than the validation error.
    where: {pretraining: rbm, depth: 3}
    better_than: valid_error
"""
PAPERS = """
@article{erhan2010,
  author = {Erhan, Dumitru and Bengio, Yoshua and Courville, Aaron and Vincent, Pascal},
  title = {Why Does Unsupervised Pre-training Help Deep Learning?},
  journal = {Journal of Machine Learning Research},
  year = {2010},
  url = {https://jmlr.org/papers/v11/erhan10a.html},
}
"""


def plan_of(folder: Path, experiment: str = EXPERIMENT, names: Sequence[str] = ("depth",)) -> Plan:
    """Writes the experiment under each name, with its bibliography, into `folder` and plans it at scale demo."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "papers.bib").write_text(PAPERS, encoding="utf-8")
    for name in names:
        (folder / f"{name}.yaml").write_text(experiment, encoding="utf-8")
    return make_plan([load(folder / f"{name}.yaml", scale="demo") for name in names])


def make_metrics(plan: Plan, store: Store, **kwargs: Any) -> None:
    """Makes every evaluate artifact of the plan. `epochs` (default 30) is the length of the histories."""
    for experiment in plan.experiments:
        for variant in experiment.variants:
            for chain in variant.chains:
                make_variant(plan.stages[chain[-1]], variant.levels, list(ancestors(plan, chain)), store, **kwargs)


def make_variant(
    stage: Stage, levels: Mapping[str, str], from_stages: Sequence[dict[str, Any]], store: Store, *, epochs: int = 30
) -> None:
    pretraining, depth = levels.get("pretraining", "rbm"), int(levels.get("depth", "1"))
    draw = np.random.default_rng([PRETRAINING.index(pretraining), depth])
    with store.make(stage, threads=2, device="cpu") as draft:
        errors = {seed: ERROR[pretraining][depth - 1] + seed * 0.3 + draw.normal(0, 0.5) for seed in stage.seeds}
        _write_metrics(draft.folder, errors, draw)
        _write_history(draft.folder / "history.csv", errors, pretraining, depth, epochs, draw)
        save_file(_outputs(pretraining, depth, len(stage.seeds), draw), draft.folder / "outputs.safetensors")
        draft.extra.update(ancestors=list(from_stages), classes=CLASSES, input_shape=[SIDE, SIDE])


def ancestors(plan: Plan, chain: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The stages under a variant, as `evaluate` records them; each took as many seconds as its place in the chain."""
    for place, stage_id in enumerate(chain[:-1]):
        yield {
            "id": stage_id,
            "rule": plan.stages[stage_id].rule,
            "seconds": float(place),
            "cpu_seconds": 2.0 * place,
            "commit": "0123456789abcdef",
            "dirty": False,
            "host": "workstation",
            "processor": "Made-up CPU",
            "threads": 2,
            "device": "cpu",
            "sources": source_digests(plan.stages[stage_id].hints.get("implementations", {})),
            "implementations": plan.stages[stage_id].hints.get("implementations", {}),
        }


def _write_metrics(folder: Path, errors: Mapping[int, float], draw: np.random.Generator) -> None:
    metrics, times = [], []
    for seed, error in errors.items():
        values = {"test_error": error, "valid_error": error + draw.normal(0, 0.4), "train_error": 0.0}
        values |= {"test_loss": error / 25, "train_loss": 0.01}
        metrics += [(seed, metric, repr(float(value))) for metric, value in values.items()]
        times.append((seed, "train_seconds", repr(4 + float(draw.random()))))
    for name, rows in (("metrics.csv", metrics), ("times.csv", times)):
        with (folder / name).open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(("seed", "metric", "value"))
            writer.writerows(rows)


def _write_history(
    path: Path, errors: Mapping[int, float], pretraining: str, depth: int, epochs: int, draw: np.random.Generator
) -> None:
    layers = 0 if pretraining == "none" else depth
    shared = np.random.default_rng(PRETRAINING.index(pretraining))  # the layers are the same at every depth
    noise = shared.normal(0, 0.003, (max(errors) + 1, layers and len(DEPTHS), epochs + 1))
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("phase", "seed", "step", "epoch", "metric", "value"))
        for seed, error in errors.items():
            for epoch in range(1, epochs + 1):
                for layer in range(1, layers + 1):
                    value = 0.02 * layer + 0.3 / epoch + noise[seed, layer - 1, epoch]
                    writer.writerow(
                        (f"pretrain/{layer}", seed, epoch * 50, float(epoch), "train_reconstruction_error", value)
                    )
                decay = np.exp(-epoch / (3 + 2 * depth * (pretraining == "none")))
                row = ("finetune/1", seed, epoch * 5, float(epoch))
                writer.writerow((*row, "valid_error", error + (90 - error) * decay + draw.normal(0, 0.4)))
                writer.writerow((*row, "train_loss", 0.01 + 2.3 * decay))
                writer.writerow((*row, "learning_rate", 0.1))


def _outputs(pretraining: str, depth: int, seeds: int, draw: np.random.Generator) -> dict[str, np.ndarray]:
    confusion = draw.poisson(0.7, (seeds, 10, 10))
    confusion[:, np.arange(10), np.arange(10)] = 30
    examples = _strokes(draw, 30)
    outputs = {
        "confusion": confusion.astype(np.int64),
        "filters_finetuned/1": draw.normal(0, 1, (64, SIDE, SIDE)).astype(np.float32),
        "examples_wrong": examples[:20],
        "examples_wrong_labels": draw.integers(0, 10, (20, 2)),
    }
    if pretraining != "none":
        outputs["reconstruction_inputs"] = examples[20:]
        outputs["reconstructions"] = np.clip(
            examples[20:] * 0.8 + draw.normal(0.05, 0.05, (10, SIDE, SIDE)), 0, 1
        ).astype(np.float32)
        for layer in range(1, depth + 1):
            outputs[f"filters/{layer}"] = _blobs(draw, 64, layer)
    return outputs


def _strokes(draw: np.random.Generator, n: int) -> np.ndarray:
    rows, columns = np.mgrid[:SIDE, :SIDE]
    angle, offset = draw.uniform(0, np.pi, (n, 1, 1)), draw.uniform(-1.5, 1.5, (n, 1, 1))
    distance = np.abs(np.cos(angle) * (rows - 3.5) + np.sin(angle) * (columns - 3.5) - offset)
    return np.clip(1.5 - distance, 0, 1).astype(np.float32)


def _blobs(draw: np.random.Generator, n: int, layer: int) -> np.ndarray:
    rows, columns = np.mgrid[:SIDE, :SIDE]
    middle = draw.uniform(0, SIDE, (2, n, 1, 1))
    blob = np.exp(-((rows - middle[0]) ** 2 + (columns - middle[1]) ** 2) / (2 + layer))
    return (blob * draw.choice([-1, 1], (n, 1, 1)) + draw.normal(0, 0.1, (n, SIDE, SIDE))).astype(np.float32)


@dataclass(frozen=True)
class Built:
    plan: Plan
    store: Store
    html: Path

    @property
    def page(self) -> str:
        return self.html.read_text(encoding="utf-8")


def build(folder: Path, experiment: str = EXPERIMENT, names: tuple[str, ...] = ("depth",)) -> Built:
    """Metrics, figures and report of an experiment, all in `folder`."""
    store = Store(folder / "data", folder / "results")
    plan = plan_of(folder / "experiments", experiment, names)
    make_metrics(plan, store)
    for planned in plan.experiments:
        plot.run(plan.stages[planned.figures], store)
    return Built(plan, store, report.run(plan, store, folder / "results" / "report" / "demo.html"))
