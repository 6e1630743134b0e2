"""Splits: who is where, and what does not move when a size changes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dlpipe.datasets.sources import DataError
from dlpipe.datasets.splits import TEST_PART, TRAINING_PART, choose_test, order, split

EVEN = np.tile(np.arange(10), 50)
"""10 classes of 50."""


def labels() -> st.SearchStrategy[np.ndarray]:
    return st.lists(st.integers(0, 4), min_size=4, max_size=80).map(np.array)


@settings(deadline=None)
@given(targets=labels(), seed=st.integers(0, 2**70), data=st.data())
def test_splits_are_disjoint_and_of_the_sizes_asked_for(targets: np.ndarray, seed: int, data: st.DataObject) -> None:
    test = data.draw(st.integers(0, len(targets) - 2))
    valid = data.draw(st.integers(0, len(targets) - 1 - test))
    train = data.draw(st.none() | st.integers(1, len(targets) - valid - test))
    parts = split(targets, seed, train=train, valid=valid, test=test)
    left = len(targets) - valid - test
    assert [len(part) for part in parts] == [left if train is None else train, valid, test]
    together = np.concatenate(parts)
    assert len(np.unique(together)) == len(together)
    if train is None:
        assert sorted(together) == list(range(len(targets)))


@settings(deadline=None)
@given(targets=labels(), seed=st.integers(0, 2**32))
def test_every_prefix_of_training_examples_is_balanced(targets: np.ndarray, seed: int) -> None:
    """No two classes differ by more than one, until the smallest class is used up."""
    train, _, _ = split(targets, seed, train=None, valid=1)
    classes = np.unique(targets[train])
    smallest = min(np.count_nonzero(targets[train] == label) for label in classes)
    for n in range(smallest * len(classes) + 1):
        counts = [np.count_nonzero(targets[train[:n]] == label) for label in classes]
        assert max(counts) - min(counts) <= 1


@settings(deadline=None)
@given(targets=labels(), seed=st.integers(0, 2**32))
def test_every_prefix_of_held_out_examples_is_in_proportion(targets: np.ndarray, seed: int) -> None:
    """Each of C classes has its share rounded, by 0.5 at most; together they shift a prefix's end by C/2 at most."""
    held_out = order(targets, seed, TRAINING_PART).held_out
    assert sorted(held_out) == list(range(len(targets)))
    classes, sizes = np.unique(targets, return_counts=True)
    for n in range(len(targets) + 1):
        for label, size in zip(classes, sizes, strict=True):
            share = size / len(targets)
            count = np.count_nonzero(targets[held_out[:n]] == label)
            assert abs(count - n * share) <= 0.5 + len(classes) / 2 * share + 1e-9


def test_another_number_of_training_examples_moves_nothing() -> None:
    small, valid, test = split(EVEN, 3, train=20, valid=100, test=150)
    large, valid_again, test_again = split(EVEN, 3, train=None, valid=100, test=150)
    assert np.array_equal(valid, valid_again)
    assert np.array_equal(test, test_again)
    assert np.array_equal(small, large[:20])


def test_another_number_of_validation_examples_leaves_the_first_training_examples() -> None:
    trains = [split(EVEN, 3, train=100, valid=valid)[0] for valid in (0, 50, 200, 400)]
    assert all(np.array_equal(trains[0], train) for train in trains)


def test_validation_sets_are_nested() -> None:
    assert np.array_equal(split(EVEN, 3, train=1, valid=40)[1], split(EVEN, 3, train=None, valid=90)[1][:40])


def test_rounds_do_not_all_go_through_the_classes_in_one_order() -> None:
    train, _, _ = split(EVEN, 0, train=None, valid=0)
    assert len({tuple(EVEN[train[start : start + 10]]) for start in range(0, 500, 10)}) > 40


def test_the_seed_and_nothing_else_decides() -> None:
    first, again, other = (split(EVEN, seed, train=100, valid=100)[0] for seed in (5, 5, 6))
    assert np.array_equal(first, again)
    assert not np.array_equal(np.sort(first), np.sort(other))
    one, two = order(EVEN, 5, TRAINING_PART), order(EVEN, 5, TEST_PART)
    assert not np.array_equal(one.in_turn, two.in_turn)


def test_golden_order() -> None:
    """These positions are part of every published number; if they change, raise `prepare`'s version."""
    train, valid, test = split(np.array([0, 0, 0, 1, 1, 1, 2, 2, 2, 2]), 0, train=None, valid=2, test=2)
    assert [part.tolist() for part in (train, valid, test)] == [[1, 6, 4, 8, 5, 2], [3, 9], [7, 0]]


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"train": 401, "valid": 100}, "train 401 + valid 100 make 501 examples; the source's training part has 500"),
        ({"train": 1000, "valid": 0}, "train 1,000 make 1,000 examples; the source's training part has 500"),
        (
            {"train": None, "valid": 300, "test": 200},
            "valid 300 + test 200 and at least 1 to train on make 501 examples; the source's training part has 500",
        ),
    ],
)
def test_too_many_examples_asked_for(sizes: dict[str, int | None], message: str) -> None:
    with pytest.raises(DataError) as caught:
        split(EVEN, 0, **sizes)  # type: ignore[arg-type]
    assert str(caught.value) == message


def test_the_sources_own_test_part() -> None:
    assert np.array_equal(choose_test(EVEN, 0, None), np.arange(500))
    some = choose_test(EVEN, 0, 100)
    assert np.array_equal(np.bincount(EVEN[some]), [10] * 10)
    assert np.array_equal(some[:50], choose_test(EVEN, 0, 50))
    with pytest.raises(DataError, match=r"test: 501 examples are asked for; the source's test part has 500"):
        choose_test(EVEN, 0, 501)
