"""What `benchmarks/gpu.py` counts and measures, as far as a CPU can show it."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest
import torch

from dlpipe.runtime import devices

FOLDER = Path(__file__).parent.parent / "benchmarks"
CPU = torch.device("cpu")


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The script, which finds the others beside it."""
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module("gpu")


def test_the_work_of_a_step_is_that_of_its_products(gpu: Any) -> None:
    v, h, W = torch.empty(100, 784), torch.empty(100, 500), torch.empty(784, 500)
    products = ((v, W), (h, W.T), (v, W), (v.T, h), (v.T, h))
    work = gpu.cd1_work(784, 500, 100)
    assert work.operations == sum(2 * len(a) * a.shape[1] * b.shape[1] for a, b in products) == 392_000_000
    assert work.bytes == sum(a.nbytes + b.nbytes + (a @ b).nbytes for a, b in products)
    assert gpu.cd1_work(784, 500, 100, size=2) == (work.operations, work.bytes / 2)


def test_shares_of_what_a_device_can_do(gpu: Any) -> None:
    assert gpu.shares(gpu.Work(200.0, 30.0), 5.0, gpu.Work(10_000.0, 1_000.0)) == (0.1, 0.15)


def test_a_line_says_the_rate_and_the_shares(gpu: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "limits", lambda device, kind: gpu.Work(2e12, 1e11))
    assert gpu.of_the_most(1000.0, CPU, torch.float32) == ", 19.6% of 2,000 GFLOP/s, 10.4% of 100 GB/s"


def test_both_language_models_are_trained(gpu: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(gpu.SIZES, "tiny", gpu.SIZES["words"]._replace(tokens=20, units=8, unroll=5))
    devices.prepare("cpu")
    rates = gpu.tokens_a_second("tiny", CPU, 0.01)
    assert rates.keys() == {"ours", "example"}
    assert min(rates.values()) > 0


def test_the_step_that_a_graph_would_capture(gpu: Any) -> None:
    """It draws from its generator, whose state moves on."""
    step, generator = gpu.bare_step(CPU)
    before = generator.get_state()
    step()
    step()
    assert not torch.equal(generator.get_state(), before)
