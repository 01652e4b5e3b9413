"""Robust curve fitting within bounds and from many starts, for curves with a handful of coefficients.

The bootstrap refits a curve to resampled points, for intervals of its coefficients and bands around it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Float
from scipy.optimize import least_squares
from scipy.special import ndtri, stdtrit
from scipy.stats import qmc

from trimtab.errors import ConfigError, DataError, explain
from trimtab.numerics.bootstrap import check_choice, check_numbers

Curve = Callable[..., Any]
Loss = Literal["huber", "squared"]
Space = Literal["linear", "log"]


@dataclass(frozen=True)
class Coefficient:
    """A coefficient of a curve, with its bounds.

    Attributes:
        name: the keyword by which the curve takes it.
        low, high: bounds; both above 0 where `log`.
        log: whether it is sought on a logarithmic scale, for one of unknown size.
    """

    name: str
    low: float
    high: float
    log: bool = False

    def __post_init__(self) -> None:
        """Refuse bounds that are none."""
        if not self.low < self.high or (self.log and self.low <= 0):
            expected = "0 < low < high" if self.log else "low < high"
            raise ConfigError(f"coefficient {self.name!r}: {explain(f'{self.low} to {self.high}', expected)}")


@dataclass(frozen=True, eq=False)
class CurveProblem:
    """A regression problem: a curve, observations and the bounds of its coefficients.

    Attributes:
        curve: `curve(x, **coefficients)` -> (n,).
        x: whatever the curve takes.
        y: (n,) observations; above 0 in log space.
        coefficients: what is sought.
        loss: "huber" (squared up to `delta`, then linear: Huber 1964) or "squared".
        delta: where the Huber loss turns linear, in the units of the residuals.
        space: residuals are y - curve, or log y - log curve.
    """

    curve: Curve
    x: Any
    y: Float[np.ndarray, " n"]
    coefficients: tuple[Coefficient, ...]
    loss: Loss = "huber"
    delta: float = 1e-3
    space: Space = "linear"

    def __post_init__(self) -> None:
        """Refuse what cannot be fitted."""
        check_choice("loss", self.loss, get_args(Loss))
        check_choice("space", self.space, get_args(Space))
        y = np.asarray(self.y, dtype=float)
        if not self.delta > 0:
            raise ConfigError(f"delta: {explain(self.delta, 'a number above 0')}")
        if y.ndim != 1 or len(y) < len(self.coefficients):
            expected = f"at least {len(self.coefficients)} points, one per coefficient"
            raise DataError(f"y: {explain(f'shape {y.shape}', expected)}")
        if not np.isfinite(y).all() or (self.space == "log" and (y <= 0).any()):
            expected = "finite numbers" + ", above 0" * (self.space == "log")
            raise DataError(f"y: {explain('values that are not', expected)}")

    def residuals(self, values: Mapping[str, float]) -> Float[np.ndarray, " n"]:
        """(n,) residuals of the coefficients `values`; nan or infinite where the curve is."""
        with np.errstate(all="ignore"):
            curve = np.asarray(self.curve(self.x, **values), dtype=float)
            gap = np.log(self.y) - np.log(curve) if self.space == "log" else np.asarray(self.y) - curve
        return np.broadcast_to(gap, np.shape(self.y)).astype(float)


def box(problem: CurveProblem) -> tuple[np.ndarray, np.ndarray]:
    """(P,) lower and upper bounds in the search space."""
    ends = [(np.log(c.low), np.log(c.high)) if c.log else (c.low, c.high) for c in problem.coefficients]
    low, high = np.array(ends, dtype=float).T
    return low, high


def position(problem: CurveProblem, values: Mapping[str, float]) -> Float[np.ndarray, " P"]:
    """The point of some values in the search space (logarithms where `log`), moved inside the bounds."""
    low, high = box(problem)
    at = [np.log(max(values[c.name], c.low)) if c.log else values[c.name] for c in problem.coefficients]
    return np.asarray(np.clip(np.array(at, dtype=float), low, high))


def values_at(problem: CurveProblem, at: Float[np.ndarray, " P"]) -> dict[str, float]:
    """The coefficients at a point of the search space."""
    return {c.name: float(np.exp(u) if c.log else u) for c, u in zip(problem.coefficients, at, strict=True)}


FLAT = 1e-6
"""A direction along which the curve moves this much less than along its steepest one is not determined."""
NEAR = 1e-6
"""Part of its range within which a coefficient counts as at its bound."""
_USUAL, _TIGHT = 1e-8, 1e-15
"""Relative change at which a search ends, and the polish of the best."""


@dataclass(frozen=True, eq=False)
class CurveFit:
    """A fitted curve: its coefficients and how well the starts agree.

    Attributes:
        problem: what was fitted.
        coefficients: value by name.
        total: the loss summed over points.
        agreeing: share of the starts that came to the same loss, to one in a thousand; a low one says that the ground
            is rough and more starts may find better.
        at_bounds: coefficients at a bound, whose values are the bound's, not the data's.
        undetermined: coefficients that can be traded against one another without moving the curve at these points.
    """

    problem: CurveProblem
    coefficients: dict[str, float]
    total: float
    agreeing: float
    at_bounds: tuple[str, ...]
    undetermined: tuple[str, ...]

    def predict(self, x: Any) -> Any:
        """The curve at other points."""
        return self.problem.curve(x, **self.coefficients)

    @property
    def residuals(self) -> Float[np.ndarray, " n"]:
        """(n,) residuals, in the space of the problem."""
        return self.problem.residuals(self.coefficients)


def fit_curve(
    curve: Curve,
    x: Any,
    y: Float[np.ndarray, " n"],
    coefficients: Sequence[Coefficient],
    *,
    loss: Loss = "huber",
    delta: float = 1e-3,
    space: Space = "linear",
    starts: int = 64,
    first: Sequence[Mapping[str, float]] = (),
    seed: int = 0,
) -> CurveFit:
    """Robust least squares within bounds, from many starts, for any curve.

    Starts are a scrambled Sobol sequence over the bounds; each is followed by a trust-region search (Branch,
    Coleman & Li 1999, as in SciPy), and the best is polished.

    Args:
        curve: `curve(x, **coefficients)` -> (n,); where it is not finite the search turns back.
        x: whatever the curve takes: an array, a mapping of arrays.
        y: (n,) observations.
        coefficients: what is sought, with bounds.
        loss, delta, space: see `CurveProblem`; scaling laws are usually fitted with Huber's at 1e-3 in log space.
        starts: random starts, at least 1 unless `first` is given.
        first: starts of your own, tried too; values outside the bounds are moved inside.
        seed: of the starts.

    Raises:
        DataError: fewer points than coefficients, or observations that are not finite (in log space: not above 0), or a
            curve that is finite at none of the starts.
        ConfigError: unknown loss or space, delta not above 0, no start.

    >>> line = lambda x, slope, shift: slope * x + shift
    >>> x = np.arange(6.0)
    >>> bounds = [Coefficient("slope", -9, 9), Coefficient("shift", -9, 9)]
    >>> fit = fit_curve(line, x, 2 * x + 1 + 5 * (x == 3), bounds, starts=4)
    >>> {name: round(value, 3) for name, value in fit.coefficients.items()}
    {'slope': 2.0, 'shift': 1.0}
    """
    problem = CurveProblem(curve, x, np.asarray(y, dtype=float), tuple(coefficients), loss, delta, space)
    if starts < 1 and not first:
        raise ConfigError(f"starts: {explain(starts, 'at least 1')}")
    low, high = box(problem)
    given = [position(problem, values) for values in first]
    unit = qmc.Sobol(len(low), seed=seed).random_base2(int(np.ceil(np.log2(max(starts, 1)))))
    return solve_curve(problem, [*given, *(low + unit[: max(starts, 0)] * (high - low))])


def solve_curve(
    problem: CurveProblem, starts: Sequence[np.ndarray], weights: Float[np.ndarray, " n"] | None = None
) -> CurveFit:
    """The best of the searches from some starts, which are points of the search space (see `position`).

    Args:
        problem: what is fitted.
        starts: (P,) each.
        weights: (n,) how often each point counts; once each if None.

    Raises:
        DataError: the curve is finite at none of the starts.
    """
    count = np.ones(len(problem.y)) if weights is None else weights
    usable = [start for start in starts if np.isfinite(problem.residuals(values_at(problem, start))).all()]
    if not usable:
        raise DataError(explain("a curve that is finite at no start", "bounds between which it is"))
    ends = [search(problem, start, count) for start in usable]
    best = min(ends, key=lambda end: end.cost)
    best = min(best, search(problem, best.x, count, _TIGHT), key=lambda end: end.cost)
    near = [end.cost <= best.cost * 1.001 + 1e-12 for end in ends]
    low, high = box(problem)
    edge = np.minimum(best.x - low, high - best.x) < NEAR * (high - low)
    _, sizes, directions = np.linalg.svd(
        np.sqrt(count)[:, None] * _slope(problem, best.x), full_matrices=False
    )
    flat = directions[sizes <= FLAT * sizes.max()] if sizes.max() > 0 else directions
    loose = (np.abs(flat) > 0.1).any(axis=0)
    names = np.array([coefficient.name for coefficient in problem.coefficients])
    at_bounds, undetermined = (tuple(names[which].tolist()) for which in (edge, loose))
    shares = float(best.cost), float(np.mean(near))
    return CurveFit(problem, values_at(problem, best.x), *shares, at_bounds, undetermined)


def search(problem: CurveProblem, start: np.ndarray, weights: np.ndarray, end: float = _USUAL) -> Any:
    """Trust-region search from a point of the search space: the minimiser is `.x`, the loss there `.cost`."""
    low, high = box(problem)

    def loss(z: np.ndarray) -> Any:
        """Huber's loss of squared residuals in units of the scale, with two derivatives; or they themselves."""
        root = np.sqrt(np.maximum(z, 1.0))
        inside = (z <= 1) | (problem.loss == "squared")
        value, first = np.where(inside, z, 2 * root - 1), np.where(inside, 1.0, 1 / root)
        return np.stack([value, first, np.where(inside, 0.0, -0.5 / root**3)]) * weights

    room = 1e-9 * (high - low)  # searches must start inside
    options: dict[str, Any] = {
        "fun": lambda at: problem.residuals(values_at(problem, at)),
        "jac": lambda at: _slope(problem, at),
        "loss": loss,
        "f_scale": problem.delta if problem.loss == "huber" else 1.0,
        **dict.fromkeys(("ftol", "xtol", "gtol"), end),
    }
    inside = np.clip(start, low + room, high - room)
    return least_squares(x0=inside, bounds=(low, high), x_scale="jac", **options)


def _slope(problem: CurveProblem, at: np.ndarray) -> np.ndarray:
    """(n, P) derivatives of the residuals in the search space, by central differences; 0 where they are not finite."""
    low, high = box(problem)
    columns = []
    for k in range(len(at)):
        step = 6e-6 * max(1.0, abs(at[k]))
        below, above = np.tile(at, (2, 1))
        below[k], above[k] = np.clip([at[k] - step, at[k] + step], low[k], high[k])
        residuals = [problem.residuals(values_at(problem, end)) for end in (below, above)]
        with np.errstate(invalid="ignore"):
            columns.append((residuals[1] - residuals[0]) / (above[k] - below[k]))
    return np.asarray(np.nan_to_num(np.stack(columns, axis=1), nan=0.0, posinf=0.0, neginf=0.0))


ATTEMPTS = 20
"""Draws per refit before the points are said to be too few groups."""


@dataclass(frozen=True, eq=False)
class CurveEnsemble:
    """A bootstrap ensemble: a fit and its refits to resampled points.

    Attributes:
        fit: on the points as they are.
        draws: (n_boot, P) coefficients, in the order of the problem, spread as few points make necessary.
        units: how many independent units were resampled: points, or clusters.
    """

    fit: CurveFit
    draws: Float[np.ndarray, "n_boot P"]
    units: int

    @property
    def intervals(self) -> dict[str, tuple[float, float]]:
        """95 % percentile interval of each coefficient."""
        low, high = np.quantile(self.draws, [0.025, 0.975], axis=0).tolist()
        return dict(zip(self.fit.coefficients, zip(low, high, strict=True), strict=True))

    def named(self) -> list[dict[str, float]]:
        """The coefficients of each refit by name."""
        return [dict(zip(self.fit.coefficients, row, strict=True)) for row in self.draws.tolist()]

    def band(self, x: Any, *, noise: bool = True, confidence: float = 0.95, seed: int = 0) -> tuple[Any, Any]:
        """Confidence band of the curve at other points, or the prediction band of a new observation if `noise`.

        The noise of an observation is drawn from the residuals of the fit, in its space, widened for the degrees of
        freedom that the coefficients took.
        """
        problem = self.fit.problem
        curves = np.stack([np.asarray(problem.curve(x, **values), dtype=float) for values in self.named()])
        if noise:
            n, taken = len(problem.y), self.draws.shape[1]
            wide = self.fit.residuals * np.sqrt(n / max(1, n - taken))
            gap = np.random.default_rng(seed).choice(wide, curves.shape)
            curves = curves * np.exp(gap) if problem.space == "log" else curves + gap
        low, high = np.quantile(curves, [(1 - confidence) / 2, (1 + confidence) / 2], axis=0)
        return low, high


def bootstrap_curve(
    fit: CurveFit, *, clusters: Sequence[object] | None = None, n_boot: int = 500, seed: int = 0
) -> CurveEnsemble:
    """Bootstrap of a curve fit: refits to points drawn with replacement, each from the coefficients of the whole.

    Resamples of few points vary too little, as residuals do: by (n - P) / n in variance; and quantiles of refits are
    those of a normal, not of Student's t. So each refit is moved away from the fit of the whole, in the space of the
    search, by the factor that makes intervals of a straight line with normal noise those of its exact theory.

    Args:
        fit: of the points as they are.
        clusters: a label per point; points of one label (readings of one run) are drawn together.
        n_boot: refits.
        seed: the same seed gives the same draws.

    Raises:
        DataError: not one label per point, or too few clusters to draw as many distinct points as coefficients.
        ConfigError: n_boot below 1.

    Source: Efron and Tibshirani 1993, chapter 9 (pairs); Hesterberg 2015 on the narrowness of few points.
    """
    check_numbers("n_boot", n_boot, 0.95)
    problem, draws = fit.problem, np.random.default_rng(seed)
    labels = np.arange(len(problem.y)) if clusters is None else np.asarray(clusters)
    if labels.shape != problem.y.shape:
        expected = f"one label per point: {problem.y.shape}"
        raise DataError(f"clusters: {explain(f'shape {labels.shape}', expected)}")
    distinct, number = np.unique(labels, return_inverse=True)
    start, refits = position(problem, fit.coefficients), []
    for _ in range(n_boot):
        weights = _weights(draws, number, len(distinct), len(start))
        refits.append(search(problem, start, weights).x)
    spread = start + _spread(len(distinct), len(start)) * (np.array(refits) - start)
    inside = np.clip(spread, *box(problem))
    values = np.array([list(values_at(problem, row).values()) for row in inside])
    return CurveEnsemble(fit, values, len(distinct))


def _spread(units: int, taken: int) -> float:
    """Inflation of the deviations of refits, for 95 % intervals.

    >>> round(_spread(36, 4), 2), round(_spread(10**6, 4), 2)
    (1.1, 1.0)
    """
    free = units - taken
    return float(np.sqrt(units / free) * stdtrit(free, 0.975) / ndtri(0.975))


def _weights(draws: np.random.Generator, number: np.ndarray, units: int, least: int) -> np.ndarray:
    """Bootstrap weights of the points in one resample, in which as many points as coefficients are distinct."""
    for _ in range(ATTEMPTS):
        weights: np.ndarray = np.bincount(draws.integers(units, size=units), minlength=units)[number]
        if (weights > 0).sum() > least:
            return weights.astype(float)
    got = f"{units} independent runs"
    raise DataError(explain(got, f"enough to resample and still have more than {least} points", "n_boot=0"))
