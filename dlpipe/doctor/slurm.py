"""Can jobs be sent to this SLURM cluster, and where would they run."""

from __future__ import annotations

import os
import re
import shutil
import socket
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from dlpipe.doctor.cluster import Node, Partition
from dlpipe.doctor.findings import Finding, ask, fail, look, note, ok, warn
from dlpipe.doctor.folders import existing, file_system
from dlpipe.doctor.installation import libraries
from dlpipe.doctor.sites import LONGEST_WAIT, Site, admitted, gpu_models, read_settings, read_site, user

PROGRAMS = ("sinfo", "sbatch", "scontrol", "squeue", "srun", "scancel")
SHARED = (
    "nfs",
    "lustre",
    "gpfs",
    "beegfs",
    "ceph",
    "panfs",
    "weka",
    "glusterfs",
    "orangefs",
    "pvfs2",
    "afs",
    "cifs",
    "smb",
)
LOCAL = ("tmpfs", "ramfs", "overlay", "ext", "xfs", "btrfs", "zfs", "f2fs", "squashfs", "vfat", "exfat")


def slurm(data: Path, results: Path) -> tuple[list[Finding], Site | None]:
    """The findings, and the site unless SLURM did not tell enough of it."""
    findings = look("programs", programs) + look("plugin", libraries, "plugin", "slurm")
    if shutil.which("scontrol") is None:
        return findings, None
    answers = look("controller", controller)
    findings += answers
    if any(finding.state == "FAIL" for finding in answers):
        return findings, None
    settings = read_settings(ask("scontrol", "show", "config").text)
    site = read_site(settings)
    findings += look("login", login_node)
    findings += look("SLURM_CONF", configuration, settings)
    findings += look("accounting", accounting, site)
    findings += look("job status", job_status, site)
    findings += look("account", account, site, settings)
    findings += look("partitions", partitions, site)
    findings += look("GPUs", gpus, site)
    places = {"project": Path.cwd(), "data": data, "results": results, "environment": Path(sys.prefix)}
    findings += look("folders", shared_folders, places, site)
    return findings, site


def programs() -> list[Finding]:
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if len(missing) == len(PROGRAMS):
        advice = "Log in to a node from which jobs are submitted, or load its module (`module load slurm`) first."
        return [fail("programs", "this machine is not a SLURM login node: it has none of SLURM's programs", advice)]
    if missing:
        advice = "Have the rest of SLURM's client programs installed, or put them on your path."
        return [fail("programs", f"{', '.join(missing)} missing", advice)]
    return [ok("programs", ", ".join(PROGRAMS))]


def controller() -> list[Finding]:
    """`scontrol ping` knows at once; every other program tries for nine seconds before it says so."""
    ping = ask("scontrol", "ping")
    up = [line.strip() for line in ping.text.splitlines() if " is UP" in line]  # a backup may stand in for the primary
    if not up:
        advice = "Ask the cluster's administrators: no job can be submitted until the controller answers."
        return [fail("controller", ping.problem or "no answer", advice)]
    return [ok("controller", f"{up[0]}, {ask('sinfo', '--version').text.strip()}")]


def login_node() -> list[Finding]:
    if job := os.environ.get("SLURM_JOB_ID"):
        advice = (
            "Start snakemake on the login node: started in a job it dies with the job, and its jobs inherit settings."
        )
        return [note("login", f"this is job {job}", advice)]
    return []


def configuration(settings: Mapping[str, str]) -> list[Finding]:
    """Snakemake's job step takes SLURM_CONF out of its environment, and then calls `srun`."""
    if "SLURM_CONF" not in os.environ:
        return []
    without = ask("/usr/bin/env", "-u", "SLURM_CONF", "scontrol", "show", "config")
    if read_settings(without.text).get("ClusterName") == settings.get("ClusterName"):
        return [ok("SLURM_CONF", "is set, and the cluster is found without it too")]
    advice = "Have it linked to /etc/slurm/slurm.conf on every node: jobs lose the variable, and their `srun` fails."
    return [warn("SLURM_CONF", f"{os.environ['SLURM_CONF']}; without it another cluster or none is found", advice)]


def accounting(site: Site) -> list[Finding]:
    """Whether the cluster keeps the record that `sacct` reads."""
    if not site.sacct_problem:
        return [ok("accounting", "sacct answers")]
    advice = "Jobs are followed by `squeue` instead, as the profile below says; the efficiency report stays empty."
    return [note("accounting", f"sacct does not answer: {site.sacct_problem}", advice)]


def job_status(site: Site) -> list[Finding]:
    """Whether a job is seen to end: `squeue` tells it of those alone that SLURM still remembers."""
    found = f"SLURM remembers a finished job for {site.job_age} s (MinJobAge)"
    if site.job_age >= LONGEST_WAIT:
        return [ok("job status", found)]
    if not site.sacct_problem:
        advice = (
            "Say `--slurm-status-command sacct`, as below: by `squeue` a job that is forgotten is never seen to end."
        )
        return [note("job status", found, advice)]
    advice = (
        "Have MinJobAge raised to 300: a job that is forgotten between two looks of snakemake is never seen to end."
    )
    return [warn("job status", found, advice)]


def account(site: Site, settings: Mapping[str, str]) -> list[Finding]:
    """Under which of the cluster's accounts this user's jobs run, and which qualities of service there are."""
    accounts = site.accounts
    if not accounts.names:
        if "associations" in settings.get("AccountingStorageEnforce", "").lower():
            advice = "Ask the cluster's administrators for an account: without one every job is refused."
            found = accounts.problem or f"{user()} has none, and this cluster wants one"
            return [fail("account", found, advice)]
        return [ok("account", "none needed")]
    each = "; ".join(f"{name} (QoS {', '.join(qos) or 'none'})" for name, qos in sorted(accounts.qos.items()))
    if len(accounts.names) > 1:
        advice = f"The profile below names {accounts.default or 'one'}; write another there if that shall pay."
        return [note("account", each, advice)]
    return [ok("account", each)]


def partitions(site: Site) -> list[Finding]:
    if not site.partitions:
        advice = "Ask the cluster's administrators which partitions you may use: jobs have nowhere to run."
        return [fail("partitions", "SLURM shows you none", advice)]
    findings = [_partition(partition, site) for partition in site.partitions]
    if not site.usable():
        advice = "Ask the cluster's administrators: jobs would be refused, or wait for ever."
        findings.append(fail("partitions", "none of them takes your jobs", advice))
    return findings


def _partition(partition: Partition, site: Site) -> Finding:
    subject = f"partition {partition.name}"
    found = describe(partition)
    if not admitted(partition, site.accounts):
        admits = ", ".join(sorted(name for names in partition.admits.values() for name in names)) or "others"
        return note(subject, f"{found}; not for you, but for {admits}", "It is left out of the partitions below.")
    if partition.state != "UP" or not partition.nodes:
        return note(subject, found, "It is left out of the partitions below.")
    if not partition.works:
        advice = "A job sent there waits until a node is back; `sinfo -R` tells why they are gone."
        return warn(subject, found, advice)
    return ok(subject, found)


def describe(partition: Partition) -> str:
    """In words: state, nodes, the longest job, and the most that one job on one node can have."""
    working = sum(node.works for node in partition.nodes)
    parts = [
        "default" if partition.default else "",
        partition.state.lower() if partition.state != "UP" else "",
        f"{working} of {len(partition.nodes)} nodes work" if partition.nodes else "no nodes",
        f"jobs up to {duration(partition.minutes)}" if partition.minutes is not None else "jobs of any length",
        f"{partition.cpus} CPUs, {partition.memory_mb / 1024:.0f} GiB" if partition.nodes else "",
        _gpus(partition.nodes),
    ]
    return ", ".join(part for part in parts if part)


def duration(minutes: int) -> str:
    days, rest = divmod(minutes, 1440)
    hours, left = divmod(rest, 60)
    parts = [f"{days} d" if days else "", f"{hours} h" if hours else "", f"{left} min" if left else ""]
    return " ".join(part for part in parts if part) or "0 min"


def _gpus(nodes: Sequence[Node]) -> str:
    """The kinds of GPU nodes, as in `4 a100 or 2 v100`."""
    kinds = {
        " + ".join(f"{n} {model or ('GPU' if n == 1 else 'GPUs')}" for model, n in sorted(node.gpus.items()))
        for node in nodes
    }
    named = sorted(kind for kind in kinds if kind)
    return f"{' or '.join(named)} a node" if named else ""


def gpus(site: Site) -> list[Finding]:
    """Whether a job that asks for a GPU gets one, and how its model is named."""
    with_gpus = [partition for partition in site.usable() if partition.gpus]
    if not with_gpus:
        advice = (
            "Say `--config device=cpu`: left to itself a long stage asks for a GPU, and such a job would be refused."
        )
        return [note("GPUs", "no partition that takes your jobs has any", advice)]
    if not any(node.works and node.gpus for partition in with_gpus for node in partition.nodes):
        advice = "A job that asks for a GPU waits until one of these nodes is back; `sinfo -R` tells why they are gone."
        return [warn("GPUs", "every node that has some is out of work", advice)]
    models = gpu_models(site)
    names = ", ".join(partition.name for partition in with_gpus)
    found = (
        f"{', '.join(models) or 'of no named model'}, in {'partition' if len(with_gpus) == 1 else 'partitions'} {names}"
    )
    odd = [model for model in models if not re.fullmatch(r"[a-zA-Z0-9_.]+", model)]
    if odd:
        advice = f"The SLURM plugin refuses `gpu_model: {odd[0]}` for its spelling: choose the GPU by its partition."
        return [note("GPUs", found, advice)]
    return [ok("GPUs", found)]


def shared_folders(places: Mapping[str, Path], site: Site) -> list[Finding]:
    """Whether the other nodes see what jobs read and write."""
    nodes = {node.name for partition in site.partitions for node in partition.nodes}
    if nodes == {socket.gethostname().partition(".")[0]}:
        return [ok("folders", "this machine is the whole cluster, so it sees them")]
    kinds = {name: file_system(existing(place)) for name, place in places.items()}
    return list(_shared(places, kinds))


def _shared(places: Mapping[str, Path], kinds: Mapping[str, str]) -> Iterator[Finding]:
    shared = {name for name, kind in kinds.items() if kind.removeprefix("fuse.").startswith(SHARED)}
    if shared:
        yield ok("folders", ", ".join(f"{name} on {kinds[name]}" for name in places if name in shared))
    local = [name for name in places if name not in shared and kinds[name].startswith(LOCAL)]
    if local:
        named = ", ".join(f"{name} on {kinds[name]}" for name in local)
        advice = (
            "Put them where all nodes see them, in your home or on a scratch file system; fine if this one is exported."
        )
        yield warn("folders", f"{named}: this machine's own disk, it seems", advice)
    unknown = [name for name in places if name not in shared and name not in local]
    if unknown:
        named = ", ".join(f"{name} on {kinds[name] or 'an unknown file system'}" for name in unknown)
        advice = "Make sure that the nodes see them: `srun ls` of such a folder tells."
        yield note("folders", named, advice)
