"""Recurrent network: cells of any kind, one above the other, over the steps of a sequence, in one direction or in both.

Papers: elman1990; zaremba2014 (stacks, dropout on the connections that are not recurrent, uniform initial weights);
schuster1997 (both directions). The cells: dlpipe/models/cells.py.

    x^0_t = x_t, or with an embedding drop(E[x_t]) of a token, drop(E' x_t) of numbers
    h^l_t = cell_l(x^{l-1}_t, h^l_{t-1})              l = 1 ... L
    x^l_t = drop(h^l_t)
    y_t = W_y x^L_t + b_y                             one product for all steps

In both directions a layer has two cells, one of which reads the sequence from its end; what it hands up is both side
by side. `drop` silences units anew at every step and never acts on what comes from step t - 1. A jordan cell is its
own output layer, of which nothing is dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding as rows_of
from torch.nn.functional import linear

from dlpipe.models.cells import GRU, LSTM, MUT1, MUT2, MUT3, Cell, Elman, Init, Jordan, State, draw
from dlpipe.models.dropout import dropout


class Recurrent(nn.Module):
    """What a model of `kind: recurrent` is; the keyword arguments are the fields of its spec, but for `tokens`.

    `inputs` is the features of a step or, with `tokens`, the size of the vocabulary.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        tokens: bool,
        units: Sequence[int],
        cell: str = "lstm",
        embedding: int | None = None,
        directions: Literal["one", "both"] = "one",
        activation: Literal["tanh", "sigmoid"] = "tanh",
        forget_bias: float = 0.0,
        peepholes: bool = False,
        without: Literal["input", "forget", "output"] | None = None,
        reset_after: bool = False,
        feedback: Literal["softmax", "sigmoid", "linear"] = "softmax",
        dropout: float = 0.0,
        init: Init = "uniform_fan_in",
        init_range: float = 0.1,
    ) -> None:
        super().__init__()
        self.tokens, self.dropout = tokens, dropout
        self.init: Init = init
        self.init_range = init_range
        if embedding is None and (tokens or cell in ("mut1", "mut2")):
            embedding = units[0]
        self.embedding = None if embedding is None else nn.Parameter(torch.zeros(inputs, embedding))
        options: dict[str, dict[str, Any]] = {
            "elman": {"activation": activation},
            "jordan": {"activation": activation, "feedback": feedback, "outputs": outputs},
            "lstm": {"forget_bias": forget_bias, "peepholes": peepholes, "without": without},
            "gru": {"reset_after": reset_after},
        }
        new_cell = partial(CELLS[cell], **options.get(cell, {}))
        sides = 2 if directions == "both" else 1
        self.layers: Any = stacked(new_cell, inputs if embedding is None else embedding, units, sides)
        self.output = nn.ParameterDict()
        if cell != "jordan":
            below = sum(each.outputs for each in self._cells()[-sides:])
            self.output.update({"W_y": torch.zeros(outputs, below), "b_y": torch.zeros(outputs)})

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> None:
        """Draws every weight as `init` says, from the inputs upwards.

        `uniform`: everything within `init_range`. Otherwise the cells' weights within 1 / sqrt(units), those of the
        output within 1 / sqrt(its inputs), embeddings from N(0, 1), biases 0; with `orthogonal` the recurrent ones
        are random rotations. The forget gate's bias is `forget_bias` more.
        """
        if self.embedding is not None and self.init == "uniform":
            draw(self.embedding, 1, generator, self.init, self.init_range)
        elif self.embedding is not None:
            self.embedding.copy_(
                torch.empty(self.embedding.shape, device=self.embedding.device).normal_(generator=generator)
            )
        for cell in self._cells():
            cell.initialise(generator, self.init, self.init_range)
        for parameter in self.output.values():
            draw(parameter, self.output["W_y"].shape[1], generator, self.init, self.init_range)

    def top(self) -> list[nn.Parameter]:
        """Weight and bias of the output layer: what a linear probe of the rest trains."""
        owner = self.output or dict(self._cells()[-1].named_parameters())
        return [owner["W_y"], owner["b_y"]]

    def empty_state(self, batch: int) -> State:
        """Zeros [batch, width]: of each layer, from the inputs upwards, of each direction, all tensors of the state."""
        return tuple(part for cell in self._cells() for part in cell.empty_state(batch))

    def forward(
        self,
        inputs: Tensor,
        generator: torch.Generator | None = None,
        *,
        state: State | None = None,
        lengths: Tensor | None = None,
    ) -> tuple[Tensor, State]:
        """[B, T, features], or tokens [B, T] -> outputs [B, T, outputs] and the state after the last step.

        `state`: as of `empty_state`, which it is if not given; that of cells that read backwards is after the first
        step. `lengths` [B], on the CPU: steps of each sequence, none 0; the rest is padding, on which nothing depends
        but the outputs that stand there. The sequences end there, and no state is given back. Dropout acts in training
        mode and then draws from `generator`.
        """
        x = inputs.t() if self.tokens else inputs.transpose(0, 1)  # [T, B, ...]: a step's numbers side by side
        if self.embedding is not None:
            x = rows_of(x, self.embedding) if self.tokens else x @ self.embedding
            x = dropout(x, self.dropout, generator, training=self.training)
        rest = list(self.empty_state(x.shape[1]) if state is None else state)
        last: list[Tensor] = []
        for cells in self.layers:
            sides = []
            for direction, cell in enumerate(cells):
                old, rest = tuple(rest[: cell.states]), rest[cell.states :]
                through = cell.scan if len(x) == 1 else cell.run  # a kernel's setup costs more than one step
                y, new = through(turned(x, lengths) if direction else x, old)
                sides.append(turned(y, lengths) if direction else y)
                last += new
            x = torch.cat(sides, dim=-1) if len(sides) > 1 else sides[0]
            if self.output:
                x = dropout(x, self.dropout, generator, training=self.training)
        x = x.transpose(0, 1).contiguous()  # here, as the outputs may be much wider
        return (linear(x, self.output["W_y"], self.output["b_y"]) if self.output else x), tuple(
            last
        ) if lengths is None else ()

    def _cells(self) -> list[Any]:
        return [cell for layer in self.layers for cell in layer]


CELLS: dict[str, type[Cell]] = {
    "elman": Elman,
    "jordan": Jordan,
    "lstm": LSTM,
    "gru": GRU,
    "mut1": MUT1,
    "mut2": MUT2,
    "mut3": MUT3,
}


def stacked(new_cell: Callable[[int, int], Cell], inputs: int, units: Sequence[int], sides: int) -> nn.ModuleList:
    """Layers of so many `units`, from the one above the inputs upwards; each has a cell for every one of the `sides`,
    its directions, and reads all that the layer below hands up."""
    layers = nn.ModuleList()
    for width in units:
        cells = [new_cell(inputs, width) for _ in range(sides)]
        layers.append(nn.ModuleList(cells))
        inputs = sum(cell.outputs for cell in cells)
    return layers


def turned(x: Tensor, lengths: Tensor | None = None) -> Tensor:
    """[T, B, ...] with every sequence from its end to its start; padding stays behind."""
    if lengths is None:
        return x.flip(0)
    steps = torch.arange(len(x))[:, None]
    backwards = torch.where(steps < lengths, lengths - 1 - steps, steps)  # [T, B]
    return x[backwards.to(x.device), torch.arange(x.shape[1], device=x.device)]
