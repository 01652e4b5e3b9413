"""What a job is said to take, against what runs book and models hold."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from trimtab import Domain, DynaMiCS, EarlyStoppedTarget, Fixed, Replay, finetune, load
from trimtab.adapt.dynamics_job import DynamicsConfig
from trimtab.adapt.estimate import estimate
from trimtab.models.adapters import Lora
from trimtab.runs.plain import plain
from worlds import EVALUATE, QUICK, TRAIN, evaluated, llama, model, tokenizer, trainable


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> DynamicsConfig:
    """A config whose model is on disk; nobody reads its domains."""
    home = tmp_path_factory.mktemp("model")
    llama().save_pretrained(home)
    tokenizer().save_pretrained(home)
    return DynamicsConfig(
        model=str(home),
        train=dict.fromkeys(TRAIN, "unread"),
        evaluate=dict.fromkeys(EVALUATE, "unread"),
        targets=("math",),
        constraints={"web": 5.0},
        fit=QUICK,
    )


@pytest.mark.parametrize(
    "mixer",
    [DynaMiCS(schedule=4), DynaMiCS(schedule="dense", probe_steps=2), DynaMiCS(schedule=[5, 6]), Replay()],
    ids=["gap", "dense", "steps", "replay"],
)
def test_steps_and_costs_are_those_a_run_books(config: DynamicsConfig, mixer: Any) -> None:
    expected = estimate(replace(config, mixer=mixer))
    told = replace(mixer, targets=("math",), constraints={"web": 5.0})
    cost = finetune(model(), train=trainable(), evaluate=evaluated(), mixer=told, fit=QUICK).cost
    assert (expected.steps, expected.probe_steps) == (cost.training_steps, cost.probe_steps)
    assert expected.training_multiple == pytest.approx(cost.training_multiple, abs=1e-12)
    assert expected.all_in_multiple == pytest.approx(cost.all_in_multiple, abs=1e-12)


def test_every_run_of_a_group_counts(config: DynamicsConfig) -> None:
    group = replace(
        config,
        mixer=DynaMiCS(schedule=4),
        compare={"a": Replay(), "b": DynaMiCS(schedule=6), "c": EarlyStoppedTarget()},
    )
    found = estimate(group)
    assert found.steps == 4 * 12
    assert found.probe_steps == 3 * (3 + 2)
    assert found.training_multiple == (12 + 9) / 12
    assert found.disk_bytes == 4 * estimate(config).disk_bytes


def count(adapter: Lora | None = None) -> tuple[int, int]:
    """All and trainable parameters, counted in a loaded model."""
    handle = load(llama(), tokenizer=tokenizer(), adapter=plain(adapter) if adapter else None)
    base = sum(parameter.numel() for parameter in llama().parameters())
    return base, sum(parameter.numel() for parameter in handle.trainable().values())


@pytest.mark.parametrize(
    "adapter",
    [None, Lora(r=4), Lora(r=2, targets=("q_proj", "up_proj"))],
    ids=["full", "LoRA", "some targets"],
)
@pytest.mark.parametrize("probes", [True, False])
def test_memory_is_weights_gradients_moments_snapshot_and_logits(
    config: DynamicsConfig, adapter: Lora | None, probes: bool
) -> None:
    mixer = DynaMiCS(schedule=4) if probes else Fixed(target_mass=0.5)
    found = estimate(replace(config, adapter=adapter, mixer=mixer))
    base, trainable = count(adapter)
    logits = 2 * 8 * 16 * len(tokenizer())
    copies = 6 if probes else 3
    assert found.memory_bytes == 4 * (base + copies * trainable + logits)
    assert found.disk_bytes == 4 * 5 * trainable


def test_another_type_has_another_width(config: DynamicsConfig) -> None:
    wide = estimate(replace(config, dtype="float64"))
    assert (
        wide.disk_bytes
        == 2 * estimate(config).disk_bytes
        == 4 * estimate(replace(config, dtype="bfloat16")).disk_bytes
    )


def test_the_disk_holds_about_what_is_said(config: DynamicsConfig, tmp_path: Path) -> None:
    mixer = DynaMiCS(targets=["math"], constraints={"web": 5.0}, schedule=4)
    result = finetune(
        model(), train=trainable(), evaluate=evaluated(), mixer=mixer, fit=QUICK, out=tmp_path / "run"
    )
    assert result.status == "feasible"
    tensors = [p for p in (tmp_path / "run").rglob("*.safetensors") if p.stem in {"parameters", "moments"}]
    assert sum(path.stat().st_size for path in tensors) == pytest.approx(
        estimate(config).disk_bytes, rel=0.05
    )


def test_a_model_that_is_not_here_has_no_size(config: DynamicsConfig) -> None:
    found = estimate(replace(config, model="someone/some-model"))
    assert math.isnan(found.memory_bytes)
    assert math.isnan(found.disk_bytes)
    assert found.steps == 12
    assert "memory          unknown: the model is not on this machine yet" in found.to_text()


def test_the_text_has_units(config: DynamicsConfig) -> None:
    text = estimate(replace(config, mixer=DynaMiCS(schedule=4))).to_text()
    assert "training steps  12" in text
    assert "probe steps     9" in text
    assert "1.75 x a fixed-mixture run in steps" in text
    assert "KiB" in text


def test_no_domain_is_read(config: DynamicsConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Domain, "from_path", None)
    monkeypatch.setattr("trimtab.adapt.dynamics_job.load", None)
    assert estimate(config).steps == config.fit.steps * (1 + len(config.compare))
