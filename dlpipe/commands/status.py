"""`status`: what runs where, how far it is, what failed and why, and the commands that rerun just that."""

from __future__ import annotations

import json
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import click

from dlpipe.artifacts import Stage, Store, read_stage
from dlpipe.cli import FAILED, INTERRUPTED, OK
from dlpipe.commands.basics import FiniteRange, columns, examples
from dlpipe.commands.options import experiment_options, load_plan
from dlpipe.errors import StepError
from dlpipe.plan import EXPERIMENTS
from dlpipe.progress import duration
from dlpipe.running import Progress
from dlpipe.status import RUNS, STOPPED, Condition, State, Survey, Watch

MOST_SHOWN = 10
"""Stopped stages that are shown with their logs, and that one command names."""
LINES_SHOWN = 10
LOSSES = ("loss", "reconstruction_error")
SILENT_FOR = 60.0
"""Seconds without a sign of life from which on that is said of a stage that shows its progress."""


@dataclass(frozen=True)
class Asked:
    """Which stages are looked at, and the words that name them to snakemake and to `dlpipe status` itself."""

    stages: Mapping[str, Stage]
    config: Mapping[str, Any]
    words: tuple[str, ...]

    @property
    def title(self) -> str:
        return f"{', '.join(self.config['experiments'])} ({self.config['scale']})"


@click.command(
    "status",
    help="What runs where, how far it is, what failed, with the end of its log and the command that reruns it. Reads "
    "files only, so it can be asked on any machine that sees them. Exit code 1 if something failed or was killed.\n\n"
    "WHAT is an experiment: its name, or the path of its file. Without it: what snakemake was last asked for.",
    epilog=examples("dlpipe status depth", "dlpipe status depth --json"),
)
@partial(experiment_options, required=False)
@click.option("--watch", is_flag=True, help="Look again and again, until nothing is left to run or Ctrl-C (exit 130).")
@click.option("--every", type=FiniteRange(0.1), default=2.0, show_default=True, help="Seconds between two looks.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.option("--targets", is_flag=True, help="Print the files that snakemake is to make anew, and nothing else.")
def status_command(
    what: Sequence[str],
    scale: str,
    overrides: Sequence[str],
    root: Path,
    data: Path,
    results: Path,
    watch: bool,
    every: float,
    as_json: bool,
    targets: bool,
) -> int:
    if watch + as_json + targets > 1:
        raise click.UsageError("--watch, --json and --targets exclude one another.")
    store = Store(data, results)
    asked = _named(what, scale, overrides, root, store) if what else _last_plan(store)
    looks = Watch(store, asked.stages)
    if watch:
        return _watch(looks, every, asked, store)
    survey = looks.look()
    if as_json:
        click.echo(json.dumps(_as_json(survey, asked, store), indent=1))
    elif targets:
        for condition in survey.of(*STOPPED):
            click.echo(store.output(condition.stage))
    else:
        _print(survey, asked, store)
    return _code(survey)


def _code(survey: Survey) -> int:
    return FAILED if survey.of(State.FAILED, State.KILLED) else OK


def _named(what: Sequence[str], scale: str, overrides: Sequence[str], root: Path, store: Store) -> Asked:
    config: dict[str, Any] = {"experiments": list(what), "scale": scale}
    if overrides:
        config["set"] = dict(override.split("=", 1) for override in overrides)
    if root != EXPERIMENTS:
        config["experiments_folder"] = str(root)
    config |= {name: value for name, _, value in _elsewhere(store)}
    options = [word for override in overrides for word in ("-s", override)]
    options += ["--experiments", str(root)] if root != EXPERIMENTS else []
    words = (*what, "--scale", scale, *options, *_places(store))
    return Asked(load_plan(what, scale, overrides, root).stages, config, words)


def _last_plan(store: Store) -> Asked:
    """Raises UsageError when snakemake has left no plan, StepError when it cannot be read."""
    try:
        document = json.loads(store.last_plan.read_bytes())
        config, ids = document["config"], document["stages"]
        names, scale = [str(name) for name in config["experiments"]], str(config["scale"])
    except FileNotFoundError:
        raise click.UsageError(
            f"snakemake has left no plan in {store.results}: name an experiment (`dlpipe list`), or the folder with "
            "--results."
        ) from None
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise StepError(f"{store.last_plan} is damaged: {error}; delete it and plan again") from error
    stages = {stage_id: read_stage(store, str(stage_id)) for stage_id in ids}
    return Asked(stages, {**config, "experiments": names, "scale": scale}, tuple(_places(store)))


def _elsewhere(store: Store) -> list[tuple[str, str, str]]:
    """Config key, option and value of the folders that are not where they are by default."""
    folders = (("data", "--data", str(store.data)), ("results", "--results", str(store.results)))
    return [folder for folder in folders if folder[0] != folder[2]]


def _places(store: Store) -> list[str]:
    return [word for _, option, value in _elsewhere(store) for word in (option, value)]


def _rerun(stage: Stage, store: Store) -> str:
    return shlex.join(["dlpipe", stage.rule, stage.id, *_places(store)])


def _rerun_all(stopped: Sequence[Condition], asked: Asked, store: Store) -> str:
    """One snakemake command for all that stopped. Many are named by asking for them anew, few one by one."""
    if len(stopped) > MOST_SHOWN:
        targets = f"$({shlex.join(['dlpipe', 'status', *asked.words, '--targets'])})"
    else:
        targets = shlex.join(str(store.output(condition.stage)) for condition in stopped)
    config = {**asked.config, "experiments": ",".join(asked.config["experiments"])}
    words = [f"{name}={value if isinstance(value, str) else json.dumps(value)}" for name, value in config.items()]
    return f"snakemake --cores all {targets} --config {shlex.join(words)}"


def _summary(survey: Survey, asked: Asked) -> str:
    parts = [f"{len(survey.of(State.DONE))} of {len(survey.conditions)} stages done"]
    parts += [f"{n} {state}" for state in State if state is not State.DONE and (n := len(survey.of(state)))]
    behind = sum(condition.behind is not None for condition in survey.conditions)
    line = f"{asked.title}: {', '.join(parts)}" + (f" ({behind} of them for what stopped)" if behind else "")
    if survey.left is not None and survey.left >= 1:
        line += f"; {'more than' if survey.at_least else 'about'} {duration(survey.left)} left"
    return line


HEADINGS = ("stage", "where", "at", "loss", "left")


def _cells(condition: Condition) -> tuple[list[str], ...]:
    """What stands under each of HEADINGS, in parts."""
    stage, holder, progress = condition.stage, condition.holder, condition.progress
    name = [stage.rule, stage.id]
    if holder is None:
        return name, [], [condition.state], [], []
    where = [_printable(holder.owner["host"]), f"pid {holder.owner['pid']}"]
    if "slurm_job" in holder.owner:
        where.append(f"job {_printable(holder.owner['slurm_job'])}")
    if progress is None:
        return name, where, [f"running for {duration(holder.silent)}"], [], []
    silent = [f"silent for {duration(holder.silent)}"] if holder.silent > SILENT_FOR else []
    left = [] if condition.left is None else [duration(condition.left)]
    return name, where, [*_at(progress), *silent], _loss(progress.figures), left


def _at(progress: Progress) -> list[str]:
    part = progress.part + (f" ({progress.position} of {progress.units})" if progress.units > 1 else "")
    if progress.epoch is not None and progress.epochs is not None:
        return [_printable(part), f"epoch {round(progress.epoch, 1):g} of {round(progress.epochs, 1):g}"]
    of = f" of {progress.total:,}" if progress.total else ""
    return [_printable(part), _printable(f"{progress.done:,}{of} {progress.counted}")]


def _loss(figures: Mapping[str, float]) -> list[str]:
    """What training lowers. A layer without a loss shows its reconstruction error."""
    return [f"{figures[name]:.4g}" for name in LOSSES if name in figures][:1]


def _printable(text: Any) -> str:
    return "".join(c if c.isprintable() else "?" for c in str(text))


def _stopped_lines(survey: Survey, asked: Asked, store: Store, lines_shown: int = LINES_SHOWN) -> list[str]:
    """What stopped, each with the end of its log and its command, and the one command for all."""
    stopped = survey.of(*STOPPED)
    lines = []
    for condition in stopped[:MOST_SHOWN]:
        when = "" if condition.silent is None else f", {duration(condition.silent)} ago"
        lines += ["", f"{condition.state}: {condition.stage.rule} {condition.stage.id}{when}"]
        lines += [f"  | {line}" for line in condition.tail[-lines_shown:]]
        saved = "  # goes on where it stopped" if condition.saved else ""
        lines.append(f"  {_rerun(condition.stage, store)}{saved}")
    if len(stopped) > MOST_SHOWN:
        lines += ["", f"and {len(stopped) - MOST_SHOWN} more; --json has them all"]
    if stopped:
        words = "all of these, and no others:" if len(stopped) > 1 else "or:"
        lines += ["", words, f"  {_rerun_all(stopped, asked, store)}"]
    return lines


def _print(survey: Survey, asked: Asked, store: Store) -> None:
    click.echo(_summary(survey, asked))
    rows = [_cells(condition) for condition in survey.of(*RUNS)]
    if rows:
        click.echo()
    if rows and sys.stdout.isatty():
        from rich.console import Console

        Console().print(_table(rows))
    elif rows:
        lines = [HEADINGS, *([" ".join(cell) for cell in row] for row in rows)]
        for line in columns(lines):
            click.echo(line)
    for line in _stopped_lines(survey, asked, store):
        click.echo(line)


def _table(rows: Sequence[Sequence[Sequence[str]]]) -> Any:
    """Each part of a cell on a line of its own, so that the whole fits into 80 columns."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(1, 1, 0, 0))
    for heading in HEADINGS:
        table.add_column(heading, overflow="fold", justify="right" if heading == "loss" else "left")
    for row in rows:
        table.add_row(*(Text("\n".join(cell)) for cell in row))  # a Text, so that no bracket in it counts as markup
    return table


def _watch(looks: Watch, every: float, asked: Asked, store: Store) -> int:
    """Shows one look after another, and leaves the last one standing."""
    survey = looks.look()
    try:
        if sys.stdout.isatty():
            survey = _live(looks, survey, every, asked, store)
        else:
            while not survey.over:
                _print(survey, asked, store)
                click.echo()
                time.sleep(every)
                survey = looks.look()
    except KeyboardInterrupt:
        return INTERRUPTED
    _print(survey, asked, store)
    return _code(survey)


def _live(looks: Watch, survey: Survey, every: float, asked: Asked, store: Store) -> Survey:
    from rich.console import Group
    from rich.live import Live
    from rich.text import Text

    with Live(auto_refresh=False, transient=True) as live:
        while not survey.over:
            table = _table([_cells(condition) for condition in survey.of(*RUNS)])
            stopped = "\n".join(_stopped_lines(survey, asked, store, lines_shown=3))
            live.update(Group(Text(f"{_summary(survey, asked)}\n"), table, Text(stopped)), refresh=True)
            time.sleep(every)
            survey = looks.look()
    return survey


def _as_json(survey: Survey, asked: Asked, store: Store) -> dict[str, Any]:
    stopped = survey.of(*STOPPED)
    return {
        "experiments": asked.config["experiments"],
        "scale": asked.config["scale"],
        "counts": {state.value: len(survey.of(state)) for state in State},
        "seconds_left": survey.left,
        "at_least": survey.at_least,
        "rerun": _rerun_all(stopped, asked, store) if stopped else None,
        "stages": [_stage_as_json(condition, store) for condition in survey.conditions],
    }


def _stage_as_json(condition: Condition, store: Store) -> dict[str, Any]:
    stage = condition.stage
    return {
        "id": stage.id,
        "rule": stage.rule,
        "state": condition.state.value,
        "owner": condition.holder.owner if condition.holder else None,
        "silent_seconds": condition.silent,
        "progress": condition.progress.model_dump(exclude={"rule", "owner"}) if condition.progress else None,
        "seconds_left": condition.left,
        "saved": condition.saved,
        "behind": condition.behind,
        "log": str(condition.log) if condition.log else None,
        "last_lines": list(condition.tail[-LINES_SHOWN:]),
        "rerun": _rerun(stage, store) if condition.state in STOPPED else None,
    }
