"""Every random number of a run comes from `stream`: a fresh generator that is a pure function of its key.

There is no random state to save or to restore, one more draw in one place moves no number in another, and a resumed
run draws what the undisturbed one would have drawn.
"""

from __future__ import annotations

import hashlib

import torch


def stream(seed: int, purpose: str, *steps: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator for one purpose ("order", "initialise", …) of one run at one step (or epoch, or restart and step).

    The CPU's Mersenne twister takes 32 bits of the key's hash, so two of 100,000 streams coincide now and then: two
    steps then share their noise, which biases nothing. The device's own generator is used: other device, other numbers.
    """
    key = hashlib.blake2b(f"{seed}/{purpose}/{steps}".encode(), digest_size=8)
    generator = torch.Generator(device)
    generator.manual_seed(int.from_bytes(key.digest(), "little"))
    return generator
