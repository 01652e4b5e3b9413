"""Losses and their changes, against sums by hand, resampling and scipy."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from trimtab.errors import ShapeError
from trimtab.train.losses import Change, SequenceLosses, change


def readings(n: int, seed: int = 0) -> SequenceLosses:
    """Sequences of very different lengths and difficulties."""
    draw = np.random.default_rng(seed)
    tokens = draw.integers(1, 60, n)
    return SequenceLosses(tokens * draw.gamma(3.0, 1.0, n), tokens)


def test_a_loss_is_weighted_by_tokens() -> None:
    read = SequenceLosses(np.array([2.0, 9.0]), np.array([1, 3]))
    assert read.loss == 11 / 4


def test_a_standard_error_by_hand() -> None:
    """Residuals 2 - 2.75 and 9 - 8.25; the ratio estimator divides by the tokens of all."""
    read = SequenceLosses(np.array([2.0, 9.0]), np.array([1, 3]))
    assert read.standard_error == pytest.approx(math.sqrt(2 / 1 * (0.75**2 + 0.75**2)) / 4, abs=1e-15)


def test_a_standard_error_is_the_spread_over_resampled_sequences() -> None:
    read = readings(500)
    draw = np.random.default_rng(1)
    picks = draw.integers(0, 500, (4000, 500))
    resampled = read.nll[picks].sum(1) / read.tokens[picks].sum(1)
    assert read.standard_error == pytest.approx(resampled.std(), rel=0.04)


def test_with_equal_lengths_it_is_the_standard_error_of_a_mean() -> None:
    nll = np.random.default_rng(2).normal(30, 4, 40)
    read = SequenceLosses(nll, np.full(40, 10))
    assert read.standard_error == pytest.approx(stats.sem(nll / 10), rel=1e-12)


def test_nothing_to_read_is_nan() -> None:
    nothing = SequenceLosses(np.array([]), np.array([], dtype=int))
    silent = SequenceLosses(np.array([0.0, 0.0]), np.array([0, 0]))
    for read in (nothing, silent):
        assert math.isnan(read.loss)
        assert math.isnan(read.standard_error)


def test_one_sequence_has_a_loss_without_a_standard_error() -> None:
    read = SequenceLosses(np.array([6.0]), np.array([3]))
    assert read.loss == 2.0
    assert math.isnan(read.standard_error)


def test_the_first_sequences_are_a_reading_of_their_own() -> None:
    read = readings(10)
    some = read.first(4)
    assert some.loss == pytest.approx(read.nll[:4].sum() / read.tokens[:4].sum(), abs=1e-15)
    assert len(read.first(99).nll) == 10


def test_a_change_is_the_difference_of_the_losses_with_the_error_of_paired_differences() -> None:
    before = readings(60)
    shift = np.random.default_rng(3).normal(-0.2, 0.05, 60)
    after = SequenceLosses(before.nll + shift * before.tokens, before.tokens)
    moved = change(after, before)
    weights = before.tokens / before.tokens.sum()
    assert moved.value == pytest.approx(after.loss - before.loss, abs=1e-12)
    expected = math.sqrt(60 / 59 * ((weights * (shift - moved.value)) ** 2).sum())
    assert moved.standard_error == pytest.approx(expected, rel=1e-9)
    assert moved.standard_error < after.standard_error / 5
    assert moved.n == 60


def test_the_interval_is_students_with_a_degree_of_freedom_less_than_units() -> None:
    moved = Change(0.5, 0.1, n=90, units=7)
    assert (moved.low, moved.high) == pytest.approx(stats.t.interval(0.95, 6, 0.5, 0.1), rel=1e-12)


def test_one_unit_has_no_interval() -> None:
    assert math.isnan(Change(0.5, math.nan, n=1, units=1).high)


def test_with_equal_records_the_error_is_that_of_the_mean_over_records() -> None:
    draw = np.random.default_rng(5)
    by_record = draw.normal(3.0, 0.5, (9, 1)) + draw.normal(0.0, 0.2, (9, 6))
    order = draw.permutation(54)
    records = np.repeat(np.arange(9) * 10, 6)[order]
    read = SequenceLosses(20 * by_record.ravel()[order], np.full(54, 20), records)
    assert read.units == 9
    assert read.standard_error == pytest.approx(stats.sem(by_record.mean(1)), rel=1e-12)
    assert read.first(3).units == len(set(records[:3]))


def test_the_error_is_the_spread_over_resampled_records_of_unequal_size() -> None:
    draw = np.random.default_rng(6)
    records = np.sort(draw.integers(0, 200, 1500))
    tokens = draw.integers(5, 60, 1500)
    read = SequenceLosses(
        tokens * (draw.gamma(9.0, 0.3, 200)[records] + draw.normal(0, 0.3, 1500)), tokens, records
    )
    nll, of = (np.bincount(records, values, 200) for values in (read.nll, read.tokens))
    picks = draw.integers(0, 200, (4000, 200))
    assert read.standard_error == pytest.approx((nll[picks].sum(1) / of[picks].sum(1)).std(), rel=0.06)


def test_sequences_of_a_single_record_count_one_by_one() -> None:
    free, one = readings(12), readings(12)
    one = SequenceLosses(one.nll, one.tokens, np.zeros(12, dtype=int))
    assert (one.units, one.standard_error) == (12, free.standard_error)


def grouped(seed: int, n: int = 400) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Losses and tokens of sequences of groups of very different sizes, and the group of each."""
    draw = np.random.default_rng(seed)
    groups, tokens = draw.geometric(0.08, n), draw.integers(3, 60, n)
    return tokens * (draw.gamma(9.0, 0.3, 400)[groups] + draw.normal(0, 0.3, n)), tokens, groups


def test_over_groups_the_error_is_the_cluster_robust_one_of_a_weighted_regression() -> None:
    """The sandwich of a regression on a constant, weights the tokens, with G / (G - 1) (Cameron & Miller 2015)."""
    nll, tokens, groups = grouped(7)
    names = np.unique(groups)
    ones, weights, y = np.ones((len(nll), 1)), np.diag(tokens.astype(float)), nll / tokens
    bread = np.linalg.inv(ones.T @ weights @ ones)
    residual = y - (ones @ bread @ ones.T @ weights @ y)
    meat = np.zeros((1, 1))
    for name in names:
        of = groups == name
        score = ones[of].T @ weights[np.ix_(of, of)] @ residual[of]
        meat += np.outer(score, score)
    expected = math.sqrt((len(names) / (len(names) - 1) * bread @ meat @ bread).item())
    read = SequenceLosses(nll, tokens, groups)
    assert read.units == len(names)
    assert read.standard_error == pytest.approx(expected, rel=1e-10)
    assert read.standard_error > 1.3 * SequenceLosses(nll, tokens).standard_error


def test_groups_of_one_record_each_change_no_bit() -> None:
    """Records and groups are numbered by first appearance, whatever the order in which sequences are read."""
    nll, tokens, records = grouped(8)
    order = np.unique(records)
    for groups in (np.searchsorted(order, records), records + 100):
        ours, theirs = SequenceLosses(nll, tokens, records), SequenceLosses(nll, tokens, groups)
        assert (ours.standard_error, ours.units) == (theirs.standard_error, theirs.units)


def test_only_over_groups_does_the_interval_cover_as_often_as_it_says() -> None:
    """24 groups of five sequences with normal effects: Student's interval is exact, so its count is binomial."""
    draw, tokens, groups, runs = np.random.default_rng(9), np.full(120, 10), np.repeat(np.arange(24), 5), 2000
    covered = np.zeros(2, int)
    for _ in range(runs):
        shift = 0.1 + np.repeat(draw.normal(0, 0.3, 24), 5) + draw.normal(0, 0.3, 120)
        for which, parts in enumerate((groups, np.arange(120))):
            before = SequenceLosses(tokens * 3.0, tokens, parts)
            moved = change(SequenceLosses(before.nll + tokens * shift, tokens, parts), before)
            covered[which] += moved.low <= 0.1 <= moved.high
    least, most = stats.binom.ppf([1e-4, 1 - 1e-4], runs, 0.95)
    assert least <= covered[0] <= most
    assert covered[1] < stats.binom.ppf(1e-9, runs, 0.9)


def test_the_interval_covers_the_true_change_as_often_as_it_says() -> None:
    draw = np.random.default_rng(4)
    covered = 0
    for _ in range(800):
        tokens = draw.integers(5, 60, 50)
        before = SequenceLosses(tokens * 3.0, tokens)
        after = SequenceLosses(before.nll + tokens * draw.normal(0.1, 0.3, 50), tokens)
        moved = change(after, before)
        covered += moved.low <= 0.1 <= moved.high
    assert covered / 800 == pytest.approx(0.94, abs=0.02)


def test_the_same_reading_twice_has_not_changed() -> None:
    moved = change(readings(5), readings(5))
    assert (moved.value, moved.standard_error) == (0.0, 0.0)


def test_a_reading_that_diverged_gives_no_number_and_no_warning() -> None:
    before = readings(4)
    for bad in (math.inf, math.nan):
        after = SequenceLosses(np.array([1.0, bad, 2.0, bad]), before.tokens)
        moved = change(after, before)
        assert not math.isfinite(moved.value)
        assert math.isnan(moved.standard_error)
        assert math.isnan(change(after, after).value)


@pytest.mark.parametrize("tokens", [[1, 2], [1, 2, 4]])
def test_readings_of_other_sequences_are_refused(tokens: list[int]) -> None:
    before = SequenceLosses(np.ones(3), np.array([1, 2, 3]))
    after = SequenceLosses(np.ones(len(tokens)), np.array(tokens))
    with pytest.raises(ShapeError, match="expected two readings of the same sequences"):
        change(after, before)
