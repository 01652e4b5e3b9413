"""From slopes to a mixture: how far ahead to look, and how much of each tolerance to keep in reserve."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from jaxtyping import Float

from trimtab.adapt.mixer import Update
from trimtab.adapt.roles import LEAST_SCALE_NATS
from trimtab.adapt.session import Session, SlopeEstimate
from trimtab.numerics.simplex import MixtureProblem, MixtureSolution, solve_mixture
from trimtab.numerics.slopes import shrunk
from trimtab.train.losses import change

Solver = Literal["grid", "lp", "robust"]
Reach = Literal["next", "end", "best"]

ROUNDS = 12
"""Linearisations per plan; the last moves the mixture by two thirteenths."""
STOPS = 4
"""How many of the last points of the evaluation grid a plan considers to stop at."""


@dataclass(frozen=True)
class Planning:
    """How slopes become a mixture; see `DynaMiCS` for what each setting does."""

    solver: Solver = "robust"
    kappa: float = 1.28
    ridge: float = 0.0
    reach: Reach = "next"
    returns: float = 1.0
    margin: float = 0.0
    cap: float = float("inf")
    protect_targets: bool = False
    shrink: bool = False

    def worth(self, exposure: Float[np.ndarray, " N"]) -> Float[np.ndarray, " N"]:
        """What so many steps on a domain are worth, in first steps: ((1 + n) ** returns - 1) / returns."""
        value: np.ndarray = ((1 + exposure) ** self.returns - 1) / self.returns
        return value

    def marginal(self, exposure: Float[np.ndarray, " N"]) -> Float[np.ndarray, " N"]:
        """What one more step is worth after so many: the derivative of `worth`."""
        value: np.ndarray = (1 + exposure) ** (self.returns - 1)
        return value


@dataclass(frozen=True, eq=False)
class Standing:
    """Where each evaluation loss stands: (M,) its change since step 0 and the standard error, nats per token."""

    change: Float[np.ndarray, " M"]
    error: Float[np.ndarray, " M"]


@dataclass(frozen=True, eq=False)
class Pace:
    """What each domain does to each loss, per unit of `Planning.worth`.

    Attributes:
        slopes, errors: (M, N) nats per token, and their standard errors.
        exposure: (N,) steps taken on each domain so far.
        steps: of training behind each measurement.
    """

    slopes: Float[np.ndarray, "M N"]
    errors: Float[np.ndarray, "M N"]
    exposure: Float[np.ndarray, " N"]
    steps: int

    def moved(self, worth: Float[np.ndarray, " N"]) -> Float[np.ndarray, " M"]:
        """What so much of each domain does to the losses; domains without slopes count for nothing."""
        known = np.isfinite(self.slopes).all(axis=0)
        moved: np.ndarray = self.slopes[:, known] @ worth[known]
        return moved


def calmed(session: Session, pace: Pace) -> Pace:
    """Slopes in which domains that differ by no more than noise differ no more.

    Each loss's slopes are shrunk towards their mean over the training domains, its own domain apart, which is known to
    be a case of its own.
    """
    slopes, errors = pace.slopes.copy(), pace.errors.copy()
    known = np.isfinite(slopes).all(axis=0) & (errors > 0).all(axis=0)
    for row, name in enumerate(session.roles.evaluate):
        pool = known & np.array([other != name for other in session.roles.train])
        if pool.sum() > 1:
            slopes[row, pool], errors[row, pool] = shrunk(slopes[row, pool], errors[row, pool])
    return replace(pace, slopes=slopes, errors=errors)


def standing(session: Session) -> Standing:
    """Where the losses stand, read on all validation sequences."""
    moved = [change(session.losses()[name], session.reference[name]) for name in session.roles.evaluate]
    return Standing(np.array([m.value for m in moved]), np.array([m.standard_error for m in moved]))


def solve(session: Session, planning: Planning, pace: Pace, now: Standing, later: int) -> MixtureSolution:
    """The mixture from here on.

    Where the plan may choose when to stop, the mixture is solved for each of the last points of the evaluation grid
    (checkpoints are judged nowhere else) and for the next update. Of the plans whose constraints hold, the one with the
    lowest predicted targets wins; if none holds, the one that breaks them least.

    Args:
        session: the run.
        planning: how.
        pace: the slopes.
        now: where the losses stand.
        later: the step of the next update.
    """
    pace = calmed(session, pace) if planning.shrink else pace
    plans = [_plan(session, planning, pace, now, stop) for stop in _stops(session, planning, later)]
    return min(plans, key=lambda plan: (plan.worst, plan.solution.objective)).solution


def make_update(
    session: Session, planning: Planning, pace: Pace, now: Standing, later: int, solution: MixtureSolution
) -> Update:
    """What was measured and concluded, told in steps: mean slopes and predicted losses until the next update.

    The slope of a domain without weight is that of its next step.
    """
    horizon, weights = later - session.step, solution.weights
    ahead = np.where(weights > 0, horizon * weights, 1.0)
    gained = planning.worth(pace.exposure + ahead) - planning.worth(pace.exposure)
    rate = np.where(weights > 0, gained / ahead, planning.marginal(pace.exposure))
    estimate = SlopeEstimate(pace.slopes * rate, pace.errors * rate, pace.steps)
    predicted = _base(session) + now.change + pace.moved(horizon * weights * rate)
    return Update(horizon, estimate, replace(solution, predicted=predicted))


def mixture_problem(
    session: Session, planning: Planning, pace: Pace, now: Standing, horizon: int
) -> MixtureProblem:
    """The mixture problem of this step: keep each constraint at its base loss plus tolerance, less the reserve.

    Here `pace` is in nats per step. Violations are weighed by max(tolerance, 2 standard errors of the loss change so
    far, .01 nats).
    """
    roles, base = session.roles, _base(session)
    tolerance = np.array([roles.tolerance(name) for name in roles.evaluate])
    allowed, error = np.nan_to_num(tolerance), np.nan_to_num(now.error)
    reserve = np.minimum(planning.margin * error, allowed / 2) + session.margin * error
    limit = base + tolerance - reserve
    targets = [roles.evaluate.index(name) for name in roles.targets]
    if planning.protect_targets:
        limit[targets] = base[targets]
    scale = np.maximum(np.maximum(allowed, 2 * error), LEAST_SCALE_NATS)
    widest = planning.cap * scale / (max(planning.kappa, 1e-12) * horizon)
    return MixtureProblem(
        slopes=pace.slopes,
        losses=base + now.change,
        reference=limit,
        targets=targets,
        horizon=horizon,
        slope_se=np.minimum(pace.errors, widest[:, None]),
        scale=scale,
    )


@dataclass(frozen=True, eq=False)
class _Plan:
    """A mixture, and by how much it breaks the constraint it breaks most, scaled; 0 where all hold."""

    solution: MixtureSolution
    worst: float


def _plan(session: Session, planning: Planning, pace: Pace, now: Standing, stop: int) -> _Plan:
    """The mixture until `stop`.

    With diminishing returns the problem is linearised around a mixture, solved, and the mixture moved towards the
    solution by a shrinking step, beginning with an even one (Frank & Wolfe 1956). Mixture and objective are those of
    where that ends; status, violation, conflicts and prices those of the last linearised problem.
    """
    horizon = stop - session.step
    known = np.isfinite(pace.slopes).all(axis=0)
    mixture = known / known.sum()
    for number in range(ROUNDS if planning.returns < 1 else 1):
        problem = _linearised(session, planning, pace, now, horizon, mixture)
        with session.clock.time("solver"):
            found = solve_mixture(problem, planning.solver, kappa=planning.kappa, ridge=planning.ridge)
        mixture = mixture + (found.weights - mixture) * 2 / (number + 2)
    gained = planning.worth(pace.exposure + horizon * mixture) - planning.worth(pace.exposure)
    total = float(pace.moved(gained)[list(problem.targets)].sum())
    worst = float(np.nan_to_num(found.violation / problem.scale).max())
    return _Plan(
        replace(found, weights=mixture, objective=total), worst if found.status == "relaxed" else 0.0
    )


def _linearised(
    session: Session,
    planning: Planning,
    pace: Pace,
    now: Standing,
    horizon: int,
    mixture: Float[np.ndarray, " N"],
) -> MixtureProblem:
    """The problem with the slopes that hold after `horizon` steps of `mixture`, exact at that mixture."""
    after = pace.exposure + horizon * mixture
    marginal = planning.marginal(after)
    gained = planning.worth(after) - planning.worth(pace.exposure)
    bent = now.change + pace.moved(gained - horizon * mixture * marginal)
    there = replace(pace, slopes=pace.slopes * marginal, errors=pace.errors * marginal)
    return mixture_problem(session, planning, there, Standing(bent, now.error), horizon)


def _stops(session: Session, planning: Planning, later: int) -> list[int]:
    if planning.reach == "next":
        return [later]
    if planning.reach == "end":
        return [session.steps]
    return [later, *(step for step in session.grid[-STOPS:] if step > later)]


def _base(session: Session) -> Float[np.ndarray, " M"]:
    return np.array([session.reference[name].loss for name in session.roles.evaluate])
