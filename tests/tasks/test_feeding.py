"""What a model is fed with: schedules by hand, coins by number, and the ends of the scale bit by bit."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from dlpipe.models.recurrent import Recurrent
from dlpipe.runtime.batches import Bucketed
from dlpipe.runtime.checkpoints import Checkpoints
from dlpipe.runtime.data import SequenceSplit
from dlpipe.runtime.jobs import Job
from dlpipe.runtime.loop import from_cleared, train
from dlpipe.runtime.stopping import Interrupted
from dlpipe.runtime.streams import stream
from dlpipe.spec.feeding import AlwaysSampling, Exponential, InverseSigmoid, Linear, TeacherForcing
from dlpipe.spec.training import TrainingSpec
from dlpipe.tasks.continuation import Continuation
from dlpipe.tasks.feeding import continued, drawn, fed
from tests.runtime.test_batches import StopAt

VOCABULARY, PROMPT = 5, 3
CELLS = ["elman", "jordan", "lstm", "gru", "mut1"]


def network(cell: Any = "lstm", **fields: Any) -> Recurrent:
    model = Recurrent(VOCABULARY, VOCABULARY, tokens=True, units=[6], cell=cell, **fields)
    model.initialise(stream(0, "network"))
    return model


def gold(batch: int = 4, steps: int = 9) -> Tensor:
    return torch.randint(VOCABULARY, (batch, steps), generator=stream(0, "gold"))


def generator(number: int = 0) -> torch.Generator:
    return stream(number, "step")


def task(feed: Any) -> Continuation:
    return Continuation(PROMPT, feed.probability())


LENGTHS = torch.tensor([7, 9, 5, 9])


def gradients(model: Recurrent) -> list[Tensor]:
    return [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]


@pytest.mark.parametrize(
    ("feed", "at"),
    [
        (TeacherForcing(), {0: 1.0, 10**6: 1.0}),
        (AlwaysSampling(), {0: 0.0, 10**6: 0.0}),
        (Linear(slope=0.01), {0: 1.0, 25: 0.75, 100: 0.0, 10**6: 0.0}),
        (Linear(slope=0.01, start=0.9, floor=0.2), {0: 0.9, 20: 0.7, 70: 0.2, 1000: 0.2}),
        (Exponential(base=0.99), {0: 1.0, 1: 0.99, 200: 0.99**200, 10**6: 0.0}),
        (InverseSigmoid(k=20.0), {i: 20 / (20 + math.exp(i / 20)) for i in (0, 1, 60, 500)} | {10**6: 0.0}),
        (InverseSigmoid(k=1.0), {0: 0.5}),
    ],
)
def test_schedules_are_those_of_the_paper(feed: Any, at: dict[int, float]) -> None:
    followed = task(feed)
    for step, expected in at.items():
        followed.at(step)
        assert followed.epsilon == pytest.approx(expected, rel=1e-12, abs=1e-300)


def test_the_half_points_that_the_descriptions_tell() -> None:
    for feed, step in ((InverseSigmoid(k=100), 461), (InverseSigmoid(k=1000), 6908), (Exponential(base=0.999), 693)):
        assert feed.probability()(step) == pytest.approx(0.5, abs=0.002)


@pytest.mark.parametrize("cell", CELLS)
def test_with_epsilon_one_a_step_is_bit_identical_to_teacher_forcing(cell: str) -> None:
    """Teacher forcing as any other task does it: one call, then the cross-entropy of what is asked."""
    model, tokens = network(cell), gold()
    logits, _ = model(tokens[:, :-1])
    told = [(n, t) for n, length in enumerate(LENGTHS.tolist()) for t in range(PROMPT, length)]
    places, steps = (torch.tensor(each) for each in zip(*told, strict=True))
    targets = torch.full((4, 8), -1)
    targets[places, steps - 1] = tokens[places, steps]
    expected = cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-1)
    expected.backward()  # type: ignore[no-untyped-call]
    wanted = gradients(model)
    for feed in (TeacherForcing(), Linear(slope=1e-9)):
        model.zero_grad()
        assert torch.equal(task(feed).step(model, tokens, LENGTHS, generator())["loss"], expected.detach())
        assert all(torch.equal(a, b) for a, b in zip(gradients(model), wanted, strict=True))


@pytest.mark.parametrize("cell", CELLS)
def test_with_epsilon_zero_it_is_bit_identical_to_free_running(cell: str) -> None:
    """The model on its own, from a generator of which the coins have been taken before."""
    model, tokens = network(cell), gold()
    rolled = fed(model, tokens, generator(), given=PROMPT, epsilon=0.0)
    own = generator()
    torch.rand(4, 6, generator=own)
    written = continued(model, tokens[:, :PROMPT], 6, 1.0, own)
    assert torch.equal(rolled.tokens, torch.cat((tokens[:, :PROMPT], written), dim=1))
    assert not rolled.gold[:, PROMPT:].any()
    assert rolled.gold[:, :PROMPT].all()


@pytest.mark.parametrize("cell", CELLS)
def test_a_step_in_between_is_that_of_an_update_that_goes_step_by_step(cell: str) -> None:
    """Written out: at each step the token fed is the data's or a draw from the step before, without a gradient."""
    model, tokens, asked = network(cell), gold(), task(Linear(slope=1.0, start=0.5))
    scalars = asked.step(model, tokens, LENGTHS, generator())
    found = gradients(model)
    model.zero_grad()
    random = generator()
    coins = torch.rand(4, 5, generator=random) < 0.5
    token, state, losses, own = tokens[:, 0], None, [], 0
    for t in range(8):
        logits, state = model(token[:, None], state=state)
        there = (t + 1 < LENGTHS) & (t + 1 >= PROMPT)
        losses.append(cross_entropy(logits[there, 0], tokens[there, t + 1], reduction="sum"))
        token = tokens[:, t + 1]
        if PROMPT <= t + 1 < 8:
            token = torch.where(coins[:, t + 1 - PROMPT], token, drawn(logits[:, 0].detach(), 1.0, random))
            own += int((token != tokens[:, t + 1]).sum())
    loss = torch.stack(losses).sum() / (LENGTHS - PROMPT).sum()
    loss.backward()  # type: ignore[no-untyped-call]
    assert own > 0
    torch.testing.assert_close(scalars["loss"], loss.detach())
    for a, b in zip(found, gradients(model), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_draws_are_of_the_network_without_dropout_and_leave_its_mode() -> None:
    model, tokens = network(dropout=0.5), gold()
    model.train()
    first, same = (fed(model, tokens, generator(), given=PROMPT, epsilon=0.3) for _ in range(2))
    assert model.training
    assert torch.equal(first.tokens, same.tokens)
    assert torch.equal(first.tokens, fed(model.eval(), tokens, generator(), given=PROMPT, epsilon=0.3).tokens)


@pytest.mark.parametrize("feed", [Linear(slope=0.001), Exponential(base=0.999), InverseSigmoid(k=120.0)])
def test_the_share_of_gold_tokens_follows_the_schedule(feed: Any) -> None:
    """Within three standard errors of the coins at each of ten updates, and of all together."""
    model, tokens, followed = network("elman"), gold(200, 13), task(feed)
    total, expected, variance = 0, 0.0, 0.0
    for step in range(50, 1000, 100):
        followed.at(step)
        rolled = fed(model, tokens, stream(step, "coins"), given=PROMPT, epsilon=followed.epsilon)
        coins, n = int(rolled.gold[:, PROMPT:].sum()), 200 * 10
        spread = n * followed.epsilon * (1 - followed.epsilon)
        assert abs(coins - n * followed.epsilon) <= 3 * math.sqrt(spread)
        total, expected, variance = total + coins, expected + n * followed.epsilon, variance + spread
    assert abs(total - expected) <= 3 * math.sqrt(variance)


def test_a_coin_is_thrown_for_every_token_not_for_a_sequence() -> None:
    """With fair coins, nearly all sequences of 20 have tokens of both kinds, and nearly all steps."""
    rolled = fed(network("elman"), gold(50, 23), generator(), given=PROMPT, epsilon=0.5)
    share = rolled.gold[:, PROMPT:].float()
    assert ((share.mean(dim=1) > 0) & (share.mean(dim=1) < 1)).all()
    assert ((share.mean(dim=0) > 0) & (share.mean(dim=0) < 1)).all()


class Says(nn.Module):
    """A model that always gives the same logits."""

    def __init__(self, logits: list[float]) -> None:
        super().__init__()
        self.logits = torch.tensor(logits)

    def forward(self, tokens: Tensor, generator: Any = None, *, state: Any = None) -> Any:
        return self.logits.expand(*tokens.shape, -1), ()


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_tokens_are_drawn_from_the_softmax_at_the_temperature(temperature: float) -> None:
    logits, n = [0.0, 1.0, -1.0, 2.0], 20_000
    written = continued(Says(logits), torch.zeros(n // 10, 1, dtype=torch.long), 10, temperature, generator())
    weights = [math.exp(each / temperature) for each in logits]
    for token, weight in enumerate(weights):
        p = weight / sum(weights)
        assert abs(int((written == token).sum()) - n * p) <= 3 * math.sqrt(n * p * (1 - p))


def test_temperature_zero_is_greedy_and_takes_the_first_of_equals() -> None:
    assert drawn(torch.tensor([[1.0, 3.0, 3.0], [5.0, 3.0, 3.0]]), 0.0).tolist() == [1, 0]
    model, prompt = network(), gold()[:, :4]
    written = continued(model, prompt, 12, 0.0)
    assert torch.equal(written, continued(model, prompt, 12, 0.0, generator(5)))
    cold = continued(model.double(), prompt, 12, 1e-6, generator(5))
    assert torch.equal(cold, continued(model, prompt, 12, 0.0))


@pytest.mark.parametrize("cell", CELLS)
def test_what_was_written_is_the_most_likely_given_all_of_it_at_once(cell: str) -> None:
    model, prompt = network(cell), gold()[:, :4]
    written = continued(model, prompt, 12, 0.0)
    logits, _ = model(torch.cat((prompt, written), dim=1))
    assert torch.equal(logits[:, 3:-1].argmax(dim=2), written)


def split() -> SequenceSplit:
    lengths = torch.tensor([7, 9, 5, 9, 6])
    return SequenceSplit(torch.randint(VOCABULARY, (36,), generator=stream(0, "split")), lengths)


@torch.no_grad()
def test_errors_by_hand() -> None:
    model, sequences, metrics = network(), split(), {"nats": 0.0, "error": 0, "free": 0}
    asked = 0
    for n, length in enumerate(sequences.lengths.tolist()):
        tokens = sequences.inputs[int(sequences.starts[n]) :][:length]
        logits, _ = model(tokens[None])
        alone = tokens[:PROMPT].tolist()
        for t in range(PROMPT, length):
            metrics["nats"] -= float(torch.log_softmax(logits[0, t - 1], dim=0)[tokens[t]])
            metrics["error"] += int(logits[0, t - 1].argmax() != tokens[t])
            said, _ = model(torch.tensor([alone]))
            alone.append(int(said[0, -1].argmax()))
            metrics["free"] += int(alone[-1] != tokens[t])
            asked += 1
    found = task(TeacherForcing()).validate(model, sequences)
    assert found["loss"] == pytest.approx(metrics["nats"] / asked, rel=1e-6)
    assert found["error"] == pytest.approx(100 * metrics["error"] / asked)
    assert found["free_running_error"] == pytest.approx(100 * metrics["free"] / asked)
    assert found["error"] != found["free_running_error"]


def job(feed: Any) -> Job:
    model, asked = network(dropout=0.2), task(feed)
    step = from_cleared(model, lambda *batch: asked.step(model, *batch))
    return Job(model, step, dict, Bucketed(split()), stage="stage", phase="phase", seed=0, at=asked.at)


def training() -> TrainingSpec:
    declared = {"duration": {"steps": 8}, "optimizer": {"kind": "sgd", "learning_rate": 0.1}, "batch_size": 3}
    return TrainingSpec.model_validate({**declared, "validate_every": {"steps": 1}})


def trained(feed: Any) -> tuple[list[Any], dict[str, Tensor]]:
    declared = job(feed)
    outcome = train(declared, training())
    return [metrics for _, _, metrics in outcome.validations], declared.module.state_dict()


def test_the_loop_tells_the_task_which_update_comes() -> None:
    history, _ = trained(Linear(slope=0.125))
    assert [metrics["train_epsilon"] for metrics in history] == pytest.approx([1 - i / 8 for i in range(8)])


def test_a_schedule_that_stays_at_an_end_trains_as_that_end() -> None:
    for constant, end in ((Linear(slope=1e-300), TeacherForcing()), (Linear(slope=1.0, start=0.0), AlwaysSampling())):
        (some, found), (other, wanted) = trained(constant), trained(end)
        assert [each["train_loss"] for each in some] == [each["train_loss"] for each in other]
        assert all(torch.equal(found[name], wanted[name]) for name in wanted)


@pytest.mark.parametrize("at", [3, 5])
def test_resumed_it_goes_on_where_the_schedule_was(tmp_path: Path, at: int) -> None:
    feed = InverseSigmoid(k=3.0)
    undisturbed, stopped, resumed = job(feed), job(feed), job(feed)
    expected = train(undisturbed, training())
    with pytest.raises(Interrupted):
        train(stopped, training(), checkpoints=Checkpoints(tmp_path, {}), stopping=StopAt(at))
    saved = Checkpoints(tmp_path, {}).load(resumed.unit)
    outcome = train(resumed, training(), saved=saved)
    assert [tuple(each) for each in outcome.validations] == expected.validations
    wanted = undisturbed.module.state_dict()
    assert all(torch.equal(resumed.module.state_dict()[name], wanted[name]) for name in wanted)
