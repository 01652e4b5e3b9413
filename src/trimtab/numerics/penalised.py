"""The solver of the DynaMiCS paper: a grid of penalised programmes and a choice among their mixtures."""

from __future__ import annotations

from itertools import product
from typing import Any

import clarabel
import numpy as np
from jaxtyping import Float

from trimtab.numerics.cone import TOLERANCE, Choice, Programme, cone_solution, on_simplex

STRENGTHS = np.logspace(0.0, np.log10(5000.0), 15)
"""The paper's penalty strengths lambda: target nats per step, per squared nat at the horizon."""

SAFETY_NATS = (0.0, 0.05, 0.1)
"""The safety margins epsilon of the paper."""


def solve_penalised(programme: Programme, horizon: float) -> Choice:
    """The mixture the paper's rule picks, and the rows it breaks.

    For each of 45 pairs of strength and safety, `cost @ w / horizon + strength * sum(max(0, excess + safety)**2)`
    is minimised on the simplex. Among the mixtures that keep every row the lowest cost wins; if there is none,
    the smallest largest violation in nats. The first of equals wins.

    Source: Gualdoni et al. 2026 (arXiv 2605.10770). The noise and the scale of the programme play no part.
    """
    grid = product(STRENGTHS, SAFETY_NATS)
    mixtures = [penalised_mixture(programme, horizon, strength, safety) for strength, safety in grid]
    excess = np.array([programme.excess(mixture) for mixture in mixtures])
    broken = excess > TOLERANCE * programme.size
    value = np.array([programme.value(mixture) for mixture in mixtures])
    if broken.any(axis=1).all():
        value = excess.max(axis=1)
    else:
        value[broken.any(axis=1)] = np.inf
    best = np.flatnonzero(value <= value.min() + TOLERANCE * np.ptp(programme.cost))[0]
    return Choice(mixtures[best], np.full(len(programme.room), np.nan), broken[best])


def penalised_mixture(
    programme: Programme, horizon: float, strength: float, safety: float
) -> Float[np.ndarray, " N"]:
    """The minimiser on the simplex for one strength and safety, as a quadratic programme in (w, violation).

    Raises:
        ArithmeticError: the solver did not converge on finite, sensible numbers.
    """
    n, rows = len(programme.cost), len(programme.room)
    cost = (programme.cost - programme.cost.min()) / horizon
    highest = (programme.change - programme.room[:, None]).max(axis=1, initial=0.0) + safety
    pull = float((2.0 * strength * programme.size * highest).max(initial=0.0))
    unit = max(float(cost.max()), programme.ridge / horizon) or pull or 1.0
    # The violations are measured so that their squares have coefficient one, and each row so that it is at most one.
    root = np.sqrt(2.0 * strength / unit)
    size = np.maximum(1.0, root * programme.size)
    matrix = np.block(
        [
            [np.ones((1, n)), np.zeros((1, rows))],
            [-np.eye(n + rows)],
            [root * programme.change / size[:, None], -np.diag(1.0 / size)],
        ]
    )
    bound = np.concatenate([np.ones(1), np.zeros(n + rows), root * (programme.room - safety) / size])
    cones: list[Any] = [clarabel.ZeroConeT(1), clarabel.NonnegativeConeT(n + 2 * rows)]
    quadratic = np.diag(np.append(np.full(n, 2.0 * programme.ridge / horizon / unit), np.ones(rows)))
    found = cone_solution(
        quadratic, np.append(cost / unit, np.zeros(rows)), matrix, bound, cones, fallback=1e-8
    )
    if found is None:
        raise ArithmeticError("the penalised programme did not converge on finite numbers")
    return on_simplex(np.array(found.x)[:n], 1e-12)
