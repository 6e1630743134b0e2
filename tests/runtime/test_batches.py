"""Batches of sequences: every step once, the state carried from window to window, little padding, and resuming."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from dlpipe.models.recurrent import Recurrent
from dlpipe.runtime.batches import BatchError, Bucketed, Shuffled, Stream
from dlpipe.runtime.checkpoints import Checkpoints
from dlpipe.runtime.data import SequenceSplit
from dlpipe.runtime.jobs import Job
from dlpipe.runtime.loop import from_cleared, train
from dlpipe.runtime.ranks import ALONE, RankError, Ranks
from dlpipe.runtime.stopping import Interrupted, Stopping
from dlpipe.runtime.streams import stream
from dlpipe.spec.training import TrainingSpec
from dlpipe.tasks.language_model import LanguageModel

TOKENS, VOCABULARY = 104, 7
"""In 5 columns of 20 steps, of which 4 windows of 6 are made: the last of 2 steps, and 3 tokens left over."""
COLUMNS, UNROLL = 5, 6


def corpus(n: int = TOKENS) -> Tensor:
    return torch.randint(VOCABULARY, (n,), generator=stream(0, "corpus"))


def order(number: int = 0) -> torch.Generator:
    return stream(number, "order")


def network(**fields: Any) -> Recurrent:
    model = Recurrent(VOCABULARY, VOCABULARY, tokens=True, units=[5, 4], **fields)
    model.initialise(stream(0, "network"))
    return model


def test_windows_cover_every_token_once_and_in_order() -> None:
    tokens, batches = torch.arange(TOKENS), Stream(torch.arange(TOKENS), UNROLL)
    windows = [batches.take(which) for which in batches.epoch(COLUMNS, ALONE, order())]
    assert [batch.weight for batch in windows] == [30, 30, 30, 10]
    assert batches.examples(COLUMNS, ALONE) == 20
    now, later = (torch.cat([batch.tensors[i] for batch in windows], dim=1) for i in (0, 1))
    assert torch.equal(now.flatten(), tokens[:100])
    assert torch.equal(later.flatten(), tokens[1:101])


def test_a_corpus_of_as_many_tokens_as_fit_loses_none() -> None:
    batches = Stream(torch.arange(101), UNROLL)
    windows = [batches.take(which).tensors for which in batches.epoch(COLUMNS, ALONE, order())]
    assert sorted(torch.cat([later.flatten() for _, later in windows]).tolist()) == list(range(1, 101))


def test_too_few_tokens_are_refused() -> None:
    with pytest.raises(BatchError, match="5 tokens cannot be read in 5 columns; lower batch_size"):
        Stream(torch.arange(5), UNROLL).examples(5, ALONE)
    assert Stream(torch.arange(6), UNROLL).examples(5, ALONE) == 5


PAIR = SequenceSplit(torch.ones(6, 1), torch.tensor([2, 4]))


@pytest.mark.parametrize("batches", [Stream(torch.arange(50), 5), Bucketed(PAIR)])
def test_several_ranks_are_refused(batches: Any) -> None:
    with pytest.raises(RankError, match="sequences are not shared out between 2 ranks; train them with --ranks 1"):
        batches.examples(2, Ranks(0, 2))


def test_state_carried_over_windows_equals_one_long_sequence() -> None:
    """In float64, so that a state that is but nearly the same is noticed."""
    model, batches, task = network().double(), Stream(corpus(), UNROLL), LanguageModel(UNROLL)
    carried: list[Tensor] = []
    weighted = 0.0
    for which in batches.epoch(COLUMNS, ALONE, order()):
        (now, later), weight = batches.take(which)
        weighted += weight * float(task.step(model, now, later, order(), carried=carried)["loss"].detach())
    whole = corpus()[:101]
    logits, state = model(whole[:-1].view(COLUMNS, 20))
    loss = cross_entropy(logits.flatten(0, 1), whole[1:]).detach()
    assert weighted / 100 == pytest.approx(float(loss), rel=1e-12)
    assert len(state) == 4  # output and memory of each of two layers
    for ours, one_piece in zip(carried, state, strict=True):
        torch.testing.assert_close(ours, one_piece, rtol=1e-12, atol=1e-14)


LENGTHS = torch.tensor([3, 1, 4, 1, 5, 2, 6, 5, 3, 5, 4])


def sequences(targets: Tensor | None = None) -> SequenceSplit:
    """Of each the numbers from 10 times its position on."""
    steps = [10.0 * i + torch.arange(int(n))[:, None] for i, n in enumerate(LENGTHS)]
    return SequenceSplit(torch.cat(steps), LENGTHS, targets)


def test_every_sequence_is_in_one_batch_of_an_epoch_beside_others_of_its_length() -> None:
    batches = Bucketed(sequences())
    epochs = [[which.tolist() for which in batches.epoch(3, ALONE, order(number))] for number in (0, 1)]
    for epoch in epochs:
        assert sorted(len(which) for which in epoch) == [2, 3, 3, 3]
        assert sorted(i for which in epoch for i in which) == list(range(11))
        lengths = sorted(sorted(LENGTHS[which].tolist()) for which in epoch)
        assert lengths == [[1, 1, 2], [3, 3, 4], [4, 5, 5], [5, 6]]
    assert epochs[0] != epochs[1]


def test_a_batch_is_padded_to_its_longest_sequence() -> None:
    (inputs, lengths), weight = Bucketed(sequences()).take(torch.tensor([3, 0, 5]))
    assert inputs[:, :, 0].tolist() == [[30, 0, 0], [0, 1, 2], [50, 51, 0]]
    assert lengths.tolist() == [1, 3, 2]
    assert weight == 6


def test_targets_of_steps_and_of_sequences() -> None:
    a_step = torch.arange(int(LENGTHS.sum()))
    _, targets, _ = sequences(a_step).padded(torch.tensor([3, 0, 5]))
    assert targets.tolist() == [[8, -1, -1], [0, 1, 2], [14, 15, -1]]
    _, targets, _ = sequences(torch.arange(11)).padded(torch.tensor([3, 0, 5]))
    assert targets.tolist() == [3, 0, 5]
    first = sequences(a_step).first(2)
    assert (first.inputs.shape, first.lengths.tolist()) == ((4, 1), [3, 1])
    assert first.targets is not None
    assert first.targets.tolist() == [0, 1, 2, 3]


def test_chunks_hold_every_sequence_once_and_no_more_steps_than_asked() -> None:
    chunks = list(sequences().chunks(12))
    assert sorted(int(x) for inputs, _ in chunks for x in inputs[:, 0, 0]) == [10 * i for i in range(11)]
    assert all(inputs.shape[0] * inputs.shape[1] <= 12 for inputs, _ in chunks)
    assert [len(inputs) for inputs, _ in sequences().chunks(1)] == [1] * 11  # one at a time where none fits


def test_little_padding_where_lengths_are_as_those_of_sentences() -> None:
    """Lengths as of words in a sentence of the Penn Treebank: a mean of 21, and a long tail (log-normal)."""
    lengths = torch.empty(10_000).log_normal_(2.9, 0.5, generator=order()).round().clamp(1, 80).long()
    split = SequenceSplit(torch.zeros(int(lengths.sum()), 1), lengths)
    assert Bucketed(split).padding(32) <= 0.02
    inputs, _ = Bucketed(split).take(torch.arange(32)).tensors
    assert 1 - float(lengths[:32].sum()) / inputs[..., 0].numel() > 0.4  # what batches in any order would waste


@pytest.mark.mirror
def test_hardly_any_padding_of_the_sentences_of_the_penn_treebank(mirror: Path) -> None:
    lines = (mirror / "ptb" / "ptb.train.txt").read_text().splitlines()
    lengths = torch.tensor([len(line.split()) + 1 for line in lines])  # the end of a sentence is a word
    assert (len(lengths), int(lengths.sum())) == (42_068, 929_589)
    assert Bucketed(SequenceSplit(torch.zeros(int(lengths.sum()), 1), lengths)).padding(32) <= 0.0015


def test_padding_is_counted_by_hand() -> None:
    """Batches of 3 by length: 1 1 2, 3 3 4, 4 5 5, 5 6, padded to 6, 12, 15 and 12 steps, for 39."""
    assert Bucketed(sequences()).padding(3) == pytest.approx(1 - 39 / 45)


def job(carry: bool = True) -> Job:
    model, task = network(dropout=0.2), LanguageModel(UNROLL)
    carried: list[Tensor] = []

    def step(now: Tensor, later: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        if not carry:
            carried.clear()
        return task.step(model, now, later, generator, carried=carried)

    batches = Stream(corpus(), UNROLL)
    return Job(model, from_cleared(model, step), dict, batches, stage="s", phase="p", seed=0, carried=carried)


def spec() -> TrainingSpec:
    declared = {"duration": {"epochs": 3.0}, "optimizer": {"kind": "sgd", "learning_rate": 0.5}, "batch_size": COLUMNS}
    return TrainingSpec.model_validate({**declared, "validate_every": {"steps": 1}})


class StopAt(Stopping):
    """Asks to stop at the boundary before step `at`."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.left = at

    def reason(self, needed: float = 0.0) -> str | None:
        self.left -= 1
        return "SIGTERM" if self.left < 0 else None


@pytest.mark.parametrize("at", [2, 4, 5, 11])
def test_resumed_in_the_middle_of_an_epoch_it_ends_in_the_same_bits(tmp_path: Path, at: int) -> None:
    undisturbed, stopped, resumed = job(), job(), job()
    expected = train(undisturbed, spec())
    with pytest.raises(Interrupted):
        train(stopped, spec(), checkpoints=Checkpoints(tmp_path, {}), stopping=StopAt(at))
    saved = Checkpoints(tmp_path, {}).load(resumed.unit)
    assert saved is not None
    assert saved.values["step"] == at
    outcome = train(resumed, spec(), saved=saved)
    assert [tuple(each) for each in outcome.validations] == expected.validations  # JSON has no tuples
    for name, tensor in undisturbed.module.state_dict().items():
        assert torch.equal(resumed.module.state_dict()[name], tensor), name


def test_every_epoch_begins_without_a_state_and_a_window_with_one() -> None:
    """With and without what is carried: the first window of the first epoch is alike, the second is not."""
    with_state, without = (train(job(carry), spec()).validations for carry in (True, False))
    assert with_state[0] == without[0]
    assert with_state[1] != without[1]
    seen: list[int] = []
    watched = job()

    def step(*batch: Any) -> Any:
        seen.append(len(watched.carried))
        return watched.step(*batch)

    train(Job(**{**vars(watched), "step": step}), spec())
    assert seen == [0, 4, 4, 4] * 3


def test_shuffled_takes_rows_of_all_tensors() -> None:
    x, y = torch.arange(10)[:, None], torch.arange(10) * 2
    batches = Shuffled((x, y))
    taken = [batches.take(which) for which in batches.epoch(4, ALONE, order())]
    assert [batch.weight for batch in taken] == [4, 4, 2]
    for batch in taken:
        inputs, targets = batch.tensors
        assert torch.equal(inputs[:, 0] * 2, targets)
