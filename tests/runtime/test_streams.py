from __future__ import annotations

import itertools

import torch

from dlpipe.runtime.streams import stream


def draw(*key: object) -> list[float]:
    return torch.rand(4, generator=stream(*key)).tolist()  # type: ignore[arg-type]


def test_same_key_same_numbers_and_they_are_pinned() -> None:
    """The second line pins the key's hash: other numbers here mean that every result changes."""
    assert draw(1, "order", 2) == draw(1, "order", 2)
    generator = stream(0, "order", 0)
    assert torch.randint(0, 1000, (6,), generator=generator).tolist() == [582, 305, 650, 834, 244, 676]


def test_any_other_key_draws_other_numbers() -> None:
    """Keys that look alike when written one after another too: (1, "a", 11) and (11, "a", 1)."""
    keys = [*itertools.product((0, 1, 11), ("a", "ab", "a/1"), (0, 1, 11)), (1, "a"), (1, "a", 1, 1), (-1, "a", 1)]
    drawn = {tuple(draw(*key)) for key in keys}
    assert len(drawn) == len(keys)


def test_one_more_draw_moves_no_other_stream() -> None:
    before = draw(3, "corruption", 5)
    other = stream(3, "corruption", 4)
    torch.rand(1000, generator=other)
    torch.rand(1000)
    assert draw(3, "corruption", 5) == before


def test_the_global_generator_is_left_alone() -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    draw(0, "order", 0)
    assert torch.equal(torch.rand(3), expected)


def test_streams_of_neighbouring_steps_are_uncorrelated() -> None:
    """1,000 streams of 100 draws: the correlation of neighbours is within 4 / sqrt(99,900) of 0."""
    table = torch.stack([torch.rand(100, generator=stream(0, "noise", step)) for step in range(1000)]) - 0.5
    correlation = (table[:-1] * table[1:]).mean() / table.square().mean()
    assert abs(float(correlation)) < 4 / (999 * 100) ** 0.5
