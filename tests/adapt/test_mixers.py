"""Mixers asked by hand: the mixtures they give, when they ask again, and what they refuse."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from trimtab.adapt.checks import refuse
from trimtab.adapt.dynamics import DynaMiCS, mixture_problem
from trimtab.adapt.mixer import Decision, Mixer
from trimtab.adapt.mixers import EarlyStoppedTarget, Fixed, Replay, Uniform
from trimtab.adapt.roles import Roles, make_roles
from trimtab.adapt.session import Clock, SlopeEstimate
from trimtab.errors import ConfigProblems, DivergedError
from trimtab.numerics.simplex import solve_mixture
from trimtab.train.evaluate import SequenceLosses

TARGETS = ["math"]
CONSTRAINTS = {"web": 0.1, "safety": 0.05}
ROLES = make_roles(["math", "code", "web"], ["safety"], TARGETS, CONSTRAINTS)
TWO_TARGETS = make_roles(["math", "code", "web"], ["safety"], ["math", "safety", "code"], {})
BASE = dict.fromkeys(ROLES.evaluate, 2.0)


def reading(loss: float, spread: float = 0.0) -> SequenceLosses:
    """Four sequences of ten tokens around a loss."""
    return SequenceLosses(10 * (loss + spread * np.array([-1.0, 1.0, -1.0, 1.0])), np.full(4, 10))


def session(
    step: int = 0, *, roles: Roles = ROLES, spread: float = 0.0, slopes: Any = None, **moved: float
) -> Any:
    """A session in which the named losses have moved by so much since step 0."""
    now = {name: reading(2.0 + moved.get(name, 0.0), spread) for name in roles.evaluate}
    asked: list[int] = []

    def probe(steps: int) -> SlopeEstimate:
        asked.append(steps)
        return slopes

    return SimpleNamespace(
        roles=roles,
        step=step,
        steps=64,
        grid=(0, 4, 16, 64),
        reference={name: reading(2.0) for name in roles.evaluate},
        losses=lambda: now,
        clock=Clock(),
        probe=probe,
        asked=asked,
    )


def estimate(slopes: list[list[float]], errors: float = 0.0, steps: int = 3) -> SlopeEstimate:
    return SlopeEstimate(np.array(slopes), np.full((len(slopes), len(slopes[0])), errors), steps)


# Mixers that measure nothing


@pytest.mark.parametrize(
    ("mixer", "weights"),
    [
        (Uniform(), (1 / 3, 1 / 3, 1 / 3)),
        (Fixed(weights={"math": 3, "web": 1}), (0.75, 0.0, 0.25)),
        (Fixed(target_mass=0.8), (0.8, 0.1, 0.1)),
        (Fixed(target_mass=0.0), (0.0, 0.5, 0.5)),
        (Replay(share=0.05), (0.95, 0.025, 0.025)),
        (Replay(share=0.25, domains=["web"]), (0.75, 0.0, 0.25)),
        (EarlyStoppedTarget(), (1.0, 0.0, 0.0)),
    ],
    ids=str,
)
def test_mixtures(mixer: Mixer, weights: tuple[float, ...]) -> None:
    decision = mixer.decide(session(), {})
    assert decision.weights == pytest.approx(weights, abs=1e-15)
    assert math.fsum(decision.weights) == pytest.approx(1, abs=1e-15)
    assert decision.update is None
    assert mixer.plan(64) == []
    assert list(mixer.problems(ROLES)) == []


@pytest.mark.parametrize(
    ("mixer", "weights"),
    [
        (Fixed(target_mass=0.8), (0.4, 0.4, 0.2)),
        (Replay(share=0.1), (0.45, 0.45, 0.1)),
        (EarlyStoppedTarget(), (0.5, 0.5, 0.0)),
    ],
    ids=str,
)
def test_targets_that_can_be_trained_share_alike(mixer: Mixer, weights: tuple[float, ...]) -> None:
    decision = mixer.decide(session(roles=TWO_TARGETS), {})
    assert decision.weights == pytest.approx(weights, abs=1e-15)


def test_a_constant_mixture_is_asked_once() -> None:
    for mixer in (Uniform(), Fixed(target_mass=0.5), Replay()):
        assert mixer.decide(session(), {}).ask_at is None


def ask(mixer: Mixer, readings: list[tuple[int, Mapping[str, float]]]) -> list[Decision]:
    state: Mapping[str, Any] = {}
    decisions = []
    for step, moved in readings:
        decisions.append(mixer.decide(session(step, **moved), state))
        state = decisions[-1].state
    return decisions


def test_early_stopping_asks_at_each_reading_and_stops_after_patience() -> None:
    lost = {"safety": 0.06, "web": 0.11}
    decisions = ask(EarlyStoppedTarget(), [(0, {}), (4, lost), (16, {"safety": 0.051})])
    assert [decision.ask_at for decision in decisions] == [4, 16, 64]
    assert [decision.stop for decision in decisions[:2]] == [None, None]
    assert decisions[2].stop == "lost safety at 2 readings in a row"
    assert all(decision.weights == (1.0, 0.0, 0.0) for decision in decisions)


def test_a_constraint_that_is_kept_again_starts_the_count_anew() -> None:
    lost, kept = {"safety": 0.06}, {"safety": 0.05 - 1e-9, "math": 9.0}
    decisions = ask(EarlyStoppedTarget(), [(0, {}), (4, lost), (16, kept), (64, lost)])
    assert [decision.stop for decision in decisions] == [None] * 4
    assert decisions[-1].ask_at is None


def test_more_patience_waits_longer() -> None:
    lost = {"web": 0.2}
    stops = [d.stop for d in ask(EarlyStoppedTarget(patience=1), [(0, {}), (4, lost)])]
    assert stops == [None, "lost web at 1 reading in a row"]
    stops = [d.stop for d in ask(EarlyStoppedTarget(patience=3), [(4, lost), (16, lost)])]
    assert stops == [None, None]


def test_what_has_not_risen_keeps_a_tolerance_of_zero() -> None:
    roles = make_roles(["math", "web"], [], ["math"], {"web": 0.0})
    assert EarlyStoppedTarget(patience=1).decide(session(roles=roles), {}).stop is None
    assert EarlyStoppedTarget(patience=1).decide(session(4, roles=roles, web=1e-9), {}).stop is not None


def test_without_constraints_nothing_stops_early() -> None:
    roles = make_roles(["math", "code"], [], ["math"], {})
    decision = EarlyStoppedTarget(patience=1).decide(session(4, roles=roles, math=5.0), {"bad": 7})
    assert decision.stop is None


# DynaMiCS

HELPS_AND_HURTS = [[-0.02, 0.0, 0.0], [0.0, -0.01, 0.0], [0.01, 0.0, -0.01], [0.01, 0.0, -0.01]]


@pytest.mark.parametrize(
    ("solver", "preset"), [("lp", "default"), ("robust", "default"), (None, "paper"), (None, "default")]
)
def test_dynamics_is_probe_then_solve(solver: Any, preset: Any) -> None:
    measured = estimate(HELPS_AND_HURTS, errors=1e-3)
    mixer = DynaMiCS(
        targets=TARGETS, constraints=CONSTRAINTS, schedule=[16], solver=solver, preset=preset, probe_steps=5
    )
    asked = session(16, slopes=measured, safety=0.02, web=0.03, math=-0.1)
    decision = mixer.decide(asked, {})
    problem = mixture_problem(asked, measured, 48)
    expected = solve_mixture(problem, method=solver or {"paper": "grid", "default": "robust"}[preset])
    assert asked.asked == [5]
    assert decision.update is not None
    assert decision.update.horizon == 48
    assert decision.update.estimate is measured
    assert decision.weights == tuple(expected.weights)
    assert decision.ask_at is None
    assert "solver" in asked.clock.seconds


def test_dynamics_by_hand() -> None:
    """math falls by .02 a step; safety may rise by .05, does so by .01 a step of math and falls by .01 of web:
    over 10 steps w_math - w_web <= .5, so 3/4 and 1/4."""
    mixer = DynaMiCS(targets=TARGETS, constraints=CONSTRAINTS, schedule=10, solver="lp")
    decision = mixer.decide(session(slopes=estimate(HELPS_AND_HURTS)), {})
    assert decision.weights == pytest.approx((0.75, 0.0, 0.25), abs=1e-6)
    assert decision.ask_at == 10
    assert decision.update is not None
    assert decision.update.solution.predicted == pytest.approx([1.85, 2.0, 2.05, 2.05], abs=1e-6)


@pytest.mark.parametrize(("name", "value", "less"), [("kappa", 5.0, True), ("ridge", 3.0, True)])
def test_margin_and_ridge_reach_the_solver(name: str, value: float, less: bool) -> None:
    measured = estimate(HELPS_AND_HURTS, errors=2e-3)
    plain, changed = (
        DynaMiCS(targets=TARGETS, constraints=CONSTRAINTS, schedule=10, solver="robust", **options)
        .decide(session(slopes=measured), {})
        .weights[0]
        for options in ({"kappa": 0.0}, {"kappa": 0.0, name: value})
    )
    assert (changed < plain - 0.01) is less


def test_dynamics_asks_again_at_the_next_update_also_after_a_resume_between_two() -> None:
    mixer = DynaMiCS(targets=TARGETS, constraints=CONSTRAINTS, schedule=[0, 10, 40], solver="lp")
    ends = {}
    for step in (0, 10, 39, 40, 63):
        decision = mixer.decide(session(step, slopes=estimate(HELPS_AND_HURTS)), {})
        ends[step] = decision.ask_at
    assert ends == {0: 10, 10: 40, 39: 40, 40: None, 63: None}


def test_a_column_that_diverged_gets_no_weight() -> None:
    slopes = [[math.nan, -0.01, 0.0], [math.nan, 0.0, 0.0], [math.nan, 0.0, 0.0], [math.nan, 0.0, 0.0]]
    measured = SlopeEstimate(np.array(slopes), np.abs(slopes), 3)
    mixer = DynaMiCS(targets=TARGETS, constraints=CONSTRAINTS, schedule=10)
    decision = mixer.decide(session(slopes=measured), {})
    assert decision.weights[0] == 0.0
    assert decision.weights[1] > 0.99


def test_no_column_left_ends_the_run() -> None:
    measured = estimate([[math.nan] * 3] * 4)
    with pytest.raises(DivergedError, match=r"every probe of step 4 diverged; try a lower lr"):
        DynaMiCS(targets=TARGETS, schedule=4).decide(session(4, slopes=measured), {})


def test_the_problem_keeps_constraints_at_base_plus_tolerance() -> None:
    measured = estimate(HELPS_AND_HURTS, errors=2e-3)
    problem = mixture_problem(session(4, slopes=measured, math=-0.3, safety=0.01), measured, 12)
    np.testing.assert_allclose(problem.losses, [1.7, 2.0, 2.0, 2.01], atol=1e-12)
    np.testing.assert_array_equal(problem.reference, [math.nan, math.nan, 2.1, 2.05])
    assert problem.targets == (0,)
    assert problem.horizon == 12
    np.testing.assert_array_equal(problem.slope_se, measured.standard_errors)


def test_violations_are_weighed_by_tolerance_noise_or_a_hundredth_of_a_nat() -> None:
    """The paired change of every domain varies by .06 nats over 4 sequences: 2 se = 2 * .06 / sqrt(3)."""
    measured = estimate(HELPS_AND_HURTS)
    roles = make_roles(
        ["math", "code", "web"], ["safety"], TARGETS, {"web": 0.1, "safety": 0.0, "code": 0.001}
    )
    quiet = mixture_problem(session(roles=roles), measured, 12).scale
    noisy = mixture_problem(session(roles=roles, spread=0.06), measured, 12).scale
    assert quiet is not None
    assert noisy is not None
    np.testing.assert_allclose(quiet[1:], [0.01, 0.1, 0.01], atol=1e-12)
    np.testing.assert_allclose(noisy[1:], [0.12 / math.sqrt(3), 0.1, 0.12 / math.sqrt(3)], atol=1e-12)


# Refusals


IMPOSSIBLE: list[tuple[Mixer, str]] = [
    (Fixed(), r"mixer: got neither, expected either `weights` or `target_mass`"),
    (Fixed(weights={"math": 1}, target_mass=0.5), r"mixer: got both, expected either"),
    (
        Fixed(weights={"mth": 1}),
        r"mixer\.weights\.mth: got 'mth', expected one of the training .*; try 'math'",
    ),
    (Fixed(weights={"safety": 1}), r"mixer\.weights\.safety: got 'safety', expected one of the training"),
    (
        Fixed(weights={"math": -1, "web": 2}),
        r"mixer\.weights\.math: got -1, expected a share of zero or more",
    ),
    (Fixed(weights={"math": math.nan}), r"mixer\.weights\.math: got nan, expected a share"),
    (Fixed(weights={"math": math.inf}), r"mixer\.weights\.math: got inf, expected a share"),
    (Fixed(weights={"math": 0}), r"mixer\.weights: got no positive share, expected at least one"),
    (Fixed(weights={}), r"mixer\.weights: got no positive share, expected at least one"),
    (Fixed(target_mass=1.5), r"mixer\.target_mass: got 1\.5, expected a share between 0 and 1"),
    (Replay(share=-0.1), r"mixer\.share: got -0\.1, expected a share between 0 and 1"),
    (Replay(share=math.nan), r"mixer\.share: got nan, expected a share between 0 and 1"),
    (
        Replay(domains=["math"]),
        r"mixer\.domains: got 'math', expected a training domain that is not a target",
    ),
    (Replay(domains=["wbe"]), r"mixer\.domains: got 'wbe', .*; try 'web'"),
    (Replay(domains=["web", "web"]), r"mixer\.domains: got 'web' twice, expected each domain once"),
    (EarlyStoppedTarget(patience=0), r"mixer\.patience: got 0, expected at least 1"),
    (DynaMiCS(schedule=0), r"mixer\.schedule: got 0, expected a gap of at least one step; try 'light'"),
    (DynaMiCS(schedule="lite"), r"mixer\.schedule: got 'lite', expected 'none' or .*; try 'light'"),  # type: ignore[arg-type]
    (DynaMiCS(schedule=[4, -2]), r"mixer\.schedule: got -2, expected steps of zero or more"),
    (DynaMiCS(solver="robst"), r"mixer\.solver: got 'robst', expected 'grid' or .*; try 'robust'"),  # type: ignore[arg-type]
    (DynaMiCS(preset="papers"), r"mixer\.preset: got 'papers', expected .*; try 'paper'"),  # type: ignore[arg-type]
    (DynaMiCS(probe_steps=0), r"mixer\.probe_steps: got 0, expected at least 1, or null"),
    (DynaMiCS(kappa=-1.0), r"mixer\.kappa: got -1\.0, expected a number of zero or more"),
    (DynaMiCS(kappa=math.nan), r"mixer\.kappa: got nan, expected a number of zero or more"),
    (DynaMiCS(ridge=math.inf), r"mixer\.ridge: got inf, expected a number of zero or more"),
]


@pytest.mark.parametrize(("mixer", "message"), IMPOSSIBLE, ids=[message for _, message in IMPOSSIBLE])
def test_each_impossible_setting_is_named(mixer: Mixer, message: str) -> None:
    with pytest.raises(ConfigProblems, match=message):
        refuse(mixer.problems(ROLES))


def test_without_a_target_to_train_on_some_mixers_have_nothing_to_do() -> None:
    roles = make_roles(["web"], ["math"], ["math"], {})
    for mixer in (Fixed(target_mass=0.5), Replay(), EarlyStoppedTarget()):
        with pytest.raises(ConfigProblems, match="mixer: got no target among the training domains"):
            refuse(mixer.problems(roles))
    for mixer in (Uniform(), Fixed(weights={"web": 1.0}), DynaMiCS()):
        assert list(mixer.problems(roles)) == []


def test_without_other_data_there_is_nothing_to_replay() -> None:
    roles = make_roles(["math"], ["web"], ["math"], {})
    for mixer in (Fixed(target_mass=0.5), Replay()):
        with pytest.raises(ConfigProblems, match="got only targets to train on, expected a training domain"):
            refuse(mixer.problems(roles))


def test_dynamics_plans_the_probes_it_will_ask_for() -> None:
    plan = DynaMiCS(schedule=[10], probe_steps=4).plan(13)
    assert [(span.start, span.horizon, span.probe_steps) for span in plan] == [(0, 10, 4), (10, 3, 3)]
