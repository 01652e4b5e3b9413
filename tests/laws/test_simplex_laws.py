"""Laws that every mixture problem obeys, whatever its numbers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from trimtab.numerics.simplex import MixtureProblem, MixtureSolution, solve_mixture

CONVEX = ["lp", "robust"]
METHODS = [*CONVEX, "grid"]
seeds = st.integers(0, 2**32 - 1)
few = settings(max_examples=40, deadline=None)
fewer = settings(max_examples=12, deadline=None)


def problem_of(seed: int, tightness: float = 0.01, **changes: object) -> MixtureProblem:
    rng = np.random.default_rng(seed)
    rows, columns = int(rng.integers(1, 8)), int(rng.integers(1, 7))
    losses = rng.uniform(1.0, 4.0, rows)
    reference = losses + tightness + rng.normal(size=rows) * 0.01
    reference[rng.random(rows) < 0.3] = np.nan
    values: dict[str, object] = {
        "slopes": rng.normal(size=(rows, columns)) * 1e-3,
        "losses": losses,
        "reference": reference,
        "targets": [0],
        "horizon": 64.0,
        "slope_se": rng.uniform(0.0, 2e-4, (rows, columns)),
        "scale": rng.uniform(0.01, 0.05, rows),
    }
    return MixtureProblem(**{**values, **changes})  # type: ignore[arg-type]


def changed(problem: MixtureProblem, **changes: object) -> MixtureProblem:
    names = ("slopes", "losses", "reference", "targets", "horizon", "slope_se", "scale")
    return MixtureProblem(**{**{name: getattr(problem, name) for name in names}, **changes})


def check_same(
    after: MixtureSolution, weights: np.ndarray, violation: np.ndarray, method: str, unit: float = 1.0
) -> None:
    """The same mixture and violations.

    A relaxed cone programme bends: a millionth more of the largest violation moves the mixture by the root of
    that, so there the smaller violations agree roughly and `check_same_worst` looks at the largest.
    """
    if method == "robust" and after.status == "relaxed":
        np.testing.assert_allclose(after.weights, weights, atol=0.05)
        np.testing.assert_allclose(after.violation, violation, atol=2e-3 * unit)
    else:
        np.testing.assert_allclose(after.weights, weights, atol=2e-5)
        np.testing.assert_allclose(after.violation, violation, atol=2e-6 * unit)


def check_same_worst(
    after: MixtureSolution, before: MixtureSolution, problem: MixtureProblem, moved: MixtureProblem
) -> None:
    """The largest violation in units of its scale, which is what a relaxed solution minimises first."""
    if before.status == "relaxed":
        worst = [np.nanmax(s.violation / p.scale) for s, p in ((after, moved), (before, problem))]
        assert worst[0] == pytest.approx(worst[1], abs=2e-4)


@pytest.mark.parametrize("method", METHODS)
@fewer
@given(seed=seeds)
def test_weights_are_a_mixture_and_the_status_says_what_is_broken(method: str, seed: int) -> None:
    problem = problem_of(seed, tightness=0.0)
    solution = solve_mixture(problem, method)
    assert (solution.weights >= 0).all()
    assert abs(solution.weights.sum() - 1.0) < 1e-12
    kept = problem.constrained
    assert np.isnan(solution.violation[~kept]).all()
    assert (solution.violation[kept] >= 0).all()
    assert solution.conflicts == tuple(np.flatnonzero(solution.violation > 0))
    assert (solution.status == "relaxed") == bool(solution.conflicts)
    if method != "robust" and solution.status == "optimal":
        assert (solution.predicted[kept] <= problem.reference[kept] + 1e-7).all()


@pytest.mark.parametrize("method", METHODS)
@fewer
@given(seed=seeds)
def test_permuting_domains_permutes_the_mixture(method: str, seed: int) -> None:
    problem = problem_of(seed)
    order = np.random.default_rng(seed + 1).permutation(problem.slopes.shape[1])
    permuted = changed(problem, slopes=problem.slopes[:, order], slope_se=problem.slope_se[:, order])
    before, after = solve_mixture(problem, method), solve_mixture(permuted, method)
    check_same(after, before.weights[order], before.violation, method)
    check_same_worst(after, before, problem, permuted)
    assert after.status == before.status


@pytest.mark.parametrize("method", METHODS)
@fewer
@given(seed=seeds)
def test_permuting_evaluation_rows_changes_no_weight(method: str, seed: int) -> None:
    problem = problem_of(seed)
    order = np.random.default_rng(seed + 1).permutation(len(problem.losses))
    names = ("slopes", "losses", "reference", "slope_se", "scale")
    moved = {name: getattr(problem, name)[order] for name in names}
    permuted = changed(problem, **moved, targets=[int(np.flatnonzero(order == 0)[0])])
    before, after = solve_mixture(problem, method), solve_mixture(permuted, method)
    check_same(after, before.weights, before.violation[order], method)
    check_same_worst(after, before, problem, permuted)
    assert after.status == before.status


@pytest.mark.parametrize("method", CONVEX)
@few
@given(seed=seeds, more=st.floats(0.0, 0.05))
def test_a_looser_reference_never_raises_the_optimum(method: str, seed: int, more: float) -> None:
    problem = problem_of(seed)
    rows = np.flatnonzero(problem.constrained)
    assume(len(rows) > 0)
    reference = problem.reference.copy()
    reference[rows[seed % len(rows)]] += more
    before, after = (
        solve_mixture(problem, method),
        solve_mixture(changed(problem, reference=reference), method),
    )
    if before.status == "optimal":
        assert after.status == "optimal"
        assert after.objective <= before.objective + 1e-8
    else:
        worst = [np.nanmax(s.violation / problem.scale) for s in (before, after)]
        assert worst[1] <= worst[0] + 1e-4


@pytest.mark.parametrize("method", CONVEX)
@few
@given(seed=seeds, factor=st.floats(0.01, 100.0))
def test_the_unit_of_loss_changes_no_weight(method: str, seed: int, factor: float) -> None:
    problem = problem_of(seed)
    names = ("slopes", "losses", "reference", "slope_se", "scale")
    scaled = changed(problem, **{name: getattr(problem, name) * factor for name in names})
    before, after = solve_mixture(problem, method, ridge=0.1), solve_mixture(scaled, method, ridge=0.1)
    check_same(after, before.weights, before.violation * factor, method, factor)
    check_same_worst(after, before, problem, scaled)
    if before.status == "optimal":
        assert after.objective == pytest.approx(before.objective * factor, abs=2e-6 * factor)


@pytest.mark.parametrize("method", CONVEX)
@few
@given(seed=seeds, factor=st.floats(0.1, 10.0))
def test_only_slope_times_horizon_matters(method: str, seed: int, factor: float) -> None:
    problem = problem_of(seed)
    slower = changed(
        problem,
        slopes=problem.slopes / factor,
        slope_se=problem.slope_se / factor,
        horizon=problem.horizon * factor,
    )
    before, after = solve_mixture(problem, method), solve_mixture(slower, method)
    check_same(after, before.weights, before.violation, method)
    check_same_worst(after, before, problem, slower)


@pytest.mark.parametrize("method", CONVEX)
@few
@given(seed=seeds)
def test_a_shift_of_loss_and_reference_changes_no_weight(method: str, seed: int) -> None:
    problem = problem_of(seed)
    shifted = changed(problem, losses=problem.losses + 1.0, reference=problem.reference + 1.0)
    before, after = solve_mixture(problem, method), solve_mixture(shifted, method)
    check_same(after, before.weights, before.violation, method)
    check_same_worst(after, before, problem, shifted)


@few
@given(seed=seeds)
def test_a_duplicate_domain_leaves_the_linear_optimum(seed: int) -> None:
    problem = problem_of(seed)
    twice = np.append(problem.slopes, problem.slopes[:, :1], axis=1)
    more = changed(problem, slopes=twice, slope_se=np.zeros_like(twice))
    before, after = solve_mixture(problem, "lp"), solve_mixture(more, "lp")
    assert after.status == before.status
    np.testing.assert_allclose(after.violation, before.violation, atol=2e-6)
    assert after.objective == pytest.approx(
        before.objective, abs=1e-8 if before.status == "optimal" else 2e-5
    )


@pytest.mark.parametrize("method", CONVEX)
@few
@given(seed=seeds)
def test_one_more_domain_never_hurts(method: str, seed: int) -> None:
    problem, rng = problem_of(seed), np.random.default_rng(seed + 1)
    rows = len(problem.losses)
    more = changed(
        problem,
        slopes=np.append(problem.slopes, rng.normal(size=(rows, 1)) * 1e-3, axis=1),
        slope_se=np.append(problem.slope_se, rng.uniform(0, 2e-4, (rows, 1)), axis=1),
    )
    before, after = solve_mixture(problem, method), solve_mixture(more, method)
    if before.status == "optimal":
        assert after.status == "optimal"
        assert after.objective <= before.objective + 1e-8


@few
@given(seed=seeds, low=st.floats(0.0, 2.0), high=st.floats(2.0, 4.0))
def test_more_margin_never_helps_the_target(seed: int, low: float, high: float) -> None:
    problem = problem_of(seed)
    careless, careful = (solve_mixture(problem, kappa=kappa) for kappa in (low, high))
    if careful.status == "optimal":
        assert careless.status == "optimal"
        assert careless.objective <= careful.objective + 1e-8


@few
@given(seed=seeds)
def test_a_stronger_ridge_gives_a_more_even_mixture(seed: int) -> None:
    problem = problem_of(seed)
    norms = [
        float(np.linalg.norm(solve_mixture(problem, "lp", ridge=ridge).weights)) for ridge in (0.01, 0.1, 1.0)
    ]
    if solve_mixture(problem, "lp").status == "optimal":
        assert norms[0] >= norms[1] - 1e-6 >= norms[2] - 2e-6


@pytest.mark.parametrize("method", CONVEX)
@few
@given(seed=seeds)
def test_prices_bound_what_tolerance_buys(method: str, seed: int) -> None:
    # The optimum is convex in the references, so no loosening buys more than its price says.
    problem = problem_of(seed)
    more = np.random.default_rng(seed + 1).uniform(0.0, 0.02, len(problem.losses))
    before = solve_mixture(problem, method)
    assume(before.status == "optimal")
    after = solve_mixture(changed(problem, reference=problem.reference + more), method)
    bought = np.nansum(before.shadow_prices * more)
    assert before.objective - after.objective <= bought + 1e-7
