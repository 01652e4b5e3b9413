"""Bootstrap of functions of totals against the general bootstrap, exact laws and brute force."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from trimtab.errors import ConfigError, ShapeError
from trimtab.numerics.bootstrap import Interval, bootstrap, ratio_of_sums
from trimtab.numerics.cluster_bootstrap import (
    bootstrap_totals,
    dealt_totals,
    gradients,
    spread,
    units_of,
    wilson_of_clusters,
)


def one_mean(totals: np.ndarray) -> np.ndarray:
    return (totals[..., 0, 0] / totals[..., 0, 1])[..., None]


def units(values: np.ndarray, clusters: np.ndarray | None = None):
    table = np.column_stack([values, np.ones(len(values))])
    return units_of(table, np.zeros(len(values), dtype=int), 1, clusters)


def widened(interval: Interval) -> list[float]:
    """With one cell, Welch's degrees of freedom are those of Student's test: the number of units less one."""
    factor = stats.t.ppf(0.975, interval.n - 1) / stats.norm.ppf(0.975)
    return [interval.value + factor * (end - interval.value) for end in (interval.low, interval.high)]


@given(st.integers(0, 10_000), st.integers(1, 6))
def test_units_add_up_and_alike_ones_are_told_once(seed: int, n_clusters: int) -> None:
    rng = np.random.default_rng(seed)
    values, cells = rng.integers(0, 3, (30, 2)).astype(float), rng.integers(0, 4, 30)
    clusters = rng.integers(0, n_clusters, 30)
    found = units_of(values, cells, 4, clusters)
    whole = np.zeros((4, 2))
    np.add.at(whole, cells, values)
    np.testing.assert_allclose(found.total(), whole)
    assert found.n == len(np.unique(clusters))
    by_hand = {}
    for cluster in np.unique(clusters):
        own = clusters == cluster
        rows = tuple(sorted(zip(cells[own], map(tuple, values[own]), strict=True)))
        by_hand[rows] = by_hand.get(rows, 0) + 1
    assert sorted(by_hand.values()) == sorted(found.counts.tolist())


@pytest.mark.parametrize("method", ["percentile", "bca"])
def test_it_agrees_with_scipy(method: str) -> None:
    sample = np.random.default_rng(0).exponential(size=40).round(1)
    mine = bootstrap_totals(one_mean, units(sample), method=method, n_boot=40_000)
    own = np.random.default_rng(1)
    theirs = stats.bootstrap(
        (sample,),
        np.mean,
        n_resamples=40_000,
        method={"bca": "BCa"}.get(method, method),
        rng=own,
    ).confidence_interval
    plainly = Interval(sample.mean(), theirs.low, theirs.high, 40)
    ends = widened(plainly) if method == "percentile" else [theirs.low, theirs.high]
    np.testing.assert_allclose([mine.low[0], mine.high[0]], ends, atol=0.02)
    assert mine.values[0] == pytest.approx(sample.mean(), abs=1e-12)
    assert mine.errors[0] == pytest.approx(stats.sem(sample), abs=1e-12)


def test_clusters_are_drawn_whole() -> None:
    rng = np.random.default_rng(3)
    clusters = np.repeat(np.arange(25), rng.integers(1, 6, 25))
    sample = rng.normal(size=25)[clusters] + 0.1 * rng.normal(size=len(clusters))
    mine = bootstrap_totals(one_mean, units(sample, clusters), n_boot=40_000)
    theirs = bootstrap(ratio_of_sums, sample, np.ones_like(sample), clusters=clusters, n_boot=40_000, seed=1)
    np.testing.assert_allclose([mine.low[0], mine.high[0]], widened(theirs), atol=0.02)
    assert mine.n == 25


def test_gradients_are_exact() -> None:
    totals = np.array([[3.0, 4.0]])
    np.testing.assert_allclose(gradients(one_mean, totals), [[[1 / 4, -3 / 16]]], rtol=1e-14)


@given(st.integers(0, 10_000))
def test_spread_keeps_means_and_makes_the_variance_unbiased(seed: int) -> None:
    rng = np.random.default_rng(seed)
    values, cells = rng.normal(size=20), np.repeat([0, 1, 2], [2, 5, 13])
    moved = spread(values, cells, np.arange(20))
    for cell in range(3):
        own = cells == cell
        assert moved[own].mean() == pytest.approx(values[own].mean(), abs=1e-12)
        assert moved[own].var() == pytest.approx(values[own].var(ddof=1), abs=1e-12)


def test_a_resample_that_says_nothing_is_left_out_until_there_are_too_many() -> None:
    def second(totals: np.ndarray) -> np.ndarray:
        with np.errstate(invalid="ignore", divide="ignore"):
            return (totals[..., 1, 0] / totals[..., 1, 1])[..., None]

    for members, known in ((6, True), (1, False)):
        cells = np.r_[np.zeros(50, dtype=int), np.ones(members, dtype=int)]
        table = np.column_stack([np.arange(50 + members, dtype=float), np.ones(50 + members)])
        found = bootstrap_totals(second, units_of(table, cells, 2))
        assert np.isfinite(found.low[0]) == known
    assert np.isnan(bootstrap_totals(one_mean, units(np.array([1.0]))).low[0])


def test_dealing_labels_keeps_what_must_be_kept() -> None:
    rng = np.random.default_rng(0)
    totals, labelled = rng.normal(size=(5, 3)), np.array([[2, 0], [1, 3], [0, 4], [5, 1], [1, 1]])
    dealt = dealt_totals(totals, labelled, 20_000, rng)
    np.testing.assert_allclose(
        dealt.sum(axis=1), np.broadcast_to(labelled.sum(axis=1) @ totals, (20_000, 3)), atol=1e-9
    )
    share = labelled[:, 1].sum() / labelled.sum()
    np.testing.assert_allclose(dealt[:, 1].mean(axis=0), share * labelled.sum(axis=1) @ totals, atol=0.1)


def test_what_is_wrong_is_refused() -> None:
    with pytest.raises(ShapeError, match="0 rows"):
        units_of(np.empty((0, 1)), np.empty(0, dtype=int), 1)
    with pytest.raises(ConfigError, match="method 'student'"):
        bootstrap_totals(one_mean, units(np.arange(4.0)), method="student")  # type: ignore[arg-type]


def test_wilson_of_clusters_covers_near_the_ceiling_exactly() -> None:
    """Independent answers: the coverage is a sum over binomial counts, so no simulation is needed."""
    n = 150
    for rate in (0.85, 0.9, 0.97, 0.98):
        held = 0.0
        for count in range(n + 1):
            values = (np.arange(n) < count).astype(float)
            low, high = wilson_of_clusters(values, np.zeros(n, dtype=int), np.arange(n), 1)
            held += stats.binom.pmf(count, n, rate) * bool(low[0] <= rate <= high[0])
        assert 0.94 < held < 0.975


def test_wilson_of_clusters_counts_copies_once() -> None:
    """Answers that come k times in their cluster say what they say once."""
    once = np.array([1.0, 0.0, 1.0, 1.0, 0.0, 1.0])
    cells, codes = np.zeros(6, dtype=int), np.arange(6)
    alone = wilson_of_clusters(once, cells, codes, 2)
    copies = wilson_of_clusters(np.repeat(once, 7), np.repeat(cells, 7), np.repeat(codes, 7), 2)
    np.testing.assert_allclose(alone, copies)
    assert np.isnan([alone[0][1], alone[1][1]]).all()  # an empty cell


def test_wilson_of_clusters_is_wilsons_with_the_trials_of_its_variance() -> None:
    rng = np.random.default_rng(0)
    codes = np.repeat(np.arange(30), 5)
    values = (rng.random(150) < 0.4 + 0.3 * rng.standard_normal(30).clip(-1, 1)[codes]).astype(float)
    low, high = wilson_of_clusters(values, np.zeros(150, dtype=int), codes, 1)
    p = values.mean()
    sums = np.array([(values[codes == code] - p).sum() for code in range(30)])
    trials = p * (1 - p) / (30 * sums.var(ddof=1) / 150**2)
    z = stats.t.ppf(0.975, 29)
    for end in (low[0], high[0]):  # Wilson's ends are where the score test is at its quantile
        assert abs(p - end) / np.sqrt(end * (1 - end) / trials) == pytest.approx(z)
