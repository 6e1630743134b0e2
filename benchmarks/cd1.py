"""An epoch of CD-1 for an RBM of 784 x 500 units on the CPU, as ratios measured in one run.

    python benchmarks/cd1.py [--examples 10000] [--rounds 7] [--threads 1 2] [--processor-time]

Ours is `RBM.step` with a fresh random stream, a shuffled batch, and the optimiser's update, in float32 and, where the
processor multiplies bfloat16, in that. It is compared with

* the five matrix products that CD-1 consists of, v W, h W', v1 W, v' h, v1' h1, into preallocated outputs and nothing
  else: no sigmoid, no random numbers, no update;
* scikit-learn's `BernoulliRBM`, one epoch of `fit` (no shuffling; plain SGD too);
* `learnergy` and `rbms`, where they are installed (`pip install learnergy rbms`): one epoch of learnergy's `fit`, and
  the body of the loop of rbms' `train`, not centred, without what it writes to its file after every step.

The process is prepared as one of dlpipe's: it keeps the memory that a step frees, for all of them. The contestants take
turns; a ratio is that of the fastest rounds. With other work on the machine, repeat it with many short rounds and
`--processor-time`: `--examples 200 --rounds 40 --threads 1 --processor-time`.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import logging
import os
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
from sklearn.neural_network import BernoulliRBM
from threadpoolctl import threadpool_limits
from torch import Tensor

from dlpipe.layers.rbm import RBM
from dlpipe.runtime import devices
from dlpipe.runtime.optimizers import sgd
from dlpipe.runtime.streams import stream

VISIBLE, HIDDEN = 784, 500
LEARNING_RATE = 0.01


Contestant = Callable[[Tensor, int], Callable[[], None]]


def ours(
    data: Tensor, batch_size: int, precision: contextlib.AbstractContextManager[Any] | None = None
) -> Callable[[], None]:
    layer = RBM(VISIBLE, HIDDEN)
    layer.initialise(data.mean(dim=0), torch.Generator().manual_seed(0))
    parameters = dict(layer.named_parameters())
    optimizer = sgd(parameters, learning_rate=LEARNING_RATE, weight_decay=0.0, momentum=0.0, nesterov=False)

    def epoch() -> None:
        order = torch.randperm(len(data), generator=torch.Generator().manual_seed(1))
        for number, batch in enumerate(order.split(batch_size)):
            with precision or contextlib.nullcontext():
                layer.step(data.index_select(0, batch), stream(0, "step", number))
            optimizer.step()

    return epoch


def ours_bfloat16(data: Tensor, batch_size: int) -> Callable[[], None]:
    return ours(data, batch_size, torch.autocast("cpu", dtype=torch.bfloat16))


def scikit_learn(data: Tensor, batch_size: int) -> Callable[[], None]:
    inputs = data.numpy()
    rbm = BernoulliRBM(HIDDEN, learning_rate=LEARNING_RATE, batch_size=batch_size, n_iter=1, random_state=0)

    def epoch() -> None:
        rbm.fit(inputs)

    return epoch


def learnergy(data: Tensor, batch_size: int) -> Callable[[], None]:
    from learnergy.core.dataset import Dataset
    from learnergy.models.bernoulli.rbm import RBM as Theirs

    logging.disable()
    rbm, examples = Theirs(VISIBLE, HIDDEN, learning_rate=LEARNING_RATE), Dataset(data, torch.zeros(len(data)))

    def epoch() -> None:
        rbm.fit(examples, batch_size=batch_size, epochs=1)

    return epoch


def rbms(data: Tensor, batch_size: int) -> Callable[[], None]:
    warnings.simplefilter("ignore")  # of torch.jit.script, which it uses
    from rbms.bernoulli_bernoulli.classes import BBRBM
    from rbms.training.pcd import fit_batch_pcd

    rbm = BBRBM(torch.randn(VISIBLE, HIDDEN) * 0.01, torch.zeros(VISIBLE), torch.zeros(HIDDEN))
    weights = torch.ones(len(data))
    optimizer = torch.optim.SGD(rbm.parameters(), lr=LEARNING_RATE, maximize=True)
    for parameter in rbm.parameters():
        parameter.grad = torch.zeros_like(parameter)

    @torch.no_grad()
    def epoch() -> None:
        for batch in torch.randperm(len(data)).split(batch_size):
            examples = (data[batch], weights[batch])
            chains = rbm.init_chains(len(batch), weights=examples[1], start_v=examples[0])
            optimizer.zero_grad(set_to_none=False)
            fit_batch_pcd(examples, chains, rbm, gibbs_steps=1, beta=1.0, centered=False)
            optimizer.step()

    return epoch


def products_bfloat16(data: Tensor, batch_size: int) -> Callable[[], None]:
    return products(data.bfloat16(), batch_size)


def products(data: Tensor, batch_size: int) -> Callable[[], None]:
    W = torch.randn(VISIBLE, HIDDEN).to(data.dtype) * 0.01
    h, h1 = torch.rand(2, batch_size, HIDDEN).to(data.dtype)
    v1 = torch.rand(batch_size, VISIBLE).to(data.dtype)
    to_hidden, to_visible, to_weight = torch.empty_like(h), torch.empty_like(v1), torch.empty_like(W)

    def epoch() -> None:
        for v in data.split(batch_size):
            torch.mm(v, W, out=to_hidden)
            torch.mm(h, W.T, out=to_visible)
            torch.mm(v1, W, out=to_hidden)
            torch.mm(v.T, h, out=to_weight)
            torch.mm(v1.T, h1, out=to_weight)

    return epoch


def fastest(epochs: dict[str, Callable[[], None]], rounds: int, clock: Callable[[], float]) -> dict[str, float]:
    """Seconds of each contestant's fastest round, after one to warm up; they take turns.

    The pause lets the worker threads of the contestant before fall asleep: OpenBLAS's spin for a while after a product,
    and whoever came after scikit-learn would pay for it.
    """
    best = dict.fromkeys(epochs, float("inf"))
    for number in range(rounds + 1):
        for name, epoch in epochs.items():
            time.sleep(0.3)
            start = clock()
            epoch()
            if number:
                best[name] = min(best[name], clock() - start)
    return best


def contestants() -> list[Contestant]:
    """Those that this machine has the packages and the instructions for."""
    installed = [each for each in (learnergy, rbms) if importlib.util.find_spec(each.__name__)]
    bfloat16 = [ours_bfloat16, products_bfloat16] if torch.cpu._is_avx512_bf16_supported() else []
    return [ours, products, scikit_learn, *installed, *bfloat16]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--examples", type=int, default=10000)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--processor-time", action="store_true", help="for 1 thread on a machine with other work")
    options = parser.parse_args()
    clock = time.process_time if options.processor_time else time.perf_counter
    data = (torch.rand(options.examples, VISIBLE, generator=torch.Generator().manual_seed(0)) < 0.2).float()
    print(f"load {os.getloadavg()[0]:.1f}, torch {torch.__version__}, {options.examples} examples")
    print("milliseconds a step, and as a multiple of ours in float32")
    for threads in options.threads:
        devices.prepare("cpu", threads)
        for batch_size in (10, 100):
            epochs = {each.__name__: each(data, batch_size) for each in contestants()}
            with threadpool_limits(threads):
                seconds = fastest(epochs, options.rounds, clock)
            ratio = seconds["ours"] / seconds["products"]
            print(f"\n{threads} threads, batches of {batch_size}: ours / products {ratio:.2f}")
            for name, best in seconds.items():
                step = 1e3 * best / -(-len(data) // batch_size)
                print(f"  {name:18s} {step:8.3f} ms {best / seconds['ours']:7.2f}", flush=True)


if __name__ == "__main__":
    main()
