"""How far a fitted curve might have come out otherwise: refits to resampled points."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.special import ndtri, stdtrit

from trimtab.errors import DataError, explain
from trimtab.numerics.curve_problem import CurveProblem, box, position, values_at
from trimtab.numerics.curves import CurveFit, search
from trimtab.numerics.statistics import check_numbers

ATTEMPTS = 20
"""Draws per refit before the points are said to be too few groups."""


@dataclass(frozen=True, eq=False)
class CurveEnsemble:
    """A fit and what became of it on resampled points.

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
        low, high = np.quantile(self.draws, [0.025, 0.975], axis=0)
        return {
            name: (float(a), float(b)) for name, a, b in zip(self.fit.coefficients, low, high, strict=True)
        }

    def named(self) -> list[dict[str, float]]:
        """The coefficients of each refit by name."""
        return [dict(zip(self.fit.coefficients, row, strict=True)) for row in self.draws.tolist()]

    def band(self, x: Any, *, noise: bool = True, confidence: float = 0.95, seed: int = 0) -> tuple[Any, Any]:
        """The interval in which the curve lies at other points, or a new observation if `noise`.

        The noise of an observation is drawn from the residuals of the fit, in its space, widened for the degrees of
        freedom that the coefficients took.
        """
        problem = self.fit.problem
        told = np.stack([np.asarray(problem.curve(x, **values), dtype=float) for values in self.named()])
        if noise:
            n, taken = len(problem.y), self.draws.shape[1]
            wide = self.fit.residuals * np.sqrt(n / max(1, n - taken))
            gap = np.random.default_rng(seed).choice(wide, told.shape)
            told = told * np.exp(gap) if problem.space == "log" else told + gap
        low, high = np.quantile(told, [(1 - confidence) / 2, (1 + confidence) / 2], axis=0)
        return low, high


def bootstrap_curve(
    fit: CurveFit, *, clusters: Sequence[object] | None = None, n_boot: int = 500, seed: int = 0
) -> CurveEnsemble:
    """Refit a curve to points drawn with replacement, each time from the coefficients of the whole.

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
        raise DataError(
            f"clusters: {explain(f'shape {labels.shape}', f'one label per point: {problem.y.shape}')}"
        )
    known, number = np.unique(labels, return_inverse=True)
    start, found = position(problem, fit.coefficients), []
    for _ in range(n_boot):
        weights = _weights(draws, number, len(known), len(start))
        found.append(search(problem, start, weights).x)
    spread = start + _spread(len(known), len(start)) * (np.array(found) - start)
    return CurveEnsemble(fit, _values(problem, spread), len(known))


def _spread(units: int, taken: int) -> float:
    """By how much refits vary too little, for 95 % intervals.

    >>> round(_spread(36, 4), 2), round(_spread(10**6, 4), 2)
    (1.1, 1.0)
    """
    free = units - taken
    return float(np.sqrt(units / free) * stdtrit(free, 0.975) / ndtri(0.975))


def _values(problem: CurveProblem, at: np.ndarray) -> Float[np.ndarray, "n_boot P"]:
    """Coefficients at points of the search space, moved inside the bounds."""
    inside = np.clip(at, *box(problem))
    return np.array([list(values_at(problem, row).values()) for row in inside])


def _weights(draws: np.random.Generator, number: np.ndarray, units: int, least: int) -> np.ndarray:
    """How often each point counts in one resample, in which as many points as coefficients are distinct."""
    for _ in range(ATTEMPTS):
        weights: np.ndarray = np.bincount(draws.integers(units, size=units), minlength=units)[number]
        if (weights > 0).sum() > least:
            return weights.astype(float)
    got = f"{units} independent runs"
    raise DataError(explain(got, f"enough to resample and still have more than {least} points", "n_boot=0"))
