"""Costs: the paper's figures by formula and by counting, and a report worked out by hand."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from trimtab.adapt.cost import FORWARD, CostReport, Interval, Ledger, cost_report, intervals
from trimtab.adapt.dynamics.result import FinetuneResult
from trimtab.adapt.record import RunRecord, from_mapping, to_mapping
from trimtab.runs.serialise import plain


@dataclass(frozen=True)
class Plan:
    """Expected steps of a run before it starts; the two multiples are those of `CostReport`."""

    training_steps: int
    probe_steps: int
    training_multiple: float
    all_in_multiple: float


def plan_probes(
    spans: Sequence[Interval],
    *,
    n_train: int,
    n_evaluate: int,
    probe_batches: float = 50,
    grid_batches: float = 200,
    grid_every: int = 64,
) -> Plan:
    """Cost of rolled-back probes by the paper's formula (arXiv 2605.10770, cost analysis).

    Each update trains every one of the N domains for c steps and reads M domains after each; the reading before
    comes free where the update falls on the evaluation grid. A plain run costs its steps and the grid:
    rho = H + (H / grid_every) M grid_batches / 3, and the multiple is 1 + sum(beta rho) / sum(rho), where
    beta rho = N (c + M probe_batches / 3) + (off the grid) M probe_batches / 3.
    """
    reading = n_evaluate * probe_batches * FORWARD
    extra = sum(
        n_train * (span.probe_steps + reading) + (reading if span.start % grid_every else 0) for span in spans
    )
    steps = sum(span.horizon for span in spans)
    plain = steps + steps / grid_every * n_evaluate * grid_batches * FORWARD
    probes = n_train * sum(span.probe_steps for span in spans)
    return Plan(steps, probes, 1 + probes / steps, 1 + extra / plain)


@pytest.mark.parametrize(("schedule", "multiple"), [("none", 1.3946), ("light", 1.5182), ("dense", 1.6007)])
def test_the_papers_multiples(schedule: Any, multiple: float) -> None:
    plan = plan_probes(intervals(schedule, 2048, None), n_train=5, n_evaluate=7)
    assert plan.all_in_multiple == pytest.approx(multiple, abs=5e-5)
    assert plan.training_steps == 2048


def count_by_hand(schedule: Any) -> tuple[float, float]:
    """Optimiser steps and forward passes of N=5, M=7, booked one by one; a forward pass is a third of a step."""
    steps = probe_steps = forwards = grid_forwards = 0.0
    spans = {span.start: span for span in intervals(schedule, 2048, None)}
    for step in range(2048):
        if step in spans:
            if step % 64:
                forwards += 7 * 50
            for _ in range(5):
                probe_steps += spans[step].probe_steps
                forwards += 7 * 50
        if step % 64 == 0:
            grid_forwards += 7 * 200
        steps += 1
    plain = steps + grid_forwards / 3
    return (steps + probe_steps) / steps, (plain + probe_steps + forwards / 3) / plain


@pytest.mark.parametrize("schedule", ["none", "light", "dense"])
def test_the_formula_is_what_counting_gives(schedule: Any) -> None:
    plan = plan_probes(intervals(schedule, 2048, None), n_train=5, n_evaluate=7)
    training, all_in = count_by_hand(schedule)
    assert plan.training_multiple == pytest.approx(training, abs=1e-12)
    assert plan.all_in_multiple == pytest.approx(all_in, abs=1e-12)


def test_training_alone_costs_2_56_of_the_light_schedule() -> None:
    """Probes are as long as their intervals up to 128 steps: 640 in all for each of 5 domains."""
    plan = plan_probes(intervals("light", 2048, None), n_train=5, n_evaluate=7)
    assert plan.probe_steps == 5 * (8 + 8 + 16 + 32 + 64 + 128 + 128 + 128 + 128)
    assert plan.training_multiple == pytest.approx(2.5625, abs=1e-12)


@pytest.mark.parametrize("schedule", ["none", "dense"])
def test_training_alone_costs_the_same_of_every_schedule(schedule: Any) -> None:
    plan = plan_probes(intervals(schedule, 2048, None), n_train=5, n_evaluate=7)
    assert plan.training_multiple == pytest.approx(2.5625, abs=1e-12)


def test_the_reading_before_is_free_on_the_grid_alone() -> None:
    on, off = (
        plan_probes([Interval(start, 64, 8)], n_train=2, n_evaluate=3, probe_batches=6, grid_batches=9)
        for start in (64, 65)
    )
    plain = 64 + 3 * 9 / 3
    assert on.all_in_multiple == pytest.approx(1 + 2 * (8 + 3 * 6 / 3) / plain, abs=1e-12)
    assert off.all_in_multiple - on.all_in_multiple == pytest.approx(3 * 6 / 3 / plain, abs=1e-12)


def test_no_probes_cost_nothing_more() -> None:
    plan = plan_probes([Interval(0, 100, 0)], n_train=0, n_evaluate=4)
    assert (plan.training_multiple, plan.all_in_multiple) == (1.0, 1.0)


def test_a_cost_report_worked_out_by_hand() -> None:
    """100 steps and 60 of probes; 240 + 360 sequences are 75 batches of 8, 25 steps' worth; the plain run
    reads 240, 10 steps' worth."""
    ledger = Ledger(
        training_steps=100,
        probe_steps=60,
        monitoring_sequences=240,
        probe_sequences=360,
        seconds={"training": 2.0, "solver": 0.5},
    )
    assert cost_report(ledger, steps=100, grid_sequences=240, batch_size=8) == CostReport(
        training_steps=100,
        probe_steps=60,
        evaluation_batches=75.0,
        solver_seconds=0.5,
        training_multiple=1.6,
        all_in_multiple=pytest.approx((100 + 60 + 25) / (100 + 10), abs=1e-12),
        seconds={"training": 2.0, "solver": 0.5},
    )


def test_a_gradient_costs_what_training_on_its_sequences_would() -> None:
    """160 sequences are 20 batches of 8, read forward and backward: 20 steps of 100, and of 100 + 10 all in."""
    ledger = Ledger(training_steps=100, monitoring_sequences=240, gradient_sequences=160)
    report = cost_report(ledger, steps=100, grid_sequences=240, batch_size=8)
    assert report.gradient_batches == 20.0
    assert report.training_multiple == pytest.approx(1.2, abs=1e-12)
    assert report.all_in_multiple == pytest.approx(130 / 110, abs=1e-12)
    assert report.evaluation_batches == 30.0


def test_a_result_of_before_there_were_gradients_can_be_read(
    result_of: Callable[..., FinetuneResult],
) -> None:
    saved = to_mapping(result_of())
    del saved["cost"]["gradient_batches"]
    assert from_mapping(RunRecord, json.loads(json.dumps(plain(saved)))).cost.gradient_batches == 0.0


def test_a_fixed_mixture_costs_one() -> None:
    ledger = Ledger(training_steps=320, monitoring_sequences=9 * 64)
    report = cost_report(ledger, steps=320, grid_sequences=9 * 64, batch_size=8)
    assert (report.training_multiple, report.all_in_multiple, report.solver_seconds) == (1.0, 1.0, 0.0)


def test_an_early_stop_costs_less_than_one() -> None:
    ledger = Ledger(training_steps=54, monitoring_sequences=6 * 64)
    report = cost_report(ledger, steps=320, grid_sequences=9 * 64, batch_size=8)
    assert report.training_multiple == 54 / 320
    assert report.all_in_multiple == pytest.approx((54 + 6 * 64 / 24) / (320 + 9 * 64 / 24), abs=1e-12)


def test_a_ledger_adds_up_and_leaves_the_old_one_alone() -> None:
    first = Ledger(training_steps=1, seconds={"training": 1.0})
    second = first.add(training_steps=2, probe_steps=3, seconds={"training": 0.5, "solver": 0.25})
    assert second == Ledger(3, 3, 0, 0, {"training": 1.5, "solver": 0.25})
    assert first == Ledger(training_steps=1, seconds={"training": 1.0})


def test_the_formula_and_the_books_agree() -> None:
    """The paper's run, booked as sequences: batches of 1, every reading before a probe on the grid."""
    spans = intervals("none", 2048, None)
    plan = plan_probes(spans, n_train=5, n_evaluate=7)
    ledger = Ledger(
        training_steps=2048,
        probe_steps=plan.probe_steps,
        monitoring_sequences=32 * 7 * 200,
        probe_sequences=len(spans) * 5 * 7 * 50,
    )
    report = cost_report(ledger, steps=2048, grid_sequences=32 * 7 * 200, batch_size=1)
    assert report.all_in_multiple == pytest.approx(plan.all_in_multiple, abs=1e-12)
    assert report.training_multiple == plan.training_multiple
