"""A real SLURM of one node for the tests: munged, mariadbd, slurmdbd, slurmctld and slurmd, all in one folder.

Sockets, keys, ports and the database are the cluster's own, and the daemons are ended by the processes that were
started. On the machine it leaves one link while it runs, /etc/slurm/slurm.conf, because Snakemake's job step takes
SLURM_CONF out of the environment. It needs root and Debian's packages `slurm-wlm munge slurmdbd mariadb-server`. The
node pretends to have two GPUs, which are character devices that every machine has: SLURM assigns them like any others.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

PROGRAMS = ("munged", "mariadbd", "mariadb-install-db", "slurmdbd", "slurmctld", "slurmd", "sbatch", "sacctmgr")
PACKAGES = "slurm-wlm munge slurmdbd mariadb-server"
PR_SET_PDEATHSIG = 1
GPU_DEVICES = ("/dev/null", "/dev/zero")
CONFIGURATION = Path("/etc/slurm/slurm.conf")
"""Where every SLURM command looks if its environment names no other place."""
CPUS, MEMORY_MB = 4, 8000
"""What the node says it has; `config_overrides` lets it, so that several small jobs run side by side on two cores."""

SLURM_CONF = """\
ClusterName={cluster}
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmctldPort={slurmctld}
SlurmdPort={slurmd}
SlurmdParameters=config_overrides
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerParameters=sched_min_interval=0,batch_sched_delay=0
GresTypes=gpu
ReturnToService=1
SlurmdTimeout=30
KillWait=5
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePass={folder}/munge/socket
AccountingStoragePort={slurmdbd}
AccountingStorageTRES=gres/gpu
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill
NodeName={host} NodeAddr=127.0.0.1 Port={slurmd} CPUs={cpus} RealMemory={memory} Gres=gpu:{gpus} State=UNKNOWN
PartitionName=cpu Nodes={host} Default=YES MaxTime=600 State=UP
PartitionName=gpu Nodes={host} MaxTime=600 State=UP
"""
SLURMDBD_CONF = """\
DbdHost=localhost
DbdAddr=127.0.0.1
DbdPort={slurmdbd}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort={mariadbd}
StorageUser=slurm
StoragePass={password}
StorageLoc=slurm_acct_db
PidFile={folder}/slurmdbd.pid
LogFile={folder}/slurmdbd.log
"""


class ClusterError(Exception):
    """The cluster did not come up; the message has the end of the daemon's log."""


def why_not() -> str | None:
    """Why a cluster cannot be had on this machine, or None."""
    if os.name != "posix" or os.geteuid() != 0:
        return "a SLURM of its own needs root"
    if CONFIGURATION.exists() and not _left_behind():
        return f"this machine has a SLURM of its own: {CONFIGURATION}"
    missing = [program for program in PROGRAMS if shutil.which(program, path=_path()) is None]
    return f"no {', '.join(missing)} here: apt-get install {PACKAGES}" if missing else None


class Cluster:
    """The running cluster; `environment` is what its clients (sbatch, snakemake) need."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.name = f"testing{os.getpid()}"
        self.host = socket.gethostname().partition(".")[0]
        names = ("slurmctld", "slurmd", "slurmdbd", "mariadbd")
        self.ports = dict(zip(names, _free_ports(len(names)), strict=True))
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
        self.environment = {**inherited, "PATH": _path(), "SLURM_CONF": str(folder / "slurm.conf")}
        self._password = secrets.token_hex(16)
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}

    def start(self) -> None:
        """Raises ClusterError when a daemon does not come up."""
        self.folder.chmod(0o755)
        for name in ("state", "spool"):
            (self.folder / name).mkdir()
        self._configure()
        self._start_munge()
        self._start_database()
        self.start_daemon("slurmdbd")
        self._until("slurmdbd", lambda: self._answers("sacctmgr", "-n", "list", "cluster"))
        for what in (["cluster", self.name], ["account", "lab"], ["user", "root", "account=lab"]):
            self.run("sacctmgr", "-i", "add", *what)
        self.start_daemon("slurmctld")
        self.start_daemon("slurmd")
        self._until("slurmd", lambda: self.node_state() == "idle")

    def stop(self) -> None:
        """Ends the jobs, then the daemons, the last started first."""
        with contextlib.suppress(subprocess.CalledProcessError):
            self.run("scancel", "--full", "--signal=KILL", "--user=root")
        for name in reversed(list(self._daemons)):
            self.stop_daemon(name)
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if CONFIGURATION.is_symlink() and CONFIGURATION.readlink() == self.folder / "slurm.conf":
            CONFIGURATION.unlink()

    def start_daemon(self, name: str) -> None:
        """slurmdbd, slurmctld or slurmd, in the foreground, so that its process is ours."""
        self._spawn(name, [name, "-D"])

    def stop_daemon(self, name: str) -> None:
        daemon = self._daemons.pop(name)
        daemon.terminate()
        try:
            daemon.wait(30)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()

    def run(self, *command: str) -> str:
        """What a SLURM command prints; CalledProcessError when it fails."""
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, check=True, timeout=60)
        return done.stdout

    def node_state(self) -> str:
        return self.run("sinfo", "-h", "-p", "cpu", "-o", "%t").strip()

    def jobs(self, *states: str) -> list[str]:
        """Ids of the jobs in the queue, in these states (RUNNING, PENDING …) or in any."""
        chosen = ("-t", ",".join(states)) if states else ()
        return self.run("squeue", "-h", "-o", "%i", *chosen).split()

    def processes(self) -> list[int]:
        """Ids of the living processes of this cluster's jobs, orphans too: their environment names the cluster."""
        wanted, found = f"SLURM_CLUSTER_NAME={self.name}".encode(), []
        for path in Path("/proc").glob("[0-9]*/environ"):
            with contextlib.suppress(OSError):
                if wanted in path.read_bytes().split(b"\0"):
                    found.append(int(path.parent.name))
        return found

    def has_ended(self, job: str) -> bool:
        """Whether the node runs nothing of the job any more, as far as SLURM sees."""
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                if path.read_bytes().startswith(f"slurmstepd: [{job}.".encode()):
                    return False
        return True

    def devices(self) -> dict[str, str]:
        """The jobs that run at this moment, and the CUDA_VISIBLE_DEVICES that each was given."""
        found = {}
        for pid in self.processes():
            with contextlib.suppress(OSError):
                lines = Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace").split("\0")
                variables = dict(line.split("=", 1) for line in lines if "=" in line)
                if "SLURM_JOB_ID" in variables:
                    found[variables["SLURM_JOB_ID"]] = variables.get("CUDA_VISIBLE_DEVICES", "")
        return found

    def accounting(self, *fields: str) -> list[list[str]]:
        """A row a job (not a step) of what `sacct` knows, in the order of the job ids."""
        table = self.run("sacct", "-nPX", "-D", "-S", "now-1days", "-o", ",".join(fields))
        return [line.split("|") for line in table.splitlines()]

    def _configure(self) -> None:
        facts: dict[str, Any] = {
            **self.ports,
            "cluster": self.name,
            "folder": self.folder,
            "host": self.host,
            "cpus": CPUS,
            "memory": MEMORY_MB,
            "gpus": len(GPU_DEVICES),
            "password": self._password,
        }
        (self.folder / "slurm.conf").write_text(SLURM_CONF.format(**facts))
        (self.folder / "gres.conf").write_text("".join(f"Name=gpu File={device}\n" for device in GPU_DEVICES))
        dbd = self.folder / "slurmdbd.conf"
        dbd.touch(mode=0o600)
        dbd.write_text(SLURMDBD_CONF.format(**facts))
        CONFIGURATION.parent.mkdir(exist_ok=True)
        CONFIGURATION.unlink(missing_ok=True)
        CONFIGURATION.symlink_to(self.folder / "slurm.conf")

    def _start_munge(self) -> None:
        home = self.folder / "munge"
        home.mkdir()
        key = home / "key"
        key.touch(mode=0o600)
        key.write_bytes(secrets.token_bytes(128))
        for path in (home, key):
            shutil.chown(path, "munge", "munge")
        names = {"socket": "socket", "key-file": "key", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
        command = ["munged", "--foreground", *(f"--{option}={home / name}" for option, name in names.items())]
        self._spawn("munged", command, user="munge", group="munge", extra_groups=[])
        self._until("munged", (home / "socket").exists)

    def _start_database(self) -> None:
        home = self.folder / "database"
        home.mkdir()
        shutil.chown(home, "mysql", "mysql")
        where = ["--no-defaults", f"--datadir={home / 'data'}", "--user=mysql"]
        install = ["mariadb-install-db", *where, "--auth-root-authentication-method=normal", "--skip-test-db"]
        with (self.folder / "mariadb-install.log").open("wb") as log:
            subprocess.run(install, env=self.environment, stdout=log, stderr=log, check=True)
        port = self.ports["mariadbd"]
        small = ["--innodb-buffer-pool-size=64M", "--innodb-lock-wait-timeout=900", "--skip-log-bin"]
        net = [f"--socket={home / 'socket'}", f"--port={port}", "--bind-address=127.0.0.1"]
        self._spawn("mariadbd", ["mariadbd", *where, *net, *small])
        self._until("mariadbd", lambda: self._answers(*self._sql("select 1")))
        for statement in (
            "create database slurm_acct_db",
            f"create user 'slurm'@'%' identified by '{self._password}'",
            "grant all on slurm_acct_db.* to 'slurm'@'%'",
        ):
            self.run(*self._sql(statement))

    def _sql(self, statement: str) -> list[str]:
        socket_path = self.folder / "database" / "socket"
        return ["mariadb", "--no-defaults", f"--socket={socket_path}", "-u", "root", "-e", statement]

    def _spawn(self, name: str, command: list[str], **options: Any) -> None:
        """In a session of its own: a Ctrl-C is for the tests, which end it in order. If they are killed it ends too."""
        with (self.folder / f"{name}.out").open("ab") as log:
            self._daemons[name] = subprocess.Popen(
                command,
                env=self.environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=_end_with_parent,
                **options,
            )

    def _answers(self, *command: str) -> bool:
        return subprocess.run(command, env=self.environment, capture_output=True, check=False).returncode == 0

    def _until(self, name: str, ready: Callable[[], bool], seconds: float = 60.0) -> None:
        end = time.monotonic() + seconds
        while not ready():
            if self._daemons[name].poll() is not None or time.monotonic() > end:
                logs = [path for path in self.folder.glob(f"{name}*") if path.suffix in (".log", ".out")]
                raise ClusterError(f"{name} does not come up: " + "\n".join(p.read_text()[-2000:] for p in logs))
            time.sleep(0.1)


@contextlib.contextmanager
def running() -> Iterator[Cluster]:
    """In a folder outside pytest's, which only root may enter: munge and mysql have users of their own."""
    with tempfile.TemporaryDirectory(prefix="dlpipe-slurm-", ignore_cleanup_errors=True) as folder:
        cluster = Cluster(Path(folder))
        try:
            cluster.start()
            yield cluster
        finally:
            cluster.stop()


def _left_behind() -> bool:
    """Whether the link is one of ours whose cluster is gone, as when the tests were killed."""
    if not CONFIGURATION.is_symlink():
        return False
    try:
        return not Path(f"/proc/{int((CONFIGURATION.readlink().parent / 'slurmctld.pid').read_text())}").exists()
    except (OSError, ValueError):
        return True


def _end_with_parent() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _path() -> str:
    """Debian keeps daemons where only root looks."""
    return os.pathsep.join([os.environ.get("PATH", ""), "/usr/local/sbin", "/usr/sbin", "/sbin"])


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
