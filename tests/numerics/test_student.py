"""Student's interval of a mean, and that it holds what a bootstrap of few units does not."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ttest_1samp

from trimtab.errors import ConfigError, ShapeError
from trimtab.numerics.bootstrap import bootstrap, mean, student, wilson

values = st.lists(st.floats(-100, 100).map(lambda value: round(value, 3)), min_size=2, max_size=40)


@given(values, st.floats(0.5, 0.999))
def test_the_interval_is_the_one_of_scipy(given: list[float], confidence: float) -> None:
    found, spread = student(np.array(given), confidence=confidence), float(np.std(given))
    assert (found.value, found.n) == (pytest.approx(float(np.mean(given))), len(given))
    if spread < 1e-6:  # SciPy divides by it
        assert found.high - found.low == pytest.approx(0, abs=1e-4)
        return
    expected = ttest_1samp(given, 0.0).confidence_interval(confidence)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("n", [3, 5, 8])
def test_it_holds_the_mean_of_few_units_as_often_as_it_says_and_the_bootstrap_does_not(n: int) -> None:
    draws, rng = 600, np.random.default_rng(n)
    held = {"student": 0, "bootstrap": 0}
    for _ in range(draws):
        units = rng.normal(size=n)
        for name, found in (("student", student(units)), ("bootstrap", bootstrap(mean, units, n_boot=400))):
            held[name] += found.low <= 0 <= found.high
    ours, theirs = (wilson(held[name], draws, confidence=0.999) for name in ("student", "bootstrap"))
    assert ours.low <= 0.95 <= ours.high
    assert theirs.high < 0.95


def test_one_value_has_no_interval() -> None:
    alone = student(np.array([2.0]))
    assert alone.value == 2.0
    assert math.isnan(alone.low)
    assert math.isnan(alone.high)


def test_no_values_two_dimensions_and_a_confidence_of_one_are_refused() -> None:
    for wrong in (np.array([]), np.ones((2, 2))):
        with pytest.raises(ShapeError):
            student(wrong)
    with pytest.raises(ConfigError, match="confidence"):
        student(np.ones(3), confidence=1.0)
