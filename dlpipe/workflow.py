"""What the Snakefile asks: paths, inputs and resources of jobs, from the plan of the configured experiments.

Snakemake's config becomes a plan at parse time; each stage's document is left in `results/stages`, so that a job, on a
cluster too, needs nothing but its id. Digests name the outputs, so a file that stands is never out of date.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from dlpipe.artifacts import MANIFEST, Stage, Store, write_stages
from dlpipe.errors import StepError
from dlpipe.files import write_if_changed
from dlpipe.plan import EXPERIMENTS, Plan, make_plan
from dlpipe.resources import CAPS, Size, ask, size_of
from dlpipe.spec.loading import find_experiment, load
from dlpipe.spec.problems import SpecError

CONFIG_KEYS = (
    "experiments",
    "scale",
    "set",
    "data",
    "results",
    "experiments_folder",
    "mirrors",
    "offline",
    "device",
    "jobs_per_gpu",
    "gpu_model",
    "max_mem_mb",
    "max_runtime",
    "max_gpu",
)
START_SECONDS = 60
"""At most, of a cluster's job, until its command starts: Snakemake starts twice, from slow file systems."""


class Workflow:
    """The plan of a Snakemake run, in the words of a Snakefile."""

    def __init__(self, config: Mapping[str, Any], *, on_cluster: bool = False) -> None:
        """Ends the program with the message, and no traceback, when an experiment or the config is wrong.

        `on_cluster`: whether this Snakemake is the one that a cluster's job started to run its stage.
        """
        unknown = [key for key in config if key not in CONFIG_KEYS]
        if unknown:
            sys.exit(f"unknown config key {', '.join(map(repr, unknown))}; known are {', '.join(CONFIG_KEYS)}")
        self.config = config
        self.on_cluster = on_cluster
        self.caps = {name: self._cap(name, most) for name, most in CAPS.items()}
        self.sizes: dict[str, Size] = {}
        self.scale = str(config.get("scale", "demo"))
        self.store = Store(config.get("data", "data"), config.get("results", "results"))
        names = config.get("experiments") or []
        self.names = [str(n) for n in (names.split(",") if isinstance(names, str) else names)]
        self.root = Path(config.get("experiments_folder", EXPERIMENTS))
        self.overrides = [f"{path}={value}" for path, value in (config.get("set") or {}).items()]
        try:
            self.plan = self._plan()
        except (SpecError, StepError) as error:
            sys.exit(str(error))
        write_stages(self.store, self.plan.stages.values())
        self._write_plan()
        self._write_report_request()

    def _write_plan(self) -> None:
        """For `dlpipe status`; a job on a cluster, which plans again, finds it written."""
        config = {**self.config, "experiments": self.names, "scale": self.scale}
        document = {"config": config, "stages": list(self.plan.stages)}
        write_if_changed(self.store.last_plan, json.dumps(document, indent=1, sort_keys=True))

    def _plan(self) -> Plan:
        names = [find_experiment(name, self.root) for name in self.names]
        return make_plan([load(path, scale=self.scale, overrides=self.overrides) for path in names])

    @property
    def where(self) -> list[str]:
        """Arguments that tell a stage's command where things live."""
        return ["--data", str(self.store.data), "--results", str(self.store.results)]

    @property
    def _device(self) -> str:
        return str(self.config.get("device", "auto"))

    def device(self, wildcards: Any) -> list[str]:
        """What a stage computes on; one that asks for no GPU leaves those of the machine to others."""
        count = self.resource("gpu")(wildcards, attempt=1)
        arguments = ["--device", self._device if count else "cpu", "--threads", str(self._threads(wildcards))]
        jobs = self.config.get("jobs_per_gpu")
        return arguments if jobs is None else [*arguments, "--jobs-per-gpu", str(jobs)]

    def ranks(self, wildcards: Any) -> list[str]:
        """One process a GPU, of those that train."""
        count = self.resource("gpu")(wildcards, attempt=1)
        return ["--ranks", str(count)] if count > 1 else []

    def gpu_model(self, wildcards: Any) -> str:
        """The model that a cluster is asked for, which is the site's affair; nothing for a job without a GPU."""
        return str(self.config.get("gpu_model", "")) if self.resource("gpu")(wildcards, attempt=1) else ""

    def deadline(self, wildcards: Any, resources: Any) -> list[str]:
        """On a cluster training stops in time for the job's limit, its state saved; a workstation sets no limit."""
        seconds = 60 * int(resources.runtime)
        return ["--deadline", str(max(seconds // 2, seconds - START_SECONDS))] if self.on_cluster else []

    @property
    def sources(self) -> list[str]:
        """Arguments of `fetch`: mirrors in order, and whether the network may be used."""
        mirrors = self.config.get("mirrors") or []
        arguments = [
            part for m in ([mirrors] if isinstance(mirrors, str) else mirrors) for part in ("--mirror", str(m))
        ]
        return [*arguments, *(["--offline"] if self.config.get("offline") else [])]

    def manifest(self, rule: str) -> str:
        """The output of a rule's jobs; `{stage}` is the wildcard."""
        return str(self.store.folder(rule, "{stage}") / MANIFEST)

    def folder(self, rule: str) -> str:
        return str(self.store.folder(rule, "{stage}"))

    def log(self, rule: str) -> str:
        return str(self.store.results / "logs" / rule / "{stage}.log")

    def benchmark(self, rule: str) -> str:
        return str(self.store.results / "benchmarks" / rule / "{stage}.tsv")

    def inputs(self, wildcards: Any) -> list[str]:
        """What a stage reads: the manifests of its inputs."""
        stage = self._stage(wildcards)
        return [str(self.store.output(self.plan.stages[i])) for i in stage.input_ids()]

    def resource(self, name: str) -> Callable[..., int]:
        """A function of the job and the attempt; see `dlpipe.resources`."""

        def amount(wildcards: Any, attempt: int) -> int:
            stage = self._stage(wildcards)
            declared, cap = self.plan.resources.get(stage.id, {}).get(name), self.caps[name]
            size = self._size(stage)
            return ask(name, stage, size, declared=declared, device=self._device, attempt=attempt, cap=cap)

        return amount

    def cores(self, wildcards: Any) -> int:
        """Of a job: the threads of each of its processes, of which those that train have one a GPU."""
        return self._threads(wildcards) * max(1, self.resource("gpu")(wildcards, attempt=1))

    def _threads(self, wildcards: Any) -> int:
        """By the stage alone: the number of threads changes the order of sums, so neither cores nor retries may."""
        return int(self._stage(wildcards).hints["threads"])

    def _size(self, stage: Stage) -> Size:
        if stage.id not in self.sizes:
            self.sizes[stage.id] = size_of(stage, self.plan.stages.__getitem__)
        return self.sizes[stage.id]

    def _cap(self, name: str, default: int) -> int:
        value = self.config.get(f"max_{name}", default)
        if type(value) is not int or value < 1:
            sys.exit(f"config key 'max_{name}' is {value!r}; it must be a whole number above 0")
        return value

    def _stage(self, wildcards: Any) -> Stage:
        try:
            return self.plan.stages[wildcards.stage]
        except KeyError:
            sys.exit(f"no stage {wildcards.stage} in the plan of {', '.join(self.names)} at scale {self.scale}")

    @property
    def report(self) -> str:
        """The HTML file: one a scale, of whichever experiments were configured last."""
        return str(self._report_base.with_suffix(".html"))

    @property
    def verdicts(self) -> str:
        return str(self._report_base.with_suffix(".json"))

    @property
    def report_request(self) -> str:
        """A document that changes when the report would: the rule's one input whose age counts."""
        return str(self.store.results / "stages" / f"report-{self.scale}.json")

    @property
    def _report_base(self) -> Path:
        return self.store.results / "report" / self.scale

    @property
    def report_inputs(self) -> list[str]:
        ids = [e.figures for e in self.plan.experiments]
        ids += [i for e in self.plan.experiments for v in e.variants for i in v.metrics]
        return [str(self.store.output(self.plan.stages[i])) for i in dict.fromkeys(ids)]

    @property
    def report_arguments(self) -> list[str]:
        """What `dlpipe report` is told: the experiments, the scale and the overrides of this run."""
        overrides = [part for override in self.overrides for part in ("-s", override)]
        root = ["--experiments", str(self.root)]
        return [*self.names, "--scale", self.scale, *root, *overrides, "--to", self.report, *self.where]

    def _write_report_request(self) -> None:
        request = [[e.name, e.figures, e.loaded.experiment.model_dump(mode="json")] for e in self.plan.experiments]
        write_if_changed(Path(self.report_request), json.dumps(request, indent=1, sort_keys=True))
