"""What injection did, against SciPy, sums by hand and planted differences."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from statsmodels.stats.weightstats import ttost_paired

from trimtab.adapt.forgetting.effects import (
    beside_none,
    equivalence,
    forgetting_shown,
    injected_sequences,
    share_removed,
    target_equivalence,
)
from trimtab.errors import ConfigError, DataError


def runs(share_left: float = 0.25, cost: float = 0.0) -> pd.DataFrame:
    """Two sizes, three token counts, two seeds; 1 % leaves so much of the rise and costs so much of the target loss."""
    grid = [(n, d, p, s) for n in (1e5, 4e5) for d in (1e3, 1e4, 1e5) for p in (0.0, 0.01) for s in (0, 1)]
    frame = pd.DataFrame(grid, columns=["params", "tokens", "inject", "seed"])
    none = 0.1 * np.log10(frame["tokens"]) * (1 + 0.1 * frame["seed"])
    some = frame["inject"] > 0
    frame["loss_pt0"] = 3.0
    frame["loss_pt"] = 3.0 + none.where(~some, none * share_left)
    frame["loss_ft"] = 2.0 * np.exp(cost * some + 0.001 * frame["seed"] * some)
    frame["injected"] = frame["inject"] * frame["tokens"] / 100
    frame["rise_low"] = frame["loss_pt"] - frame["loss_pt0"] - 0.35
    return frame


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.05, 2))
def test_equivalence_is_that_of_statsmodels(seed: int, margin: float) -> None:
    draw = np.random.default_rng(seed)
    differences = draw.normal(0.1, 1, 12)
    found = equivalence(differences, margin)
    p, *_ = ttost_paired(differences, np.zeros(12), -margin, margin)
    assert found.p == pytest.approx(p, rel=1e-9)
    assert found.equivalent == (-margin < found.low and found.high < margin)


def test_equivalence_at_its_edges() -> None:
    assert np.isnan(equivalence(np.array([0.1]), 1.0).p)
    assert not equivalence(np.array([0.1]), 1.0).equivalent
    assert equivalence(np.zeros(3), 0.1).p == 0.0
    assert equivalence(np.ones(3), 0.1).p == 1.0
    with pytest.raises(ConfigError, match=r"margin: got 0\.0, expected a number above 0"):
        equivalence(np.zeros(3), 0.0)


def test_the_share_removed_is_read_off_pairs() -> None:
    pairs = beside_none(runs(0.25), 0.01)
    assert len(pairs) == 12
    found = share_removed(pairs, n_boot=100)
    assert (found.value, found.n) == (pytest.approx(0.75), 12)
    assert found.low == pytest.approx(0.75)
    worse = share_removed(beside_none(runs(1.5), 0.01), n_boot=100)
    assert worse.value == pytest.approx(-0.5)
    assert np.isnan(share_removed(beside_none(runs().assign(loss_pt=2.9), 0.01)).value)


@pytest.mark.parametrize(("cost", "same"), [(0.0, True), (0.05, False)])
def test_what_the_target_pays(cost: float, same: bool) -> None:
    found = target_equivalence(beside_none(runs(cost=cost), 0.01))
    assert found.value == pytest.approx(cost + 0.0005)
    assert found.equivalent == same


def test_pairs_are_of_one_seed_and_one_domain() -> None:
    frame = runs()
    two = pd.concat([frame.assign(domain="near"), frame.assign(domain="far", loss_pt=3.0)])
    assert len(beside_none(two, 0.01)) == 24
    with pytest.raises(DataError, match=r"inject: got no run at 0.02 beside one at 0 of the same params"):
        beside_none(frame, 0.02)
    with pytest.raises(DataError, match="loss_ft"):
        beside_none(frame.drop(columns="loss_ft"), 0.01)


def test_forgetting_is_shown_before_it_is_fitted() -> None:
    found = forgetting_shown(runs(), n_boot=100)
    assert found["rise"].value == pytest.approx(0.1 * 4 * 1.05)
    assert (found["runs"], found["clear"]) == (12, 8)
    assert np.isnan(forgetting_shown(runs()[lambda f: f["inject"] > 0])["rise"].value)


def test_injected_sequences_by_share() -> None:
    (row,) = injected_sequences(runs()).to_dict("records")
    assert row == {
        "inject": 0.01,
        "runs": 12,
        "mean": pytest.approx(3.7),
        "least": 0.1,
        "most": 10.0,
        "below_one": 4,
    }
    assert injected_sequences(runs().drop(columns="injected")).empty
