"""Fitted slopes against other least squares, planted truths and simulated intervals; Adam's average by its sum."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import curve_fit
from scipy.stats import t as student

from trimtab.errors import ShapeError
from trimtab.numerics.simplex import PRIOR_FREEDOM, blended, fit_slopes, shrunk

K, N, M = 9, 3, 4


def observed(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Exposures, changes, their errors, and trust in each observation."""
    rng = np.random.default_rng(seed)
    exposures = rng.uniform(0, 8, (K, N))
    return exposures, rng.normal(size=(K, M)), rng.uniform(0.5, 2, (K, M)), rng.uniform(0.2, 1, K)


@pytest.mark.parametrize("seed", range(5))
def test_slopes_and_errors_are_those_of_weighted_least_squares(seed: int) -> None:
    """Aitken 1935: (A' W A)^-1 A' W y with covariance (A' W A)^-1, here through its normal equations."""
    exposures, changes, errors, trust = observed(seed)
    fit = fit_slopes(exposures, changes, errors, trust)
    for row in range(M):
        precision = np.diag(trust / errors[:, row] ** 2)
        covariance = np.linalg.inv(exposures.T @ precision @ exposures)
        slopes = covariance @ exposures.T @ precision @ changes[:, row]
        residual = changes[:, row] - exposures @ slopes
        chi2, freedom = residual @ precision @ residual, max(0.0, trust.sum() - N)
        inflation = np.sqrt((PRIOR_FREEDOM + chi2) / (PRIOR_FREEDOM + freedom))
        np.testing.assert_allclose(fit.slopes[row], slopes, rtol=0, atol=1e-10)
        np.testing.assert_allclose(fit.inflation[row], inflation, rtol=1e-10)
        np.testing.assert_allclose(
            fit.standard_errors[row], np.sqrt(np.diag(covariance)) * inflation, rtol=1e-10
        )


def test_equal_trust_is_numpys_least_squares_and_scipys_errors() -> None:
    exposures, changes, errors, _ = observed(7)
    fit = fit_slopes(exposures, changes, np.full_like(errors, 0.3))
    np.testing.assert_allclose(
        fit.slopes, np.linalg.lstsq(exposures, changes, rcond=None)[0].T, rtol=0, atol=1e-10
    )
    for row in range(M):
        _, covariance = curve_fit(
            lambda x, *slopes: x @ np.array(slopes),
            exposures,
            changes[:, row],
            p0=np.zeros(N),
            sigma=np.full(K, 0.3),
            absolute_sigma=True,
        )
        own = fit.standard_errors[row] / fit.inflation[row]
        np.testing.assert_allclose(own, np.sqrt(np.diag(covariance)), rtol=1e-6)


def test_forgetting_is_recursive_least_squares() -> None:
    """Ljung 1999, eq. 11.8: the same estimate, one observation at a time, each older one trusted lambda less."""
    exposures, changes, _, _ = observed(11)
    fade = 0.8
    begun = np.diag(fade ** np.arange(N - 1, -1, -1.0))
    inverse = np.linalg.inv(exposures[:N].T @ begun @ exposures[:N])
    slopes = inverse @ exposures[:N].T @ begun @ changes[:N]
    for x, y in zip(exposures[N:], changes[N:], strict=True):
        gain = inverse @ x / (fade + x @ inverse @ x)
        slopes += np.outer(gain, y - x @ slopes)
        inverse = (inverse - np.outer(gain, x @ inverse)) / fade
    trust = fade ** np.arange(K - 1, -1, -1)
    fit = fit_slopes(exposures, changes, np.ones((K, M)), trust)
    np.testing.assert_allclose(fit.slopes, slopes.T, rtol=0, atol=1e-10)


def test_planted_slopes_are_found_whatever_the_errors_said() -> None:
    exposures, _, errors, trust = observed(3)
    planted = np.random.default_rng(0).normal(size=(M, N))
    fit = fit_slopes(exposures, exposures @ planted.T, errors, trust)
    np.testing.assert_allclose(fit.slopes, planted, rtol=0, atol=1e-10)
    perfect = np.sqrt(PRIOR_FREEDOM / (PRIOR_FREEDOM + trust.sum() - N))
    np.testing.assert_allclose(fit.inflation, perfect, rtol=1e-10)


def test_as_many_observations_as_domains_leave_the_stated_errors_alone() -> None:
    fit = fit_slopes(np.diag([2.0, 4.0]), np.array([[1.0], [2.0]]), np.array([[0.1], [0.2]]))
    np.testing.assert_allclose(fit.slopes, [[0.5, 0.5]], atol=1e-15)
    np.testing.assert_allclose(fit.standard_errors, [[0.05, 0.05]], atol=1e-15)
    np.testing.assert_allclose(fit.inflation, [1.0], atol=1e-12)


# Intervals


def coverage(noise: float, observations: int, quantile: float) -> float:
    """Share of 2,000 regressions x 2 slopes whose interval holds the truth, with errors stated as 1."""
    rng = np.random.default_rng(5)
    exposures, planted = rng.uniform(0, 4, (observations, 2)), np.array([0.7, -0.3])
    changes = (exposures @ planted)[:, None] + noise * rng.normal(size=(observations, 2000))
    fit = fit_slopes(exposures, changes, np.ones_like(changes))
    return float((np.abs(fit.slopes - planted) < quantile * fit.standard_errors).mean())


@pytest.mark.parametrize(("observations", "least"), [(2, 0.93), (3, 0.92), (8, 0.93), (40, 0.93)])
def test_intervals_hold_the_truth_as_often_as_they_say_when_the_stated_errors_are_right(
    observations: int, least: float
) -> None:
    """With one observation to spare the widening is itself noisy, which costs a point or two."""
    assert least < coverage(1.0, observations, 1.96) < 0.97


def test_intervals_are_widened_by_scatter_that_the_stated_errors_missed() -> None:
    """The prior of 4 degrees believes the stated errors, so that of 120 observations a few are needed to unlearn it."""
    assert 0.93 < coverage(2.0, 120, float(student.ppf(0.975, 118))) < 0.97


def test_without_the_widening_they_would_not() -> None:
    rng = np.random.default_rng(5)
    exposures = rng.uniform(0, 4, (120, 2))
    fit = fit_slopes(exposures, 2 * rng.normal(size=(120, 500)), np.ones((120, 500)))
    own = fit.standard_errors / fit.inflation[:, None]
    assert (np.abs(fit.slopes) < 1.96 * own).mean() < 0.75
    assert fit.inflation.mean() == pytest.approx(2, rel=0.03)


# Edges


def test_a_domain_never_met_has_no_slope() -> None:
    exposures, changes, errors, _ = observed(1)
    fit = fit_slopes(np.insert(exposures, 1, 0.0, axis=1), changes, errors)
    plain = fit_slopes(exposures, changes, errors)
    assert np.isnan(fit.slopes[:, 1]).all()
    assert np.isnan(fit.standard_errors[:, 1]).all()
    np.testing.assert_array_equal(fit.slopes[:, [0, 2, 3]], plain.slopes)
    np.testing.assert_array_equal(fit.standard_errors[:, [0, 2, 3]], plain.standard_errors)


def test_a_domain_met_only_in_what_is_not_trusted_at_all_has_no_slope() -> None:
    fit = fit_slopes(np.eye(2), np.ones((2, 1)), np.ones((2, 1)), np.array([1.0, 0.0]))
    np.testing.assert_array_equal(fit.slopes, [[1.0, np.nan]])


def test_errors_of_zero_are_tiny_ones() -> None:
    exposures, changes, errors, _ = observed(2)
    fit = fit_slopes(exposures, changes, np.zeros_like(errors))
    np.testing.assert_allclose(fit.slopes, fit_slopes(exposures, changes, np.ones((K, M))).slopes, atol=1e-10)
    assert np.isfinite(fit.standard_errors).all()


def test_a_slope_is_not_zero_because_most_errors_are() -> None:
    """The first domain moves one loss, with noise; the second moves none, exactly."""
    errors = np.zeros((4, 3))
    errors[:2, 0] = 0.02
    fit = fit_slopes(np.eye(2)[[0, 0, 1, 1]], np.where(errors > 0, -0.03, 0.0), errors)
    np.testing.assert_allclose(fit.slopes, [[-0.03, 0], [0, 0], [0, 0]], atol=1e-12)
    assert fit.standard_errors[0, 0] > 0.01


def test_nothing_given_is_changed() -> None:
    given = observed(4)
    before = [array.copy() for array in given]
    fit_slopes(*given)
    for array, copy in zip(given, before, strict=True):
        np.testing.assert_array_equal(array, copy)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"exposures": np.ones(3)}, r"got exposures of shape \(3,\), expected \(K, N\), K at least 1"),
        ({"exposures": np.ones((0, 2))}, r"got exposures of shape \(0, 2\), expected \(K, N\)"),
        (
            {"changes": np.ones((4, 1))},
            r"got changes of shape \(4, 1\) and errors of shape \(3, 1\), expected \(3, M\) each",
        ),
        ({"changes": np.ones(3), "errors": np.ones(3)}, r"got changes of shape \(3,\) and errors .*\(3, M\)"),
        (
            {"errors": np.ones((3, 2))},
            r"and errors of shape \(3, 2\), expected \(3, M\) each, as the exposures",
        ),
        ({"weights": np.ones(2)}, r"got weights of shape \(2,\), expected \(3,\)"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(changes: dict[str, np.ndarray], message: str) -> None:
    given = {"exposures": np.ones((3, 2)), "changes": np.ones((3, 1)), "errors": np.ones((3, 1)), **changes}
    with pytest.raises(ShapeError, match=message):
        fit_slopes(**given)


# What Adam's first moment is made of


@pytest.mark.parametrize("beta", [0.0, 0.5, 0.9, 0.99])
def test_the_first_moment_is_the_weighted_sum_of_all_gradients(beta: float) -> None:
    """Kingma & Ba 2015, section 3: m_t = (1 - b) sum_k b^(t-k) g_k, over 1 - b^t."""
    mixtures = np.random.default_rng(1).dirichlet(np.ones(3), 12)
    shares, average = blended(np.zeros(3), 0, list(mixtures), beta)
    for t in range(1, 13):
        decays = (1 - beta) * beta ** np.arange(t - 1, -1, -1.0)
        np.testing.assert_allclose(shares[t - 1], decays @ mixtures[:t] / (1 - beta**t), rtol=0, atol=1e-12)
    np.testing.assert_allclose(average, shares[-1] * (1 - beta**12), rtol=0, atol=1e-12)


def test_at_nine_tenths_a_third_of_a_step_is_older_than_ten_steps() -> None:
    long, new = [np.array([1.0, 0.0])] * 500, [np.array([0.0, 1.0])] * 10
    shares, _ = blended(np.zeros(2), 0, long + new, 0.9)
    assert shares[-1, 0] == pytest.approx(0.9**10, abs=1e-12) == pytest.approx(0.35, abs=0.01)


def test_no_step_leaves_the_average_where_it_was() -> None:
    shares, average = blended(np.array([0.2, 0.3]), 5, [], 0.9)
    assert shares.shape == (0, 2)
    np.testing.assert_array_equal(average, [0.2, 0.3])


# Shrinking


@given(seed=st.integers(0, 2**32 - 1), n=st.integers(2, 8), error=st.floats(0.1, 3.0))
def test_with_equal_errors_shrinking_is_the_closed_form(seed: int, n: int, error: float) -> None:
    """The variance between is the sample's less the noise; weights are between / (between + noise)."""
    values = np.random.default_rng(seed).normal(size=n)
    found, errors = shrunk(values, np.full(n, error))
    between = max(0.0, values.var(ddof=1) - error**2)
    kept = between / (between + error**2)
    np.testing.assert_allclose(found, values.mean() + kept * (values - values.mean()), atol=1e-9)
    np.testing.assert_allclose(errors**2, kept * error**2 + (1 - kept) ** 2 * error**2 / n, atol=1e-9)


def test_shrunk_slopes_are_nearer_the_truth() -> None:
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(400, 6))
    noisy = truth + rng.normal(size=truth.shape) * 2
    calm = np.array([shrunk(row, np.full(6, 2.0))[0] for row in noisy])
    assert np.square(calm - truth).mean() < 0.6 * np.square(noisy - truth).mean()


def test_one_value_stays_as_it_is() -> None:
    found, errors = shrunk(np.array([3.0]), np.array([0.5]))
    assert (found.tolist(), errors.tolist()) == ([3.0], [0.5])
