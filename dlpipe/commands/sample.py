"""`sample`: pictures of what a trained model takes for data."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from dlpipe.artifacts import Store, read_stage
from dlpipe.commands.basics import examples
from dlpipe.commands.options import WHAT, experiment_options, load_plan


@click.command(
    "sample",
    help="Draw samples of what was trained, by Gibbs sampling: of a generative model, or of the topmost of its "
    f"pretrained layers, down through the layers below.\n\n{WHAT}",
    epilog=examples(
        "dlpipe sample depth --where pretraining=rbm --where depth=1",
        "dlpipe sample depth --where pretraining=rbm --where depth=3 --count 10 --to samples.npz",
    ),
)
@experiment_options
@click.option("--where", "levels", multiple=True, metavar="AXIS=LEVEL", help="The variant; may be given several times.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="The seed that it was trained with.")
@click.option("--count", type=click.IntRange(1), default=100, show_default=True, help="Number of samples.")
@click.option("--steps", type=click.IntRange(1), default=1000, show_default=True, help="Gibbs steps to each sample.")
@click.option("--label", metavar="CLASS", help="Samples of this class, of a model that was trained with labels.")
@click.option("--noise", type=click.IntRange(0), default=0, show_default=True, help="Another number, other samples.")
@click.option("--device", default="cpu", show_default=True, metavar="NAME", help="auto, cpu, cuda or cuda:N.")
@click.option(
    "--to",
    "target",
    type=click.Path(path_type=Path, dir_okay=False),
    help="A .png, or a .npz with the numbers; default RESULTS/samples/STAGE-seedN.png.",
)
def sample_command(
    what: Sequence[str],
    scale: str,
    overrides: Sequence[str],
    root: Path,
    data: Path,
    results: Path,
    levels: Sequence[str],
    seed: int,
    count: int,
    steps: int,
    label: str | None,
    noise: int,
    device: str,
    target: Path | None,
) -> None:
    from dlpipe import sampling

    if len(what) != 1:
        raise click.UsageError("Samples are drawn of one experiment, or of one stage.")
    store = Store(data, results)
    if store.stage_file(what[0]).exists():
        stage = read_stage(store, what[0])
    else:
        stage = sampling.stage_to_sample(load_plan(what, scale, overrides, root), _levels(levels), seed)
    target = target or results / "samples" / f"{stage.id}-seed{seed}{f'-{label}' if label else ''}.png"
    options = {"seed": seed, "count": count, "gibbs_steps": steps, "label": label, "noise": noise, "device": device}
    sampling.write(sampling.draw(stage, store, **options), target)  # type: ignore[arg-type]
    click.echo(target)


def _levels(given: Sequence[str]) -> dict[str, str]:
    for text in given:
        if "=" not in text:
            raise click.UsageError(f"--where is AXIS=LEVEL, as in --where depth=3, not {text!r}.")
    return dict(text.split("=", 1) for text in given)  # type: ignore[misc]
