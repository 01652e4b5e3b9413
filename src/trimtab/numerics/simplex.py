"""Mixtures of domains on the simplex: slopes fitted to loss changes, and the constrained mixture that they imply.

The mixture lowers target losses and keeps every constrained loss in bounds; arithmetic on mixtures stands below it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from jaxtyping import Bool, Float

from trimtab.errors import ConfigError, ShapeError, explain, nearest
from trimtab.numerics.cone import Programme, solve_constrained, solve_penalised

Method = Literal["robust", "lp", "grid"]

DEFAULT_SCALE_NATS = 0.01


@dataclass(frozen=True, eq=False)
class MixtureProblem:
    """The constrained mixture problem of M evaluation domains (rows) and N training domains (columns).

    The arrays are copied as float64 and cannot be written to; the caller's own stay as they are.

    Attributes:
        slopes: change of evaluation loss i per training step on domain j alone, nats per step. A column
            with a nan or an infinity (a probe that diverged) is unusable and gets no weight.
        losses: loss now, nats. May be nan where there is no reference.
        reference: the highest loss a constraint allows, nats; nan marks rows that are no constraint.
        targets: rows whose summed loss is to fall. A target may be a constraint too ("no target gets worse").
        horizon: steps for which the mixture will be used, above 0.
        slope_se: standard errors of the slopes, nats per step, not negative; "robust" needs them. A column
            with a nan in a constrained row has unknown noise and is unusable for "robust".
        scale: nats that weigh the violations of each constraint against the others when not all can be kept,
            above 0; None means 0.01 nats each.

    Raises:
        ShapeError: the arrays do not fit together.
        ConfigError: a value is outside the ranges above, there is no target, or no column is usable.
    """

    slopes: Float[np.ndarray, "M N"]
    losses: Float[np.ndarray, " M"]
    reference: Float[np.ndarray, " M"]
    targets: Sequence[int]
    horizon: float
    slope_se: Float[np.ndarray, "M N"] | None = None
    scale: Float[np.ndarray, " M"] | None = None

    def __post_init__(self) -> None:
        for name in ("slopes", "losses", "reference", "slope_se", "scale"):
            if getattr(self, name) is not None:
                copy = np.array(getattr(self, name), dtype=np.float64)
                copy.setflags(write=False)
                object.__setattr__(self, name, copy)
        object.__setattr__(self, "targets", tuple(int(target) for target in self.targets))
        object.__setattr__(self, "horizon", float(self.horizon))
        if self.slopes.ndim != 2 or 0 in self.slopes.shape:
            raise ShapeError(explain(f"slopes of shape {self.slopes.shape}", "(M, N), both at least 1"))
        rows = len(self.slopes)
        for name in ("losses", "reference", "scale", "slope_se"):
            values, shape = getattr(self, name), self.slopes.shape if name == "slope_se" else (rows,)
            if values is not None and values.shape != shape:
                raise ShapeError(explain(f"{name} of shape {values.shape}", f"{shape}, as the slopes say"))
        if not self.targets:
            expected = "at least one evaluation domain to improve"
            raise ConfigError(explain("no targets", expected, "targets=[0]"))
        if len(set(self.targets) & set(range(rows))) < len(self.targets):
            got = f"targets {list(self.targets)}"
            raise ConfigError(explain(got, f"different rows between 0 and {rows - 1}"))
        _check_values(self)

    @property
    def constrained(self) -> Bool[np.ndarray, " M"]:
        """Mask of the evaluation domains that are constraints."""
        return np.asarray(~np.isnan(self.reference))


@dataclass(frozen=True, eq=False)
class MixtureSolution:
    """The solution of a mixture problem: weights, predicted losses, violations and shadow prices.

    Attributes:
        weights: share of each training domain, at least 0, summing to 1.
        predicted: loss of every evaluation domain at the horizon, nats, *without* a margin.
        status: "optimal" when every constraint is kept as the method poses it, else "relaxed". Of a mixture that no
            programme was solved for: "kept", or "broken" where a constraint was broken when it was chosen.
        violation: nats by which each constraint is broken as the method poses it (so with the margin for
            "robust"); 0 where kept, nan for non-constraints.
        conflicts: the constraints that cannot be kept together, in order; empty when optimal. They are the
            broken ones: violations are made small from the worst (scaled) down, so what can be kept beside
            the worst at its least is kept. For "grid" just the constraints its chosen candidate breaks.
        shadow_prices: -d(objective)/d(reference) of each constraint, at least 0, nats per nat: one more
            hundredth of a nat of tolerance buys a hundredth of it in summed target loss. At a kink some value
            between the one-sided derivatives; 0 where the constraint does not bind. With a ridge, the
            derivative of the ridged objective. nan for non-constraints, when relaxed, and for "grid", whose
            choice has no derivative.
        objective: predicted change of the summed target loss at the horizon, nats; below 0 is better.
    """

    weights: Float[np.ndarray, " N"]
    predicted: Float[np.ndarray, " M"]
    status: Literal["optimal", "relaxed", "kept", "broken"]
    violation: Float[np.ndarray, " M"]
    conflicts: tuple[int, ...]
    shadow_prices: Float[np.ndarray, " M"]
    objective: float


def solve_mixture(
    problem: MixtureProblem, method: Method = "robust", *, kappa: float = 1.28, ridge: float = 0.0
) -> MixtureSolution:
    """The mixture of training domains that lowers the targets most while each constraint keeps its reference.

    The loss of row i after the horizon H is predicted as `losses[i] + H * slopes[i] @ w`. "lp" asks of it to
    be at most `reference[i]`. "robust" adds `kappa * H * norm(slope_se[i] * w)` first: at kappa 1.28 a given
    mixture whose slopes have independent normal errors keeps a given constraint with probability 0.9. "grid"
    is the paper's penalised rule.

    Args:
        problem: what was measured.
        method: "robust", "lp" or "grid".
        kappa: standard errors of margin, at least 0; used by "robust" only.
        ridge: at least 0; adds `ridge * max_j |H * sum_T slopes[:, j]| * norm(w)**2` to the objective, which
            draws the mixture away from the corners.

    Returns:
        A solution. Among equally good mixtures "lp" and "robust" return one inside their set, whatever the
        order of the domains, so with nothing to choose between them all domains share alike.

    Raises:
        ConfigError: unknown method, kappa or ridge out of range, "robust" without standard errors, or no
            usable column.

    Source: Gualdoni et al. 2026 (arXiv 2605.10770) for the prediction and the grid; the other two are ours.

    Training on the first domain helps the target and hurts the constraint; the second mends it.

    >>> slopes = np.array([[-1e-3, 0.0], [1e-3, -1e-3]])
    >>> losses, reference = np.array([2.0, 3.0]), np.array([np.nan, 3.0])
    >>> problem = MixtureProblem(slopes, losses, reference, targets=[0], horizon=100)
    >>> solution = solve_mixture(problem, "lp")
    >>> solution.status, solution.weights.round(6).tolist(), solution.predicted.round(6).tolist()
    ('optimal', [0.5, 0.5], [1.95, 3.0])
    >>> solution.shadow_prices.round(6).tolist()
    [nan, 0.5]
    """
    choices = get_args(Method)
    if method not in choices:
        raise ConfigError(explain(f"method {method!r}", f"one of {choices}", nearest(method, choices)))
    for name, value in (("kappa", kappa), ("ridge", ridge)):
        if not (np.isfinite(value) and value >= 0):
            raise ConfigError(explain(f"{name} {value}", "a finite number of at least 0"))
    if method == "robust" and kappa > 0 and problem.slope_se is None and problem.constrained.any():
        raise ConfigError(explain("no slope_se", "standard errors for method 'robust'", "method='lp'"))
    programme, usable = _programme(problem, method, kappa, ridge)
    choice = solve_penalised(programme, problem.horizon) if method == "grid" else solve_constrained(programme)
    weights = np.zeros(len(usable))
    weights[usable] = choice.weights
    conflicts = np.flatnonzero(problem.constrained)[choice.conflicts]
    return MixtureSolution(
        weights=weights,
        predicted=problem.losses + problem.horizon * problem.slopes[:, usable] @ choice.weights,
        status="relaxed" if len(conflicts) else "optimal",
        violation=_on_rows(problem, np.where(choice.conflicts, programme.excess(choice.weights), 0.0)),
        conflicts=tuple(conflicts.tolist()),
        shadow_prices=_on_rows(problem, choice.multipliers),
        objective=float(programme.cost @ choice.weights),
    )


def _programme(
    problem: MixtureProblem, method: Method, kappa: float, ridge: float
) -> tuple[Programme, Bool[np.ndarray, " N"]]:
    """The programme at the horizon, and its usable columns: those whose every slope is finite.

    For "robust" the noise of every constraint must be known too.
    """
    rows, horizon = problem.constrained, problem.horizon
    usable: np.ndarray = np.isfinite(problem.slopes).all(axis=0)
    if method == "robust" and problem.slope_se is not None:
        usable &= np.isfinite(problem.slope_se[rows]).all(axis=0)
    if not usable.any():
        hint = "a smaller learning rate or a longer probe"
        raise ConfigError(explain("a nan or infinity in every column", "at least one usable column", hint))
    change = horizon * problem.slopes[:, usable]
    cost = change[list(problem.targets)].sum(axis=0)
    noise = np.zeros_like(change)
    if method == "robust" and kappa > 0.0 and problem.slope_se is not None:
        noise = kappa * horizon * problem.slope_se[:, usable]
    scale = np.full(len(rows), DEFAULT_SCALE_NATS) if problem.scale is None else problem.scale
    room = (problem.reference - problem.losses)[rows]
    strength = ridge * float(np.abs(cost).max())
    return Programme(cost, change[rows], noise[rows], room, scale[rows], strength), usable


def _on_rows(problem: MixtureProblem, values: Float[np.ndarray, " K"]) -> Float[np.ndarray, " M"]:
    rows = np.full(len(problem.losses), np.nan)
    rows[problem.constrained] = values
    return rows


def _check_values(problem: MixtureProblem) -> None:
    rows = problem.constrained
    if not (np.isfinite(problem.horizon) and problem.horizon > 0):
        raise ConfigError(explain(f"horizon {problem.horizon}", "a number of steps above 0"))
    if np.isinf(problem.reference).any():
        expected = "finite nats, or nan for a row that is no constraint"
        raise ConfigError(explain("an infinite reference", expected, "nan"))
    if not np.isfinite(problem.losses[rows]).all():
        bad = np.flatnonzero(rows & ~np.isfinite(problem.losses)).tolist()
        raise ConfigError(explain(f"losses that are not finite in constrained rows {bad}", "finite nats"))
    if problem.slope_se is not None and (problem.slope_se < 0).any():
        raise ConfigError(explain("a negative standard error", "values of at least 0"))
    if problem.scale is not None and not ((problem.scale[rows] > 0) & np.isfinite(problem.scale[rows])).all():
        raise ConfigError(explain("a scale that is not above 0", "nats above 0 for each constraint", "0.01"))


def spread(train: Sequence[str], among: Sequence[str], mass: float = 1.0) -> tuple[float, ...]:
    """`mass` shared evenly by the domains `among` the training domains; nothing for the others.

    >>> spread(["math", "code", "web"], ["math", "web"], 0.5)
    (0.25, 0.0, 0.25)
    """
    return tuple(mass / len(among) if name in among else 0.0 for name in train)


def exponentiated(
    weights: Sequence[float], push: Sequence[float] | Float[np.ndarray, " N"]
) -> Float[np.ndarray, " N"]:
    """Exponentiated gradient step: weights times e to the push, scaled to sum to one.

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


PRIOR_FREEDOM = 4.0
"""Degrees of freedom with which the stated errors are believed before residuals say otherwise."""


@dataclass(frozen=True, eq=False)
class SlopeFit:
    """Slopes fitted to changes of M losses under exposure to N domains.

    Attributes:
        slopes: (M, N) nats per unit of exposure; nan for a domain that no observation was exposed to.
        standard_errors: (M, N), stated errors times `inflation`; nan likewise.
        inflation: (M,) by how much the scatter of the observations exceeds their stated errors.
    """

    slopes: Float[np.ndarray, "M N"]
    standard_errors: Float[np.ndarray, "M N"]
    inflation: Float[np.ndarray, " M"]


def fit_slopes(
    exposures: Float[np.ndarray, "K N"],
    changes: Float[np.ndarray, "K M"],
    errors: Float[np.ndarray, "K M"],
    weights: Float[np.ndarray, " K"] | None = None,
) -> SlopeFit:
    """Weighted least squares of `changes[k, i]` on `exposures[k] @ slopes[i]`, each loss by itself.

    The stated errors cover what the observer knows (the choice of evaluation sequences). What it does not know (the
    batches that happened to be drawn, slopes that drift, domains that do not add up) shows as scatter: each
    loss's errors are multiplied by sqrt((P + chi2) / (P + freedom)), with P = `PRIOR_FREEDOM` and chi2 the
    weighted sum of its squared standardised residuals.

    Args:
        exposures: effective steps on each domain during each observation.
        changes: change of each loss, nats.
        errors: standard errors of the changes, nats; zero is taken for a tiny one.
        weights: trust in each observation, in (0, 1]: 1 for the newest, less for older ones (recursive least squares
            with forgetting, solved at once); None for 1 each.

    Raises:
        ShapeError: the arrays do not fit together, or there is no observation.

    >>> fit = fit_slopes(np.array([[2.0, 0.0], [1.0, 1.0]]), np.array([[-4.0], [1.0]]), np.ones((2, 1)))
    >>> fit.slopes
    array([[-2.,  3.]])
    """
    if exposures.ndim != 2 or not len(exposures):
        raise ShapeError(explain(f"exposures of shape {exposures.shape}", "(K, N), K at least 1"))
    if changes.shape[:1] != exposures.shape[:1] or changes.ndim != 2 or errors.shape != changes.shape:
        got = f"changes of shape {changes.shape} and errors of shape {errors.shape}"
        raise ShapeError(explain(got, f"({len(exposures)}, M) each, as the exposures say"))
    if weights is not None and weights.shape != exposures.shape[:1]:
        raise ShapeError(explain(f"weights of shape {weights.shape}", f"({len(exposures)},)"))
    trust = np.ones(len(exposures)) if weights is None else weights
    met = (exposures * trust[:, None] != 0).any(axis=0)
    shape = changes.shape[1], exposures.shape[1]
    slopes, spread, inflation = np.full(shape, np.nan), np.full(shape, np.nan), np.ones(shape[0])
    # A loss that mostly does not move at all must not push a direction seen with ordinary noise under the cut of rank.
    floor = max(1e-12, 1e-3 * float(np.median(errors)), 1e-8 * float(errors.max(initial=0.0)))
    for row in range(shape[0]):
        precision = trust / np.maximum(errors[:, row], floor) ** 2
        coefficients, deviations, chi2 = _least_squares(exposures[:, met], changes[:, row], precision)
        freedom = max(0.0, float(trust.sum()) - float(met.sum()))
        inflation[row] = np.sqrt((PRIOR_FREEDOM + chi2) / (PRIOR_FREEDOM + freedom))
        slopes[row, met], spread[row, met] = coefficients, deviations * inflation[row]
    return SlopeFit(slopes, spread, inflation)


def _least_squares(
    exposures: Float[np.ndarray, "K N"], changes: Float[np.ndarray, " K"], precision: Float[np.ndarray, " K"]
) -> tuple[Float[np.ndarray, " N"], Float[np.ndarray, " N"], float]:
    """Coefficients, their standard errors, and the weighted sum of squared residuals."""
    root = np.sqrt(precision)
    left, singular, right = np.linalg.svd(root[:, None] * exposures, full_matrices=False)
    inverse = np.where(singular > 1e-10 * singular.max(initial=0.0), 1.0 / np.maximum(singular, 1e-300), 0.0)
    coefficients = right.T @ (inverse * (left.T @ (root * changes)))
    spread = np.sqrt(np.square(right.T * inverse).sum(axis=1))
    residual = root * (changes - exposures @ coefficients)
    return coefficients, spread, float(residual @ residual)


def shrunk(
    values: Float[np.ndarray, " n"], errors: Float[np.ndarray, " n"]
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """Empirical Bayes shrinkage of noisy values towards their common mean.

    The variance between true values is estimated by moments (DerSimonian & Laird 1986) and each value is
    replaced by its posterior mean and standard deviation under a normal prior with that mean and variance. The
    smallest of many noisy slopes is mostly noise: without shrinking, a planner picks just that one.

    Args:
        values: at least one.
        errors: their standard errors, above 0.

    >>> shrunk(np.array([-1.0, 1.0]), np.array([2.0, 2.0]))[0].tolist()
    [0.0, 0.0]
    """
    precision = 1 / errors**2
    total = precision.sum()
    mean = float(precision @ values / total)
    excess = float(precision @ (values - mean) ** 2) - (len(values) - 1)
    room = float(total - (precision**2).sum() / total)
    between = max(0.0, excess / room) if room > 0 else 0.0
    kept = between / (between + errors**2)
    return mean + kept * (values - mean), np.sqrt(kept * errors**2 + (1 - kept) ** 2 / total)


def blended(
    before: Float[np.ndarray, " N"], taken: int, mixtures: Sequence[Float[np.ndarray, " N"]], beta: float
) -> tuple[Float[np.ndarray, "S N"], Float[np.ndarray, " N"]]:
    """The composition of Adam's first moment at each of the next steps: the share of each domain's gradients.

    The moment after step t is a bias-corrected moving average of all gradients so far, so a step taken on one domain
    still goes in part where earlier mixtures pointed: at beta .9 a third of it after ten steps.

    Args:
        before: (N,) the moving average, not corrected, after `taken` steps; zeros at the start.
        taken: optimiser steps taken so far.
        mixtures: the mixture of each of the next S steps.
        beta: decay of the first moment.

    Returns:
        (S, N) shares of each step, summing to one, and the moving average after the last.

    Source: Kingma & Ba 2015, algorithm 1 (m-hat), applied to the mixture instead of the gradient.

    >>> blended(np.zeros(2), 0, [np.array([1.0, 0.0]), np.array([0.0, 1.0])], 0.5)[0].round(3).tolist()
    [[1.0, 0.0], [0.333, 0.667]]
    """
    average, shares = np.array(before, dtype=np.float64), []
    for number, mixture in enumerate(mixtures, start=taken + 1):
        average = beta * average + (1 - beta) * np.asarray(mixture, dtype=np.float64)
        shares.append(average / (1 - beta**number) if beta > 0 else average)
    return np.array(shares).reshape(len(shares), len(average)), average
