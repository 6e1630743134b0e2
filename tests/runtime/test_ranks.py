"""Several processes that train together: the result of one process, its bytes again after a stop, one voice."""

from __future__ import annotations

import dataclasses
import json
import signal
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from dlpipe.artifacts import Artifact, Stage, Store
from dlpipe.layers.rbm import RBM
from dlpipe.runtime import history
from dlpipe.runtime.batches import Shuffled
from dlpipe.runtime.devices import DeviceError
from dlpipe.runtime.jobs import Job
from dlpipe.runtime.loop import train
from dlpipe.runtime.ranks import ALONE, Particles, RankError, Ranks, join
from dlpipe.runtime.streams import stream
from dlpipe.spec.training import TrainingSpec
from tests.stages.attempts import CONTEXT, Attempt, Fate, Place, attempt, attempt_together, become_rank
from tests.stages.small import finetune_stage, prepared, pretrain_stage

ADAM = {"kind": "adam", "learning_rate": 0.01}
MOMENTUM = {"kind": "sgd", "learning_rate": 0.1, "momentum": 0.9}
NET = {"kind": "mlp", "units": [8, 8], "dropout": 0.2}
RELATIVE, ABSOLUTE = 1e-5, 5e-6
"""A sum over a batch in two parts is rounded otherwise, by 1e-7 of it; 10 to 30 updates carry it to 5e-7. The runs are
short enough that no sample falls on the other side of its probability for that: it would, once in 10 million draws."""


def autoencoder(**fields: Any) -> Callable[[Store], Stage]:
    return lambda store: pretrain_stage(prepared(store), {"kind": "autoencoder", **fields})


def rbm(**fields: Any) -> Callable[[Store], Stage]:
    return lambda store: pretrain_stage(prepared(store), {"kind": "rbm", **fields})


def classifier(**fields: Any) -> Callable[[Store], Stage]:
    return lambda store: finetune_stage(prepared(store), **{"model": NET, "optimizer": MOMENTUM, **fields})


def energy(task: dict[str, Any]) -> Callable[[Store], Stage]:
    return classifier(model={"kind": "energy", "units": [8], "samples": 20}, task=task, optimizer=ADAM)


def second_layer(store: Store) -> Stage:
    first = rbm()(store)
    assert attempt(first, store).exit_code == 0
    return pretrain_stage(prepared(store), {"kind": "rbm"}, (first.id,), units=6)


KINDS: dict[str, Callable[[Store], Stage]] = {
    "rbm-cd1": rbm(),
    "rbm-cd3": rbm(cd_steps=3),
    "rbm-gaussian": rbm(visible_units="gaussian", cd_steps=2),
    "rbm-linear": rbm(hidden_units="gaussian"),
    "rbm-rectified": rbm(hidden_units="relu", cd_steps=2),
    "rbm-pcd": rbm(persistent=True, chains=10, cd_steps=2),
    "rbm-fast": rbm(persistent=True, chains=10, fast_rate=0.1),
    "rbm-centred": rbm(centred=True),
    "rbm-labels": lambda store: pretrain_stage(
        prepared(store), {"kind": "label_rbm", "persistent": True, "chains": 10}
    ),
    "dbn-up-down": classifier(model={"kind": "dbn", "units": [8, 6]}, task={"kind": "generative"}),
    "dbn-classifier": classifier(model={"kind": "dbn", "units": [8, 6]}),
    "dbm-joint": classifier(model={"kind": "dbm", "units": [8, 6], "chains": 10}, task={"kind": "generative"}),
    "dbm-classifier": classifier(model={"kind": "dbm", "units": [8, 6], "chains": 10}),
    "rbm-second": second_layer,
    "autoencoder-plain": autoencoder(),
    "autoencoder-masking": autoencoder(corruption=0.3),
    "autoencoder-salt": autoencoder(corruption=0.3, corruption_kind="salt_and_pepper", tied=False),
    "autoencoder-emphasis": autoencoder(corruption=0.3, untouched_weight=0.5),
    "autoencoder-contractive": autoencoder(contraction=0.1),
    "autoencoder-gaussian": autoencoder(corruption=0.3, corruption_kind="gaussian", reconstruction="squared"),
    "autoencoder-rectified": autoencoder(hidden_units="relu", corruption=0.3),
    "supervised": lambda store: pretrain_stage(prepared(store), {"kind": "supervised"}),
    "classifier-dropout": classifier(),
    "classifier-top": classifier(train="top", clip_norm=0.05),
    "classifier-weight-noise": classifier(weight_noise=0.1),
    "classifier-clip": classifier(clip_norm=0.05, schedule={"kind": "cosine"}),
    "classifier-adam": classifier(optimizer=ADAM, select={"best_of": 2, "by": "valid_loss"}),
    "classifier-early": classifier(
        epochs=30.0, optimizer=ADAM, early_stopping={"by": "valid_loss", "patience": {"epochs": 1.0}}
    ),
    "energy-langevin": energy({"kind": "langevin", "restart": 0.1}),
    "energy-noise-contrastive": energy({"kind": "noise_contrastive", "noise": 3}),
}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "data", tmp_path / "results")


def two(stage: Stage, store: Store, *fates: Fate) -> list[Attempt]:
    return attempt_together(stage, store, fates or (Fate(), Fate()))


def weights(artifact: Artifact) -> dict[str, Tensor]:
    return load_file(artifact.path("weights.safetensors"))


def rows(artifact: Artifact) -> dict[tuple[Any, ...], float]:
    return {(*row[:3], row.metric): row.value for row in history.read(artifact.path("history.csv"))}


@pytest.mark.parametrize("name", KINDS)
def test_two_ranks_come_to_what_one_comes_to(name: str, store: Store, tmp_path: Path) -> None:
    stage = KINDS[name](store)
    assert attempt(stage, store).exit_code == 0
    alone = store.read(stage.rule, stage.id)
    other = Store(tmp_path / "two" / "data", tmp_path / "two" / "results")
    KINDS[name](other)
    assert [each.exit_code for each in two(stage, other)] == [0, 0]
    together = other.read(stage.rule, stage.id)
    assert (alone.manifest["facts"]["ranks"], together.manifest["facts"]["ranks"]) == (1, 2)
    for name, tensor in weights(alone).items():
        torch.testing.assert_close(weights(together)[name], tensor, rtol=RELATIVE, atol=ABSOLUTE)
    assert rows(together) == pytest.approx(rows(alone), rel=RELATIVE, abs=ABSOLUTE)


def bytes_of(store: Store, stage: Stage) -> dict[str, str]:
    return {name: about["sha256"] for name, about in store.read(stage.rule, stage.id).manifest["files"].items()}


@pytest.mark.parametrize("name", ["rbm-pcd", "autoencoder-masking", "classifier-adam", "classifier-early"])
def test_stopped_and_started_again_ends_in_the_same_bytes(name: str, store: Store, tmp_path: Path) -> None:
    """Only one of the two is told to stop, once the second, once the first; both do, at the same step."""
    other = Store(tmp_path / "other" / "data", tmp_path / "other" / "results")
    stage = KINDS[name](store)
    whole = two(KINDS[name](other), other)
    told = two(stage, store, Fate(), Fate(signal.SIGUSR1, after=7))
    assert [(each.exit_code, each.steps) for each in told] == [(1, 7), (1, 7)]
    assert "stopped by SIGUSR1 at step" in told[0].error
    again = two(stage, store, Fate(signal.SIGTERM, after=4), Fate())
    assert [(each.exit_code, each.steps) for each in again] == [(1, 4), (1, 4)]
    last = two(stage, store)
    assert [(each.exit_code, each.steps) for each in last] == [(0, whole[0].steps - 11)] * 2
    assert bytes_of(store, stage) == bytes_of(other, stage)


def test_a_kill_loses_the_steps_since_the_last_saving(store: Store, tmp_path: Path) -> None:
    """The second rank is killed: the first one notices, and ends. Only the first one is ever due to save."""
    other = Store(tmp_path / "other" / "data", tmp_path / "other" / "results")
    stage = KINDS["rbm-pcd"](store)
    two(KINDS["rbm-pcd"](other), other)
    first, second = two(stage, store, Fate(save_every=3), Fate(signal.SIGKILL, after=8))
    assert (first.exit_code, second.exit_code) == (1, -signal.SIGKILL)
    assert "a rank is gone" in first.error
    assert first.seconds < 20
    last = two(stage, store)
    assert [(each.exit_code, each.steps) for each in last] == [(0, 14)] * 2, "20 steps less the 6 that were saved"
    assert bytes_of(store, stage) == bytes_of(other, stage)


def test_the_state_of_another_number_of_ranks_is_refused(store: Store) -> None:
    stage = dataclasses.replace(KINDS["rbm-pcd"](store), seeds=(0,))
    two(stage, store, Fate(signal.SIGUSR1, after=7), Fate())
    alone = attempt(stage, store)
    assert (alone.exit_code, alone.steps) == (0, 10)
    assert "'ranks': 2" in alone.error
    assert "starting seed0-restart0 anew" in alone.error


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"batch_size": 15}, "2 ranks cannot have equal shares of batch_size 15; make it a multiple of 2"),
        ({"layer": {"kind": "rbm", "persistent": True, "chains": 7}}, "equal shares of chains 7"),
    ],
)
def test_unequal_shares_are_refused(fields: dict[str, Any], message: str, store: Store) -> None:
    stage = pretrain_stage(prepared(store), **fields)
    refused = two(stage, store)
    assert [each.exit_code for each in refused] == [1, 1]
    assert all(message in each.error for each in refused)


def _meet(place: Place) -> None:
    """In a process: what comes of everything that ranks do together, where each has something else to say."""
    become_rank(place)
    ranks = join()
    own = float(ranks.rank)
    parameters = [nn.Parameter(torch.zeros(2, 3)), nn.Parameter(torch.zeros(3, 2).T)]
    parameters[0].grad = torch.full((2, 3), own)
    parameters[1].grad = torch.arange(6.0).reshape(3, 2).T * own
    scalars = ranks.average(parameters, {"loss": torch.tensor(own), "activity": torch.tensor(3.0)})
    aligned = [torch.full((2, 2), own), torch.tensor([[1.0, 2.0], [3.0, 4.0]]).T + own]
    ranks.align(aligned)
    place.report.write_text(
        json.dumps(
            {
                "gradients": [parameter.grad.tolist() for parameter in parameters if parameter.grad is not None],
                "scalars": {name: float(value) for name, value in scalars.items()},
                "aligned": [tensor.tolist() for tensor in aligned],
                "gathered": ranks.gather(torch.tensor([[own, 0.5], [own, 1.5]])).tolist(),
                "numbers": ranks.from_first([own + 0.1, 1 / 3]),
                "done": ranks.decide(ranks.first),
                "nobody": ranks.agree(None, False),
                "only the second": ranks.agree("SIGUSR1" if own else None, bool(own)),
                "both": ranks.agree("deadline" if own else "SIGINT", not own),
            }
        )
    )


def test_what_ranks_do_together_gives_each_the_same(store: Store) -> None:
    store.results.mkdir()
    places = [Place(rank, 2, store.results / "meeting") for rank in (0, 1)]
    processes = [CONTEXT.Process(target=_meet, args=(place,)) for place in places]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    first, second = (json.loads(place.report.read_text()) for place in places)
    assert first == second
    assert first == {
        "gradients": [[[0.5] * 3] * 2, [[0.0, 1.0, 2.0], [0.5, 1.5, 2.5]]],
        "scalars": {"loss": 0.5, "activity": 3.0},
        "aligned": [[[0.0, 0.0], [0.0, 0.0]], [[1.0, 3.0], [2.0, 4.0]]],
        "gathered": [[0.0, 0.5], [0.0, 1.5], [1.0, 0.5], [1.0, 1.5]],
        "numbers": [0.1, 1 / 3],
        "done": True,
        "nobody": [None, False],
        "only the second": ["SIGUSR1", False],
        "both": ["SIGINT", True],
    }


class Apart(Ranks):
    """A rank that is alone, and takes its own part for the mean: what it sees and draws can be looked at."""

    def average(self, parameters: Any, scalars: Any, buffers: Any = ()) -> Any:
        return scalars

    def from_first(self, values: Any) -> list[float]:
        return list(values)

    def align(self, tensors: Any) -> None: ...


class Seen(nn.Module):
    """Notes the examples of each step."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(1))
        self.batches: list[list[float]] = []

    def step(self, x: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        self.batches.append(x.flatten().tolist())
        self.w.grad = torch.zeros(1)
        return {"loss": x.mean()}


def batches(examples: int, ranks: Ranks) -> list[list[float]]:
    """What a rank sees in two epochs of batches of 6."""
    module = Seen()
    job = Job(
        module, module.step, dict, Shuffled((torch.arange(examples).float()[:, None],)), stage="s", phase="p", seed=3
    )
    declared = {"duration": {"epochs": 2.0}, "optimizer": {"kind": "sgd", "learning_rate": 0.1}, "batch_size": 6}
    train(job, TrainingSpec.model_validate(declared), ranks=ranks)
    return module.batches


def test_ranks_have_the_rows_of_one_process_in_their_order() -> None:
    shares = [batches(21, Apart(rank, 3)) for rank in range(3)]
    assert [list(chain(*parts)) for parts in zip(*shares, strict=True)] == batches(21, ALONE)
    assert [len(batch) for batch in shares[0]] == [2, 2, 2, 1] * 2


def test_the_examples_of_an_epoch_that_do_not_come_out_even_are_left_out() -> None:
    """19 examples for 3 ranks: batches of 6, 6, 6, and the last one of the permutation is not seen."""
    shares = [batches(19, Apart(rank, 3)) for rank in range(3)]
    together = [list(chain(*parts)) for parts in zip(*shares, strict=True)]
    alone = batches(19, ALONE)
    assert together == [batch for batch in alone if len(batch) == 6]
    assert alone[3] != alone[7], "another one each epoch"
    with pytest.raises(RankError, match="3 ranks need more than 2 training examples"):
        batches(2, Apart(0, 3))


DRAWS: dict[str, Callable[[int, torch.Generator], Tensor]] = {
    "uniform_": lambda rows, generator: torch.empty(rows, 7).uniform_(-1.0, 2.0, generator=generator),
    "normal_": lambda rows, generator: torch.empty(rows, 40).normal_(generator=generator),
    "normal_ of a copy": lambda rows, generator: torch.empty_like(torch.ones(rows, 3)).normal_(
        0, 2, generator=generator
    ),
    "one a row": lambda rows, generator: torch.empty(rows).uniform_(generator=generator),
    "a block of seeds": lambda rows, generator: torch.empty(3, rows, 5).uniform_(generator=generator),
    "rand of a shape": lambda rows, generator: torch.rand((rows, 9), generator=generator),
    "rand of sizes": lambda rows, generator: torch.rand(rows, 9, generator=generator),
    "randn": lambda rows, generator: torch.randn(torch.Size([rows, 9]), generator=generator, dtype=torch.float64),
    "twice": lambda rows, generator: (
        torch.rand(rows, 3, generator=generator) + torch.rand(rows, 3, generator=generator)
    ),
}


@pytest.mark.parametrize("name", DRAWS)
def test_the_noise_of_a_row_is_what_one_process_draws_for_it(name: str) -> None:
    draw = DRAWS[name]
    alone = draw(12, stream(0, "noise"))
    parts = []
    for rank in range(3):
        with Ranks(rank, 3).noise(4):
            parts.append(draw(4, stream(0, "noise")))
    assert torch.equal(torch.cat(parts, dim=max(alone.ndim - 2, 0)), alone)


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda g: torch.bernoulli(torch.full((4, 2), 0.5), generator=g), "bernoulli draws .* 2 ranks cannot share"),
        (lambda g: torch.randperm(4, generator=g), "randperm"),
        (lambda g: torch.empty(2, 4).T.uniform_(generator=g), "uniform_"),
        (lambda g: torch.rand(5, 4, generator=g), "rand draws 5 x 4, which has no row for each example or particle"),
        (lambda g: torch.rand((), generator=g), "rand draws one number"),
    ],
)
def test_noise_that_cannot_be_shared_is_refused(draw: Callable[[torch.Generator], Tensor], message: str) -> None:
    with Ranks(0, 2).noise(4), pytest.raises(RankError, match=message):
        draw(stream(0, "noise"))
    draw(stream(0, "noise"))  # one process may


def test_particles_are_an_rbms_chains_and_nothing_else() -> None:
    persistent = RBM(3, 2, persistent=True, chains=6)
    persistent.chains.copy_(torch.arange(12.0).reshape(6, 2))
    particles = Particles(persistent, Ranks(1, 3))
    assert (particles.names, particles.shares) == (["chains"], [2])
    particles.share_out()
    assert persistent.state_dict()["chains"].tolist() == [[4.0, 5.0], [6.0, 7.0]]
    for module, ranks in ((RBM(3, 2), Ranks(1, 3)), (persistent, ALONE), (nn.Linear(2, 2), Ranks(1, 3))):
        assert Particles(module, ranks).names == []


def test_a_rank_has_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert [Ranks(1, 2, 1).device(name) for name in ("cpu", "auto")] == ["cpu", "auto"]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    assert [Ranks(rank, 2, rank).device(name) for rank, name in ((0, "auto"), (1, "cuda"))] == ["cuda:0", "cuda:1"]
    assert taken == [0, 1]
    assert ALONE.device("cuda:1") == "cuda:1"
    with pytest.raises(DeviceError, match="3 ranks need a GPU each; 2 can be seen here"):
        Ranks(2, 3, 2).device("auto")
    with pytest.raises(DeviceError, match="cuda:1 is one device; 2 ranks take --device cuda"):
        Ranks(1, 2, 1).device("cuda:1")
