"""Strings that follow rules, by character.

    arithmetic    3e36d9-h1h39f94eeh43keg3c=-13991064.
                  Two numbers of up to 8 digits, the first perhaps negative, and behind the "=" their sum or difference;
                  between the characters of the question, letters that mean nothing.
    xml           <etdomp><pegshmnaj></pegshmnaj></etdomp>
                  Tags of 2 to 10 letters. With probability 1/2, and from some number of tags on always, the tag that
                  was opened last is closed, or the string ends if none is open; else another one is opened.
    increments    097 098 099 100.
                  Numbers that count up: behind the first, each character follows from those before. One that is
                  mistaken is a place to go on wrongly from.

Papers: jozefowicz2015, section 3.5, for the first two (from memory, and as notes on it quote it). How many letters
are between two characters is not said there; here it is geometric, 1 on average unless declared otherwise, as in its
example. There a string of xml may be empty; here the first tag is always opened. The third is ours, for scheduled
sampling (bengio2015).
"""

from __future__ import annotations

import string
from collections.abc import Callable, Sequence
from itertools import chain, repeat

import numpy as np

from dlpipe.datasets.draws import Draws
from dlpipe.datasets.sequences import IGNORE_INDEX, Sequences

LETTERS, DIGITS = string.ascii_lowercase, string.digits
END = "."
ARITHMETIC = tuple(f"{DIGITS}{LETTERS}+-={END}")
XML = tuple(f"{LETTERS}</>")
INCREMENTS = tuple(f"{DIGITS} {END}")
SHORTEST_TAG, LONGEST_TAG = 2, 10


class Chances:
    """The numbers of `draws` one by one, as rules with choices need them; drawn many at a time, for speed."""

    def __init__(self, draws: Draws) -> None:
        self.uniform = chain.from_iterable(draws.uniform(1024).tolist() for _ in repeat(None))

    def happens(self, probability: float) -> bool:
        return next(self.uniform) < probability

    def below(self, n: int) -> int:
        return int(n * next(self.uniform))

    def letter(self) -> str:
        return LETTERS[self.below(len(LETTERS))]


def arithmetic(chances: Chances, digits: int, distractors: float) -> str:
    """One question and its answer. Behind each character of the question are geometrically many letters: one with
    probability `distractors`, another with the same, and so on."""
    first, second = _number(chances, digits), _number(chances, digits)
    if chances.happens(0.5):
        first = -first
    adds = chances.happens(0.5)
    question = f"{first}{'+' if adds else '-'}{second}"
    noisy = "".join(character + _letters(chances, distractors) for character in question)
    return f"{noisy}={first + second if adds else first - second}{END}"


def _number(chances: Chances, most_digits: int) -> int:
    """As many digits as not, and then any number of so many."""
    digits = 1 + chances.below(most_digits)
    least = 10 ** (digits - 1) if digits > 1 else 0
    return least + chances.below(10**digits - least)


def _letters(chances: Chances, again: float) -> str:
    letters = ""
    while chances.happens(again):
        letters += chances.letter()
    return letters


def xml(chances: Chances, tags: int) -> str:
    """After `tags` tags, opened or closed, none is opened any more."""
    open_tags: list[str] = []
    written: list[str] = []
    while not written or open_tags or (len(written) < tags and chances.happens(0.5)):
        if open_tags and (len(written) >= tags or chances.happens(0.5)):
            written.append(f"</{open_tags.pop()}>")
        else:
            length = SHORTEST_TAG + chances.below(LONGEST_TAG - SHORTEST_TAG + 1)
            open_tags.append("".join(chances.letter() for _ in range(length)))
            written.append(f"<{open_tags[-1]}>")
    return "".join(written)


def increments(chances: Chances, digits: int, numbers: int) -> str:
    """So many numbers, each one more than the one before, with leading zeros."""
    first = chances.below(10**digits - numbers + 1)
    return " ".join(f"{first + k:0{digits}}" for k in range(numbers)) + END


def encoded(strings: Sequence[str], vocabulary: Sequence[str]) -> Sequences:
    """Of which the next character is asked for; no targets."""
    number_of = {character: token for token, character in enumerate(vocabulary)}
    tokens = np.array([number_of[character] for each in strings for character in each], np.int32)
    return Sequences(tokens, np.array([len(each) for each in strings], np.int64))


def asked_from(strings: Sequence[str], vocabulary: Sequence[str], start: Callable[[str], int]) -> Sequences:
    """With the next character as target at each step, from the step that `start` gives of a string; -1 before, and at
    the last character."""
    sequences = encoded(strings, vocabulary)
    targets = np.roll(sequences.inputs, -1).astype(np.int64)
    end = 0
    for each in strings:
        targets[end : end + start(each)] = IGNORE_INDEX
        end += len(each)
        targets[end - 1] = IGNORE_INDEX
    return Sequences(sequences.inputs, sequences.lengths, targets)
