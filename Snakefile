"""dlpipe's workflow: `snakemake --cores all` runs the experiments of config/config.yaml and writes their report."""

from dlpipe.workflow import Workflow


configfile: "config/config.yaml"


# One environment for every rule; on a cluster without it: snakemake --sdm apptainer
container: "docker://python:3.11-slim"


WORK = Workflow(config, on_cluster=workflow.remote_exec)


wildcard_constraints:
    stage=r"[a-zA-Z0-9._-]+",


# Compute nodes often have no network, and a report takes less time than a place in the queue.
localrules:
    all,
    fetch,
    report,


rule all:
    default_target: True
    input:
        WORK.report,


include: "workflow/rules/fetch.smk"
include: "workflow/rules/prepare.smk"
include: "workflow/rules/pretrain.smk"
include: "workflow/rules/finetune.smk"
include: "workflow/rules/evaluate.smk"
include: "workflow/rules/plot.smk"
include: "workflow/rules/report.smk"
