"""Recurrent cells: what one step of a recurrent network computes, from Elman's to those that Jozefowicz et al. evolved.

Papers: elman1990, jordan1986, hochreiter1997 and gers2000 (LSTM, forget gate), gers2002 (peepholes), cho2014 (GRU),
jozefowicz2015 (MUT1, MUT2, MUT3; ablations and the forget gate's bias).

A cell has the weights W_x [gates * units, inputs], W_h [gates * units, units] and the bias b, the gates one below the
other: W_xr is the r-part of W_x; a gate that does without a matrix has no part there. * is the product unit by unit,
sigma the logistic function. `cell(x_t, state)` is one step; the state is a tuple of tensors [B, width] whose first is
the output. `run` takes all steps of a batch: the inputs' part of all steps is one product, the rest goes step by step,
or in one call of the library where it computes the same.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

State = tuple[Tensor, ...]
Init = Literal["uniform_fan_in", "uniform", "orthogonal"]
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"tanh": torch.tanh, "sigmoid": torch.sigmoid}
FEEDBACKS: dict[str, Callable[[Tensor], Tensor]] = {
    "softmax": lambda a: torch.softmax(a, dim=-1),
    "sigmoid": torch.sigmoid,
    "linear": lambda a: a,
}


class Cell(nn.Module):
    """What all have in common. W_x, W_h and b have blocks of units: `x_parts`, `h_parts`, `biases` (as W_x) of them."""

    states: ClassVar[int] = 1
    """Tensors of its state."""

    def __init__(
        self, inputs: int, units: int, *, x_parts: int = 1, h_parts: int = 1, biases: int | None = None
    ) -> None:
        super().__init__()
        self.inputs, self.units = inputs, units
        self.W_x = nn.Parameter(torch.zeros(x_parts * units, inputs))
        self.W_h = nn.Parameter(torch.zeros(h_parts * units, units))
        self.b = nn.Parameter(torch.zeros((biases or x_parts) * units))

    @property
    def outputs(self) -> int:
        """Width of what it hands up."""
        return self.units

    def empty_state(self, batch: int) -> State:
        """Zeros [batch, outputs]: the state before the first step."""
        return tuple(self.W_x.new_zeros(batch, self.outputs) for _ in range(self.states))

    @torch.no_grad()
    def initialise(self, generator: torch.Generator, init: Init = "uniform_fan_in", init_range: float = 0.1) -> None:
        """Draws every weight as `init` says (see Recurrent), in the order of their names' declaration."""
        for name, parameter in self.named_parameters(recurse=False):
            draw(parameter, self.units, generator, init, init_range, recurrent=name == "W_h")

    def project(self, x: Tensor) -> Tensor:
        """What the inputs contribute to the sums, W_x x + b: [..., inputs] -> [..., x_parts * units]."""
        return linear(x, self.W_x, self.b)

    def step(self, a: Tensor, state: State) -> State:
        """One step from the inputs' part [B, x_parts * units] of its sums: the new state."""
        raise NotImplementedError

    def forward(self, x: Tensor, state: State) -> State:
        """One step from the inputs [B, inputs]: the new state, [B, width] each, of which the first is the output."""
        return self.step(self.project(x), state)

    def scan(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """Step by step over [T, B, inputs]: outputs [T, B, outputs] and the state after the last one."""
        outputs = []
        for a in self.project(x).unbind(0):
            state = self.step(a, state)
            outputs.append(state[0])
        return torch.stack(outputs), state

    def run(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """As `scan`, by the fastest way there is."""
        return self.scan(x, state)


class Elman(Cell):
    """h_t = f(W_x x_t + W_h h_{t-1} + b), with f the `activation`. State: (h,).

    Elman (1990) has the logistic function.
    """

    def __init__(self, inputs: int, units: int, *, activation: Literal["tanh", "sigmoid"] = "tanh") -> None:
        super().__init__(inputs, units)
        self.activation = ACTIVATIONS[activation]

    def step(self, a: Tensor, state: State) -> State:
        (h,) = state
        return (self.activation(torch.addmm(a, h, self.W_h.t())),)

    def run(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """[T, B, inputs] and (h,), [B, units] -> outputs [T, B, units] and (h,) after the last step; by torch.rnn_tanh
        if the activation is tanh."""
        if self.activation is not torch.tanh:
            return self.scan(x, state)
        return library(torch.rnn_tanh, x, state, [self.W_x, self.W_h, self.b, torch.zeros_like(self.b)])


class Jordan(Cell):
    """The network's own output comes back instead of its hidden units (Jordan 1986, whose state units remember more
    than the last output: s_t = mu s_{t-1} + y_{t-1}; this is mu = 0, as in later work):

        h_t = f(W_x x_t + W_h g(y_{t-1}) + b)
        y_t = W_y h_t + b_y

    State: (y,), before g, which is the `feedback`: softmax for classes (as Mesnil et al. 2013 have it), sigmoid for
    binary units, linear for numbers. Before the first step y is 0, so that all classes come back alike. It is the
    output layer itself, so that nothing can stand above it. W_h is [units, outputs].
    """

    def __init__(
        self,
        inputs: int,
        units: int,
        outputs: int,
        *,
        activation: Literal["tanh", "sigmoid"] = "tanh",
        feedback: Literal["softmax", "sigmoid", "linear"] = "softmax",
    ) -> None:
        super().__init__(inputs, units)
        self.activation, self.feedback = ACTIVATIONS[activation], FEEDBACKS[feedback]
        self.W_h = nn.Parameter(torch.zeros(units, outputs))
        self.W_y = nn.Parameter(torch.zeros(outputs, units))
        self.b_y = nn.Parameter(torch.zeros(outputs))

    @property
    def outputs(self) -> int:
        return len(self.b_y)

    def step(self, a: Tensor, state: State) -> State:
        """One step from a [B, units]: the state (y,) is as wide as the outputs, [B, outputs], not as the units."""
        (y,) = state
        h = self.activation(torch.addmm(a, self.feedback(y), self.W_h.t()))
        return (torch.addmm(self.b_y, h, self.W_y.t()),)


class LSTM(Cell):
    """Long short-term memory, with forget gate (Hochreiter and Schmidhuber 1997; Gers et al. 2000):

        i_t = sigma(W_xi x_t + W_hi h_{t-1} + p_i * c_{t-1} + b_i)     input gate
        f_t = sigma(W_xf x_t + W_hf h_{t-1} + p_f * c_{t-1} + b_f)     forget gate
        g_t = tanh(W_xg x_t + W_hg h_{t-1} + b_g)                      candidate
        c_t = f_t * c_{t-1} + i_t * g_t
        o_t = sigma(W_xo x_t + W_ho h_{t-1} + p_o * c_t + b_o)         output gate
        h_t = o_t * tanh(c_t)

    State: (h, c). `peepholes`: the p (Gers et al. 2002), otherwise 0. `forget_bias` is added to b_f at the start, so
    that the memory is kept until something else is learned; Jozefowicz et al. (2015) ask for 1. `without` leaves out a
    gate: it is 1 (their LSTM-f, LSTM-i, LSTM-o).
    """

    states: ClassVar[int] = 2

    def __init__(
        self,
        inputs: int,
        units: int,
        *,
        forget_bias: float = 0.0,
        peepholes: bool = False,
        without: Literal["input", "forget", "output"] | None = None,
    ) -> None:
        self.parts = [part for part in ("input", "forget", "candidate", "output") if part != without]
        super().__init__(inputs, units, x_parts=len(self.parts), h_parts=len(self.parts))
        self.forget_bias = forget_bias
        self.peepholes = nn.ParameterDict({part: torch.zeros(units) for part in self.parts if part != "candidate"})
        if not peepholes:
            self.peepholes.clear()

    @torch.no_grad()
    def initialise(self, generator: torch.Generator, init: Init = "uniform_fan_in", init_range: float = 0.1) -> None:
        super().initialise(generator, init, init_range)
        for peephole in self.peepholes.values():
            draw(peephole, self.units, generator, init, init_range)
        if "forget" in self.parts:
            self.b.view(-1, self.units)[self.parts.index("forget")] += self.forget_bias

    def step(self, a: Tensor, state: State) -> State:
        h, c = state
        sums = dict(zip(self.parts, torch.addmm(a, h, self.W_h.t()).chunk(len(self.parts), dim=1), strict=True))
        i, f = self._gate("input", sums, c), self._gate("forget", sums, c)
        c = f * c + i * torch.tanh(sums["candidate"])
        return self._gate("output", sums, c) * torch.tanh(c), c

    def _gate(self, part: str, sums: dict[str, Tensor], c: Tensor) -> Tensor | float:
        """Of [B, units]; 1 if the cell is without it. `c` is what its peephole sees."""
        if part not in sums:
            return 1.0
        total = sums[part] + self.peepholes[part] * c if part in self.peepholes else sums[part]
        return torch.sigmoid(total)

    def run(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """[T, B, inputs] and (h, c), [B, units] each -> outputs [T, B, units] and (h, c) after the last step; by
        torch.lstm if it has all gates and no peepholes."""
        if len(self.parts) < 4 or len(self.peepholes):
            return self.scan(x, state)
        return library(torch.lstm, x, state, [self.W_x, self.W_h, self.b, torch.zeros_like(self.b)])


class GRU(Cell):
    """Gated recurrent unit (Cho et al. 2014):

        r_t = sigma(W_xr x_t + W_hr h_{t-1} + b_r)                     reset gate
        z_t = sigma(W_xz x_t + W_hz h_{t-1} + b_z)                     update gate
        n_t = tanh(W_xn x_t + W_hn (r_t * h_{t-1}) + b_n)              candidate
        h_t = z_t * h_{t-1} + (1 - z_t) * n_t

    State: (h,). With `reset_after` the gate acts after the product, n_t = tanh(W_xn x_t + b_n + r_t * (W_hn h_{t-1} +
    b_hn)): not the paper's cell, but the one that cuDNN and `torch.nn.GRU` have, and so faster on a GPU.
    """

    def __init__(self, inputs: int, units: int, *, reset_after: bool = False) -> None:
        super().__init__(inputs, units, x_parts=3, h_parts=3)
        self.reset_after = reset_after
        if reset_after:
            self.b_hn = nn.Parameter(torch.zeros(units))

    def step(self, a: Tensor, state: State) -> State:
        (h,) = state
        gates, candidate = self.W_h.split([2 * self.units, self.units])
        a_gates, a_n = a.split([2 * self.units, self.units], dim=1)
        r, z = torch.sigmoid(torch.addmm(a_gates, h, gates.t())).chunk(2, dim=1)
        if self.reset_after:
            n = torch.tanh(a_n + r * torch.addmm(self.b_hn, h, candidate.t()))
        else:
            n = torch.tanh(torch.addmm(a_n, r * h, candidate.t()))
        return (lerp(n, h, z),)

    def run(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """[T, B, inputs] and (h,), [B, units] -> outputs [T, B, units] and (h,) after the last step; by torch.gru with
        `reset_after`."""
        if not self.reset_after:
            return self.scan(x, state)
        b_h = torch.cat([self.b_hn.new_zeros(2 * self.units), self.b_hn])
        return library(torch.gru, x, state, [self.W_x, self.W_h, self.b, b_h])


class MUT1(Cell):
    """The first of three cells that a search through ten thousand found (Jozefowicz et al. 2015):

        z_t = sigma(W_xz x_t + b_z)
        r_t = sigma(W_xr x_t + W_hr h_{t-1} + b_r)
        h_t = z_t * tanh(W_hh (r_t * h_{t-1}) + tanh(x_t) + b_h) + (1 - z_t) * h_{t-1}

    State: (h,). It needs as many inputs as units.
    """

    def __init__(self, inputs: int, units: int) -> None:
        _as_many(self, inputs, units)
        super().__init__(inputs, units, x_parts=2, h_parts=2, biases=3)

    def project(self, x: Tensor) -> Tensor:
        return torch.cat([linear(x, self.W_x), torch.tanh(x)], dim=-1) + self.b

    def step(self, a: Tensor, state: State) -> State:
        (h,) = state
        a_z, a_r, a_h = a.chunk(3, dim=1)
        W_hr, W_hh = self.W_h.chunk(2)
        r = torch.sigmoid(torch.addmm(a_r, h, W_hr.t()))
        return (lerp(h, torch.tanh(torch.addmm(a_h, r * h, W_hh.t())), torch.sigmoid(a_z)),)


class MUT2(Cell):
    """The second: a GRU whose reset gate sees the inputs themselves (Jozefowicz et al. 2015):

        z_t = sigma(W_xz x_t + W_hz h_{t-1} + b_z)
        r_t = sigma(x_t + W_hr h_{t-1} + b_r)
        h_t = z_t * tanh(W_hh (r_t * h_{t-1}) + W_xh x_t + b_h) + (1 - z_t) * h_{t-1}

    State: (h,). It needs as many inputs as units.
    """

    def __init__(self, inputs: int, units: int) -> None:
        _as_many(self, inputs, units)
        super().__init__(inputs, units, x_parts=2, h_parts=3, biases=3)

    def project(self, x: Tensor) -> Tensor:
        x_z, x_h = linear(x, self.W_x).chunk(2, dim=-1)
        return torch.cat([x_z, x, x_h], dim=-1) + self.b

    def step(self, a: Tensor, state: State) -> State:
        (h,) = state
        gates, W_hh = self.W_h.split([2 * self.units, self.units])
        a_gates, a_h = a.split([2 * self.units, self.units], dim=1)
        z, r = torch.sigmoid(torch.addmm(a_gates, h, gates.t())).chunk(2, dim=1)
        return (lerp(h, torch.tanh(torch.addmm(a_h, r * h, W_hh.t())), z),)


class MUT3(Cell):
    """The third: a GRU whose update gate sees tanh of the state (Jozefowicz et al. 2015):

        z_t = sigma(W_xz x_t + W_hz tanh(h_{t-1}) + b_z)
        r_t = sigma(W_xr x_t + W_hr h_{t-1} + b_r)
        h_t = z_t * tanh(W_hh (r_t * h_{t-1}) + W_xh x_t + b_h) + (1 - z_t) * h_{t-1}

    State: (h,).
    """

    def __init__(self, inputs: int, units: int) -> None:
        super().__init__(inputs, units, x_parts=3, h_parts=3)

    def step(self, a: Tensor, state: State) -> State:
        (h,) = state
        a_z, a_r, a_h = a.chunk(3, dim=1)
        W_hz, W_hr, W_hh = self.W_h.chunk(3)
        z = torch.sigmoid(torch.addmm(a_z, torch.tanh(h), W_hz.t()))
        r = torch.sigmoid(torch.addmm(a_r, h, W_hr.t()))
        return (lerp(h, torch.tanh(torch.addmm(a_h, r * h, W_hh.t())), z),)


def _as_many(cell: Cell, inputs: int, units: int) -> None:
    if inputs != units:
        raise ValueError(
            f"{type(cell).__name__} adds its inputs to its units: it needs as many, not {inputs} for {units}"
        )


@torch.no_grad()
def draw(
    parameter: Tensor,
    units: int,
    generator: torch.Generator,
    init: Init,
    init_range: float,
    *,
    recurrent: bool = False,
) -> None:
    """Initial values of one tensor of a layer of so many units.

    uniform: everything, biases too, within init_range (Zaremba et al. 2014). uniform_fan_in: weights within
    1 / sqrt(units), as in torch's recurrent modules; orthogonal: the same, but each block of a recurrent matrix a
    random rotation (Saxe et al. 2014). In these two the biases are 0.
    """
    fresh = torch.empty(parameter.shape, device=parameter.device)
    if init == "uniform":
        fresh.uniform_(-init_range, init_range, generator=generator)
    elif parameter.ndim == 1:
        fresh.zero_()
    elif init == "orthogonal" and recurrent:
        for block in fresh.split(units):
            nn.init.orthogonal_(block, generator=generator)
    else:
        fresh.uniform_(-1 / math.sqrt(units), 1 / math.sqrt(units), generator=generator)
    parameter.copy_(fresh)


def lerp(start: Tensor, end: Tensor, share: Tensor) -> Tensor:
    """(1 - share) * start + share * end. In bfloat16 the products are, but a state stays in float32."""
    dtype = torch.promote_types(start.dtype, end.dtype)
    return torch.lerp(start.to(dtype), end.to(dtype), share.to(dtype))


def library(kernel: Callable[..., Any], x: Tensor, state: State, weights: Sequence[Tensor]) -> tuple[Tensor, State]:
    """`Cell.run` by torch.lstm, torch.gru or torch.rnn_tanh: oneDNN or native code on a CPU, cuDNN on a GPU.

    In bfloat16 it stays in float32 where there are no such kernels: on a CPU that oneDNN has none for, and on a GPU,
    where torch's autocast has cuDNN compute in float16, whatever it is asked for, and nothing here scales the loss.
    """
    hx: Any = [part[None] for part in state] if len(state) > 1 else state[0][None]
    device = x.device.type
    if torch.is_autocast_enabled(device) and (device != "cpu" or not torch.ops.mkldnn._is_mkldnn_bf16_supported()):
        with torch.autocast(device, enabled=False):
            return library(kernel, x.float(), tuple(part.float() for part in state), weights)
    with warnings.catch_warnings():
        # cuDNN wants its weights in one piece of memory and copies them into one, which costs less than a step does.
        warnings.filterwarnings("ignore", message="RNN module weights are not part of single contiguous")
        # Biases, one layer, no dropout, to be trained, one direction, steps first.
        y, *last = kernel(x, hx, list(weights), True, 1, 0.0, True, False, False)
    return y, tuple(part[0] for part in last)
