"""The cells: each against its equations in numpy, torch's own where it has one, and finite differences."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import expit, softmax
from torch import Tensor, nn

from dlpipe.models.cells import GRU, LSTM, MUT1, MUT2, MUT3, Cell, Elman, Jordan

Array = np.ndarray[Any, Any]
Step = Callable[[Any, Array, list[Array]], list[Array]]
INPUTS, UNITS, BATCH, STEPS = 3, 4, 5, 7


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _elman(f: Callable[[Array], Array]) -> Step:
    def step(w: Any, x: Array, state: list[Array]) -> list[Array]:
        return [f(x @ w.W_x.T + state[0] @ w.W_h.T + w.b)]

    return step


def _jordan(f: Callable[[Array], Array], g: Callable[[Array], Array]) -> Step:
    def step(w: Any, x: Array, state: list[Array]) -> list[Array]:
        h = f(x @ w.W_x.T + g(state[0]) @ w.W_h.T + w.b)
        return [h @ w.W_y.T + w.b_y]

    return step


def _lstm(parts: str = "ifgo", peepholes: bool = False) -> Step:
    """`parts`: the gates in the order of their blocks, with the candidate g."""

    def step(w: Any, x: Array, state: list[Array]) -> list[Array]:
        h, c = state
        block = {part: slice(k * UNITS, (k + 1) * UNITS) for k, part in enumerate(parts)}
        names = {"i": "input", "f": "forget", "o": "output"}

        def total(part: str) -> Array:
            return x @ w.W_x[block[part]].T + h @ w.W_h[block[part]].T + w.b[block[part]]

        def gate(part: str, c: Array) -> Array | float:
            if part not in parts:
                return 1.0
            return expit(total(part) + (c * getattr(w, f"peepholes_{names[part]}") if peepholes else 0.0))

        c_new = gate("f", c) * c + gate("i", c) * np.tanh(total("g"))
        return [gate("o", c_new) * np.tanh(c_new), c_new]

    return step


def _three(matrix: Array) -> tuple[Array, Array, Array]:
    return matrix[:UNITS], matrix[UNITS : 2 * UNITS], matrix[2 * UNITS :]


def _gru(reset_after: bool) -> Step:
    def step(w: Any, x: Array, state: list[Array]) -> list[Array]:
        (h,) = state
        (W_xr, W_xz, W_xn), (W_hr, W_hz, W_hn), (b_r, b_z, b_n) = _three(w.W_x), _three(w.W_h), _three(w.b)
        r = expit(x @ W_xr.T + h @ W_hr.T + b_r)
        z = expit(x @ W_xz.T + h @ W_hz.T + b_z)
        product = r * (h @ W_hn.T + w.b_hn) if reset_after else (r * h) @ W_hn.T
        return [z * h + (1 - z) * np.tanh(x @ W_xn.T + product + b_n)]

    return step


def _mut1(w: Any, x: Array, state: list[Array]) -> list[Array]:
    (h,) = state
    W_xz, W_xr, W_hr, W_hh = w.W_x[:UNITS], w.W_x[UNITS:], w.W_h[:UNITS], w.W_h[UNITS:]
    b_z, b_r, b_h = _three(w.b)
    z = expit(x @ W_xz.T + b_z)
    r = expit(x @ W_xr.T + h @ W_hr.T + b_r)
    return [np.tanh((r * h) @ W_hh.T + np.tanh(x) + b_h) * z + h * (1 - z)]


def _mut2(w: Any, x: Array, state: list[Array]) -> list[Array]:
    (h,) = state
    W_xz, W_xh, (W_hz, W_hr, W_hh), (b_z, b_r, b_h) = w.W_x[:UNITS], w.W_x[UNITS:], _three(w.W_h), _three(w.b)
    z = expit(x @ W_xz.T + h @ W_hz.T + b_z)
    r = expit(x + h @ W_hr.T + b_r)
    return [np.tanh((r * h) @ W_hh.T + x @ W_xh.T + b_h) * z + h * (1 - z)]


def _mut3(w: Any, x: Array, state: list[Array]) -> list[Array]:
    (h,) = state
    (W_xz, W_xr, W_xh), (W_hz, W_hr, W_hh), (b_z, b_r, b_h) = _three(w.W_x), _three(w.W_h), _three(w.b)
    z = expit(x @ W_xz.T + np.tanh(h) @ W_hz.T + b_z)
    r = expit(x @ W_xr.T + h @ W_hr.T + b_r)
    return [np.tanh((r * h) @ W_hh.T + x @ W_xh.T + b_h) * z + h * (1 - z)]


CELLS: dict[str, tuple[Callable[[], Cell], Step]] = {
    "elman-tanh": (lambda: Elman(INPUTS, UNITS), _elman(np.tanh)),
    "elman-sigmoid": (lambda: Elman(INPUTS, UNITS, activation="sigmoid"), _elman(expit)),
    "jordan-softmax": (lambda: Jordan(INPUTS, UNITS, 6), _jordan(np.tanh, lambda a: softmax(a, axis=-1))),
    "jordan-sigmoid": (
        lambda: Jordan(INPUTS, UNITS, 6, activation="sigmoid", feedback="sigmoid"),
        _jordan(expit, expit),
    ),
    "jordan-linear": (lambda: Jordan(INPUTS, UNITS, 2, feedback="linear"), _jordan(np.tanh, lambda a: a)),
    "lstm": (lambda: LSTM(INPUTS, UNITS), _lstm()),
    "lstm-peepholes": (lambda: LSTM(INPUTS, UNITS, peepholes=True), _lstm(peepholes=True)),
    "lstm-i": (lambda: LSTM(INPUTS, UNITS, without="input"), _lstm("fgo")),
    "lstm-f": (lambda: LSTM(INPUTS, UNITS, without="forget"), _lstm("igo")),
    "lstm-o": (lambda: LSTM(INPUTS, UNITS, without="output", peepholes=True), _lstm("ifg", peepholes=True)),
    "gru": (lambda: GRU(INPUTS, UNITS), _gru(False)),
    "gru-after": (lambda: GRU(INPUTS, UNITS, reset_after=True), _gru(True)),
    "mut1": (lambda: MUT1(UNITS, UNITS), _mut1),
    "mut2": (lambda: MUT2(UNITS, UNITS), _mut2),
    "mut3": (lambda: MUT3(INPUTS, UNITS), _mut3),
}


def make(name: str) -> tuple[Cell, Tensor, tuple[Tensor, ...]]:
    """A cell in float64 with weights and biases that are not 0, inputs [T, B, inputs] and a state."""
    cell = CELLS[name][0]().double()
    cell.initialise(generator(1), "uniform", 0.8)
    x = torch.randn(STEPS, BATCH, cell.inputs, generator=generator(2), dtype=torch.float64)
    state = tuple(
        torch.randn(part.shape, generator=generator(3), dtype=torch.float64) for part in cell.empty_state(BATCH)
    )
    return cell, x, state


@pytest.mark.parametrize("name", CELLS)
def test_steps_are_the_equations(name: str) -> None:
    cell, x, state = make(name)

    class Weights:
        """As numpy arrays."""

    for key, parameter in cell.named_parameters():
        setattr(Weights, key.replace(".", "_"), parameter.detach().numpy())
    ours, expected = state, [part.numpy() for part in state]
    outputs, last = cell.scan(x, state)
    for t in range(STEPS):
        ours = cell(x[t], ours)
        expected = CELLS[name][1](Weights, x[t].numpy(), expected)
        for one, other in zip(ours, expected, strict=True):
            np.testing.assert_allclose(one.detach().numpy(), other, rtol=1e-12, atol=1e-13)
        np.testing.assert_allclose(outputs[t].detach().numpy(), expected[0], rtol=1e-12, atol=1e-13)
    for one, other in zip(last, expected, strict=True):
        np.testing.assert_allclose(one.detach().numpy(), other, rtol=1e-12, atol=1e-13)


def results(
    cell: Cell, run: Callable[..., tuple[Tensor, tuple[Tensor, ...]]], x: Tensor, state: Any
) -> dict[str, Tensor]:
    """Outputs, the last state, and the gradient of a mixture of both."""
    x, state = x.clone().requires_grad_(), tuple(part.clone().requires_grad_() for part in state)
    cell.zero_grad()
    outputs, last = run(x, state)
    mixed = [
        (part * torch.randn(part.shape, generator=generator(9), dtype=torch.float64).to(part)).sum()
        for part in (outputs, *last)
    ]
    torch.stack(mixed).sum().backward()  # type: ignore[no-untyped-call]
    found = {"outputs": outputs.detach(), "x": x.grad, **{f"last{k}": part.detach() for k, part in enumerate(last)}}
    found |= {f"state{k}": part.grad for k, part in enumerate(state)}
    return {**found, **{key: parameter.grad for key, parameter in cell.named_parameters()}}  # type: ignore[dict-item]


@pytest.mark.parametrize("name", CELLS)
def test_the_fast_way_is_the_readable_one(name: str) -> None:
    cell, x, state = make(name)
    readable, fast = results(cell, cell.scan, x, state), results(cell, cell.run, x, state)
    for key, expected in readable.items():
        torch.testing.assert_close(
            fast[key], expected, rtol=1e-10, atol=1e-11, msg=lambda text, key=key: f"{key}: {text}"
        )


@pytest.mark.parametrize("name", ["elman-tanh", "lstm", "gru-after"])
def test_the_fast_way_in_float32(name: str) -> None:
    """As training has it: other kernels than float64's."""
    cell, x, state = make(name)
    cell, x, state = cell.float(), x.float(), tuple(part.float() for part in state)
    readable, fast = results(cell, cell.scan, x, state), results(cell, cell.run, x, state)
    for key, expected in readable.items():
        torch.testing.assert_close(fast[key], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", CELLS)
def test_in_bfloat16_it_is_near_float32(name: str) -> None:
    """As `precision: bfloat16` trains it, by either way: outputs, states and gradients."""
    cell, x, state = make(name)
    cell, x, state = cell.float(), x.float(), tuple(part.float() for part in state)
    expected = results(cell, cell.scan, x, state)
    for way in (cell.scan, cell.run):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = results(cell, way, x, state)
        for key, exact in expected.items():
            assert (found[key].float() - exact).norm() < 0.05 * exact.norm() + 1e-6, key


TORCH: dict[str, Callable[[], Any]] = {
    "elman-tanh": lambda: nn.RNN(INPUTS, UNITS),
    "lstm": lambda: nn.LSTM(INPUTS, UNITS),
    "gru-after": lambda: nn.GRU(INPUTS, UNITS),
}


@pytest.mark.parametrize("name", TORCH)
def test_outputs_and_gradients_are_those_of_torch(name: str) -> None:
    cell, x, state = make(name)
    theirs = TORCH[name]().double()
    with torch.no_grad():
        theirs.weight_ih_l0.copy_(cell.W_x)
        theirs.weight_hh_l0.copy_(cell.W_h)
        theirs.bias_ih_l0.copy_(cell.b)
        theirs.bias_hh_l0.zero_()
        if name == "gru-after":
            theirs.bias_hh_l0[-UNITS:] = cell.b_hn

    def run(x: Tensor, state: Any) -> tuple[Tensor, tuple[Tensor, ...]]:
        outputs, last = theirs(x, tuple(part[None] for part in state) if len(state) > 1 else state[0][None])
        return outputs, tuple(part[0] for part in (last if len(state) > 1 else (last,)))

    ours = results(cell, cell.scan, x, state)
    expected = results(theirs, run, x, state)
    names = {"weight_ih_l0": "W_x", "weight_hh_l0": "W_h", "bias_ih_l0": "b"}
    if name == "gru-after":
        torch.testing.assert_close(ours.pop("b_hn"), expected["bias_hh_l0"][-UNITS:])
    del expected["bias_hh_l0"]
    assert {names.get(key, key) for key in expected} == ours.keys()
    for key, value in expected.items():
        torch.testing.assert_close(ours[names.get(key, key)], value, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", CELLS)
def test_gradients_through_time_are_finite_differences(name: str) -> None:
    """Of outputs and last state by every weight, input and number of the first state."""
    cell, x, state = make(name)
    x, state = x[:4, :2].clone(), tuple(part[:2].clone() for part in state)
    names = [key for key, _ in cell.named_parameters()]

    def outputs(x: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
        weights = dict(zip(names, rest[cell.states :], strict=True))
        return torch.func.functional_call(
            _Scan(cell), {f"cell.{k}": w for k, w in weights.items()}, (x, rest[: cell.states])
        )

    given = [x, *state, *(parameter.detach().clone() for parameter in cell.parameters())]
    assert torch.autograd.gradcheck(outputs, [tensor.requires_grad_() for tensor in given], rtol=1e-6, atol=1e-8)


class _Scan(nn.Module):
    """The fast way as a function of the weights."""

    def __init__(self, cell: Cell) -> None:
        super().__init__()
        self.cell = cell

    def forward(self, x: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        outputs, last = self.cell.run(x, state)
        return (outputs, *last)


def test_a_gate_less_is_a_block_less() -> None:
    whole = LSTM(INPUTS, UNITS)
    for gate in ("input", "forget", "output"):
        cell = LSTM(INPUTS, UNITS, without=gate, peepholes=True)  # type: ignore[arg-type]
        assert len(cell.W_x) == len(cell.W_h) == len(cell.b) == len(whole.b) - UNITS
        assert gate not in cell.peepholes
        assert len(cell.peepholes) == 2


@pytest.mark.parametrize("init", ["uniform_fan_in", "uniform", "orthogonal"])
@pytest.mark.parametrize("without", [None, "input", "forget", "output"])
def test_the_forget_gate_starts_open_by_its_bias(without: Any, init: Any) -> None:
    """Wherever its block stands among those that are left."""
    plain, open_ = LSTM(INPUTS, UNITS, without=without), LSTM(INPUTS, UNITS, without=without, forget_bias=1.0)
    plain.initialise(generator(), init)
    open_.initialise(generator(), init)
    gates = [gate for gate in ("input", "forget", "candidate", "output") if gate != without]
    expected = torch.cat([torch.full((UNITS,), float(gate == "forget")) for gate in gates])
    torch.testing.assert_close(open_.b - plain.b, expected)
    assert torch.equal(open_.W_h, plain.W_h)


def test_initial_weights() -> None:
    cell = LSTM(300, 200)
    cell.initialise(generator())
    for weight in (cell.W_x, cell.W_h):
        bound = 1 / math.sqrt(200)
        assert bound * (1 - 20 / weight.numel()) < weight.abs().max().item() <= bound * (1 + 1e-6)
        assert weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.02)
    assert cell.b.abs().max() == 0
    cell.initialise(generator(), "uniform", 0.05)
    for weight in cell.parameters():
        assert 0.05 * (1 - 20 / weight.numel()) < weight.abs().max().item() <= 0.05 * (1 + 1e-6)


@pytest.mark.parametrize("name", CELLS)
def test_orthogonal_blocks_keep_lengths(name: str) -> None:
    cell = CELLS[name][0]()
    cell.initialise(generator(), "orthogonal")
    for block in cell.W_h.split(UNITS):
        rows = block if len(block) <= block.shape[1] else block.T
        torch.testing.assert_close(rows @ rows.T, torch.eye(len(rows)), rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", [MUT1, MUT2])
def test_inputs_that_cannot_be_added_to_the_units_are_refused(kind: Any) -> None:
    with pytest.raises(
        ValueError, match=f"{kind.__name__} adds its inputs to its units: it needs as many, not 3 for 4"
    ):
        kind(3, 4)
