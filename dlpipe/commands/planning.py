"""`list`, `plan` and `why`: what there is, what would run, and for what reason."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from dlpipe.artifacts import Stage, Store, read_stage, write_stages
from dlpipe.changes import History, Reason, explain
from dlpipe.commands.basics import columns, examples
from dlpipe.commands.options import experiment_options, load_plan, root_option
from dlpipe.plan import Plan
from dlpipe.spec.loading import load


@click.command("list", epilog=examples("dlpipe list", "dlpipe list --experiments config/experiments/pretraining"))
@root_option
def list_command(root: Path) -> None:
    """The experiments there are: name, scales, title."""
    rows = []
    for path in sorted(root.rglob("*.yaml")):
        loaded = load(path)
        scales = " ".join(loaded.experiment.scales) or "one scale"
        rows.append((f"{path.parent.name}/{loaded.name}", scales, loaded.experiment.title))
    for line in columns(rows):
        click.echo(line)


@click.command(
    "plan",
    help="The stages of experiments as a tree: what is shared, what is done, what will run, and why.\n\n"
    "WHAT is an experiment: its name, or the path of its file.",
    epilog=examples("dlpipe plan depth", "dlpipe plan depth baselines --scale lab --json"),
)
@experiment_options
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def plan_command(
    what: Sequence[str], scale: str, overrides: Sequence[str], root: Path, data: Path, results: Path, as_json: bool
) -> None:
    plan, store = load_plan(what, scale, overrides, root), Store(data, results)
    write_stages(store, plan.stages.values())
    to_run, history = plan.missing(store), History(store)
    reasons = {i: explain(plan, plan.stages[i], store, history) for i in to_run}
    if as_json:
        click.echo(json.dumps(_as_json(plan, store, reasons), indent=1))
        return
    for line in _summary(plan, to_run, reasons):
        click.echo(line)
    click.echo()
    for line in _tree(plan, store, to_run, reasons):
        click.echo(line)


MOST_CHANGES = 3
"""Changed fields up to which the tree names one; `dlpipe why` names all."""


def _summary(plan: Plan, to_run: set[str], reasons: dict[str, Reason]) -> list[str]:
    lines = [
        f"{e.name}: {len(e.variants)} variants, {len(e.loaded.seeds)} seeds each, scale {e.loaded.scale}"
        for e in plan.experiments
    ]
    unshared = len(plan.unshared_stages()) + len(plan.experiments)
    lines.append(f"{len(plan.stages)} stages; without sharing {unshared}; {len(to_run)} to run")
    known = [r.seconds for r in reasons.values() if r.seconds is not None]
    if known:
        without = len(reasons) - len(known)
        lines.append(
            f"about {_duration(sum(known))} of work by past timings"
            + (f", and {without} stages without one" if without else "")
        )
    return lines


def _duration(seconds: float) -> str:
    return (
        f"{seconds:.0f} s"
        if seconds < 120
        else f"{seconds / 60:.0f} min"
        if seconds < 7200
        else f"{seconds / 3600:.1f} h"
    )


def _parent(stage: Stage) -> str | None:
    """The stage under which the tree shows this one: the last of its chain."""
    for role in ("model", "start", "layers", "below", "data", "raw"):
        value = stage.inputs.get(role)
        if value:
            return value if isinstance(value, str) else value[-1]
    return None


def _tree(plan: Plan, store: Store, to_run: set[str], reasons: dict[str, Reason]) -> list[str]:
    children: dict[str | None, list[Stage]] = {}
    for stage in plan.stages.values():
        children.setdefault(_parent(stage), []).append(stage)
    users = plan.users()
    rows: list[tuple[str, Stage]] = []

    def walk(stage: Stage, lead: str, branch: str) -> None:
        rows.append((f"{lead}{branch}{stage.rule} {stage.id}", stage))
        below = children.get(stage.id, [])
        inner = lead + {"": "", "├─ ": "│  ", "└─ ": "   "}[branch]
        for child in below:
            walk(child, inner, "└─ " if child is below[-1] else "├─ ")

    for stage in children[None]:
        walk(stage, "", "")
    width = max(len(text) for text, _ in rows)
    return [
        f"{text:{width}}  {_state(stage, store, to_run, reasons)}{_for_whom(users.get(stage.id, []))}".rstrip()
        for text, stage in rows
    ]


def _for_whom(users: Sequence[tuple[str, Mapping[str, str]]]) -> str:
    if len(users) == 1:
        return "  " + " ".join(f"{axis}={level}" for axis, level in users[0][1].items())
    return f"  for {len(users)} variants" if users else ""


def _state(stage: Stage, store: Store, to_run: set[str], reasons: dict[str, Reason]) -> str:
    if stage.id not in to_run:
        return "done   " if store.is_done(stage.rule, stage.id) else "not needed"
    reason = reasons[stage.id]
    if 0 < len(reason.changes) <= MOST_CHANGES:  # more is another experiment rather than a change of this one
        more = f" and {len(reason.changes) - 1} more" if len(reason.changes) > 1 else ""
        return f"to run: {reason.changes[0]}{more}"
    return "to run "


def _as_json(plan: Plan, store: Store, reasons: dict[str, Reason]) -> dict[str, Any]:
    users = plan.users()
    return {
        "experiments": [
            {
                "name": e.name,
                "scale": e.loaded.scale,
                "variants": [{"levels": dict(v.levels), "metrics": list(v.metrics)} for v in e.variants],
                "figures": e.figures,
            }
            for e in plan.experiments
        ],
        "stages": [
            {
                "id": stage.id,
                "rule": stage.rule,
                "folder": str(store.folder(stage.rule, stage.id)),
                "inputs": stage.input_ids(),
                "done": store.is_done(stage.rule, stage.id),
                "to_run": stage.id in reasons,
                "variants": len(users.get(stage.id, ())),
                "changes": [vars(change) for change in reasons[stage.id].changes] if stage.id in reasons else [],
                "seconds_expected": reasons[stage.id].seconds if stage.id in reasons else None,
            }
            for stage in plan.stages.values()
        ],
    }


@click.command(
    "why",
    help="Why a stage, or the stages of an experiment, would run: which field changed, its old and new value, where it "
    "stands in the file, and what the work will cost by past timings.\n\nWHAT is an experiment, or a stage's id.",
    epilog=examples("dlpipe why depth", "dlpipe why depth -s finetune.optimizer.learning_rate=0.2"),
)
@experiment_options
def why_command(
    what: Sequence[str], scale: str, overrides: Sequence[str], root: Path, data: Path, results: Path
) -> None:
    store = Store(data, results)
    ids = [name for name in what if store.stage_file(name).exists()]
    names = [name for name in what if name not in ids]
    plan = load_plan(names, scale, overrides, root) if names else Plan()
    for stage_id in ids:
        _add_with_inputs(plan, store, stage_id)
    history = History(store)
    to_run = plan.missing(store) if names else {i for i in ids if not store.is_done(read_stage(store, i).rule, i)}
    if not to_run:
        click.echo("nothing would run: every artifact stands")
    for stage in plan.stages.values():
        if stage.id in to_run:
            _print_reason(explain(plan, stage, store, history))


def _add_with_inputs(plan: Plan, store: Store, stage_id: str) -> None:
    stage = read_stage(store, stage_id)
    for input_id in stage.input_ids():
        if input_id not in plan.stages:
            _add_with_inputs(plan, store, input_id)
    plan.add(stage)


def _print_reason(reason: Reason) -> None:
    cost = "no past timing" if reason.seconds is None else f"about {_duration(max(1.0, reason.seconds))}"
    click.echo(f"{reason.stage.rule} {reason.stage.id}  ({cost})")
    if reason.compared_with is None:
        click.echo("  never made, and nothing like it")
    else:
        click.echo(f"  never made; the nearest artifact is {reason.compared_with}:")
    for change in reason.changes:
        click.echo(f"    {change}")
    for input_id in reason.inputs:
        click.echo(f"  its input {input_id} is to be made first")
