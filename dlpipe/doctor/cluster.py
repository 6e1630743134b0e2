"""What SLURM says of the cluster, read from the answers of `scontrol`: partitions, nodes, GPUs.

`scontrol -o` prints a line a thing, `Key=value` after `Key=value`. Keys come and go with SLURM's versions, values may
hold spaces, and some are free text: the first of two equal keys is the fact, a later one is somebody's words.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

OUT_OF_WORK = {"DOWN", "DRAIN", "DRAINED", "DRAINING", "ERROR", "FAIL", "FAILING", "FUTURE", "INVAL", "INVALID_REG"} | {
    "NOT_RESPONDING",
    "NO_RESPOND",
    "UNKNOWN",
}
"""Parts of a node's state that mean: no job starts here until somebody acts."""


@dataclass(frozen=True)
class Node:
    name: str
    state: str
    cpus: int
    memory_mb: int
    """What jobs can have: without what SLURM keeps for the system."""
    gpus: Mapping[str, int]
    """Model to count; GPUs without a model are under the empty name."""
    partitions: tuple[str, ...]

    @property
    def works(self) -> bool:
        return not set(re.findall(r"[A-Z_]+", self.state)) & OUT_OF_WORK


@dataclass(frozen=True)
class Partition:
    name: str
    default: bool
    state: str
    minutes: int | None
    """The longest a job may take; None is without limit."""
    cpus_limit: int | None
    memory_limit_mb: int | None
    admits: Mapping[str, frozenset[str]]
    """Under "accounts" and "qos", which alone may use it; a missing key is all."""
    refuses: Mapping[str, frozenset[str]]
    nodes: tuple[Node, ...] = field(default=())

    @property
    def works(self) -> bool:
        return self.state == "UP" and any(node.works for node in self.nodes)

    @property
    def cpus(self) -> int:
        """The most that one job on one node can have."""
        return _least(max((node.cpus for node in self.nodes), default=0), self.cpus_limit)

    @property
    def memory_mb(self) -> int:
        """The most that one job on one node can have."""
        return _least(max((node.memory_mb for node in self.nodes), default=0), self.memory_limit_mb)

    @property
    def gpus(self) -> int:
        """The most that one job on one node can have."""
        return max((sum(node.gpus.values()) for node in self.nodes), default=0)

    @property
    def models(self) -> list[str]:
        return sorted({model for node in self.nodes for model in node.gpus if model})

    def takes(self, what: str, mine: frozenset[str]) -> bool:
        """Whether one of my accounts, or qos, may use it. Where SLURM tells none of mine, none is refused."""
        usable = mine - self.refuses.get(what, frozenset())
        return not mine or bool(usable & self.admits.get(what, usable))


def _least(most: int, limit: int | None) -> int:
    return most if limit is None else min(most, limit)


def read_nodes(text: str) -> list[Node]:
    """From `scontrol -o show node`."""
    return [_node(fields) for fields in map(_fields, text.splitlines()) if "NodeName" in fields]


def _node(fields: Mapping[str, str]) -> Node:
    return Node(
        name=fields["NodeName"],
        state=fields.get("State", "UNKNOWN"),
        cpus=_number(fields.get("CPUEfctv", fields.get("CPUTot"))) or 0,
        memory_mb=max(0, (_number(fields.get("RealMemory")) or 0) - (_number(fields.get("MemSpecLimit")) or 0)),
        gpus=read_gpus(fields.get("Gres", "")),
        partitions=tuple(fields.get("Partitions", "").split(",")),
    )


def read_partitions(text: str, nodes: list[Node]) -> list[Partition]:
    """From `scontrol -o show partition`; each with those of the nodes that are in it."""
    found = []
    for fields in map(_fields, text.splitlines()):
        if "PartitionName" in fields:
            name = fields["PartitionName"]
            found.append(_partition(name, fields, tuple(node for node in nodes if name in node.partitions)))
    return found


def _partition(name: str, fields: Mapping[str, str], nodes: tuple[Node, ...]) -> Partition:
    keys = {"accounts": "Accounts", "qos": "Qos"}
    return Partition(
        name=name,
        default=fields.get("Default") == "YES",
        state=fields.get("State", "UNKNOWN"),
        minutes=read_minutes(fields.get("MaxTime", "")),
        cpus_limit=_number(fields.get("MaxCPUsPerNode")),
        memory_limit_mb=_number(fields.get("MaxMemPerNode")),
        admits={
            what: _names(fields[f"Allow{k}"]) for what, k in keys.items() if fields.get(f"Allow{k}", "ALL") != "ALL"
        },
        refuses={what: _names(fields[f"Deny{k}"]) for what, k in keys.items() if f"Deny{k}" in fields},
        nodes=nodes,
    )


def _names(text: str) -> frozenset[str]:
    return frozenset(name for name in text.lower().split(",") if name)


def _fields(line: str) -> dict[str, str]:
    fields: dict[str, str] = {}
    for key, value in re.findall(r"(?:^|\s)([A-Z]\w*)=(.*?)(?=\s+[A-Z]\w*=|\s*$)", line):
        fields.setdefault(key, value)
    return fields


def _number(text: str | None) -> int | None:
    return int(text) if text and text.isdecimal() else None


def read_gpus(gres: str) -> dict[str, int]:
    """From a node's generic resources, as in `gpu:a100:4(S:0-1),gpu:2,mps:400`."""
    gpus: dict[str, int] = {}
    for resource in re.sub(r"\([^)]*\)", "", gres).split(","):
        parts = [part for part in resource.strip().split(":") if part != "no_consume"]
        if parts and parts[0] == "gpu":
            count = int(parts.pop()) if parts[-1].isdecimal() else 1
            model = ":".join(parts[1:])
            gpus[model] = gpus.get(model, 0) + count
    return gpus


def read_minutes(text: str) -> int | None:
    """SLURM's `days-hours:minutes:seconds`, in whole minutes; None for UNLIMITED and what is no time."""
    match = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", text)
    if not match:
        return None
    days, *clock = match.groups()
    first, second, _ = (int(part or 0) for part in clock)
    if days is not None:
        return int(days) * 1440 + first * 60 + second
    if match[4] is not None:
        return first * 60 + second
    return first  # minutes, or minutes:seconds
