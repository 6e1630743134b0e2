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
    return {
        folder / "config.yaml": _profile(site),
        folder / "partitions.yaml": _partitions(site),
        Path("config/config.yaml"): _config(site),
    }


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
    return "\n".join(lines + _account(site.accounts)) + "\n"


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


def _config(site: Site) -> str:
    """What is of the machine and not of Snakemake: bounds for the retries, which ask for more each time."""
    lines = [
        "# besides what is there: the most that a job can ask for, here",
        f"max_mem_mb: {_most(site, 'memory_mb')}",
    ]
    minutes = _most(site, "minutes")
    if minutes is not None:
        lines.append(f"max_runtime: {minutes}")
    most = max(partition.gpus for partition in site.usable())
    lines.append(f"max_gpu: {most}" if most else "device: cpu  # there are no GPUs")
    models = gpu_models(site)
    if len(models) > 1:
        lines += [f"# any of {', '.join(models)}; to insist on one:", f"# gpu_model: {models[0]}"]
    return "\n".join(lines) + "\n"


def _most(site: Site, limit: str) -> int | None:
    """The largest of the partitions with GPUs or of those without, whichever is less: each job must find its place."""
    kinds = [[p for p in site.usable() if bool(p.gpus) == gpus] for gpus in (False, True)]
    largest = [_largest([getattr(partition, limit) for partition in kind]) for kind in kinds if kind]
    known = [value for value in largest if value is not None]
    return min(known) if known else None


def _largest(values: list[int | None]) -> int | None:
    """None is no limit."""
    known = [value for value in values if value is not None]
    return max(known) if len(known) == len(values) else None


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
