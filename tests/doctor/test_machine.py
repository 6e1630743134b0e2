"""The doctor on any machine: cores, memory, folders, libraries, programs, torch and the GPUs it sees."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from importlib.metadata import distribution
from pathlib import Path
from types import SimpleNamespace

import pytest

from dlpipe.cli import OK, command_line, run
from dlpipe.doctor import findings, folders, installation, machine
from dlpipe.doctor.findings import Finding, ask, fail, look, ok
from dlpipe.doctor.gpus import torch_and_gpus
from tests.doctor.stubs import program

ROOT = Path(__file__).parents[2]
GIB = 1024**3


def tree(root: Path, **files: str) -> Path:
    """Files of /proc and /sys under another root; two underscores are a slash."""
    for name, text in files.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


# ---------------------------------------------------------------------------------------------------------------------
# cores and memory


@pytest.fixture(autouse=True)
def eight_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))


def file_of(folder: Path, name: str, text: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text)


def test_cores_without_a_limit(tmp_path):
    assert machine.cores(tmp_path) == [ok("CPU", "8 cores")]
    tree(tmp_path, proc__self__cgroup="0::/user\n")
    file_of(tmp_path / "sys/fs/cgroup/user", "cpu.max", "max 100000\n")
    assert machine.cores(tmp_path) == [ok("CPU", "8 cores")]


def test_cores_under_a_limit_of_a_cgroup_above(tmp_path):
    tree(tmp_path, proc__self__cgroup="0::/slurm/job_17/step_0\n")
    file_of(tmp_path / "sys/fs/cgroup/slurm/job_17", "cpu.max", "250000 100000\n")
    file_of(tmp_path / "sys/fs/cgroup/slurm/job_17/step_0", "cpu.max", "600000 100000\n")
    (finding,) = machine.cores(tmp_path)
    assert finding.state == "warn"
    assert finding.found == "8 cores, of whose time this container or job may use 2.5"
    assert finding.advice.startswith("Say `snakemake --cores 2`")


def test_cores_in_the_first_version_of_cgroups(tmp_path):
    tree(tmp_path, proc__self__cgroup="3:cpu,cpuacct:/docker/1\n2:memory:/docker/1\n0::/elsewhere\n")
    file_of(tmp_path / "sys/fs/cgroup/cpu", "cpu.cfs_quota_us", "50000\n")
    file_of(tmp_path / "sys/fs/cgroup/cpu", "cpu.cfs_period_us", "100000\n")
    (finding,) = machine.cores(tmp_path)
    assert finding.advice.startswith("Say `snakemake --cores 1`")
    file_of(tmp_path / "sys/fs/cgroup/cpu", "cpu.cfs_quota_us", "-1\n")
    assert machine.cores(tmp_path) == [ok("CPU", "8 cores")]


def meminfo(total: float, free: float) -> str:
    sizes = {"MemTotal": total, "MemFree": free / 2, "MemAvailable": free}
    return "".join(f"{name}: {int(size * 1024**2)} kB\n" for name, size in sizes.items()) + "HugePages_Total: 0\n"


def test_memory(tmp_path):
    tree(tmp_path, proc__meminfo=meminfo(16, 12))
    assert machine.memory(tmp_path) == [ok("memory", "16.0 GiB, 12.0 GiB of it free")]
    tree(tmp_path, proc__meminfo=meminfo(16, 1.5))
    (finding,) = machine.memory(tmp_path)
    assert (finding.state, finding.advice[:23]) == ("warn", "Say `snakemake --cores ")
    assert "--cores 3`" in finding.advice


@pytest.mark.parametrize(
    ("cgroup", "file"), [("0::/job", "job/memory.max"), ("2:memory:/job", "memory/job/memory.limit_in_bytes")]
)
def test_memory_under_the_limit_of_a_cgroup(tmp_path, cgroup, file):
    tree(tmp_path, proc__meminfo=meminfo(64, 60), proc__self__cgroup=f"{cgroup}\n")
    path = tmp_path / "sys/fs/cgroup" / file
    file_of(path.parent, path.name, f"{2 * GIB}\n")
    (finding,) = machine.memory(tmp_path)
    assert finding.found == "64.0 GiB, 60.0 GiB of it free; this container or job may use 2.0 GiB"
    assert "--cores 4`" in finding.advice


# ---------------------------------------------------------------------------------------------------------------------
# folders


def test_folders_are_tried_and_nothing_stays(tmp_path):
    for check in (folders.data, folders.results):
        (finding,) = check(tmp_path / "not" / "yet")
        assert finding.state == "ok"
        assert finding.found.startswith(f"{tmp_path}, ")
        assert finding.found.endswith(" GiB free")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written():
    (finding,) = folders.results(Path("/proc/dlpipe/results"))  # not even by root
    assert finding.state == "FAIL"
    assert finding.found.startswith("/proc: a file cannot be written and flushed to the disk: ")
    assert "`--results DIR`" in finding.advice


def test_a_file_where_the_folder_should_be(tmp_path):
    (tmp_path / "file").touch()
    (finding,) = folders.data(tmp_path / "file" / "data")
    assert finding == fail(
        "data", f"{tmp_path}/file: a file cannot be written and flushed to the disk: Not a directory", finding.advice
    )


@pytest.mark.parametrize(
    ("call", "check", "verb"),
    [
        ("os.fsync", folders.data, "written and flushed to the disk"),
        ("os.replace", folders.results, "renamed"),
        ("os.link", folders.results, "linked by a second name"),
        ("fcntl.flock", folders.data, "locked with flock"),
    ],
)
def test_a_file_system_without_what_dlpipe_rests_on(tmp_path, monkeypatch, call, check, verb):
    def refuse(*_: object) -> None:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    monkeypatch.setattr(call, refuse)
    (finding,) = check(tmp_path)
    assert finding.state == "FAIL"
    assert finding.found == f"{tmp_path}: a file cannot be {verb}: Operation not supported"
    assert list(tmp_path.iterdir()) == []


def test_little_room(tmp_path, monkeypatch):
    full = SimpleNamespace(f_bavail=0.4 * GIB / 4096, f_frsize=4096, f_files=0, f_favail=0)
    monkeypatch.setattr(folders.os, "statvfs", lambda _: full)
    (finding,) = folders.data(tmp_path)
    assert finding.state == "warn"
    assert finding.found.endswith("0.4 GiB free")


def test_room_for_few_files(tmp_path, monkeypatch):
    crowded = SimpleNamespace(f_bavail=GIB, f_frsize=4096, f_files=1000, f_favail=7)
    monkeypatch.setattr(folders.os, "statvfs", lambda _: crowded)
    (finding,) = folders.data(tmp_path)
    assert finding.state == "warn"
    assert finding.found.endswith("but room for 7 files only")


def test_a_file_server_with_another_clock(tmp_path, monkeypatch):
    now = folders.time.time
    monkeypatch.setattr(folders.time, "time", lambda: now() + 300)
    room, clock = folders.results(tmp_path)
    assert room.state == "ok"
    assert clock.state == "warn"
    assert clock.found == f"{tmp_path} dates files 300 s before this machine's clock"


def test_the_file_system_of_a_path(tmp_path):
    mounts = "/dev/sda / ext4 rw 0 0\nserver:/home /home nfs4 rw 0 0\nserver:/x /home/my\\040own lustre rw 0 0\n"
    tree(tmp_path, proc__mounts=mounts + "tmpfs /home tmpfs rw 0 0\n")
    kinds = [folders.file_system(Path(p), tmp_path) for p in ("/homes/a", "/home/a", "/home/my own/a", "/home/my")]
    assert kinds == ["ext4", "tmpfs", "lustre", "tmpfs"]


# ---------------------------------------------------------------------------------------------------------------------
# the installation


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Makes distributions that `importlib.metadata` finds before the real ones."""

    def install(name: str, version: str, *lines: str) -> None:
        text = "\n".join(["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}", *lines, ""])
        file_of(tmp_path / "site" / f"{name.replace('-', '_')}-{version}.dist-info", "METADATA", text)

    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    return install


def test_libraries_in_this_environment():
    (finding,) = installation.libraries()
    assert finding.state == "ok"
    assert f"all {sum('extra ==' not in text for text in distribution('dlpipe').requires)} there" in finding.found


def test_libraries_that_are_missing_or_do_not_fit(installed):
    installed(
        "dlpipe",
        "0.1.0",
        "Requires-Python: >=3.11",
        "Requires-Dist: alpha>=2,<3",
        "Requires-Dist: beta[x]>=1",
        "Requires-Dist: click",
        "Requires-Dist: gamma; extra == 'slurm'",
    )
    installed("alpha", "1.9")
    (finding,) = installation.libraries()
    assert finding.state == "FAIL"
    assert finding.found == "alpha is 1.9, dlpipe needs <3,>=2; beta is missing"
    assert finding.advice == f"Install what fits: `{sys.executable} -m pip install 'alpha<3,>=2' 'beta[x]>=1'`."
    (plugin,) = installation.libraries("plugin", "slurm")
    assert (plugin.subject, plugin.found) == ("plugin", "gamma is missing")
    installed("gamma", "2.8.0")
    assert installation.libraries("plugin", "slurm") == [ok("plugin", "gamma 2.8.0")]


def test_an_older_plugin_does_not_fit(installed):
    installed("snakemake-executor-plugin-slurm", "2.7.1")
    (finding,) = installation.libraries("plugin", "slurm")
    assert finding.state == "FAIL"


def test_a_python_that_is_too_old(installed):
    installed("dlpipe", "0.1.0", "Requires-Python: >=9.1")
    (finding,) = installation.python()
    assert finding.state == "FAIL"
    assert finding.found.endswith("; dlpipe needs >=9.1")


def test_a_program_of_another_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    (finding,) = installation.program("snakemake")
    assert finding.state == "FAIL"
    assert "first on your path" in finding.advice
    program(tmp_path, "snakemake", "#!/bin/sh\necho 7.32.4\n")
    (finding,) = installation.program("snakemake")
    assert finding.state == "warn"
    assert finding.found.startswith(f"{tmp_path}/snakemake is 7.32.4, of another environment")
    program(tmp_path, "snakemake", "#!/bin/sh\necho broken >&2\nexit 3\n")
    (finding,) = installation.program("snakemake")
    assert finding.found == f"{tmp_path}/snakemake does not start: broken"


def test_the_profile_of_the_working_folder(tmp_path, monkeypatch):
    monkeypatch.delenv("SNAKEMAKE_PROFILE", raising=False)
    assert installation.profile(ROOT) == [ok("profile", "profiles/default, which loads by itself")]
    assert installation.profile(tmp_path)[0].state == "note"
    (tmp_path / "Snakefile").touch()
    assert installation.profile(tmp_path)[0].state == "warn"
    monkeypatch.setenv("SNAKEMAKE_PROFILE", "lab")
    assert installation.profile(ROOT)[0].found == "profiles/default, over SNAKEMAKE_PROFILE=lab"


def test_no_git(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert installation.git()[0].state == "note"


def test_the_doctor_outlives_missing_libraries(tmp_path):
    """An environment with click and packaging alone: what is missing is said, and the checks after it are made."""
    site = tmp_path / "site"
    site.mkdir()
    for name in ("click", "packaging", "dlpipe"):
        found = distribution(name)
        for file in {part.parts[0] for part in found.files or [] if part.parts[0].startswith(name)}:
            (site / file).symlink_to(found.locate_file(file))
    code = (
        "import sys; sys.path[:0] = sys.argv[1:3]\n"
        "from dlpipe.cli import command_line, run\n"
        "sys.exit(run(command_line, ['doctor']))"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code, ROOT, site], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.stderr == ""
    assert done.returncode == 1
    assert "numpy is missing" in done.stdout
    assert "results" in done.stdout


# ---------------------------------------------------------------------------------------------------------------------
# torch and GPUs


TORCH = """
__version__ = "2.13.0"
class Kind:
    def __init__(self, **facts):
        self.__dict__.update(facts)
def refuse():
    raise RuntimeError("The NVIDIA driver on your system is too old (found version 11040).\\nPlease update.")
class Square:
    def __init__(self, device):
        self.device = device
    def __matmul__(self, other):
        if self.device == "cuda:1":
            raise RuntimeError("CUDA error: no kernel image is available\\nmore")
        return self
    def sum(self):
        return self
    def item(self):
        return 512.0
def ones(*_, device):
    return Square(device)
version = Kind(cuda={cuda!r})
card = Kind(name="NVIDIA H100", total_memory=80 * 1024**3)
cuda = Kind(is_available=lambda: {gpus} > 0, device_count=lambda: {gpus}, init=refuse)
cuda.get_device_properties = lambda _: card
"""


@pytest.fixture
def torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Finding]]:
    """What the doctor finds with another torch in its place, and an NVIDIA driver or none."""

    def find(source: str, smi: str = "") -> list[Finding]:
        file_of(tmp_path / "lib" / "torch", "__init__.py", textwrap.dedent(source))
        if smi:
            program(tmp_path / "bin", "nvidia-smi", smi)
        return torch_and_gpus(tmp_path, patience=5)

    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "lib"))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return find


SMI = "#!/bin/sh\necho 'NVIDIA H100, 470.82'\n"


def test_torch_with_two_gpus_one_of_which_it_was_not_built_for(torch):
    assert torch(TORCH.format(cuda="12.8", gpus=2)) == [
        ok("torch", "2.13.0, built for CUDA 12.8"),
        ok("GPU 0", "NVIDIA H100, 80 GiB"),
        findings.warn(
            "GPU 1",
            "NVIDIA H100, 80 GiB; it cannot compute: CUDA error: no kernel image is available",
            "If another process holds it, wait for that one; if not, this torch was not built for this GPU.",
        ),
    ]


def test_a_driver_that_is_too_old_for_this_torch(torch):
    _, gpu = torch(TORCH.format(cuda="12.8", gpus=0), SMI)
    assert gpu.state == "warn"
    assert gpu.found.startswith("NVIDIA H100, 470.82; torch says: The NVIDIA driver on your system is too old")
    assert "built for something older than CUDA 12.8" in gpu.advice


def test_a_driver_and_a_torch_for_cpus(torch):
    found, gpu = torch(TORCH.format(cuda=None, gpus=0), SMI)
    assert found == ok("torch", "2.13.0, built for CPUs")
    assert gpu.state == "warn"
    assert "pytorch.org" in gpu.advice


def test_no_driver(torch):
    _, gpu = torch(TORCH.format(cuda=None, gpus=0))
    assert gpu.state == "note"


def test_a_driver_that_does_not_work(torch):
    smi = "#!/bin/sh\necho 'Failed to initialize NVML: Driver/library version mismatch'\nexit 18\n"
    tree(Path(os.environ["PATH"]).parent, proc__driver__nvidia__version="NVRM version: NVIDIA 550.54\n")
    _, gpu = torch(TORCH.format(cuda="12.8", gpus=0), smi)
    assert gpu.state == "warn"
    assert gpu.found == "nvidia-smi says: Failed to initialize NVML: Driver/library version mismatch"


def test_gpus_that_are_hidden_on_purpose(torch, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    _, gpu = torch(TORCH.format(cuda="12.8", gpus=0), SMI)
    assert (gpu.state, gpu.found) == ("note", "NVIDIA H100, 470.82; hidden from this process")


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGILL)", "cannot be imported: ended by signal 4"),
        (
            "raise ImportError('libcudart.so.12: no such file')",
            "cannot be imported: ImportError: libcudart.so.12: no such file",
        ),
        ("raise SystemExit(0)", "its import printed '' and no answer"),
        ("import findings", "cannot be imported: ModuleNotFoundError: No module named 'findings'"),
    ],
)
def test_a_torch_that_breaks_on_import(torch, source, found):
    (finding,) = torch(source)
    assert (finding.state, finding.found) == ("FAIL", found)
    assert "pip install --force-reinstall 'torch<2.14,>=2.13'" in finding.advice


def test_a_torch_that_hangs_on_import(torch, tmp_path):
    file_of(tmp_path / "lib" / "torch", "__init__.py", "import time; time.sleep(60)")
    (finding,) = torch_and_gpus(tmp_path, patience=0.3)
    assert (finding.state, finding.found) == ("FAIL", "cannot be imported: no answer within 0.3 s")


# ---------------------------------------------------------------------------------------------------------------------
# the doctor itself


def test_a_check_that_breaks_is_a_finding():
    def check() -> list[Finding]:
        raise OSError(errno.EIO, "Input/output error", "/proc/meminfo")

    (finding,) = look("memory", check)
    assert finding.state == "FAIL"
    assert finding.found == "OSError: [Errno 5] Input/output error: '/proc/meminfo'"


def test_programs_are_asked_in_the_c_locale_and_without_a_shell(tmp_path, monkeypatch):
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    where = program(tmp_path, "say", '#!/bin/sh\necho "$LC_ALL $1"\n')
    assert ask(str(where), "$(id); *").text == "C $(id); *\n"
    assert ask(str(tmp_path / "absent")).problem == f"{tmp_path}/absent: No such file or directory"


def test_a_sound_machine(tmp_path, monkeypatch, capsys):
    """The real thing, torch included: this machine passes, every finding but an ok one says what to do."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    code = run(command_line, ["doctor", "--json"])

    checks = json.loads(capsys.readouterr().out)["checks"]
    assert code == OK, checks
    assert all(bool(check["advice"]) == (check["state"] != "ok") for check in checks)
    assert [check["subject"] for check in checks][:4] == ["Python", "libraries", "snakemake", "dlpipe"]
    assert list(tmp_path.iterdir()) == []
