"""A cluster as one user may use it: partitions, accounts, whether the accounting answers."""

from __future__ import annotations

import getpass
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from dlpipe.doctor.cluster import Partition, read_nodes, read_partitions
from dlpipe.doctor.findings import ask

LONGEST_WAIT = 180
"""Seconds between two looks of the SLURM plugin at its jobs, when nothing happens for long."""


@dataclass(frozen=True)
class Accounts:
    """What the user may submit under; empty where the cluster keeps no accounts, or does not tell."""

    default: str = ""
    qos: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Account to the qualities of service that may be asked for with it."""
    problem: str = ""
    """Why SLURM did not tell."""

    @property
    def names(self) -> frozenset[str]:
        return frozenset(self.qos)

    @property
    def all_qos(self) -> frozenset[str]:
        return frozenset(name for names in self.qos.values() for name in names)


@dataclass(frozen=True)
class Site:
    """What a site's profile is made of."""

    cluster: str
    partitions: tuple[Partition, ...]
    accounts: Accounts
    sacct_problem: str
    """Why `sacct` does not answer, so that the state of jobs must come from `squeue`; empty when it does."""
    job_age: int
    """Seconds that SLURM remembers a finished job, and `squeue` shows it."""

    @property
    def needs_sacct(self) -> bool:
        """Whether `squeue`, which the project's profile names, would miss the end of jobs, and `sacct` would not."""
        return self.job_age < LONGEST_WAIT and not self.sacct_problem

    def usable(self) -> list[Partition]:
        """Where this user's jobs can be sent, whether or not a node is up just now."""
        return [p for p in self.partitions if p.state == "UP" and p.nodes and admitted(p, self.accounts)]


def admitted(partition: Partition, accounts: Accounts) -> bool:
    return partition.takes("accounts", accounts.names) and partition.takes("qos", accounts.all_qos)


def gpu_models(site: Site) -> list[str]:
    return sorted({model for partition in site.usable() for model in partition.models})


def read_settings(text: str) -> dict[str, str]:
    """From `scontrol show config`."""
    lines = (line.partition("=") for line in text.splitlines())
    return {key.strip(): value.strip() for key, _, value in lines}


def read_site(settings: Mapping[str, str]) -> Site:
    nodes = read_nodes(ask("scontrol", "-o", "show", "node").text)
    return Site(
        cluster=re.sub(r"[^A-Za-z0-9_-]", "", settings.get("ClusterName", "")) or "site",
        partitions=tuple(read_partitions(ask("scontrol", "-o", "show", "partition").text, nodes)),
        accounts=_accounts(),
        sacct_problem=ask("sacct", "-X", "-n", "-P", "--format=JobID").problem,
        job_age=int((re.match(r"[0-9]+", settings.get("MinJobAge", "")) or ["0"])[0]),
    )


def _accounts() -> Accounts:
    command = ("sacctmgr", "-nP", "show", "user", f"name={user()}", "withassoc")
    answer = ask(*command, "format=DefaultAccount,Account,QOS")
    rows = [line.split("|") for line in answer.text.splitlines() if line.count("|") == 2]
    if answer.problem or not rows:
        return Accounts(problem=answer.problem)
    return Accounts(rows[0][0], {account: tuple(filter(None, qos.split(","))) for _, account, qos in rows})


def user() -> str:
    """The name that SLURM knows the user by, or the number where the machine knows no name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())
