"""The workflow on a real SLURM: whatever befalls its jobs, the results are those of an undisturbed local run."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.slurm.cluster import Cluster
from tests.slurm.driver import LONG, Workspace, said, until
from tests.workflow.test_workflow import snakemake
from tests.workspace import EXPERIMENT

pytestmark = pytest.mark.slow  # every job starts snakemake twice and imports torch, and SLURM takes its time

ON_GPUS = EXPERIMENT + "resources: {gpu: 1}\n"


class Finished(NamedTuple):
    work: Workspace
    devices: list[dict[str, str]]
    """At moments of the run: the jobs that were running a stage, and the GPU that each was given."""


@pytest.fixture(scope="module")
def finished(cluster: Cluster, local: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """The small study on the cluster, each stage that computes asking for a GPU."""
    work, seen = Workspace(tmp_path_factory.mktemp("cluster-run"), ON_GPUS), []
    with work.driver(cluster) as driver:
        while driver.poll() is None:
            seen.append(cluster.devices())
            time.sleep(0.1)
        work.finish(driver)
    return Finished(work, seen)


def test_the_results_are_those_of_a_local_run(finished: Finished, local: Workspace) -> None:
    assert finished.work.digests() == local.digests()
    verdicts = [work.folder / "results" / "report" / "demo.json" for work in (finished.work, local)]
    assert verdicts[0].read_bytes() == verdicts[1].read_bytes()  # the page beside them tells times too


def test_each_job_has_a_gpu_of_its_own(finished: Finished) -> None:
    """SLURM gives one of the two to each job that computes, and no two at a time the same."""
    given = {job: device for moment in finished.devices for job, device in moment.items() if device}
    assert set(given.values()) == {"0", "1"}
    assert len(given) >= 5  # of nine: a short one may run between two looks
    for moment in finished.devices:
        used = [device for device in moment.values() if device]
        assert len(used) == len(set(used)), moment


def test_accounting_knows_every_job_and_what_it_asked_for(finished: Finished, cluster: Cluster) -> None:
    (run,) = finished.work.runs()
    rows = [row[1:] for row in cluster.accounting("JobName", "State", "ReqTRES") if row[0] == run]
    assert len(rows) == 1 + 3 + 3 + 3 + 1  # prepare, pretrain, finetune, evaluate, plot; fetch and report stay here
    assert {state for state, _ in rows} == {"COMPLETED"}
    assert sum("gres/gpu=1" in asked for _, asked in rows) == 9
    memory = sorted(int(asked.split("mem=")[1].split("M")[0]) for _, asked in rows)
    assert memory == [800] + 6 * [1501] + 4 * [1502]  # the plot, what trains, what prepares or evaluates


def test_a_chain_of_layers_is_one_job_by_one_line(cluster: Cluster, local: Workspace, tmp_path: Path) -> None:
    work = Workspace(tmp_path / "run", ON_GPUS)
    layers = [str(path.relative_to(local.folder)) for path in local.folder.glob("results/layers/*/manifest.json")]
    work.run_on(cluster, "--groups", "pretrain=chain", "--config", "experiments=small", "--", *layers)
    assert work.log.count("has been submitted with SLURM jobid") == 2  # prepare, and the chain
    assert work.digests("pretrain") == local.digests("pretrain")


def test_a_job_over_its_memory_gets_more(cluster: Cluster, local_long: Workspace, tmp_path: Path) -> None:
    work = Workspace(tmp_path / "run", LONG + "resources: {mem_mb: 200}\n")
    work.take_data_from(local_long)
    snakemake(work.folder, "-n")
    work.run_on(cluster, work.target)
    (run,) = work.runs()
    rows = [row[1:] for row in cluster.accounting("JobName", "State", "ReqTRES") if row[0] == run]
    asked = [row[1].split("mem=")[1].split(",")[0] for row in rows]
    assert asked == ["200M", "400M", "800M"][: len(asked)]
    assert len(asked) > 1
    assert [row[0] for row in rows[-2:]] == ["FAILED", "COMPLETED"]
    slurm_logs = (work.folder / ".snakemake" / "slurm_logs").rglob("*.log")  # those of jobs that failed are kept
    assert all("memory limit" in path.read_text() for path in slurm_logs)
    assert work.digests("pretrain") == local_long.digests("pretrain")


@pytest.fixture(autouse=True)
def _no_job_stays_behind(cluster: Cluster) -> Iterator[None]:
    yield
    cluster.run("scancel", "--user=root")
    until(lambda: cluster.jobs() == [])


def job_that_trains(work: Workspace, cluster: Cluster) -> str:
    """Id of the one running job, once it trains."""
    until(work.layer_is_training)
    (job,) = cluster.jobs("RUNNING")
    return job


def start_again_at_once(cluster: Cluster, job: str) -> None:
    """SLURM lets a job that it put back wait two minutes. It refuses one whose last run has not quite ended."""
    until(lambda: job in cluster.jobs("PENDING") and cluster.has_ended(job))
    cluster.run("scontrol", "update", f"JobId={job}", "StartTime=now")


def test_a_cancelled_job_saves_its_state_and_its_retry_goes_on(
    long_run: Workspace, local_long: Workspace, cluster: Cluster
) -> None:
    snakemake(long_run.folder, "-n")
    with long_run.driver(cluster, long_run.target) as driver:
        cluster.run("scancel", job_that_trains(long_run, cluster))
        until((long_run.folder / "results" / ".checkpoints" / long_run.layer).exists)
        long_run.finish(driver)
    assert long_run.log.count("has been submitted with SLURM jobid") == 2
    assert long_run.digests("pretrain") == local_long.digests("pretrain")


def test_a_requeued_job_goes_on(long_run: Workspace, local_long: Workspace, cluster: Cluster) -> None:
    snakemake(long_run.folder, "-n")
    with long_run.driver(cluster, long_run.target) as driver:
        job = job_that_trains(long_run, cluster)
        until(lambda: f"job {job}" in long_run.status() and "epoch" in long_run.status())
        cluster.run("scontrol", "requeue", job)
        start_again_at_once(cluster, job)
        long_run.finish(driver)
    assert long_run.digests("pretrain") == local_long.digests("pretrain")


def test_a_requeued_job_that_meets_an_orphan_of_its_stage_waits_for_it(
    long_run: Workspace, local_long: Workspace, cluster: Cluster
) -> None:
    """The orphan is out of SLURM's sight and trains on. The job waits, is requeued, waits again, and takes over what
    the orphan has made."""
    snakemake(long_run.folder, "-n")
    log = long_run.folder / "results" / "logs" / "pretrain" / f"{long_run.layer}.log"
    waits = "is making .*. Waiting for it"
    with long_run.orphan() as orphan, long_run.driver(cluster, long_run.target) as driver:
        until(long_run.layer_is_training)
        os.kill(orphan.pid, signal.SIGSTOP)
        until(lambda: said(log, waits), otherwise=lambda: long_run.log)
        (job,) = cluster.jobs("RUNNING")
        cluster.run("scontrol", "requeue", job)
        start_again_at_once(cluster, job)
        until(lambda: said(log, waits), otherwise=lambda: long_run.log)
        os.kill(orphan.pid, signal.SIGCONT)
        long_run.finish(driver)
        assert orphan.wait(60) == 0
    assert long_run.digests("pretrain") == local_long.digests("pretrain")


def test_a_node_goes_down_and_comes_back(long_run: Workspace, local_long: Workspace, cluster: Cluster) -> None:
    snakemake(long_run.folder, "-n")
    with long_run.driver(cluster, long_run.target) as driver:
        job = job_that_trains(long_run, cluster)
        cluster.run("scontrol", "update", f"NodeName={cluster.host}", "State=DOWN", "Reason=test")
        until(lambda: job in cluster.jobs("PENDING") and cluster.has_ended(job))
        cluster.run("scontrol", "update", f"NodeName={cluster.host}", "State=RESUME")
        until(lambda: cluster.node_state() in ("idle", "mix"))
        start_again_at_once(cluster, job)
        long_run.finish(driver)
    assert long_run.digests("pretrain") == local_long.digests("pretrain")


def test_a_killed_driver_is_started_again_while_its_job_still_runs(
    long_run: Workspace, local_long: Workspace, cluster: Cluster
) -> None:
    """The new driver says how to free the old one's lock; its own job waits for the one that is still training."""
    snakemake(long_run.folder, "-n")
    with long_run.driver(cluster, long_run.target) as driver:
        job_that_trains(long_run, cluster)
        os.killpg(driver.pid, signal.SIGKILL)
        driver.wait()
    long_run.run_on(cluster, long_run.target, code=1)
    assert "--unlock" in long_run.log
    snakemake(long_run.folder, "--unlock")
    long_run.run_on(cluster, long_run.target)
    assert long_run.digests("pretrain") == local_long.digests("pretrain")
