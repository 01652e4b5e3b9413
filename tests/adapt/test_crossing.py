"""Readings off the grid: where a limit is about to be crossed, so that a good checkpoint is not lost."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab import EarlyStoppedTarget, Fit, finetune
from trimtab.adapt import choosing
from trimtab.adapt.crossing import NEAR, Reading, next_reading
from trimtab.adapt.dynamics.result import FinetuneResult
from trimtab.adapt.mixer import Needs
from trimtab.adapt.session import make_roles
from trimtab.errors import ConfigProblems
from trimtab.runs.folder import read_run
from trimtab.train.loop import Loop
from trimtab.train.settings import evaluation_steps
from worlds import QUICK, evaluated, model, trainable

NUMBERS = st.floats(-1, 1, allow_nan=False)
FIT = Fit(**{**vars(QUICK), "steps": 64, "eval_points": 5, "lr": 2e-3})
MIXER = EarlyStoppedTarget(targets=["math"], constraints={"web": 0.1, "safety": 0.1})
DOMAINS = {"train": trainable(), "evaluate": evaluated()}


@given(NUMBERS, NUMBERS, st.floats(0, 1), st.integers(1, 50), st.integers(1, 50), st.integers(1, 9))
def test_a_reading_is_apart_from_others_and_only_where_much_is_foreseen_to_be_used(
    first: float, second: float, room: float, steps: int, ahead: int, least: int
) -> None:
    before, now = Reading(7, {"a": first}), Reading(7 + steps, {"a": second})
    step = next_reading(before, now, {"a": room}, now.step + ahead, least)
    if step is None:
        return
    assert second > first
    assert now.step + least <= step <= now.step + ahead - least
    assert now.reaches("a", second + NEAR * room, before) < now.step + ahead
    assert step == now.step + least or step <= now.reaches("a", second + room / 2, before)


@pytest.mark.parametrize("power", [0.5, 1.0, 1.7, 2.0])
def test_a_power_of_the_step_is_carried_on_exactly(power: float) -> None:
    rise = lambda step: 1e-3 * step**power  # noqa: E731
    before, now = (Reading(step, {"a": rise(step)}) for step in (10, 20))
    assert now.reaches("a", rise(77), before) == pytest.approx(77, rel=1e-9)


def test_the_first_to_cross_decides_and_one_that_is_beyond_waits_for_the_grid() -> None:
    before, now = Reading(10, {"a": 0.01, "b": 0.02}), Reading(20, {"a": 0.02, "b": 0.04})
    assert next_reading(before, now, {"a": 0.02, "b": 1.0}, 99, 1) == 30
    assert next_reading(before, now, {"a": 0.02, "b": 0.02}, 99, 1) == 25
    assert next_reading(before, now, {"a": -1e-9, "b": 1.0}, 99, 1) is None
    assert next_reading(before, Reading(20, {"a": -0.1, "b": 0.0}), {"a": 0.2, "b": 0.1}, 99, 1) is None
    assert next_reading(before, now, {}, 99, 1) is None


def tuned(out: Path, crossings: int) -> FinetuneResult:
    fit = Fit(**{**vars(FIT), "crossings": crossings})
    return finetune(model(), mixer=MIXER, fit=fit, out=out, **DOMAINS)


def read_steps(result: FinetuneResult) -> list[int]:
    losses = result.losses
    return sorted(set(losses[losses["split"] == "validation"]["step"]))


def test_a_better_checkpoint_between_the_points_of_the_grid_is_kept(tmp_path: Path) -> None:
    """The run goes on as without: it is read more often, and nothing else."""
    plain, more = (tuned(tmp_path / str(crossings), crossings) for crossings in (0, 4))
    grid = evaluation_steps(FIT.steps, FIT.eval_points)
    assert set(read_steps(plain)) <= set(grid)
    extra = set(read_steps(more)) - set(grid)
    assert 0 < len(extra) <= 4
    shared = more.losses[more.losses["step"].isin(read_steps(plain)) & (more.losses["split"] == "validation")]
    before = plain.losses[plain.losses["split"] == "validation"]
    assert shared["loss_nats"].tolist() == before["loss_nats"].tolist()
    assert more.step in extra
    assert more.step > plain.step
    target = [result.final.set_index("domain").loc["math", "change"] for result in (plain, more)]
    assert target[1] < target[0]
    sequences = len(extra) * FIT.eval_sequences * len(more.final)  # a forward pass is a third of a step
    grid_sequences = len(grid) * FIT.eval_sequences * len(more.final)
    fixed = FIT.steps * FIT.batch_size + grid_sequences / 3
    assert more.cost.all_in_multiple - plain.cost.all_in_multiple == pytest.approx(sequences / 3 / fixed)
    assert more.cost.training_multiple == plain.cost.training_multiple


def test_a_run_that_was_killed_reads_at_the_same_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = tuned(tmp_path / "whole", 4)
    step, calls = Loop.step, [0]

    def killed(self: Loop, *arguments: Any, **options: Any) -> Any:
        calls[0] += 1
        if calls[0] == 12:
            raise RuntimeError("killed")
        return step(self, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Loop, "step", killed)
        with pytest.raises(RuntimeError, match="killed"):
            tuned(tmp_path / "run", 4)
    again = tuned(tmp_path / "run", 4)
    assert again.step == whole.step
    assert again.losses.equals(whole.losses)
    folders = [read_run(tmp_path / name).path / "metrics.jsonl" for name in ("whole", "run")]
    assert folders[0].read_bytes() == folders[1].read_bytes()


def test_readings_are_a_part_of_the_run_apart(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(choosing, "LEAST_PART", 8)
    steps = read_steps(tuned(tmp_path, 9))
    extra = set(steps) - set(evaluation_steps(FIT.steps, FIT.eval_points))
    assert all(step - before >= 8 for before, step in pairwise(steps) if step in extra)


def test_their_cost_is_planned_and_a_fixed_run_has_none() -> None:
    roles = make_roles(["math", "web"], ["safety"], ["math"], {"safety": 0.05})
    plain, more = (Fit(steps=100, eval_points=4, eval_sequences=10, crossings=n) for n in (0, 3))
    read = [Needs().ledger(fit, roles).monitoring_sequences for fit in (plain, more)]
    assert read[1] - read[0] == 3 * 10 * 3
    assert Needs().report(plain, roles).all_in_multiple == 1
    assert Needs().report(more, roles).all_in_multiple > 1


def test_less_than_none_is_refused() -> None:
    with pytest.raises(ConfigProblems, match=r"fit.crossings: got -1, expected at least 0"):
        finetune(model(), mixer=MIXER, fit=Fit(**{**vars(FIT), "crossings": -1}), **DOMAINS)
