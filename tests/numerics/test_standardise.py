"""Gaps and ratios of strata against statsmodels and by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from statsmodels.stats.contingency_tables import StratifiedTable, Table2x2

from trimtab.numerics import cluster_bootstrap as standardise
from trimtab.numerics.cluster_bootstrap import gradients


def cells(seed: int, strata: int = 4) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    n = rng.integers(2, 40, (2, strata)).astype(float)
    return np.floor(rng.uniform(0.1, 0.9, n.shape) * n).clip(1, n - 1), n


@given(st.integers(0, 100_000))
def test_ratios_agree_with_statsmodels(seed: int) -> None:
    yes, n = cells(seed)
    tables = [
        np.array([[yes[1, k], n[1, k] - yes[1, k]], [yes[0, k], n[0, k] - yes[0, k]]]) for k in range(4)
    ]
    theirs, whole = StratifiedTable(tables), Table2x2(np.sum(tables, axis=0))
    assert standardise.odds_ratio(yes, n) == pytest.approx(whole.oddsratio, rel=1e-10)
    assert standardise.risk_ratio(yes, n) == pytest.approx(whole.riskratio, rel=1e-10)
    assert standardise.mantel_haenszel(yes, n) == pytest.approx(theirs.oddsratio_pooled, rel=1e-10)
    assert standardise.mantel_haenszel_risk(yes, n) == pytest.approx(theirs.riskratio_pooled, rel=1e-10)


@given(st.integers(0, 100_000))
def test_swapping_groups_turns_gaps_and_ratios_round(seed: int) -> None:
    yes, n = cells(seed)
    back = yes[::-1], n[::-1]
    assert standardise.gap(*back) == pytest.approx(-standardise.gap(yes, n), abs=1e-12)
    mix = n.sum(axis=0)
    there = standardise.standardised_gap(yes, n, mix)
    assert standardise.standardised_gap(*back, mix) == pytest.approx(-there, abs=1e-12)
    for ratio in (standardise.odds_ratio, standardise.risk_ratio, standardise.mantel_haenszel):
        assert ratio(*back) == pytest.approx(1 / ratio(yes, n), rel=1e-10)
    # Naming what is not named so turns the odds ratio round as well.
    assert standardise.odds_ratio(n - yes, n) == pytest.approx(1 / standardise.odds_ratio(yes, n), rel=1e-10)


@given(st.integers(0, 100_000))
def test_the_gap_is_rates_standardised_to_each_groups_own_mix(seed: int) -> None:
    """Each group at its own mix is what it is; equal mixes make raw and standardised gaps equal."""
    yes, n = cells(seed)
    rate = yes / n
    own = [float((n[g] / n[g].sum()) @ rate[g]) for g in (0, 1)]
    np.testing.assert_allclose(standardise.means(yes, n), own, atol=1e-12)
    at = standardise.standardised_gap(yes, n, n[1])
    composition = float(((n[1] / n[1].sum()) - (n[0] / n[0].sum())) @ rate[0])
    assert at + composition == pytest.approx(float(standardise.gap(yes, n)), abs=1e-12)
    same = np.stack([n[0], 3 * n[0]])
    even = rate * same
    for mix in (same[0], same[1], same.sum(axis=0)):
        assert standardise.standardised_gap(even, same, mix) == pytest.approx(
            standardise.gap(even, same), abs=1e-12
        )


def test_a_stratum_with_one_group_adds_nothing_to_what_is_compared() -> None:
    yes, n = cells(3)
    more = np.concatenate([yes, [[5.0], [0.0]]], axis=1), np.concatenate([n, [[9.0], [0.0]]], axis=1)
    mix = more[1][0]
    assert standardise.standardised_gap(*more, mix) == pytest.approx(
        standardise.standardised_gap(yes, n, mix[:-1]), abs=1e-12
    )
    assert standardise.mantel_haenszel(*more) == pytest.approx(standardise.mantel_haenszel(yes, n), abs=1e-12)


def test_undefined_is_nan() -> None:
    nobody = np.zeros((2, 1)), np.array([[3.0], [0.0]])
    assert np.isnan(standardise.gap(*nobody))
    assert np.isnan(standardise.standardised_gap(*nobody, np.array([3.0])))
    assert np.isnan(standardise.risk_ratio(np.array([[0.0], [1.0]]), np.array([[2.0], [2.0]])))


def test_all_can_be_differentiated_by_complex_steps() -> None:
    yes, n = cells(5)

    def both(totals: np.ndarray) -> np.ndarray:
        split = totals.reshape(*totals.shape[:-2], 2, -1, 2)
        yes, n = split[..., 0], split[..., 1]
        return np.stack(
            [standardise.standardised_gap(yes, n, n[..., 1, :]), standardise.mantel_haenszel(yes, n)], -1
        )

    totals = np.stack([yes, n], axis=-1).reshape(8, 2)
    exact, step = gradients(both, totals), 1e-6
    for cell, value in np.ndindex(8, 2):
        move = np.zeros_like(totals)
        move[cell, value] = step
        numeric = (both(totals + move) - both(totals - move)) / (2 * step)
        np.testing.assert_allclose(exact[:, cell, value], numeric, rtol=1e-6, atol=1e-9)
