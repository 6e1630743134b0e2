from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from dlpipe.runtime import devices


def test_prepare_in_a_fresh_process() -> None:
    """Threads and determinism are set, cuBLAS is told, TF32 off; torch's compiler (a second to import) stays out."""
    code = """
import os, sys
from dlpipe.runtime.block import block
from dlpipe.runtime import devices
import torch
device = devices.prepare("cpu", threads=2)
assert device == torch.device("cpu") and torch.get_num_threads() == 2
assert torch.are_deterministic_algorithms_enabled() and not torch.is_deterministic_algorithms_warn_only_enabled()
assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
assert not torch.backends.cudnn.allow_tf32 and not torch.backends.cuda.matmul.allow_tf32
assert not {"torch._dynamo", "scipy", "sklearn", "matplotlib", "pandas"} & set(sys.modules)
"""
    environment = {name: value for name, value in os.environ.items() if name != "CUBLAS_WORKSPACE_CONFIG"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", ["cuda:99", "no such device"])
def test_a_device_that_is_not_there(name: str) -> None:
    with pytest.raises(devices.DeviceError, match=f"device '{name}' is not there"):
        devices.prepare(name)


def test_auto_is_cuda_where_there_is_one() -> None:
    assert devices.prepare("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")


def test_describe_names_the_model() -> None:
    assert devices.describe(torch.device("cpu")) == "cpu"


@pytest.mark.parametrize(
    ("name", "visible", "expected"),
    [("cpu", "7", []), ("cuda", "7", ["7"]), ("cuda:0", "7,9", ["7", "9"]), ("cuda:1", None, ["1"])],
)
def test_gpus_are_those_that_the_process_may_use(
    name: str, visible: str | None, expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert devices.gpus(torch.device(name)) == expected
