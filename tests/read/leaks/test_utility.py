"""Utility of mitigated outputs against a count by hand, and its intervals."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.errors import ShapeError
from trimtab.numerics.bootstrap import wilson
from trimtab.read.leaks.encodings import TopTokens
from trimtab.read.leaks.utility import MEASURES, answer_values, utility


def tops(seed: int, n: int, k: int) -> TopTokens:
    """Random tokens with falling values, some rows short."""
    rng = np.random.default_rng(seed)
    ids = np.stack([rng.permutation(8)[:k] for _ in range(n)])
    values = -np.sort(rng.exponential(size=(n, k)), axis=1)
    short = (rng.random(n) < 0.3) & (k > 1)
    ids[short, -1], values[short, -1] = -1, np.nan
    return TopTokens(ids, values)


def by_hand(before: TopTokens, after: TopTokens, answer: np.ndarray, right: np.ndarray) -> dict[str, float]:
    """The measures row by row."""
    said = [
        [
            {i: v for i, v in zip(ids, values, strict=True) if i >= 0}
            for ids, values in zip(each.ids.tolist(), each.values.tolist(), strict=True)
        ]
        for each in (before, after)
    ]
    errors, kept, brier = [], [], []
    for was, now, token, ok in zip(*said, answer.tolist(), right.tolist(), strict=True):
        kept.append(len(set(was) & set(now)) / len(was))
        if token in was and token in now:
            errors.append(abs(now[token] - was[token]))
        if token in now:
            brier.append((np.exp(now[token]) - ok) ** 2)
    same = np.mean(before.ids[:, 0] == after.ids[:, 0])
    means = (same, np.mean(errors or [np.nan]), np.mean(kept), np.mean(brier or [np.nan]))
    return dict(zip(MEASURES, map(float, means), strict=True))


@given(st.integers(0, 10_000), st.integers(2, 9), st.integers(1, 5))
def test_measures_are_a_count_by_hand(seed: int, n: int, k: int) -> None:
    before, after = tops(seed, n, 4), tops(seed + 1, n, k)
    rng = np.random.default_rng(seed)
    answer, right = rng.integers(0, 8, n), rng.random(n) < 0.5
    got = utility(before, after, answer, right=right)
    expected = by_hand(before, after, answer, right)
    for name in MEASURES:
        assert got[name] == pytest.approx(expected[name], nan_ok=True)
        if not np.isnan(got[f"{name}_low"]):
            assert got[f"{name}_low"] - 1e-9 <= got[name] <= got[f"{name}_high"] + 1e-9


def test_nothing_changed_costs_nothing() -> None:
    top = tops(0, 20, 4)
    got = utility(top, top, top.ids[:, 0])
    assert (got["same_answer"], got["kept"], got["answer_error_nats"]) == (1.0, 1.0, 0.0)
    assert got["same_answer_low"] == pytest.approx(wilson(20, 20).low, abs=0.03)
    assert np.isnan(got["answer_brier_error"])  # nobody knows what was right


def test_the_brier_error_of_a_value_that_noise_lifted_above_certainty_counts_as_certain() -> None:
    top = TopTokens(np.array([[4], [4]]), np.array([[0.5], [0.5]]))
    got = utility(top, top, np.array([4, 4]), right=np.array([True, False]))
    assert got["answer_brier_error"] == 0.5


def test_intervals_are_over_groups() -> None:
    before, after = tops(0, 40, 4), tops(1, 40, 4)
    alone = utility(before, after, before.ids[:, 0])
    doubled = [
        TopTokens(np.repeat(top.ids, 2, axis=0), np.repeat(top.values, 2, axis=0)) for top in (before, after)
    ]
    grouped = utility(*doubled, doubled[0].ids[:, 0], groups=np.repeat(np.arange(40), 2))
    for name in ("same_answer", "kept"):
        for end in ("", "_low", "_high"):
            assert grouped[name + end] == pytest.approx(alone[name + end])
    wide = grouped["answer_error_nats_high"] - grouped["answer_error_nats_low"]
    assert wide == pytest.approx(alone["answer_error_nats_high"] - alone["answer_error_nats_low"], rel=0.15)


def test_an_answer_that_is_not_served_has_no_value() -> None:
    top = tops(3, 5, 2)
    assert np.isnan(answer_values(top, np.full(5, 99))).all()
    assert np.isnan(utility(top, top, np.full(5, 99))["answer_error_nats"])


def test_rows_that_do_not_match_are_refused() -> None:
    top = tops(0, 4, 2)
    with pytest.raises(
        ShapeError, match=r"got 4 rows served and \[4, 3\] of the others, expected as many of each"
    ):
        utility(top, top, np.array([1, 2, 3]))
