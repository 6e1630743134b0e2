from __future__ import annotations

from pathlib import Path

import pytest
import torch

from dlpipe.locks import LockedError
from dlpipe.runtime.checkpoints import Checkpoints, Snapshot

KEY = {"stage": "s-0123", "device": "cpu", "threads": 1}


def snapshot(number: float = 0.1) -> Snapshot:
    tensors = {"a/w": torch.full((2, 3), number), "b/n": torch.arange(3)}
    return Snapshot(tensors, {"step": 5, "sum": number, "best": None, "rows": [[1, 0.1, {"loss": 1e-300}]]})


def test_comes_back_exactly(tmp_path: Path) -> None:
    Checkpoints(tmp_path, KEY).save("seed0", snapshot(1 / 3))
    loaded = Checkpoints(tmp_path, KEY).load("seed0")
    assert loaded is not None
    assert loaded.values == snapshot(1 / 3).values
    assert all(torch.equal(loaded.tensors[name], tensor) for name, tensor in snapshot(1 / 3).tensors.items())
    assert Checkpoints(tmp_path, KEY).load("seed1") is None


@pytest.mark.parametrize("field", KEY)
def test_refuses_what_belongs_to_another_stage_device_or_number_of_threads(
    tmp_path: Path, field: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Checkpoints(tmp_path, KEY).save("seed0", snapshot())
    assert Checkpoints(tmp_path, {**KEY, field: "other"}).load("seed0") is None
    error = capsys.readouterr().err
    assert "seed0.safetensors" in error
    assert "'other'" in error


def test_a_damaged_file_is_named_and_ignored(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Checkpoints(tmp_path, KEY).save("seed0", snapshot())
    whole = (tmp_path / "seed0.safetensors").read_bytes()
    for content in (whole[:-1], whole[:20], b"", b"\xff" * 100):
        (tmp_path / "seed0.safetensors").write_bytes(content)
        assert Checkpoints(tmp_path, KEY).load("seed0") is None
        assert "seed0.safetensors is damaged" in capsys.readouterr().err


def test_a_file_without_our_header_is_ignored(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from safetensors.torch import save_file

    save_file({"x": torch.zeros(1)}, tmp_path / "seed0.safetensors")
    assert Checkpoints(tmp_path, KEY).load("seed0") is None
    assert "damaged" in capsys.readouterr().err


def test_finished_units_wait_for_the_next_saving(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, KEY, every=3600.0)
    checkpoints.keep("seed0", snapshot())
    assert list(tmp_path.iterdir()) == []
    checkpoints.save("seed1", snapshot())
    assert {path.name for path in tmp_path.iterdir()} == {"seed0.safetensors", "seed1.safetensors"}


def test_a_finished_unit_is_written_at_once_when_a_saving_is_due(tmp_path: Path) -> None:
    Checkpoints(tmp_path, KEY, every=0.0).keep("seed0", snapshot())
    assert (tmp_path / "seed0.safetensors").exists()


def test_whoever_has_lost_the_lock_writes_nothing(tmp_path: Path) -> None:
    def lost() -> None:
        raise LockedError("taken over")

    with pytest.raises(LockedError):
        Checkpoints(tmp_path, KEY, alive=lost).save("seed0", snapshot())
    assert list(tmp_path.iterdir()) == []


def test_same_state_same_bytes(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        Checkpoints(tmp_path / folder, KEY).save("seed0", snapshot())
    assert (tmp_path / "one/seed0.safetensors").read_bytes() == (tmp_path / "two/seed0.safetensors").read_bytes()


def test_savings_take_at_most_a_fiftieth_of_the_time(tmp_path, monkeypatch):
    """By a clock of our own: a saving takes 3 s here, so the next one is due after 150 s, not after 60."""
    now = [0.0]
    monkeypatch.setattr("dlpipe.runtime.checkpoints.time.monotonic", lambda: now[0])

    def slow(*_: object) -> None:
        now[0] += 3.0

    monkeypatch.setattr("dlpipe.runtime.checkpoints.write_atomically", slow)
    checkpoints = Checkpoints(tmp_path, {}, every=60.0)
    saved = []
    while now[0] < 1000.0:
        now[0] += 1.0
        if checkpoints.due():
            saved.append(now[0])
            checkpoints.save("seed0", Snapshot({"w": torch.zeros(3)}, {}))
    assert saved == [60.0, 213.0, 366.0, 519.0, 672.0, 825.0, 978.0]
    assert checkpoints.spent == 3.0 * len(saved)
