"""Planning a mixture from slopes: the programme that is solved at an update, and the record of the update.

With S the slopes per unit of effective steps, n the steps taken on each domain, H the horizon, e(n) effective steps:

    minimise over mixtures w   sum over targets i of  S_i (e(n + H w) - e(n))
    subject to                 change_i + S_i (e(n + H w) - e(n)) <= tolerance_i - reserve_i   for each constraint i
    where                      e(n) = ((1 + n) ** returns - 1) / returns

At returns = 1, e(n) = n: the linear programme of the paper (arXiv 2605.10770).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from jaxtyping import Float

from trimtab.adapt.mixer import Update
from trimtab.adapt.session import LEAST_SCALE_NATS, Roles, Session, SlopeEstimate
from trimtab.numerics.simplex import MixtureProblem, MixtureSolution, shrunk, solve_mixture
from trimtab.train.losses import change

Solver = Literal["grid", "lp", "robust"]
Reach = Literal["next", "end", "best"]

ROUNDS = 12
"""Linearisations per plan; the last moves the mixture by two thirteenths."""
STOPS = 4
"""How many of the last points of the evaluation grid a plan considers to stop at."""


@dataclass(frozen=True)
class Planning:
    """Planning settings: how slopes become a mixture; see `DynaMiCS` for what each setting does."""

    solver: Solver = "robust"
    kappa: float = 1.28
    ridge: float = 0.0
    reach: Reach = "next"
    returns: float = 1.0
    margin: float = 0.0
    cap: float = float("inf")
    protect_targets: bool = False
    shrink: bool = False

    def effective(self, exposure: Float[np.ndarray, " N"]) -> Float[np.ndarray, " N"]:
        """Effective steps: what n steps on a domain are worth, in first steps, ((1 + n) ** returns - 1) / returns."""
        steps: np.ndarray = ((1 + exposure) ** self.returns - 1) / self.returns
        return steps

    def gained(
        self, exposure: Float[np.ndarray, " N"], steps: Float[np.ndarray, " N"]
    ) -> Float[np.ndarray, " N"]:
        """Effective steps that `steps` more on each domain add to `exposure`."""
        gained: np.ndarray = self.effective(exposure + steps) - self.effective(exposure)
        return gained

    def marginal(self, exposure: Float[np.ndarray, " N"]) -> Float[np.ndarray, " N"]:
        """The derivative of effective steps: what one more step is worth after so many."""
        rate: np.ndarray = (1 + exposure) ** (self.returns - 1)
        return rate


@dataclass(frozen=True, eq=False)
class LossState:
    """Loss state: (M,) the change of each evaluation loss since step 0 and its standard error, nats per token."""

    change: Float[np.ndarray, " M"]
    error: Float[np.ndarray, " M"]


@dataclass(frozen=True, eq=False)
class MeasuredSlopes:
    """Slopes S_ij: the change of evaluation loss i per effective step on domain j (`Planning.effective`).

    Attributes:
        slopes, errors: (M, N) nats per token, and their standard errors.
        exposure: (N,) steps taken on each domain so far.
        steps: of training behind each measurement.
    """

    slopes: Float[np.ndarray, "M N"]
    errors: Float[np.ndarray, "M N"]
    exposure: Float[np.ndarray, " N"]
    steps: int

    @property
    def finite(self) -> Float[np.ndarray, " N"]:
        """(N,) whether a domain has finite slopes: a trial that diverged leaves none."""
        columns: np.ndarray = np.isfinite(self.slopes).all(axis=0)
        return columns

    def moved(self, effective: Float[np.ndarray, " N"]) -> Float[np.ndarray, " M"]:
        """The loss change S e of e effective steps; domains without slopes count for nothing."""
        finite = self.finite
        moved: np.ndarray = self.slopes[:, finite] @ effective[finite]
        return moved


def shrink_slopes(roles: Roles, measured: MeasuredSlopes, of: Sequence[str] | None = None) -> MeasuredSlopes:
    """Shrunken slopes (empirical Bayes, row by row): domains that differ by no more than noise differ no more.

    Each loss's slopes are shrunk towards their mean over the training domains, its own domain apart, which is known to
    be a case of its own.

    Args:
        roles: the domains by role.
        measured: the slopes.
        of: the M evaluation domains that they are of; all of them if None.
    """
    slopes, errors = measured.slopes.copy(), measured.errors.copy()
    finite = measured.finite & (errors > 0).all(axis=0)
    for row, name in enumerate(roles.evaluate if of is None else of):
        pool = finite & np.array([other != name for other in roles.train])
        if pool.sum() > 1:
            slopes[row, pool], errors[row, pool] = shrunk(slopes[row, pool], errors[row, pool])
    return replace(measured, slopes=slopes, errors=errors)


def loss_state(session: Session) -> LossState:
    """The loss state now, read on all validation sequences."""
    moved = [change(session.losses()[name], session.reference[name]) for name in session.roles.evaluate]
    return LossState(np.array([m.value for m in moved]), np.array([m.standard_error for m in moved]))


def solve(
    session: Session, planning: Planning, measured: MeasuredSlopes, now: LossState, later: int
) -> MixtureSolution:
    """The solved mixture from here on: lowest predicted targets among the plans that keep the constraints.

    Where the plan may choose when to stop, the mixture is solved for each of the last points of the evaluation grid
    (checkpoints are judged nowhere else) and for the next update. Of the plans whose constraints hold, the one with the
    lowest predicted targets wins; if none holds, the one that breaks them least.

    Args:
        session: the run.
        planning: how.
        measured: the slopes.
        now: where the losses stand.
        later: the step of the next update.
    """
    if planning.shrink:
        measured = shrink_slopes(session.roles, measured)
    stops = [session.steps if planning.reach == "end" else later]
    if planning.reach == "best":
        stops += [step for step in session.grid[-STOPS:] if step > later]
    plans = [frank_wolfe(session, planning, measured, now, stop - session.step) for stop in stops]
    return min(plans, key=lambda plan: (plan[0], plan[1].objective))[1]


def frank_wolfe(
    session: Session, planning: Planning, measured: MeasuredSlopes, now: LossState, horizon: int
) -> tuple[float, MixtureSolution]:
    """Frank-Wolfe: the mixture of the next `horizon` steps, and its worst violation, scaled; 0 if none.

    With diminishing returns the problem is linearised around a mixture (exact there), solved, and the mixture moved
    towards the solution by a shrinking step, beginning with an even one (Frank & Wolfe 1956). Mixture and objective
    are those of where that ends; status, violation, conflicts and prices those of the last linearised problem.
    """
    mixture = measured.finite / measured.finite.sum()
    for number in range(ROUNDS if planning.returns < 1 else 1):
        ahead = horizon * mixture
        rate = planning.marginal(measured.exposure + ahead)
        tangent = replace(measured, slopes=measured.slopes * rate, errors=measured.errors * rate)
        bend = measured.moved(planning.gained(measured.exposure, ahead) - ahead * rate)
        problem = mixture_problem(
            session, planning, tangent, LossState(now.change + bend, now.error), horizon
        )
        with session.clock.time("solver"):
            solution = solve_mixture(problem, planning.solver, kappa=planning.kappa, ridge=planning.ridge)
        mixture = mixture + (solution.weights - mixture) * 2 / (number + 2)
    change_then = measured.moved(planning.gained(measured.exposure, horizon * mixture))
    total = float(change_then[list(problem.targets)].sum())
    relaxed = solution.status == "relaxed"
    worst = float(np.nan_to_num(solution.violation / problem.scale).max()) if relaxed else 0.0
    return worst, replace(solution, weights=mixture, objective=total)


def mixture_problem(
    session: Session, planning: Planning, tangent: MeasuredSlopes, now: LossState, horizon: int
) -> MixtureProblem:
    """The linear problem of this step: keep each constraint at its base loss plus tolerance, less the reserve.

    Here slopes are in nats per step. Violations are weighed by max(tolerance, 2 standard errors of the loss change so
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
    errors = np.minimum(tangent.errors, widest[:, None])
    return MixtureProblem(tangent.slopes, base + now.change, limit, targets, horizon, errors, scale)


def make_update(
    session: Session,
    planning: Planning,
    measured: MeasuredSlopes,
    now: LossState,
    later: int,
    solution: MixtureSolution,
) -> Update:
    """The update per step: mean slopes, and predicted losses until the next update.

    The slope of a domain without weight is that of its next step.
    """
    horizon, weights = later - session.step, solution.weights
    ahead = np.where(weights > 0, horizon * weights, 1.0)
    mean_rate = planning.gained(measured.exposure, ahead) / ahead
    rate = np.where(weights > 0, mean_rate, planning.marginal(measured.exposure))
    estimate = SlopeEstimate(measured.slopes * rate, measured.errors * rate, measured.steps)
    predicted = _base(session) + now.change + measured.moved(horizon * weights * rate)
    return Update(horizon, estimate, replace(solution, predicted=predicted))


def _base(session: Session) -> Float[np.ndarray, " M"]:
    return np.array([session.reference[name].loss for name in session.roles.evaluate])
