"""What a job is said to take, against what runs book and models hold."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import pytest

from trimtab import (
    Aioli,
    Domain,
    DualAscent,
    DynaMiCS,
    EarlyStoppedTarget,
    Exp3,
    Feedback,
    Fit,
    Fixed,
    GradientAlignment,
    Proportional,
    ReferenceLoss,
    Replay,
    Uniform,
    finetune,
    load,
)
from trimtab.adapt.cost import CostReport, Schedule
from trimtab.adapt.dynamics.job import AnyMixer, DynamicsConfig
from trimtab.adapt.dynamics.slopes import SlopeRule
from trimtab.job import cost_text
from trimtab.models.weights import Lora
from trimtab.runs.serialise import plain
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


MIXERS: list[Any] = [
    Aioli(),
    Aioli(rounds=1, sweeps=2, delta=0.9),
    Aioli(rounds=2, delta=0.5),
    DualAscent(every=5),
    DynaMiCS(),
    *(DynaMiCS(blocks=blocks) for blocks in (1, 2, 3, 5)),
    DynaMiCS(mass="planned"),
    *(DynaMiCS(mass="planned", blocks=blocks) for blocks in (1, 2, 3, 5)),
    DynaMiCS(blocks=4, lean=0.0, preset="paper", probes="kept"),
    DynaMiCS(preset="paper"),
    EarlyStoppedTarget(patience=99),
    Exp3(),
    Exp3(every=5),
    Feedback(),
    Feedback(every=3),
    Fixed(target_mass=0.5),
    GradientAlignment(near=0.999, sequences=3),
    GradientAlignment(near=0.999, every=7),
    Proportional(),
    ReferenceLoss(every=2),
    Replay(),
    Uniform(),
]
TRIALS = [
    DynaMiCS(probes="rolled-back", schedule=schedule, slopes=slopes, probe_steps=3)
    for schedule, slopes in product((*get_args(Schedule), 4, [5, 6]), get_args(SlopeRule))
]
SHORT = replace(QUICK, steps=9, eval_points=3, eval_sequences=7, probe_sequences=3)
"""Read at 0, 1, 3 and 9: the first blocks of kept probes, a step each, end on the grid and off it."""


def named(mixer: Any) -> str:
    """The kind, and what was set."""
    plain_one = type(mixer)()
    odd = [str(v) for k, v in vars(mixer).items() if v != getattr(plain_one, k)]
    return " ".join([mixer.kind, *odd])


def books(mixer: Any, fit: Fit, **constraints: float) -> CostReport:
    """What a real run costs."""
    told = replace(mixer, targets=("math",), constraints=constraints)
    return finetune(model(), train=trainable(), evaluate=evaluated(), mixer=told, fit=fit).cost


def test_every_kind_is_here() -> None:
    assert {type(mixer) for mixer in MIXERS} == set(get_args(AnyMixer))


CASES = [*product([QUICK], [*MIXERS, *TRIALS]), *product([SHORT], MIXERS)]
RULES = len(get_args(SlopeRule))


def often(place: int, fit: Fit, mixer: Any) -> bool:
    """Of the trials each schedule and each rule once; of the short runs those whose rhythm the grid decides."""
    if mixer in TRIALS:
        schedule, rule = divmod(TRIALS.index(mixer), RULES)
        return rule == schedule % RULES
    return fit is QUICK or isinstance(mixer, DynaMiCS | Feedback | DualAscent) or place % 2 == 0


@pytest.mark.parametrize(
    ("fit", "mixer"),
    [
        pytest.param(fit, mixer, marks=[] if often(place, fit, mixer) else pytest.mark.exhaustive)
        for place, (fit, mixer) in enumerate(CASES)
    ],
    ids=lambda v: f"{v.steps}" if v in (QUICK, SHORT) else named(v),
)
def test_steps_and_costs_are_those_a_run_books(config: DynamicsConfig, fit: Fit, mixer: Any) -> None:
    constraints = {} if isinstance(mixer, GradientAlignment) else {"web": 5.0}
    planned = replace(config, mixer=mixer, fit=fit, constraints=constraints)
    expected, cost = SimpleNamespace(**planned.cost()), books(mixer, fit, **constraints)
    assert (expected.steps, expected.probe_steps) == (cost.training_steps, cost.probe_steps)
    assert expected.training_multiple == pytest.approx(cost.training_multiple, abs=1e-12)
    long_enough = mixer.needs(fit, planned.roles()).report(fit, planned.roles(), {})
    assert long_enough.all_in_multiple == pytest.approx(cost.all_in_multiple, abs=1e-12)
    assert expected.all_in_multiple >= cost.all_in_multiple - 1e-12


def test_gradients_of_constraints_not_in_need_are_counted_all_the_same(config: DynamicsConfig) -> None:
    """Two constraints of two sequences at each of three questions, a step's worth each four."""
    mixer = GradientAlignment(near=0.0, every=4, sequences=2)
    constraints = {"web": 5.0, "safety": 5.0}
    expected = SimpleNamespace(**replace(config, mixer=mixer, constraints=constraints).cost())
    cost = books(mixer, QUICK, **constraints)
    assert expected.training_multiple == pytest.approx(cost.training_multiple + 3 * 2 * 2 / 4 / 12, abs=1e-12)


def test_a_run_that_stops_early_takes_less(config: DynamicsConfig) -> None:
    mixer = EarlyStoppedTarget(patience=1)
    cost = books(mixer, QUICK, web=0.0)
    assert cost.training_steps < 12
    assert replace(config, mixer=mixer).cost()["steps"] == 12


def test_every_run_of_a_group_counts(config: DynamicsConfig) -> None:
    group = replace(
        config,
        mixer=DynaMiCS(schedule=4),
        compare={"a": Replay(), "b": DynaMiCS(schedule=6), "c": EarlyStoppedTarget()},
    )
    found = SimpleNamespace(**group.cost())
    assert found.steps == 4 * 12
    assert found.probe_steps == 3 * (3 + 2)
    assert found.training_multiple == (12 + 9) / 12
    one, model_once = config.cost()["disk_bytes"], 4 * count()[0]
    assert found.disk_bytes == 4 * (one - model_once) + model_once


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
    found = SimpleNamespace(**replace(config, adapter=adapter, mixer=mixer).cost())
    base, trainable = count(adapter)
    logits = 2 * 8 * 16 * len(tokenizer())
    copies = 6 if probes else 3
    assert found.memory_bytes == 4 * (base + copies * trainable + logits)
    assert found.disk_bytes == 4 * (5 + 1) * trainable


def test_memory_holds_the_gradients_of_each_training_loss_twice(config: DynamicsConfig) -> None:
    plain_run, aligned = (
        replace(config, mixer=mixer, dtype=dtype).cost()["memory_bytes"]
        for mixer, dtype in ((Uniform(), "bfloat16"), (GradientAlignment(), "bfloat16"))
    )
    assert aligned - plain_run == 2 * len(TRAIN) * 4 * count()[1]


def test_another_type_has_another_width(config: DynamicsConfig) -> None:
    """In bfloat16 base, best weights and the model take half as much; what is trained is float32 all the same."""
    low, plain, wide = (
        SimpleNamespace(**replace(config, dtype=d).cost()) for d in ("bfloat16", "float32", "float64")
    )
    assert wide.disk_bytes == 2 * plain.disk_bytes
    assert low.disk_bytes == (3 * 2 + 3 * 4) * count()[1]
    assert low.memory_bytes == plain.memory_bytes
    lora = [
        SimpleNamespace(**replace(config, adapter=Lora(r=4), dtype=d).cost()) for d in ("bfloat16", "float32")
    ]
    assert lora[0].disk_bytes == lora[1].disk_bytes
    assert lora[1].memory_bytes - lora[0].memory_bytes == 2 * count()[0]


def test_the_disk_holds_about_what_is_said(config: DynamicsConfig, tmp_path: Path) -> None:
    mixer = DynaMiCS(targets=["math"], constraints={"web": 5.0}, schedule=4)
    result = finetune(
        model(), train=trainable(), evaluate=evaluated(), mixer=mixer, fit=QUICK, out=tmp_path / "run"
    )
    assert result.status == "feasible"
    tensors = [
        p for p in (tmp_path / "run").rglob("*.safetensors") if p.stem in {"parameters", "moments", "model"}
    ]
    assert sum(path.stat().st_size for path in tensors) == pytest.approx(
        config.cost()["disk_bytes"], rel=0.05
    )


def test_a_model_that_is_not_here_has_no_size(config: DynamicsConfig) -> None:
    found = SimpleNamespace(**replace(config, model="someone/some-model").cost())
    assert math.isnan(found.memory_bytes)
    assert math.isnan(found.disk_bytes)
    assert found.steps == 12
    assert (
        "memory             unknown: the model is not on this machine, or is quantised already"
        in cost_text(vars(found))
    )


def test_the_text_has_units(config: DynamicsConfig) -> None:
    text = cost_text(replace(config, mixer=DynaMiCS(schedule=4)).cost())
    assert "steps              12" in text
    assert "probe steps        9" in text
    assert "training multiple  1.75" in text
    assert "KiB" in text


def test_no_domain_is_read(config: DynamicsConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Domain, "from_path", None)
    monkeypatch.setattr("trimtab.adapt.dynamics.job.load", None)
    assert config.cost()["steps"] == config.fit.steps * (1 + len(config.compare))
