"""Intervals against SciPy's, and the upper end of an information against its equation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.stats import t, ttest_1samp

from trimtab.read.leaks.intervals import clustered_mean, information_upper


@given(st.lists(st.floats(-5, 5), min_size=2, max_size=30))
def test_rows_of_their_own_have_students_interval(values):
    mean, low, high = clustered_mean(np.array(values), np.arange(len(values)))
    if np.std(values) > 1e-6:
        expected = ttest_1samp(values, 0.0).confidence_interval()
        assert (low, high) == (pytest.approx(expected.low), pytest.approx(expected.high))
    assert low <= mean + 1e-12
    assert mean <= high + 1e-12


def test_clusters_of_equal_size_have_the_interval_of_their_means():
    rng = np.random.default_rng(0)
    values, clusters = rng.normal(size=60), np.repeat(np.arange(12), 5)
    expected = ttest_1samp(values.reshape(12, 5).mean(axis=1), 0.0).confidence_interval()
    assert clustered_mean(values, clusters)[1:] == (pytest.approx(expected.low), pytest.approx(expected.high))
    assert np.isnan(clustered_mean(values, np.zeros(60, dtype=int))[1:]).all()


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 1000), st.integers(5, 300), st.floats(-0.05, 0.9))
@example(seed=0, n=83, mean=-0.046875)
def test_the_upper_end_of_information_has_the_variance_there(seed, n, mean):
    """The larger root of the equation of the end, from three of its values."""
    gained = np.random.default_rng(seed).normal(size=n) * 0.2
    gained += mean - gained.mean()
    end = information_upper(gained, np.arange(n), np.arange(n) % 2, 1.0)

    def known(bits):
        return bits * (1 - bits)

    def beyond(bits):
        variance = gained.var(ddof=1) + 2 / np.log(2) * (known(bits) - known(max(mean, 0.0)))
        return (bits - mean) ** 2 - t.ppf(0.975, n - 1) ** 2 * variance / n

    plain = mean + t.ppf(0.975, n - 1) * gained.std(ddof=1) / np.sqrt(n)
    assert end >= plain - 1e-12
    if end > plain + 1e-9:
        points = np.array([0.0, 0.5, 1.0])
        roots = np.roots(np.polyfit(points, [beyond(one) for one in points], 2))
        if np.isreal(roots).all():
            assert end == pytest.approx(roots.real.max(), abs=1e-8)
        else:  # nothing solves the equation: the end is where it is nearest to
            assert end == pytest.approx(minimize_scalar(beyond).x, abs=1e-7)
    else:
        assert beyond(plain) >= -1e-9


def test_rows_without_any_gain_leave_room_for_a_small_leak():
    """By hand: end^2 = grows * end (1 - end / 2)."""
    rows = np.arange(200)
    end = information_upper(np.zeros(200), rows, rows % 4, 2.0)
    grows = t.ppf(0.975, 199) ** 2 / 200 * 2 / np.log(2)
    assert end == pytest.approx(grows / (1 + grows / 2))
    repeated = information_upper(np.zeros(200), rows // 2, rows // 2 % 4, 2.0)
    others = information_upper(np.zeros(200), rows // 2, rows % 4, 2.0)
    assert repeated > 1.9 * end
    assert others == pytest.approx(end, rel=0.02)


def test_rows_that_stand_several_times_in_their_group_narrow_no_interval():
    rng = np.random.default_rng(7)
    differences = rng.integers(-1, 2, 40).astype(float)
    once = clustered_mean(differences, np.arange(40), unit=1.0)
    again = clustered_mean(np.repeat(differences, 10), np.repeat(np.arange(40), 10), unit=1.0)
    assert again == pytest.approx(once, abs=1e-12)
