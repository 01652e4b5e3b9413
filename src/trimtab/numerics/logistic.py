"""Logistic regression with a ridge penalty: the direction that tells two classes apart."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Shaped
from scipy.optimize import minimize
from scipy.special import expit

from trimtab.errors import ConfigError, ShapeError, explain

MOST_STEPS = 2000


@dataclass(frozen=True, eq=False)
class Logistic:
    """`P(positive | x) = 1 / (1 + exp(-(weights . x + intercept)))`.

    Attributes:
        weights: (d,).
        intercept: not penalised.
    """

    weights: Float[np.ndarray, " d"]
    intercept: float

    def accuracy(self, x: Float[np.ndarray, "n d"], labels: Shaped[np.ndarray, " n"]) -> float:
        """Share of samples on their side of the boundary; nan without samples."""
        right = (x @ self.weights + self.intercept > 0) == (labels != 0)
        return float(right.mean()) if len(right) else float("nan")


def logistic(
    x: Float[np.ndarray, "n d"], labels: Shaped[np.ndarray, " n"], *, strength: float = 1.0
) -> Logistic:
    """The minimiser of `||weights||^2 / 2 + strength * sum of log losses` (Hastie et al. 2009, section 4.4).

    The weights are a combination of samples, so they are sought in the span of those: quick also where there are many
    more coordinates than samples.

    Args:
        x: one row per sample, finite.
        labels: what is not 0 is positive; both classes are needed.
        strength: weight of the data against the penalty, above 0: C of scikit-learn.

    Raises:
        ShapeError: not one label per sample.
        ConfigError: a class is missing, or the strength is not above 0.

    >>> fitted = logistic(np.array([[-1.0], [1.0]]), np.array([0, 1]))
    >>> bool(fitted.weights[0] > 0), round(abs(fitted.intercept), 6)
    (True, 0.0)
    """
    if x.ndim != 2 or labels.shape != x.shape[:1]:
        got = f"x of shape {x.shape} and labels of shape {labels.shape}"
        raise ShapeError(explain(got, "(n, d) and (n,)"))
    if not 0 < strength < float("inf"):
        raise ConfigError(explain(f"strength {strength}", "a finite number above 0"))
    signs = np.where(labels != 0, 1.0, -1.0)
    if abs(signs.sum()) == len(signs):
        raise ConfigError(explain("labels of one class", "both classes"))
    basis = np.linalg.svd(x.astype(np.float64), full_matrices=False)[2]
    inside = x @ basis.T
    found = minimize(
        _objective,
        np.zeros(inside.shape[1] + 1),
        args=(inside, signs, strength),
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": MOST_STEPS, "ftol": 0.0, "gtol": 1e-9},
    )
    return Logistic(found.x[:-1] @ basis, float(found.x[-1]))


def _objective(
    point: Float[np.ndarray, " k"],
    x: Float[np.ndarray, "n d"],
    signs: Float[np.ndarray, " n"],
    strength: float,
) -> tuple[float, Float[np.ndarray, " k"]]:
    """The penalised loss and its gradient."""
    weights = point[:-1]
    margins = signs * (x @ weights + point[-1])
    pull = -strength * signs * expit(-margins)
    value = weights @ weights / 2 + strength * np.logaddexp(0, -margins).sum()
    return float(value), np.append(weights + x.T @ pull, pull.sum())
