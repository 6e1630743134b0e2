"""How far back a gradient reaches in a recurrent network: its norm against the distance, vanishing or exploding.

Papers: bengio1994, pascanu2013. With the state s_t, all layers' together, after step t of a window of T steps,

    delta_1 = (d y_T / d s_{T-1})' v                          v: a random direction of the outputs
    delta_{k+1} = (d s_{T-k} / d s_{T-k-1})' delta_k          backpropagation through time, step by step

v stands for the gradient of some loss by the last output; its length drops out of the ratios |delta_k| / |delta_1|.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from dlpipe.tasks.base import Measured, Sequences


class GradientByDistance:
    """The arguments are the fields of its spec."""

    def __init__(self, *, steps: int, windows: int) -> None:
        self.steps, self.windows = steps, windows

    def __call__(self, model: nn.Module, splits: Mapping[str, Sequences], generator: torch.Generator) -> Measured:
        """`gradient_factor`, by how much the norm changes from one distance to the next, in the geometric mean; for the
        figure the norms [steps], relative to the first."""
        norms = gradient_by_distance(copy.deepcopy(model).double().eval(), self._inputs(splits["test"]), generator)
        relative = (norms / norms[:, :1]).mean(dim=0)
        factor = float(relative[-1]) ** (1 / max(1, len(relative) - 1))
        return Measured({"gradient_factor": factor}, of_each_seed={"gradient_by_distance": relative})

    def _inputs(self, split: Sequences) -> Tensor:
        """Windows [windows, steps, ...], evenly spaced among those that the sequences hold side by side; of fewer steps
        where all sequences are shorter."""
        steps = min(self.steps, int(split.lengths.max()))
        starts = split.lengths.cumsum(0) - split.lengths
        whole = [
            torch.arange(start, start + length - steps + 1, steps)
            for start, length in zip(starts.tolist(), split.lengths.tolist(), strict=True)
            if length >= steps
        ]
        every = torch.cat(whole)
        chosen = every[torch.linspace(0, len(every) - 1, min(self.windows, len(every))).round().long()]
        inputs = split.inputs[(chosen[:, None] + torch.arange(steps)).to(split.inputs.device)]
        return inputs.double() if inputs.is_floating_point() else inputs


def gradient_by_distance(model: Any, inputs: Tensor, generator: torch.Generator) -> Tensor:
    """|delta_k|, [B, T] for k = 1 ... T: tokens [B, T] or features [B, T, features], from an empty state onwards."""
    state = tuple(part.detach() for part in model.empty_state(len(inputs)))
    steps: list[tuple[tuple[Tensor, ...], tuple[Tensor, ...]]] = []
    for x in inputs.split(1, dim=1):
        before = tuple(part.detach().requires_grad_() for part in state)  # each step's graph is its own
        outputs, state = model(x, state=before)
        steps.append((before, state))
    v = torch.randn(outputs.shape, generator=generator, device=outputs.device, dtype=outputs.dtype)
    norms, delta = [], torch.autograd.grad(outputs, steps[-1][0], v)
    for before, after in reversed(steps[:-1]):
        norms.append(_norm(delta))
        delta = torch.autograd.grad(after, before, delta)
    return torch.stack([*norms, _norm(delta)], dim=1)


def _norm(parts: tuple[Tensor, ...]) -> Tensor:
    """[B]: of all parts [B, width] together."""
    return torch.cat(parts, dim=1).norm(dim=1)
