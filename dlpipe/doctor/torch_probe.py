"""Run as a program of its own: imports torch, tries each GPU, prints what it found as one line of JSON.

A process of its own, because an import of torch that crashes or hangs would take the doctor with it.
"""

from __future__ import annotations

import json
from typing import Any


def main() -> None:
    import torch

    available = torch.cuda.is_available()
    cuda, rocm = torch.version.cuda, getattr(torch.version, "hip", None)
    found = {
        "version": torch.__version__,
        "built_for": f"CUDA {cuda}" if cuda else f"ROCm {rocm}" if rocm else "CPUs",
        "reason": "" if available else why_no_gpu(),
        "gpus": [gpu(number) for number in range(torch.cuda.device_count())] if available else [],
    }
    print(json.dumps(found))


def why_no_gpu() -> str:
    import torch

    try:
        torch.cuda.init()
    except (RuntimeError, AssertionError) as error:
        return str(error).splitlines()[0]
    return "torch finds no GPU"


def gpu(number: int) -> dict[str, Any]:
    """Name, memory in bytes, and what goes wrong when it computes; nothing is an empty text."""
    import torch

    properties = torch.cuda.get_device_properties(number)
    problem = ""
    try:
        ones = torch.ones(8, 8, device=f"cuda:{number}")
        if (ones @ ones).sum().item() != 8**3:
            problem = "it computes wrong numbers"
    except RuntimeError as error:
        problem = str(error).splitlines()[0]
    return {"name": properties.name, "memory": properties.total_memory, "problem": problem}


if __name__ == "__main__":
    main()
