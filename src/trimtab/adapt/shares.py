"""Arithmetic on mixtures: even shares, multiplicative updates, a floor of even shares."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float


def spread(train: Sequence[str], among: Sequence[str], mass: float = 1.0) -> tuple[float, ...]:
    """`mass` shared evenly by the domains `among` the training domains; nothing for the others.

    >>> spread(["math", "code", "web"], ["math", "web"], 0.5)
    (0.25, 0.0, 0.25)
    """
    return tuple(mass / len(among) if name in among else 0.0 for name in train)


def exponentiated(
    weights: Sequence[float], push: Sequence[float] | Float[np.ndarray, " N"]
) -> Float[np.ndarray, " N"]:
    """A step of exponentiated gradient: weights times e to the push, scaled to sum to one.

    Kivinen & Warmuth 1997, eq. 2: mirror descent on the simplex. A push common to all changes nothing; pushes of
    any finite size are fine; a weight of zero stays zero.

    Args:
        weights: (N,) a mixture.
        push: (N,) no unit; where it is larger, the weight grows.

    >>> exponentiated([0.5, 0.5], [np.log(3.0), 0.0]).round(12).tolist()
    [0.75, 0.25]
    """
    mixture = np.asarray(weights, dtype=np.float64)
    push = np.asarray(push, dtype=np.float64)
    with np.errstate(under="ignore"):
        grown: np.ndarray = mixture * np.exp(push - push[mixture > 0].max(initial=-np.inf))
    grown /= grown.sum()
    return grown


def smoothed(weights: Float[np.ndarray, " N"], share: float) -> tuple[float, ...]:
    """The mixture with `share` of it replaced by even shares, so that no domain is lost for good.

    >>> smoothed(np.array([1.0, 0.0]), 0.5)
    (0.75, 0.25)
    """
    return tuple(float(w) for w in (1 - share) * weights + share / len(weights))


def is_mixture(weights: Sequence[float], domains: int) -> bool:
    """Whether there is one finite share of zero or more per domain and they sum to one, but for rounding.

    >>> is_mixture((0.25, 0.75), 2), is_mixture((0.25, float("nan")), 2)
    (True, False)
    """
    fit = len(weights) == domains and all(0 <= weight <= 1 + 1e-6 for weight in weights)
    return fit and abs(sum(weights) - 1) <= 1e-6
