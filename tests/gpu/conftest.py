"""What the tests of a GPU share. `make gpu` runs them.

    DLPIPE_TEST_DEVICE=cpu python -m pytest -m gpu tests/gpu

runs the same bodies on the CPU. That shows that they can run at all, no more: what compares the CPU with the GPU then
compares the CPU with itself.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from dlpipe.artifacts import Store
from dlpipe.runtime import devices

NAME = os.environ.get("DLPIPE_TEST_DEVICE", "cuda")


@pytest.fixture(scope="session", autouse=True)
def device() -> torch.device:
    """The device of all these tests, prepared as a stage prepares it: what has no deterministic form raises."""
    if NAME == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device: `make gpu` on a machine that has one")
    return devices.prepare(NAME)


@pytest.fixture(autouse=True)
def _own_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands that a test starts wait for each other, and for nobody else on the machine."""
    monkeypatch.setenv("DLPIPE_GPU_LOCKS", str(tmp_path / "locks"))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "data", tmp_path / "results")
