"""What to put where: a site's profile and its partitions, ready to be pasted.

The profile goes underneath the project's own, `--workflow-profile profiles/slurm`, entry by entry. The partitions are
in the form that the SLURM plugin reads: it sends each job to the one whose limits fit it best, and a job that asks for
a GPU to one that has them.
"""

from __future__ import annotations

import builtins
import os
from pathlib import Path
from typing import Any

from dlpipe.doctor.sites import Accounts, Site, gpu_models

USE = "snakemake --workflow-profile profiles/slurm --profile {name}"


def site_files(site: Site) -> dict[Path, str]:
    """Path to content; none when no partition takes jobs."""
    if not site.usable():
        return {}
    base = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    folder = base / "snakemake" / site.cluster
    return {folder / "config.yaml": _profile(site), folder / "partitions.yaml": _partitions(site)}


def how_to_use(site: Site) -> str:
    return USE.format(name=site.cluster) + (" --slurm-status-command sacct" if site.needs_sacct else "")


def _profile(site: Site) -> str:
    lines = [
        f"# The cluster {site.cluster}, for {USE.format(name=site.cluster)}",
        "executor: slurm",
        "# which job goes where; the file lies beside this one",
        "slurm-partition-config: partitions.yaml",
    ]
    if site.sacct_problem:
        lines += ["# sacct does not answer here", "slurm-status-command: squeue"]
    return "\n".join(lines + _account(site.accounts) + _models(gpu_models(site))) + "\n"


def _account(accounts: Accounts) -> list[str]:
    if not accounts.names:
        return []
    chosen = accounts.default if accounts.default in accounts.names else min(accounts.names)
    others = sorted(accounts.names - {chosen})
    qos = accounts.qos[chosen]
    return [
        "default-resources:",
        f"  slurm_account: {_resource(chosen)}" + (f"  # or {', '.join(others)}" if others else ""),
        *([f"# slurm-qos: {qos[0]}  # any of {', '.join(qos)}; the cluster's default without"] if len(qos) > 1 else []),
    ]


def _models(models: list[str]) -> list[str]:
    """No default resource: with a `gpu_model` even a job without a GPU asks for one."""
    if len(models) < 2:
        return []
    return [
        f"# any of {', '.join(models)}; to insist on one, write into config/config.yaml:",
        f"# gpu_model: {models[0]}",
    ]


def _resource(name: str) -> str:
    """A text for YAML and then for snakemake, which evaluates it as Python, and takes it as it is where that fails."""
    plain = name.isidentifier() and not hasattr(builtins, name)
    return _scalar(name if plain else repr(name))


def _scalar(text: str) -> str:
    import yaml

    return yaml.safe_dump(text, default_flow_style=True).removesuffix("\n").removesuffix("\n...")


def _partitions(site: Site) -> str:
    import yaml

    lines = [
        "# max_runtime in minutes, max_mem_mb in MB; each the most that one job on one node can have",
        "partitions:",
    ]
    for partition in site.usable():
        limits: dict[str, Any] = {"max_threads": partition.cpus, "max_mem_mb": partition.memory_mb}
        if partition.minutes is not None:
            limits["max_runtime"] = partition.minutes
        if partition.gpus:
            limits["max_gpu"] = partition.gpus
        if partition.models:
            limits["available_gpu_models"] = partition.models
        text = yaml.safe_dump({partition.name: limits}, sort_keys=False)
        lines += [f"  {line}" for line in text.splitlines()]
    return "\n".join(lines) + "\n"
