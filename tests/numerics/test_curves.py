"""Curve fits against closed forms, SciPy, planted outliers and published coefficients."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from trimtab.errors import ConfigError, DataError
from trimtab.numerics.curves import Coefficient, CurveProblem, bootstrap_curve, fit_curve

LINE = (Coefficient("slope", -50, 50), Coefficient("shift", -50, 50))
POWER = (Coefficient("A", 1e-3, 1e3, log=True), Coefficient("alpha", 0, 3), Coefficient("E", 0, 5))
SIZES = np.geomspace(1, 300, 24)


def line(x: np.ndarray, slope: float, shift: float) -> np.ndarray:
    return slope * x + shift


def power(x: np.ndarray, A: float, alpha: float, E: float) -> np.ndarray:
    return A * x**-alpha + E


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6))
def test_squared_loss_on_a_line_is_least_squares(seed: int) -> None:
    draw = np.random.default_rng(seed)
    x, y = draw.normal(0, 3, 12), draw.normal(0, 3, 12)
    found = fit_curve(line, x, y, LINE, loss="squared", starts=2)
    slope, shift = np.polyfit(x, y, 1)
    assert found.coefficients == pytest.approx({"slope": slope, "shift": shift}, abs=1e-6)
    assert found.total == pytest.approx(0.5 * ((y - slope * x - shift) ** 2).sum(), rel=1e-9)


def test_hubers_loss_is_minimised_as_well_as_by_a_search_over_the_two_coefficients() -> None:
    draw = np.random.default_rng(1)
    x = np.linspace(-1, 1, 30)
    y = 2 * x + 1 + draw.standard_t(2, 30)

    def huber(at: np.ndarray) -> float:
        gap = np.abs(y - at[0] * x - at[1])
        return float(np.where(gap <= 0.3, gap**2 / 2, 0.3 * (gap - 0.15)).sum())

    best = min(
        (
            minimize(huber, start, method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-12})
            for start in ([0, 0], [2, 1])
        ),
        key=lambda end: end.fun,
    )
    found = fit_curve(line, x, y, LINE, delta=0.3, starts=2)
    assert found.total == pytest.approx(best.fun, rel=1e-7)
    assert list(found.coefficients.values()) == pytest.approx(best.x, abs=1e-4)


def test_planted_outliers_move_a_robust_fit_little_and_least_squares_much() -> None:
    y = power(SIZES, 8.0, 0.5, 1.7)
    y[[3, 11, 20]] *= 1.5
    robust = fit_curve(power, SIZES, y, POWER, space="log", starts=8).coefficients
    squared = fit_curve(power, SIZES, y, POWER, loss="squared", space="log", starts=8).coefficients
    assert robust == pytest.approx({"A": 8.0, "alpha": 0.5, "E": 1.7}, rel=1e-3)
    assert abs(squared["E"] / 1.7 - 1) > 0.02


@settings(max_examples=10, deadline=None)
@given(A=st.floats(0.1, 100), alpha=st.floats(0.2, 1.5), floor=st.floats(0.1, 4))
def test_a_noiseless_power_law_is_found_exactly(A: float, alpha: float, floor: float) -> None:
    found = fit_curve(power, SIZES, power(SIZES, A, alpha, floor), POWER, space="log", starts=8)
    assert found.coefficients == pytest.approx({"A": A, "alpha": alpha, "E": floor}, rel=1e-4)
    assert (found.at_bounds, found.undetermined) == ((), ())


def test_a_coefficient_at_its_bound_is_named() -> None:
    found = fit_curve(line, np.arange(5.0), 70 * np.arange(5.0), LINE, loss="squared", starts=2)
    assert found.at_bounds == ("slope",)
    assert found.coefficients["slope"] == pytest.approx(50)


def test_coefficients_that_can_be_traded_are_named() -> None:
    wanted = (*LINE, Coefficient("more", -50, 50))
    found = fit_curve(
        lambda x, slope, shift, more: slope * x + shift + more,
        np.arange(9.0),
        np.arange(9.0),
        wanted,
        starts=2,
    )
    assert found.undetermined == ("shift", "more")


def test_a_search_turns_back_where_the_curve_is_not_finite() -> None:
    found = fit_curve(
        lambda x, slope, shift: np.sqrt(slope * x + shift),
        np.arange(1, 9.0),
        np.sqrt(2 * np.arange(1, 9.0)),
        LINE,
        starts=16,
    )
    assert found.coefficients["slope"] == pytest.approx(2, abs=1e-3)


def test_the_same_seed_gives_the_same_fit_and_starts_of_ones_own_are_tried() -> None:
    y = power(SIZES, 8.0, 0.5, 1.7)
    one, two = (fit_curve(power, SIZES, y, POWER, starts=4, seed=3) for _ in range(2))
    assert one.coefficients == two.coefficients
    own = fit_curve(power, SIZES, y, POWER, starts=0, first=[{"A": 7.0, "alpha": 0.4, "E": 99.0}])
    assert own.coefficients == pytest.approx({"A": 8.0, "alpha": 0.5, "E": 1.7}, rel=1e-4)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"y": np.ones(1)}, DataError, "at least 2 points, one per coefficient"),
        ({"y": np.array([1.0, np.nan, 2.0])}, DataError, "expected finite numbers"),
        ({"y": np.array([1.0, 0.0, 2.0]), "space": "log"}, DataError, "finite numbers, above 0"),
        ({"loss": "hubber"}, ConfigError, "hubber"),
        ({"delta": 0.0}, ConfigError, "delta: got 0.0, expected a number above 0"),
        ({"starts": 0}, ConfigError, "starts: got 0, expected at least 1"),
        ({"curve": lambda x, slope, shift: x * np.nan}, DataError, "a curve that is finite at no start"),
    ],
)
def test_what_cannot_be_fitted_is_refused(changes: dict, error: type[Exception], message: str) -> None:
    asked = {"curve": line, "x": np.arange(3.0), "y": np.arange(3.0), "coefficients": LINE, **changes}
    with pytest.raises(error, match=message):
        fit_curve(**asked)


@pytest.mark.parametrize("bounds", [(1.0, 1.0, False), (2.0, 1.0, False), (0.0, 1.0, True)])
def test_bounds_that_are_none_are_refused(bounds: tuple[float, float, bool]) -> None:
    with pytest.raises(ConfigError, match="coefficient 'A'"):
        Coefficient("A", *bounds)


def test_intervals_of_a_line_are_those_of_least_squares() -> None:
    draw = np.random.default_rng(4)
    x = np.linspace(0, 10, 80)
    y = 3 * x + 2 + draw.normal(0, 1, 80)
    ensemble = bootstrap_curve(fit_curve(line, x, y, LINE, loss="squared", starts=1), n_boot=300)
    spread = np.sqrt(np.diag(np.polyfit(x, y, 1, cov=True)[1]))
    assert ensemble.draws.std(0) == pytest.approx(spread, rel=0.25)
    assert ensemble.intervals["slope"][0] < 3 < ensemble.intervals["slope"][1]
    low, high = ensemble.band(x)
    assert 0.85 <= float(((low <= y) & (y <= high)).mean()) <= 1
    tight = ensemble.band(x, noise=False)
    assert (tight[1] - tight[0] < high - low).all()


def test_points_of_one_cluster_are_drawn_together() -> None:
    """Twelve pairs of equal points know no more than twelve points."""
    draw = np.random.default_rng(5)
    x, y = np.arange(12.0), draw.normal(0, 1, 12)
    twice = fit_curve(line, np.repeat(x, 2), np.repeat(y, 2), LINE, loss="squared", starts=1)
    loose = bootstrap_curve(twice, n_boot=200).draws.std(0)
    tied = bootstrap_curve(twice, clusters=np.repeat(x, 2), n_boot=200)
    once = bootstrap_curve(fit_curve(line, x, y, LINE, loss="squared", starts=1), n_boot=200)
    assert tied.units == 12
    assert tied.draws.std(0) == pytest.approx(once.draws.std(0), rel=0.2)
    assert (loose < 0.85 * tied.draws.std(0)).all()


def test_too_few_clusters_are_refused() -> None:
    fit = fit_curve(line, np.arange(4.0), np.arange(4.0), LINE, starts=1)
    with pytest.raises(DataError, match="expected one label per point"):
        bootstrap_curve(fit, clusters=[0, 0, 0], n_boot=5)
    few = fit_curve(line, np.arange(2.0), np.arange(2.0), LINE, starts=1)
    with pytest.raises(DataError, match="got 2 independent runs"):
        bootstrap_curve(few, n_boot=5)


def test_a_problem_knows_its_residuals() -> None:
    problem = CurveProblem(line, np.arange(3.0), np.exp(np.arange(3.0)), LINE, space="log")
    assert problem.residuals({"slope": 0.0, "shift": 1.0}) == pytest.approx([0.0, 1.0, 2.0])


@pytest.mark.realdata
def test_the_chinchilla_points_give_the_replications_coefficients(real_data: Path) -> None:
    """Besiroglu et al. 2024: alpha .348, beta .366, E 1.817, Huber at 1e-3 on log losses of 240 runs."""
    frame = pd.read_csv(real_data / "chinchilla_points.csv")
    frame = frame[frame["excluded_in_replication"] == 0]
    wanted = (
        Coefficient("E", 0.05, 10, log=True),
        Coefficient("A", 1, 1e6, log=True),
        Coefficient("B", 1, 1e6, log=True),
        Coefficient("alpha", 0, 2),
        Coefficient("beta", 0, 2),
    )

    x = {name: frame[name].to_numpy() for name in ("params", "tokens")}

    def chinchilla(x: dict, E: float, A: float, B: float, alpha: float, beta: float) -> np.ndarray:
        return E + A * x["params"] ** -alpha + B * x["tokens"] ** -beta

    found = fit_curve(chinchilla, x, frame["loss"].to_numpy(), wanted, space="log", starts=60)
    assert len(frame) == 240
    told = {name: found.coefficients[name] for name in ("alpha", "beta", "E")}
    assert told == pytest.approx({"alpha": 0.348, "beta": 0.366, "E": 1.817}, rel=0.01)
    assert found.agreeing > 0.5
