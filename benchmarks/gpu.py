"""Steps a second and memory of CD-1 and of a network's training, 784 x 500 units in batches of 100, on CPU and GPU.

    python benchmarks/gpu.py [--seconds 3]

All of a step is timed: random stream, gathered batch, update, and the look at the losses every 100 steps. On a GPU the
end of the last step is waited for. Memory is the most that torch had allocated on the GPU at one time, with the 10,000
examples.
"""

from __future__ import annotations

import argparse
import os
import time
from functools import partial

import torch

from dlpipe.layers.rbm import RBM
from dlpipe.models.mlp import MLP
from dlpipe.runtime import devices
from dlpipe.runtime.batches import Shuffled
from dlpipe.runtime.jobs import Job
from dlpipe.runtime.loop import from_cleared, train
from dlpipe.spec.training import TrainingSpec
from dlpipe.tasks.classification import Classification

EXAMPLES, VISIBLE, HIDDEN, CLASSES, BATCH = 10000, 784, 500, 10, 100
WARM_UP = 200
"""Steps; the first ones on a GPU load its kernels."""


def job(kind: str, device: torch.device) -> Job:
    generator = torch.Generator().manual_seed(0)
    examples = (torch.rand(EXAMPLES, VISIBLE, generator=generator) < 0.2).float()
    if kind == "CD-1":
        layer = RBM(VISIBLE, HIDDEN)
        layer.initialise(examples.mean(dim=0), generator)
        layer.to(device)
        return Job(layer, layer.step, dict, Shuffled((examples.to(device),)), stage="benchmark", phase="p", seed=0)
    model = MLP(VISIBLE, CLASSES, units=[HIDDEN])
    model.initialise(generator)
    step = from_cleared(model.to(device), partial(Classification().step, model))
    data = (examples.to(device), torch.randint(CLASSES, (EXAMPLES,), generator=generator).to(device))
    return Job(model, step, dict, Shuffled(data), stage="benchmark", phase="p", seed=0)


def seconds(kind: str, device: torch.device, precision: str, steps: int) -> float:
    training = {
        "duration": {"steps": steps},
        "validate_every": {"steps": steps},
        "batch_size": BATCH,
        "precision": precision,
        "optimizer": {"kind": "sgd", "learning_rate": 0.01, "momentum": 0.5},
    }
    made = job(kind, device)
    _wait(device)
    start = time.perf_counter()
    train(made, TrainingSpec.model_validate(training))
    _wait(device)
    return time.perf_counter() - start


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measure(kind: str, device: torch.device, precision: str, budget: float) -> str:
    """A line of the table: steps enough for `budget` seconds, after some to warm up."""
    per_step = seconds(kind, device, precision, WARM_UP) / WARM_UP
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    steps = max(WARM_UP, int(budget / per_step))
    rate = steps / seconds(kind, device, precision, steps)
    memory = f"{torch.cuda.max_memory_allocated(device) / 2**20:6.0f} MiB" if device.type == "cuda" else ""
    return f"{kind:11s} {devices.describe(device):30s} {precision:9s} {rate:9,.0f} steps/s {memory}".rstrip()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=3.0, help="of each line of the table")
    options = parser.parse_args()
    places = [devices.prepare("cpu")] + ([devices.prepare("cuda")] if torch.cuda.is_available() else [])
    print(f"load {os.getloadavg()[0]:.1f}, torch {torch.__version__}, {torch.get_num_threads()} thread")
    for kind in ("CD-1", "784-500-10"):
        for device in places:
            for precision in ("float32", "bfloat16"):
                print(measure(kind, device, precision, options.seconds), flush=True)
    if len(places) == 1:
        print("no CUDA device: only the CPU was measured")


if __name__ == "__main__":
    main()
