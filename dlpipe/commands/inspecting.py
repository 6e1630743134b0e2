"""`check`, `show`, `verify` and `schema`: looking at results and at what may be declared."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import click

from dlpipe.artifacts import ArtifactError, Store
from dlpipe.cli import NOT_REPRODUCED, OK
from dlpipe.commands.basics import examples, store_options
from dlpipe.commands.options import experiment_options, load_plan


@click.command(
    "check",
    help="Judge the claims of experiments by their metrics and print a line a claim. Exit code 3 when one is not "
    "reproduced.\n\nWHAT is an experiment: its name, or the path of its file.",
    epilog=examples("dlpipe check depth", "dlpipe check depth baselines --strict"),
)
@experiment_options
@click.option("--strict", is_flag=True, help="An inconclusive claim counts as not reproduced.")
def check_command(
    what: Sequence[str], scale: str, overrides: Sequence[str], root: Path, data: Path, results: Path, strict: bool
) -> int:
    from dlpipe.stages import report

    failing = {"not reproduced", "inconclusive"} if strict else {"not reproduced"}
    failed = False
    for name, judgement in report.judge(load_plan(what, scale, overrides, root), Store(data, results)):
        click.echo(f"{judgement.verdict:15} {name} ({scale}): {judgement.claim.says} {judgement.reason}")
        failed = failed or judgement.verdict in failing
    return NOT_REPRODUCED if failed else OK


@click.command(
    "show",
    epilog=examples(
        "dlpipe show $(ls results/metrics | head -n 1)", "dlpipe show $(ls results/layers | head -n 1) --json"
    ),
)
@click.argument("stage_id")
@store_options
@click.option("--json", "as_json", is_flag=True, help="Print the whole manifest.")
def show_command(stage_id: str, data: Path, results: Path, as_json: bool) -> int:
    """An artifact by its stage's id: what made it, how long it took, which files it has, its metrics."""
    store = Store(data, results)
    found = [(folder, manifest) for _, folder, manifest in store.manifests() if folder.name == stage_id]
    if not found:
        raise ArtifactError(f"no artifact {stage_id}; `dlpipe plan EXPERIMENT` lists the stages")
    folder, manifest = found[0]
    if as_json:
        click.echo(json.dumps(manifest, indent=1, sort_keys=True))
        return OK
    environment, times = manifest["environment"], manifest["times"]
    dirty = ", with uncommitted changes" if environment["dirty"] else ""
    click.echo(f"{manifest['stage']['rule']} {stage_id}")
    click.echo(f"made {times['started']} in {times['seconds']} s on {environment['host']} ({environment['processor']})")
    click.echo(
        f"commit {environment['commit'] or 'unknown'}{dirty}; python {environment['python']}, "
        + ", ".join(f"{k} {v}" for k, v in sorted(environment["versions"].items()))
    )
    click.echo(json.dumps(manifest["stage"]["spec"], indent=1, sort_keys=True))
    for name, file in manifest["files"].items():
        click.echo(f"{file['bytes']:>12,} bytes  {file['sha256'][:12]}  {folder / name}")
    metrics = folder / "metrics.csv"
    if metrics.exists():
        click.echo(metrics.read_text().rstrip())
    return OK


@click.command("verify", epilog=examples("dlpipe verify", "dlpipe verify --set-aside"))
@store_options
@click.option(
    "--set-aside", is_flag=True, help="Move what is damaged out of the way, so that the next run makes it again."
)
def verify_command(data: Path, results: Path, set_aside: bool) -> int:
    """Read every byte of every artifact and compare it with its manifest. Exit code 3 if one is damaged.

    Also says which artifacts were made by other code than today's, and which files are not of them.
    """
    from dlpipe.provenance import source_digests

    store = Store(data, results)
    damaged = outdated = extra = count = 0
    for rule, folder in store.artifact_folders():
        count += 1
        try:
            artifact = store.read(rule, folder.name)
        except ArtifactError as error:
            damaged += 1
            click.echo(f"damaged   {error}")
            if set_aside:
                click.echo(f"          moved to {store.set_aside(rule, folder.name)}")
            continue
        for path in artifact.unlisted():
            extra += 1
            click.echo(f"extra     {path} is not in the manifest; nothing reads it")
        today = source_digests(artifact.stage.hints.get("implementations", {}))
        changed = [name for name, digest in artifact.manifest["sources"].items() if today.get(name) != digest]
        if changed:
            outdated += 1
            click.echo(f"old code  {folder}: {', '.join(changed)} changed since, under the same version")
    click.echo(f"{count} artifacts: {damaged} damaged, {outdated} made by other code than today's, {extra} extra files")
    return NOT_REPRODUCED if damaged else OK


@click.command("schema", epilog=examples("dlpipe schema", "dlpipe schema > config/schema/experiment.schema.json"))
def schema_command() -> None:
    """Print the JSON schema of experiment files, for editors."""
    from dlpipe.spec.schema import experiment_schema

    click.echo(json.dumps(experiment_schema(), indent=1, sort_keys=True, ensure_ascii=False))
