"""What layers, models and optimisers compute on a GPU, against float64 on the CPU. Where they draw, statistics."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from dlpipe.layers import units
from dlpipe.layers.autoencoder import Autoencoder
from dlpipe.layers.rbm import RBM
from dlpipe.measures.gradients import gradient_by_distance
from dlpipe.models.mlp import MLP
from dlpipe.models.recurrent import Recurrent
from dlpipe.runtime.batches import Shuffled
from dlpipe.runtime.jobs import Job
from dlpipe.runtime.loop import from_cleared, train
from dlpipe.runtime.streams import stream
from dlpipe.spec.optimizers import OptimizerSpec
from dlpipe.spec.training import TrainingSpec
from dlpipe.tasks.base import IGNORE_INDEX
from dlpipe.tasks.classification import Classification
from dlpipe.tasks.continuation import Continuation
from dlpipe.tasks.feeding import drawn, fed, teacher_forcing
from dlpipe.tasks.language_model import LanguageModel
from dlpipe.tasks.sequences import NextFrame, SequenceRegression, Tagging
from tests.exact import test_cells as exact_cells
from tests.exact import test_rbm as exact_rbm
from tests.runtime.test_optimizers import SPECS, by_columns, by_hand, by_name, optimizer

pytestmark = pytest.mark.gpu

VISIBLE, HIDDEN, BATCH, CLASSES = 784, 500, 100, 10
FLOAT32 = 5e-6
"""Relative to the length of the exact result: a sum of 784 float32 products is off by at most some 28 roundings of
6e-8, and a few such sums follow one another. On a CPU: up to 8e-7."""
BFLOAT16 = 0.05
"""A bfloat16 rounds by up to 0.004, what is rounded is multiplied a few times, and a ReLU next to 0 goes on or off. On
a CPU: up to 0.008, with ReLUs 0.025."""
DRAWN = 1_000_000


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pixels(examples: int = BATCH) -> Tensor:
    return (torch.rand(examples, VISIBLE, generator=generator(1)) < 0.3).double()


def at_work(module: Any) -> Any:
    """In float64 and far from the symmetry of its initial weights."""
    module.double()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(0.0, 0.1, generator=generator(2 + parameter.dim()))
    return module


def on(device: torch.device, module: Any) -> Any:
    """A float32 copy on the device."""
    return copy.deepcopy(module).float().to(device)


def off(ours: Tensor, exact: Tensor) -> float:
    """The Euclidean distance, relative to the length of the exact result."""
    return float((ours.detach().cpu().double() - exact.detach()).norm() / exact.detach().norm())


def gradients(module: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad for name, p in module.named_parameters() if p.grad is not None}


def compare_gradients(
    exact: nn.Module, step: Callable[[Any, torch.device], None], device: torch.device, precision: torch.dtype | None
) -> None:
    """`step` leaves gradients in the module that it is given; once in float64 on the CPU, once as asked for."""
    ours = on(device, exact)
    step(exact, torch.device("cpu"))
    with torch.autocast(device.type, dtype=precision, enabled=precision is not None):
        step(ours, device)
    for name, gradient in gradients(exact).items():
        assert gradients(ours)[name].dtype == torch.float32
        assert off(gradients(ours)[name], gradient) < (FLOAT32 if precision is None else BFLOAT16), name
    if precision is not None:
        largest = max(off(gradients(ours)[name], gradient) for name, gradient in gradients(exact).items())
        assert largest > 10 * FLOAT32, "bfloat16 is at work"


precisions = pytest.mark.parametrize("precision", [None, torch.bfloat16], ids=["float32", "bfloat16"])


# Layers


@pytest.mark.parametrize("kind", ["bernoulli", "gaussian"])
def test_conditionals_and_free_energy(kind: str, device: torch.device) -> None:
    exact = at_work(RBM(VISIBLE, HIDDEN, visible_units=kind))  # type: ignore[arg-type]
    ours, v = on(device, exact), pixels()
    h = exact.propup(v).detach()
    there_v, there_h = v.float().to(device), h.float().to(device)
    assert off(ours.propup(there_v), h) < FLOAT32
    assert off(ours.propdown(there_h), exact.propdown(h)) < FLOAT32
    assert off(ours.free_energy(there_v), exact.free_energy(v)) < FLOAT32
    for name, value in exact.validate(v).items():
        assert float(ours.validate(there_v)[name]) == pytest.approx(float(value), rel=FLOAT32), name


RBMS = {
    "CD-1": {},
    "CD-3": {"cd_steps": 3},
    "PCD": {"persistent": True, "chains": 70},
    "gaussian": {"visible_units": "gaussian"},
    "linear": {"hidden_units": "gaussian"},
    "rectified": {"hidden_units": "relu"},
    "sparse": {"sparsity_cost": 0.3, "sparsity_target": 0.1},
}


@precisions
@pytest.mark.parametrize("options", RBMS.values(), ids=RBMS.keys())
def test_rbm_gradient_with_means_in_place_of_draws(
    options: dict[str, Any], precision: torch.dtype | None, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(units, "bernoulli", lambda p, _: p)
    for kind in (units.Gaussian, units.Rectified):
        monkeypatch.setattr(kind, "mean_and_sample", lambda self, total, _: (self.mean(total), self.mean(total)))
    exact = at_work(RBM(VISIBLE, HIDDEN, **options))

    def step(layer: Any, place: torch.device) -> None:
        layer.step(pixels().to(place, layer.W.dtype), stream(0, "none are drawn", device=place))

    compare_gradients(exact, step, device, precision)


@precisions
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("reconstruction", ["cross_entropy", "squared"])
def test_autoencoder_gradient_without_corruption(
    tied: bool, reconstruction: str, precision: torch.dtype | None, device: torch.device
) -> None:
    exact = at_work(Autoencoder(VISIBLE, HIDDEN, tied=tied, reconstruction=reconstruction))  # type: ignore[arg-type]

    def step(layer: Any, place: torch.device) -> None:
        layer.step(pixels().to(place, layer.W.dtype), stream(0, "none are drawn", device=place))

    compare_gradients(exact, step, device, precision)


@pytest.mark.parametrize("name", exact_cells.CELLS)
def test_recurrent_cells_by_the_fastest_way(name: str, device: torch.device) -> None:
    """cuDNN where it computes the same; against the readable cell, step by step: outputs, states and all gradients."""
    cell, x, state = exact_cells.make(name)
    exact = exact_cells.results(cell, cell.scan, x, state)
    ours = on(device, cell)
    there = tuple(part.float().to(device) for part in state)
    for key, value in exact_cells.results(ours, ours.run, x.float().to(device), there).items():
        assert off(value, exact[key]) < FLOAT32, key


@pytest.mark.parametrize("name", exact_cells.CELLS)
def test_recurrent_cells_in_bfloat16(name: str, device: torch.device) -> None:
    """By the fastest way; never in float16, which autocast has cuDNN compute in: small gradients vanish there."""
    cell, x, state = exact_cells.make(name)
    exact = exact_cells.results(cell, cell.scan, x, state)
    ours, there = on(device, cell), tuple(part.float().to(device) for part in state)
    with torch.autocast(device.type, dtype=torch.bfloat16):
        found = exact_cells.results(ours, ours.run, x.float().to(device), there)
    for key, value in found.items():
        assert value.dtype in (torch.float32, torch.bfloat16), key
        assert off(value, exact[key]) < BFLOAT16, key


WORDS, KEYS, LENGTHS = 1000, 88, torch.tensor([17, 35, 1, 20, 35])


def words() -> Tensor:
    """[B, T] int64."""
    return torch.randint(WORDS, (len(LENGTHS), 35), generator=generator(4))


def asked_of_a_stream(model: Any, place: torch.device) -> None:
    """Two windows, one behind the other."""
    task, carried, tokens = LanguageModel(17), [], words().to(place)
    for start in (0, 17):
        window, targets = (tokens[:, start + i : start + i + 17] for i in (0, 1))
        task.step(model, window, targets, stream(0, "none are drawn", device=place), carried=carried)


def asked_of_sequences(task: Any, model: Any, place: torch.device, *tensors: Tensor) -> None:
    kind = next(model.parameters()).dtype
    there = (tensor.to(place, kind) if tensor.is_floating_point() else tensor.to(place) for tensor in tensors)
    task.step(model, *there, LENGTHS, stream(0, "none are drawn", device=place))


def music() -> Tensor:
    """[B, T, keys], with zeros behind the ends."""
    beyond = torch.arange(35) >= LENGTHS[:, None]
    return (torch.rand(len(LENGTHS), 35, KEYS, generator=generator(5)) < 0.1).double().masked_fill(beyond[..., None], 0)


def tags() -> Tensor:
    """[B, T] int64: whether a word's number is odd, nothing behind the ends."""
    return (words() % 2).masked_fill(torch.arange(35) >= LENGTHS[:, None], IGNORE_INDEX)


WRITER = {"inputs": WORDS, "outputs": WORDS, "tokens": True, "units": [200, 200]}
READER = {"inputs": WORDS, "outputs": 2, "tokens": True, "units": [200], "directions": "both"}
LISTENER = {"inputs": KEYS, "outputs": KEYS, "tokens": False, "units": [200], "cell": "gru"}
COUNTER = {"inputs": KEYS, "outputs": 1, "tokens": False, "units": [200], "cell": "elman"}

ASKED: dict[str, tuple[dict[str, Any], Callable[[Any, torch.device], None]]] = {
    "language-model": (WRITER, asked_of_a_stream),
    "continuation": (WRITER, lambda *at: asked_of_sequences(Continuation(3, teacher_forcing), *at, words())),
    "tagging": (READER, lambda *at: asked_of_sequences(Tagging(), *at, words(), tags())),
    "next-frame": (LISTENER, lambda *at: asked_of_sequences(NextFrame("mean"), *at, music())),
    "regression": (COUNTER, lambda *at: asked_of_sequences(SequenceRegression(), *at, music(), LENGTHS.double())),
}


@precisions
@pytest.mark.parametrize("name", ASKED)
def test_gradient_of_what_is_asked_of_sequences(name: str, precision: torch.dtype | None, device: torch.device) -> None:
    net, step = ASKED[name]
    compare_gradients(at_work(Recurrent(**net)), step, device, precision)


@pytest.mark.parametrize("cell", ["elman", "lstm", "gru"])
def test_gradient_by_distance(cell: str, device: torch.device) -> None:
    """In float64 on either device. One output leaves the random direction no say."""
    model = at_work(Recurrent(KEYS, 1, tokens=False, cell=cell, units=[100, 50]))
    ours, frames = copy.deepcopy(model).to(device), music()
    there = gradient_by_distance(ours, frames.to(device), stream(0, "direction", device=device))
    norms = gradient_by_distance(model, frames, stream(0, "direction"))
    ratios, expected = (each / each[:, :1] for each in (there.cpu(), norms))
    torch.testing.assert_close(ratios, expected, rtol=1e-9, atol=0.0)


@precisions
@pytest.mark.parametrize("activation", ["sigmoid", "tanh", "relu"])
def test_network_gradient_without_dropout(activation: str, precision: torch.dtype | None, device: torch.device) -> None:
    exact = at_work(MLP(VISIBLE, CLASSES, units=[HIDDEN, 200], activation=activation))  # type: ignore[arg-type]
    targets = torch.arange(BATCH) % CLASSES

    def step(model: Any, place: torch.device) -> None:
        inputs = pixels().to(place, model.biases[0].dtype)
        Classification().step(model, inputs, targets.to(place), stream(0, "none are drawn", device=place))

    compare_gradients(exact, step, device, precision)


@pytest.mark.parametrize(("visible", "hidden"), [(VISIBLE, 15), (15, HIDDEN)], ids=["over-hidden", "over-visible"])
@pytest.mark.parametrize("kind", ["bernoulli", "gaussian"])
def test_log_partition(visible: int, hidden: int, kind: str, device: torch.device) -> None:
    if kind == "gaussian" and hidden > visible:
        pytest.skip("Gaussian visible units cannot be enumerated")
    exact = at_work(RBM(visible, hidden, visible_units=kind))  # type: ignore[arg-type]
    value = float(exact.log_partition())
    assert float(on(device, exact).log_partition()) == pytest.approx(value, rel=FLOAT32)
    assert float(copy.deepcopy(exact).to(device).log_partition()) == pytest.approx(value, rel=1e-12)


# Draws


def deviations(values: Tensor, mean: float, sigma: float) -> float:
    """How many standard deviations the mean of independent numbers is away from where it should be."""
    return abs(float(values.detach().double().mean()) - mean) / (sigma / math.sqrt(values.numel()))


def test_a_stream_is_a_function_of_its_key(device: torch.device) -> None:
    def drawn(*key: Any) -> Tensor:
        return torch.rand(1000, generator=stream(*key, device=device), device=device)

    assert torch.equal(drawn(0, "step", 7), drawn(0, "step", 7))
    for other in ((1, "step", 7), (0, "order", 7), (0, "step", 8)):
        assert not torch.equal(drawn(*other), drawn(0, "step", 7))


def test_draws_have_the_right_mean_and_width(device: torch.device) -> None:
    """Each within five deviations: a correct one misses that once in two million."""
    p = 0.3
    ones = units.bernoulli(torch.full((DRAWN,), p, device=device), stream(0, "a", device=device))
    assert deviations(ones, p, math.sqrt(p * (1 - p))) < 5
    layer = RBM(1, 1, visible_units="gaussian").to(device)
    _, v = layer.sample_v_given_h(torch.zeros(DRAWN, 1, device=device), stream(0, "b", device=device))
    assert deviations(v, 0.0, 1.0) < 5
    assert deviations(v.square(), 1.0, math.sqrt(2)) < 5
    network = MLP(1, 1, units=[DRAWN], dropout=p).to(device)  # zero weights: a sigmoid unit is 0.5
    kept = network.hidden(torch.ones(1, 1, device=device), stream(0, "c", device=device))[0] > 0
    assert deviations(kept, 1 - p, math.sqrt(p * (1 - p))) < 5


@pytest.mark.parametrize(("kind", "mean"), [("masking", 0.35), ("salt_and_pepper", 0.5)])
def test_corruption_has_the_right_mean(kind: str, mean: float, device: torch.device) -> None:
    """Of inputs of 0.5, of which 0.3 are replaced: by 0, or by 0 or 1."""
    layer = Autoencoder(1, 1, corruption=0.3, corruption_kind=kind)  # type: ignore[arg-type]
    inputs = torch.full((DRAWN, 1), 0.5, device=device)
    corrupted, _ = layer.corrupt(inputs, stream(0, kind, device=device))
    assert deviations(corrupted, mean, 0.5) < 5  # no variance is larger
    assert deviations(corrupted != 0.5, 0.3, math.sqrt(0.3 * 0.7)) < 5


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_tokens_are_drawn_with_their_probabilities(temperature: float, device: torch.device) -> None:
    logits = torch.tensor([0.0, 1.0, -1.0, 0.5], device=device)
    tokens = drawn(logits.expand(DRAWN, 4), temperature, stream(0, "tokens", device=device))
    for token, p in enumerate(torch.softmax(logits / temperature, dim=0).tolist()):
        assert deviations(tokens == token, p, math.sqrt(p * (1 - p))) < 5


def test_as_many_tokens_are_fed_from_the_data_as_should_be(device: torch.device) -> None:
    """Of a model that finds all tokens equally likely, behind the first 2 of 50; what it draws is seldom the data's."""
    model, gold = Recurrent(WORDS, WORDS, tokens=True, units=[8]).to(device), torch.zeros(2000, 50).long().to(device)
    tokens, coins = fed(model, gold, stream(0, "fed", device=device), given=2, epsilon=0.3)
    assert tokens.device == gold.device
    assert (coins[:, :2].all(), (tokens == gold)[coins].all()) == (True, True)
    assert deviations(coins[:, 2:], 0.3, math.sqrt(0.3 * 0.7)) < 5
    own = tokens[~coins]
    assert deviations(own, (WORDS - 1) / 2, math.sqrt((WORDS**2 - 1) / 12)) < 5


@pytest.mark.parametrize("k", [1, 5])
def test_the_mean_update_is_the_exact_one(k: int, device: torch.device) -> None:
    """Of contrastive divergence, by the oracle that enumerates its chain; the bound is explained there."""
    layer, v, copies = exact_rbm.small_rbm(scale=1.5), exact_rbm.binary_states(4)[[3, 5, 12]], 100_000
    expected = exact_rbm.expected_update(layer, v, k)
    layer.cd_steps = k
    layer.to(device).step(v.repeat(copies, 1).to(device), stream(0, "cd", k, device=device))
    for name, gradient in gradients(layer).items():
        assert float((gradient.cpu() - expected[name]).abs().max()) < 5 * 0.5 / math.sqrt(3 * copies)


# Optimisers

FACTORS = [1.0, 1.0, 0.5, 0.5, 0.25, 0.0, 1.0]


def parameters() -> dict[str, Tensor]:
    """More than one block of a fused update holds."""
    shapes = {"weight": (VISIBLE, HIDDEN), "bias": (HIDDEN,)}
    return {name: torch.randn(shape, generator=generator(3)) for name, shape in shapes.items()}


def updates(step: int) -> dict[str, Tensor]:
    return {name: torch.randn(tensor.shape, generator=generator(100 + step)) for name, tensor in parameters().items()}


def run(spec: OptimizerSpec, device: torch.device, turned: bool = False, restored_at: int | None = None) -> Any:
    """The parameters after all steps. `turned`: the matrix is stored by columns, as a network's weights are."""
    own = {name: tensor.to(device) for name, tensor in parameters().items()}
    if turned:
        own["weight"] = by_columns(own["weight"])
    made = optimizer(spec, own)
    for step, factor in enumerate(FACTORS):
        if step == restored_at:
            saved = {name: tensor.cpu().clone() for name, tensor in made.state().items()}
            made = optimizer(spec, own)
            made.load_state(saved)
        for name, gradient in updates(step).items():
            own[name].grad = gradient.to(device)
        made.step(factor)
    return own


@pytest.mark.parametrize("turned", [False, True], ids=["by-rows", "by-columns"])
@pytest.mark.parametrize("spec", SPECS, ids=by_name)
def test_update_is_the_textbooks(spec: OptimizerSpec, turned: bool, device: torch.device) -> None:
    ours = run(spec, device, turned)
    for name, start in parameters().items():
        expected = by_hand(spec, start, [updates(step)[name] for step in range(len(FACTORS))], FACTORS)
        # Seven float32 updates against float64 ones: a few roundings of 6e-8 each.
        torch.testing.assert_close(ours[name].cpu().double(), expected, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("spec", SPECS, ids=by_name)
def test_restored_state_goes_on_with_the_same_bits(spec: OptimizerSpec, device: torch.device) -> None:
    whole, restored = run(spec, device), run(spec, device, restored_at=3)
    for name, tensor in whole.items():
        assert torch.equal(restored[name], tensor)


INPUTS = pixels(400)
TARGETS = INPUTS[:, :28].sum(dim=1).sub(4).clamp(0, CLASSES - 1).long()
"""Of how many pixels of the first row are set."""


def network() -> MLP:
    model = MLP(VISIBLE, CLASSES, units=[100])
    model.initialise(generator())
    return model


@torch.no_grad()
def loss_of(model: MLP) -> float:
    return float(cross_entropy(model.cpu().double()(INPUTS), TARGETS))


def trained(spec: OptimizerSpec, precision: str, dtype: torch.dtype, device: torch.device) -> float:
    """The loss, in float64, that 40 steps leave."""
    model = network().to(device, dtype)
    step = from_cleared(model, partial(Classification().step, model))
    data = (INPUTS.to(device, dtype), TARGETS.to(device))
    training = {"duration": {"epochs": 10.0}, "batch_size": 100, "precision": precision, "optimizer": spec.model_dump()}
    train(Job(model, step, dict, Shuffled(data), stage="s", phase="p", seed=0), TrainingSpec.model_validate(training))
    return loss_of(model)


@pytest.mark.parametrize(("precision", "allowed"), [("float32", 2e-6), ("bfloat16", 0.002)])
@pytest.mark.parametrize("spec", SPECS, ids=by_name)
def test_training_comes_to_what_float64_on_the_cpu_comes_to(
    spec: OptimizerSpec, precision: str, allowed: float, device: torch.device
) -> None:
    """On a CPU it comes to it within 2e-7 and 0.0003. At rates at which training is not chaotic."""
    if spec.kind != "sgd":
        spec = spec.model_copy(update={"learning_rate": spec.learning_rate / 10})
    exact = trained(spec, "float32", torch.float64, torch.device("cpu"))
    assert exact < loss_of(network()) - 0.03, "it has learnt"
    assert trained(spec, precision, torch.float32, device) == pytest.approx(exact, rel=allowed)
