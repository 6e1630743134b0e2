"""The commands on a GPU, as the workflow calls them: what the manifests say, and one job a GPU with a real one."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from dlpipe.artifacts import Stage, Store, write_stages
from dlpipe.runtime import devices
from tests.gpu.conftest import NAME
from tests.gpu.stages import RBM, layer, network
from tests.runtime.test_ranks import ABSOLUTE, KINDS, RELATIVE, weights
from tests.stages.small import evaluate_stage

pytestmark = [pytest.mark.gpu, pytest.mark.slow]  # each command starts CUDA, which takes seconds
needs_cuda = pytest.mark.skipif(NAME == "cpu", reason="there is nothing to share out on a CPU")


def command(stage: Stage, store: Store, *options: str, device: str = NAME) -> subprocess.Popen[str]:
    write_stages(store, [stage])
    where = ("--data", str(store.data), "--results", str(store.results), "--device", device)
    arguments = [sys.executable, "-m", "dlpipe", stage.rule, stage.id, *where, *options]
    return subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def done(process: subprocess.Popen[str]) -> None:
    _, said = process.communicate(timeout=300)
    assert process.returncode == 0, said


def facts(stage: Stage, store: Store) -> tuple[str, list[str]]:
    noted = store.read(stage.rule, stage.id).manifest["facts"]
    return noted["device"], noted["gpus"]


def usable() -> list[str]:
    """The devices that the commands may use, as they name them."""
    inherited = os.environ.get("CUDA_VISIBLE_DEVICES")
    return [str(n) for n in range(torch.cuda.device_count())] if inherited is None else inherited.split(",")


def test_a_chain_of_commands_and_what_its_manifests_say(store: Store, device: torch.device) -> None:
    below = layer(store, RBM)
    tuned = network(store, layers=(below.id,))
    for stage in (below, tuned, evaluate_stage(tuned, (below.id,))):
        with command(stage, store) as process:
            done(process)
        assert facts(stage, store) == (devices.describe(device), usable()[:1] if NAME == "cuda" else [])


@needs_cuda
@pytest.mark.parametrize("last", [False, True], ids=["auto", "cuda:N"])
def test_auto_takes_the_first_and_a_number_the_one_of_that_place(last: bool, store: Store) -> None:
    stage, place = layer(store, RBM), len(usable()) - 1 if last else 0
    with command(stage, store, device=f"cuda:{place}" if last else "auto") as process:
        done(process)
    assert facts(stage, store)[1] == [usable()[place]]


@needs_cuda
def test_the_second_job_on_a_gpu_waits_for_the_first(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", usable()[0])
    first, second = layer(store, RBM), network(store)
    with command(first, store) as one:
        while not list((tmp_path / "locks").glob("*.lock")):
            assert one.poll() is None
            time.sleep(0.01)
        with command(second, store) as other:
            assert other.stderr is not None
            assert f"is used by process {one.pid} on " in other.stderr.readline()
            done(other)
        done(one)
    assert store.is_done(first.rule, first.id)
    assert store.is_done(second.rule, second.id)


@pytest.mark.parametrize("name", ["rbm-cd1", "rbm-pcd", "autoencoder-masking", "classifier-dropout"])
def test_two_gpus_in_one_job_come_to_what_one_comes_to_and_to_the_same_bytes_again(name: str, tmp_path: Path) -> None:
    """Through NCCL; rounded otherwise, as between two processes on the CPU."""
    if NAME == "cuda" and torch.cuda.device_count() < 2:
        pytest.skip("needs two CUDA devices")
    made = []
    for number, ranks in enumerate(("1", "2", "2")):
        own = Store(tmp_path / str(number) / "data", tmp_path / str(number) / "results")
        stage = KINDS[name](own)
        with command(stage, own, "--ranks", ranks) as process:
            done(process)
        made.append(own.read(stage.rule, stage.id))
    alone, together, again = (weights(artifact) for artifact in made)
    for key, tensor in alone.items():
        torch.testing.assert_close(together[key], tensor, rtol=RELATIVE, atol=ABSOLUTE)
        assert torch.equal(again[key], together[key])
    if NAME == "cuda":
        assert [len(artifact.manifest["facts"]["gpus"]) for artifact in made] == [1, 2, 2]
