"""A folder of experiments to write into, and the example of the documentation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

BASE = """\
title: An experiment
dataset: {kind: digits}
model: {kind: mlp, units: [4, 3, 2]}
pretrain:
  - &recipe
    layer: {kind: rbm}
    duration: {epochs: 1}
    optimizer: {kind: sgd, learning_rate: 0.1}
  - *recipe
  - *recipe
finetune:
  task: {kind: classification}
  duration: {epochs: 1}
  optimizer: {kind: sgd, learning_rate: 0.1, momentum: 0.5}
"""

EXAMPLE = Path(__file__).parent / "example.yaml"

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes an experiment: the base (or `base`), then more lines."""
    root = tmp_path / "experiments"
    root.mkdir()

    def written(more: str = "", *, name: str = "x", base: str = BASE) -> Path:
        path = root / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(base + more)
        return path

    return written
