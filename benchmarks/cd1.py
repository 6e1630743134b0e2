"""An epoch of CD-1 for an RBM of 784 x 500 units in float32 on the CPU, as ratios measured in one run.

    python benchmarks/cd1.py [--examples 10000] [--rounds 7]

Ours is `RBM.step` with a fresh random stream, a shuffled batch, and the optimiser's update. It is compared with

* scikit-learn's `BernoulliRBM`, one epoch of `fit` (no shuffling; plain SGD too);
* the five matrix products that CD-1 consists of, v W, h W', v1 W, v' h, v1' h1, into preallocated outputs and nothing
  else: no sigmoid, no random numbers, no update.

The contestants take turns; a ratio is that of the fastest rounds. With other work on the machine, repeat it.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable

import torch
from sklearn.neural_network import BernoulliRBM
from threadpoolctl import threadpool_limits
from torch import Tensor

from dlpipe.layers.rbm import RBM
from dlpipe.runtime.optimizers import sgd
from dlpipe.runtime.streams import stream

VISIBLE, HIDDEN = 784, 500
LEARNING_RATE = 0.01


def ours(data: Tensor, batch_size: int) -> Callable[[], None]:
    layer = RBM(VISIBLE, HIDDEN)
    layer.initialise(data.mean(dim=0), torch.Generator().manual_seed(0))
    parameters = dict(layer.named_parameters())
    optimizer = sgd(parameters, learning_rate=LEARNING_RATE, weight_decay=0.0, momentum=0.0, nesterov=False)

    def epoch() -> None:
        order = torch.randperm(len(data), generator=torch.Generator().manual_seed(1))
        for number, batch in enumerate(order.split(batch_size)):
            layer.step(data.index_select(0, batch), stream(0, "step", number))
            optimizer.step()

    return epoch


def scikit_learn(data: Tensor, batch_size: int) -> Callable[[], None]:
    inputs = data.numpy()
    rbm = BernoulliRBM(HIDDEN, learning_rate=LEARNING_RATE, batch_size=batch_size, n_iter=1, random_state=0)

    def epoch() -> None:
        rbm.fit(inputs)

    return epoch


def products(data: Tensor, batch_size: int) -> Callable[[], None]:
    W = torch.randn(VISIBLE, HIDDEN) * 0.01
    h, h1 = torch.rand(2, batch_size, HIDDEN)
    v1 = torch.rand(batch_size, VISIBLE)
    to_hidden, to_visible, to_weight = torch.empty_like(h), torch.empty_like(v1), torch.empty_like(W)

    def epoch() -> None:
        for v in data.split(batch_size):
            torch.mm(v, W, out=to_hidden)
            torch.mm(h, W.T, out=to_visible)
            torch.mm(v1, W, out=to_hidden)
            torch.mm(v.T, h, out=to_weight)
            torch.mm(v1.T, h1, out=to_weight)

    return epoch


def fastest(epochs: dict[str, Callable[[], None]], rounds: int) -> dict[str, float]:
    """Seconds of each contestant's fastest round, after one to warm up; they take turns.

    The pause lets the worker threads of the contestant before fall asleep: OpenBLAS's spin for a while after a product,
    and whoever came after scikit-learn would pay for it.
    """
    best = dict.fromkeys(epochs, float("inf"))
    for number in range(rounds + 1):
        for name, epoch in epochs.items():
            time.sleep(0.3)
            start = time.perf_counter()
            epoch()
            if number:
                best[name] = min(best[name], time.perf_counter() - start)
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--examples", type=int, default=10000)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    data = (torch.rand(options.examples, VISIBLE, generator=torch.Generator().manual_seed(0)) < 0.2).float()
    print(f"load {os.getloadavg()[0]:.1f}, torch {torch.__version__}, {options.examples} examples")
    print("threads  batch     ours  scikit-learn  products | scikit-learn/ours  ours/products")
    for threads in (1, 2):
        torch.set_num_threads(threads)
        for batch_size in (10, 100):
            contestants = {f.__name__: f(data, batch_size) for f in (ours, scikit_learn, products)}
            with threadpool_limits(threads):
                s = fastest(contestants, options.rounds)
            print(
                f"{threads:7d} {batch_size:6d} {s['ours']:7.3f}s {s['scikit_learn']:12.3f}s {s['products']:8.3f}s"
                f" | {s['scikit_learn'] / s['ours']:17.2f} {s['ours'] / s['products']:14.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
