"""torch and the GPUs that it sees, beside those that the driver sees."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from dlpipe.doctor.findings import Finding, ask, fail, note, ok, warn
from dlpipe.doctor.installation import pip_install, requirement

IMPORT_PATIENCE = 180.0
"""Seconds for the first import of torch: from a network file system it takes a minute."""
GIB = 1024**3


def torch_and_gpus(root: Path = Path("/"), patience: float = IMPORT_PATIENCE) -> list[Finding]:
    """Two lines: does torch import, and which GPUs can it use."""
    # -P: the probe's own folder is not searched for modules, so none of its neighbours can stand in for another's
    probe = str(Path(__file__).with_name("torch_probe.py"))
    answer = ask(sys.executable, "-P", probe, patience=patience)
    if answer.problem:
        return [fail("torch", f"cannot be imported: {answer.problem}", _reinstall())]
    try:
        torch = json.loads(answer.text.splitlines()[-1])
    except (ValueError, IndexError):
        return [fail("torch", f"its import printed {answer.text[-200:]!r} and no answer", _reinstall())]
    return [ok("torch", f"{torch['version']}, built for {torch['built_for']}"), *_gpus(torch, root)]


def _reinstall() -> str:
    return f"Install it again: {pip_install('--force-reinstall', requirement('torch'))}."


def _gpus(torch: dict[str, Any], root: Path) -> list[Finding]:
    if torch["gpus"]:
        return [_gpu(number, gpu) for number, gpu in enumerate(torch["gpus"])]
    if not (root / "proc/driver/nvidia/version").exists() and ask("nvidia-smi", "-L").problem:
        advice = "The scales demo and lab are made for CPUs; the scale paper wants a GPU."
        return [note("GPU", "no NVIDIA driver here; everything runs on the CPU", advice)]
    cards = ask("nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader")
    if cards.problem:
        advice = "The driver is there and does not work; a restart of the machine loads the one that is installed."
        return [warn("GPU", f"nvidia-smi says: {cards.problem}", advice)]
    named = "; ".join(line.strip() for line in cards.text.splitlines() if line.strip()) or "a driver without a GPU"
    return [_unseen(torch, named)]


def _unseen(torch: dict[str, Any], named: str) -> Finding:
    """The driver's GPUs that torch cannot use."""
    if os.environ.get("CUDA_VISIBLE_DEVICES", "-") in ("", "-1"):
        advice = "Unset CUDA_VISIBLE_DEVICES, which hides all GPUs, if that is not meant."
        return note("GPU", f"{named}; hidden from this process", advice)
    if torch["built_for"] == "CPUs":
        advice = (
            "Install the build of torch for CUDA that https://pytorch.org/get-started/locally names for this driver."
        )
        return warn("GPU", f"{named}; this torch is built for CPUs and cannot use it", advice)
    advice = f"Update the NVIDIA driver, or install a torch built for something older than {torch['built_for']}."
    return warn("GPU", f"{named}; torch says: {torch['reason']}", advice)


def _gpu(number: int, gpu: dict[str, Any]) -> Finding:
    found = f"{gpu['name']}, {gpu['memory'] / GIB:.0f} GiB"
    if not gpu["problem"]:
        return ok(f"GPU {number}", found)
    advice = "If another process holds it, wait for that one; if not, this torch was not built for this GPU."
    return warn(f"GPU {number}", f"{found}; it cannot compute: {gpu['problem']}", advice)
