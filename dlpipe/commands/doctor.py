"""`doctor`: a line a check, what to do where one is not well, and what to put where on a cluster."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from dlpipe.cli import FAILED, OK
from dlpipe.commands.basics import examples, store_options
from dlpipe.doctor import folders, machine
from dlpipe.doctor.findings import Finding, State, look
from dlpipe.doctor.gpus import torch_and_gpus
from dlpipe.doctor.installation import installation
from dlpipe.doctor.site_files import how_to_use, site_files
from dlpipe.doctor.sites import Site
from dlpipe.doctor.slurm import slurm


@click.command("doctor", epilog=examples("dlpipe doctor", "dlpipe doctor --slurm"))
@store_options
@click.option("--slurm", "with_slurm", is_flag=True, help="Look at the SLURM cluster too, and print a profile for it.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def doctor_command(data: Path, results: Path, with_slurm: bool, as_json: bool) -> int:
    """Whether this machine can run dlpipe: Python, libraries, torch, GPUs, cores, memory, folders.

    Each check is a line: ok; note, fine and good to know; warn, works but could be better; FAIL, cannot work. Below all
    but ok stands what to do. Exit code 1 when a check fails. Changes nothing.
    """
    findings = _machine(data, results)
    cluster, site = slurm(data, results) if with_slurm else ([], None)
    findings += cluster
    if as_json:
        click.echo(json.dumps(_as_json(findings, site), indent=1))
    else:
        _print(findings, site)
    return FAILED if any(finding.state == State.FAIL for finding in findings) else OK


def _machine(data: Path, results: Path) -> list[Finding]:
    return [
        *installation(),
        *look("torch", torch_and_gpus),
        *look("CPU", machine.cores),
        *look("memory", machine.memory),
        *look("data", folders.data, data),
        *look("results", folders.results, results),
    ]


def _print(findings: Sequence[Finding], site: Site | None) -> None:
    width = max(len(finding.subject) for finding in findings)
    for finding in findings:
        click.echo(f"{finding.state:4}  {finding.subject:{width}}  {finding.found}")
        if finding.advice:
            click.echo(f"{'':4}  {'':{width}}  {finding.advice}")
    counts = {state: sum(finding.state == state for finding in findings) for state in (State.FAIL, State.WARN)}
    click.echo(f"\n{len(findings)} checks: {counts[State.FAIL]} failed, {counts[State.WARN]} to look at")
    files = site_files(site) if site else {}
    for path, text in files.items():
        click.echo(f"\n# ---- put this into {path}\n{text}", nl=False)
    if site and files:
        click.echo(f"\n# ---- and run\n{how_to_use(site)}")


def _as_json(findings: Sequence[Finding], site: Site | None) -> dict[str, Any]:
    return {
        "checks": [vars(finding) for finding in findings],
        "files": {str(path): text for path, text in (site_files(site) if site else {}).items()},
    }
