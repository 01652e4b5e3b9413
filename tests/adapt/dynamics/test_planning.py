"""Plans against problems written by hand, brute force on the simplex, and the straight line."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fake_session import BASE, ROLES, session
from trimtab.adapt.dynamics.planning import (
    LossState,
    MeasuredSlopes,
    Planning,
    loss_state,
    make_update,
    mixture_problem,
    shrink_slopes,
    solve,
)
from trimtab.adapt.session import make_roles
from trimtab.numerics.simplex import MixtureProblem, solve_mixture

few = settings(max_examples=40, deadline=None)
SLOPES = np.array([[-0.02, 0.0, 0.0], [0.0, -0.01, 0.0], [0.01, 0.0, -0.01], [0.01, 0.0, -0.01]])
STRAIGHT = MeasuredSlopes(SLOPES, np.full((4, 3), 1e-3), np.zeros(3), 4)
STILL = LossState(np.zeros(4), np.zeros(4))


def at(change: list[float], error: list[float]) -> LossState:
    return LossState(np.array(change), np.array(error))


# What steps are worth


@pytest.mark.parametrize("returns", [0.25, 0.5, 0.9, 1.0])
def test_one_more_step_is_worth_the_derivative(returns: float) -> None:
    planning, n, h = Planning(returns=returns), np.array([0.0, 0.3, 4.0, 250.0]), 1e-5
    by_difference = (planning.effective(n + h) - planning.effective(n - h)) / (2 * h)
    np.testing.assert_allclose(planning.marginal(n), by_difference, rtol=1e-6)


@pytest.mark.parametrize("returns", [0.25, 0.5, 1.0])
def test_the_first_step_is_worth_about_one_and_none_is_worth_nothing(returns: float) -> None:
    planning = Planning(returns=returns)
    assert planning.effective(np.zeros(1)) == [0.0]
    assert planning.marginal(np.zeros(1)) == [1.0]


def test_by_default_steps_add_up() -> None:
    n = np.array([0.0, 2.5, 1000.0])
    np.testing.assert_array_equal(Planning().effective(n), n)
    np.testing.assert_array_equal(Planning().marginal(n), 1.0)


def test_square_roots_by_hand() -> None:
    np.testing.assert_allclose(Planning(returns=0.5).effective(np.array([3.0, 8.0])), [2.0, 4.0], atol=1e-15)


def test_where_losses_stand_is_their_paired_change() -> None:
    now = loss_state(session(4, math=-0.3, safety=0.02, spread=0.007))
    np.testing.assert_allclose(now.change, [-0.3, 0.0, 0.0, 0.02], atol=1e-12)
    np.testing.assert_allclose(now.error, 0.007, atol=1e-12)


# The problem


def problem(planning: Planning, now: LossState = STILL, horizon: int = 12, **options: Any) -> MixtureProblem:
    return mixture_problem(session(4, **options), planning, STRAIGHT, now, horizon)


def test_constraints_are_kept_at_base_plus_tolerance() -> None:
    found = problem(Planning(), at([-0.3, 0, 0, 0.01], [0.01] * 4))
    np.testing.assert_allclose(found.losses, [1.7, 2.0, 2.0, 2.01], atol=1e-12)
    np.testing.assert_array_equal(found.reference, [math.nan, math.nan, 2.1, 2.05])
    np.testing.assert_array_equal(found.slopes, SLOPES)
    np.testing.assert_array_equal(found.slope_se, STRAIGHT.errors)
    assert (found.targets, found.horizon) == ((0,), 12)


@pytest.mark.parametrize(
    ("own", "choice", "reserves"),
    [
        (1.0, 0.0, (0.02, 0.01)),
        (0.0, 1.0, (0.02, 0.01)),
        (0.5, 1.5, (0.04, 0.02)),
        (9.0, 0.0, (0.05, 0.025)),
        (9.0, 2.0, (0.09, 0.045)),
        (0.0, 9.0, (0.18, 0.09)),
    ],
    ids=["own", "choice", "both", "own is capped", "only own is capped", "choice is not"],
)
def test_the_reserve_is_the_mixers_margin_and_that_of_the_choice(
    own: float, choice: float, reserves: tuple[float, float]
) -> None:
    """web may rise by .1 and is known to .02; safety by .05 and .01; the mixer's own part stops at half of that."""
    found = problem(Planning(margin=own), at([0.0] * 4, [0.03, 0.03, 0.02, 0.01]), margin=choice)
    np.testing.assert_allclose(found.reference[2:], np.array([2.1, 2.05]) - reserves, atol=1e-12)
    assert np.isnan(found.reference[:2]).all()


def test_violations_are_weighed_by_tolerance_noise_or_a_hundredth_of_a_nat() -> None:
    roles = make_roles(
        ["math", "code", "web"], ["safety"], ["math"], {"web": 0.1, "safety": 0.0, "code": 0.001}
    )
    quiet, noisy = (
        problem(Planning(), at([0.0] * 4, [error] * 4), roles=roles).scale for error in (0.0, 0.03)
    )
    assert quiet is not None
    assert noisy is not None
    np.testing.assert_allclose(quiet[1:], [0.01, 0.1, 0.01], atol=1e-12)
    np.testing.assert_allclose(noisy[1:], [0.06, 0.1, 0.06], atol=1e-12)


def test_the_robust_margin_of_one_domain_is_at_most_so_many_tolerances() -> None:
    """kappa * horizon * error <= cap * scale, row by row."""
    found = problem(Planning(kappa=2.0, cap=0.25))
    assert found.slope_se is not None
    widest = 0.25 * np.array([0.01, 0.01, 0.1, 0.05]) / (2.0 * 12)
    np.testing.assert_allclose(found.slope_se, np.tile(np.minimum(1e-3, widest)[:, None], 3), rtol=1e-12)
    np.testing.assert_allclose((2.0 * 12 * found.slope_se).max(axis=1)[:2], 0.0025, rtol=1e-12)


def test_protected_targets_may_not_rise_at_all() -> None:
    found = problem(Planning(protect_targets=True), at([0.0] * 4, [0.01] * 4), margin=1.0)
    np.testing.assert_allclose(found.reference, [2.0, math.nan, 2.09, 2.04], atol=1e-12)


# The straight line


@pytest.mark.parametrize("solver", ["lp", "robust", "grid"])
@pytest.mark.parametrize("ridge", [0.0, 0.3])
def test_without_diminishing_returns_a_plan_is_one_mixture_problem(solver: Any, ridge: float) -> None:
    """What was trained on before does not matter to it."""
    pace = MeasuredSlopes(SLOPES, np.full((4, 3), 1e-3), np.array([3.0, 1.0, 4.0]), 4)
    now, planning = at([-0.1, 0.0, 0.03, 0.01], [0.0] * 4), Planning(solver=solver, ridge=ridge, kappa=0.7)
    found = solve(session(4), planning, pace, now, 16)
    expected = solve_mixture(
        MixtureProblem(
            slopes=SLOPES,
            losses=BASE + now.change,
            reference=np.array([math.nan, math.nan, 2.1, 2.05]),
            targets=[0],
            horizon=12,
            slope_se=pace.errors,
            scale=np.array([0.01, 0.01, 0.1, 0.05]),
        ),
        solver,
        kappa=0.7,
        ridge=ridge,
    )
    np.testing.assert_allclose(found.weights, expected.weights, rtol=0, atol=1e-12)
    np.testing.assert_array_equal(found.shadow_prices, expected.shadow_prices)
    assert (found.status, found.conflicts) == (expected.status, expected.conflicts)
    assert found.objective == pytest.approx(12 * SLOPES[0] @ expected.weights, abs=1e-12)


# Diminishing returns


def simplex(n: int, parts: int) -> np.ndarray:
    """Every mixture of `n` domains in whole parts."""
    counts = itertools.product(range(parts + 1), repeat=n)
    return np.array([count for count in counts if sum(count) == parts]) / parts


def shortfall(seed: int, n: int) -> tuple[float, float]:
    """By how much of its gain a plan misses the best of a fine grid, and by how many tolerances it breaks a limit.

    nan for worlds where no mixture keeps the limits or gains more than .005 nats.
    """
    rng = np.random.default_rng(seed)
    roles = make_roles(["math", "code", "web"][:n], ["safety"], ["math"], {"code": 0.1, "safety": 0.05})
    slopes = 0.01 * rng.normal(size=(n + 1, n)) - 0.015 * np.eye(n + 1, n)
    pace = MeasuredSlopes(slopes, np.full_like(slopes, 1e-4), rng.uniform(0, 8, n), 4)
    now, planning = (
        LossState(0.01 * rng.normal(size=n + 1), np.zeros(n + 1)),
        Planning(solver="lp", returns=0.5),
    )
    plan = solve(session(16, roles=roles), planning, pace, now, 64)
    mixtures = np.vstack([plan.weights, simplex(n, {2: 400, 3: 60}[n])])
    gained = planning.effective(pace.exposure + 48 * mixtures) - planning.effective(pace.exposure)
    after = now.change + gained @ slopes.T
    tolerance = np.array([roles.tolerance(name) for name in roles.evaluate])
    over = np.nanmax((after - tolerance) / tolerance, axis=1)
    gain = (now.change - after)[:, 0]
    assert plan.objective == pytest.approx(-gain[0], abs=1e-12)
    best = gain[1:][over[1:] <= 0].max(initial=-np.inf)
    return ((best - gain[0]) / best if best > 0.005 else math.nan), float(over[0])


@pytest.mark.parametrize("n", [2, 3])
def test_with_diminishing_returns_a_plan_is_about_as_good_as_brute_force(n: int) -> None:
    """The problem is not convex (a loss that rises, rises less and less), and a plan takes twelve steps."""
    found = np.array([shortfall(seed, n) for seed in range(100)])
    known = found[np.isfinite(found[:, 0])]
    assert len(known) > 60
    assert np.median(known[:, 0]) < 0.001
    assert (known[:, 0] < 0.02).mean() >= 0.95
    assert (known[:, 0] < 0.04).mean() >= 0.98
    assert known[:, 1].max() < 0.02


def test_where_returns_diminish_the_plan_spreads() -> None:
    """Two domains do the same for the target; one has been trained on for 15 steps already: 15 + a = b, a + b = 48."""
    pace = MeasuredSlopes(np.array([[-0.01, -0.01], [0.0, 0.0]]), np.zeros((2, 2)), np.array([15.0, 0.0]), 4)
    roles = make_roles(["math", "web"], [], ["math"], {"web": 0.1})
    now = LossState(np.zeros(2), np.zeros(2))
    plan = solve(session(16, roles=roles), Planning(solver="lp", returns=0.5), pace, now, 64)
    spread = Planning(returns=0.5).effective(np.array([31.5, 31.5])).sum() - Planning(returns=0.5).effective(
        np.array([15.0])
    )
    assert plan.objective == pytest.approx(-0.01 * float(spread[0]), rel=0.02)
    assert plan.weights[1] > plan.weights[0] > 0.1


@pytest.mark.parametrize("returns", [0.5, 1.0])
def test_a_domain_without_slopes_is_left_out_of_a_plan(returns: float) -> None:
    slopes = SLOPES.copy()
    slopes[:, 0] = math.nan
    pace = MeasuredSlopes(slopes, np.abs(slopes), np.array([5.0, 0.0, 0.0]), 4)
    plan = solve(session(4), Planning(solver="lp", returns=returns, ridge=0.5), pace, STILL, 16)
    assert plan.weights[0] == 0.0
    assert plan.weights.sum() == pytest.approx(1, abs=1e-9)
    assert math.isfinite(plan.objective)


@given(
    seed=st.integers(0, 2**32 - 1),
    returns=st.sampled_from([0.5, 0.8, 1.0]),
    order=st.permutations(range(3)),
)
@few
def test_the_order_of_domains_orders_the_plan(seed: int, returns: float, order: list[int]) -> None:
    rng = np.random.default_rng(seed)
    slopes, exposure = 0.01 * rng.normal(size=(4, 3)), rng.uniform(0, 9, 3)
    planning = Planning(solver="lp", returns=returns, ridge=0.5)
    one = solve(session(4), planning, MeasuredSlopes(slopes, np.abs(slopes), exposure, 4), STILL, 16)
    moved = MeasuredSlopes(slopes[:, order], np.abs(slopes[:, order]), exposure[order], 4)
    two = solve(session(4), planning, moved, STILL, 16)
    np.testing.assert_allclose(two.weights, one.weights[order], rtol=0, atol=1e-4)


# How far ahead


@pytest.mark.parametrize(("reach", "horizon"), [("next", 4), ("end", 48), ("best", 48)])
def test_a_plan_reaches_to_the_next_update_or_to_the_end(reach: Any, horizon: int) -> None:
    """web mends what math does to safety: w_math - w_web <= .05 / (.01 H), and going on pays."""
    plan = solve(session(16), Planning(solver="lp", reach=reach), STRAIGHT, STILL, 20)
    math_share = min(1.0, (1 + 5 / horizon) / 2)
    assert plan.weights == pytest.approx([math_share, 0.0, 1 - math_share], abs=1e-6)
    assert plan.objective == pytest.approx(-0.02 * horizon * math_share, abs=1e-6)


GRID = (0, 4, 16, 20, 21, 32, 40, 48, 64)
HURTS = np.vstack([[-0.02, -0.01, 0.0], np.zeros((2, 3)), [0.01, 0.01, 0.01]])


def stopped(grid: tuple[int, ...], reach: Any, later: int, slopes: np.ndarray = HURTS) -> Any:
    pace = MeasuredSlopes(slopes, np.zeros((4, 3)), np.zeros(3), 4)
    return solve(session(16, grid=grid), Planning(solver="lp", reach=reach), pace, STILL, later)


def test_where_the_plan_may_stop_early_it_stops_at_the_last_reading_that_holds() -> None:
    """Whatever is trained on, safety is lost after five steps: at 21, of 17, 20, 21, 32 and 64."""
    best = stopped((0, 4, 16, 20, 21, 32, 64), "best", 17)
    assert (best.status, best.objective) == ("optimal", pytest.approx(-0.1, abs=1e-9))
    assert stopped((0, 4, 16, 20, 21, 32, 64), "end", 17).status == "relaxed"


def test_only_the_last_four_readings_are_stops() -> None:
    assert stopped(GRID, "best", 17).objective == pytest.approx(-0.02, abs=1e-9)


def test_readings_before_the_next_update_are_no_stops() -> None:
    assert stopped((0, 4, 16, 20), "best", 21).objective == pytest.approx(-0.1, abs=1e-9)


def test_where_nothing_holds_and_all_hurts_the_plan_is_that_for_the_next_update() -> None:
    slopes = HURTS.copy()
    slopes[3] = [0.5, 0.4, 0.3]
    best, following = (stopped(GRID, reach, 18, slopes) for reach in ("best", "next"))
    assert best.status == following.status == "relaxed"
    np.testing.assert_array_equal(best.weights, following.weights)
    assert best.weights == pytest.approx([0, 0, 1], abs=1e-4)


def test_where_nothing_holds_the_plan_takes_the_time_that_mends_most() -> None:
    """web mends safety by .001 a step: of .2 nats too many, 48 steps mend more than 4."""
    slopes = HURTS.copy()
    slopes[3] = [0.01, 0.01, -0.001]
    pace, lost = MeasuredSlopes(slopes, np.zeros((4, 3)), np.zeros(3), 4), at([0, 0, 0, 0.25], [0, 0, 0, 0])
    plans = [
        solve(session(16), Planning(solver="lp", reach=reach), pace, lost, 20) for reach in ("best", "next")
    ]
    assert [plan.status for plan in plans] == ["relaxed"] * 2
    assert [plan.violation[3] for plan in plans] == pytest.approx([0.2 - 0.048, 0.2 - 0.004], abs=1e-5)


# Noise


def test_slopes_that_differ_by_noise_only_differ_no_more_but_for_a_domains_own() -> None:
    """Rows math, code, web, safety: the safety row is noise around .02, math's own slope stays as it was."""
    slopes = np.array([[-0.5, 0.01, 0.03], [0.01, -0.5, 0.03], [0.01, 0.03, -0.5], [0.01, 0.02, 0.03]])
    errors = np.full((4, 3), 0.02)
    calm = shrink_slopes(session(0).roles, MeasuredSlopes(slopes, errors, np.zeros(3), 4))
    np.testing.assert_allclose(np.diag(calm.slopes), -0.5)
    np.testing.assert_allclose(calm.slopes[3], 0.02, atol=1e-12)
    np.testing.assert_allclose(calm.slopes[0, 1:], 0.02, atol=1e-12)
    np.testing.assert_allclose(calm.errors[3], 0.02 / math.sqrt(3), atol=1e-12)


def test_slopes_that_are_sure_and_domains_without_slopes_stay_as_they_are() -> None:
    slopes = np.array([[-0.5, 0.01, np.nan]] * 4)
    errors = np.array([[1e-6, 1e-6, np.nan]] * 4)
    calm = shrink_slopes(session(0).roles, MeasuredSlopes(slopes, errors, np.zeros(3), 4))
    np.testing.assert_allclose(calm.slopes, slopes, rtol=1e-6)


# What is told


@given(
    seed=st.integers(0, 2**32 - 1),
    returns=st.sampled_from([0.5, 0.75, 1.0]),
    horizon=st.integers(1, 48),
    lost=st.booleans(),
)
@few
def test_what_is_predicted_is_slopes_times_mixture_times_steps(
    seed: int, returns: float, horizon: int, lost: bool
) -> None:
    """Exactly what calibration multiplies, and exactly what diminishing returns say."""
    rng = np.random.default_rng(seed)
    slopes = 0.01 * rng.normal(size=(4, 3))
    slopes[:, 1] = math.nan if lost else slopes[:, 1]
    planning = Planning(solver="lp", returns=returns)
    pace = MeasuredSlopes(slopes, np.abs(slopes) / 9, rng.uniform(0, 50, 3), 7)
    now, asked = LossState(0.02 * rng.normal(size=4), np.zeros(4)), session(16)
    solution = solve(asked, planning, pace, now, 16 + horizon)
    update = make_update(asked, planning, pace, now, 16 + horizon, solution)
    weights, told = update.solution.weights, update.estimate
    moved = horizon * np.nan_to_num(told.slopes) @ weights
    np.testing.assert_allclose(update.solution.predicted, BASE + now.change + moved, rtol=0, atol=1e-12)
    gained = planning.effective(pace.exposure + horizon * weights) - planning.effective(pace.exposure)
    np.testing.assert_allclose(moved, np.nan_to_num(slopes) @ gained, rtol=0, atol=1e-12)
    np.testing.assert_array_equal(weights, solution.weights)
    np.testing.assert_allclose(told.standard_errors, np.abs(told.slopes) / 9, rtol=1e-9)
    assert (update.horizon, told.steps) == (horizon, 7)
    assert np.isnan(told.slopes[:, 1]).all() == lost


def test_the_slope_of_a_domain_without_weight_is_that_of_its_next_step() -> None:
    pace = MeasuredSlopes(SLOPES, np.full((4, 3), 1e-3), np.array([3.0, 8.0, 0.0]), 4)
    planning, asked = Planning(solver="lp", returns=0.5), session(16, roles=ROLES)
    solution = solve(asked, Planning(solver="lp"), STRAIGHT, STILL, 20)
    assert solution.weights == pytest.approx([1, 0, 0], abs=1e-9)
    told = make_update(asked, planning, pace, STILL, 20, solution).estimate
    mean = (math.sqrt(8) - math.sqrt(4)) * 2 / 4
    np.testing.assert_allclose(told.slopes, SLOPES * [mean, 1 / 3, 1.0], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(told.standard_errors, 1e-3 * np.tile([mean, 1 / 3, 1.0], (4, 1)), rtol=1e-9)
