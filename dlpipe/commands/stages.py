"""One command a stage. Each makes the stages named, one after another, and prints their folders."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from dlpipe.artifacts import Store
from dlpipe.commands.basics import FiniteRange, examples
from dlpipe.commands.making import make_stages
from dlpipe.commands.options import WHAT, experiment_options, load_plan, stages_to_make


def _make(rule: str, **options: Any) -> None:
    names = ("what", "scale", "overrides", "root", "data", "results")
    what, scale, overrides, root, data, results = (options.pop(name) for name in names)
    store = Store(data, results)
    stages = stages_to_make(rule, what, scale, overrides, root, store)
    for stage in make_stages(stages, store, **options):
        click.echo(store.folder(rule, stage.id))


def _stage_command(rule: str, text: str, *lines: str) -> Callable[[Callable[..., Any]], click.Command]:
    """A click command with the arguments every stage has; the decorated function adds its own options."""

    def decorate(function: Callable[..., Any]) -> click.Command:
        return click.command(rule, help=f"{text}\n\n{WHAT}", epilog=examples(*lines))(experiment_options(function))

    return decorate


def _device_options(function: Callable[..., Any]) -> Callable[..., Any]:
    threads = click.option(
        "--threads",
        type=click.IntRange(1),
        help="CPU threads; they change the order of sums. By default what fits the size of the stage.",
    )
    device = click.option(
        "--device", default="auto", show_default=True, metavar="NAME", help="auto, cpu, cuda or cuda:N."
    )
    jobs_per_gpu = click.option(
        "--jobs-per-gpu",
        type=click.IntRange(1),
        default=1,
        show_default=True,
        envvar="DLPIPE_JOBS_PER_GPU",
        help="Jobs that may share a GPU; the others wait.",
    )
    return device(jobs_per_gpu(threads(function)))


_ranks_option = click.option(
    "--ranks",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Processes that share every batch, by torchrun; each takes a GPU where there are GPUs.",
)
_deadline_option = click.option(
    "--deadline",
    type=FiniteRange(0, min_open=True),
    metavar="SECONDS",
    help="Save and stop in time for this; the same command goes on.",
)


@_stage_command(
    "fetch",
    "Download the data sets that WHAT needs and verify every file.",
    "dlpipe fetch depth",
    "dlpipe fetch depth --offline",
)
@click.option(
    "--mirror",
    "mirrors",
    multiple=True,
    metavar="DIR|URL",
    help="Look here first, in order; may be given several times.",
)
@click.option("--offline", is_flag=True, help="Use folders and installed packages only.")
def fetch_command(**options: Any) -> None:
    _make("fetch", **options)


@_stage_command(
    "prepare",
    "Split the data sets, scale them, and store them as tensors.",
    "dlpipe prepare depth",
    "dlpipe prepare depth -s dataset.split_seed=1",
)
def prepare_command(**options: Any) -> None:
    _make("prepare", **options)


@_stage_command(
    "pretrain",
    "Train layers greedily, from the bottom up, each on the representation of those below it.",
    "dlpipe pretrain depth",
    "dlpipe pretrain depth --deadline 3600",
)
@_device_options
@_ranks_option
@_deadline_option
def pretrain_command(**options: Any) -> None:
    _make("pretrain", **options)


@_stage_command(
    "finetune",
    "Train whole networks, from pretrained layers or from random initialisation.",
    "dlpipe finetune baselines",
    "dlpipe finetune baselines -s 'model.units=[50]'",
)
@_device_options
@_ranks_option
@_deadline_option
def finetune_command(**options: Any) -> None:
    _make("finetune", **options)


@_stage_command(
    "evaluate",
    "Measure trained networks: metrics a seed, learning curves, what the figures need.",
    "dlpipe evaluate baselines",
    "dlpipe evaluate baselines --device cpu",
)
@_device_options
def evaluate_command(**options: Any) -> None:
    _make("evaluate", **options)


@_stage_command(
    "plot",
    "Draw an experiment's figures from its metrics.",
    "dlpipe plot baselines",
    "dlpipe plot baselines --scale demo",
)
def plot_command(**options: Any) -> None:
    _make("plot", **options)


@click.command(
    "report",
    help="Write the report of experiments, from their metrics and figures alone: no torch, no data.\n\n"
    "WHAT is an experiment: its name, or the path of its file.",
    epilog=examples("dlpipe report depth baselines", "dlpipe report depth --to depth.html"),
)
@experiment_options
@click.option(
    "--to",
    "target",
    type=click.Path(path_type=Path),
    help="The HTML file; default RESULTS/report/SCALE.html. A .json with the verdicts lies beside it.",
)
def report_command(
    what: Sequence[str],
    scale: str,
    overrides: Sequence[str],
    root: Path,
    data: Path,
    results: Path,
    target: Path | None,
) -> None:
    from dlpipe.stages import report

    plan = load_plan(what, scale, overrides, root)
    click.echo(report.run(plan, Store(data, results), target or results / "report" / f"{scale}.html"))
