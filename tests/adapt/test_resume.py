"""A run stopped at any moment goes on to the same numbers, bit for bit."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from trimtab import DynaMiCS, finetune
from trimtab.adapt.dynamics.result import FinetuneResult
from trimtab.errors import CheckpointError
from trimtab.models.load import Model
from trimtab.runs import atomic
from trimtab.runs.folder import RunFolder, read_run
from trimtab.train import state as checkpoint
from trimtab.train.loop import Loop, Paused
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
    *((atomic, "_move_into_place", n) for n in range(1, 13)),
    *((checkpoint.shutil, "rmtree", n) for n in range(1, 8)),
]
EVERY = 5
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


@pytest.mark.filterwarnings("ignore:Data. ", "ignore:Domains that are handed over under another name")
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


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that an exception ended in the middle, with a checkpoint and better weights than the base model's."""
    out = tmp_path_factory.mktemp("stopped") / "run"
    with pytest.MonkeyPatch.context() as patch:
        abort_at(patch, Loop, "step", 28)
        with pytest.raises(AbortError):
            run(out)
    return out


def flip(path: Path, place: int) -> None:
    raw = bytearray(path.read_bytes())
    raw[place % len(raw)] ^= 4
    path.write_bytes(bytes(raw))


SPOILT = {
    "parameters": (
        "artifacts/checkpoints/step-*/parameters.safetensors",
        r"damaged .*parameters\.safetensors",
    ),
    "moments": ("artifacts/checkpoints/step-*/moments.safetensors", r"damaged .*moments\.safetensors"),
    "generators": ("artifacts/checkpoints/step-*/rng.safetensors", r"damaged .*rng\.safetensors"),
    "state": ("artifacts/checkpoints/step-*/state.json", "state"),
    "base weights": ("artifacts/weights-00000000/parameters.safetensors", r"damaged .*weights-00000000"),
    "readings": ("artifacts/reference/0.safetensors", r"damaged .*reference.0\.safetensors"),
    "test readings": ("artifacts/test-base/1.safetensors", r"damaged .*test-base.1\.safetensors"),
    "domains": ("artifacts/test-base/domains.json", "domains"),
    "metrics": ("metrics.jsonl", r"damaged .*metrics\.jsonl"),
}


@pytest.mark.parametrize("what", SPOILT)
def test_a_flipped_bit_is_never_gone_on_from(what: str, stopped: Path, tmp_path: Path) -> None:
    pattern, message = SPOILT[what]
    out = shutil.copytree(stopped, tmp_path / "run")
    (file,) = out.glob(pattern)
    flip(file, len(file.read_bytes()) * 2 // 3)
    with pytest.raises(CheckpointError, match=f"(?s){message}.*expected.*try deleting"):
        run(out)


@pytest.mark.parametrize("newest", ["empty", "a file", "a flipped bit", "another step"])
def test_an_older_checkpoint_is_gone_on_from_and_that_is_said(
    newest: str, stopped: Path, whole: tuple[bytes, dict[str, torch.Tensor]], tmp_path: Path
) -> None:
    out = shutil.copytree(stopped, tmp_path / "run")
    parent = out / "artifacts/checkpoints"
    (good,) = checkpoint.checkpoints(parent)
    later = parent / "step-00000011"
    if newest == "a file":
        later.write_text("")
    elif newest == "empty":
        later.mkdir()
    else:
        shutil.copytree(good, later)
        if newest == "a flipped bit":
            flip(later / "moments.safetensors", 900)
    with pytest.warns(UserWarning, match=f"damaged checkpoint in .*step-00000011.*going on from {good.name}"):
        handle, _ = run(out)
    metrics, weights = outcome(out, handle)
    assert metrics == whole[0]
    assert all(torch.equal(weights[key], value) for key, value in whole[1].items())
    assert [path.name for path in checkpoint.checkpoints(parent)] == ["step-00000012"]


def test_a_run_of_an_earlier_version_goes_on(
    stopped: Path, whole: tuple[bytes, dict[str, torch.Tensor]], tmp_path: Path
) -> None:
    """It has no checksums; what it lacks is still seen where shapes tell."""
    out = shutil.copytree(stopped, tmp_path / "run")
    (newest,) = checkpoint.checkpoints(out / "artifacts/checkpoints")
    for file in out.rglob("checksums.json"):
        file.unlink()
    state = json.loads((newest / "state.json").read_text())
    del state["checksums"], state["extra"]["metrics_sha256"]
    (newest / "state.json").write_text(json.dumps(state))
    broken = shutil.copytree(out, tmp_path / "broken")
    handle, _ = run(out)
    assert outcome(out, handle)[0] == whole[0]
    file = broken / newest.relative_to(out) / "parameters.safetensors"
    tensors = load_file(file)
    name = max(tensors, key=lambda each: tensors[each].dim())
    save_file({**tensors, name: tensors[name][..., :1].contiguous()}, file)
    with pytest.raises(CheckpointError, match=r"damaged checkpoint .* of shape"):
        run(broken)


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"weights": [float("nan")] * 3},
        {"weights": [0.5, 0.5]},
        {"weights": None},
        {"ledger": {"training_steps": "3"}},
        {"more": 1},
        {"offset": 1e30},
        {"stop": 5},
    ],
)
def test_a_progress_that_cannot_be_is_refused(change: dict[str, Any], stopped: Path, tmp_path: Path) -> None:
    out = shutil.copytree(stopped, tmp_path / "run")
    (newest,) = checkpoint.checkpoints(out / "artifacts/checkpoints")
    state = json.loads((newest / "state.json").read_text())
    (newest / "checksums.json").unlink()
    del state["checksums"]
    state["extra"] = {**state["extra"], **change} if change else {}
    (newest / "state.json").write_text(json.dumps(state))
    with pytest.raises(CheckpointError, match="damaged checkpoint"):
        run(out)


def test_a_run_killed_between_its_result_and_its_status_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class KilledError(BaseException):
        pass

    def killed(self: RunFolder, status: str, **facts: Any) -> None:
        raise KilledError

    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "set_status", killed)
        with pytest.raises(KilledError):
            run(out)
    assert json.loads((out / "run.json").read_text())["status"] == "running"
    assert read_run(out).status == "done"
    run(out)
    record = json.loads((out / "run.json").read_text())
    assert record["status"] == "done"
    assert record["facts"]["result"] == "feasible"
    best = out / f"artifacts/weights-{record['facts']['step']:08d}"
    flip(best / "parameters.safetensors", 5000)
    with pytest.raises(CheckpointError, match=r"got damaged .*parameters\.safetensors"):
        run(out)
    shutil.rmtree(best)
    with pytest.raises(CheckpointError, match=r"got no file .*parameters\.safetensors"):
        run(out)


def test_a_run_that_goes_on_says_so(stopped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, seen = shutil.copytree(stopped, tmp_path / "run"), []
    assert read_run(out).status == "failed"
    assert "AbortError" in read_run(out).facts["error"]

    def look(*_: object) -> None:
        seen.append(read_run(out))
        raise KeyboardInterrupt

    monkeypatch.setattr(Loop, "step", look)
    with pytest.raises(KeyboardInterrupt):
        run(out)
    assert [(one.status, one.facts) for one in seen] == [("running", {})]
    assert read_run(out).status == "interrupted"
    with pytest.raises(CheckpointError, match="another model"):
        finetune(model(seed=1, dropout=0.1), **DOMAINS, mixer=MIXER, fit=QUICK, seed=0, out=out)
    assert read_run(out).status == "interrupted"
