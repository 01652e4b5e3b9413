"""Intervals and p-values against scipy.stats, closed forms and full enumeration."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from trimtab.errors import ConfigError, ShapeError
from trimtab.numerics import bootstrap as resample
from trimtab.numerics.bootstrap import Interval, bootstrap, mean, mean_difference, p_value, ratio_of_sums

RNG = np.random.default_rng(0)
SKEWED = RNG.exponential(size=40)
OTHER = RNG.exponential(size=40) + 0.3


def ends(interval: Interval) -> list[float]:
    return [interval.low, interval.high]


@pytest.mark.parametrize("statistic", [mean, np.median, np.std])
def test_one_sample_equals_scipy(statistic: resample.Statistic) -> None:
    ours = bootstrap(statistic, SKEWED, n_boot=20_000)
    expected = stats.bootstrap(
        (SKEWED,), statistic, method="percentile", n_resamples=20_000, rng=np.random.default_rng(5)
    ).confidence_interval
    np.testing.assert_allclose(ends(ours), expected, atol=0.02)
    assert ours.value == pytest.approx(float(statistic(SKEWED)))
    assert ours.n == 40


@pytest.mark.parametrize("paired", [False, True])
def test_two_samples_equal_scipy(paired: bool) -> None:
    first, second = (SKEWED, SKEWED**1.2 + 0.1 * OTHER) if paired else (SKEWED, OTHER[:25])
    ours = bootstrap(mean_difference, first, second, paired=paired, n_boot=20_000)
    expected = stats.bootstrap(
        (first, second),
        mean_difference,
        paired=paired,
        method="percentile",
        n_resamples=20_000,
        rng=np.random.default_rng(5),
    ).confidence_interval
    np.testing.assert_allclose(ends(ours), expected, atol=0.03)
    assert ours.n == len(second)


def test_three_values_equal_the_enumerated_bootstrap() -> None:
    sample = np.array([0.0, 1.0, 5.0])
    every = [np.mean(pick) for pick in itertools.product(sample, repeat=3)]
    ours = bootstrap(mean, sample, n_boot=50_000, confidence=0.6)
    # 27 equally likely resamples; both tails lie well inside an atom, so the exact quantiles are these.
    assert (
        ours.low
        == pytest.approx(float(np.quantile(every, 0.2, method="inverted_cdf")))
        == pytest.approx(2 / 3)
    )
    assert (
        ours.high
        == pytest.approx(float(np.quantile(every, 0.8, method="inverted_cdf")))
        == pytest.approx(10 / 3)
    )


def test_large_sample_has_the_width_of_the_normal_law() -> None:
    sample = np.random.default_rng(1).normal(size=4000)
    width = np.diff(ends(bootstrap(mean, sample, n_boot=8000)))[0]
    assert width == pytest.approx(2 * 1.96 * sample.std() / math.sqrt(4000), rel=0.03)


def test_coverage_of_the_mean() -> None:
    rng, covered = np.random.default_rng(2), 0
    for seed in range(300):
        interval = bootstrap(mean, rng.normal(size=40), n_boot=400, confidence=0.9, seed=seed)
        covered += interval.low <= 0.0 <= interval.high
    # 270 expected of a perfect interval; four standard errors and the known shortfall at n = 40.
    assert 240 <= covered <= 291


def test_coverage_with_clusters_needs_clusters() -> None:
    rng, covered = np.random.default_rng(3), {"clustered": 0, "naive": 0}
    labels = np.repeat(np.arange(25), 8)
    for seed in range(150):
        sample = rng.normal(size=25)[labels] + 0.3 * rng.normal(size=200)
        for name, clusters in (("clustered", labels), ("naive", None)):
            interval = bootstrap(mean, sample, clusters=clusters, n_boot=300, confidence=0.9, seed=seed)
            covered[name] += interval.low <= 0.0 <= interval.high
    assert 118 <= covered["clustered"] <= 150
    assert covered["naive"] < 90


def plain(statistic: resample.Statistic) -> resample.Statistic:
    """The same statistic without its axis keyword, so that resamples are computed one by one."""
    return lambda *samples: statistic(*samples)


def test_at_once_equals_one_by_one() -> None:
    for statistic, samples, paired in (
        (mean, (SKEWED,), False),
        (mean_difference, (SKEWED, OTHER[:30]), False),
        (ratio_of_sums, (SKEWED, OTHER), True),
    ):
        fast = bootstrap(statistic, *samples, paired=paired, n_boot=300)
        slow = bootstrap(plain(statistic), *samples, paired=paired, n_boot=300)
        np.testing.assert_allclose(ends(fast), ends(slow), rtol=1e-10)


@pytest.mark.parametrize("sizes", [[4] * 10, list(range(1, 11))])
def test_totals_of_clusters_equal_their_rows(sizes: list[int]) -> None:
    labels = np.random.default_rng(4).permutation(np.repeat(np.arange(10), sizes))
    first, second = np.random.default_rng(5).uniform(1, 2, (2, len(labels)))
    picks = np.random.default_rng(0).integers(10, size=(300, 10))
    rows = [np.concatenate([np.flatnonzero(labels == cluster) for cluster in pick]) for pick in picks]
    for statistic, samples in (
        (mean, (first,)),
        (mean_difference, (first, second)),
        (ratio_of_sums, (first, second)),
    ):
        found = bootstrap(statistic, *samples, clusters=labels, n_boot=300)
        drawn = [statistic(*(sample[row] for sample in samples)) for row in rows]
        np.testing.assert_allclose(ends(found), np.quantile(drawn, [0.025, 0.975]), rtol=1e-10)
        assert found.value == pytest.approx(float(statistic(*samples)))
        assert found.n == 10


def test_each_row_its_own_cluster_is_no_cluster() -> None:
    clustered, plainly = (bootstrap(mean, SKEWED, clusters=own, n_boot=300) for own in (np.arange(40), None))
    np.testing.assert_allclose(ends(clustered), ends(plainly), rtol=1e-12)


def test_clusters_may_have_names() -> None:
    names = [f"file-{row // 4}" for row in range(40)]
    assert bootstrap(mean, SKEWED, clusters=names) == bootstrap(mean, SKEWED, clusters=np.arange(40) // 4)


def test_pairing_removes_what_the_pairs_share() -> None:
    shared = 10 * np.random.default_rng(6).normal(size=50)
    first, second = shared + 0.1 * SKEWED[:1], shared
    first = first + 0.01 * np.random.default_rng(7).normal(size=50)
    paired, apart = (bootstrap(mean_difference, first, second, paired=flag) for flag in (True, False))
    assert paired.high - paired.low < 0.02
    assert apart.high - apart.low > 2.0


def test_too_few_units_have_no_interval() -> None:
    assert bootstrap(mean, np.array([2.0])).n == 1
    assert np.isnan(ends(bootstrap(mean, np.array([2.0])))).all()
    assert np.isnan(ends(bootstrap(mean_difference, SKEWED, np.array([2.0])))).all()
    one_cluster = bootstrap(mean, SKEWED, clusters=np.zeros(40))
    assert one_cluster.n == 1
    assert np.isnan(ends(one_cluster)).all()


def test_a_nan_in_the_sample_is_a_nan_in_the_interval() -> None:
    interval = bootstrap(mean, np.array([1.0, np.nan, 3.0]))
    assert np.isnan([interval.value, *ends(interval)]).all()


def test_a_constant_sample() -> None:
    assert bootstrap(mean, np.full(5, 2.0)) == Interval(2.0, 2.0, 2.0, 5)


def test_chunks_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = bootstrap(mean, SKEWED, n_boot=100)
    monkeypatch.setattr(resample, "CHUNK", 200)
    assert bootstrap(mean, SKEWED, n_boot=100) == whole


def test_the_seed_decides() -> None:
    assert bootstrap(mean, SKEWED, seed=1) == bootstrap(mean, SKEWED, seed=1)
    assert bootstrap(mean, SKEWED, seed=1) != bootstrap(mean, SKEWED, seed=2)


def test_samples_stay_as_they_are() -> None:
    first, second = SKEWED.copy(), OTHER.copy()
    bootstrap(mean_difference, first, second, paired=True)
    np.testing.assert_array_equal(first, SKEWED)
    np.testing.assert_array_equal(second, OTHER)


@pytest.mark.parametrize("paired", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_a_p_value_is_the_one_of_scipy(seed: int, paired: bool) -> None:
    rng = np.random.default_rng(seed)
    first, second = rng.normal(size=16), rng.normal(size=16 if paired else 15) + 0.5
    kind = "samples" if paired else "independent"
    theirs = stats.permutation_test(
        (first, second), mean_difference, permutation_type=kind, n_resamples=999, rng=rng
    )
    ours = p_value(float(theirs.statistic), theirs.null_distribution)
    assert ours == pytest.approx(theirs.pvalue, abs=1e-12)


def test_ties_count_as_extreme_on_either_side() -> None:
    # 0.1 + 0.2 and 0.3 differ in the last digit; the arrangements are equal all the same.
    assert p_value(0.1 + 0.2, np.array([0.3, 0.3, 0.3])) == p_value(0.3, np.full(3, 0.1 + 0.2)) == 1.0


def test_a_p_value_is_never_zero() -> None:
    assert p_value(-100.0, np.zeros(99)) == p_value(100.0, np.zeros(99)) == 2 / 100


def test_p_values_hold_their_level() -> None:
    rng = np.random.default_rng(8)
    p = np.array([p_value(values[0], values[1:]) for values in rng.exponential(size=(400, 200))])
    assert 0.06 <= np.mean(p <= 0.1) <= 0.14


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: bootstrap(mean), "no samples, expected at least one"),
        (lambda: bootstrap(mean, np.zeros((2, 2))), r"a sample of shape \(2, 2\), expected one dimension"),
        (lambda: bootstrap(mean, np.zeros(0)), r"a sample of shape \(0,\)"),
        (lambda: bootstrap(mean_difference, np.zeros(3), np.zeros(2), paired=True), r"lengths \[3, 2\]"),
        (
            lambda: bootstrap(mean, np.zeros(3), clusters=[0, 1]),
            r"clusters of shape \(2,\), expected a label",
        ),
    ],
)
def test_shapes_that_do_not_fit(call: object, message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        call()  # type: ignore[operator]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: bootstrap(np.median, np.zeros(3), clusters=[0, 0, 1]),
            r"clusters of .*, expected one of \['mean', 'mean_difference', 'ratio_of_sums'\]",
        ),
        (lambda: bootstrap(mean, np.zeros(3), n_boot=0), "n_boot 0, expected at least 1"),
        (
            lambda: bootstrap(mean, np.zeros(3), confidence=95),
            "confidence 95, expected a number between 0 and 1",
        ),
    ],
)
def test_choices_out_of_range(call: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        call()  # type: ignore[operator]
