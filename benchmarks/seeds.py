"""A block of seeds trained together against the same seeds one after another, as ratios measured in one run.

    python benchmarks/seeds.py [--seeds 10] [--rounds 15] [--processor-time]

All of a step is timed: order, random streams, gathered batch, update, the optimiser with momentum, and the look at the
losses every 100 steps. CD-1 and a network with one hidden layer, on the CPU with one thread and on a GPU where there is
one. The contestants take turns; a ratio is that of the fastest rounds. With other work on the machine, repeat it, or
take processor time (not with a GPU, which it leaves out).
`apart` is the largest difference of two parameters at the end, of the same seed trained together and alone.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from functools import partial
from operator import attrgetter
from typing import Any

import torch

from dlpipe.layers.rbm import RBM
from dlpipe.models.mlp import MLP
from dlpipe.runtime import devices
from dlpipe.runtime.batches import Shuffled
from dlpipe.runtime.jobs import Job, Step
from dlpipe.runtime.loop import from_cleared, train_together
from dlpipe.runtime.streams import stream
from dlpipe.spec.training import TrainingSpec
from dlpipe.tasks.classification import Classification

Clock = Callable[[], float]
EXAMPLES, CLASSES = 1000, 10
SIZES = {
    "cpu": [(64, 100, 20, 100), (64, 100, 100, 50), (196, 100, 20, 50), (784, 100, 20, 20), (784, 500, 20, 5)],
    "cuda": [(64, 100, 20, 300), (784, 500, 100, 300), (784, 2000, 100, 100)],
}
"""Inputs, hidden units, batch, and steps a round."""


def job(kind: str, inputs: int, hidden: int, seed: int, device: torch.device) -> Job:
    generator = stream(0, "examples")
    x = (torch.rand(EXAMPLES, inputs, generator=generator) < 0.2).float()
    y = torch.randint(CLASSES, (EXAMPLES,), generator=generator)
    named: Any = {"stage": "benchmark", "phase": "p", "seed": seed}
    if kind == "CD-1":
        layer = RBM(inputs, hidden)
        layer.initialise(x.mean(dim=0), stream(seed, "initialise"))
        layer.to(device)
        return Job(layer, layer.step, dict, Shuffled((x.to(device),)), step_of=attrgetter("step"), **named)
    model = MLP(inputs, CLASSES, units=[hidden])
    model.initialise(stream(seed, "initialise"))
    model.to(device)
    return Job(model, step_of(model), dict, Shuffled((x.to(device), y.to(device))), step_of=step_of, **named)


def step_of(model: MLP) -> Step:
    return from_cleared(model, partial(Classification().step, model))


def seconds(groups: list[list[Job]], batch: int, steps: int, device: torch.device, clock: Clock) -> float:
    training = TrainingSpec.model_validate(
        {
            "duration": {"steps": steps},
            "validate_every": {"steps": steps},
            "batch_size": batch,
            "optimizer": {"kind": "sgd", "learning_rate": 0.01, "momentum": 0.5},
        }
    )
    start = clock()
    for group in groups:
        train_together(group, training)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return clock() - start


def measure(
    kind: str, size: tuple[int, int, int, int], seeds: int, rounds: int, device: torch.device, clock: Clock
) -> str:
    """A line of the table."""
    inputs, hidden, batch, steps = size
    together = alone = float("inf")
    for number in range(rounds + 1):
        block, others = ([job(kind, inputs, hidden, seed, device) for seed in range(seeds)] for _ in range(2))
        one, ten = (seconds(groups, batch, steps, device, clock) for groups in ([block], [[each] for each in others]))
        if number:  # the first warms up
            together, alone = min(together, one), min(alone, ten)
    apart = max(
        float((ours - theirs).abs().max())
        for a, b in zip(block, others, strict=True)
        for ours, theirs in zip(a.module.parameters(), b.module.parameters(), strict=True)
    )
    scale = 1e6 / steps / seeds
    return (
        f"{kind:4s} {inputs:4d}-{hidden:<4d} batch {batch:3d} {devices.describe(device):20s} "
        f"alone {alone * scale:7.1f} together {together * scale:7.1f} us  "
        f"ratio {alone / together:5.2f}  apart {apart:.0e}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--processor-time", action="store_true", help="in place of the clock's")
    options = parser.parse_args()
    clock = time.process_time if options.processor_time else time.perf_counter
    places = [devices.prepare("cpu")] + ([devices.prepare("cuda")] if torch.cuda.is_available() else [])
    print(
        f"load {os.getloadavg()[0]:.1f}, torch {torch.__version__}, {torch.get_num_threads()} thread; us a seed's step"
    )
    for device in places:
        for size in SIZES[device.type]:
            for kind in ("CD-1", "net"):
                print(measure(kind, size, options.seeds, options.rounds, device, clock), flush=True)
    if len(places) == 1:
        print("no CUDA device: only the CPU was measured")


if __name__ == "__main__":
    main()
