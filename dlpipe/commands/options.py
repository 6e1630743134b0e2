"""What the commands have in common: naming experiments and stages, and where things live."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from dlpipe.artifacts import Stage, Store, read_stage, write_stages
from dlpipe.commands.basics import store_options
from dlpipe.errors import StepError
from dlpipe.plan import EXPERIMENTS, Plan, make_plan
from dlpipe.spec.loading import find_experiment, load

WHAT = "WHAT is an experiment (its name, or the path of its file) or a stage's id, as `dlpipe plan` prints it."


root_option = click.option(
    "--experiments",
    "root",
    type=click.Path(path_type=Path),
    default=EXPERIMENTS,
    show_default=True,
    help="Folder of the experiment files.",
)


def experiment_options(command: Callable[..., Any], required: bool = True) -> Callable[..., Any]:
    """WHAT and the options that say which form of the experiment is meant."""
    options = (
        click.argument("what", nargs=-1, required=required),
        click.option("--scale", type=click.Choice(["demo", "lab", "paper"]), default="demo", show_default=True),
        click.option(
            "-s",
            "--set",
            "overrides",
            multiple=True,
            metavar="PATH=VALUE",
            help="Change a field, as in finetune.duration.epochs=5.",
        ),
        root_option,
    )
    for option in reversed(options):
        command = option(command)
    return store_options(command)


def load_plan(what: Sequence[str], scale: str, overrides: Sequence[str], root: Path) -> Plan:
    """The plan of the experiments named. Raises SpecError."""
    return make_plan([load(find_experiment(name, root), scale=scale, overrides=overrides) for name in what])


def stages_to_make(
    rule: str, what: Sequence[str], scale: str, overrides: Sequence[str], root: Path, store: Store
) -> list[Stage]:
    """The stages of a rule that WHAT names: a stage's id, or all of an experiment's. Raises SpecError or StepError."""
    names = [name for name in what if not store.stage_file(name).exists()]
    chosen = [read_stage(store, name) for name in what if name not in names]
    for stage in chosen:
        if stage.rule != rule:
            raise StepError(f"{stage.id} is a stage of `dlpipe {stage.rule}`, not of `dlpipe {rule}`")
    if names:
        plan = load_plan(names, scale, overrides, root)
        write_stages(store, plan.stages.values())
        chosen.extend(plan.of_rule(rule))
    return chosen
