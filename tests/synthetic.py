"""Made-up metrics artifacts of a depth study on 8x8 digits, so that plots and reports can be measured and tested alone.

The numbers have the shape of the real ones (pretraining helps, more at depth) and are fixed by the seed; they are no results.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from dlpipe.artifacts import Stage, Store

PRETRAINING = ("rbm", "dae", "none")
DEPTHS = ("1", "2", "3", "4")
ERROR = {"rbm": (9.0, 7.5, 7.0, 7.2), "dae": (9.2, 8.0, 7.4, 7.8), "none": (10.0, 10.5, 13.0, 17.0)}
"""Mean test error, per cent, by pretraining and depth."""
SIDE = 8
CLASSES = [str(digit) for digit in range(10)]


def evaluate_stage(levels: Mapping[str, str], seeds: Sequence[int], experiment: str = "depth") -> Stage:
    return Stage(
        rule="evaluate",
        name="digits-" + "-".join(levels.values()),
        spec={"task": {"kind": "classification"}, "levels": dict(levels), "experiment": experiment},
        inputs={"data": "digits-000000000000", "model": "model-000000000000"},
        seeds=tuple(seeds),
        versions={"task.classification": 1},
    )


def make_metrics(store: Store, levels: Mapping[str, str], seeds: Sequence[int], **kwargs: Any) -> str:
    """Makes one evaluate artifact and returns its id. `epochs` (default 30) is the length of its history."""
    stage = evaluate_stage(levels, seeds, kwargs.get("experiment", "depth"))
    pretraining, depth = levels.get("pretraining", "rbm"), int(levels.get("depth", "1"))
    draw = np.random.default_rng([PRETRAINING.index(pretraining), depth])
    with store.make(stage, threads=2, device="cpu") as draft:
        errors = {seed: ERROR[pretraining][depth - 1] + seed * 0.3 + draw.normal(0, 0.5) for seed in seeds}
        _write_metrics(draft.folder / "metrics.csv", errors, draw)
        _write_history(draft.folder / "history.csv", errors, pretraining, depth, kwargs.get("epochs", 30), draw)
        save_file(_outputs(pretraining, depth, len(seeds), draw), draft.folder / "outputs.safetensors")
        draft.extra.update(ancestors=list(ancestors(pretraining, depth)), classes=CLASSES, input_shape=[SIDE, SIDE])
    return stage.id


def ancestors(pretraining: str, depth: int) -> Iterator[dict[str, Any]]:
    """The data, the layers (shared by the depths) and the fine-tuned model that a variant comes from."""
    common = {"commit": "0123456789abcdef", "dirty": False, "host": "workstation", "processor": "Made-up CPU", "threads": 2}
    common["device"] = "cpu"
    yield {"id": "digits-aaaaaaaaaaaa", "rule": "prepare", "seconds": 0.4, "cpu_seconds": 0.4, **common}
    for layer in range(1, depth + 1 if pretraining != "none" else 1):
        layer_id = f"digits-{pretraining}-{layer:012x}"
        yield {"id": layer_id, "rule": "pretrain", "seconds": 1.5 * layer, "cpu_seconds": 2.0, **common}
    model_id = f"digits-{pretraining}-d{depth}-{depth:012x}"
    yield {"id": model_id, "rule": "finetune", "seconds": 2.0 + depth, "cpu_seconds": 3.0 + depth, **common}


def _write_metrics(path: Path, errors: Mapping[int, float], draw: np.random.Generator) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("seed", "metric", "value"))
        for seed, error in errors.items():
            values = {"test_error": error, "valid_error": error + draw.normal(0, 0.4), "train_error": 0.0}
            values |= {"test_loss": error / 25, "train_loss": 0.01, "train_seconds": 4 + draw.random()}
            writer.writerows((seed, metric, repr(float(value))) for metric, value in values.items())


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
                    writer.writerow((f"pretrain/{layer}", seed, epoch * 50, float(epoch), "reconstruction_error", value))
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
        outputs["reconstructions"] = np.clip(examples[20:] * 0.8 + draw.normal(0.05, 0.05, (10, SIDE, SIDE)), 0, 1).astype(
            np.float32
        )
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


def plot_stage(variants: Sequence[tuple[Mapping[str, str], Sequence[str]]], axes: Mapping[str, Sequence[str]]) -> Stage:
    """The plot stage of an experiment that lists no figures."""
    return Stage(
        rule="plot",
        name="depth",
        spec={
            "experiment": "depth",
            "figures": [],
            "axes": {axis: list(levels) for axis, levels in axes.items()},
            "variants": [{"levels": dict(levels), "metrics": list(ids)} for levels, ids in variants],
        },
        inputs={"metrics": [stage_id for _, ids in variants for stage_id in ids]},
    )


AXES = {"pretraining": PRETRAINING, "depth": DEPTHS}


def make_study(store: Store, seeds: int = 3, **kwargs: Any) -> list[tuple[dict[str, str], list[str]]]:
    """All 12 variants, each as (levels, ids of its metrics artifacts)."""
    cells = [{"pretraining": p, "depth": d} for p in PRETRAINING for d in DEPTHS]
    return [(levels, [make_metrics(store, levels, range(seeds), **kwargs)]) for levels in cells]
