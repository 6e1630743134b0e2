"""The doctor on a login node: the answers of real clusters, played by stubs on the path."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlpipe.cli import FAILED, OK, command_line, run
from dlpipe.doctor import findings, slurm
from dlpipe.doctor.cluster import read_gpus, read_minutes, read_nodes, read_partitions
from dlpipe.doctor.findings import Finding, State
from dlpipe.doctor.site_files import how_to_use, site_files
from dlpipe.doctor.sites import Site
from tests.doctor.stubs import ANSWERS, play, program

Look = Callable[..., tuple[dict[str, Finding], Site | None]]


@pytest.fixture
def login(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Look:
    """Looks at the cluster of a transcript, changed by the pairs of texts given, as the user `games`."""

    def look(name: str, *changes: tuple[str, str]) -> tuple[dict[str, Finding], Site | None]:
        transcript = (ANSWERS / f"{name}.txt").read_text()
        for old, new in changes:
            assert old in transcript
            transcript = transcript.replace(old, new)
        for other in slurm.PROGRAMS:
            program(tmp_path / "bin", other)
        play(tmp_path / "bin", transcript)
        found, site = slurm.slurm(tmp_path / "data", tmp_path / "results")
        return {finding.subject: finding for finding in found}, site

    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("LOGNAME", "games")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg"))
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    monkeypatch.delenv("SLURM_CONF", raising=False)
    monkeypatch.setattr(slurm, "file_system", lambda _: "nfs4")
    return look


@pytest.fixture(scope="module")
def plugin() -> ModuleType:
    """The executor plugin's choice of partitions; its import looks for programs on the real path."""
    return pytest.importorskip("snakemake_executor_plugin_slurm.partitions")


def written(site: Site | None) -> Path:
    """The folder of the site's profile, written where the doctor says."""
    assert site
    profile = {path: text for path, text in site_files(site).items() if path.is_absolute()}
    for path, text in profile.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return path.parent


def test_a_cluster_with_mixed_gpus_a_drained_node_and_closed_partitions(login):
    found, site = login("mixed")
    assert {subject: finding.state for subject, finding in found.items()} == {
        "programs": "ok",
        "plugin": "ok",
        "controller": "ok",
        "accounting": "ok",
        "job status": "ok",
        "account": "note",
        "partition cpu": "ok",
        "partition gpu": "ok",
        "partition old": "note",
        "partition empty": "note",
        "GPUs": "ok",
        "folders": "ok",
    }
    assert found["controller"].found == "Slurmctld(primary) at vm is UP, slurm-wlm 22.05.8"
    assert found["account"].found == "speech (QoS normal); vision (QoS long, normal)"
    assert found["partition cpu"].found == "default, 3 of 4 nodes work, jobs up to 2 d, 64 CPUs, 247 GiB"
    assert found["partition gpu"].found == (
        "2 of 2 nodes work, jobs up to 1 d, 48 CPUs, 488 GiB, 2 a100 + 2 v100 or 4 a100 a node"
    )
    assert found["partition old"].found.startswith("down, 1 of 1 nodes work, jobs of any length")
    assert found["GPUs"].found == "a100, v100, in partition gpu"
    assert site
    assert [partition.name for partition in site.usable()] == ["cpu", "gpu"]


def test_what_to_paste(login, tmp_path):
    _, site = login("mixed")
    folder = tmp_path / "xdg" / "snakemake" / "lab"
    assert site_files(site) == {
        folder / "config.yaml": """\
# The cluster lab, for snakemake --workflow-profile profiles/slurm --profile lab
executor: slurm
# which job goes where; the file lies beside this one
slurm-partition-config: partitions.yaml
default-resources:
  slurm_account: vision  # or speech
# slurm-qos: long  # any of long, normal; the cluster's default without
""",
        folder / "partitions.yaml": """\
# max_runtime in minutes, max_mem_mb in MB; each the most that one job on one node can have
partitions:
  cpu:
    max_threads: 64
    max_mem_mb: 252904
    max_runtime: 2880
  gpu:
    max_threads: 48
    max_mem_mb: 500000
    max_runtime: 1440
    max_gpu: 4
    available_gpu_models:
    - a100
    - v100
""",
        Path("config/config.yaml"): """\
# besides what is there: the most that a job can ask for, here
max_mem_mb: 252904
max_runtime: 1440
max_gpu: 4
# any of a100, v100; to insist on one:
# gpu_model: a100
""",
    }


def test_bounds_and_device_of_a_cluster_without_gpus(login):
    _, site = login("plain")
    bounds = site_files(site)[Path("config/config.yaml")]
    assert "device: cpu" in bounds
    assert "max_gpu" not in bounds


@pytest.mark.parametrize(
    ("cluster", "threads", "resources", "partition"),
    [
        ("mixed", 2, {"mem_mb": 4000, "runtime": 240, "gpu": 1}, "gpu"),
        ("mixed", 2, {"mem_mb": 4000, "runtime": 240, "gpu": 1, "gpu_model": "v100"}, "gpu"),
        ("mixed", 2, {"mem_mb": 4000, "runtime": 240}, "cpu"),
        ("mixed", 2, {"mem_mb": 400000, "runtime": 240}, "gpu"),
        ("mixed", 2, {"mem_mb": 600000, "runtime": 240}, None),
        ("mixed", 2, {"mem_mb": 4000, "runtime": 240, "gpu": 5}, None),
        ("plain", 2, {"mem_mb": 4000, "runtime": 240}, "cpu"),
        ("plain", 2, {"mem_mb": 4000, "runtime": 240, "gpu": 1}, None),
        ("newer", 2, {"mem_mb": 4000, "runtime": 240, "gpu": 1}, "gpu"),
        ("newer", 50, {"mem_mb": 4000, "runtime": 20}, "All nodes (shared)"),
    ],
)
def test_the_plugin_sends_jobs_by_the_partitions_file(plugin, login, cluster, threads, resources, partition):
    """The plugin's own reader and its own choice."""
    partitions = plugin.read_partition_file(written(login(cluster)[1]) / "partitions.yaml")
    logger = SimpleNamespace(debug=lambda _: None, info=lambda _: None, warning=lambda _: None)
    job = SimpleNamespace(name="job", threads=threads, resources=resources)
    assert plugin.get_best_partition(partitions, job, logger) == partition


def test_snakemake_reads_the_profile(login):
    from snakemake.profiles import ProfileConfigFileParser

    folder = written(login("plain")[1])
    with (folder / "config.yaml").open() as file:
        assert ProfileConfigFileParser().parse(file) == {
            "executor": "slurm",
            "slurm-partition-config": str(folder / "partitions.yaml"),
            "slurm-status-command": "squeue",
        }


@pytest.mark.parametrize("account", ["vision", "2024-10", "proj-7", "max", "123", "a'b", "on", "x # y"])
def test_an_account_comes_through_yaml_and_snakemakes_evaluation_as_it_is(login, account):
    from snakemake.profiles import ProfileConfigFileParser
    from snakemake.resources import Resource

    _, site = login("newer", ("2024-10|2024-10|", f"{account}|{account}|"))
    with (written(site) / "config.yaml").open() as file:
        (entry,) = ProfileConfigFileParser().parse(file)["default-resources"]
    name, _, text = entry.partition("=")
    value = Resource.from_cli_expression(name, text, with_threads_arg=False).evaluate(None, None, None, 1, None)
    assert value.value == account


def test_newer_slurm_names_with_spaces_comments_and_a_backup_controller(login):
    found, _ = login("newer")
    assert found["controller"].found == "Slurmctld(backup) at head2 is UP, slurm 24.05.4"
    assert found["partition gpu"].found == (
        "2 of 2 nodes work, jobs up to 3 d, 48 CPUs, 999 GiB, 1 GPU + 7 1g.10gb or 4 h100-sxm a node"
    )
    assert found["partition All nodes (shared)"].state == "ok"
    assert found["GPUs"].state == "note"
    assert "refuses `gpu_model: h100-sxm`" in found["GPUs"].advice


def test_a_node_has_what_slurm_does_not_keep_for_the_system():
    """The first has two cores and 8 GiB set aside."""
    nodes = read_nodes((ANSWERS / "newer.txt").read_text())
    assert [(node.cpus, node.memory_mb, node.works) for node in nodes] == [(60, 1022808, True), (64, 515000, True)]


def test_no_accounting_means_squeue(login):
    found, site = login("plain")
    assert found["accounting"].state == "note"
    assert "Slurm accounting storage is disabled" in found["accounting"].found
    assert "slurm-status-command: squeue" in "".join(site_files(site).values())
    assert found["account"] == Finding(State.OK, "account", "none needed")
    assert found["GPUs"].state == "note"
    assert "--config device=cpu" in found["GPUs"].advice


def test_a_slurm_that_forgets_jobs_before_squeue_can_tell_their_end(login):
    found, site = login("plain")
    assert found["job status"].state == "warn"
    assert found["job status"].found == "SLURM remembers a finished job for 60 s (MinJobAge)"
    assert how_to_use(site).endswith(" --profile plain")
    found, site = login("mixed", ("300 sec", "60 sec"))
    assert found["job status"].state == "note"
    assert how_to_use(site).endswith(" --profile lab --slurm-status-command sacct")


def test_a_user_without_an_account_where_one_is_wanted(login):
    found, _ = login("mixed", ("vision|speech|normal\n", ""), ("vision|vision|long,normal", ""))
    assert found["account"].state == "FAIL"
    assert found["account"].found == "games has none, and this cluster wants one"


@pytest.mark.parametrize(
    ("cluster", "old", "new"),
    [
        ("mixed", "vision|vision|long,normal\n", ""),
        ("newer", "DenyAccounts=guests", "DenyAccounts=guests,2024-10"),
        ("newer", "AllowQos=long,gpu", "AllowQos=gpu"),
    ],
)
def test_a_partition_that_is_not_for_this_user_is_left_out(login, cluster, old, new):
    found, site = login(cluster, (old, new))
    assert found["partition gpu"].state == "note"
    assert "not for you" in found["partition gpu"].found
    assert "gpu" not in [partition.name for partition in site.usable()]


def test_gpus_that_are_all_out_of_work(login):
    found, site = login("mixed", ("State=IDLE ThreadsPerCore", "State=DOWN+DRAIN ThreadsPerCore"))
    assert found["partition gpu"].state == found["partition cpu"].state == found["GPUs"].state == "warn"
    assert [partition.name for partition in site.usable()] == ["cpu", "gpu"]


def test_no_partition_takes_jobs(login):
    found, site = login("plain", ("State=UP", "State=DRAIN"))
    assert found["partitions"].state == "FAIL"
    assert site_files(site) == {}


def test_a_controller_that_is_down(login):
    found, site = login("down")
    assert found["controller"].state == "FAIL"
    assert found["controller"].found == "Slurmctld(primary) at vm is DOWN"
    assert site is None


def test_a_controller_that_never_answers(login, tmp_path, monkeypatch):
    monkeypatch.setattr(findings, "PATIENCE", 0.2)
    for name in slurm.PROGRAMS:
        program(tmp_path / "bin", name, "#!/bin/sh\nexec /bin/sleep 60\n")
    found = {finding.subject: finding for finding in slurm.slurm(tmp_path, tmp_path)[0]}
    assert found["controller"] == findings.fail("controller", "no answer within 0.2 s", found["controller"].advice)


def test_not_a_login_node(login, tmp_path):
    found = slurm.slurm(tmp_path, tmp_path)[0]
    assert found[0].state == "FAIL"
    assert found[0].found.startswith("this machine is not a SLURM login node")
    program(tmp_path / "bin", "sinfo")
    assert slurm.programs()[0].found == "sbatch, scontrol, squeue, srun, scancel missing"


def test_inside_a_job(login, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    assert login("plain")[0]["login"].found == "this is job 17"


def test_a_cluster_that_is_found_by_a_variable_which_jobs_lose(login, tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_CONF", "/opt/slurm.conf")
    assert login("plain")[0]["SLURM_CONF"].state == "ok"
    stub = (tmp_path / "bin" / "scontrol").read_text()
    lost = '[ -n "$SLURM_CONF" ] || { echo "Unable to contact slurm controller" >&2; exit 1; }'
    program(tmp_path / "bin", "scontrol", stub.replace("#!/bin/sh", f"#!/bin/sh\n{lost}"))
    found = {finding.subject: finding for finding in slurm.slurm(tmp_path, tmp_path)[0]}
    assert found["SLURM_CONF"].state == "warn"
    assert found["SLURM_CONF"].found == "/opt/slurm.conf; without it another cluster or none is found"


@pytest.mark.parametrize(
    ("kind", "state"),
    [("nfs4", "ok"), ("lustre", "ok"), ("fuse.beegfs", "ok"), ("ext4", "warn"), ("tmpfs", "warn"), ("9p", "note")],
)
def test_folders_that_other_nodes_may_not_see(login, monkeypatch, kind, state):
    monkeypatch.setattr(slurm, "file_system", lambda _: kind)
    assert login("plain")[0]["folders"].state == state


def test_a_cluster_of_this_machine_alone_sees_its_own_folders(login, monkeypatch):
    monkeypatch.setattr(slurm, "file_system", lambda _: "ext4")
    monkeypatch.setattr(slurm.socket, "gethostname", lambda: "cpu01.lab.example")
    only_one = ((ANSWERS / "plain.txt").read_text().partition("NodeName=cpu02")[2]).partition("$ scontrol")[0]
    assert login("plain", (f"NodeName=cpu02{only_one}", ""))[0]["folders"].state == "ok"


def test_the_command_prints_what_to_paste_and_its_exit_code_tells(login, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("dlpipe.commands.doctor._machine", lambda *_: [findings.ok("Python", "3.12")])
    login("mixed")
    assert run(command_line, ["doctor", "--slurm"]) == OK
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert lines[0] == "ok    Python           3.12"
    assert lines[-2:] == ["# ---- and run", "snakemake --workflow-profile profiles/slurm --profile lab"]
    assert "13 checks: 0 failed, 0 to look at" in lines
    assert f"# ---- put this into {tmp_path}/xdg/snakemake/lab/partitions.yaml" in lines
    assert err == ""
    login("down")
    assert run(command_line, ["doctor", "--slurm", "--json"]) == FAILED
    document = json.loads(capsys.readouterr().out)
    assert [check["state"] for check in document["checks"]] == ["ok", "ok", "ok", "FAIL"]
    assert document["files"] == {}


@pytest.mark.parametrize(
    ("gres", "gpus"),
    [
        ("gpu:a100:4(S:0-1)", {"a100": 4}),
        ("gpu:2", {"": 2}),
        ("gpu", {"": 1}),
        ("(null)", {}),
        ("", {}),
        ("gpu:a100:4(S:0,1),gpu:v100:2(S:0),mps:400,shard:a100:8", {"a100": 4, "v100": 2}),
        ("gpu:2080:4", {"2080": 4}),
        ("gpu:a100_1g.5gb:7(S:0-3)", {"a100_1g.5gb": 7}),
        ("gpu:tesla:no_consume:2", {"tesla": 2}),
        ("craynetwork:4,gpu:a100:1,gpu:a100:1", {"a100": 2}),
    ],
)
def test_generic_resources(gres, gpus):
    assert read_gpus(gres) == gpus


@pytest.mark.parametrize(
    ("text", "minutes"),
    [
        ("UNLIMITED", None),
        ("2-00:00:00", 2880),
        ("1-12", 2160),
        ("1-01:30", 1530),
        ("00:30:00", 30),
        ("100:00:00", 6000),
        ("45", 45),
        ("45:30", 45),
        ("", None),
        ("NONE", None),
    ],
)
def test_times(text, minutes):
    assert read_minutes(text) == minutes


WORDS = st.sampled_from(
    ["NodeName=", "PartitionName=", "Gres=gpu", "State=", "RealMemory=", "MaxTime=", ":", "(", "-", "²"]
)


@given(st.lists(WORDS | st.text(max_size=8), max_size=30).map(" ".join))
def test_no_answer_of_scontrol_ends_in_a_traceback(text):
    nodes = read_nodes(text)
    for partition in read_partitions(text, nodes):
        slurm.describe(partition)
    read_gpus(text)
    read_minutes(text)
