"""`sample`: pictures or points of what a trained model takes for data, or text that it writes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from dlpipe.artifacts import Store, read_stage
from dlpipe.commands.basics import FiniteRange, examples
from dlpipe.commands.options import WHAT, experiment_options, load_plan

OF_PICTURES = {"count": 100, "steps": 1000, "label": None}
"""Options of pictures alone, and what they are if not given."""
OF_TEXT = {"prompt": None, "length": 1000, "temperature": 1.0}


@click.command(
    "sample",
    help="Draw samples of what was trained. Of a generative model, or of the topmost of the pretrained layers, down "
    "through the layers below: pictures, by Gibbs sampling. Of a model that was trained to tell the next token: "
    f"text, which is printed.\n\n{WHAT}",
    epilog=examples(
        "dlpipe sample depth --where pretraining=rbm --where depth=3 --count 10 --to samples.npz",
        "dlpipe sample scheduled_sampling --where feed=inverse_sigmoid --prompt '698 ' --length 28 --temperature 0",
    ),
)
@experiment_options
@click.option("--where", "levels", multiple=True, metavar="AXIS=LEVEL", help="The variant; may be given several times.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="The seed that it was trained with.")
@click.option("--count", type=click.IntRange(1), help="Pictures: how many.  [default: 100]")
@click.option("--steps", type=click.IntRange(1), help="Pictures: Gibbs steps to each.  [default: 1000]")
@click.option("--label", metavar="CLASS", help="Pictures: of this class, of a model that was trained with labels.")
@click.option("--prompt", metavar="TEXT", help="Text: its beginning; a new line if absent.")
@click.option("--length", type=click.IntRange(1), help="Text: tokens to write.  [default: 1000]")
@click.option(
    "--temperature",
    type=FiniteRange(0.0),
    help="Text: each token comes from softmax(logits / temperature); 0: always the most likely.  [default: 1]",
)
@click.option("--noise", type=click.IntRange(0), default=0, show_default=True, help="Another number, other samples.")
@click.option("--device", default="cpu", show_default=True, metavar="NAME", help="auto, cpu, cuda or cuda:N.")
@click.option(
    "--to",
    "target",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Pictures: a .png, or a .npz with the numbers; default RESULTS/samples/STAGE-seedN.png, and .npz of inputs "
    "that are no pictures. Text: a .txt.",
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
    noise: int,
    device: str,
    target: Path | None,
    **given: Any,
) -> None:
    from dlpipe import sampling

    if len(what) != 1:
        raise click.UsageError("Samples are drawn of one experiment, or of one stage.")
    store = Store(data, results)
    if store.stage_file(what[0]).exists():
        stage = read_stage(store, what[0])
    else:
        stage = sampling.stage_to_sample(load_plan(what, scale, overrides, root), _levels(levels), seed)
    common: dict[str, Any] = {"seed": seed, "noise": noise, "device": device}
    if sampling.writes(stage):
        text = sampling.text(stage, store, **common, **_own(OF_TEXT, given, "text"))
        if target is None:
            click.echo(text)
        else:
            sampling.write_text(text, target)
    else:
        own = _own(OF_PICTURES, given, "pictures")
        own["gibbs_steps"], label = own.pop("steps"), own["label"]
        samples = sampling.draw(stage, store, **common, **own)
        ending = ".png" if sampling.are_pictures(samples) else ".npz"
        target = target or results / "samples" / f"{stage.id}-seed{seed}{f'-{label}' if label else ''}{ending}"
        sampling.write(samples, target)
    if target is not None:
        click.echo(target)


def _own(defaults: Mapping[str, Any], given: Mapping[str, Any], of: str) -> dict[str, Any]:
    """The options in `defaults`, as given or else as there. Raises UsageError for another that was given."""
    for name, value in given.items():
        if name not in defaults and value is not None:
            apply = ", ".join(f"--{each}" for each in defaults)
            raise click.UsageError(f"--{name} does not apply: the samples here are {of}, with {apply}.")
    return {name: default if given[name] is None else given[name] for name, default in defaults.items()}


def _levels(given: Sequence[str]) -> dict[str, str]:
    for text in given:
        if "=" not in text:
            raise click.UsageError(f"--where is AXIS=LEVEL, as in --where depth=3, not {text!r}.")
    return dict(text.split("=", 1) for text in given)  # type: ignore[misc]
