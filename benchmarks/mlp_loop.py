"""An epoch of a 784-500-10 network in float32 on the CPU, as ratios measured in one run.

    python benchmarks/mlp_loop.py [--mirror DIR] [--rounds 5] [--threads 1]

Ours is the whole of the training loop as `dlpipe finetune` runs it: streams, order, schedule, fused update, the sums
of the loss, the guard against NaN, latched signals, the clock of the checkpoints, the rows of the history. It is
compared with what is commonly written: a `DataLoader` over a `TensorDataset` of the same tensors, shuffled,
`zero_grad`, `cross_entropy`, `backward`, `torch.optim.SGD`, `loss.item()`, without worker processes and with one.
Neither validates. `compute` is forward and backward passes alone, on one batch over and over.

The contestants take turns; a ratio is that of the fastest rounds. With other work on the machine, repeat it. All of
them run in one process, so that what the runtime does to it (freed memory is kept) helps all of them alike.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from dlpipe.datasets.idx import read_idx
from dlpipe.models.mlp import MLP
from dlpipe.runtime import devices
from dlpipe.runtime.checkpoints import Checkpoints
from dlpipe.runtime.loop import Job, from_cleared, train
from dlpipe.runtime.stopping import Stopping
from dlpipe.runtime.streams import stream
from dlpipe.spec.training import TrainingSpec
from dlpipe.tasks.classification import Classification

EXAMPLES, PIXELS, HIDDEN, CLASSES = 60000, 784, 500, 10
LEARNING_RATE = 0.1


def examples(mirror: Path | None) -> tuple[Tensor, Tensor]:
    """Inputs [60000, 784] in [0, 1] and targets, of MNIST or, without a mirror, random ones of its shape."""
    if mirror is None:
        generator = stream(0, "benchmark")
        targets = torch.randint(CLASSES, (EXAMPLES,), generator=generator)
        return torch.rand(EXAMPLES, PIXELS, generator=generator), targets
    images = read_idx(mirror / "mnist" / "train-images-idx3-ubyte.gz", axes=(3,))
    labels = read_idx(mirror / "mnist" / "train-labels-idx1-ubyte.gz", axes=(1,))
    return torch.tensor(images).flatten(1).float().div_(255), torch.tensor(labels).long()


def ours(data: tuple[Tensor, Tensor], batch_size: int, folder: Path) -> Callable[[], None]:
    model = MLP(PIXELS, CLASSES, units=[HIDDEN])
    model.initialise(stream(0, "initialise"))
    step = from_cleared(model, partial(Classification().step, model))
    job = Job(model, step, dict, data, stage="benchmark", phase="p", seed=0)
    optimizer = {"kind": "sgd", "learning_rate": LEARNING_RATE}
    declared = {"duration": {"epochs": 1.0}, "optimizer": optimizer, "batch_size": batch_size}
    training = TrainingSpec.model_validate(declared)

    def epoch() -> None:
        with Stopping(deadline=3600.0) as stopping:
            train(job, training, checkpoints=Checkpoints(folder, {}), stopping=stopping)

    return epoch


def data_loader(data: tuple[Tensor, Tensor], batch_size: int, workers: int) -> Callable[[], None]:
    model = nn.Sequential(nn.Linear(PIXELS, HIDDEN), nn.Sigmoid(), nn.Linear(HIDDEN, CLASSES))
    optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE)
    loader = DataLoader(TensorDataset(*data), batch_size=batch_size, shuffle=True, num_workers=workers)

    def epoch() -> None:
        total = 0.0
        for x, y in loader:
            optimizer.zero_grad()
            loss = cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            total += loss.item() * len(x)

    return epoch


def compute(data: tuple[Tensor, Tensor], batch_size: int) -> Callable[[], None]:
    model = MLP(PIXELS, CLASSES, units=[HIDDEN])
    model.initialise(stream(0, "initialise"))
    x, y = (tensor[:batch_size].clone() for tensor in data)

    def epoch() -> None:
        for _ in range(0, len(data[0]), batch_size):
            model.zero_grad(set_to_none=True)
            cross_entropy(model(x), y).backward()

    return epoch


def fastest(epochs: dict[str, Callable[[], None]], rounds: int) -> dict[str, float]:
    """Seconds of each contestant's fastest round, after one to warm up; they take turns."""
    best = dict.fromkeys(epochs, float("inf"))
    for number in range(rounds + 1):
        for name, epoch in epochs.items():
            start = time.perf_counter()
            epoch()
            if number:
                best[name] = min(best[name], time.perf_counter() - start)
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--mirror", type=Path, help="folder with mnist/train-images-idx3-ubyte.gz and its labels")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    devices.prepare("cpu", options.threads)
    data = examples(options.mirror)
    what = "MNIST" if options.mirror else "random data of MNIST's shape"
    print(
        f"load {os.getloadavg()[0]:.1f}, torch {torch.__version__}, {options.threads} threads, 60,000 examples, {what}"
    )
    print("batch     ours  compute  no workers  one worker | no workers/ours  one worker/ours  ours/compute")
    with tempfile.TemporaryDirectory() as folder:
        for batch_size in (20, 100):
            contestants = {
                "ours": ours(data, batch_size, Path(folder)),
                "compute": compute(data, batch_size),
                "none": data_loader(data, batch_size, workers=0),
                "one": data_loader(data, batch_size, workers=1),
            }
            s = fastest(contestants, options.rounds)
            print(
                f"{batch_size:5d} {s['ours']:7.2f}s {s['compute']:7.2f}s {s['none']:10.2f}s {s['one']:10.2f}s"
                f" | {s['none'] / s['ours']:15.2f} {s['one'] / s['ours']:16.2f} {s['ours'] / s['compute']:13.2f}",
                flush=True,
            )


if __name__ == "__main__":
    sys.exit(main())
