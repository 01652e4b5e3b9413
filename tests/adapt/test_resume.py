"""A run stopped at any moment goes on to the same numbers, bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from trimtab import DynaMiCS, finetune
from trimtab.adapt.result import FinetuneResult
from trimtab.errors import CheckpointError
from trimtab.models.load import Model
from trimtab.runs import atomic
from trimtab.train import checkpoint
from trimtab.train.interrupt import Paused
from trimtab.train.loop import Loop
from worlds import QUICK, evaluated, model, trainable

MIXER = DynaMiCS(targets=["math"], constraints={"web": 0.0, "safety": 0.3}, schedule=4, probe_steps=2)
DOMAINS = {"train": trainable(), "evaluate": evaluated()}


class AbortError(Exception):
    """A stop that no code of ours expects."""


def run(out: Path, seed: int = 0, **options: Any) -> tuple[Model, FinetuneResult]:
    """One run on fresh base weights."""
    handle = model(dropout=0.1)
    options = {"mixer": MIXER, "fit": QUICK, "seed": seed, "out": out, **options}
    return handle, finetune(handle, **DOMAINS, **options)


def outcome(out: Path, handle: Model) -> tuple[bytes, dict[str, torch.Tensor]]:
    """Everything that has to be equal: all metrics as bytes, the weights left in the model."""
    return (out / "metrics.jsonl").read_bytes(), dict(handle.module.state_dict())


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, dict[str, torch.Tensor]]:
    """The outcome of a run that nothing stopped."""
    out = tmp_path_factory.mktemp("whole") / "run"
    handle, result = run(out)
    assert result.status == "feasible"
    assert result.cost.probe_steps == 3 * 3 * 2
    return outcome(out, handle)


def abort_at(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, count: int) -> list[int]:
    """Make the `count`-th call of a function raise; the list holds how many calls were made."""
    calls = [0]
    original: Callable[..., Any] = getattr(owner, name)

    def counted(*arguments: Any, **options: Any) -> Any:
        calls[0] += 1
        if calls[0] == count:
            raise AbortError
        return original(*arguments, **options)

    monkeypatch.setattr(owner, name, counted)
    return calls


# 12 steps and 18 probe steps, 4 readings on the grid and 20 around and inside of probes, snapshots and restores,
# checkpoints (each of them flushed, moved into place and followed by clean-up), rows of metrics.
MOMENTS = [
    *((Loop, "step", n) for n in range(1, 31)),
    *((Loop, "evaluate", n) for n in (*range(1, 17), 20, 23, 26)),
    *((Loop, "snapshot", n) for n in range(1, 9)),
    *((Loop, "restore", n) for n in range(1, 10)),
    *((checkpoint, "save_file", n) for n in range(1, 25)),
    *((atomic, "_move_into_place", n) for n in range(1, 12)),
    *((checkpoint.shutil, "rmtree", n) for n in range(1, 8)),
]
EVERY = 3
"""One moment in so many is tried each time; `make exhaustive` tries the others."""


@pytest.mark.parametrize(
    ("owner", "name", "count"),
    [
        pytest.param(*moment, marks=[pytest.mark.exhaustive] if place % EVERY else [])
        for place, moment in enumerate(MOMENTS)
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_an_abort_at_any_moment_changes_nothing(
    owner: Any,
    name: str,
    count: int,
    whole: tuple[bytes, dict[str, torch.Tensor]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        abort_at(patch, owner, name, count)
        with pytest.raises(AbortError):
            run(out)
    handle, result = run(out)
    metrics, weights = outcome(out, handle)
    assert metrics == whole[0]
    assert all(torch.equal(weights[key], value) for key, value in whole[1].items())
    assert result.cost.training_steps == QUICK.steps


def test_an_interrupt_inside_a_probe_leaves_a_checkpoint_of_that_step(
    whole: tuple[bytes, dict[str, torch.Tensor]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, calls = tmp_path / "run", [0]
    original = Loop.step

    def paused(self: Loop, *arguments: Any, **options: Any) -> Any:
        calls[0] += 1
        if calls[0] == 14:  # 6 probe steps, 4 steps, then inside the second round of probes
            assert options["alone"]
            raise Paused
        return original(self, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Loop, "step", paused)
        with pytest.raises(KeyboardInterrupt):
            run(out)
    assert [path.name for path in checkpoint.checkpoints(out / "artifacts/checkpoints")] == ["step-00000004"]
    assert '"status": "interrupted"' in (out / "run.json").read_text()
    handle, _ = run(out)
    assert outcome(out, handle)[0] == whole[0]


def test_a_finished_run_is_read_back_without_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, result = run(tmp_path / "run")
    with monkeypatch.context() as patch:
        abort_at(patch, Loop, "step", 1)
        second, again = run(tmp_path / "run")
    assert again.to_frame().equals(result.to_frame())
    assert again.step == result.step
    for key, value in first.module.state_dict().items():
        assert torch.equal(second.module.state_dict()[key], value)


def test_another_seed_is_another_run(tmp_path: Path) -> None:
    run(tmp_path / "run")
    with pytest.raises(CheckpointError, match=r"seed \(was 0, now 1\)"):
        run(tmp_path / "run", seed=1)


def test_other_weights_or_data_are_refused(tmp_path: Path) -> None:
    run(tmp_path / "run")
    options = {"mixer": MIXER, "fit": QUICK, "seed": 0, "out": tmp_path / "run"}
    with pytest.raises(CheckpointError, match="another model"):
        finetune(model(seed=1, dropout=0.1), **DOMAINS, **options)
    swapped = {**DOMAINS["train"], "math": DOMAINS["train"]["code"]}
    with pytest.raises(CheckpointError, match="other data for 'math'"):
        finetune(model(dropout=0.1), train=swapped, evaluate=DOMAINS["evaluate"], **options)


def test_a_damaged_checkpoint_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        abort_at(patch, Loop, "step", 20)
        with pytest.raises(AbortError):
            run(tmp_path / "run")
    newest = checkpoint.checkpoints(tmp_path / "run/artifacts/checkpoints")[-1]
    (newest / "moments.safetensors").write_bytes(b"torn")
    with pytest.raises(CheckpointError, match=f"damaged checkpoint in .*{newest.name}.*try deleting"):
        run(tmp_path / "run")
