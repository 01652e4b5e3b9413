"""Fitting a law to runs: starts by linear regression, the full robust fit, and draws for its intervals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from trimtab.adapt.law_forms import EXPONENTS, FORMS, Centre, Form
from trimtab.adapt.law_points import Points
from trimtab.errors import DataError, explain
from trimtab.numerics.curve_bootstrap import bootstrap_curve
from trimtab.numerics.curve_problem import Coefficient, Loss
from trimtab.numerics.curves import CurveFit, fit_curve

DELTA = 1e-3
"""Where the Huber loss of log losses turns linear, as is usual for scaling laws (Hoffmann et al. 2022)."""
EFFICIENCIES = np.logspace(-1, 7, 33)
"""Values of B from which searches start."""
BEST, STARTS = 5, 8


@dataclass(frozen=True, eq=False)
class Fitted:
    """The numbers of a law.

    Attributes:
        coefficients: value by name, for params and tokens as plain counts.
        draws: (n_boot, P) of the same, from refits to resampled runs; empty without.
        residuals: (n,) log loss less log prediction.
        agreeing: share of starts that came to the same fit.
        at_bounds: coefficients whose value is a bound of the search.
        loss: by which it was fitted.
    """

    coefficients: Mapping[str, float]
    draws: Float[np.ndarray, "n_boot P"]
    residuals: Float[np.ndarray, " n"]
    agreeing: float
    at_bounds: tuple[str, ...]
    loss: str

    @property
    def n(self) -> int:
        """Runs."""
        return len(self.residuals)

    @property
    def intervals(self) -> dict[str, tuple[float, float]]:
        """95 % percentile interval by name; nan without draws."""
        if not len(self.draws):
            return dict.fromkeys(self.coefficients, (float("nan"), float("nan")))
        low, high = np.quantile(self.draws, [0.025, 0.975], axis=0)
        return {name: (float(a), float(b)) for name, a, b in zip(self.coefficients, low, high, strict=True)}

    def broadcastable(self, *where: Any) -> dict[str, np.ndarray]:
        """Each coefficient's draws with axes to the right for whatever it will meet.

        Raises:
            DataError: there are no draws.
        """
        if not len(self.draws):
            raise DataError(explain("a law without refits", "some, for an interval", "fit(..., n_boot=500)"))
        axes = np.broadcast(*(np.asarray(value) for value in where)).ndim
        shape = (-1, *(1,) * axes)
        return {name: self.draws[:, k].reshape(shape) for k, name in enumerate(self.coefficients)}

    def band(self, told_by_draws: np.ndarray, *, noise: bool, confidence: float) -> tuple[Any, Any]:
        """Quantiles over refits, with the scatter of a new run where asked."""
        if noise:
            told_by_draws = told_by_draws * np.exp(
                np.random.default_rng(0).choice(self.scatter, told_by_draws.shape)
            )
        ends = np.quantile(told_by_draws, [(1 - confidence) / 2, (1 + confidence) / 2], axis=0)
        return told(ends[0]), told(ends[1])

    def to_plain(self) -> dict[str, Any]:
        """For JSON."""
        arrays = {"draws": self.draws.tolist(), "residuals": self.residuals.tolist()}
        return {**vars(self), "coefficients": dict(self.coefficients), **arrays}

    @property
    def scatter(self) -> Float[np.ndarray, " n"]:
        """(n,) residuals, widened for the degrees of freedom that the coefficients took."""
        wide: np.ndarray = self.residuals * np.sqrt(self.n / max(1, self.n - len(self.coefficients)))
        return wide


def fit_rise(points: Points, runs: Any, loss: Loss, n_boot: int, seed: int) -> Fitted:
    """The law of forgetting."""
    rises = points["loss_pt"] - points["loss_pt0"]
    if not (rises > 0).any():
        got = f"rises of {rises.min():.4g} to {rises.max():.4g} nats"
        raise DataError(f"loss_pt: {explain(got, 'a run that forgot something, at least one')}")
    centre = Centre.of(points)
    found = fit_form(FORMS["injection"], points, centre, loss, first=projected(points, centre), seed=seed)
    return _fitted(found, centre, runs, n_boot, seed, sign=1)


def fit_target(points: Points, runs: Any, loss: Loss, n_boot: int, seed: int) -> Fitted:
    """The law of fine-tuning."""
    centre, least = Centre.of(points), float(points["loss_ft"].min())
    wanted = (
        Coefficient("A", 1e-7, 1e2, log=True),
        Coefficient("alpha", *EXPONENTS),
        Coefficient("beta", *EXPONENTS),
        Coefficient("E", 0.0, least),
    )

    def curve(x: Any, A: float, alpha: float, beta: float, E: float) -> Any:
        return A / (x["n"] ** alpha * x["d"] ** beta) + E

    x, y = centre.inputs(points), points["loss_ft"]
    first = [_floored(x, y, least * share) for share in (0.0, 0.3, 0.6, 0.8, 0.9, 0.99)]
    found = fit_curve(
        curve, x, y, wanted, loss=loss, delta=DELTA, space="log", starts=STARTS, first=first, seed=seed
    )
    return _fitted(found, centre, runs, n_boot, seed, sign=-1)


def fit_form(
    form: Form,
    points: Points,
    centre: Centre,
    loss: Loss,
    *,
    first: list[dict[str, float]],
    seed: int = 0,
) -> CurveFit:
    """One form of the rise, fitted to log losses."""
    x = {**centre.inputs(points), "base": points["loss_pt0"]}
    return fit_curve(
        lambda x, **values: x["base"] + form.rise(x, **values),
        x,
        points["loss_pt"],
        form.coefficients,
        loss=loss,
        delta=DELTA,
        space="log",
        starts=STARTS,
        first=first,
        seed=seed,
    )


def projected(points: Points, centre: Centre) -> list[dict[str, float]]:
    """The best of many B, each with the A, alpha and beta that fit the logarithms of the positive rises."""
    rises = points["loss_pt"] - points["loss_pt0"]
    some, x = rises > 0, centre.inputs(points)
    found = []
    for efficiency in EFFICIENCIES:
        size = np.log((1 + efficiency * x["p"][some]) * x["n"][some])
        design = np.stack([np.ones(some.sum()), np.log(x["d"][some]), -size], axis=1)
        (level, beta, alpha), *_ = np.linalg.lstsq(design, np.log(rises[some]), rcond=None)
        gap = np.log(rises[some]) - design @ np.array([level, beta, alpha])
        start = {
            "A": float(np.exp(level)),
            "B": float(efficiency),
            "alpha": float(alpha),
            "beta": float(beta),
        }
        found.append((float(gap @ gap), start))
    return [start for _, start in sorted(found, key=lambda pair: pair[0])[:BEST]]


def _floored(x: Mapping[str, np.ndarray], y: np.ndarray, floor: float) -> dict[str, float]:
    """A, alpha and beta that fit the logarithms of what is above a floor."""
    above = np.log(np.maximum(y - floor, 1e-9))
    design = np.stack([np.ones(len(y)), -np.log(x["n"]), -np.log(x["d"])], axis=1)
    (level, alpha, beta), *_ = np.linalg.lstsq(design, above, rcond=None)
    return {"A": float(np.exp(level)), "alpha": float(alpha), "beta": float(beta), "E": floor}


def _fitted(found: CurveFit, centre: Centre, runs: Any, n_boot: int, seed: int, *, sign: int) -> Fitted:
    if found.undetermined:
        got = f"runs at which {' and '.join(found.undetermined)} can be traded against one another"
        raise DataError(explain(got, "runs that tell them apart", "more sizes, token counts or shares"))
    natural = centre.natural(found.coefficients, sign=sign)
    draws = np.empty((0, len(natural)))
    if n_boot:
        ensemble = bootstrap_curve(found, clusters=runs, n_boot=n_boot, seed=seed)
        draws = np.array([list(centre.natural(one, sign=sign).values()) for one in ensemble.named()])
    return Fitted(natural, draws, found.residuals, found.agreeing, found.at_bounds, found.problem.loss)


def told(values: Any) -> Any:
    """A float where everything given was a number, else the array."""
    return float(values) if np.ndim(values) == 0 else np.asarray(values)
