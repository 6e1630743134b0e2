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

from dlpipe.artifacts import MANIFEST, Stage, Store, write_if_changed, write_stages
from dlpipe.errors import StepError
from dlpipe.plan import EXPERIMENTS, Plan, make_plan
from dlpipe.spec.problems import SpecError
from dlpipe.spec.variants import find_experiment, load

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
)
DEFAULT_RESOURCES = {
    "fetch": {"mem_mb": 500, "runtime": 60},
    "prepare": {"mem_mb": 2000, "runtime": 20},
    "pretrain": {"mem_mb": 4000, "runtime": 240, "gpu": 0},
    "finetune": {"mem_mb": 4000, "runtime": 240, "gpu": 0},
    "evaluate": {"mem_mb": 4000, "runtime": 30, "gpu": 0},
    "plot": {"mem_mb": 1000, "runtime": 10},
}
"""mem_mb in MB, runtime in minutes; an experiment's `resources` overrides them for its own stages."""


class Workflow:
    """The plan of a Snakemake run, in the words of a Snakefile."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        """Ends the program with the message, and no traceback, when an experiment or the config is wrong."""
        unknown = [key for key in config if key not in CONFIG_KEYS]
        if unknown:
            sys.exit(f"unknown config key {', '.join(map(repr, unknown))}; known are {', '.join(CONFIG_KEYS)}")
        self.config = config
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
        self._write_report_request()

    def _plan(self) -> Plan:
        names = [find_experiment(name, self.root) for name in self.names]
        return make_plan([load(path, scale=self.scale, overrides=self.overrides) for path in names])

    @property
    def where(self) -> list[str]:
        """Arguments that tell a stage's command where things live."""
        return ["--data", str(self.store.data), "--results", str(self.store.results)]

    @property
    def device(self) -> list[str]:
        jobs = self.config.get("jobs_per_gpu")
        sharing = [] if jobs is None else ["--jobs-per-gpu", str(jobs)]
        return ["--device", str(self.config.get("device", "auto")), *sharing]

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
        return [self._output(self.plan.stages[i]) for i in stage.input_ids()]

    def resource(self, rule: str, name: str) -> Callable[[Any], int]:
        """A function of the job: what the stage's experiments ask for, else the rule's default."""

        def amount(wildcards: Any) -> int:
            return self.plan.resources.get(wildcards.stage, {}).get(name, DEFAULT_RESOURCES[rule][name])

        return amount

    def _stage(self, wildcards: Any) -> Stage:
        try:
            return self.plan.stages[wildcards.stage]
        except KeyError:
            sys.exit(f"no stage {wildcards.stage} in the plan of {', '.join(self.names)} at scale {self.scale}")

    def _output(self, stage: Stage) -> str:
        folder = self.store.folder(stage.rule, stage.id)
        return str(folder if stage.rule == "plot" else folder / MANIFEST)

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
        return [self._output(self.plan.stages[i]) for i in dict.fromkeys(ids)]

    @property
    def report_arguments(self) -> list[str]:
        """What `dlpipe report` is told: the experiments, the scale and the overrides of this run."""
        overrides = [part for override in self.overrides for part in ("-s", override)]
        root = ["--experiments", str(self.root)]
        return [*self.names, "--scale", self.scale, *root, *overrides, "--to", self.report, *self.where]

    def _write_report_request(self) -> None:
        request = [[e.name, e.figures, e.loaded.experiment.model_dump(mode="json")] for e in self.plan.experiments]
        write_if_changed(Path(self.report_request), json.dumps(request, indent=1, sort_keys=True))
