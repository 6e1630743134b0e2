"""Which examples go where: a pure function of the labels, the sizes and the `split_seed`.

Every class is shuffled by itself. Held-out examples (test, where the source has no test part, then valid) come from the
back of the classes, each class in proportion to its size, as in the source. Training examples come from the front, in
rounds of one example a class, so that any prefix has nearly as many of each class: with 100 labelled digits, 10 each.
Hence another `train` leaves valid and test as they are, another `valid` leaves the first training examples as they are,
and a smaller training set is always a prefix of a larger one.

Randomness: 64-bit words of numpy's Philox counter generator, keyed by the `split_seed` through a SeedSequence, as sort
keys; both streams are fixed for all versions of numpy, unlike those of `Generator.permutation`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dlpipe.datasets.sources import DataError

TRAINING_PART, TEST_PART = 0, 1


@dataclass(frozen=True)
class Order:
    """Two orders of the same positions, [N]: prefixes of `held_out` are proportional, those of `in_turn` balanced."""

    held_out: np.ndarray
    in_turn: np.ndarray


def order(targets: np.ndarray, split_seed: int, part: int) -> Order:
    """The orders of a part of a source, TRAINING_PART or TEST_PART, whose labels are `targets` [N]."""
    bits = np.random.Philox(np.random.SeedSequence(split_seed, spawn_key=(part,)))
    shuffled, within_round = bits.random_raw(len(targets)), bits.random_raw(len(targets))
    rank = np.empty(len(targets), np.int64)  # an example's place in its class
    from_back = np.empty(len(targets), np.float64)  # its distance from the class's end, as a part of the class
    for label in np.unique(targets):
        members = np.flatnonzero(targets == label)
        rank[members[np.argsort(shuffled[members], kind="stable")]] = np.arange(len(members))
        from_back[members] = (len(members) - rank[members] - 0.5) / len(members)
    return Order(held_out=np.lexsort((targets, from_back)), in_turn=np.lexsort((within_round, rank)))


def split(
    targets: np.ndarray, split_seed: int, *, train: int | None, valid: int, test: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Positions of the train, valid and test examples in a source's training part with labels `targets` [N].

    `train` None takes all that are left. Raises DataError naming the numbers when there are not enough.
    """
    held_out = valid + test
    wanted = held_out + (1 if train is None else train)
    if wanted > len(targets):
        asked = {"train": train, "valid": valid, "test": test}
        sizes = " + ".join(f"{name} {size:,}" for name, size in asked.items() if size)
        rest = " and at least 1 to train on" if train is None else ""
        raise DataError(f"{sizes}{rest} make {wanted:,} examples; the source's training part has {len(targets):,}")
    orders = order(targets, split_seed, TRAINING_PART)
    free = np.ones(len(targets), bool)
    free[orders.held_out[:held_out]] = False
    rest_in_turn = orders.in_turn[free[orders.in_turn]]
    return rest_in_turn[:train], orders.held_out[test:held_out], orders.held_out[:test]


def choose_test(targets: np.ndarray, split_seed: int, test: int | None) -> np.ndarray:
    """Positions in a source's own test part: all, in its order, or `test` of them in proportion to the classes.

    Raises DataError when it has fewer.
    """
    if test is None:
        return np.arange(len(targets))
    if test > len(targets):
        raise DataError(f"test: {test:,} examples are asked for; the source's test part has {len(targets):,}")
    return order(targets, split_seed, TEST_PART).held_out[:test]
