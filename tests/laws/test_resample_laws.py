"""Laws of intervals and permutation p-values that hold for any numbers."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from trimtab.numerics.bootstrap import bootstrap, mean, mean_difference, p_value, ratio_of_sums

values = st.integers(-1000, 1000).map(lambda number: number / 8)
samples = arrays(np.float64, st.integers(2, 12), elements=values)
some = settings(max_examples=40, deadline=None)


@some
@given(sample=samples, shift=values, factor=st.sampled_from([0.25, 0.5, 2.0, 8.0]))
def test_interval_of_the_mean_moves_with_its_sample(sample: np.ndarray, shift: float, factor: float) -> None:
    before, after = (bootstrap(mean, data, n_boot=100) for data in (sample, factor * sample + shift))
    expected = np.array([before.value, before.low, before.high]) * factor + shift
    np.testing.assert_allclose([after.value, after.low, after.high], expected, atol=1e-9)


@some
@given(sample=samples, confidence=st.floats(0.5, 0.98))
def test_interval_is_ordered_within_the_sample_and_grows_with_confidence(
    sample: np.ndarray, confidence: float
) -> None:
    inner, outer = (bootstrap(mean, sample, n_boot=200, confidence=level) for level in (confidence, 0.99))
    assert sample.min() - 1e-9 <= outer.low <= inner.low <= inner.high <= outer.high <= sample.max() + 1e-9


@some
@given(sample=samples)
def test_a_sample_paired_with_itself_has_no_difference(sample: np.ndarray) -> None:
    interval = bootstrap(mean_difference, sample, sample, paired=True, n_boot=50)
    assert (interval.value, interval.low, interval.high) == (0.0, 0.0, 0.0)


@some
@given(sample=samples, repeats=st.integers(1, 4))
def test_repeating_a_cluster_adds_no_evidence(sample: np.ndarray, repeats: int) -> None:
    once = bootstrap(mean, sample, n_boot=100)
    labels = np.repeat(np.arange(len(sample)), repeats)
    repeated = bootstrap(mean, np.repeat(sample, repeats), clusters=labels, n_boot=100)
    np.testing.assert_allclose([repeated.low, repeated.high], [once.low, once.high], atol=1e-9)
    assert repeated.n == once.n


@some
@given(sample=samples)
def test_a_ratio_to_ones_is_a_mean(sample: np.ndarray) -> None:
    ratio = bootstrap(ratio_of_sums, sample, np.ones_like(sample), paired=True, n_boot=100)
    plain = bootstrap(mean, sample, n_boot=100)
    np.testing.assert_allclose([ratio.low, ratio.high], [plain.low, plain.high], atol=1e-9)


@some
@given(drawn=samples, value=values)
def test_a_p_value_does_not_know_which_side_is_which(drawn: np.ndarray, value: float) -> None:
    assert p_value(value, drawn) == p_value(-value, -drawn)


@some
@given(drawn=samples, value=values)
def test_p_values_are_between_the_smallest_possible_and_one(drawn: np.ndarray, value: float) -> None:
    assert 1 / (len(drawn) + 1) <= p_value(value, drawn) <= 1.0
