"""The device of a process, made deterministic: same commit, device model and threads, same bytes."""

from __future__ import annotations

import contextlib
import ctypes
import os

import torch

from dlpipe.errors import StepError
from dlpipe.gpus import visible


class DeviceError(StepError):
    """A device that was asked for is not there."""


def prepare(name: str = "auto", threads: int = 1) -> torch.device:
    """Sets threads and determinism for the whole process. `auto` is cuda where there is one. Raises DeviceError."""
    # cuBLAS is deterministic only with a fixed workspace, and reads this once, at its first use.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.set_num_threads(threads)
    # torch.use_deterministic_algorithms(True) does the same, and imports torch's compiler on the way: over a second.
    torch.set_deterministic_debug_mode("error")
    # Nothing reads memory before it is written; filling it anyway would cost a pass over every new tensor.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    # TF32 has 10 bits where float32 has 23. cuDNN, unlike cuBLAS, takes it for convolutions and cells unless told.
    torch.backends.cudnn.allow_tf32 = False
    _keep_freed_memory()
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise DeviceError(f"device {name!r} is not there: {str(error).splitlines()[0]}") from error
    return device


def describe(device: torch.device) -> str:
    """The device's model for the manifest: `cpu`, or the name of the GPU."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def gpus(device: torch.device) -> list[str]:
    """The devices that this process may use, as CUDA_VISIBLE_DEVICES names them, for the manifest; none on the CPU."""
    if device.type != "cuda":
        return []
    devices = visible()
    return [str(device.index or 0)] if devices is None else devices


def _keep_freed_memory() -> None:
    """glibc gives large blocks back to the kernel when freed, and a training step frees and asks for the same blocks
    each time: a fifth of a 784-500-10 network's step goes into page faults. So freed blocks up to 32 MB are kept."""
    trim_threshold, mmap_threshold = -1, -3  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD of malloc.h
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(mmap_threshold, 32 * 1024 * 1024)
        mallopt(trim_threshold, 1024 * 1024 * 1024)
