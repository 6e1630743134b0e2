"""`pack` and `unpack`: artifacts in one file, from one machine to another."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

import click

from dlpipe.artifacts import Stage, Store
from dlpipe.commands.basics import examples, store_options
from dlpipe.commands.options import experiment_options, load_plan, root_option
from dlpipe.errors import StepError
from dlpipe.packs import CONTENTS, Index, PackedExperiment
from dlpipe.progress import say
from dlpipe.spec.problems import SpecError

MOST_NAMED = 10
"""Missing artifacts that a message names one by one."""


@click.command(
    "pack",
    help="Put the artifacts of experiments into one file, with their checksums, for a machine that has not made them. "
    "Every byte is verified on the way.\n\nWHAT is an experiment: its name, or the path of its file.",
    epilog=examples("dlpipe pack baselines --to baselines.tar", "dlpipe pack depth --contents data --to data.tar"),
)
@experiment_options
@click.option(
    "--to", "target", type=click.Path(path_type=Path, dir_okay=False), required=True, help="The file, a plain tar."
)
@click.option(
    "--contents",
    type=click.Choice(list(CONTENTS)),
    default="report",
    show_default=True,
    help="report: metrics and figures, all that a report needs. results: layers and models too. data: raw and "
    "prepared data only. all: everything.",
)
@click.option("--partial", is_flag=True, help="Pack what has been made, and say what is left out.")
def pack_command(
    what: Sequence[str],
    scale: str,
    overrides: Sequence[str],
    root: Path,
    data: Path,
    results: Path,
    target: Path,
    contents: str,
    partial: bool,
) -> None:
    from dlpipe import packs

    plan, store = load_plan(what, scale, overrides, root), Store(data, results)
    stages = [stage for stage in plan.stages.values() if stage.rule in CONTENTS[contents]]
    missing = [stage for stage in stages if not store.folder(stage.rule, stage.id).exists()]
    if missing and not (partial and len(missing) < len(stages)):
        raise StepError(
            _missing_text(missing, len(stages))
            + f"\n`{_command('plan', what, scale, overrides)}` tells what is to run; snakemake runs it."
            + (" Or pack the rest with --partial" if len(missing) < len(stages) else "")
        )
    if missing:
        say("left out: " + _missing_text(missing, len(stages)))
    experiments = [
        {"name": planned.name, "scale": scale, "overrides": tuple(overrides)} for planned in plan.experiments
    ]
    index = packs.pack(experiments, stages, contents, store, target)
    say(f"{len(index.artifacts)} artifacts, {index.total:,} bytes")
    click.echo(target)


def _missing_text(missing: Sequence[Stage], count: int) -> str:
    lines = [f"{len(missing)} of {count} artifacts have not been made:"]
    lines += [f"  {stage.rule} {stage.id}" for stage in missing[:MOST_NAMED]]
    if len(missing) > MOST_NAMED:
        lines.append(f"  and {len(missing) - MOST_NAMED} more")
    return "\n".join(lines)


def _command(name: str, what: Sequence[str], scale: str, overrides: Sequence[str]) -> str:
    return shlex.join(["dlpipe", name, *what, "--scale", scale, *(part for o in overrides for part in ("-s", o))])


@click.command(
    "unpack",
    epilog=examples("dlpipe unpack baselines.tar", "dlpipe unpack data.tar --data data"),
)
@click.argument("file", type=click.Path(path_type=Path))
@root_option
@store_options
def unpack_command(file: Path, root: Path, data: Path, results: Path) -> None:
    """Take the artifacts out of FILE, which `dlpipe pack` has written, and put each where it belongs once it verifies.

    What stands here already and is sound is kept. A file that is damaged, or hostile, is refused.
    """
    from dlpipe import packs

    store = Store(data, results)
    done = packs.unpack(file, store)
    counts = ", ".join(f"{count} {what}" for what, count in done.counts.items())
    click.echo(f"{len(done.index.artifacts)} artifacts, {done.index.total:,} bytes: {counts or 'nothing to do'}")
    for experiment in done.index.experiments:
        click.echo(_standing(experiment, done.index, store, root))


def _standing(experiment: PackedExperiment, index: Index, store: Store, root: Path) -> str:
    """Whether the plan on this side finds what it needs. It is this side's YAML that is planned, without overrides."""
    who = f"{experiment.name} ({experiment.scale})"
    command = _command("plan", [experiment.name], experiment.scale, experiment.overrides)
    if experiment.overrides:
        return f"{who}: it was packed with values of its own; `{command}` tells what stands here"
    try:
        plan = load_plan([experiment.name], experiment.scale, (), root)
    except (SpecError, StepError) as error:
        return f"{who}: it cannot be planned here, and code and YAML travel by git: {error}"
    stages = [stage for stage in plan.stages.values() if stage.rule in CONTENTS[index.contents]]
    missing = [stage for stage in stages if not store.is_done(stage.rule, stage.id)]
    if not missing:
        report = _command("report", [experiment.name], experiment.scale, ())
        after = f"; `{report}` writes its report" if "plot" in CONTENTS[index.contents] else ""
        return f"{who}: all {len(stages)} artifacts stand{after}"
    known = {*index.left_out, *(artifact.id for artifact in index.artifacts)}
    unknown = sum(stage.id not in known for stage in missing)
    why = f", {unknown} of them unknown to the packer: it had other code, or another YAML" if unknown else ""
    return f"{who}: {len(missing)} of {len(stages)} artifacts are missing{why}; `{command}` lists them"
