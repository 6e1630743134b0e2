from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from torch import Tensor

from dlpipe.datasets.digits import Digits
from dlpipe.runtime.streams import stream
from dlpipe.spec.datasets import Digits as DigitsSpec


@pytest.fixture(scope="session")
def digits() -> tuple[Tensor, Tensor]:
    """1,000 pictures [N, 64] of zeros and ones to learn from, and 797 others: scikit-learn's digits."""
    package = find_spec("sklearn")  # the file alone is needed; to import the package takes seconds
    assert package is not None
    assert package.origin is not None
    examples = Digits.parse(Path(package.origin).parent / "datasets" / "data", DigitsSpec())
    v = torch.from_numpy(examples.inputs / examples.scale > 0.5).float().flatten(1)
    v = v[torch.randperm(len(v), generator=stream(0, "split"))]
    return v[:1_000], v[1_000:]
