"""Annealed importance sampling for an RBM of 784 x 500 units in float32 on the CPU, as a ratio measured in one run.

    python benchmarks/ais.py [--chains 100] [--temperatures 300] [--rounds 7] [--threads 1 2] [--processor-time]

Ours is `annealing.forward`. It is compared with its matrix products, two a temperature, v W and h W', into preallocated
outputs and nothing else: no sigmoid, no softplus, no random numbers, no weights. The cost of a temperature does not
depend on which one it is, so a few hundred tell what the paper's 14,500 take.

The contestants take turns; a ratio is that of the fastest rounds. With other work on the machine, repeat it.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable

import torch

from dlpipe.layers import annealing
from dlpipe.layers.rbm import RBM
from dlpipe.runtime import devices

VISIBLE, HIDDEN = 784, 500
PAPER = sum(annealing.TEMPERATURES)


def ours(chains: int, temperatures: int) -> Callable[[], None]:
    layer = RBM(VISIBLE, HIDDEN, weight_scale=0.1)
    mean = torch.full((VISIBLE,), 0.2)
    layer.initialise(mean, torch.Generator().manual_seed(0))
    base, betas = annealing.base_rates(layer, mean), annealing.temperatures((temperatures,))

    def run() -> None:
        annealing.forward(layer, base, betas, chains, torch.Generator().manual_seed(1))

    return run


def products(chains: int, temperatures: int) -> Callable[[], None]:
    W = torch.randn(VISIBLE, HIDDEN) * 0.1
    v, h = torch.rand(chains, VISIBLE).round(), torch.rand(chains, HIDDEN).round()
    to_hidden, to_visible = torch.empty_like(h), torch.empty_like(v)

    def run() -> None:
        for _ in range(temperatures):
            torch.mm(v, W, out=to_hidden)
            torch.mm(h, W.T, out=to_visible)

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--chains", type=int, default=100)
    parser.add_argument("--temperatures", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--processor-time", action="store_true", help="for 1 thread on a machine with other work")
    options = parser.parse_args()
    clock = time.process_time if options.processor_time else time.perf_counter
    print(f"load {os.getloadavg()[0]:.1f}, torch {torch.__version__}, {options.chains} chains")
    print(f"threads     ours  products | ours/products  {PAPER} temperatures")
    for threads in options.threads:
        devices.prepare("cpu", threads)
        contestants = [make(options.chains, options.temperatures) for make in (ours, products)]
        best = [float("inf")] * 2
        for number in range(options.rounds + 1):
            for position, run in enumerate(contestants):
                start = clock()
                run()
                if number:
                    best[position] = min(best[position], clock() - start)
        whole = best[0] / options.temperatures * PAPER
        print(f"{threads:7d} {best[0]:7.3f}s {best[1]:8.3f}s | {best[0] / best[1]:13.2f} {whole:15.0f}s", flush=True)


if __name__ == "__main__":
    main()
