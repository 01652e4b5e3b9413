"""Slopes of many losses from observed changes: what each domain was worth while several pulled at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from trimtab.errors import ShapeError, explain

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
        found, own, chi2 = _least_squares(exposures[:, met], changes[:, row], precision)
        freedom = max(0.0, float(trust.sum()) - float(met.sum()))
        inflation[row] = np.sqrt((PRIOR_FREEDOM + chi2) / (PRIOR_FREEDOM + freedom))
        slopes[row, met], spread[row, met] = found, own * inflation[row]
    return SlopeFit(slopes, spread, inflation)


def _least_squares(
    exposures: Float[np.ndarray, "K N"], changes: Float[np.ndarray, " K"], precision: Float[np.ndarray, " K"]
) -> tuple[Float[np.ndarray, " N"], Float[np.ndarray, " N"], float]:
    """Coefficients, their standard errors, and the weighted sum of squared residuals."""
    root = np.sqrt(precision)
    left, singular, right = np.linalg.svd(root[:, None] * exposures, full_matrices=False)
    inverse = np.where(singular > 1e-10 * singular.max(initial=0.0), 1.0 / np.maximum(singular, 1e-300), 0.0)
    found = right.T @ (inverse * (left.T @ (root * changes)))
    spread = np.sqrt(np.square(right.T * inverse).sum(axis=1))
    residual = root * (changes - exposures @ found)
    return found, spread, float(residual @ residual)


def shrunk(
    values: Float[np.ndarray, " n"], errors: Float[np.ndarray, " n"]
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """Noisy values drawn towards their common mean, as far as their noise explains how they differ.

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
    """What Adam's first moment is made of at each of the next steps: gradients of which domains, in which shares.

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
