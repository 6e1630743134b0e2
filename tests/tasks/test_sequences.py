"""Tasks of sequences: reductions by hand, a uniform model, and padding that changes nothing."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from dlpipe.models.recurrent import Recurrent
from dlpipe.runtime.data import SequenceSplit
from dlpipe.runtime.streams import stream
from dlpipe.tasks.language_model import LanguageModel
from dlpipe.tasks.sequences import NextFrame, SequenceRegression, Tagging

VOCABULARY, FEATURES, CLASSES = 7, 3, 4
GENERATOR = torch.Generator()
"""Of no use: the networks here have no dropout."""


class Says(nn.Module):
    """A model whose outputs at every step are its only parameter, whatever it reads; it counts the steps."""

    def __init__(self, outputs: list[float]) -> None:
        super().__init__()
        self.outputs = nn.Parameter(torch.tensor(outputs))

    def forward(self, inputs: Tensor, generator: Any = None, *, state: Any = None, lengths: Any = None) -> Any:
        steps = torch.tensor([inputs.shape[1]]) + (0 if state is None else state[0])
        return self.outputs.expand(*inputs.shape[:2], -1).clone(), (steps,)


def network(inputs: int, outputs: int, *, tokens: bool, **fields: Any) -> Recurrent:
    model = Recurrent(inputs, outputs, tokens=tokens, units=[5], **fields)
    model.initialise(stream(0, "network"))
    return model


def corpus(n: int) -> SequenceSplit:
    return SequenceSplit(torch.randint(VOCABULARY, (n,), generator=stream(0, "corpus")), torch.tensor([n]))


LENGTHS = torch.tensor([3, 6, 1, 4])


def frames() -> SequenceSplit:
    notes = torch.rand(int(LENGTHS.sum()), FEATURES, generator=stream(0, "frames")) < 0.4
    return SequenceSplit(notes.float(), LENGTHS)


def tagged() -> SequenceSplit:
    """Every third step has no tag."""
    tags = torch.randint(CLASSES, (int(LENGTHS.sum()),), generator=stream(0, "tags"))
    tags[::3] = -1
    return SequenceSplit(frames().inputs, LENGTHS, tags)


def one_by_one(split: SequenceSplit) -> list[Tensor]:
    """The inputs of each sequence [1, T, features]."""
    return [part[None] for part in split.inputs.split(LENGTHS.tolist())]


def gradients(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


# Language models


def test_the_loss_is_summed_over_time_and_averaged_over_the_batch() -> None:
    """By hand: p = softmax(0, log 3) = (1/4, 3/4); of 2 columns of 3 steps, 2 targets are 0 and 4 are 1."""
    tokens, targets = torch.zeros(2, 3, dtype=torch.int64), torch.tensor([[0, 1, 1], [1, 0, 1]])
    gradient: dict[str, Tensor] = {}
    for over_time in ("sum", "mean"):
        model = Says([0.0, math.log(3)])
        loss = LanguageModel(3, over_time).step(model, tokens, targets, GENERATOR, carried=[])["loss"]  # type: ignore[arg-type]
        assert float(loss) == pytest.approx((2 * math.log(4) + 4 * math.log(4 / 3)) / 6)
        gradient[over_time] = gradients(model)["outputs"]
    # d(- log p_y)/d outputs = p - 1_y, of all 6 steps (1/4 * 6 - 2, 3/4 * 6 - 4); over 2 columns, or over 6 steps.
    torch.testing.assert_close(gradient["sum"], torch.tensor([-0.5, 0.5]) / 2)
    torch.testing.assert_close(gradient["mean"], torch.tensor([-0.5, 0.5]) / 6)


def test_the_gradient_ends_where_the_window_begins() -> None:
    """That of the second window is what it is from a state that is given as numbers."""
    model, task, carried = network(VOCABULARY, VOCABULARY, tokens=True), LanguageModel(4), []  # type: ignore[var-annotated]
    now = corpus(9).inputs[None, :-1]
    task.step(model, now[:, :4], now[:, 1:5], GENERATOR, carried=carried)
    assert all(not tensor.requires_grad for tensor in carried)
    state = tuple(tensor.clone() for tensor in carried)
    model.zero_grad()
    task.step(model, now[:, 4:], corpus(9).inputs[None, 5:], GENERATOR, carried=carried)
    ours = gradients(model)
    model.zero_grad()
    logits, _ = model(now[:, 4:], state=state)
    (4 * cross_entropy(logits[0], corpus(9).inputs[5:])).backward()
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(ours[name], gradient)


@pytest.mark.parametrize("columns", [1, 20])
def test_perplexity_of_a_uniform_model_is_the_size_of_the_vocabulary(columns: int) -> None:
    model = Says([0.3] * VOCABULARY)
    measured = LanguageModel(5, columns=columns).validate(model, corpus(1000))
    assert measured["perplexity"] == pytest.approx(VOCABULARY)
    assert measured["loss"] == pytest.approx(math.log(VOCABULARY))
    assert measured["bits_per_token"] == pytest.approx(math.log2(VOCABULARY))


def test_one_column_is_evaluated_as_one_long_sequence() -> None:
    """Of 10,000 tokens, so that it is read in three windows of at most 4,096 steps."""
    model, split = network(VOCABULARY, VOCABULARY, tokens=True), corpus(10_000)
    loss = LanguageModel(5, columns=1).validate(model, split)["loss"]
    with torch.no_grad():
        logits, _ = model(split.inputs[None, :-1])
    assert loss == pytest.approx(float(cross_entropy(logits[0].double(), split.inputs[1:])), rel=1e-6)


@pytest.mark.parametrize("n", [2, 3, 19, 20, 21, 22, 39, 1000])
def test_every_token_but_the_first_is_evaluated_once_whatever_the_columns(n: int) -> None:
    """With a model for which tokens differ: the loss is the mean of their own numbers."""
    logits = [0.0, 1.0, 2.0, -1.0, 0.5, 0.25, -3.0]
    expected = cross_entropy(torch.tensor(logits).expand(n - 1, -1).double(), corpus(n).inputs[1:])
    assert LanguageModel(5).validate(Says(logits), corpus(n))["loss"] == pytest.approx(float(expected), rel=1e-6)


def test_a_hopeless_model_has_infinite_perplexity_and_no_error() -> None:
    assert (
        LanguageModel(5).validate(Says([2000.0, 0.0]), SequenceSplit(torch.tensor([0, 1, 1]), torch.tensor([3])))[
            "perplexity"
        ]
        == math.inf
    )


def test_evaluation_leaves_the_model_in_the_mode_it_was_in() -> None:
    model = network(VOCABULARY, VOCABULARY, tokens=True, dropout=0.5).train()
    first = LanguageModel(5).validate(model, corpus(50))
    assert first == LanguageModel(5).validate(model, corpus(50))  # no dropout
    assert model.training


# Frames


def test_frames_are_predicted_from_those_before_and_padding_changes_nothing() -> None:
    """Against every sequence on its own: nats summed over features, averaged over all frames of all sequences."""
    model, split = network(FEATURES, FEATURES, tokens=False), frames()
    total = torch.zeros((), dtype=torch.float64)
    for x in one_by_one(split):
        before = torch.cat((torch.zeros(1, 1, FEATURES), x[:, :-1]), dim=1)
        outputs, _ = model(before)
        total = total + binary_cross_entropy_with_logits(outputs.double(), x.double(), reduction="sum")
    (total / 4).backward()
    expected = gradients(model)
    assert NextFrame().validate(model, split)["loss"] == pytest.approx(float(total.detach()) / 14, rel=1e-6)
    for over_time, factor in (("sum", 1.0), ("mean", 4 / 14)):
        model.zero_grad()
        loss = NextFrame(over_time).step(model, *split.padded(torch.arange(4)), GENERATOR)["loss"]  # type: ignore[arg-type]
        assert float(loss) == pytest.approx(float(total.detach()) / 14, rel=1e-6)
        for name, gradient in gradients(model).items():
            torch.testing.assert_close(gradient, factor * expected[name], rtol=1e-4, atol=1e-6)


def test_fair_coins_cost_a_bit_a_key() -> None:
    assert NextFrame().validate(Says([0.0] * FEATURES), frames())["loss"] == pytest.approx(FEATURES * math.log(2))


# Tags


@pytest.mark.parametrize("directions", ["one", "both"])
def test_tags_are_asked_for_where_there_is_one_and_padding_changes_nothing(directions: str) -> None:
    model, split = network(FEATURES, CLASSES, tokens=False, directions=directions), tagged()
    assert split.targets is not None
    outputs = torch.cat([model(x)[0][0] for x in one_by_one(split)])
    there = split.targets >= 0
    assert int(there.sum()) == 9
    loss = cross_entropy(outputs[there], split.targets[there])
    error = 100 * float((outputs.argmax(dim=1) != split.targets)[there].double().mean())
    measured = Tagging().validate(model, split)
    assert measured == {"loss": pytest.approx(float(loss.detach()), rel=1e-6), "error": pytest.approx(error)}
    loss.backward()
    expected = gradients(model)
    model.zero_grad()
    given = Tagging().step(model, *split.padded(torch.arange(4)), GENERATOR)["loss"]
    assert float(given) == pytest.approx(float(loss.detach()), rel=1e-6)
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=1e-6)


def test_a_step_that_is_not_asked_for_has_no_gradient() -> None:
    inputs, lengths = torch.zeros(1, 3, FEATURES), torch.tensor([3])
    model, other = Says([0.0, 1.0]), Says([0.0, 1.0])
    Tagging().step(model, inputs, torch.tensor([[1, -1, -1]]), lengths, GENERATOR)
    Tagging().step(other, inputs[:, :1], torch.tensor([[1]]), lengths, GENERATOR)
    torch.testing.assert_close(gradients(model), gradients(other))


# A number at the end


def test_the_output_at_the_last_step_is_compared_and_padding_changes_nothing() -> None:
    model, y = network(FEATURES, 1, tokens=False), torch.tensor([0.5, -1.0, 2.0, 0.0])
    split = SequenceSplit(frames().inputs, LENGTHS, y)
    last = torch.stack([model(x)[0][0, -1, 0] for x in one_by_one(split)])
    mse = (last - y).square().mean()
    assert SequenceRegression().validate(model, split) == {
        "loss": pytest.approx(float(mse.detach()) / 2, rel=1e-6),
        "mse": pytest.approx(float(mse.detach()), rel=1e-6),
    }
    (mse / 2).backward()
    expected = gradients(model)
    model.zero_grad()
    SequenceRegression().step(model, *split.padded(torch.arange(4)), GENERATOR)
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("task", [LanguageModel(5), NextFrame(), Tagging(), SequenceRegression()])
def test_measures_are_those_of_every_split(task: Any) -> None:
    splits = {
        LanguageModel: corpus(50),
        NextFrame: frames(),
        Tagging: tagged(),
        SequenceRegression: SequenceSplit(frames().inputs, LENGTHS, torch.ones(4)),
    }
    split, outputs = splits[type(task)], {LanguageModel: VOCABULARY, NextFrame: FEATURES, Tagging: CLASSES}
    model = Says([0.25] * outputs.get(type(task), 1))
    metrics = task.measure(model, {"train": split, "test": split}).metrics
    of_one = task.validate(model, split)
    assert metrics == {f"{part}_{name}": value for part in ("train", "test") for name, value in of_one.items()}
