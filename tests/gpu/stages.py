"""Stages of a size at which a GPU divides a sum among many blocks: 784 pixels, 500 units, batches of 100.

Those of sequences: 500 words or 88 keys, 128 or 200 units, 20 columns of 35 steps or 50 sequences of up to 24.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from dlpipe.artifacts import Stage, Store
from dlpipe.datasets.vocabulary import VOCABULARY
from dlpipe.stages import pretrain
from tests.stages.small import finetune_stage, prepared, pretrain_stage

SIZES = {"train": 2000, "valid": 300, "test": 300}
UNITS = 500
EPOCHS = 2.0
STEPS = 2 * 20
"""Two epochs of 2,000 examples in batches of 100. Of two seeds, a GPU trains both layers at once."""
NET = {"kind": "mlp", "units": [UNITS, 200], "dropout": 0.2}
ADAM = {"kind": "adam", "learning_rate": 0.001}
MOMENTUM = {"kind": "sgd", "learning_rate": 0.05, "momentum": 0.5, "weight_decay": 0.0002}


def data(store: Store) -> str:
    return prepared(store, SIZES, shape=(28, 28))


def layer(store: Store, kind: dict[str, Any], **fields: Any) -> Stage:
    recipe = {"epochs": EPOCHS, "batch_size": 100, "optimizer": MOMENTUM, **fields}
    return pretrain_stage(data(store), kind, units=UNITS, **recipe)


def network(store: Store, **fields: Any) -> Stage:
    recipe = {"epochs": EPOCHS, "batch_size": 100, "optimizer": ADAM, "model": NET, **fields}
    return finetune_stage(data(store), **recipe)


def second_layer(store: Store, device: str) -> Stage:
    """On the representation of a first, which is made."""
    first = layer(store, RBM)
    pretrain.run(first, store, device=device)
    recipe = {"epochs": EPOCHS, "batch_size": 100, "optimizer": MOMENTUM}
    return pretrain_stage(data(store), RBM, (first.id,), units=200, **recipe)


WORDS, KEYS = 500, 88
SEQUENCES = {"train": 500, "valid": 60, "test": 60}
LONGEST = 24
FRAMES = ("music", "numbers")


def drawn_sequences(kind: str, n: int, generator: torch.Generator) -> dict[str, Tensor]:
    """Inputs, lengths and targets of a split of n sequences of 5 to 24 steps.

    `words`: tokens, each mostly the one before plus 1; `text`: the same as one sequence; `tags`: for each word but the
    first and the last the parity of both its neighbours' sum; `music`: frames of zeros and ones that mostly stay;
    `numbers`: the mean of such music.
    """
    lengths = torch.randint(5, LONGEST + 1, (n,), generator=generator)
    drawn = torch.rand(int(lengths.sum()), KEYS, generator=generator)
    frames = ((drawn < 0.1).int().cumsum(0) % 2).to(torch.uint8)
    tokens = torch.where(drawn[:, 0] < 0.9, 1, (WORDS * drawn[:, 1]).int()).cumsum(0) % WORDS
    made = {"inputs": frames if kind in FRAMES else tokens.int(), "lengths": lengths}
    if kind == "text":
        made["lengths"] = lengths.sum()[None]
    elif kind == "tags":
        made["targets"] = (tokens.roll(1) + tokens.roll(-1)) % 2
        made["targets"][torch.cat((lengths.cumsum(0) - lengths, lengths.cumsum(0) - 1))] = -1
    elif kind == "numbers":
        made["targets"] = torch.stack([part.float().mean() for part in frames.split(lengths.tolist())])
    return made


def sequences(store: Store, kind: str) -> str:
    """Prepared data, with a letter for each token."""
    spec = {"kind": kind, "sizes": SEQUENCES, "longest": LONGEST, "dataset": {"by": "character"}}
    stage = Stage("prepare", "sequences", spec, {"raw": "none-000000000000"})
    if store.is_done("prepare", stage.id):
        return stage.id
    generator = torch.Generator().manual_seed(0)
    splits = {split: drawn_sequences(kind, n, generator) for split, n in SEQUENCES.items()}
    with store.make(stage) as draft:
        tensors = {f"{split}.{name}": tensor for split, made in splits.items() for name, tensor in made.items()}
        save_file(tensors, draft.folder / "data.safetensors")
        letters = [chr(0x200 + token) for token in range(WORDS)]
        (draft.folder / VOCABULARY).write_text(json.dumps(letters), encoding="utf-8")
        draft.extra.update(
            input_shape=[KEYS] if kind in FRAMES else [],
            classes=["even", "odd"] if kind == "tags" else [],
            tokens=None if kind in FRAMES else WORDS,
            scale=1.0,
            terms="none",
            sizes={split: len(made["lengths"]) for split, made in splits.items()},
            steps={split: len(made["inputs"]) for split, made in splits.items()},
        )
    return stage.id


def recurrent(store: Store, kind: str, task: dict[str, Any], model: dict[str, Any], **fields: Any) -> Stage:
    net = {"kind": "recurrent", "units": [128], "dropout": 0.2, **model}
    recipe = {"epochs": EPOCHS, "batch_size": 50, "optimizer": ADAM, **fields}
    return finetune_stage(sequences(store, kind), model=net, task=task, **recipe)


def language_model(store: Store, **fields: Any) -> Stage:
    """Over a stream, in windows of which the last one is shorter, with the state carried over and gradients clipped."""
    recipe = {"batch_size": 20, "optimizer": ZAREMBA, "clip_norm": 5.0, **fields}
    return recurrent(store, "text", {"kind": "language_model", "unroll": 35}, {"units": [200, 200]}, **recipe)


RBM = {"kind": "rbm"}
PCD = {"kind": "rbm", "persistent": True}
GAUSSIAN = {"kind": "rbm", "visible_units": "gaussian", "cd_steps": 2}
SPARSE = {"kind": "rbm", "sparsity_target": 0.1, "sparsity_cost": 0.1}
AUTOENCODER = {"kind": "autoencoder", "corruption": 0.3}
UNTIED = {"kind": "autoencoder", "tied": False, "corruption": 0.2, "corruption_kind": "gaussian"}
SALTED = {"kind": "autoencoder", "corruption": 0.2, "corruption_kind": "salt_and_pepper", "untouched_weight": 0.5}
PENALISED = {"kind": "autoencoder", "contraction": 0.1, "sparsity_target": 0.1, "sparsity_cost": 0.1}
RECTIFIED = {"kind": "autoencoder", "corruption": 0.2, "hidden_units": "relu", "reconstruction": "squared"}
BFLOAT16 = {"precision": "bfloat16"}
STEADY = {"optimizer": {"kind": "sgd", "learning_rate": 0.005}}
"""For persistent chains, which must keep up with the weights."""
SLOW = {"optimizer": {"kind": "sgd", "learning_rate": 0.001}}
"""For Gaussian units, which a larger rate makes diverge."""

ZAREMBA = {"kind": "sgd", "learning_rate": 0.5}
CONTINUATION = {"kind": "continuation", "prompt": 3, "feed": {"kind": "linear", "slope": 0.05, "start": 0.9}}
TAGGING, NEXT_FRAME, REGRESSION = ({"kind": kind} for kind in ("tagging", "next_frame", "sequence_regression"))
LSTM, BOTH_WAYS = {"cell": "lstm"}, {"cell": "lstm", "directions": "both"}
GRU, CUDNN_GRU = {"cell": "gru"}, {"cell": "gru", "reset_after": True}

STAGES: dict[str, Callable[[Store], Stage]] = {
    "rbm-cd": lambda store: layer(store, RBM),
    "rbm-cd-bfloat16": lambda store: layer(store, RBM, **BFLOAT16),
    "rbm-pcd": lambda store: layer(store, PCD, **STEADY),
    "rbm-pcd-bfloat16": lambda store: layer(store, PCD, **STEADY, **BFLOAT16),
    "rbm-gaussian": lambda store: layer(store, GAUSSIAN, **SLOW),
    "rbm-sparse": lambda store: layer(store, SPARSE),
    "autoencoder": lambda store: layer(store, AUTOENCODER),
    "autoencoder-bfloat16": lambda store: layer(store, AUTOENCODER, **BFLOAT16),
    "autoencoder-untied": lambda store: layer(store, UNTIED, optimizer=ADAM),
    "autoencoder-salted": lambda store: layer(store, SALTED),
    "autoencoder-penalised": lambda store: layer(store, PENALISED),
    "autoencoder-rectified": lambda store: layer(store, RECTIFIED, optimizer=ADAM),
    "supervised": lambda store: layer(store, {"kind": "supervised"}),
    "mlp": lambda store: network(store),
    "mlp-momentum": lambda store: network(store, optimizer=MOMENTUM),
    "mlp-bfloat16": lambda store: network(store, **BFLOAT16),
    "mlp-clipped": lambda store: network(store, clip_norm=0.1),
    "mlp-weight-noise": lambda store: network(store, weight_noise=0.1),
    "mlp-early-stopping": lambda store: network(
        store, early_stopping={"by": "valid_loss", "patience": {"epochs": 1.0}}, validate_every={"steps": 7}
    ),
    "mlp-best-of": lambda store: network(store, select={"best_of": 2, "by": "valid_loss"}, labelled=500),
    "language-model": language_model,
    "language-model-bfloat16": lambda store: language_model(store, **BFLOAT16),
    "continuation": lambda store: recurrent(store, "words", CONTINUATION, LSTM),
    "tagging-both-ways": lambda store: recurrent(store, "tags", TAGGING, BOTH_WAYS),
    "next-frame": lambda store: recurrent(store, "music", NEXT_FRAME, GRU),
    "next-frame-reset-after": lambda store: recurrent(store, "music", NEXT_FRAME, CUDNN_GRU),
    "regression-elman": lambda store: recurrent(store, "numbers", REGRESSION, {"cell": "elman"}),
}
