"""One job a GPU: real processes on pretended devices, for which names in CUDA_VISIBLE_DEVICES are enough."""

from __future__ import annotations

import json
import os
import re
import signal
import stat
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest

from dlpipe import gpus
from dlpipe.artifacts import Stage, Store, write_stages
from dlpipe.gpus import GpuError, Share
from dlpipe.workflow import Workflow
from tests.stages.small import prepared, pretrain_stage
from tests.workspace import write_experiment

HOLD = """
import json, os, sys, time
from dlpipe.gpus import Share
seconds, count, jobs = float(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
with Share("cuda", count=count, jobs_per_gpu=jobs) as share:
    share.device("stage of a test")
    began = time.monotonic()
    print(os.environ["CUDA_VISIBLE_DEVICES"], flush=True)
    time.sleep(seconds)
    ended = time.monotonic()
print(json.dumps([began, ended]))
"""
VARIABLES = (gpus.VISIBLE, gpus.ORDER, *gpus.BATCH_JOB)
SOON = 1.0
"""Seconds in which a freed device is taken: a look every 0.2 s, and a slow machine."""


@pytest.fixture(autouse=True)
def _machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without GPUs, outside a cluster's job, with a folder of locks of its own."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(gpus.FOLDER_VARIABLE, str(tmp_path / "locks"))
    monkeypatch.setattr(gpus, "DRIVER", tmp_path / "driver")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))


@pytest.fixture
def locks(tmp_path: Path) -> Path:
    return tmp_path / "locks"


class Use(NamedTuple):
    devices: list[str]
    began: float
    ended: float


class Holder:
    """A process that takes devices, holds them for some seconds and tells when it did."""

    def __init__(self, seconds: float = 60.0, count: int = 1, jobs: int = 1) -> None:
        command = [sys.executable, "-c", HOLD, str(seconds), str(count), str(jobs)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def line(self) -> str:
        """The next that it prints; empty when it has failed."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def use(self) -> Use:
        """Waits for its end."""
        return Use(self.line().split(","), *json.loads(self.line()))

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def hold() -> Iterator[Callable[..., Holder]]:
    """Starts holders, of the devices that CUDA_VISIBLE_DEVICES names, and ends what is left of them."""
    holders: list[Holder] = []

    def start(*arguments: Any, **options: Any) -> Holder:
        holders.append(Holder(*arguments, **options))
        return holders[-1]

    yield start
    for holder in holders:
        holder.kill()


def most_at_once(uses: list[Use]) -> Counter[str]:
    """Device to the largest number of jobs that it had at one time."""
    most: Counter[str] = Counter()
    for moment in (use.began for use in uses):
        now = Counter(d for use in uses if use.began <= moment < use.ended for d in use.devices)
        most |= now
    return most


@pytest.mark.parametrize("jobs", [1, 2])
def test_six_jobs_on_two_devices_never_collide(
    jobs: int, hold: Callable[..., Holder], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(gpus.VISIBLE, "70,90")
    holders = [hold(0.4, jobs=jobs) for _ in range(6)]
    assert most_at_once([holder.use() for holder in holders]) == {"70": jobs, "90": jobs}


def test_a_killed_jobs_device_is_free_at_once(hold: Callable[..., Holder], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(gpus.VISIBLE, "70")
    first = hold()
    assert first.line() == "70"
    second = hold()
    said = second.process.stderr.readline()
    assert f"waiting for a GPU: 70 is used by process {first.process.pid} on " in said
    assert said.endswith("(stage of a test)\n")
    first.process.send_signal(signal.SIGKILL)
    killed = time.monotonic()
    assert second.line() == "70"
    assert time.monotonic() - killed < SOON


def test_a_job_that_ends_in_order_leaves_device_and_environment_as_they_were(
    locks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(gpus.VISIBLE, "3,4")
    with Share("cuda") as share:
        assert share.device("s") == "cuda"
        assert (os.environ[gpus.VISIBLE], os.environ[gpus.ORDER]) == ("3", "PCI_BUS_ID")
        assert share.device("another stage") == "cuda"
        assert share.devices == ["3"]
    assert os.environ[gpus.VISIBLE] == "3,4"
    assert gpus.ORDER not in os.environ
    with Share("cuda") as share:
        share.device("s")
        assert share.devices == ["3"]


@pytest.mark.parametrize(
    ("value", "devices"),
    [
        (None, None),
        ("", []),
        ("-1", []),
        ("NoDevFiles", []),
        ("5", ["5"]),
        (" 5 , 6 ", ["5", "6"]),
        ("1,-1,2", ["1"]),
        ("1,1", []),
        ("GPU-8932f937-d72c,GPU-1", ["GPU-8932f937-d72c", "GPU-1"]),
        ("MIG-GPU-8932f937/1/0", ["MIG-GPU-8932f937/1/0"]),
        ("../../etc/passwd", []),
    ],
)
def test_visible_reads_the_variable_as_cuda_does(
    value: str | None, devices: list[str] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if value is not None:
        monkeypatch.setenv(gpus.VISIBLE, value)
    assert gpus.visible() == devices


def test_devices_of_the_machine_by_the_driver_else_by_nvidia_smi(tmp_path: Path) -> None:
    assert gpus.present() == []
    program = tmp_path / "bin" / "nvidia-smi"
    program.parent.mkdir()
    program.write_text(
        "#!/bin/sh\n[ \"$*\" = -L ] || exit 1\necho 'GPU 0: NVIDIA H100 (UUID: GPU-1)'\n"
        "echo '  MIG 1g.10gb Device 0: (UUID: MIG-1)'\necho 'GPU 1: NVIDIA H100 (UUID: GPU-2)'\n"
    )
    program.chmod(0o755)
    assert gpus.present() == ["0", "1"]
    for address in ("0000:01:00.0", "0000:02:00.0", "0000:41:00.0"):
        (tmp_path / "driver" / address).mkdir(parents=True)
    assert gpus.present() == ["0", "1", "2"]
    program.write_text("#!/bin/sh\nexit 9\n")
    (tmp_path / "driver").rename(tmp_path / "away")
    assert gpus.present() == []


@pytest.mark.parametrize(
    ("inherited", "asked", "told", "exported"),
    [
        ("3,4", "auto", "auto", "3"),
        ("3,4", "cuda", "cuda", "3"),
        ("3,4", "cuda:1", "cuda", "4"),
        ("3", "cuda", "cuda", "3"),
        ("GPU-b,GPU-a", "cuda", "cuda", "GPU-b"),
        ("MIG-GPU-8932f937/1/0", "auto", "auto", "MIG-GPU-8932f937/1/0"),
        ("3,4", "cpu", "cpu", None),
        ("", "auto", "auto", None),
        ("", "cuda", "cuda", None),  # torch says that it is not there
        ("3,4", "mps", "mps", None),
    ],
)
def test_what_is_asked_what_torch_is_told_and_what_is_exported(
    inherited: str, asked: str, told: str, exported: str | None, monkeypatch: pytest.MonkeyPatch, locks: Path
) -> None:
    monkeypatch.setenv(gpus.VISIBLE, inherited)
    with Share(asked) as share:
        assert share.device("s") == told
        assert os.environ[gpus.VISIBLE] == (inherited if exported is None else exported)
        assert share.devices == ([] if exported is None else [exported])
        assert len(list(locks.glob("*.lock"))) == len(share.devices)
        assert (gpus.ORDER in os.environ) == (exported is not None and exported.isdigit())


def test_an_order_that_the_user_has_set_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(gpus.VISIBLE, "3")
    monkeypatch.setenv(gpus.ORDER, "FASTEST_FIRST")
    with Share("cuda") as share:
        share.device("s")
        assert os.environ[gpus.ORDER] == "FASTEST_FIRST"
    assert os.environ[gpus.ORDER] == "FASTEST_FIRST"


def test_without_the_variable_the_machines_devices_are_shared_out(tmp_path: Path) -> None:
    (tmp_path / "driver" / "0000:01:00.0").mkdir(parents=True)
    with Share("auto") as share:
        assert share.device("s") == "auto"
        assert os.environ[gpus.VISIBLE] == "0"
    assert gpus.VISIBLE not in os.environ


@pytest.mark.parametrize(
    ("asked", "count", "message"),
    [
        ("cuda:2", 1, "device 'cuda:2' is not there: 2 may be used, 70, 90"),
        ("cuda", 3, "3 GPUs are asked for, 2 may be used: 70, 90"),
    ],
)
def test_more_than_there_is_is_an_error(asked: str, count: int, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(gpus.VISIBLE, "70,90")
    with Share(asked, count=count) as share, pytest.raises(GpuError, match=re.escape(message)):
        share.device("s")


@pytest.fixture
def two(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(gpus.VISIBLE, "70,90")


def take(share: Share, stage: str = "s") -> str:
    """As a process of its own would: those after it see all the devices again. Does not wait."""
    inherited = os.environ[gpus.VISIBLE]
    told = share.device(stage, until=time.monotonic())
    os.environ[gpus.VISIBLE] = inherited
    return told


def refused(share: Share) -> str:
    """What a job is told that cannot wait."""
    with pytest.raises(GpuError) as error:
        take(share)
    return str(error.value)


@pytest.mark.usefixtures("two")
def test_the_device_with_the_fewest_jobs_comes_first() -> None:
    shares = [Share("cuda", jobs_per_gpu=2) for _ in range(5)]
    with shares[0], shares[1], shares[2], shares[3], shares[4]:
        for share in shares[:4]:
            take(share)
        assert [share.devices for share in shares[:4]] == [["70"], ["90"], ["70"], ["90"]]
        assert refused(shares[4]).count("is used by process") == 4


@pytest.mark.usefixtures("two")
def test_a_job_that_shares_with_nobody_does_not_join_jobs_that_share() -> None:
    """It counts all jobs of a device, those in other slots too: here only the second of two is left."""
    with Share("cuda:0", jobs_per_gpu=2) as first, Share("cuda:0", jobs_per_gpu=2) as second, Share("cuda:0") as alone:
        take(first)
        take(second)
        first.give_back()
        assert "70 is used by process" in refused(alone)
        second.give_back()
        assert take(alone) == "cuda"


@pytest.mark.usefixtures("two")
def test_waits_for_the_one_that_is_asked_for() -> None:
    with Share("cuda:1") as first, Share("cuda:1") as second:
        take(first)
        assert "90 is used by process" in refused(second)


@pytest.mark.usefixtures("two")
def test_waiting_is_said_once_and_then_every_minute(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By a clock of our own that goes on by 25 s a look: nothing is said at 25 and 50 s."""
    now = [1000.0]
    monkeypatch.setattr(gpus.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(gpus.time, "sleep", lambda _: now.__setitem__(0, now[0] + 25.0))
    with Share("cuda", count=2) as holder, Share("cuda") as waiting:
        take(holder, "pretrain layer-1")
        with pytest.raises(GpuError, match=r"no GPU was free before the deadline: .* Run the same command again"):
            waiting.device("s", until=1100.0)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    who = f"process {os.getpid()} on {gpus.socket.gethostname()} (pretrain layer-1)"
    assert lines[0] == f"waiting for a GPU: 70 is used by {who}; 90 is used by {who}"


def test_several_devices_are_taken_together_or_not_at_all(
    hold: Callable[..., Holder], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four jobs of two devices each, on three, beside two of one: never a device twice, and all come to their end."""
    monkeypatch.setenv(gpus.VISIBLE, "1,2,3")
    holders = [hold(0.2, count=count) for count in (2, 2, 2, 2, 1, 1)]
    uses = [holder.use() for holder in holders]
    assert [len(use.devices) for use in uses] == [2, 2, 2, 2, 1, 1]
    assert set(most_at_once(uses).values()) == {1}


@pytest.mark.usefixtures("two")
def test_a_job_that_waits_for_two_devices_holds_none() -> None:
    with Share("cuda:0") as first, Share("cuda", count=2) as both, Share("cuda") as other:
        take(first)
        assert "70 is used by" in refused(both)
        take(other)
        assert other.devices == ["90"]


@pytest.mark.usefixtures("two")
@pytest.mark.parametrize("variable", gpus.BATCH_JOB)
def test_each_job_of_a_cluster_has_devices_of_its_own(
    variable: str, monkeypatch: pytest.MonkeyPatch, locks: Path
) -> None:
    """Its "70" is not another job's; two processes of one job share them out."""
    with Share("cuda:0") as outside, Share("cuda:0") as first, Share("cuda:0") as second, Share("cuda:0") as inside:
        take(outside)
        for share, job in ((first, "12.server"), (second, "13")):
            monkeypatch.setenv(variable, job)
            take(share)
        assert {path.name for path in locks.glob("*.lock")} == {
            "70.0.lock", "job-12_server-70.0.lock", "job-13-70.0.lock",
        }  # fmt: skip
        assert "70 is used by" in refused(inside)


def test_a_clusters_job_that_was_given_no_gpu_uses_none_of_the_nodes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], locks: Path
) -> None:
    """Unless it is told to; and then it counts them as all jobs do."""
    (tmp_path / "driver" / "0000:01:00.0").mkdir(parents=True)
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    with Share("auto") as share:
        assert share.device("s") == "cpu"
    assert "this job was given no GPU (CUDA_VISIBLE_DEVICES is not set): on the CPU" in capsys.readouterr().err
    with Share("cuda") as share:
        assert share.device("s") == "cuda"
        assert share.devices == ["0"]
        assert [path.name for path in locks.glob("*.lock")] == ["0.0.lock"]


# The folder of locks


@pytest.fixture
def umask() -> Iterator[None]:
    before = os.umask(0o077)
    yield
    os.umask(before)


@pytest.mark.usefixtures("two", "umask")
def test_all_users_may_take_a_device_whatever_the_umask_of_the_first(locks: Path) -> None:
    with Share("cuda") as share:
        share.device("s")
        assert stat.S_IMODE(locks.stat().st_mode) == 0o1777
        assert {stat.S_IMODE(path.stat().st_mode) for path in locks.iterdir()} == {0o666}
        assert os.umask(0o077) == 0o077, "and it is what it was"


@pytest.mark.usefixtures("two")
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be two other users")
def test_another_users_lock_file_is_taken_over(locks: Path, tmp_path: Path) -> None:
    """The first, killed, left a file that the second may not remove. As another user each, in a child."""
    for parent in (tmp_path, *tmp_path.parents[:-2]):
        parent.chmod(0o755)
    locks.mkdir()
    locks.chmod(0o1777)
    for user in (12345, 54321):
        child = os.fork()
        if child == 0:
            os.setuid(user)
            share = Share("cuda")
            share.device("s")
            os._exit(0 if share.devices == ["70"] else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert (locks / "70.0.lock").stat().st_uid == 12345
    assert f"process {child} on" in (locks / "70.0.lock").read_text()


@pytest.mark.usefixtures("two")
def test_files_of_jobs_that_have_ended_are_removed(locks: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for job in "123":
        monkeypatch.setenv("SLURM_JOB_ID", job)
        with Share("cuda") as share:
            share.device("s")
    assert [path.name for path in locks.glob("*.lock")] == ["job-3-70.0.lock"]


def plant(kind: str, place: Path, victim: Path) -> None:
    if kind == "symlink":
        place.symlink_to(victim)
    elif kind == "hard link":
        place.hardlink_to(victim)
    elif kind == "pipe":
        os.mkfifo(place)
    else:
        place.mkdir()


@pytest.mark.usefixtures("two")
@pytest.mark.parametrize("kind", ["symlink", "hard link", "pipe", "folder"])
@pytest.mark.parametrize("name", ["70.0.lock", "choosing"])
def test_what_another_has_put_in_a_lock_files_place_is_refused(
    kind: str, name: str, locks: Path, tmp_path: Path
) -> None:
    locks.mkdir()
    victim = tmp_path / "victim"
    victim.write_text("precious")
    plant(kind, locks / name, victim)
    with Share("cuda") as share, pytest.raises(GpuError, match=rf"{name}, which tells .*DLPIPE_GPU_LOCKS"):
        share.device("s")
    assert victim.read_text() == "precious"


@pytest.mark.usefixtures("two")
def test_a_folder_that_is_a_link_is_refused(locks: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    locks.symlink_to(tmp_path / "elsewhere")
    with Share("cuda") as share, pytest.raises(GpuError, match="cannot be used: Not a directory"):
        share.device("s")


@pytest.mark.usefixtures("two")
def test_what_a_holder_says_of_itself_cannot_play_with_the_terminal(locks: Path) -> None:
    with Share("cuda", count=2) as holder, Share("cuda") as waiting:
        take(holder)
        (locks / "70.0.lock").write_bytes(b"\x1b[2J\xff\nroot" + b"x" * 5000)
        said = refused(waiting)
    assert "\x1b" not in said
    assert "\n" not in said
    assert len(said) < 1000


LEAVES_A_CHILD = """
import os, subprocess
from dlpipe.gpus import Share
Share("cuda").device("s")
print(subprocess.Popen(["/bin/sleep", "60"], close_fds=False, stdout=subprocess.DEVNULL).pid, flush=True)
os._exit(0)
"""


@pytest.mark.usefixtures("two")
def test_a_program_that_is_started_does_not_hold_the_lock() -> None:
    """Such as git, or a rank: a job's devices are free when the job itself has ended."""
    done = subprocess.run([sys.executable, "-c", LEAVES_A_CHILD], stdout=subprocess.PIPE, text=True, check=True)
    try:
        with Share("cuda:0") as other:
            # Not at this very moment: a new program closes what it was not to inherit just after its parent goes on.
            assert other.device("s", until=time.monotonic() + SOON) == "cuda"
    finally:
        os.kill(int(done.stdout), signal.SIGKILL)


# The commands


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "data", tmp_path / "results")


@pytest.fixture
def layer(store: Store) -> Stage:
    """A stage that has its inputs, to be made by its id."""
    stage = pretrain_stage(prepared(store))
    write_stages(store, [stage])
    return stage


def pretrain(layer: Stage, store: Store, *options: str) -> subprocess.Popen[str]:
    where = ("--data", str(store.data), "--results", str(store.results))
    command = [sys.executable, "-m", "dlpipe", "pretrain", layer.id, *where, *options]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def outcome(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Exit code, and what was said."""
    _, said = process.communicate(timeout=60)
    return process.returncode, said


def waited(process: subprocess.Popen[str]) -> bool:
    """Whether it said that it waits for a GPU; it must succeed. On a busy machine it may tell of its progress, too."""
    code, said = outcome(process)
    assert code == 0, said
    return "waiting" in said


@pytest.fixture
def busy(two: None) -> Iterator[Share]:
    """Both devices in use."""
    with Share("cuda", count=2) as share:
        take(share)
        yield share


def test_a_stage_waits_for_a_gpu_then_uses_the_cpu_if_torch_can_do_no_better(
    layer: Stage, store: Store, busy: Share, locks: Path
) -> None:
    """The devices are pretended, and torch does not see them. The facts say what was used; no digest knows of it."""
    with pretrain(layer, store, "--deadline", "60") as process:
        assert "waiting for a GPU: 70 is used by" in process.stderr.readline()
        assert not store.is_done("pretrain", layer.id)
        busy.give_back()
        code, said = outcome(process)
    assert code == 0, said
    facts = store.read("pretrain", layer.id).manifest["facts"]
    assert (facts["device"], facts["gpus"]) == ("cpu", [])


@pytest.mark.usefixtures("two")
def test_cuda_that_torch_does_not_see_is_an_error_as_before(layer: Stage, store: Store) -> None:
    with pretrain(layer, store, "--device", "cuda:1") as process:
        code, said = outcome(process)
    assert code == 1
    assert re.fullmatch(r"dlpipe: device 'cuda' is not there: .*\n", said)
    with Share("cuda", count=2) as share:
        assert take(share) == "cuda", "and its device is free again"


@pytest.mark.usefixtures("busy")
@pytest.mark.parametrize("options", [("--device", "cpu"), ("--jobs-per-gpu", "2")], ids=" ".join)
def test_a_stage_that_needs_no_free_gpu_does_not_wait(options: tuple[str, ...], layer: Stage, store: Store) -> None:
    with pretrain(layer, store, *options) as process:
        assert not waited(process)
    assert store.is_done("pretrain", layer.id)


@pytest.mark.usefixtures("busy")
def test_jobs_a_gpu_may_be_set_for_all_commands_and_a_stage_that_stands_takes_none(
    layer: Stage, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DLPIPE_JOBS_PER_GPU", "2")
    with pretrain(layer, store) as process:
        assert not waited(process)
    monkeypatch.delenv("DLPIPE_JOBS_PER_GPU")
    with pretrain(layer, store) as process:
        assert outcome(process) == (0, "")


@pytest.mark.usefixtures("busy")
def test_interrupted_while_it_waits(layer: Stage, store: Store) -> None:
    with pretrain(layer, store) as process:
        assert "waiting for a GPU" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        code, said = outcome(process)
    assert code == 130
    assert said.strip() == "interrupted"


@pytest.mark.usefixtures("busy")
def test_the_deadline_counts_while_it_waits(layer: Stage, store: Store) -> None:
    with pretrain(layer, store, "--deadline", "0.5") as process:
        code, said = outcome(process)
    assert code == 1
    assert re.search(r"^dlpipe: no GPU was free before the deadline: .* Run the same command again$", said, re.M)


def test_the_workflow_passes_on_what_the_config_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_experiment(tmp_path)
    for sharing, expected in (({}, []), ({"jobs_per_gpu": 3}, ["--jobs-per-gpu", "3"])):
        work = Workflow({"experiments": ["small"], "device": "cuda", **sharing})
        job = SimpleNamespace(stage=work.plan.of_rule("pretrain")[0].id)
        assert work.device(job) == ["--device", "cuda", "--threads", "1", *expected]
