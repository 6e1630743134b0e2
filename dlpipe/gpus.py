"""Which of the machine's GPUs a process takes: one job a GPU, unless more are asked for. Without torch, without CUDA.

A device is taken by locking a file in a folder that all users of the machine share. The kernel frees the lock when its
holder ends, however it ends. CUDA reads CUDA_VISIBLE_DEVICES once, when it starts, so a device is taken before that.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import re
import shutil
import socket
import stat
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from dlpipe.errors import StepError
from dlpipe.progress import say

VISIBLE, ORDER = "CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER"
FOLDER_VARIABLE = "DLPIPE_GPU_LOCKS"
FOLDER = "/tmp/dlpipe-gpus"
"""Not in TMPDIR, which may be another folder for every user."""
BATCH_JOB = ("SLURM_JOB_ID", "LSB_JOBID", "PBS_JOBID")
DRIVER = Path("/proc/driver/nvidia/gpus")
ENTRY = re.compile(r"[0-9]+|(GPU|MIG)-[0-9a-zA-Z/-]+")
PAUSE = 0.2
"""Seconds between two looks at devices that are all in use."""
SAY_EVERY = 60.0


class GpuError(StepError):
    """The GPUs that were asked for cannot be had; the message says why and what to do."""


def visible() -> list[str] | None:
    """The entries of CUDA_VISIBLE_DEVICES, as CUDA reads it; None where it is not set.

    CUDA stops at the first entry that names no device (nothing, -1, SLURM's NoDevFiles), and takes a list with a
    repeated entry for an empty one.
    """
    if VISIBLE not in os.environ:
        return None
    entries = list(itertools.takewhile(ENTRY.fullmatch, (e.strip() for e in os.environ[VISIBLE].split(","))))
    return entries if len(set(entries)) == len(entries) else []


def present() -> list[str]:
    """Indices of the machine's NVIDIA devices, in the order of their PCI bus."""
    with contextlib.suppress(OSError):
        return [str(index) for index in range(len(os.listdir(DRIVER)))]
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    try:
        done = subprocess.run([program, "-L"], capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return re.findall(r"^GPU ([0-9]+):", done.stdout, re.MULTILINE)


def batch_job() -> str | None:
    """The id of the cluster's job that this process is part of."""
    return next((os.environ[name] for name in BATCH_JOB if os.environ.get(name)), None)


class Share:
    """The GPUs of this process: none until a stage needs them, then the same ones to the end of the context.

    `asked` is `auto`, `cuda`, `cuda:N` (the N-th of the devices that may be used), or what needs none.
    """

    def __init__(self, asked: str, *, count: int = 1, jobs_per_gpu: int = 1) -> None:
        """`count` GPUs for one job, all or none of them; at most `jobs_per_gpu` jobs on each."""
        self.asked, self.count, self.jobs_per_gpu = asked, count, jobs_per_gpu
        self.devices: list[str] = []
        """What was taken, as in CUDA_VISIBLE_DEVICES."""
        self._answer: str | None = None
        self._locks: _Locks | None = None
        self._before: dict[str, str | None] = {}

    def __enter__(self) -> Share:
        return self

    def __exit__(self, *_: object) -> None:
        self._free()

    def device(self, stage: str, until: float | None = None) -> str:
        """What torch is to be told in place of `asked`. The first call takes the devices, waiting for them, and sets
        CUDA_VISIBLE_DEVICES. Raises GpuError, for one when `until` (of time.monotonic) has passed.

        `stage` is what others that wait are told.
        """
        if self._answer is None:
            self._answer = self._take(stage, until)
        return self._answer

    def give_back(self) -> str:
        """Frees the devices for others: torch, built without CUDA, cannot use them. What it is to be told instead."""
        self._free()
        self._answer = "cpu"
        return self._answer

    def _take(self, stage: str, until: float | None) -> str:
        candidates = self._candidates()
        if not candidates:
            return self.asked
        if self.asked == "auto" and visible() is None and batch_job() is not None:
            say(f"this job was given no GPU ({VISIBLE} is not set): on the CPU. --device cuda takes one all the same")
            return "cpu"
        if self.count > len(candidates):
            raise GpuError(f"{self.count} GPUs are asked for, {len(candidates)} may be used: {', '.join(candidates)}")
        self._locks = _Locks(Path(os.environ.get(FOLDER_VARIABLE) or FOLDER))
        self.devices = self._wait(self._locks, candidates, stage, until)
        self._export()
        return "auto" if self.asked == "auto" else "cuda"

    def _candidates(self) -> list[str]:
        """The devices that may be taken; none where `asked` needs none, or where there are none to be shared out."""
        form = re.fullmatch(r"auto|cuda(?::([0-9]+))?", self.asked)
        if form is None:
            return []
        inherited = visible()
        devices = present() if inherited is None else inherited
        if form[1] is None or not devices:
            return devices
        if int(form[1]) >= len(devices):
            raise GpuError(f"device {self.asked!r} is not there: {len(devices)} may be used, {', '.join(devices)}")
        return [devices[int(form[1])]]

    def _wait(self, locks: _Locks, candidates: Sequence[str], stage: str, until: float | None) -> list[str]:
        names = {_file_name(device): device for device in candidates}
        holder = f"process {os.getpid()} on {socket.gethostname()} ({stage})"
        said: float | None = None
        while True:
            taken, holders = locks.take(list(names), self.count, self.jobs_per_gpu, holder)
            if taken:
                return [device for name, device in names.items() if name in taken]
            now = time.monotonic()
            used = "; ".join(f"{names[name]} is used by {who}" for name, each in holders.items() for who in each)
            if until is not None and now >= until:
                raise GpuError(f"no GPU was free before the deadline: {used}. Run the same command again")
            if said is None or now - said >= SAY_EVERY:
                said = now
                say(f"waiting for {'a GPU' if self.count == 1 else f'{self.count} GPUs'}: {used}")
            time.sleep(PAUSE)

    def _export(self) -> None:
        self._before = {name: os.environ.get(name) for name in (VISIBLE, ORDER)}
        os.environ[VISIBLE] = ",".join(self.devices)
        if self.devices[0].isdigit():
            os.environ.setdefault(ORDER, "PCI_BUS_ID")  # by default CUDA counts the fastest first, unlike the driver

    def _free(self) -> None:
        if self._locks is not None:
            self._locks.close()
        for name, value in self._before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
        self._locks, self.devices, self._before = None, [], {}


def _file_name(device: str) -> str:
    """A cluster may number the devices anew for each job: every job has a 0 of its own, which only its parts share."""
    job = batch_job() if visible() is not None else None
    return re.sub(r"[^0-9a-zA-Z-]", "_", device if job is None else f"job-{job}-{device}")


class _Locks:
    """The folder of lock files `DEVICE.SLOT.lock`, each locked by the job that uses the device and says so in it.

    Files are opened, locked and removed only by who holds the lock of the file `choosing`, and that for a moment. So
    nobody takes a look for a use, and two jobs that need several devices never each hold a part.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._taken: list[int] = []
        try:
            with contextlib.suppress(FileExistsError), _for_all_users():
                path.mkdir()
                path.chmod(0o1777)
            self._folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except OSError as error:
            raise self._refusal(path, error.strerror) from error
        fcntl.flock(self._folder, fcntl.LOCK_SH)  # so that systemd leaves it alone, which clears /tmp of what is old

    def close(self) -> None:
        for descriptor in (*self._taken, self._folder):
            os.close(descriptor)

    def take(
        self, names: Sequence[str], count: int, jobs_per_gpu: int, holder: str
    ) -> tuple[list[str], dict[str, list[str]]]:
        """Locks `count` of the devices, those with the fewest jobs, or none. Who was taken, and who uses what."""
        choosing = self._open("choosing")
        try:
            fcntl.flock(choosing, fcntl.LOCK_EX)
            locked = self._locked()
            holders = {name: [who for file, who in locked.items() if file.rsplit(".", 2)[0] == name] for name in names}
            free = sorted((n for n in names if len(holders[n]) < jobs_per_gpu), key=lambda n: len(holders[n]))[:count]
            if len(free) < count:
                return [], holders
            for name in free:
                slots = (f"{name}.{slot}.lock" for slot in itertools.count())
                self._lock(next(slot for slot in slots if slot not in locked), holder)
            return free, holders
        finally:
            os.close(choosing)

    def _locked(self) -> dict[str, str]:
        """Locked files and what their holders say of themselves. Removes those of jobs that have ended."""
        locked = {}
        for name in sorted(os.listdir(self._folder)):
            if not name.endswith(".lock"):
                continue
            descriptor = self._open(name)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                text = os.pread(descriptor, 300, 0).decode(errors="replace")
                locked[name] = "".join(filter(str.isprintable, text)) or "a process that says nothing of itself"
            else:
                with contextlib.suppress(PermissionError):  # another user's: it will be used again
                    os.unlink(name, dir_fd=self._folder)
            finally:
                os.close(descriptor)
        return locked

    def _lock(self, name: str, holder: str) -> None:
        descriptor = self._open(name)
        self._taken.append(descriptor)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with contextlib.suppress(OSError):  # a full disk: the lock holds without
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, holder.encode(), 0)

    def _open(self, name: str) -> int:
        """A file of the folder, made if need be, for all users. Raises GpuError where something else lies there."""
        try:
            descriptor = self._open_or_create(name)
        except OSError as error:
            raise self._refusal(self.path / name, error.strerror) from error
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
            os.close(descriptor)
            raise self._refusal(self.path / name, "not a plain file of its own")
        return descriptor

    def _open_or_create(self, name: str) -> int:
        flags = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK
        while True:  # O_CREAT for a new file only: the kernel may refuse it for another user's in such a folder
            with contextlib.suppress(FileNotFoundError):
                return os.open(name, flags, dir_fd=self._folder)
            with contextlib.suppress(FileExistsError), _for_all_users():
                return os.open(name, flags | os.O_CREAT | os.O_EXCL, 0o666, dir_fd=self._folder)

    def _refusal(self, path: Path, why: str | None) -> GpuError:
        return GpuError(
            f"{path}, which tells the jobs of this machine who uses a GPU, cannot be used: {why}. "
            f"Remove it, or name a folder that all users may write to in {FOLDER_VARIABLE}"
        )


@contextlib.contextmanager
def _for_all_users() -> Iterator[None]:
    """What is made meanwhile has the mode asked for, whatever the user's umask."""
    before = os.umask(0)
    try:
        yield
    finally:
        os.umask(before)
