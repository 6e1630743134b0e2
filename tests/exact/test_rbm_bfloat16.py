"""What an RBM learns when its passes are rounded to bfloat16: its exact log-likelihood, beside that of float32."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dlpipe.layers.rbm import RBM
from dlpipe.runtime.batches import Shuffled
from dlpipe.runtime.jobs import Job
from dlpipe.runtime.loop import train
from dlpipe.runtime.streams import stream
from dlpipe.spec.training import TrainingSpec

UPDATES, HIDDEN = 1_000, 16


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
