"""One convex programme over mixtures: a linear cost and a ridge under linear or second-order cone limits."""

from __future__ import annotations

from dataclasses import dataclass, replace
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
        sizes: np.ndarray = np.maximum(np.abs(self.change), self.noise).max(axis=1, initial=0.0)
        return sizes

    def excess(self, weights: Float[np.ndarray, " N"]) -> Float[np.ndarray, " K"]:
        """How far each row is above its limit, in nats; negative inside."""
        margin = np.linalg.norm(self.noise * weights, axis=1)
        over: np.ndarray = self.change @ weights + margin - self.room
        return over

    def value(self, weights: Float[np.ndarray, " N"]) -> float:
        """What `minimise` minimises: the summed target change plus the ridge, in nats."""
        return float(self.cost @ weights + self.ridge * weights @ weights)


@dataclass(frozen=True, eq=False)
class Choice:
    """A mixture, the multiplier of each row (nan where it has none) and the rows that had to give."""

    weights: Float[np.ndarray, " N"]
    multipliers: Float[np.ndarray, " K"]
    conflicts: Bool[np.ndarray, " K"]


@dataclass(frozen=True, eq=False)
class Point:
    """A minimiser: the mixture, the level of the worst row (0 where not asked for), a multiplier per row."""

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
    quadratic = np.diag(np.full(len(cost), 2.0 * programme.ridge / unit))
    limits = _limits(programme, room, _breakable(programme, room), programme.size)
    found = _solve(quadratic, cost / unit, limits, fallback)
    if found is None:
        return None
    # A row that does not bind keeps a multiplier of the solver's accuracy over its slack: that is zero.
    share = found.multipliers * programme.size
    return replace(found, multipliers=np.where(share < 1e-7, 0.0, found.multipliers * unit))


def lower_the_worst(
    programme: Programme, room: Float[np.ndarray, " K"], judged: Bool[np.ndarray, " K"]
) -> Point | None:
    """The mixture that makes the largest excess / scale of the judged rows lowest and keeps the other rows.

    `level` is that largest ratio. The multipliers of the judged rows, times their scales, sum to one; a
    positive one says that its row holds the level up.
    """
    size = programme.size
    # Judged rows are divided by their scale, times a unit that leaves every coefficient at most one.
    unit = float((size / programme.scale)[judged].max())
    limits = _limits(
        programme, room, judged | _breakable(programme, room), np.where(judged, programme.scale * unit, size)
    )
    column = np.zeros((len(limits.bound), 1))
    column[limits.heads, 0] = -judged[limits.rows].astype(float)
    n = len(programme.cost)
    wider = replace(limits, matrix=np.append(limits.matrix, column, axis=1))
    found = _solve(np.zeros((n + 1, n + 1)), np.append(np.zeros(n), 1.0), wider, 1e-6)
    return found and replace(found, level=found.level * unit, multipliers=found.multipliers * unit)


def _breakable(programme: Programme, room: Float[np.ndarray, " K"]) -> Bool[np.ndarray, " K"]:
    """Rows that some corner breaks: the left side is convex, so kept at every corner is kept everywhere."""
    broken: np.ndarray = (programme.change + programme.noise).max(axis=1, initial=-np.inf) > room
    return broken


@dataclass(frozen=True, eq=False)
class _Limits:
    """`bound - matrix @ x` lies in the product of the cones; the k-th chosen row starts at `heads[k]`."""

    matrix: np.ndarray
    bound: np.ndarray
    cones: list[Any]
    rows: Bool[np.ndarray, " K"]
    heads: np.ndarray
    size: np.ndarray


def _limits(
    programme: Programme, room: np.ndarray, rows: Bool[np.ndarray, " K"], sizes: np.ndarray
) -> _Limits:
    """The simplex and the chosen rows, each row divided by its size."""
    n = len(programme.cost)
    blocks, bounds = [np.ones((1, n)), -np.eye(n)], [np.ones(1), np.zeros(n)]
    cones = [clarabel.ZeroConeT(1), clarabel.NonnegativeConeT(n)]
    for k in np.flatnonzero(rows):
        spread = -np.diag(programme.noise[k])[programme.noise[k] > 0]
        blocks.append(np.vstack([programme.change[k], spread]) / sizes[k])
        bounds.append(np.append(room[k], np.zeros(len(spread))) / sizes[k])
        cones.append(
            clarabel.SecondOrderConeT(1 + len(spread)) if len(spread) else clarabel.NonnegativeConeT(1)
        )
    heads = np.cumsum([0] + [len(bound) for bound in bounds])[2:-1]
    return _Limits(np.concatenate(blocks), np.concatenate(bounds), cones, rows, heads, sizes)


def _solve(quadratic: np.ndarray, cost: np.ndarray, limits: _Limits, fallback: float) -> Point | None:
    """The minimiser within the limits; the variables are the mixture and then perhaps a level."""
    found = cone_solution(quadratic, cost, limits.matrix, limits.bound, limits.cones, fallback)
    if found is None:
        return None
    n = limits.cones[1].dim
    x, dual = np.array(found.x), np.array(found.z)[limits.heads]
    multipliers = np.zeros(len(limits.rows))
    multipliers[limits.rows] = dual / limits.size[limits.rows]
    return Point(on_simplex(x[:n], 1e-9), float(x[n:].sum()), multipliers)


def on_simplex(weights: Float[np.ndarray, " N"], accuracy: float) -> Float[np.ndarray, " N"]:
    """The mixture behind a numerical solution: what the solver left within its accuracy of zero is zero."""
    kept = np.where(weights < accuracy, 0.0, weights)
    mixture: np.ndarray = kept / kept.sum()
    return mixture


def cone_solution(
    quadratic: np.ndarray,
    cost: np.ndarray,
    matrix: np.ndarray,
    bound: np.ndarray,
    cones: list[Any],
    fallback: float,
) -> Any | None:
    """Minimise `x @ quadratic @ x / 2 + cost @ x` with `bound - matrix @ x` in the cones; None without success.

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
    parts = sparse.csc_matrix(quadratic), cost, sparse.csc_matrix(matrix), bound, cones, settings
    found = clarabel.DefaultSolver(*parts).solve()
    good = clarabel.SolverStatus.Solved, clarabel.SolverStatus.AlmostSolved
    return found if found.status in good else None
