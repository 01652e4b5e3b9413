"""Lower the target losses while every constraint holds; if that cannot be, find which constraints give."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from jaxtyping import Float

from trimtab.numerics.cone import TOLERANCE, Choice, Programme, lower_the_worst, minimise

RELAXED_TOLERANCE = 1e-6
"""The same share as `TOLERANCE` once constraints had to give: nobody reads a violation to seven digits."""


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
    best = minimise(programme, programme.room) if _constant_rows_kept(programme) else None
    if best is not None:
        return Choice(best.weights, best.multipliers, kept)
    room, relaxed = _give_way(programme)
    if relaxed.conflicts.any():
        best = minimise(programme, room, RELAXED_TOLERANCE)
        return relaxed if best is None else _named(programme, replace(relaxed, weights=best.weights))
    # Feasible, but with no interior to search in: widen a little, then a little more.
    for share in (TOLERANCE, 10 * TOLERANCE, RELAXED_TOLERANCE):
        best = minimise(programme, room + share * programme.size, RELAXED_TOLERANCE)
        if best is not None:
            return Choice(best.weights, best.multipliers, kept)
    raise ArithmeticError("the cone solver did not converge on a feasible mixture problem")


def _constant_rows_kept(programme: Programme) -> bool:
    """Whether the rows that no mixture changes are within their limits."""
    return bool((programme.room[programme.size == 0.0] >= 0.0).all())


def _give_way(programme: Programme) -> tuple[Float[np.ndarray, " K"], Choice]:
    """The least room, from the worst row down, that makes the programme feasible, and a mixture that fits."""
    size, scale = programme.size, programme.scale
    conflicts = (size == 0.0) & (programme.room < 0.0)
    room = np.where(conflicts, 0.0, programme.room)
    judged, slack = size > 0.0, TOLERANCE * size
    weights = np.full(len(programme.cost), 1.0 / len(programme.cost))
    while judged.any():
        worst = lower_the_worst(programme, room, judged)
        if worst is None and not conflicts.any():
            raise ArithmeticError("the cone solver did not converge while looking for the worst constraint")
        if worst is None:
            return room, _as_broken(programme, weights)
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


def _named(programme: Programme, relaxed: Choice) -> Choice:
    """The choice without conflicts that the final mixture settles, which a round at its accuracy cannot tell."""
    broken = relaxed.conflicts & (programme.excess(relaxed.weights) > TOLERANCE * programme.size)
    return replace(relaxed, conflicts=broken) if broken.any() else relaxed


def _as_broken(programme: Programme, weights: Float[np.ndarray, " N"]) -> Choice:
    """The last mixture found when a later round does not converge: what it breaks is what gives."""
    broken = programme.excess(weights) > RELAXED_TOLERANCE * programme.size
    return Choice(weights, np.full(len(broken), np.nan), broken)
