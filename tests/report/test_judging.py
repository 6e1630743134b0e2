"""Verdicts: every rule of docs/judging.md at its boundary, and what happens when something is missing."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import scipy.stats

from dlpipe.report.judging import Judgement, Results, Row, judge
from dlpipe.spec.claims import Claim

AXES = {"pretraining": ["rbm", "none"], "depth": ["1", "2"]}
ERRORS: dict[tuple[str, str], Sequence[float]] = {
    ("rbm", "1"): [5.0, 5.2, 5.1, 5.3, 5.0],
    ("none", "1"): [7.0, 7.3, 7.0, 7.5, 7.1],
    ("rbm", "2"): [4.0, 4.4, 4.1, 4.2, 4.3],
    ("none", "2"): [9.0, 9.5, 9.0, 9.4, 9.2],
}

VARIANTS = [dict(zip(AXES, key, strict=True)) for key in itertools.product(*AXES.values())]


def results(cells: dict[tuple[str, str], Sequence[float]] = ERRORS, seeds: int = 5, **kwargs: Any) -> Results:
    rows = [
        Row({"pretraining": pretraining, "depth": depth}, seed, "test_error", value)
        for (pretraining, depth), values in cells.items()
        for seed, value in enumerate(values[:seeds])
    ]
    variants = kwargs.get("variants", VARIANTS)
    return Results(AXES, variants, range(seeds), rows)


def claim(**fields: Any) -> Claim:
    return Claim.model_validate({"says": "Pretraining helps.", **fields})


def comparison(**fields: Any) -> Claim:
    return claim(
        **{"compare": {"pretraining": "rbm"}, "with": {"pretraining": "none"}, "where": {"depth": "1"}, **fields}
    )


def gains(values: Sequence[float], **fields: Any) -> Judgement:
    """A comparison whose paired gains are `values` exactly: the sides are 0 and the gains."""
    cells = {("rbm", "1"): [0.0] * len(values), ("none", "1"): values}
    return judge(comparison(**fields), results(cells, len(values)))


def test_comparison_is_paired_and_says_so_in_a_sentence() -> None:
    judgement = judge(comparison(), results())
    (part,) = judgement.parts
    expected = scipy.stats.ttest_rel(ERRORS["none", "1"], ERRORS["rbm", "1"])
    assert part.estimate is not None
    assert part.estimate.mean == pytest.approx(2.06)
    assert part.estimate.low == pytest.approx(expected.confidence_interval(0.95).low)
    assert part.seeds == (0, 1, 2, 3, 4)
    assert (part.ours, part.theirs) == (pytest.approx(5.12), pytest.approx(7.18))
    assert judgement.verdict == "reproduced"
    assert judgement.reason == "2.06 points lower, 95 % interval 1.92 to 2.20, n = 5"


def test_seeds_are_paired_by_number_not_by_order() -> None:
    shuffled = [
        Row({"pretraining": p, "depth": d}, seed, "test_error", values[seed])
        for (p, d), values in ERRORS.items()
        for seed in random.Random(p).sample(range(5), 5)
    ]
    variants = [dict(zip(AXES, key, strict=True)) for key in ERRORS]
    assert (
        judge(comparison(), Results(AXES, variants, range(5), shuffled)).reason == judge(comparison(), results()).reason
    )


@pytest.mark.parametrize(
    ("values", "margin", "verdict"),
    [
        ([1.0, 1.1, 0.9], 0.0, "reproduced"),
        ([1.0, 1.1, 0.9], 0.7, "reproduced"),  # interval 0.752 to 1.248
        ([1.0, 1.1, 0.9], 0.8, "inconclusive"),
        ([1.0, 1.1, 0.9], 1.24, "inconclusive"),
        ([1.0, 1.1, 0.9], 1.25, "not reproduced"),
        ([-1.0, -1.1, -0.9], 0.0, "not reproduced"),
        ([0.0, 0.0, 0.0], 0.0, "not reproduced"),  # no gain at all, with certainty
        ([0.3, 0.3, 0.3], 0.3, "not reproduced"),  # exactly the margin is not above it
        ([0.3, 0.3, 0.3], 0.29, "reproduced"),
        ([-1.0, -1.1, -0.9], -1.25, "reproduced"),  # worse, but by less than is allowed
        ([-1.0, -1.1, -0.9], -1.1, "inconclusive"),
        ([-1.0, -1.1, -0.9], -0.75, "not reproduced"),
        ([-0.3, -0.3, -0.3], -0.3, "not reproduced"),
        ([1.0, 1.1], 0.0, "inconclusive"),
        ([1.0], 0.0, "inconclusive"),
        ([1.0, -1.0, 0.1], 0.0, "inconclusive"),
    ],
)
def test_verdict_of_a_gain(values: Sequence[float], margin: float, verdict: str) -> None:
    assert gains(values, margin=margin).verdict == verdict


def test_a_margin_is_told_in_the_sentence() -> None:
    assert gains([2.0, 2.2, 1.8], margin=1).reason == (
        "2.00 points lower, 95 % interval 1.50 to 2.50, n = 3; the claim asks for more than 1 point"
    )
    assert gains([-0.5, -0.6, -0.4], margin=-1).reason == (
        "0.50 points higher, 95 % interval 0.25 to 0.75, n = 3; the claim allows less than 1 point higher"
    )


def test_rounding_error_decides_nothing() -> None:
    cells = {("rbm", "1"): [3.0] * 3, ("none", "1"): [3.3] * 3}  # 3.3 - 3.0 is 0.2999…98 in binary
    assert judge(comparison(margin=0.3), results(cells, 3)).verdict == "not reproduced"
    assert judge(comparison(margin=0.2999999), results(cells, 3)).verdict == "reproduced"


@pytest.mark.parametrize("n", [1, 2])
def test_fewer_than_three_seeds_are_never_enough(n: int) -> None:
    judgement = gains([5.0] * n)
    assert judgement.verdict == "inconclusive"
    assert judgement.reason.endswith(f"n = {n}; a verdict needs at least 3 seeds")


def test_sentence_names_both_directions_where_the_interval_crosses_zero() -> None:
    assert gains([1.0, -1.0, 0.1]).reason == "0.03 points lower, 95 % interval 2.45 higher to 2.52 lower, n = 3"


def test_sentence_of_a_loss_counts_from_the_smaller_size() -> None:
    assert gains([-1.0, -1.1, -0.9]).reason == "1.00 points higher, 95 % interval 0.75 to 1.25, n = 3"


def test_higher_is_better_for_accuracy_and_where_the_claim_says_so() -> None:
    rows = [Row({"m": m}, s, "test_accuracy", v + s) for m, v in (("a", 90.0), ("b", 80.0)) for s in range(3)]
    table = Results({"m": ["a", "b"]}, [{"m": "a"}, {"m": "b"}], range(3), rows)
    sides = {"compare": {"m": "a"}, "with": {"m": "b"}, "metric": "test_accuracy"}
    assert judge(claim(**sides), table).reason == "10.00 points higher, 95 % interval 10.00 to 10.00, n = 3"
    assert judge(claim(**sides), table).verdict == "reproduced"
    assert judge(claim(**sides, better="lower"), table).verdict == "not reproduced"


def test_for_each_needs_all_levels() -> None:
    both = comparison(where={}, for_each="depth")
    judgement = judge(both, results())
    assert judgement.verdict == "reproduced"
    assert [part.levels for part in judgement.parts] == [{"depth": "1"}, {"depth": "2"}]
    assert judgement.reason.startswith("reproduced at all 2 levels of depth; least at depth 1: 2.06 points lower")

    worse = {**ERRORS, ("rbm", "2"): [12.0, 12.4, 12.1, 12.2, 12.3]}
    assert judge(both, results(worse)).verdict == "not reproduced"
    assert judge(both, results(worse)).reason.startswith(
        "not reproduced at 1 of 2 levels of depth, reproduced at 1; at depth 2: 2.98 points higher"
    )

    unclear = {**ERRORS, ("rbm", "2"): [4.0, 14.4, 4.1, 14.2, 9.3]}
    assert judge(both, results(unclear)).verdict == "inconclusive"
    assert judge(both, results({**unclear, ("rbm", "1"): [12.0, 12.2, 12.1, 12.3, 12.0]})).verdict == "not reproduced"


def test_skipped_combinations_are_left_out_and_half_skipped_ones_are_named() -> None:
    both = comparison(where={}, for_each="depth")
    keep = [{"pretraining": "rbm", "depth": "1"}, {"pretraining": "none", "depth": "1"}]
    assert len(judge(both, results(variants=keep)).parts) == 1
    half = [*keep, {"pretraining": "none", "depth": "2"}]
    judgement = judge(both, results(variants=half))
    assert judgement.verdict == "inconclusive"
    assert judgement.parts[1].reason == "the experiment leaves out pretraining rbm, depth 2"
    nothing = judge(comparison(where={"depth": "2"}), results(variants=keep))
    assert nothing.reason == "the experiment leaves out every variant that the claim speaks of"


def test_an_axis_left_open_is_not_averaged_over() -> None:
    judgement = judge(comparison(where={}), results())
    assert judgement.verdict == "inconclusive"
    assert judgement.reason == "the claim does not fix axis depth: name a level in `where`, or use `for_each`"


def test_an_axis_with_one_level_needs_no_naming() -> None:
    rows = [Row({"m": m, "size": "s"}, s, "test_error", v + s) for m, v in (("a", 1.0), ("b", 2.0)) for s in range(3)]
    table = Results(
        {"m": ["a", "b"], "size": ["s"]}, [{"m": "a", "size": "s"}, {"m": "b", "size": "s"}], range(3), rows
    )
    assert judge(claim(compare={"m": "a"}, **{"with": {"m": "b"}}), table).verdict == "reproduced"


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"where": {"depth": "9"}}, "axis depth has no level 9; it has 1 and 2"),
        ({"where": {"depth": "1", "width": "3"}}, "the experiment has no axis width"),
        ({"for_each": "width"}, "the experiment has no axis width"),
        ({"metric": "bleu"}, "no run has the metric bleu; there are test_error"),
    ],
)
def test_claims_beside_the_experiment_are_explained(fields: dict[str, Any], reason: str) -> None:
    judgement = judge(comparison(**fields), results())
    assert (judgement.verdict, judgement.reason) == ("inconclusive", reason)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda cells: cells.pop(("rbm", "1")), "pretraining rbm, depth 1 has not been run"),
        (lambda cells: cells.update({("rbm", "1"): [5.0, 5.1]}), "pretraining rbm, depth 1 lacks seeds 2, 3, 4"),
        (
            lambda cells: cells.update({("none", "1"): [7.0, math.nan, 7.0, math.inf, 7.1]}),
            "pretraining none, depth 1 has a test error that is not a finite number, seeds 1, 3",
        ),
    ],
)
def test_missing_and_broken_runs_are_named(change: Callable[[dict], Any], reason: str) -> None:
    cells = dict(ERRORS)
    change(cells)
    judgement = judge(comparison(), results(cells))
    assert (judgement.verdict, judgement.reason) == ("inconclusive", reason)


def test_growth_is_the_paired_difference_of_two_gains() -> None:
    grows = comparison(where={}, grows={"axis": "depth", "from": "1", "to": "2"})
    judgement = judge(grows, results())
    deep = [b - a for a, b in zip(ERRORS["rbm", "2"], ERRORS["none", "2"], strict=True)]
    shallow = [b - a for a, b in zip(ERRORS["rbm", "1"], ERRORS["none", "1"], strict=True)]
    expected = scipy.stats.ttest_rel(deep, shallow)
    part = judgement.parts[0]
    assert part.estimate is not None
    assert part.estimate.low == pytest.approx(expected.confidence_interval(0.95).low)
    assert part.estimate.high == pytest.approx(expected.confidence_interval(0.95).high)
    assert judgement.verdict == "reproduced"
    assert judgement.reason.startswith("the gain is 2.96 points larger, 95 % interval ")
    back = comparison(where={}, grows={"axis": "depth", "from": "2", "to": "1"})
    assert judge(back, results()).verdict == "not reproduced"


def two_metrics(ours: Sequence[float], theirs: Sequence[float], **fields: Any) -> Judgement:
    """Of the runs at `rbm` and depth 1; those at `none` have neither metric's true value."""
    rows = [
        Row({"pretraining": level, "depth": "1"}, seed, metric, number + shift)
        for level, shift in (("rbm", 0.0), ("none", 100.0))
        for metric, numbers in (("test_error", ours), ("baseline_error", theirs))
        for seed, number in enumerate(numbers)
    ]
    variants = [{"pretraining": level, "depth": "1"} for level in AXES["pretraining"]]
    table = Results({**AXES, "depth": ["1"]}, variants, range(len(ours)), rows)
    return judge(claim(**{"where": {"pretraining": "rbm"}, "better_than": "baseline_error", **fields}), table)


def test_two_metrics_of_the_same_runs_are_compared_seed_by_seed() -> None:
    ours, theirs = [5.0, 5.2, 5.1], [7.0, 7.3, 7.0]
    judgement = two_metrics(ours, theirs)
    expected = scipy.stats.ttest_rel(theirs, ours)
    part = judgement.parts[0]
    assert part.estimate is not None
    assert part.estimate.low == pytest.approx(expected.confidence_interval(0.95).low)
    assert (part.ours, part.theirs) == (pytest.approx(5.1), pytest.approx(7.1))
    assert judgement.verdict == "reproduced"
    assert judgement.reason == "2.00 points lower, 95 % interval 1.75 to 2.25, n = 3"
    assert (judgement.to_json()["kind"], judgement.to_json()["better_than"]) == ("comparison", "baseline_error")


def test_a_metric_that_is_not_better_than_the_other() -> None:
    theirs = [6.0] * 3  # a baseline without randomness
    assert two_metrics([5.0, 5.2, 5.1], theirs).verdict == "reproduced"
    assert two_metrics([5.0, 5.2, 5.1], theirs, margin=1.0).verdict == "inconclusive"
    assert two_metrics([5.0, 7.2, 6.1], theirs).verdict == "inconclusive"
    assert two_metrics([7.0, 7.2, 7.1], theirs).verdict == "not reproduced"
    assert two_metrics([7.0, 7.2, 7.1], theirs, better="higher").verdict == "reproduced"
    assert two_metrics([5.0, 5.1], theirs).verdict == "inconclusive"
    missing = two_metrics([5.0, 5.2, 5.1], theirs, better_than="bleu")
    assert missing.reason == "no run has the metric bleu; there are baseline_error and test_error"
    gap = two_metrics([5.0, 5.2, 5.1], theirs[:2])
    assert gap.reason == "pretraining rbm, depth 1 lacks seed 2"


def value(values: Sequence[float], tolerance: float = 0.25, **fields: Any) -> Judgement:
    cells = {("rbm", "1"): values}
    where = {"pretraining": "rbm", "depth": "1"}
    return judge(claim(where=where, value=1.25, tolerance=tolerance, **fields), results(cells, len(values)))


@pytest.mark.parametrize(
    ("values", "verdict"),
    [
        ([1.24, 1.25, 1.26], "reproduced"),
        ([1.5, 1.5, 1.5], "reproduced"),  # at the limit, inclusive
        ([1.51, 1.51, 1.51], "not reproduced"),
        ([0.5, 0.51, 0.49], "reproduced"),  # better than the paper
        ([1.15, 1.25, 1.35], "reproduced"),  # half-width 0.248
        ([1.14, 1.25, 1.36], "inconclusive"),  # half-width 0.273
        ([1.0, 1.25, 1.5], "inconclusive"),  # half-width 0.62
        ([1.45, 1.5, 1.56], "inconclusive"),  # mean 1.503, interval reaches inside
        ([1.25, 1.25], "inconclusive"),
        ([2.0, 2.1, 1.9], "not reproduced"),
    ],
)
def test_verdict_of_a_value(values: Sequence[float], verdict: str) -> None:
    assert value(values).verdict == verdict


def test_value_sentences() -> None:
    text = "1.25 %, 95 % interval 1.23 to 1.27, n = 3; the paper has 1.25 %, tolerance 0.25"
    assert value([1.24, 1.25, 1.26]).reason == text
    assert value([1.0, 1.25, 1.5]).reason.endswith("; the interval's half-width of 0.621 is wider than the tolerance")
    assert value([1.45, 1.5, 1.56]).reason.endswith("; the interval reaches both sides of the tolerance")


def test_a_value_that_should_be_high() -> None:
    assert value([1.0, 1.0, 1.0], better="higher").verdict == "reproduced"
    assert value([0.99, 0.99, 0.99], better="higher").verdict == "not reproduced"
    assert value([9.0, 9.01, 9.02], better="higher").verdict == "reproduced"


def test_a_claim_for_another_scale_says_why() -> None:
    small = comparison(scales=["paper"], because="the effect needs many labels")
    judgement = judge(small, results(), "demo")
    assert judgement.verdict == "not judged"
    assert judgement.reason == "not judged at scale demo, only at paper: the effect needs many labels"
    assert judge(small, results(), "paper").verdict == "reproduced"


def test_json_is_complete_and_finite() -> None:
    import json

    document = judge(comparison(where={}, for_each="depth", margin=0.5), results()).to_json()
    assert json.loads(json.dumps(document, allow_nan=False)) == document
    assert document["verdict"] == "reproduced"
    assert document["unit"] == "%"
    part = document["parts"][0]
    assert part["n"] == 5
    assert part["interval"][0] < part["mean"] < part["interval"][1]


def test_false_verdicts_are_rare() -> None:
    """With no true gain, `reproduced` may come up at most 2.5 times in 100 (one tail of the interval)."""
    draw = random.Random(1)
    trials = 2000
    wrong = sum(gains([draw.gauss(0, 1) for _ in range(5)]).verdict == "reproduced" for _ in range(trials))
    # expected 0.025; standard error sqrt(0.025 * 0.975 / 2000) = 0.0035; four of them
    assert abs(wrong / trials - 0.025) < 0.014


def diverged(*seeds: int) -> list[Row]:
    """Of pretraining none at depth 1, five seeds."""
    levels = {"pretraining": "none", "depth": "1"}
    return [Row(levels, seed, "diverged", float(seed in seeds)) for seed in range(5)]


@pytest.mark.parametrize("seeds", [(1, 3), (0, 1, 2, 3, 4)])
def test_what_diverged_is_said_to_have_diverged_and_not_to_be_missing(seeds: tuple[int, ...]) -> None:
    """It has no error to compare; the others do not stand for it."""
    finished = {seed: value for seed, value in enumerate(ERRORS["none", "1"]) if seed not in seeds}
    rows = [Row({"pretraining": "none", "depth": "1"}, seed, "test_error", value) for seed, value in finished.items()]
    rows += [Row({"pretraining": "rbm", "depth": "1"}, seed, "test_error", 5.0) for seed in range(5)]
    found = judge(comparison(), Results(AXES, VARIANTS, range(5), rows + diverged(*seeds)))
    assert found.verdict == "inconclusive"
    numbers = ", ".join(map(str, seeds))
    assert found.reason == f"the training of pretraining none, depth 1 diverged, seeds {numbers}"


def test_that_it_diverges_can_be_claimed() -> None:
    """1 on one side, 0 on the other, seed by seed."""
    rows = [Row({"pretraining": "rbm", "depth": "1"}, seed, "diverged", 0.0) for seed in range(5)]
    both = Results(AXES, VARIANTS, range(5), rows + diverged(0, 1, 2, 3, 4))
    assert judge(comparison(metric="diverged"), both).verdict == "reproduced"
    assert judge(comparison(metric="diverged", better="higher"), both).verdict == "not reproduced"
