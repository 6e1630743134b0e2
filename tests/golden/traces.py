"""Golden traces: short runs on fixed data whose history is committed, with the versions of what made it.

Results that change under the same version fail a test. `python -m tests.golden` writes the traces anew.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from dlpipe.artifacts import Stage, Store
from dlpipe.plan import STAGE_VERSIONS
from dlpipe.runtime.data import component
from dlpipe.spec.base import FAMILIES, Component
from dlpipe.spec.training import TrainingSpec
from dlpipe.stages import finetune, pretrain

FOLDER = Path(__file__).parent
TOLERANCE = 1e-4
"""Relative: processors round matrix products differently, by 1e-7; a few dozen updates carry it to about 1e-5."""

SHAPE, CLASSES, SIZES = (4, 4), 3, {"train": 90, "valid": 30, "test": 3}
RATES = {"sgd": 0.1, "adagrad": 0.05, "rmsprop": 0.005, "adam": 0.01, "adamw": 0.01}
MLP = {"kind": "mlp", "units": [8, 6]}


@dataclass(frozen=True)
class Trace:
    """A layer that is pretrained, or a model that is trained, and how."""

    what: Mapping[str, Any]
    optimizer: Mapping[str, Any]
    schedule: Mapping[str, Any]
    task: Mapping[str, Any] = field(default_factory=lambda: {"kind": "classification"})
    """Of a model; a layer has none."""
    shape: tuple[int, ...] = SHAPE
    """Of an example."""

    @property
    def rule(self) -> str:
        return "finetune" if self.what["kind"] in FAMILIES["model"] else "pretrain"

    def training(self, rate: float = 1.0) -> dict[str, Any]:
        """`rate` is a factor on the learning rate."""
        optimizer = {"learning_rate": rate * RATES[self.optimizer["kind"]], **self.optimizer}
        return {"duration": {"epochs": 4.0}, "optimizer": optimizer, "schedule": dict(self.schedule), "batch_size": 20}

    def components(self) -> list[Component]:
        training: Any = TrainingSpec.model_validate(self.training())
        if self.rule == "pretrain":
            return [component("layer", self.what), training.optimizer, training.schedule]
        task = component("task", self.task)
        return [component("model", self.what), task, training.optimizer, training.schedule]

    def versions(self) -> dict[str, int]:
        own = {part.component: type(part).version for part in self.components()}
        return {f"stage.{self.rule}": STAGE_VERSIONS[self.rule], **own}

    def stage(self, data: str, rate: float = 1.0) -> Stage:
        training = self.training(rate)
        if self.rule == "pretrain":
            spec = {"layer": dict(self.what), "units": 8, "training": training}
            return Stage("pretrain", "golden", spec, {"data": data, "below": []}, (0,), self.versions())
        phase = {"task": dict(self.task), "training": training, "train": "all", "select": None}
        spec = {"phase": phase, "model": dict(self.what), "labelled": None}
        return Stage("finetune", "golden", spec, {"data": data, "layers": []}, (0,), self.versions())


ENERGY = {"kind": "energy", "units": [8, 6], "samples": 20}
CONSTANT = {"kind": "constant"}
MOMENTUM = {"kind": "sgd", "momentum": 0.5, "weight_decay": 0.001}
CELLS: dict[str, Mapping[str, Any]] = {
    "jordan": {"cell": "jordan"},
    "lstm-peepholes": {"cell": "lstm", "peepholes": True},
    "lstm-without": {"cell": "lstm", "without": "input", "forget_bias": 1.0},
    "gru-reset-after": {"cell": "gru", "reset_after": True},
    "mut1": {"cell": "mut1"},
    "mut2": {"cell": "mut2"},
    "mut3": {"cell": "mut3"},
}
"""Recurrent cells, and forms of them, that no other trace has."""
TRACES = {
    "rbm-cd1": Trace({"kind": "rbm"}, MOMENTUM, CONSTANT),
    "rbm-cd1-drawn": Trace({"kind": "rbm", "sampled_reconstruction": True}, MOMENTUM, CONSTANT),
    "rbm-cd3-sparse": Trace(
        {"kind": "rbm", "cd_steps": 3, "sparsity_target": 0.1, "sparsity_cost": 0.1}, MOMENTUM, CONSTANT
    ),
    "rbm-pcd": Trace({"kind": "rbm", "persistent": True, "chains": 10}, MOMENTUM, CONSTANT),
    "rbm-fast": Trace({"kind": "rbm", "persistent": True, "chains": 10, "fast_rate": 0.1}, MOMENTUM, CONSTANT),
    "rbm-centred": Trace({"kind": "rbm", "centred": True, "persistent": True, "chains": 10}, MOMENTUM, CONSTANT),
    "rbm-gaussian": Trace({"kind": "rbm", "visible_units": "gaussian"}, {"kind": "sgd"}, CONSTANT),
    "rbm-early-momentum": Trace(
        {"kind": "rbm"},
        {"kind": "sgd", "momentum": 0.9, "early_momentum": 0.5, "early_duration": {"epochs": 2.0}},
        CONSTANT,
    ),
    "rbm-linear": Trace({"kind": "rbm", "hidden_units": "gaussian"}, {"kind": "sgd"}, CONSTANT),
    "rbm-rectified": Trace({"kind": "rbm", "hidden_units": "relu"}, {"kind": "sgd"}, CONSTANT),
    "rbm-doubled-up": Trace({"kind": "rbm", "doubled": "up"}, MOMENTUM, CONSTANT),
    "rbm-doubled-down": Trace({"kind": "rbm", "doubled": "down", "cd_steps": 2}, MOMENTUM, CONSTANT),
    "label-rbm": Trace({"kind": "label_rbm", "cd_steps": 2}, MOMENTUM, CONSTANT),
    "autoencoder-tied": Trace({"kind": "autoencoder", "corruption": 0.25}, MOMENTUM, CONSTANT),
    "autoencoder-untied": Trace(
        {
            "kind": "autoencoder",
            "tied": False,
            "corruption": 0.1,
            "corruption_kind": "gaussian",
            "reconstruction": "squared",
        },
        {"kind": "adam"},
        CONSTANT,
    ),
    "autoencoder-emphasised": Trace(
        {
            "kind": "autoencoder",
            "corruption": 0.25,
            "corruption_kind": "salt_and_pepper",
            "corrupted_weight": 1.0,
            "untouched_weight": 0.5,
        },
        MOMENTUM,
        CONSTANT,
    ),
    "autoencoder-contractive": Trace({"kind": "autoencoder", "contraction": 0.1}, MOMENTUM, CONSTANT),
    "autoencoder-sparse": Trace(
        {"kind": "autoencoder", "tied": False, "sparsity_target": 0.1, "sparsity_cost": 0.1}, MOMENTUM, CONSTANT
    ),
    "autoencoder-rectified": Trace(
        {"kind": "autoencoder", "hidden_units": "relu", "reconstruction": "squared", "corruption": 0.25},
        {"kind": "adam"},
        CONSTANT,
    ),
    "supervised": Trace({"kind": "supervised"}, MOMENTUM, CONSTANT),
    "classifier-nesterov": Trace(
        {**MLP, "dropout": 0.2},
        {"kind": "sgd", "momentum": 0.9, "nesterov": True},
        {"kind": "step", "every": {"epochs": 1.0}, "factor": 0.5},
    ),
    "classifier-adagrad": Trace({**MLP, "activation": "tanh"}, {"kind": "adagrad"}, {"kind": "cosine"}),
    "classifier-rmsprop": Trace(
        {**MLP, "activation": "relu", "init": "he_normal"},
        {"kind": "rmsprop", "momentum": 0.5},
        {"kind": "linear_warmup", "warmup": {"steps": 5}},
    ),
    "classifier-adamw": Trace(
        {**MLP, "init": "glorot_sigmoid"},
        {"kind": "adamw", "weight_decay": 0.1},
        {"kind": "halve_on_plateau", "patience": 1},
    ),
    "deep-autoencoder": Trace(
        {"kind": "deep_autoencoder", "units": [8, 6], "code": 2}, {"kind": "adam"}, CONSTANT, {"kind": "reconstruction"}
    ),
    "dbn-up-down": Trace({"kind": "dbn", "units": [8, 6]}, MOMENTUM, CONSTANT, {"kind": "generative"}),
    "dbn-classifier": Trace({"kind": "dbn", "units": [8, 6]}, MOMENTUM, CONSTANT),
    "dbm-joint": Trace({"kind": "dbm", "units": [8, 6, 5], "chains": 20}, MOMENTUM, CONSTANT, {"kind": "generative"}),
    "dbm-classifier": Trace({"kind": "dbm", "units": [8, 6]}, MOMENTUM, CONSTANT),
    "convolutional-autoencoder": Trace(
        {"kind": "convolutional_autoencoder", "channels": [6, 2], "kernel": 3},
        {"kind": "adam"},
        CONSTANT,
        {"kind": "reconstruction"},
    ),
    "convolutional-classifier": Trace(
        {"kind": "convolutional_classifier", "channels": [6, 4], "kernel": 3, "activation": "tanh"},
        {"kind": "adam"},
        CONSTANT,
    ),
    "regression": Trace(MLP, MOMENTUM, CONSTANT, {"kind": "regression"}),
    "energy-exact": Trace(ENERGY, {"kind": "adam"}, CONSTANT, {"kind": "exact_likelihood", "points": 20}, shape=(2,)),
    "energy-langevin": Trace(ENERGY, {"kind": "adam"}, CONSTANT, {"kind": "langevin", "steps": 3, "restart": 0.1}),
    "energy-score-matching": Trace(ENERGY, {"kind": "adam"}, CONSTANT, {"kind": "score_matching"}),
    "energy-denoising": Trace(
        {**ENERGY, "activation": "tanh"}, {"kind": "adam"}, CONSTANT, {"kind": "denoising_score_matching"}
    ),
    "energy-noise-contrastive": Trace(
        {**ENERGY, "activation": "softplus"}, {"kind": "adam"}, CONSTANT, {"kind": "noise_contrastive", "noise": 2}
    ),
    "language-model": Trace(
        {"kind": "recurrent", "cell": "lstm", "units": [8, 6], "dropout": 0.2, "init_range": 0.5, "init": "uniform"},
        {"kind": "sgd", "momentum": 0.9},
        {"kind": "step", "every": {"epochs": 1.0}, "factor": 0.5, "after": {"epochs": 2.0}},
        {"kind": "language_model", "unroll": 4},
    ),
    "continuation": Trace(
        {"kind": "recurrent", "cell": "lstm", "units": [8], "dropout": 0.1},
        {"kind": "adam"},
        CONSTANT,
        {"kind": "continuation", "prompt": 2, "feed": {"kind": "inverse_sigmoid", "k": 6}},
    ),
    "next-frame": Trace(
        {"kind": "recurrent", "cell": "gru", "units": [8]}, {"kind": "adam"}, CONSTANT, {"kind": "next_frame"}
    ),
    "tagging": Trace(
        {"kind": "recurrent", "cell": "elman", "units": [8], "directions": "both"},
        {"kind": "adam"},
        CONSTANT,
        {"kind": "tagging"},
    ),
    "sequence-regression": Trace(
        {"kind": "recurrent", "cell": "lstm", "units": [8], "forget_bias": 1.0},
        {"kind": "adam"},
        CONSTANT,
        {"kind": "sequence_regression"},
    ),
} | {
    f"cell-{name}": Trace(
        {"kind": "recurrent", "units": [8], **fields}, {"kind": "adam"}, CONSTANT, {"kind": "tagging"}
    )
    for name, fields in CELLS.items()
}


SEQUENCE_TASKS: dict[str, Mapping[str, Any]] = {
    "language_model": {"tokens": 5, "targets": None},
    "continuation": {"tokens": 5, "targets": None},
    "next_frame": {"tokens": None, "targets": None},
    "tagging": {"tokens": 5, "targets": "step"},
    "sequence_regression": {"tokens": None, "targets": "sequence"},
}
"""What sequences a task is asked of: how many different tokens, and what has a target."""


def sequences(store: Store, tokens: int | None, targets: str | None) -> str:
    """Sequences of 3 to 8 steps, of tokens that mostly count up or of 3 zeros and ones that mostly stay; a tag a step
    tells the token before, none at first, and a target a sequence the share of ones."""
    spec = {"sizes": SIZES, "tokens": tokens, "targets": targets}
    stage = Stage("prepare", "golden", spec, {"raw": "golden-000000000000"})
    if store.is_done("prepare", stage.id):
        return stage.id
    generator = torch.Generator().manual_seed(0)
    tensors, steps = {}, {}
    for split, n in SIZES.items():
        lengths = torch.randint(3, 9, (n,), generator=generator)
        steps[split] = int(lengths.sum())
        drawn = torch.rand(steps[split], 3, generator=generator)
        if tokens is not None:
            inputs = (drawn[:, 0] < 0.8).int().cumsum(0).int() % tokens
        else:
            inputs = ((drawn < 0.2).int().cumsum(0) % 2).to(torch.uint8)
        tensors |= {f"{split}.inputs": inputs, f"{split}.lengths": lengths}
        if targets == "step":
            before = inputs.roll(1).long()
            before[lengths.cumsum(0) - lengths] = -1
            tensors[f"{split}.targets"] = before
        elif targets == "sequence":
            parts = inputs.float().split(lengths.tolist())
            tensors[f"{split}.targets"] = torch.stack([part.mean() for part in parts])
    with store.make(stage) as draft:
        save_file(tensors, draft.folder / "data.safetensors")
        shape, classes = ([], list("abcde")) if tokens is not None else ([3], [])
        draft.extra.update(
            input_shape=shape, classes=classes, scale=1.0, sizes=SIZES, terms="none", tokens=tokens, steps=steps
        )
    return stage.id


def data(store: Store, shape: tuple[int, ...] = SHAPE, *, real_targets: bool = False) -> str:
    """Noisy copies of three random patterns: the id of prepared data that is the same everywhere.

    With real targets, these are the share of pixels that are on.
    """
    spec = {"sizes": SIZES, "shape": list(shape), "real_targets": real_targets}
    stage = Stage("prepare", "golden", spec, {"raw": "golden-000000000000"})
    if store.is_done("prepare", stage.id):
        return stage.id
    generator = torch.Generator().manual_seed(0)
    patterns = torch.rand(CLASSES, *shape, generator=generator) < 0.5
    tensors = {}
    for split, n in SIZES.items():
        targets = torch.arange(n) % CLASSES
        flips = torch.rand(n, *shape, generator=generator) < 0.2
        tensors[f"{split}.inputs"] = (patterns[targets] ^ flips).to(torch.uint8)
        share = tensors[f"{split}.inputs"].float().flatten(1).mean(dim=1)
        tensors[f"{split}.targets"] = share if real_targets else targets
    with store.make(stage) as draft:
        save_file(tensors, draft.folder / "data.safetensors")
        draft.extra.update(input_shape=list(shape), classes=list("abc"), scale=1.0, sizes=SIZES, terms="none")
    return stage.id


def prepared(trace: Trace, store: Store) -> str:
    """The id of the data that the trace is trained on."""
    if trace.task["kind"] in SEQUENCE_TASKS:
        return sequences(store, **SEQUENCE_TASKS[trace.task["kind"]])
    return data(store, trace.shape, real_targets=trace.task["kind"] == "regression")


def run(name: str, store: Store, rate: float = 1.0) -> str:
    """The trace's text: a comment line for each version, then history.csv."""
    trace = TRACES[name]
    stage = trace.stage(prepared(trace, store), rate)
    artifact = {"pretrain": pretrain.run, "finetune": finetune.run}[trace.rule](stage, store, device="cpu")
    versions = "".join(f"# {part} {version}\n" for part, version in trace.versions().items())
    return versions + artifact.path("history.csv").read_text()


def committed(name: str) -> str:
    return (FOLDER / f"{name}.csv").read_text(encoding="utf-8")


def difference(ours: str, golden: str, *, ignore: tuple[str, ...] = ()) -> str | None:
    """What to tell a reader of two traces that differ, or None. `ignore`: metrics not to compare."""
    versions = [line for line in ours.splitlines() if line.startswith("#")]
    if versions != [line for line in golden.splitlines() if line.startswith("#")]:
        return "a version was raised: run `python -m tests.golden` and commit what changes"
    changed = _changed_row(_table(ours, ignore), _table(golden, ignore))
    if changed is None:
        return None
    parts = ", ".join(line.removeprefix("# ").rpartition(" ")[0] for line in versions)
    return (
        f"{changed}. Results have changed under the same version: raise the version of what you changed "
        f"(one of {parts}) and run `python -m tests.golden`"
    )


def _table(text: str, ignore: tuple[str, ...]) -> dict[str, float]:
    rows = [line.rpartition(",") for line in text.splitlines() if not line.startswith("#")]
    return {key: float(value) for key, _, value in rows[1:] if key.rpartition(",")[2] not in ignore}


def _changed_row(ours: Mapping[str, float], golden: Mapping[str, float]) -> str | None:
    if ours.keys() != golden.keys():
        return f"the rows {sorted(ours.keys() ^ golden.keys())} are in only one of the two"
    for key, value in golden.items():
        if not math.isclose(ours[key], value, rel_tol=TOLERANCE):
            return f"{key} is {ours[key]}, it was {value}"
    return None
