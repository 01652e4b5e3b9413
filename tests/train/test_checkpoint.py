"""Checkpoints: what was saved is read back bit for bit, from files that cannot run code."""

from __future__ import annotations

import json
import math
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

import trimtab.train.state as module
from trimtab.errors import CheckpointError
from trimtab.train.state import (
    Snapshot,
    checkpoints,
    load_checkpoint,
    load_weights,
    save_checkpoint,
    save_tensors,
    save_weights,
)


def snapshot(step: int = 3) -> Snapshot:
    draw = torch.Generator().manual_seed(step)
    return Snapshot(
        step=step,
        parameters={
            "model.layers.0.weight": torch.rand(3, 2, generator=draw),
            "half|named": torch.rand(4, generator=draw).to(torch.bfloat16),
            "wide": torch.tensor([math.pi, -0.0, math.inf], dtype=torch.float64),
        },
        moments={
            "model.layers.0.weight": {"step": torch.tensor(3.0), "exp_avg": torch.rand(3, 2, generator=draw)},
            "half|named": {"step": torch.tensor(3.0)},
        },
        stream={"step": step, "credit": {"math": 2**40 + 1, "web": -7}},
        rng={"cpu": torch.get_rng_state()},
    )


def flat(value: Snapshot) -> dict[str, torch.Tensor]:
    moments = {f"{name}/{key}": t for name, state in value.moments.items() for key, t in state.items()}
    return {**value.parameters, **moments, **value.rng}


def bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.reshape(-1).view(torch.uint8)


def assert_same(a: Snapshot, b: Snapshot) -> None:
    assert (a.step, a.stream) == (b.step, b.stream)
    assert flat(a).keys() == flat(b).keys()
    for name, tensor in flat(a).items():
        assert tensor.dtype == flat(b)[name].dtype
        assert torch.equal(bits(tensor), bits(flat(b)[name])), name


def test_a_checkpoint_is_read_back_bit_for_bit(tmp_path: Path) -> None:
    saved, extra = snapshot(), {"weights": [0.1, 0.9], "stop": None, "lost": math.nan}
    folder = save_checkpoint(tmp_path, saved, extra)
    found, facts = load_checkpoint(folder)
    assert_same(found, saved)
    assert facts["weights"] == [0.1, 0.9]
    assert facts["stop"] is None
    assert math.isnan(facts["lost"])


def test_a_checkpoint_of_step_0_has_no_moments(tmp_path: Path) -> None:
    fresh = Snapshot(0, {"w": torch.ones(1)}, {}, {}, {"cpu": torch.get_rng_state()})
    found, _ = load_checkpoint(save_checkpoint(tmp_path, fresh, {}))
    assert found.moments == {}


def test_no_file_can_run_code(tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path, snapshot(), {})
    assert {path.suffix for path in folder.iterdir()} == {".safetensors", ".json"}
    assert set(load_file(folder / "parameters.safetensors")) == set(snapshot().parameters)
    json.loads((folder / "state.json").read_text())


@pytest.mark.parametrize("keep", [1, 2])
def test_only_the_newest_are_kept(tmp_path: Path, keep: int) -> None:
    for step in (8, 9, 10, 100):
        save_checkpoint(tmp_path, snapshot(step), {}, keep=keep)
    assert [path.name for path in checkpoints(tmp_path)] == ["step-00000010", "step-00000100"][-keep:]


def test_unfinished_folders_are_no_checkpoints(tmp_path: Path) -> None:
    (tmp_path / "step-00000003.tmp").mkdir()
    (tmp_path / ".step-00000004.new").mkdir()
    assert checkpoints(tmp_path) == []
    assert checkpoints(tmp_path / "nowhere") == []


def test_the_same_step_may_be_saved_again(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, snapshot(), {"n": 1})
    folder = save_checkpoint(tmp_path, snapshot(), {"n": 2})
    assert load_checkpoint(folder)[1] == {"n": 2}


def test_a_full_disk_is_told_as_such_and_leaves_the_checkpoint_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_checkpoint(tmp_path, snapshot(3), {})
    told = "Error while serializing: I/O error: No space left on device (os error 28)"  # seen on a real one

    def full(tensors: object, path: object) -> None:
        raise SafetensorError(told)

    monkeypatch.setattr(module, "save_file", full)
    with pytest.raises(
        CheckpointError, match=r"got 'No space left on device' .* expected room .* free some space"
    ):
        save_checkpoint(tmp_path, snapshot(4), {})
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000003"]
    assert_same(load_checkpoint(tmp_path / "step-00000003")[0], snapshot(3))


def test_other_faults_of_the_writer_stay_what_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(tensors: object, path: object) -> None:
        raise SafetensorError("header too large")

    monkeypatch.setattr(module, "save_file", broken)
    with pytest.raises(SafetensorError, match="header too large"):
        save_checkpoint(tmp_path, snapshot(4), {})


def test_a_failing_write_leaves_the_checkpoint_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_checkpoint(tmp_path, snapshot(3), {})

    def fail_on_rng(tensors: dict[str, torch.Tensor], path: Path) -> None:
        if path.name == "rng.safetensors":
            raise OSError("no more")
        save_tensors(tensors, path)

    monkeypatch.setattr(module, "save_tensors", fail_on_rng)
    with pytest.raises(OSError, match="no more"):
        save_checkpoint(tmp_path, snapshot(4), {})
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000003"]
    assert_same(load_checkpoint(tmp_path / "step-00000003")[0], snapshot(3))


@pytest.mark.parametrize(
    "name", ["parameters.safetensors", "moments.safetensors", "rng.safetensors", "state.json"]
)
@pytest.mark.parametrize("missing", [True, False], ids=["missing", "cut short"])
def test_a_damaged_checkpoint_is_refused(tmp_path: Path, name: str, missing: bool) -> None:
    folder = save_checkpoint(tmp_path, snapshot(), {})
    if missing:
        (folder / name).unlink()
    else:
        whole = (folder / name).read_bytes()
        (folder / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match=r"got a damaged checkpoint in .*step-00000003.*deleting"):
        load_checkpoint(folder)


def test_a_checkpoint_of_another_version_is_told_from_a_damaged_one(tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path, snapshot(), {})
    (folder / "state.json").write_text('{"schema": 99, "cursor": 7}')
    with pytest.raises(CheckpointError, match=r"got checkpoint schema 99 in .*, expected schema 1"):
        load_checkpoint(folder)


def flip(path: Path, draw: random.Random) -> None:
    """Turn one bit of a file."""
    raw = bytearray(path.read_bytes())
    raw[draw.randrange(len(raw))] ^= 1 << draw.randrange(8)
    path.write_bytes(bytes(raw))


@pytest.mark.parametrize("seed", range(3))
def test_every_flipped_bit_of_a_checkpoint_is_noticed(tmp_path: Path, seed: int) -> None:
    folder, draw = save_checkpoint(tmp_path / "whole", snapshot(), {"n": 1}), random.Random(seed)
    for file in sorted(folder.iterdir()):
        spoilt = tmp_path / file.name / folder.name
        shutil.copytree(folder, spoilt)
        flip(spoilt / file.name, draw)
        with pytest.raises(CheckpointError, match=file.name if file.suffix == ".safetensors" else None):
            load_checkpoint(spoilt)


@pytest.mark.parametrize("seed", range(3))
def test_every_flipped_bit_of_kept_weights_is_noticed(tmp_path: Path, seed: int) -> None:
    weights, draw = dict(snapshot().parameters), random.Random(seed)
    save_weights(tmp_path / "whole", weights)
    found = load_weights(tmp_path / "whole")
    assert all(torch.equal(bits(found[name]), bits(tensor)) for name, tensor in weights.items())
    for file in sorted((tmp_path / "whole").iterdir()):
        spoilt = shutil.copytree(tmp_path / "whole", tmp_path / file.name)
        flip(spoilt / file.name, draw)
        with pytest.raises(CheckpointError):
            load_weights(spoilt)


def without_checksums(folder: Path) -> None:
    """A checkpoint as earlier versions wrote it."""
    facts = json.loads((folder / "state.json").read_text())
    del facts["checksums"]
    (folder / "state.json").write_text(json.dumps(facts))
    (folder / "checksums.json").unlink()


def test_a_checkpoint_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path, snapshot(), {"n": 1})
    without_checksums(folder)
    found, facts = load_checkpoint(folder)
    assert_same(found, snapshot())
    assert facts == {"n": 1}


def test_checksums_that_are_gone_are_noticed(tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path, snapshot(), {"n": 1})
    (folder / "checksums.json").unlink()
    with pytest.raises(CheckpointError, match=r"got no checksums\.json"):
        load_checkpoint(folder)


@pytest.mark.parametrize(
    "change", [{"step": 4}, {"step": "3"}, {"stream": []}, {"extra": None}, {"schema": True}]
)
def test_a_state_that_cannot_be_is_refused_without_checksums_too(
    tmp_path: Path, change: dict[str, Any]
) -> None:
    folder = save_checkpoint(tmp_path, snapshot(), {})
    without_checksums(folder)
    facts = json.loads((folder / "state.json").read_text())
    (folder / "state.json").write_text(json.dumps(facts | change))
    with pytest.raises(CheckpointError, match=r"damaged checkpoint .*, expected .*deleting"):
        load_checkpoint(folder)


def test_what_lies_ahead_of_a_new_checkpoint_is_forgotten(tmp_path: Path) -> None:
    """It was damaged, or this one would not have been written; it must not be taken for the newest."""
    (tmp_path / "step-00000099").mkdir()
    (tmp_path / "step-00000098").write_text("")
    save_checkpoint(tmp_path, snapshot(3), {})
    save_checkpoint(tmp_path, snapshot(4), {}, keep=2)
    assert [path.name for path in checkpoints(tmp_path)] == ["step-00000003", "step-00000004"]
