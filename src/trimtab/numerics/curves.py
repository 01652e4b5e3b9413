"""Curves with a handful of coefficients, fitted robustly, within bounds and from many starts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.optimize import least_squares
from scipy.stats import qmc

from trimtab.errors import ConfigError, DataError, explain
from trimtab.numerics.curve_problem import (
    Coefficient,
    Curve,
    CurveProblem,
    Loss,
    Space,
    box,
    position,
    values_at,
)

FLAT = 1e-6
"""A direction along which the curve moves this much less than along its steepest one is not determined."""
NEAR = 1e-6
"""Part of its range within which a coefficient counts as at its bound."""
_USUAL, _TIGHT = 1e-8, 1e-15
"""Relative change at which a search ends, and the polish of the best."""


@dataclass(frozen=True, eq=False)
class CurveFit:
    """The best coefficients found.

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
    """Fit any curve by robust least squares within bounds, from many starts.

    Starts are a scrambled Sobol sequence over the bounds; each is followed by a trust-region search (Branch,
    Coleman & Li 1999, as in SciPy), and the best is polished.

    Args:
        curve: `curve(x, **coefficients)` -> (n,); where it is not finite the search turns back.
        x: whatever the curve takes: an array, a mapping of arrays.
        y: (n,) observations.
        coefficients: what is sought, with bounds.
        loss, delta, space: see `CurveProblem`; scaling laws are usually fitted with Huber's at 1e-3 in log space.
        starts: random starts, at least 1 unless `first` is given.
        first: starts of your own, tried beside them; values outside the bounds are moved inside.
        seed: of the starts.

    Raises:
        DataError: fewer points than coefficients, or observations that are not finite (in log space: not above 0), or a
            curve that is finite at none of the starts.
        ConfigError: unknown loss or space, delta not above 0, no start.

    >>> line = lambda x, slope, shift: slope * x + shift
    >>> x = np.arange(6.0)
    >>> wanted = [Coefficient("slope", -9, 9), Coefficient("shift", -9, 9)]
    >>> found = fit_curve(line, x, 2 * x + 1 + 5 * (x == 3), wanted, starts=4)
    >>> {name: round(value, 3) for name, value in found.coefficients.items()}
    {'slope': 2.0, 'shift': 1.0}
    """
    problem = CurveProblem(curve, x, np.asarray(y, dtype=float), tuple(coefficients), loss, delta, space)
    if starts < 1 and not first:
        raise ConfigError(f"starts: {explain(starts, 'at least 1')}")
    return solve_curve(problem, [*_given(problem, first), *_drawn(problem, starts, seed)])


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
    names = [one.name for one in problem.coefficients]
    return CurveFit(
        problem,
        values_at(problem, best.x),
        float(best.cost),
        float(np.mean(near)),
        tuple(name for name, at in zip(names, edge, strict=True) if at),
        _undetermined(np.sqrt(count)[:, None] * _slope(problem, best.x), names),
    )


def _given(problem: CurveProblem, first: Sequence[Mapping[str, float]]) -> list[np.ndarray]:
    return [position(problem, values) for values in first]


def _drawn(problem: CurveProblem, starts: int, seed: int) -> list[np.ndarray]:
    if starts < 1:
        return []
    low, high = box(problem)
    sobol = qmc.Sobol(len(low), seed=seed).random_base2(int(np.ceil(np.log2(starts))))
    return list(low + sobol[:starts] * (high - low))


def search(problem: CurveProblem, start: np.ndarray, weights: np.ndarray, end: float = _USUAL) -> Any:
    """One trust-region search from a point of the search space; where it ended is `.x`, the loss there `.cost`."""
    low, high = box(problem)

    def residuals(at: np.ndarray) -> np.ndarray:
        return problem.residuals(values_at(problem, at))

    def slope(at: np.ndarray) -> np.ndarray:
        return _slope(problem, at)

    def loss(z: np.ndarray) -> Any:
        return _robust(z, problem.loss) * weights

    options: dict[str, Any] = {
        "jac": slope,
        "bounds": (low, high),
        "x_scale": "jac",
        "loss": loss,
        "f_scale": problem.delta if problem.loss == "huber" else 1.0,
        **dict.fromkeys(("ftol", "xtol", "gtol"), end),
    }
    return least_squares(residuals, np.clip(start, *_inside(low, high)), **options)


def _inside(low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Bounds a little tighter: searches must start inside."""
    room = 1e-9 * (high - low)
    return low + room, high - room


def _robust(z: np.ndarray, loss: Loss) -> np.ndarray:
    """A loss of squared residuals, in units of the scale, with two derivatives."""
    if loss == "squared":
        return np.stack([z, np.ones_like(z), np.zeros_like(z)])
    root = np.sqrt(np.maximum(z, 1.0))
    inside = z <= 1
    value = np.where(inside, z, 2 * root - 1)
    return np.stack([value, np.where(inside, 1.0, 1 / root), np.where(inside, 0.0, -0.5 / root**3)])


def _slope(problem: CurveProblem, at: np.ndarray) -> np.ndarray:
    """(n, P) derivatives of the residuals in the search space, by central differences; 0 where they are not finite."""
    low, high = box(problem)
    columns = []
    for k in range(len(at)):
        step = 6e-6 * max(1.0, abs(at[k]))
        ends = [np.clip(at[k] + side * step, low[k], high[k]) for side in (-1, 1)]
        below, above = (problem.residuals(values_at(problem, _with(at, k, end))) for end in ends)
        with np.errstate(invalid="ignore"):
            columns.append((above - below) / (ends[1] - ends[0]))
    slopes: np.ndarray = np.nan_to_num(np.stack(columns, axis=1), nan=0.0, posinf=0.0, neginf=0.0)
    return slopes


def _with(at: np.ndarray, k: int, value: float) -> np.ndarray:
    there = at.copy()
    there[k] = value
    return there


def _undetermined(slope: np.ndarray, names: Sequence[str]) -> tuple[str, ...]:
    """What takes part in directions along which nothing moves."""
    _, sizes, directions = np.linalg.svd(slope, full_matrices=False)
    flat = directions[sizes <= FLAT * sizes.max()] if sizes.max() > 0 else directions
    return tuple(name for k, name in enumerate(names) if (np.abs(flat[:, k]) > 0.1).any())
