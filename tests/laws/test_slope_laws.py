"""Laws of fitted slopes and of what a first moment is made of, whatever the numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.numerics.simplex import SlopeFit, blended, fit_slopes

few = settings(max_examples=40, deadline=None)
seeds = st.integers(0, 2**32 - 1)


def observed(seed: int) -> dict[str, np.ndarray]:
    """At least as many observations as domains, as a run has once each domain had its block."""
    rng = np.random.default_rng(seed)
    n, m = int(rng.integers(1, 5)), int(rng.integers(1, 4))
    k = n + int(rng.integers(0, 9))
    exposures = rng.uniform(0, 1, (k, n)) + 4 * np.eye(k, n)
    return {
        "exposures": exposures,
        "changes": rng.normal(size=(k, m)),
        "errors": rng.uniform(0.1, 1, (k, m)),
        "weights": rng.uniform(0.1, 1, k),
    }


def check(found: SlopeFit, slopes: Any, errors: Any, inflation: Any) -> None:
    np.testing.assert_allclose(found.slopes, slopes, rtol=1e-9, atol=1e-10)
    np.testing.assert_allclose(found.standard_errors, errors, rtol=1e-9, atol=1e-10)
    np.testing.assert_allclose(found.inflation, inflation, rtol=1e-9)


@given(seed=seeds, draw=st.randoms(use_true_random=False))
@few
def test_the_order_of_domains_orders_the_columns(seed: int, draw: Any) -> None:
    given = observed(seed)
    order = draw.sample(range(given["exposures"].shape[1]), given["exposures"].shape[1])
    before = fit_slopes(**given)
    after = fit_slopes(**{**given, "exposures": given["exposures"][:, order]})
    check(after, before.slopes[:, order], before.standard_errors[:, order], before.inflation)


@given(seed=seeds, draw=st.randoms(use_true_random=False))
@few
def test_the_order_of_observations_does_not_matter(seed: int, draw: Any) -> None:
    given = observed(seed)
    order = draw.sample(range(len(given["weights"])), len(given["weights"]))
    before = fit_slopes(**given)
    after = fit_slopes(**{name: array[order] for name, array in given.items()})
    check(after, before.slopes, before.standard_errors, before.inflation)


@given(seed=seeds, factor=st.floats(1e-4, 1e4))
@few
def test_another_unit_of_loss_scales_slopes_and_errors(seed: int, factor: float) -> None:
    given = observed(seed)
    before = fit_slopes(**given)
    after = fit_slopes(**{**given, "changes": factor * given["changes"], "errors": factor * given["errors"]})
    np.testing.assert_allclose(after.slopes / factor, before.slopes, rtol=1e-8, atol=1e-9)
    np.testing.assert_allclose(after.standard_errors / factor, before.standard_errors, rtol=1e-8)


@given(seed=seeds, factor=st.floats(1e-3, 1e3))
@few
def test_more_exposure_for_the_same_change_is_a_smaller_slope(seed: int, factor: float) -> None:
    given = observed(seed)
    before = fit_slopes(**given)
    after = fit_slopes(**{**given, "exposures": factor * given["exposures"]})
    np.testing.assert_allclose(after.slopes * factor, before.slopes, rtol=1e-8, atol=1e-9)
    np.testing.assert_allclose(after.standard_errors * factor, before.standard_errors, rtol=1e-8)


@given(seed=seeds)
@few
def test_each_loss_is_fitted_by_itself(seed: int) -> None:
    given = observed(seed)
    whole = fit_slopes(**given)
    for row in range(given["changes"].shape[1]):
        alone = {name: given[name][:, [row]] for name in ("changes", "errors")}
        check(
            fit_slopes(**{**given, **alone}),
            whole.slopes[[row]],
            whole.standard_errors[[row]],
            whole.inflation[[row]],
        )


mixtures = st.integers(1, 4).flatmap(
    lambda n: st.lists(st.lists(st.floats(0, 1), min_size=n, max_size=n), min_size=1, max_size=12)
)


@given(found=mixtures, beta=st.floats(0, 0.999), cut=st.integers(0, 12))
@few
def test_shares_of_a_first_moment_sum_to_one_and_going_on_equals_going_through(
    found: list[list[float]], beta: float, cut: int
) -> None:
    steps = [(np.array(row) + 1e-3) / (sum(row) + 1e-3 * len(row)) for row in found]
    shares, average = blended(np.zeros(len(steps[0])), 0, steps, beta)
    np.testing.assert_allclose(shares.sum(axis=1), 1, rtol=1e-9)
    assert (shares >= 0).all()
    first, stored = blended(np.zeros(len(steps[0])), 0, steps[:cut], beta)
    second, end = blended(stored, len(steps[:cut]), steps[cut:], beta)
    np.testing.assert_array_equal(np.concatenate([first, second]), shares)
    np.testing.assert_array_equal(end, average)
