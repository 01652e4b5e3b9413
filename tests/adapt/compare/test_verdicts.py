"""Changes, intervals and verdicts against scipy, the constrained likelihood by brute force, and closed forms."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from scipy.optimize import minimize_scalar
from statsmodels.stats.multitest import multipletests

from trimtab.adapt.compare.verdicts import (
    Harm,
    accuracy_harm,
    holm,
    loss_harm,
    mean_with_ends,
    share_with_ends,
)
from trimtab.train.losses import SequenceLosses

Z = stats.norm.ppf(0.975)


def losses(nll: Any, tokens: int = 4, records: Any = ()) -> SequenceLosses:
    values = np.asarray(nll, dtype=float)
    return SequenceLosses(values, np.full(len(values), tokens), np.asarray(records, dtype=np.int64))


def test_a_change_of_loss_is_the_paired_t_test() -> None:
    draw = np.random.default_rng(0)
    before, after = draw.normal(8, 2, 30), draw.normal(8.3, 2, 30)
    harm, each = loss_harm(losses(after), losses(before), 0.05), (after - before) / 4
    paired = stats.ttest_1samp(each, 0)
    ends = paired.confidence_interval()
    assert (harm.value, harm.low, harm.high) == pytest.approx((each.mean(), *ends), rel=1e-12)
    assert harm.p == pytest.approx(paired.pvalue, rel=1e-10)
    over = stats.ttest_1samp(each, 0.05, alternative="greater").pvalue
    assert harm.p_over == pytest.approx(over, rel=1e-10)
    assert harm.units == 30


def test_records_of_a_group_are_one_unit() -> None:
    draw = np.random.default_rng(1)
    before, shift = draw.normal(8, 2, 20), np.repeat(draw.normal(0, 1, 5), 4)
    groups = np.repeat(np.arange(5), 4)
    harm = loss_harm(losses(before + shift, records=groups), losses(before, records=groups), None)
    by_group = stats.ttest_1samp(shift.reshape(5, 4).mean(1) / 4, 0)
    assert harm.units == 5
    assert harm.p == pytest.approx(by_group.pvalue, rel=1e-9)
    assert (harm.low, harm.high) == pytest.approx(tuple(by_group.confidence_interval()), rel=1e-9)
    assert math.isnan(harm.p_over)


def test_no_change_is_exactly_none() -> None:
    same = losses([3.0, 4.0, 5.0])
    assert loss_harm(same, same, 0.0) == Harm(0.0, 0.0, 0.0, 3, 1.0, 1.0)
    assert loss_harm(same, same, 0.0).verdict(0.0, 1.0) == "kept"


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_breaks_every_tolerance(bad: float) -> None:
    before = losses([3.0, 4.0, 5.0])
    harm = loss_harm(losses([3.0, bad, 5.0]), before, 9.0)
    assert harm.lost
    assert harm.verdict(9.0, math.nan) == "broken"
    assert not loss_harm(
        before, losses([3.0, bad, 5.0]), 9.0
    ).lost  # the base model's is no fault of the tuned one's


@pytest.mark.parametrize(
    ("low", "high", "p_over", "verdict"),
    [
        (-0.01, 0.02, 0.4, "kept"),
        (-0.01, 0.021, 0.4, "open"),
        (0.021, 0.03, 0.01, "broken"),
        (0.021, 0.03, 0.03, "open"),  # after a correction for many others
        (math.nan, math.nan, math.nan, "open"),
    ],
)
def test_verdicts(low: float, high: float, p_over: float, verdict: str) -> None:
    harm = Harm(0.01, low, high, 12, 0.5, p_over)
    assert harm.verdict(0.02, p_over) == verdict
    assert harm.verdict(None, p_over) is None


def pair(lost: int, won: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Right answers of the tuned and of the base model."""
    base = np.r_[np.ones(lost), np.zeros(won), np.ones(n - lost - won)]
    return np.r_[np.zeros(lost), np.ones(won), np.ones(n - lost - won)], base


def score(lost: int, won: int, n: int, difference: float) -> float:
    """Tango's statistic with the constrained maximum of the likelihood found by search."""

    def minus_log(q: float) -> float:
        cells = (q + difference, q, 1 - 2 * q - difference)
        counts = (lost, won, n - lost - won)
        return -sum(
            count * math.log(max(cell, 1e-300)) for count, cell in zip(counts, cells, strict=True) if count
        )

    bounds = max(0.0, -difference), (1 - difference) / 2
    found = minimize_scalar(minus_log, bounds=bounds, method="bounded", options={"xatol": 1e-13})
    variance = n * (2 * found.x + difference - difference**2)
    return (lost - won - n * difference) / math.sqrt(variance)


@pytest.mark.parametrize(("lost", "won", "n"), [(5, 12, 60), (9, 2, 44), (3, 1, 25), (4, 4, 30)])
def test_points_have_the_score_interval_of_paired_proportions(lost: int, won: int, n: int) -> None:
    harm = accuracy_harm(*pair(lost, won, n), np.arange(n), 2.0)
    assert harm.value == pytest.approx(100 * (lost - won) / n)
    assert score(lost, won, n, harm.low / 100) == pytest.approx(Z, abs=1e-4)
    assert score(lost, won, n, harm.high / 100) == pytest.approx(-Z, abs=1e-4)
    mcnemar = 2 * stats.norm.sf(abs(lost - won) / math.sqrt(lost + won))
    assert harm.p == pytest.approx(mcnemar, abs=1e-9)
    assert harm.p_over == pytest.approx(stats.norm.sf(score(lost, won, n, 0.02)), abs=1e-5)


def test_equal_answers_are_no_proof_of_equal_models() -> None:
    right = np.ones(50)
    harm = accuracy_harm(right, right, np.arange(50), 1.0)
    end = 100 * Z**2 / (50 + Z**2)  # its closed form where no pair differs
    assert (harm.value, harm.low, harm.high) == pytest.approx((0.0, -end, end))
    assert harm.verdict(1.0, harm.p_over) == "open"
    same = accuracy_harm(right, right, np.arange(50), 0.0, identical=True)
    assert (same.low, same.high, same.verdict(0.0, same.p_over)) == (0.0, 0.0, "kept")


def test_points_are_clustered_by_group() -> None:
    lost, won, n = 12, 3, 60
    tuned, base = pair(lost, won, n)
    alone = accuracy_harm(tuned, base, np.arange(n), None)
    grouped = accuracy_harm(tuned, base, np.arange(n) // 6, None)
    assert grouped.value == alone.value
    assert grouped.units == 10
    assert grouped.high - grouped.low > 1.5 * (alone.high - alone.low)
    repeated = accuracy_harm(np.tile(tuned, 4), np.tile(base, 4), np.tile(np.arange(n), 4), None)
    assert (repeated.low, repeated.high) == pytest.approx((alone.low, alone.high), abs=0.3)


@given(st.integers(2, 60), st.data())
def test_intervals_of_points_hold_the_value_and_turn_with_the_sides(n: int, data: st.DataObject) -> None:
    lost = data.draw(st.integers(0, n))
    won = data.draw(st.integers(0, n - lost))
    tuned, base = pair(lost, won, n)
    harm, mirrored = (
        accuracy_harm(tuned, base, np.arange(n), 1.0),
        accuracy_harm(base, tuned, np.arange(n), 1.0),
    )
    assert -100 - 1e-9 <= harm.low <= harm.value + 1e-9
    assert harm.value - 1e-9 <= harm.high <= 100 + 1e-9
    assert (mirrored.low, mirrored.high) == pytest.approx((-harm.high, -harm.low), abs=1e-6)
    assert harm.p == pytest.approx(mirrored.p, abs=1e-9)


def test_coverage_of_points() -> None:
    draw, held = np.random.default_rng(3), 0
    for lost, won, _ in draw.multinomial(80, [0.08, 0.03, 0.89], size=400):
        harm = accuracy_harm(*pair(lost, won, 80), np.arange(80), None)
        held += harm.low <= 5.0 <= harm.high
    assert stats.binomtest(held, 400, 0.95).pvalue > 0.01


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12), st.randoms())
def test_holm_is_that_of_statsmodels(p: list[float], shuffle: Any) -> None:
    adjusted = holm(p)
    assert adjusted.tolist() == pytest.approx(multipletests(p, method="holm")[1].tolist())
    order = list(range(len(p)))
    shuffle.shuffle(order)
    assert holm([p[place] for place in order]).tolist() == pytest.approx([adjusted[place] for place in order])


def test_kl_has_an_interval_that_ends_at_none() -> None:
    value, low, high = mean_with_ends(losses([0.0, 0.0, 4.0]))
    each = stats.ttest_1samp(np.array([0.0, 0.0, 1.0]), 0).confidence_interval()
    assert (value, low, high) == pytest.approx((1 / 3, 0.0, each.high))


def test_one_record_has_no_interval() -> None:
    assert np.isnan(mean_with_ends(losses([4.0]))[1:]).all()
    harm = loss_harm(losses([4.0]), losses([3.0]), 0.5)
    assert math.isnan(harm.low)
    assert harm.verdict(0.5, harm.p_over) == "open"


def test_a_share_has_wilsons_interval() -> None:
    counts = SequenceLosses(np.array([0.0, 0.0, 0.0, 0.0]), np.array([3, 4, 5, 6]))
    quantile = stats.t.ppf(0.975, 3)
    assert share_with_ends(counts) == pytest.approx((0.0, 0.0, quantile**2 / (4 + quantile**2)))
    counts = SequenceLosses(np.array([2.0, 1.0, 0.0, 4.0, 2.0]), np.array([8, 8, 8, 8, 8]))
    share, low, high = share_with_ends(counts)
    assert share == pytest.approx(9 / 40)
    assert 0 < low < share < high < 1
