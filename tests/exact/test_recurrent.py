"""The recurrent network: state carried over, both directions, padding, dropout, gradients through time, its spec."""

from __future__ import annotations

import inspect
import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from dlpipe.models.recurrent import Recurrent
from dlpipe.runtime.batches import Stream
from dlpipe.runtime.ranks import ALONE
from dlpipe.spec.recurrent import Recurrent as RecurrentSpec
from dlpipe.tasks.language_model import LanguageModel

TOKENS, OUTPUTS, BATCH, STEPS = 11, 5, 3, 9
LENGTHS = torch.tensor([9, 4, 6])
NETWORKS: dict[str, dict[str, Any]] = {
    "elman": {"cell": "elman", "units": [6, 4]},
    "elman-sigmoid": {"cell": "elman", "units": [6], "activation": "sigmoid"},
    "jordan": {"cell": "jordan", "units": [6]},
    "lstm": {"cell": "lstm", "units": [6, 4], "embedding": 3, "forget_bias": 1.0},
    "lstm-peepholes": {"cell": "lstm", "units": [6], "peepholes": True, "without": "forget"},
    "gru": {"cell": "gru", "units": [6, 6]},
    "gru-after": {"cell": "gru", "units": [6, 5], "reset_after": True},
    "mut1": {"cell": "mut1", "units": [6, 6]},
    "mut2": {"cell": "mut2", "units": [6, 6]},
    "mut3": {"cell": "mut3", "units": [6, 4]},
}
BOTH = {
    name: {
        **fields,
        "directions": "both",
        "units": fields["units"][:1] if name in ("mut1", "mut2") else fields["units"],
    }
    for name, fields in NETWORKS.items()
    if name != "jordan"
}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def make(fields: dict[str, Any], inputs: int = TOKENS, *, tokens: bool = True, outputs: int = OUTPUTS) -> Recurrent:
    model = Recurrent(inputs, outputs, tokens=tokens, **{"init": "uniform", "init_range": 0.6, **fields}).double()
    model.initialise(generator())
    return model


def some_tokens(batch: int = BATCH, steps: int = STEPS) -> Tensor:
    return torch.randint(TOKENS, (batch, steps), generator=generator(1))


def close(ours: Any, expected: Any) -> None:
    torch.testing.assert_close(ours, expected, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_state_carried_over_equals_one_long_sequence(name: str) -> None:
    model, x = make(NETWORKS[name]), some_tokens()
    outputs, last = model(x)
    assert outputs.shape == (BATCH, STEPS, OUTPUTS)
    assert [part.shape for part in last] == [part.shape for part in model.empty_state(BATCH)]
    state, pieces = None, []
    for piece in x.split([4, 1, 4], dim=1):
        y, state = model(piece, state=state)
        pieces.append(y)
    close(torch.cat(pieces, dim=1), outputs)
    close(state, last)
    close(model(x, state=model.empty_state(BATCH))[0], outputs)


@pytest.mark.parametrize("fields", [*NETWORKS.values(), *BOTH.values()], ids=[*NETWORKS, *(f"{k}-both" for k in BOTH)])
def test_padding_changes_nothing(fields: dict[str, Any]) -> None:
    """Neither outputs nor the gradient: each sequence is as if it were alone."""
    model, x = make(fields), some_tokens()
    targets = torch.randint(OUTPUTS, x.shape, generator=generator(2))
    targets[torch.arange(STEPS) >= LENGTHS[:, None]] = -1
    gradients = []
    for padding in (0, 7):
        padded = x.masked_fill(targets == -1, padding)
        model.zero_grad()
        outputs, state = model(padded, lengths=LENGTHS)
        assert state == ()
        cross_entropy(outputs.flatten(0, 1), targets.flatten(), ignore_index=-1, reduction="sum").backward()
        gradients.append([parameter.grad.clone() for parameter in model.parameters()])  # type: ignore[union-attr]
    assert all(torch.equal(one, other) for one, other in zip(*gradients, strict=True))
    model.zero_grad()
    for row, length in enumerate(LENGTHS.tolist()):
        alone, _ = model(x[row : row + 1, :length])
        close(outputs[row, :length], alone[0])
        cross_entropy(alone[0], targets[row, :length], reduction="sum").backward()
    for parameter, expected in zip(model.parameters(), gradients[0], strict=True):
        close(parameter.grad, expected)


@pytest.mark.parametrize("name", BOTH)
@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["whole", "padded"])
def test_a_reversed_sequence_gives_reversed_outputs(name: str, lengths: Tensor | None) -> None:
    """Of the network whose two directions change places, in what the layer above and the output see of them, too."""
    model, mirrored, x = make(BOTH[name]), make(BOTH[name]), some_tokens()
    with torch.no_grad():
        for layer, (forward, backward) in enumerate(mirrored.layers):
            there, here = model.layers[layer]
            forward.load_state_dict(here.state_dict())
            backward.load_state_dict(there.state_dict())
            for cell in (forward, backward) if layer else ():
                cell.W_x.copy_(halves_exchanged(cell.W_x))
        mirrored.output["W_y"].copy_(halves_exchanged(model.output["W_y"]))
    reverse = [torch.arange(STEPS).flip(0) for _ in range(BATCH)]
    if lengths is not None:
        reverse = [torch.cat([torch.arange(n).flip(0), torch.arange(n, STEPS)]) for n in lengths.tolist()]
    turned = torch.stack([row[order] for row, order in zip(x, reverse, strict=True)])
    outputs, (expected, _) = mirrored(turned, lengths=lengths)[0], model(x, lengths=lengths)
    for row, order in enumerate(reverse):
        n = STEPS if lengths is None else int(lengths[row])
        close(outputs[row, :n], expected[row, order[:n]])


def halves_exchanged(matrix: Tensor) -> Tensor:
    left, right = matrix.chunk(2, dim=1)
    return torch.cat([right, left], dim=1)


def test_only_the_backward_direction_sees_what_is_to_come() -> None:
    changed = some_tokens()
    changed[:, -1] = (changed[:, -1] + 1) % TOKENS
    one, both = make(NETWORKS["lstm"]), make(BOTH["lstm"])
    assert torch.equal(one(changed)[0][:, :-1], one(some_tokens())[0][:, :-1])
    assert not torch.isclose(both(changed)[0][:, 0], both(some_tokens())[0][:, 0], rtol=0, atol=1e-9).any()


def test_both_directions_are_those_of_torch() -> None:
    """Two layers of nn.LSTM, with the same weights."""
    model = make({"cell": "lstm", "units": [6, 6], "directions": "both"}, 4, tokens=False)
    theirs = nn.LSTM(4, 6, num_layers=2, bidirectional=True, batch_first=True).double()
    with torch.no_grad():
        for layer, cells in enumerate(model.layers):
            for suffix, cell in zip(("", "_reverse"), cells, strict=True):
                getattr(theirs, f"weight_ih_l{layer}{suffix}").copy_(cell.W_x)
                getattr(theirs, f"weight_hh_l{layer}{suffix}").copy_(cell.W_h)
                getattr(theirs, f"bias_ih_l{layer}{suffix}").copy_(cell.b)
                getattr(theirs, f"bias_hh_l{layer}{suffix}").zero_()
    x = torch.randn(BATCH, STEPS, 4, generator=generator(4), dtype=torch.float64)
    hidden, (h, c) = theirs(x)
    outputs, state = model(x)
    close(outputs, hidden @ model.output["W_y"].T + model.output["b_y"])
    close(torch.stack(state[::2]), h)
    close(torch.stack(state[1::2]), c)


@pytest.mark.parametrize("name", NETWORKS)
def test_truncated_is_full_where_the_window_covers_the_sequence(name: str) -> None:
    """A language model's gradient, window by window as it is trained, against autograd through two whole sequences.
    Windows of three steps carry the state over and lose the gradient of what lies before them."""
    model, tokens = make(NETWORKS[name], outputs=TOKENS), some_tokens(1, 2 * STEPS + 1)[0]

    def in_windows(unroll: int) -> list[Tensor]:
        model.zero_grad()
        stream, carried, losses = Stream(tokens, unroll), [], []  # type: ignore[var-annotated]
        for which in stream.epoch(2, ALONE, generator()):
            batch, _ = stream.take(which)
            loss = LanguageModel(unroll).step(model, *batch, generator(), carried=carried)["loss"]  # type: ignore[arg-type]
            losses.append(len(which[1]) * float(loss))
        assert sum(losses) == pytest.approx(whole.item(), rel=1e-12)
        return [parameter.grad.clone() for parameter in model.parameters()]  # type: ignore[union-attr]

    outputs, _ = model(tokens[:-1].view(2, STEPS))
    whole = STEPS * cross_entropy(outputs.flatten(0, 1), tokens[1:])
    full = torch.autograd.grad(whole, list(model.parameters()))
    for unroll in (STEPS, 2 * STEPS):
        for one, other in zip(in_windows(unroll), full, strict=True):
            close(one, other)
    assert any((one - other).norm() > 1e-3 * other.norm() for one, other in zip(in_windows(3), full, strict=True))


@pytest.mark.parametrize("fields", [*NETWORKS.values(), *BOTH.values()], ids=[*NETWORKS, *(f"{k}-both" for k in BOTH)])
def test_the_gradient_is_a_finite_difference(fields: dict[str, Any]) -> None:
    """Along a random direction of all weights at once, and central: the error goes with the square of the step."""
    model, x = make(fields), some_tokens()
    targets = (x % OUTPUTS).masked_fill(torch.arange(STEPS) >= LENGTHS[:, None], -1)
    direction = [torch.randn(p.shape, generator=generator(5), dtype=p.dtype) for p in model.parameters()]

    def loss() -> Tensor:
        return cross_entropy(model(x, lengths=LENGTHS)[0].flatten(0, 1), targets.flatten(), ignore_index=-1)

    def moved(by: float) -> float:
        with torch.no_grad():
            for parameter, d in zip(model.parameters(), direction, strict=True):
                parameter += by * d
            value = loss().item()
            for parameter, d in zip(model.parameters(), direction, strict=True):
                parameter -= by * d
        return value

    loss().backward()  # type: ignore[no-untyped-call]
    slope = sum((p.grad * d).sum().item() for p, d in zip(model.parameters(), direction, strict=True))  # type: ignore[operator]
    assert (moved(1e-5) - moved(-1e-5)) / 2e-5 == pytest.approx(slope, rel=1e-6)


@pytest.mark.parametrize("fields", [NETWORKS["lstm"], NETWORKS["mut1"], BOTH["gru"]], ids=["lstm", "mut1", "gru-both"])
def test_dropout_is_ours_and_not_on_recurrent_connections(fields: dict[str, Any]) -> None:
    """The whole network by hand, with masks drawn in the same order: the state goes from step to step untouched."""
    share = 0.4
    model, x = make({**fields, "dropout": share}), some_tokens()
    ours, before = generator(3), torch.get_rng_state()

    def drop(h: Tensor) -> Tensor:
        return torch.where(torch.rand(h.shape, generator=ours) >= share, h / (1 - share), 0.0)

    h = drop(torch.stack([model.embedding[step] for step in x.T]))  # type: ignore[index]
    for cells in model.layers:
        sides = [cells[0].scan(h, cells[0].empty_state(BATCH))[0]]
        sides += [cell.scan(h.flip(0), cell.empty_state(BATCH))[0].flip(0) for cell in cells[1:]]
        h = drop(torch.cat(sides, dim=-1))
    expected = h @ model.output["W_y"].T + model.output["b_y"]
    close(model(x, generator(3))[0], expected.transpose(0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.equal(model(x, generator(4))[0], model(x, generator(3))[0])
    with pytest.raises(ValueError, match="dropout in training mode needs a generator"):
        model(x)
    model.eval()
    assert torch.equal(model(x)[0], model(x, generator(3))[0])


def test_a_jordan_network_drops_nothing_of_its_output() -> None:
    model, x = make({**NETWORKS["jordan"], "dropout": 0.9}), some_tokens()
    assert model(x, generator(3))[0].count_nonzero() == BATCH * STEPS * OUTPUTS


def test_inputs_that_are_numbers() -> None:
    x = torch.randn(BATCH, STEPS, 4, generator=generator(4), dtype=torch.float64)
    plain = make(NETWORKS["gru"], 4, tokens=False)
    assert plain.embedding is None
    mapped = make(NETWORKS["mut1"], 4, tokens=False)
    assert mapped.embedding is not None
    assert mapped.embedding.shape == (4, 6)
    assert plain(x)[0].shape == mapped(x)[0].shape == (BATCH, STEPS, OUTPUTS)


def test_a_token_is_its_row_of_the_embedding() -> None:
    """As the same network has it that multiplies one-hot vectors by it."""
    model, x = make(NETWORKS["lstm"]), some_tokens()
    same = make(NETWORKS["lstm"], tokens=False)
    same.load_state_dict(model.state_dict())
    close(same(nn.functional.one_hot(x, TOKENS).double())[0], model(x)[0])


@pytest.mark.parametrize("init", ["uniform_fan_in", "uniform", "orthogonal"])
def test_initialise_is_a_function_of_its_generator(init: str) -> None:
    before = torch.get_rng_state()
    one, other = (Recurrent(TOKENS, OUTPUTS, tokens=True, units=[7, 6], init=init) for _ in range(2))  # type: ignore[arg-type]
    one.initialise(generator(3))
    other.initialise(generator(3))
    assert all(torch.equal(p, q) for p, q in zip(one.parameters(), other.parameters(), strict=True))
    assert all(p.abs().max() > 0 for p in one.parameters() if p.ndim == 2)
    assert torch.equal(torch.get_rng_state(), before)


def test_initial_weights_of_embedding_and_output() -> None:
    model = Recurrent(500, 400, tokens=True, units=[100])
    model.initialise(generator())
    assert model.embedding is not None
    assert model.embedding.std().item() == pytest.approx(1.0, rel=0.02)
    assert model.output["W_y"].abs().max().item() == pytest.approx(1 / math.sqrt(100), rel=1e-3)
    assert model.output["b_y"].abs().max() == 0
    model = Recurrent(500, 400, tokens=True, units=[100], init="uniform", init_range=0.04)
    model.initialise(generator())
    for parameter in model.parameters():
        assert parameter.abs().max().item() == pytest.approx(0.04, rel=0.02)


@pytest.mark.parametrize("name", NETWORKS)
def test_top_is_the_output_layer(name: str) -> None:
    model = make(NETWORKS[name])
    weight, bias = model.top()
    with torch.no_grad():
        weight.zero_()
        bias.copy_(torch.arange(OUTPUTS))
    assert torch.equal(model(some_tokens())[0], torch.arange(OUTPUTS).double().expand(BATCH, STEPS, OUTPUTS))


def test_defaults_are_those_of_the_spec() -> None:
    defaults = {n: p.default for n, p in inspect.signature(Recurrent).parameters.items() if p.kind is p.KEYWORD_ONLY}
    expected = RecurrentSpec(units=(1,)).arguments()
    del defaults["units"], defaults["tokens"], expected["units"]
    assert defaults == expected


@pytest.mark.parametrize("fields", [*NETWORKS.values(), *BOTH.values()], ids=[*NETWORKS, *(f"{k}-both" for k in BOTH)])
def test_the_spec_counts_the_weights(fields: dict[str, Any]) -> None:
    """Biases, peepholes and the smaller matrices of a cell aside: it is for the size of jobs."""
    fields = {**fields, "units": [16 * width for width in fields["units"]]}
    model = Recurrent(1000, 30, tokens=True, **fields)
    counted = RecurrentSpec.model_validate({"kind": "recurrent", **fields}).parameters(1000, 30)
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(counted, rel=0.12)


def test_the_spec_counts_the_products_of_a_step() -> None:
    spec = RecurrentSpec(units=(200, 200))
    assert spec.multiplications(10_000, 10_000) == 2 * 4 * 200 * 400 + 200 * 10_000
    assert RecurrentSpec(units=(50,), cell="gru").multiplications(2, 1) == 3 * 50 * 52 + 50
    assert RecurrentSpec(units=(50,), cell="elman", directions="both").multiplications(2, 1) == 2 * 50 * 52 + 100


@pytest.mark.parametrize(
    ("fields", "slug"),
    [
        ({"units": [200, 200]}, "lstm200x2"),
        ({"units": [100, 50], "directions": "both"}, "bilstm100-50"),
        ({"units": [128], "cell": "gru"}, "gru128"),
    ],
)
def test_slugs(fields: dict[str, Any], slug: str) -> None:
    assert RecurrentSpec.model_validate({"kind": "recurrent", **fields}).slug == slug


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"units": []}, "at least 1"),
        ({"units": [4], "cell": "gru", "forget_bias": 1.0}, "forget_bias is of lstm, the cell is gru"),
        ({"units": [4], "init_range": 0.05}, "init_range is of init uniform, and init is uniform_fan_in"),
        ({"units": [4], "without": "forget", "forget_bias": 1.0}, "without its forget gate has no bias of it"),
        ({"units": [4], "activation": "sigmoid"}, "activation is of elman and jordan, the cell is lstm"),
        ({"units": [4], "reset_after": True}, "reset_after is of gru, the cell is lstm"),
        ({"units": [4, 4], "cell": "jordan"}, "it has one layer, in one direction"),
        ({"units": [4], "cell": "jordan", "directions": "both"}, "it has one layer, in one direction"),
        ({"units": [4, 3], "cell": "mut1"}, "embedding and all units must be equal"),
        ({"units": [4], "cell": "mut2", "embedding": 3}, "embedding and all units must be equal"),
        ({"units": [4, 4], "cell": "mut2", "directions": "both"}, "a layer above both directions of another"),
    ],
)
def test_networks_that_cannot_be_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        RecurrentSpec.model_validate({"kind": "recurrent", **fields})


def test_what_comes_next_is_not_asked_of_both_directions() -> None:
    task: Any = SimpleNamespace(slug="language_model", sequential=True)
    assert "which a network in both directions has seen" in (
        RecurrentSpec(units=(4,), directions="both").unfit(task) or ""
    )
    assert RecurrentSpec(units=(4,)).unfit(task) is None


@pytest.mark.parametrize(
    ("slug", "fitting", "advice"),
    [("sequence_regression", "linear", "nothing comes back"), ("next_frame", "sigmoid", "is of classes")],
)
def test_a_jordan_network_feeds_no_softmax_back_of_what_are_no_classes(slug: str, fitting: Any, advice: str) -> None:
    task: Any = SimpleNamespace(slug=slug, sequential=True)
    jordan = RecurrentSpec(units=(4,), cell="jordan")
    assert f"{advice}: feedback {fitting}" in (jordan.unfit(task) or "")
    assert jordan.model_copy(update={"feedback": fitting}).unfit(task) is None
    assert RecurrentSpec(units=(4,)).unfit(task) is None
    assert jordan.unfit(SimpleNamespace(slug="tagging", sequential=True)) is None  # type: ignore[arg-type]


def test_the_softmax_of_one_output_brings_nothing_back() -> None:
    """Why it is refused: what was before the last step changes nothing."""
    x = some_tokens()
    changed = x.clone()
    changed[:, :-1] = (x[:, :-1] + 1) % TOKENS
    for feedback, same in (("softmax", True), ("linear", False)):
        model = make({**NETWORKS["jordan"], "feedback": feedback}, outputs=1)
        assert torch.equal(model(x)[0][:, -1], model(changed)[0][:, -1]) == same
