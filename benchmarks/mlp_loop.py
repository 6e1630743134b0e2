"""An epoch of a 784-500-10 network in float32 on the CPU, as ratios measured in one run.

    python benchmarks/mlp_loop.py [--mirror DIR] [--rounds 5] [--threads 1]

Ours is the whole of the training loop as `dlpipe finetune` runs it: streams, order, schedule, fused update, the sums
of the loss, the guard against NaN, latched signals, the clock of the checkpoints, the rows of the history. It is
compared with what is commonly written: a `DataLoader` over a `TensorDataset` of the same tensors, shuffled,
`zero_grad`, `cross_entropy`, `backward`, `torch.optim.SGD`, `loss.item()`, without worker processes and with one.
Neither validates. `compute` is our forward and backward passes alone, on one batch over and over.

Each contestant has a process of its own, because settings of the process are part of ours (freed memory is kept). They
take turns, one epoch each; a ratio is that of the fastest rounds. With other work on the machine, repeat it.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from dlpipe.datasets.idx import read_idx
from dlpipe.models.mlp import MLP
from dlpipe.runtime import devices
from dlpipe.runtime.batches import Shuffled
from dlpipe.runtime.checkpoints import Checkpoints
from dlpipe.runtime.jobs import Job
from dlpipe.runtime.loop import from_cleared, train
from dlpipe.runtime.stopping import Stopping
from dlpipe.runtime.streams import stream
from dlpipe.spec.training import TrainingSpec
from dlpipe.tasks.classification import Classification

EXAMPLES, PIXELS, HIDDEN, CLASSES = 60000, 784, 500, 10
LEARNING_RATE = 0.1
Data = tuple[Tensor, Tensor]
Epoch = Callable[[], None]


def examples(mirror: Path | None) -> Data:
    """Inputs [60000, 784] in [0, 1] and targets, of MNIST or, without a mirror, random ones of its shape."""
    if mirror is None:
        generator = stream(0, "benchmark")
        targets = torch.randint(CLASSES, (EXAMPLES,), generator=generator)
        return torch.rand(EXAMPLES, PIXELS, generator=generator), targets
    images = read_idx(mirror / "mnist" / "train-images-idx3-ubyte.gz", axes=(3,))
    labels = read_idx(mirror / "mnist" / "train-labels-idx1-ubyte.gz", axes=(1,))
    return torch.tensor(images).flatten(1).float().div_(255), torch.tensor(labels).long()


def our_model() -> MLP:
    model = MLP(PIXELS, CLASSES, units=[HIDDEN])
    model.initialise(stream(0, "initialise"))
    return model


def ours(data: Data, batch_size: int) -> Epoch:
    model = our_model()
    step = from_cleared(model, partial(Classification().step, model))
    job = Job(model, step, dict, Shuffled(data), stage="benchmark", phase="p", seed=0)
    optimizer = {"kind": "sgd", "learning_rate": LEARNING_RATE}
    declared = {"duration": {"epochs": 1.0}, "optimizer": optimizer, "batch_size": batch_size}
    training = TrainingSpec.model_validate(declared)

    def epoch() -> None:
        with tempfile.TemporaryDirectory() as folder, Stopping(deadline=3600.0) as stopping:
            train(job, training, checkpoints=Checkpoints(Path(folder), {}), stopping=stopping)

    return epoch


def compute(data: Data, batch_size: int) -> Epoch:
    model = our_model()
    x, y = (tensor[:batch_size].clone() for tensor in data)
    step = from_cleared(model, partial(Classification().step, model))
    generator = stream(0, "none")

    def epoch() -> None:
        for _ in range(0, EXAMPLES, batch_size):
            step(x, y, generator)

    return epoch


def data_loader(data: Data, batch_size: int, workers: int) -> Epoch:
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


CONTESTANTS: dict[str, Callable[[Data, int], Epoch]] = {
    "ours": ours,
    "compute": compute,
    "no workers": partial(data_loader, workers=0),
    "one worker": partial(data_loader, workers=1),
}


def contestant(name: str, mirror: Path | None, threads: int, turns: Connection) -> None:
    """In its own process: an epoch for each batch size that arrives; its seconds go back."""
    if name in ("ours", "compute"):
        devices.prepare("cpu", threads)
    torch.set_num_threads(threads)
    data = examples(mirror)
    epochs: dict[int, Epoch] = {}
    while batch_size := turns.recv():
        epoch = epochs.setdefault(batch_size, CONTESTANTS[name](data, batch_size))
        start = time.perf_counter()
        epoch()
        turns.send(time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--mirror", type=Path, help="folder with mnist/train-images-idx3-ubyte.gz and its labels")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    what = "MNIST" if options.mirror else "random data of MNIST's shape"
    print(
        f"load {os.getloadavg()[0]:.1f}, torch {torch.__version__}, {options.threads} threads, 60,000 examples, {what}"
    )
    print(
        "batch     ours  compute  no workers  one worker | no workers/ours  one worker/ours  ours/compute", flush=True
    )
    context = multiprocessing.get_context("spawn")
    turns, processes = {}, []
    for name in CONTESTANTS:
        turns[name], theirs = context.Pipe()
        processes.append(context.Process(target=contestant, args=(name, options.mirror, options.threads, theirs)))
        processes[-1].start()
    for batch_size in (20, 100):
        s = dict.fromkeys(CONTESTANTS, float("inf"))
        for number in range(options.rounds + 1):  # the first warms up
            for name, turn in turns.items():
                turn.send(batch_size)
                seconds = turn.recv()
                s[name] = min(s[name], seconds) if number else s[name]
        print(
            f"{batch_size:5d} {s['ours']:7.2f}s {s['compute']:7.2f}s {s['no workers']:10.2f}s {s['one worker']:10.2f}s"
            f" | {s['no workers'] / s['ours']:15.2f} {s['one worker'] / s['ours']:16.2f}"
            f" {s['ours'] / s['compute']:13.2f}",
            flush=True,
        )
    for turn in turns.values():
        turn.send(0)
    for process in processes:
        process.join()


if __name__ == "__main__":
    main()
