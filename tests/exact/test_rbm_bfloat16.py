"""What an RBM learns when its passes are rounded to bfloat16: its exact log-likelihood, beside that of float32."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from torch import Tensor

from dlpipe.datasets.digits import Digits
from dlpipe.layers.rbm import RBM
from dlpipe.runtime.batches import Shuffled
from dlpipe.runtime.jobs import Job
from dlpipe.runtime.loop import train
from dlpipe.runtime.streams import stream
from dlpipe.spec.datasets import Digits as DigitsSpec
from dlpipe.spec.training import TrainingSpec

UPDATES, HIDDEN, TRAINING = 1_000, 16, 1_000


@pytest.fixture(scope="module")
def digits() -> tuple[Tensor, Tensor]:
    """1,000 pictures [N, 64] of zeros and ones to learn from, and 797 others."""
    package = find_spec("sklearn")  # the file alone is needed; to import the package takes seconds
    assert package is not None
    assert package.origin is not None
    examples = Digits.parse(Path(package.origin).parent / "datasets" / "data", DigitsSpec())
    v = torch.from_numpy(examples.inputs / examples.scale > 0.5).float().flatten(1)
    v = v[torch.randperm(len(v), generator=stream(0, "split"))]
    return v[:TRAINING], v[TRAINING:]


def learned(v: Tensor, seed: int, precision: str) -> RBM:
    """By 1,000 updates of CD-1 with batches of 20."""
    layer = RBM(v.shape[1], HIDDEN)
    layer.initialise(v.mean(dim=0), stream(seed, "p/initialise"))
    training = TrainingSpec.model_validate(
        {
            "duration": {"steps": UPDATES},
            "optimizer": {"kind": "sgd", "learning_rate": 0.05},
            "batch_size": 20,
            "precision": precision,
        }
    )
    batches = Shuffled((v,))
    train(Job(layer, layer.step, dict, batches, stage="s", phase="p", seed=seed), training)
    return layer


@pytest.mark.parametrize("seed", range(3))
def test_bfloat16_learns_the_density_that_float32_does(seed: int, digits: tuple[Tensor, Tensor]) -> None:
    """Within 1 nat an example is what is promised, with exact log Z. Within 0.006 was measured, and 0.1 is asked for,
    as much as seeds differ; what is learned in both is far above units that are independent."""
    v, test = digits
    rbms = {precision: learned(v, seed, precision) for precision in ("float32", "bfloat16")}
    assert not torch.equal(rbms["float32"].W, rbms["bfloat16"].W), "bfloat16 is at work"
    found = {name: rbm.log_likelihood(test).mean().item() for name, rbm in rbms.items()}
    assert found["bfloat16"] == pytest.approx(found["float32"], abs=0.1)
    rates = v.mean(dim=0).clamp(0.5 / len(v), 1 - 0.5 / len(v))
    independent = (test * rates.log() + (1 - test) * (1 - rates).log()).sum(dim=1).mean().item()
    assert min(found.values()) > independent + 3.0
