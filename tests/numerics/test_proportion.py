from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from trimtab.errors import ConfigError
from trimtab.numerics.bootstrap import wilson

counts = st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


@given(counts, st.floats(0.5, 0.999))
def test_the_interval_is_the_one_of_scipy(count: tuple[int, int], confidence: float) -> None:
    successes, n = count
    expected = binomtest(successes, n).proportion_ci(confidence, method="wilson")
    share = wilson(successes, n, confidence=confidence)
    assert (share.value, share.n) == (successes / n, n)
    assert (share.low, share.high) == pytest.approx((expected.low, expected.high), abs=1e-12)


@given(counts)
def test_an_end_of_the_interval_lies_z_standard_errors_from_the_count(count: tuple[int, int]) -> None:
    """The definition, without the formula: at an end p, |k - n p| = z sqrt(n p (1 - p))."""
    successes, n = count
    share = wilson(successes, n)
    for end in (share.low, share.high):
        away = 1.959963984540054 * math.sqrt(n * end * (1 - end))
        assert abs(successes - n * end) == pytest.approx(away, abs=1e-6)


@given(counts)
def test_failures_mirror_successes(count: tuple[int, int]) -> None:
    successes, n = count
    share, mirrored = wilson(successes, n), wilson(n - successes, n)
    assert (share.low, share.high) == pytest.approx((1 - mirrored.high, 1 - mirrored.low), abs=1e-12)


def test_no_trial_gives_no_answer_and_all_or_none_still_a_width() -> None:
    assert all(math.isnan(value) for value in (wilson(0, 0).value, wilson(0, 0).low, wilson(0, 0).high))
    assert wilson(0, 10).low == 0.0 < wilson(0, 10).high < 0.3
    assert wilson(10, 10).high == 1.0 > wilson(10, 10).low > 0.7


@pytest.mark.parametrize(("successes", "n"), [(-1, 4), (5, 4), (1, 0)])
def test_impossible_counts_are_refused(successes: int, n: int) -> None:
    with pytest.raises(ConfigError, match=f"got {successes} successes of {n}, expected between none and all"):
        wilson(successes, n)


def test_an_impossible_confidence_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"got confidence 1\.0, expected a number between 0 and 1"):
        wilson(1, 2, confidence=1.0)
