"""What reruns and what does not: the plan's digests."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest

from dlpipe.artifacts import Store, read_stage, write_stages
from dlpipe.changes import LONGEST_VALUE, Change, History, Timings, explain
from dlpipe.plan import Plan, seed_blocks
from dlpipe.spec.layers import Autoencoder, Rbm
from dlpipe.spec.optimizers import Sgd
from tests.workspace import EXPERIMENT, ids, plan_of


def edited(old: str, new: str) -> str:
    assert old in EXPERIMENT
    return EXPERIMENT.replace(old, new)


def make_all(plan: Plan, store: Store, *rules: str) -> None:
    """Stands in for the work: an empty artifact a stage."""
    for stage in plan.stages.values():
        if not rules or stage.rule in rules:
            with store.make(stage) as draft:
                (draft.folder / "file").write_text(stage.id)


def test_a_study_of_depths_is_a_trie(tmp_path):
    plan = plan_of(tmp_path)
    assert len(plan.of_rule("pretrain")) == 3  # not 1 + 2 + 3
    assert len(plan.of_rule("finetune")) == len(plan.of_rule("evaluate")) == 3
    chains = [chain for variant in plan.experiments[0].variants for chain in variant.chains]
    assert [len(chain) for chain in chains] == [5, 6, 7]
    assert len(plan.unshared_stages()) == 18


def test_inputs_stand_before_the_stages_that_read_them(tmp_path):
    seen: set[str] = set()
    for stage in plan_of(tmp_path).stages.values():
        assert set(stage.input_ids()) <= seen
        seen.add(stage.id)


@pytest.mark.parametrize(
    "text",
    [
        "# a comment\n" + EXPERIMENT,
        edited("A small study of depth", "Another title"),
        edited("Does a second layer help?", "Does it?"),
        edited(
            "{kind: digits, train: 200, test: 100, labelled: 60}", "{labelled: 60, test: 100, train: 200, kind: digits}"
        ),
        edited("seeds: 3\n", "seeds: 3\nfigures: [{kind: comparison, title: Errors}]\n"),
        edited("seeds: 3\n", "seeds: 3\nresources: {mem_mb: 9000, runtime: 90}\n"),
        edited("Three layers make", "Three layers always make"),
        edited("learning_rate: 0.1, momentum: 0.5}\naxes", "learning_rate: 1e-1, momentum: 0.50}\naxes"),
        edited("{epochs: 3}", "{epochs: 3.0}"),
        edited("labelled: 60}", "labelled: 60, split_seed: 0}"),
    ],
    ids=["comment", "title", "question", "reordered", "figure", "memory", "claim", "number", "float", "default"],
)
def test_nothing_reruns_for(tmp_path, text):
    assert ids(plan_of(tmp_path, text)) == ids(plan_of(tmp_path))


def test_figures_see_axes_and_levels_in_the_order_of_the_file(tmp_path):
    rate = "  rate: {slow: {}, fast: {finetune.optimizer.learning_rate: 0.5}}\n"
    labels = "  labels: {few: {dataset.labelled: 20}, all: {}}\n"
    skip = "skip:\n  - {labels: few, rate: slow}\n"
    text = edited("axes:\n", f"axes:\n{rate}{labels}").replace("seeds: 3\n", f"{skip}seeds: 3\n")
    plan, store = plan_of(tmp_path, text), Store(tmp_path / "data", tmp_path / "results")
    write_stages(store, plan.stages.values())
    (figures,) = plan.of_rule("plot")
    axes_drawn = read_stage(store, figures.id).spec["axes"]
    assert axes_drawn == [["rate", ["slow", "fast"]], ["labels", ["few", "all"]], ["depth", ["1", "2", "3"]]]


def test_swapping_two_values_reruns(tmp_path):
    swapped = edited("learning_rate: 0.1, momentum: 0.5}\naxes", "learning_rate: 0.5, momentum: 0.1}\naxes")
    before, after = plan_of(tmp_path), plan_of(tmp_path, swapped)
    assert ids(after, "pretrain") == ids(before, "pretrain")
    assert not ids(after, "finetune") & ids(before, "finetune")
    assert not ids(after, "evaluate") & ids(before, "evaluate")


def test_a_changed_layer_reruns_itself_and_what_is_above(tmp_path):
    before = plan_of(tmp_path)
    after = plan_of(tmp_path, overrides=("pretrain.2.layer.corruption=0.3",))
    layers = [stage.id for stage in before.of_rule("pretrain")]
    assert [stage.id for stage in after.of_rule("pretrain")][:2] == layers[:2]
    assert ids(after, "pretrain") - set(layers) == {after.of_rule("pretrain")[2].id}
    assert len(ids(after, "finetune") & ids(before, "finetune")) == 2  # depths 1 and 2 stand


def test_a_measure_is_part_of_evaluate_alone(tmp_path):
    binary = "dataset.scaling=binary"
    before = plan_of(tmp_path, overrides=(binary,))
    after = plan_of(tmp_path, overrides=(binary, "measures=[{kind: log_likelihood, chains: 50}]"))
    more = plan_of(tmp_path, overrides=(binary, "measures=[{kind: log_likelihood, chains: 60}]"))
    for one, other in ((before, after), (after, more)):
        assert ids(one, "prepare", "pretrain", "finetune") == ids(other, "prepare", "pretrain", "finetune")
        assert not ids(one, "evaluate") & ids(other, "evaluate")
    for stage in before.of_rule("evaluate"):
        assert set(stage.spec) == {"task", "model", "labelled"}  # as before there were measures
        assert "measure.log_likelihood" not in stage.versions
    assert all(stage.versions["measure.log_likelihood"] == 1 for stage in after.of_rule("evaluate"))


def test_the_number_of_labels_is_no_part_of_a_layer(tmp_path):
    before, after = plan_of(tmp_path), plan_of(tmp_path, overrides=("dataset.labelled=50",))
    assert ids(after, "prepare", "pretrain") == ids(before, "prepare", "pretrain")
    assert not ids(after, "finetune") & ids(before, "finetune")


def test_it_is_part_of_a_layer_that_sees_them_and_of_what_is_above(tmp_path):
    second = ("pretrain.1.layer={kind: supervised}",)
    before, after = (plan_of(tmp_path, overrides=(*second, *more)) for more in ((), ("dataset.labelled=50",)))
    both = {before.stages[stage].name for stage in ids(before, "pretrain") & ids(after, "pretrain")}
    assert both == {"digits-200-rbm12"}
    assert {stage.spec.get("labelled", "unseen") for stage in after.of_rule("pretrain")} == {"unseen", 50}


@pytest.mark.parametrize(
    ("model", "sees"),
    [
        ("{kind: dbm, units: [12]}", None),
        ("{kind: dbn, units: [12], labels: false}", None),
        ("{kind: dbn, units: [12]}", 60),
    ],
)
def test_joint_training_without_labels_sees_all_examples(tmp_path, model, sees):
    text = EXPERIMENT[: EXPERIMENT.index("pretrain:")] + EXPERIMENT[EXPERIMENT.index("finetune:") :]
    text = text[: text.index("axes:")].replace("classification", "generative") + "seeds: 3\n"
    model_line = next(line for line in text.splitlines() if line.startswith("model:"))
    plan = plan_of(tmp_path, text.replace(model_line, f"model: {model}"))
    assert [stage.spec["labelled"] for stage in plan.of_rule("finetune")] == [sees]


@pytest.mark.parametrize(
    ("component", "kept"),
    [(Rbm, {"prepare"}), (Autoencoder, {"prepare", "first layers"}), (Sgd, {"prepare"})],
)
def test_a_raised_version_reruns_what_it_made(tmp_path, monkeypatch, component, kept):
    before = plan_of(tmp_path)
    monkeypatch.setattr(component, "version", component.version + 1)
    after = plan_of(tmp_path)
    same = ids(before) & ids(after)
    assert ids(before, "prepare") <= same
    layers = [stage.id for stage in before.of_rule("pretrain")]
    assert (set(layers[:2]) <= same) == ("first layers" in kept)
    assert layers[2] not in same
    assert before.experiments[0].variants[2].metrics[0] not in same


def test_two_experiments_share_a_prefix_on_disk(tmp_path):
    store = Store(tmp_path / "data", tmp_path / "results")
    make_all(plan_of(tmp_path), store, "fetch", "prepare", "pretrain")
    other = plan_of(tmp_path, edited("duration: {epochs: 3}", "duration: {epochs: 4}"), name="other")
    assert {other.stages[i].rule for i in other.missing(store)} == {"finetune", "evaluate", "plot"}


def test_what_is_below_a_standing_target_is_not_needed(tmp_path):
    store, plan = Store(tmp_path / "data", tmp_path / "results"), plan_of(tmp_path)
    assert plan.missing(store) == set(plan.stages)
    make_all(plan, store, "evaluate", "plot")
    assert plan.missing(store) == set()


def test_seeds_are_trained_in_blocks(tmp_path):
    assert seed_blocks([0, 1, 2, 3, 4], 2) == [(0, 1), (2, 3), (4,)]
    whole = plan_of(tmp_path)
    split = plan_of(tmp_path, overrides=("seeds_per_job=1",))
    assert len(split.of_rule("pretrain")) == 3 * len(whole.of_rule("pretrain"))
    more = plan_of(tmp_path, overrides=("seeds_per_job=1", "seeds=4"))
    assert ids(split) < ids(more)  # one more seed trains that seed alone


def test_a_second_phase_starts_from_the_first(tmp_path):
    phase = "{task: {kind: classification}, duration: {epochs: 1}, optimizer: {kind: sgd, learning_rate: 0.1}}"
    head, rest = EXPERIMENT.split("finetune:\n")
    text = f"{head}finetune: [{phase}, {phase}]\naxes:{rest.split('axes:')[1]}"
    plan = plan_of(tmp_path, text)
    first, second = plan.of_rule("finetune")[:2]
    assert second.inputs["start"] == first.id
    assert second.inputs["layers"] == []
    assert plan.of_rule("evaluate")[0].inputs["phases"] == [first.id, second.id]


def test_from_takes_the_other_experiments_model_by_its_digest(tmp_path):
    source = plan_of(tmp_path)
    text = (
        "title: Transfer\nfrom: {experiment: small, where: {depth: 2}}\nseeds: 3\n"
        "dataset: {kind: digits, train: 200, test: 100, labelled: 30}\nmodel: {kind: mlp, units: [12, 11]}\n"
        "finetune: {task: {kind: classification}, duration: {epochs: 1}, optimizer: {kind: adam, learning_rate: 1}}\n"
    )
    plan = plan_of(tmp_path, text, name="transfer")
    target = next(stage for stage in plan.of_rule("finetune") if "start" in stage.inputs)
    expected = source.experiments[0].variants[1].chains[0][-2]
    assert target.inputs["start"] == expected
    assert set(source.experiments[0].variants[1].chains[0][:-1]) <= set(plan.stages)


def test_resources_of_a_shared_stage_are_the_largest(tmp_path):
    plan = plan_of(
        tmp_path,
        edited("3: {}}", "3: {resources.mem_mb: 9000}}").replace("seeds: 3\n", "seeds: 3\nresources: {mem_mb: 50}\n"),
    )
    first, _, third = plan.of_rule("pretrain")
    assert plan.resources[first.id]["mem_mb"] == plan.resources[third.id]["mem_mb"] == 9000
    assert plan.resources[plan.experiments[0].variants[0].metrics[0]]["mem_mb"] == 50


def test_why_names_the_field_its_values_and_its_place(tmp_path):
    store = Store(tmp_path / "data", tmp_path / "results")
    make_all(plan_of(tmp_path), store)
    changed = EXPERIMENT.replace("{epochs: 3}", "{epochs: 4}").replace("3: {}}", "3: {finetune.batch_size: 10}}")
    plan = plan_of(tmp_path, changed)
    reasons = [explain(plan, s, store, History(store)) for s in plan.of_rule("finetune")]
    assert [str(c) for c in reasons[0].changes] == [
        f"finetune.duration.epochs: 3.0 -> 4.0  ({tmp_path}/config/experiments/small.yaml:12:22)"
    ]
    line, column = 15, changed.splitlines()[14].index("10}}") + 1
    place = f"{tmp_path}/config/experiments/small.yaml:{line}:{column}"
    assert f"finetune.batch_size: 20 -> 10  ({place})" in [str(c) for c in reasons[2].changes]
    assert reasons[0].compared_with is not None
    assert reasons[0].seconds is not None


def test_other_data_are_no_change_of_those_there_are(tmp_path):
    store = Store(tmp_path / "data", tmp_path / "results")
    make_all(plan_of(tmp_path), store)
    fewer = plan_of(tmp_path, edited("train: 200", "train: 150"))
    other = plan_of(tmp_path, edited("kind: digits, train: 200, test: 100", "kind: mnist, train: 200, test: 100"))
    history = History(store)
    assert [c.field for c in explain(fewer, fewer.of_rule("prepare")[0], store, history).changes] == ["dataset.train"]
    for rule in ("fetch", "prepare"):
        assert explain(other, other.of_rule(rule)[0], store, history).compared_with is None


def test_the_time_to_come_goes_by_the_size_of_what_was_made(tmp_path):
    """One pretraining took three times what its size lets one expect: so will others, of any name."""
    before = plan_of(tmp_path).of_rule("pretrain")[0]
    longer = plan_of(tmp_path, edited("{epochs: 2}", "{epochs: 8}")).of_rule("pretrain")[0]
    wider = plan_of(tmp_path, edited("[12", "[1200")).of_rule("pretrain")[0]
    timings = Timings()
    assert timings.seconds(longer) is None
    timings.add(before, {"times": {"seconds": 3 * before.hints["core_seconds"]}})
    assert timings.seconds(before) == 3 * before.hints["core_seconds"]
    assert longer.name == before.name
    assert wider.name != before.name
    for stage in (longer, wider):
        assert stage.hints["core_seconds"] > before.hints["core_seconds"]
        assert timings.seconds(stage) == pytest.approx(3 * stage.hints["core_seconds"])


def test_a_value_too_long_to_read_is_cut(tmp_path):
    assert str(Change("inputs.metrics", list("abc"), ["x" * 500], None)) == (
        f"inputs.metrics: ['a', 'b', 'c'] -> ['{'x' * (LONGEST_VALUE - 2)} ..."
    )


def test_why_compares_with_nothing_when_nothing_was_made(tmp_path):
    store, plan = Store(tmp_path / "data", tmp_path / "results"), plan_of(tmp_path)
    reason = explain(plan, plan.of_rule("pretrain")[1], store, History(store))
    assert (reason.compared_with, reason.changes, reason.seconds) == (None, (), None)
    assert set(reason.inputs) == {plan.of_rule("prepare")[0].id, plan.of_rule("pretrain")[0].id}


def test_every_stage_knows_the_source_of_its_components(tmp_path):
    from dlpipe.provenance import source_digests

    for stage in plan_of(tmp_path).stages.values():
        digests = source_digests(stage.hints["implementations"])
        assert f"stage.{stage.rule}" in digests
        assert "unknown" not in digests.values()


@pytest.mark.parametrize(
    "code",
    [
        "import dlpipe.workflow, dlpipe.plan, dlpipe.changes",
        "import dlpipe.commands.planning, dlpipe.commands.stages, dlpipe.commands.inspecting",
        "import dlpipe.stages.fetch, dlpipe.stages.prepare, dlpipe.stages.plot, dlpipe.stages.report",
        "import dlpipe.datasets.digits, dlpipe.datasets.mnist, dlpipe.datasets.images",
    ],
)
def test_no_torch(code):
    done = subprocess.run([sys.executable, "-c", f"{code}\nimport sys; sys.exit('torch' in sys.modules)"], check=False)
    assert done.returncode == 0


def test_the_digest_of_a_plan_does_not_depend_on_the_process(tmp_path):
    plan = plan_of(tmp_path)
    code = (
        f"from pathlib import Path; from dlpipe.plan import make_plan; from dlpipe.spec.loading import load\n"
        f"print(*make_plan([load(Path({str(tmp_path)!r}) / 'config/experiments/small.yaml')]).stages)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.split() == list(plan.stages)
    assert dataclasses.replace(next(iter(plan.stages.values()))).id == next(iter(plan.stages))


def test_the_store_is_where_it_says(tmp_path: Path):
    assert Store("d", "r").folder("prepare", "x") == Path("d/prepared/x")
    assert Store("d", "r").folder("pretrain", "x") == Path("r/layers/x")
