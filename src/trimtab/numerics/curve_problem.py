"""A curve, the points it should go through, and the space in which its coefficients are sought."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Float

from trimtab.errors import ConfigError, DataError, explain
from trimtab.numerics.statistics import check_choice

Curve = Callable[..., Any]
Loss = Literal["huber", "squared"]
Space = Literal["linear", "log"]


@dataclass(frozen=True)
class Coefficient:
    """A coefficient that is sought between two bounds.

    Attributes:
        name: the keyword by which the curve takes it.
        low, high: bounds; both above 0 where `log`.
        log: whether it is sought on a logarithmic scale, for one whose size is not known.
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
    """A curve and the points it should go through.

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
            raise DataError(
                f"y: {explain('values that are not', 'finite numbers' + ', above 0' * (self.space == 'log'))}"
            )

    def residuals(self, values: Mapping[str, float]) -> Float[np.ndarray, " n"]:
        """(n,) residuals under some values; nan or infinite where the curve is."""
        with np.errstate(all="ignore"):
            told = np.asarray(self.curve(self.x, **values), dtype=float)
            gap = np.log(self.y) - np.log(told) if self.space == "log" else np.asarray(self.y) - told
        return np.broadcast_to(gap, np.shape(self.y)).astype(float)


def box(problem: CurveProblem) -> tuple[np.ndarray, np.ndarray]:
    """(P,) lower and upper bounds in the search space."""
    ends = [(np.log(c.low), np.log(c.high)) if c.log else (c.low, c.high) for c in problem.coefficients]
    low, high = np.array(ends, dtype=float).T
    return low, high


def position(problem: CurveProblem, values: Mapping[str, float]) -> Float[np.ndarray, " P"]:
    """Where values stand in the search space (logarithms of what is sought by them), moved inside the bounds."""
    low, high = box(problem)
    at = [np.log(max(values[c.name], c.low)) if c.log else values[c.name] for c in problem.coefficients]
    inside: np.ndarray = np.clip(np.array(at, dtype=float), low, high)
    return inside


def values_at(problem: CurveProblem, at: Float[np.ndarray, " P"]) -> dict[str, float]:
    """The coefficients at a point of the search space."""
    return {c.name: float(np.exp(u) if c.log else u) for c, u in zip(problem.coefficients, at, strict=True)}
