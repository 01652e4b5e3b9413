"""Convex programmes over mixtures: a linear cost and a ridge under linear or second-order cone limits.

An infeasible programme is relaxed from its largest violation down, which names the limits in conflict. The rule of the
DynaMiCS paper solves a grid of penalised programmes and chooses among their mixtures.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import clarabel
import numpy as np
from jaxtyping import Bool, Float
from scipy import sparse

TOLERANCE = 1e-8
"""A limit counts as kept when its excess is below this share of the row's largest change over the horizon."""


@dataclass(frozen=True, eq=False)
class Programme:
    """A mixture problem cut down to usable columns and constrained rows, all in nats at the horizon.

    Row k asks for `change[k] @ w + norm(noise[k] * w) <= room[k]`; a row without noise is linear.
    """

    cost: Float[np.ndarray, " N"]
    change: Float[np.ndarray, "K N"]
    noise: Float[np.ndarray, "K N"]
    room: Float[np.ndarray, " K"]
    scale: Float[np.ndarray, " K"]
    ridge: float = 0.0

    @property
    def size(self) -> Float[np.ndarray, " K"]:
        """The largest change of each row over the simplex's corners, by which the row is scaled."""
        return np.asarray(np.maximum(np.abs(self.change), self.noise).max(axis=1, initial=0.0))

    def excess(self, weights: Float[np.ndarray, " N"]) -> Float[np.ndarray, " K"]:
        """The violation of each row in nats; negative inside its limit."""
        margin = np.linalg.norm(self.noise * weights, axis=1)
        return np.asarray(self.change @ weights + margin - self.room)

    def value(self, weights: Float[np.ndarray, " N"]) -> float:
        """The objective of `minimise`: the summed target change plus the ridge, in nats."""
        return float(self.cost @ weights + self.ridge * weights @ weights)


@dataclass(frozen=True, eq=False)
class Choice:
    """A solution: the mixture, the multiplier of each row (nan where it has none) and the rows in conflict."""

    weights: Float[np.ndarray, " N"]
    multipliers: Float[np.ndarray, " K"]
    conflicts: Bool[np.ndarray, " K"]


@dataclass(frozen=True, eq=False)
class Point:
    """A minimiser: the mixture, the level of the worst row (0 where there is none), a multiplier per row."""

    weights: Float[np.ndarray, " N"]
    level: float
    multipliers: Float[np.ndarray, " K"]


def minimise(programme: Programme, room: Float[np.ndarray, " K"], fallback: float = 1e-8) -> Point | None:
    """The mixture of lowest cost under the limits; None when the solver finds none to its full accuracy.

    Multipliers are nats of cost per nat of room. Among several optima the interior point method returns
    one inside their face, whatever the order of the domains.
    """
    # A constant added to every cost changes no optimum on the simplex; without it small differences survive.
    cost = programme.cost - programme.cost.min()
    unit = max(float(cost.max()), programme.ridge) or 1.0
    ridge = programme.ridge / unit
    point = _solve(programme, room, programme.size, cost / unit, ridge=ridge, fallback=fallback)
    if point is None:
        return None
    # A row that does not bind keeps a multiplier of the solver's accuracy over its slack: that is zero.
    share = point.multipliers * programme.size
    return replace(point, multipliers=np.where(share < 1e-7, 0.0, point.multipliers * unit))


def lower_the_worst(
    programme: Programme, room: Float[np.ndarray, " K"], judged: Bool[np.ndarray, " K"]
) -> Point | None:
    """Minimax mixture: the largest excess / scale of the judged rows is lowest, and the other rows are kept.

    `level` is that largest ratio. The multipliers of the judged rows, times their scales, sum to one; a
    positive one says that its row holds the level up.
    """
    # Judged rows are divided by their scale, times a unit that leaves every coefficient at most one.
    unit = float((programme.size / programme.scale)[judged].max())
    sizes = np.where(judged, programme.scale * unit, programme.size)
    level = np.append(np.zeros(len(programme.cost)), 1.0)
    point = _solve(programme, room, sizes, level, judged=judged, fallback=1e-6)
    return point and replace(point, level=point.level * unit, multipliers=point.multipliers * unit)


def _solve(
    programme: Programme,
    room: Float[np.ndarray, " K"],
    sizes: Float[np.ndarray, " K"],
    cost: np.ndarray,
    *,
    ridge: float = 0.0,
    judged: Bool[np.ndarray, " K"] | None = None,
    fallback: float,
) -> Point | None:
    """The minimiser on the simplex under the rows, each divided by its size.

    The variables are the mixture and, where rows are judged, a level that their left sides may exceed their room by.
    """
    n = len(programme.cost)
    # Rows that some corner breaks: the left side is convex, so kept at every corner is kept everywhere.
    rows = (programme.change + programme.noise).max(axis=1, initial=-np.inf) > room
    rows = rows if judged is None else rows | judged
    blocks, bounds = [np.ones((1, n)), -np.eye(n)], [np.ones(1), np.zeros(n)]
    cones: list[Any] = [clarabel.ZeroConeT(1), clarabel.NonnegativeConeT(n)]
    for k in np.flatnonzero(rows):
        spread = -np.diag(programme.noise[k])[programme.noise[k] > 0]
        blocks.append(np.vstack([programme.change[k], spread]) / sizes[k])
        bounds.append(np.append(room[k], np.zeros(len(spread))) / sizes[k])
        kind = clarabel.SecondOrderConeT if len(spread) else clarabel.NonnegativeConeT
        cones.append(kind(1 + len(spread)))
    matrix, heads = np.concatenate(blocks), np.cumsum([len(bound) for bound in bounds])[1:-1]
    if judged is not None:
        matrix = np.append(matrix, np.zeros((len(matrix), 1)), axis=1)
        matrix[heads, n] = -judged[rows].astype(float)
    quadratic = np.diag(2.0 * ridge * (np.arange(len(cost)) < n))
    solution = cone_solution(quadratic, cost, matrix, np.concatenate(bounds), cones, fallback)
    if solution is None:
        return None
    x, multipliers = np.array(solution.x), np.zeros(len(rows))
    multipliers[rows] = np.array(solution.z)[heads] / sizes[rows]
    return Point(on_simplex(x[:n], 1e-9), float(x[n:].sum()), multipliers)


def on_simplex(weights: Float[np.ndarray, " N"], accuracy: float) -> Float[np.ndarray, " N"]:
    """The mixture behind a numerical solution: what the solver left within its accuracy of zero is zero."""
    kept = np.where(weights < accuracy, 0.0, weights)
    return np.asarray(kept / kept.sum())


def cone_solution(
    quadratic: np.ndarray,
    cost: np.ndarray,
    matrix: np.ndarray,
    bound: np.ndarray,
    cones: list[Any],
    fallback: float,
) -> Any | None:
    """Cone programme: minimise `x @ quadratic @ x / 2 + cost @ x`, `bound - matrix @ x` in the cones; None on failure.

    The answer is good to 1e-12 of the numbers given, or at worst to `fallback`. Rows come scaled, so the
    solver's own equilibration would only blur them; weak regularisation with refinement keeps it converging
    where the interior is nearly empty.
    """
    settings = clarabel.DefaultSettings()
    settings.verbose, settings.max_threads, settings.equilibrate_enable = False, 1, False
    # The default of 0.99 now and then walks into a corner and stalls there.
    settings.max_step_fraction = 0.95
    settings.static_regularization_constant, settings.iterative_refinement_max_iter = 1e-10, 50
    settings.iterative_refinement_reltol = settings.iterative_refinement_abstol = 1e-15
    settings.tol_gap_abs = settings.tol_gap_rel = settings.tol_feas = 1e-12
    settings.reduced_tol_gap_abs = settings.reduced_tol_gap_rel = settings.reduced_tol_feas = fallback
    parts = by_column(quadratic), cost, by_column(matrix), bound, cones, settings
    solution = clarabel.DefaultSolver(*parts).solve()
    good = clarabel.SolverStatus.Solved, clarabel.SolverStatus.AlmostSolved
    return solution if solution.status in good else None


def by_column(dense: np.ndarray) -> sparse.csc_matrix:
    """The nonzeros by column: `scipy.sparse.csc_matrix(dense)` without its detour by triplets."""
    columns, rows = np.nonzero(dense.T)
    starts = np.searchsorted(columns, np.arange(dense.shape[1] + 1))
    return sparse.csc_matrix((dense[rows, columns], rows, starts), shape=dense.shape)


RELAXED_TOLERANCE = 1e-6
"""The same share as `TOLERANCE` once constraints had to give: six digits of a violation are enough."""


def solve_constrained(programme: Programme) -> Choice:
    """The mixture of lowest cost among those that keep every row, or that break them least.

    Without a feasible mixture the violations, each divided by its scale, are made small from the largest
    down: the largest is minimised; the rows that hold it up are fixed there; then the largest of the other
    rows, until the rest can all be kept. Among the mixtures left, the cost is lowest. So whatever can be kept
    beside the worst row at its least is kept, and the rows in conflict are exactly the broken rows.

    Raises:
        ArithmeticError: the solver did not converge on finite, sensible numbers.
    """
    kept = np.zeros(len(programme.room), dtype=bool)
    # Rows that no mixture changes: they are within their limits or they are not.
    constant = programme.size == 0.0
    best = minimise(programme, programme.room) if (programme.room[constant] >= 0.0).all() else None
    if best is not None:
        return Choice(best.weights, best.multipliers, kept)
    room, relaxed = _give_way(programme)
    if relaxed.conflicts.any():
        best = minimise(programme, room, RELAXED_TOLERANCE)
        if best is None:
            return relaxed
        # Without conflicts that the final mixture settles, which a round at its accuracy cannot tell.
        broken = relaxed.conflicts & (programme.excess(best.weights) > TOLERANCE * programme.size)
        conflicts = broken if broken.any() else relaxed.conflicts
        return replace(relaxed, weights=best.weights, conflicts=conflicts)
    # Feasible, but with no interior to search in: widen a little, then a little more.
    for share in (TOLERANCE, 10 * TOLERANCE, RELAXED_TOLERANCE):
        best = minimise(programme, room + share * programme.size, RELAXED_TOLERANCE)
        if best is not None:
            return Choice(best.weights, best.multipliers, kept)
    raise ArithmeticError("the cone solver did not converge on a feasible mixture problem")


def _give_way(programme: Programme) -> tuple[Float[np.ndarray, " K"], Choice]:
    """Lexicographic minimax relaxation: the least room that makes the programme feasible, and a mixture that fits."""
    size, scale = programme.size, programme.scale
    conflicts = (size == 0.0) & (programme.room < 0.0)
    room = np.where(conflicts, 0.0, programme.room)
    judged, slack = size > 0.0, TOLERANCE * size
    weights = np.full(len(programme.cost), 1.0 / len(programme.cost))
    while judged.any():
        worst = lower_the_worst(programme, room, judged)
        if worst is None and not conflicts.any():
            raise ArithmeticError("the cone solver did not converge while looking for the worst constraint")
        if worst is None:  # what the last mixture breaks is what gives
            broken = programme.excess(weights) > RELAXED_TOLERANCE * size
            return room, Choice(weights, np.full(len(room), np.nan), broken)
        weights = worst.weights
        binding = judged & (worst.multipliers * scale > 1e-6)
        if (worst.level * scale <= slack)[binding].all():
            break
        # What is fixed at its least leaves no interior to search in, so it gets a little more than its least.
        slack = RELAXED_TOLERANCE * size
        room[binding] += (worst.level * scale + slack)[binding]
        conflicts |= binding
        judged &= ~binding
    return room + slack, Choice(weights, np.full(len(room), np.nan), conflicts)


STRENGTHS = np.logspace(0.0, np.log10(5000.0), 15)
"""The paper's penalty strengths lambda: target nats per step, per squared nat at the horizon."""

SAFETY_NATS = (0.0, 0.05, 0.1)
"""The safety margins epsilon of the paper."""


def solve_penalised(programme: Programme, horizon: float) -> Choice:
    """The penalised rule of the paper: the mixture it picks, and the rows it breaks.

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
    limits = [root * programme.change / size[:, None], -np.diag(1.0 / size)]
    matrix = np.block([[np.ones((1, n)), np.zeros((1, rows))], [-np.eye(n + rows)], limits])
    bound = np.concatenate([np.ones(1), np.zeros(n + rows), root * (programme.room - safety) / size])
    cones: list[Any] = [clarabel.ZeroConeT(1), clarabel.NonnegativeConeT(n + 2 * rows)]
    quadratic = np.diag(np.append(np.full(n, 2.0 * programme.ridge / horizon / unit), np.ones(rows)))
    solution = cone_solution(
        quadratic, np.append(cost / unit, np.zeros(rows)), matrix, bound, cones, fallback=1e-8
    )
    if solution is None:
        raise ArithmeticError("the penalised programme did not converge on finite numbers")
    return on_simplex(np.array(solution.x)[:n], 1e-12)
