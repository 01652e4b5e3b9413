"""Mixtures against brute force, linprog, hand-written programmes, planted conflicts and finite differences."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import sparse
from scipy.optimize import linprog, minimize

from trimtab.errors import ConfigError, ShapeError
from trimtab.numerics import cone
from trimtab.numerics import cone as constrained
from trimtab.numerics import cone as penalised
from trimtab.numerics.simplex import MixtureProblem, MixtureSolution, solve_mixture

SEEDS = range(40)


def random_problem(seed: int, rows: int = 6, columns: int = 5, **changes: object) -> MixtureProblem:
    """Two targets, the other rows constrained at their present loss plus a tolerance, like a real update."""
    rng = np.random.default_rng(seed)
    values: dict[str, object] = {
        "slopes": rng.normal(size=(rows, columns)) * 10.0 ** rng.uniform(-4, -3, size=(rows, 1)),
        "losses": rng.uniform(1.0, 4.0, rows),
        "targets": [0, 1],
        "horizon": float(rng.choice([16, 64, 128])),
        "slope_se": rng.uniform(0.0, 2e-4, size=(rows, columns)),
    }
    reference = np.asarray(values["losses"]) + rng.uniform(-0.005, 0.02, rows)
    reference[:2] = np.nan
    return MixtureProblem(**{**values, "reference": reference, **changes})  # type: ignore[arg-type]


def two_by_two(**changes: object) -> MixtureProblem:
    """Training on the first domain helps the target and hurts the constraint; the second mends it."""
    values: dict[str, object] = {
        "slopes": np.array([[-1e-3, 0.0], [1e-3, -1e-3]]),
        "losses": np.array([2.0, 3.0]),
        "reference": np.array([np.nan, 3.0]),
        "targets": [0],
        "horizon": 100.0,
        "slope_se": np.zeros((2, 2)),
    }
    return MixtureProblem(**{**values, **changes})  # type: ignore[arg-type]


def rows_of(problem: MixtureProblem) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cost, constraint rows and room, in nats at the horizon, written down a second time."""
    kept = ~np.isnan(problem.reference)
    cost = problem.horizon * sum(problem.slopes[target] for target in problem.targets)
    return cost, problem.horizon * problem.slopes[kept], (problem.reference - problem.losses)[kept]


def highs(problem: MixtureProblem) -> tuple[float | None, np.ndarray]:
    """The linear programme by HiGHS: its value, None when infeasible, and the duals of its rows."""
    cost, rows, room = rows_of(problem)
    size = np.abs(rows).max(axis=1, initial=0.0)[:, None]
    ones = np.ones((1, len(cost)))
    answer = linprog(cost * 1e3, A_ub=rows / size, b_ub=room / size[:, 0], A_eq=ones, b_eq=[1.0])
    if answer.status == 2:
        return None, np.array([])
    assert answer.status == 0
    return answer.fun / 1e3, -answer.ineqlin.marginals / size[:, 0] / 1e3


def corners(rows: np.ndarray, room: np.ndarray) -> list[np.ndarray]:
    """Every feasible corner of the simplex cut by half-spaces: each choice of N - 1 tight inequalities."""
    n = rows.shape[1]
    tight = np.vstack([np.eye(n), rows])
    right = np.append(np.zeros(n), room)
    found = []
    for chosen in itertools.combinations(range(len(tight)), n - 1):
        system = np.vstack([np.ones(n), tight[list(chosen)]])
        if abs(np.linalg.det(system)) < 1e-14:
            continue
        point = np.linalg.solve(system, np.append(1.0, right[list(chosen)]))
        if (point > -1e-10).all() and (rows @ point <= room + 1e-10).all():
            found.append(point)
    return found


def lattice(n: int, steps: int) -> np.ndarray:
    """All mixtures of n domains in units of 1 / steps."""
    parts = [part for part in itertools.product(range(steps + 1), repeat=n - 1) if sum(part) <= steps]
    free = np.array(parts, dtype=float).reshape(len(parts), n - 1) / steps
    return np.hstack([free, 1.0 - free.sum(axis=1, keepdims=True)])


def check_mixture(solution: MixtureSolution) -> None:
    assert (solution.weights >= 0).all()
    assert abs(solution.weights.sum() - 1.0) < 1e-12


@pytest.mark.parametrize("seed", SEEDS)
def test_lp_equals_highs(seed: int) -> None:
    rows, columns = [(4, 3), (8, 6), (20, 20), (12, 2)][seed % 4]
    problem = random_problem(seed, rows, columns)
    value, _ = highs(problem)
    solution = solve_mixture(problem, "lp")
    check_mixture(solution)
    assert (solution.status == "optimal") == (value is not None)
    if value is not None:
        assert solution.objective == pytest.approx(value, abs=1e-7)
        kept = problem.constrained
        assert (solution.predicted[kept] <= problem.reference[kept] + 1e-7).all()


@pytest.mark.parametrize("columns", [2, 3, 4])
@pytest.mark.parametrize("seed", range(12))
def test_lp_equals_every_corner(seed: int, columns: int) -> None:
    problem = random_problem(seed, 5, columns)
    cost, rows, room = rows_of(problem)
    found = corners(rows, room)
    solution = solve_mixture(problem, "lp")
    assert (solution.status == "optimal") == bool(found)
    if found:
        assert solution.objective == pytest.approx(min(cost @ point for point in found), abs=1e-7)


def test_lp_by_hand() -> None:
    solution = solve_mixture(two_by_two(), "lp")
    np.testing.assert_allclose(solution.weights, [0.5, 0.5], atol=1e-9)
    np.testing.assert_allclose(solution.predicted, [1.95, 3.0], atol=1e-9)
    assert solution.objective == pytest.approx(-0.05, abs=1e-9)
    assert (solution.status, solution.conflicts) == ("optimal", ())
    np.testing.assert_array_equal(solution.violation, [np.nan, 0.0])
    assert solution.shadow_prices[1] == pytest.approx(0.5, abs=1e-9)


@pytest.mark.parametrize("seed", SEEDS)
def test_robust_with_zero_noise_is_lp(seed: int) -> None:
    problem = random_problem(seed, slope_se=np.zeros((6, 5)))
    robust, lp = solve_mixture(problem, "robust"), solve_mixture(problem, "lp")
    np.testing.assert_array_equal(robust.weights, lp.weights)
    np.testing.assert_array_equal(robust.shadow_prices, lp.shadow_prices)
    assert robust.conflicts == lp.conflicts


@pytest.mark.parametrize("seed", SEEDS)
def test_robust_equals_a_general_solver(seed: int) -> None:
    problem = random_problem(seed, 5, 4)
    cost, rows, room = rows_of(problem)
    noise = 1.28 * problem.horizon * problem.slope_se[problem.constrained]
    solution = solve_mixture(problem)
    check_mixture(solution)

    def slack(w: np.ndarray) -> np.ndarray:
        return (room - rows @ w - np.sqrt(((noise * w) ** 2).sum(axis=1) + 1e-20)) * 1e3

    candidates = [w for w in lattice(4, 12) if (slack(w) > 0).all()]
    if solution.status == "relaxed":
        assert not candidates
        return
    assert (slack(solution.weights) > -1e-4).all()
    assert all(cost @ w >= solution.objective - 1e-8 for w in candidates)
    simplex = {"type": "eq", "fun": lambda w: w.sum() - 1.0}
    starts = [min(candidates, key=cost.__matmul__)] if candidates else [solution.weights]
    answer = minimize(
        lambda w: 1e3 * cost @ w,
        starts[0],
        jac=lambda w: 1e3 * cost,
        bounds=[(0, 1)] * 4,
        constraints=[simplex, {"type": "ineq", "fun": slack}],
        method="SLSQP",
        options={"ftol": 1e-14, "maxiter": 500},
    )
    # SLSQP may say that it cannot get any closer; the point it stops at is what counts.
    assert solution.objective == pytest.approx(answer.fun / 1e3, abs=1e-7)


def test_robust_by_hand() -> None:
    # One noisy constraint on domain 0 only: -1 + 2 w0 + kappa se w0 * 1e3 <= 0 in units of 0.1 nats.
    noise = np.array([[0.0, 0.0], [5e-4, 0.0]])
    solution = solve_mixture(two_by_two(slope_se=noise), kappa=2.0)
    np.testing.assert_allclose(solution.weights, [1 / 3, 2 / 3], atol=1e-9)
    assert solution.predicted[1] == pytest.approx(3.0 - 0.1 / 3, abs=1e-9)
    # d w0 / d ref = 1 / (H (2e-3 + kappa se)), times H 1e-3 nats of target.
    assert solution.shadow_prices[1] == pytest.approx(1 / 3, abs=1e-8)


def test_robust_keeps_true_constraints_more_often_than_lp() -> None:
    rng, kept = np.random.default_rng(0), {"lp": 0, "robust": 0}
    for seed in range(60):
        truth = random_problem(seed, slope_se=None)
        noise = np.full((6, 5), 1e-4)
        seen = MixtureProblem(
            truth.slopes + noise * rng.normal(size=(6, 5)),
            truth.losses,
            truth.losses + np.where(truth.constrained, 0.02, np.nan),
            [0, 1],
            128,
            noise,
        )
        for method in ("lp", "robust"):
            weights = solve_mixture(seen, method).weights
            final = truth.losses + 128 * truth.slopes @ weights
            kept[method] += bool((final <= seen.reference)[2:].all())
    assert kept["robust"] >= kept["lp"] + 10


@pytest.mark.parametrize("method", ["lp", "robust"])
@pytest.mark.parametrize("seed", SEEDS)
def test_shadow_prices_are_derivatives(seed: int, method: str) -> None:
    problem = random_problem(seed)
    solution = solve_mixture(problem, method)
    if solution.status == "relaxed":
        assert np.isnan(solution.shadow_prices).all()
        return
    assert np.isnan(solution.shadow_prices[:2]).all()
    assert (solution.shadow_prices[2:] >= 0).all()
    step = 1e-5
    for row in range(2, 6):
        moved = []
        for sign in (1, -1):
            reference = problem.reference.copy()
            reference[row] += sign * step
            moved.append(solve_mixture(random_problem(seed, reference=reference), method))
        looser = (solution.objective - moved[0].objective) / step
        price = solution.shadow_prices[row]
        if moved[1].status == "optimal":
            tighter = (moved[1].objective - solution.objective) / step
            margin = 1e-3 * max(1.0, abs(tighter))
            assert looser - margin <= price <= tighter + margin
        else:
            assert price >= looser - 1e-3 * max(1.0, looser)


@pytest.mark.parametrize("seed", SEEDS)
def test_shadow_prices_equal_the_duals_of_highs(seed: int) -> None:
    problem = random_problem(seed)
    value, duals = highs(problem)
    if value is not None:
        prices = solve_mixture(problem, "lp").shadow_prices[2:]
        np.testing.assert_allclose(prices, duals, atol=1e-5)


def test_shadow_price_at_a_kink_lies_between_the_sides() -> None:
    # Both constraints stop domain 0 at one half; loosening either alone buys nothing, tightening costs.
    slopes = np.array([[-1e-3, 0.0], [1e-3, -1e-3], [1e-3, -1e-3]])
    problem = MixtureProblem(slopes, np.array([2.0, 3.0, 3.0]), np.array([np.nan, 3.0, 3.0]), [0], 100.0)
    prices = solve_mixture(problem, "lp").shadow_prices[1:]
    assert ((prices >= 0) & (prices <= 0.5)).all()
    assert prices.sum() == pytest.approx(0.5, abs=1e-6)


def test_constraint_infeasible_alone_is_named_and_excuses_no_other() -> None:
    # Row 1 rises on every domain; row 2 can be kept by domain 1, although breaking it would help the target.
    slopes = np.array([[-1e-3, 0.0], [1e-3, 1e-3], [1e-3, -1e-3]])
    problem = MixtureProblem(slopes, np.array([2.0, 3.0, 3.0]), np.array([np.nan, 3.0, 3.0]), [0], 100.0)
    solution = solve_mixture(problem, "lp")
    assert (solution.status, solution.conflicts) == ("relaxed", (1,))
    np.testing.assert_allclose(solution.violation, [np.nan, 0.1, 0.0], atol=1e-6)
    np.testing.assert_allclose(solution.weights, [0.5, 0.5], atol=1e-5)
    assert np.isnan(solution.shadow_prices).all()


def test_two_hopeless_constraints_are_both_named() -> None:
    slopes = np.array([[-1e-3, 0.0], [1e-3, 1e-3], [5e-4, 5e-4]])
    problem = MixtureProblem(slopes, np.array([2.0, 3.0, 3.0]), np.array([np.nan, 3.0, 3.0]), [0], 100.0)
    solution = solve_mixture(problem, "lp")
    assert solution.conflicts == (1, 2)
    np.testing.assert_allclose(solution.violation[1:], [0.1, 0.05], atol=1e-6)
    np.testing.assert_allclose(solution.weights, [1.0, 0.0], atol=1e-6)


@pytest.mark.parametrize(("scale", "share"), [([1.0, 1.0], 0.5), ([1.0, 3.0], 0.75)])
def test_a_pair_in_conflict_shares_the_violation_by_scale(scale: list[float], share: float) -> None:
    # Each of rows 1 and 2 falls on one domain and rises on the other; both must fall by 0.05 of at most 0.1.
    slopes = np.array([[-1e-3, -1e-3], [-1e-3, 1e-3], [1e-3, -1e-3], [0.0, -1e-4]])
    reference = np.array([np.nan, 2.95, 2.95, 3.0])
    problem = MixtureProblem(
        slopes, np.full(4, 3.0), reference, [0], 100.0, scale=np.array([1.0, *scale, 1.0])
    )
    solution = solve_mixture(problem, "lp")
    assert solution.conflicts == (1, 2)
    np.testing.assert_allclose(solution.violation[1:], [0.1 * (1 - share), 0.1 * share, 0.0], atol=1e-6)


def test_constant_rows_conflict_or_do_not_matter() -> None:
    slopes = np.array([[-1e-3, 0.0], [0.0, 0.0], [0.0, 0.0]])
    problem = MixtureProblem(slopes, np.full(3, 3.0), np.array([np.nan, 2.9, 3.0]), [0], 100.0)
    solution = solve_mixture(problem, "lp")
    assert (solution.status, solution.conflicts) == ("relaxed", (1,))
    np.testing.assert_allclose(solution.violation[1:], [0.1, 0.0])
    np.testing.assert_allclose(solution.weights, [1.0, 0.0], atol=1e-9)


def test_references_that_leave_one_point_are_kept() -> None:
    slopes = np.array([[-1e-3, 0.0, 0.0], [1e-3, -1e-3, 0.0], [-1e-3, 1e-3, 0.0], [0.0, 0.0, 1e-3]])
    problem = MixtureProblem(slopes, np.full(4, 3.0), np.array([np.nan, 3.0, 3.0, 3.0]), [0], 100.0)
    solution = solve_mixture(problem, "lp")
    assert solution.status == "optimal"
    np.testing.assert_allclose(solution.weights, [0.5, 0.5, 0.0], atol=1e-5)


@pytest.mark.parametrize("method", ["lp", "robust"])
@pytest.mark.parametrize("seed", range(20))
def test_relaxed_minimises_the_largest_scaled_violation(seed: int, method: str) -> None:
    rng = np.random.default_rng(seed)
    losses = np.full(6, 2.0)
    tight = losses - np.array([np.nan, 0.0, 0.01, 0.05, 0.1, 0.1])
    problem = random_problem(
        seed, columns=3, losses=losses, reference=tight, scale=rng.uniform(0.01, 0.05, 6)
    )
    solution = solve_mixture(problem, method)
    assert solution.status == "relaxed"
    check_mixture(solution)
    assert solution.conflicts == tuple(np.flatnonzero(solution.violation > 0))
    _, rows, room = rows_of(problem)
    noise = problem.horizon * problem.slope_se[1:] * (1.28 if method == "robust" else 0.0)
    grid = lattice(3, 80)
    margin = np.linalg.norm(noise[:, None] * grid, axis=2)
    worst = ((rows @ grid.T + margin - room[:, None]) / problem.scale[1:, None]).max(axis=0).min()
    ours = np.nanmax(solution.violation / problem.scale)
    assert ours <= worst + 1e-4
    assert ours >= worst - 0.05 * max(1.0, worst)


def test_conflicts_cannot_be_kept_even_alone() -> None:
    named = 0
    for seed in range(30):
        problem = random_problem(
            seed, reference=np.append([np.nan, np.nan], np.full(4, 1.0)), losses=np.full(6, 1.01)
        )
        solution = solve_mixture(problem, "lp")
        if solution.conflicts:
            only = np.full(6, np.nan)
            only[list(solution.conflicts)] = 1.0
            alone = solve_mixture(random_problem(seed, losses=np.full(6, 1.01), reference=only), "lp")
            assert alone.status == "relaxed"
            named += 1
    assert named >= 5


def test_nothing_to_choose_shares_alike() -> None:
    problem = MixtureProblem(np.zeros((1, 4)), np.array([2.0]), np.array([np.nan]), [0], 10.0)
    np.testing.assert_allclose(solve_mixture(problem, "lp").weights, np.full(4, 0.25), atol=1e-9)


@pytest.mark.parametrize("method", ["lp", "robust", "grid"])
def test_without_constraints_the_best_domain_takes_all(method: str) -> None:
    slopes = np.array([[1e-3, -2e-3, -1e-3]])
    solution = solve_mixture(MixtureProblem(slopes, np.array([2.0]), np.array([np.nan]), [0], 50.0), method)
    np.testing.assert_allclose(solution.weights, [0.0, 1.0, 0.0], atol=1e-9)
    assert solution.objective == pytest.approx(-0.1, abs=1e-9)


@pytest.mark.parametrize("method", ["lp", "robust", "grid"])
def test_one_domain(method: str) -> None:
    problem = MixtureProblem(
        np.array([[-1e-3], [1e-3]]), np.full(2, 2.0), np.array([np.nan, 2.05]), [0], 100.0, np.zeros((2, 1))
    )
    solution = solve_mixture(problem, method)
    np.testing.assert_array_equal(solution.weights, [1.0])
    assert (solution.status, solution.conflicts) == ("relaxed", (1,))
    assert solution.violation[1] == pytest.approx(0.05)


def test_target_that_may_not_get_worse() -> None:
    slopes = np.array([[-3e-3, 0.0], [1e-3, -1e-3]])
    problem = MixtureProblem(slopes, np.full(2, 2.0), np.array([2.0, 2.0]), [0, 1], 100.0)
    solution = solve_mixture(problem, "lp")
    np.testing.assert_allclose(solution.weights, [0.5, 0.5], atol=1e-8)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("method", ["lp", "robust", "grid"])
def test_diverged_column_gets_no_weight(method: str, bad: float) -> None:
    problem = random_problem(3)
    slopes = problem.slopes.copy()
    slopes[5, 2] = bad
    solution = solve_mixture(random_problem(3, slopes=slopes), method)
    kept = [0, 1, 3, 4]
    without = random_problem(3, slopes=problem.slopes[:, kept], slope_se=problem.slope_se[:, kept])
    expected = solve_mixture(without, method)
    assert solution.weights[2] == 0.0
    np.testing.assert_array_equal(solution.weights[kept], expected.weights)
    np.testing.assert_array_equal(solution.predicted, expected.predicted)
    assert np.isfinite(solution.predicted).all()


def test_unknown_noise_makes_a_column_unusable_for_robust_only() -> None:
    noise = np.zeros((2, 2))
    noise[1, 0] = np.nan
    assert solve_mixture(two_by_two(slope_se=noise)).weights.tolist() == [0.0, 1.0]
    assert solve_mixture(two_by_two(slope_se=noise), "lp").weights[0] == pytest.approx(0.5, abs=1e-9)


@pytest.mark.parametrize("seed", range(10))
def test_ridge_equals_a_general_solver(seed: int) -> None:
    problem = random_problem(seed, reference=np.full(6, np.nan))
    cost, _, _ = rows_of(problem)
    solution = solve_mixture(problem, "lp", ridge=0.5)
    # Without constraints the ridged optimum is the projection of -cost / (2 ridge) onto the simplex.
    point = -cost / (2 * 0.5 * np.abs(cost).max())
    order = np.sort(point)[::-1]
    levels = (np.cumsum(order) - 1) / np.arange(1, 6)
    level = levels[np.flatnonzero(order > levels)[-1]]
    np.testing.assert_allclose(solution.weights, np.maximum(point - level, 0.0), atol=1e-6)
    assert solution.objective == pytest.approx(cost @ solution.weights)


def test_shadow_prices_with_ridge_are_derivatives_of_the_ridged_objective() -> None:
    problem = two_by_two(reference=np.array([np.nan, 3.0]))

    def value(reference: float) -> float:
        solution = solve_mixture(two_by_two(reference=np.array([np.nan, reference])), "lp", ridge=0.1)
        return solution.objective + 0.1 * 0.1 * float(solution.weights @ solution.weights)

    price = solve_mixture(problem, "lp", ridge=0.1).shadow_prices[1]
    assert price == pytest.approx((value(3.0 - 1e-4) - value(3.0 + 1e-4)) / 2e-4, rel=1e-4)


def penalty(problem: MixtureProblem, w: np.ndarray, strength: float, safety: float) -> float:
    """The paper's objective, written down a second time: per step for targets, squared nats for constraints."""
    target = sum(float(problem.slopes[i] @ w) for i in problem.targets)
    predicted = problem.losses + problem.horizon * problem.slopes @ w
    over = [
        max(0.0, predicted[i] - problem.reference[i] + safety) ** 2
        for i in range(6)
        if problem.constrained[i]
    ]
    return target + strength * sum(over)


def programme_of(problem: MixtureProblem) -> cone.Programme:
    cost, rows, room = rows_of(problem)
    return cone.Programme(cost, rows, np.zeros_like(rows), room, np.full(len(room), 0.01))


def test_the_grid_of_the_paper() -> None:
    assert len(penalised.STRENGTHS) * len(penalised.SAFETY_NATS) == 45
    assert (penalised.STRENGTHS[0], penalised.STRENGTHS[-1]) == pytest.approx((1.0, 5000.0))
    ratios = penalised.STRENGTHS[1:] / penalised.STRENGTHS[:-1]
    np.testing.assert_allclose(ratios, ratios[0])
    assert penalised.SAFETY_NATS == (0.0, 0.05, 0.1)


@pytest.mark.parametrize("strength", [1.0, 70.0, 5000.0])
@pytest.mark.parametrize("seed", range(8))
def test_each_penalised_mixture_is_a_minimum(seed: int, strength: float) -> None:
    problem = random_problem(seed, columns=3)
    mixtures = lattice(3, 60)
    for safety in penalised.SAFETY_NATS:
        w = penalised.penalised_mixture(programme_of(problem), problem.horizon, strength, safety)
        ours = penalty(problem, w, strength, safety)
        near = w + 1e-3 * (mixtures - w)
        best = min(penalty(problem, other, strength, safety) for other in (*mixtures, *near))
        assert ours <= best + 1e-9 * max(1.0, abs(best))


@pytest.mark.parametrize("seed", range(8))
def test_grid_follows_the_rule_of_the_paper(seed: int) -> None:
    problem = random_problem(seed, columns=3)
    kept = problem.constrained
    candidates = []
    for strength, safety in itertools.product(penalised.STRENGTHS, penalised.SAFETY_NATS):
        w = penalised.penalised_mixture(programme_of(problem), problem.horizon, strength, safety)
        predicted = problem.losses + problem.horizon * problem.slopes @ w
        violation = float((predicted - problem.reference)[kept].max())
        candidates.append((violation, float(problem.slopes[:2].sum(axis=0) @ w) * problem.horizon))
    solution = solve_mixture(problem, "grid")
    check_mixture(solution)
    feasible = [target for violation, target in candidates if violation <= 1e-9]
    if feasible:
        assert solution.status == "optimal"
        assert solution.objective == pytest.approx(min(feasible), abs=1e-8)
    else:
        assert solution.status == "relaxed"
        assert np.nanmax(solution.violation) == pytest.approx(
            min(violation for violation, _ in candidates), abs=1e-8
        )
        assert solution.conflicts == tuple(np.flatnonzero(solution.violation > 0))
    assert np.isnan(solution.shadow_prices).all()


def test_both_outcomes_of_the_grid_are_tested_above() -> None:
    statuses = {solve_mixture(random_problem(seed, columns=3), "grid").status for seed in range(8)}
    assert statuses == {"optimal", "relaxed"}


def test_both_outcomes_of_the_constrained_methods_are_tested_above() -> None:
    for method in ("lp", "robust"):
        statuses = [solve_mixture(random_problem(seed), method).status for seed in SEEDS]
        assert statuses.count("optimal") >= 8
        assert statuses.count("relaxed") >= 5


def test_the_same_call_gives_the_same_bits() -> None:
    for method in ("lp", "robust", "grid"):
        first, second = (solve_mixture(random_problem(1), method) for _ in range(2))
        np.testing.assert_array_equal(first.weights, second.weights)


def test_the_callers_arrays_are_neither_changed_nor_shared() -> None:
    slopes = np.array([[-1e-3, 0.0], [1e-3, -1e-3]])
    problem = two_by_two(slopes=slopes)
    slopes[0, 0] = 7.0
    assert problem.slopes[0, 0] == -1e-3
    with pytest.raises(ValueError, match="read-only"):
        problem.slopes[0, 0] = 1.0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"slopes": np.zeros(3)}, r"slopes of shape \(3,\), expected \(M, N\)"),
        ({"slopes": np.zeros((2, 0))}, "both at least 1"),
        ({"losses": np.zeros(3)}, r"losses of shape \(3,\), expected \(2,\)"),
        ({"reference": np.zeros(1)}, r"reference of shape \(1,\)"),
        ({"scale": np.ones(4)}, r"scale of shape \(4,\)"),
        ({"slope_se": np.zeros((2, 3))}, r"slope_se of shape \(2, 3\), expected \(2, 2\)"),
    ],
)
def test_shapes_that_do_not_fit(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        two_by_two(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"targets": []}, "no targets, expected at least one"),
        ({"targets": [2]}, r"targets \[2\], expected different rows between 0 and 1"),
        ({"targets": [-1]}, r"targets \[-1\]"),
        ({"targets": [0, 0]}, "different rows"),
        ({"horizon": 0.0}, "horizon 0.0, expected a number of steps above 0"),
        ({"horizon": -5.0}, "horizon -5.0"),
        ({"horizon": np.nan}, "horizon nan"),
        ({"horizon": np.inf}, "horizon inf"),
        ({"losses": np.array([2.0, np.nan])}, r"not finite in constrained rows \[1\]"),
        ({"reference": np.array([np.nan, np.inf])}, "an infinite reference.*try nan"),
        ({"slope_se": np.full((2, 2), -1.0)}, "a negative standard error"),
        ({"scale": np.zeros(2)}, "scale that is not above 0"),
    ],
)
def test_values_out_of_range(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        two_by_two(**changes)


def test_choices_out_of_range() -> None:
    with pytest.raises(ConfigError, match=r"method 'robusst', expected one of .* try 'robust'"):
        solve_mixture(two_by_two(), "robusst")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="kappa -1"):
        solve_mixture(two_by_two(), kappa=-1.0)
    with pytest.raises(ConfigError, match="ridge nan"):
        solve_mixture(two_by_two(), ridge=float("nan"))
    with pytest.raises(ConfigError, match=r"no slope_se, .* try method='lp'"):
        solve_mixture(two_by_two(slope_se=None))
    with pytest.raises(ConfigError, match="nan or infinity in every column"):
        solve_mixture(two_by_two(slopes=np.full((2, 2), np.nan)), "lp")


def test_loss_of_a_monitored_row_may_be_unknown() -> None:
    solution = solve_mixture(two_by_two(losses=np.array([np.nan, 3.0])), "lp")
    assert np.isnan(solution.predicted[0])
    assert solution.objective == pytest.approx(-0.05, abs=1e-9)


def test_a_solver_that_fails_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cone, "cone_solution", lambda *_: None)
    with pytest.raises(ArithmeticError, match="worst constraint"):
        solve_mixture(two_by_two(), "lp")
    monkeypatch.setattr(penalised, "cone_solution", lambda *_, **__: None)
    with pytest.raises(ArithmeticError, match="penalised programme did not converge"):
        solve_mixture(two_by_two(), "grid")


def test_a_later_round_that_fails_leaves_the_last_mixture(monkeypatch: pytest.MonkeyPatch) -> None:
    slopes = np.array([[-1e-3, 0.0], [1e-3, 1e-3], [5e-4, 5e-4]])
    problem = MixtureProblem(slopes, np.array([2.0, 3.0, 3.0]), np.array([np.nan, 3.0, 3.0]), [0], 100.0)
    rounds = iter([constrained.lower_the_worst, lambda *_: None])
    monkeypatch.setattr(constrained, "lower_the_worst", lambda *parts: next(rounds)(*parts))
    solution = solve_mixture(problem, "lp")
    check_mixture(solution)
    assert solution.conflicts == (1, 2)
    assert np.nanmax(solution.violation) == pytest.approx(0.1, abs=1e-6)


def test_nonzeros_by_column_are_those_of_scipy() -> None:
    rng = np.random.default_rng(0)
    for shape in ((1, 1), (3, 0), (4, 7), (9, 2)):
        dense = rng.normal(size=shape) * (rng.random(shape) < 0.5)
        ours, theirs = cone.by_column(dense), sparse.csc_matrix(dense)
        assert ours.shape == theirs.shape
        for name in ("data", "indices", "indptr"):
            np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name))
            assert getattr(ours, name).dtype == getattr(theirs, name).dtype
