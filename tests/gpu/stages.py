"""Stages of a size at which a GPU divides a sum among many blocks: 784 pixels, 500 units, batches of 100."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dlpipe.artifacts import Stage, Store
from dlpipe.stages import pretrain
from tests.stages.small import finetune_stage, prepared, pretrain_stage

SIZES = {"train": 2000, "valid": 300, "test": 300}
UNITS = 500
EPOCHS = 2.0
STEPS = 2 * 2 * 20
"""Of two seeds, two epochs each of 2,000 examples in batches of 100."""
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
}
