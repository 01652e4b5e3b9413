"""Folds: groups stay whole, classes are spread evenly, the order of rows does not matter."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.model_selection import StratifiedGroupKFold

from trimtab.errors import DataError
from trimtab.read.leaks.folds import grouped_folds, usable_rows


@st.composite
def rows(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, int]:
    """Labels, groups of uneven sizes, and a number of folds that they allow."""
    n = draw(st.integers(6, 60))
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    groups = rng.integers(0, draw(st.integers(3, n)), n) * 7 - 3
    folds = draw(st.integers(2, min(6, max(2, len(np.unique(groups))))))
    return rng.integers(0, draw(st.integers(1, 5)), n), groups, folds


@settings(max_examples=60, deadline=None)
@given(rows(), st.integers(0, 100))
def test_no_group_is_on_both_sides_and_no_fold_is_empty(data, seed):
    labels, groups, folds = data
    if len(np.unique(groups)) < folds:
        return
    fold = grouped_folds(labels, groups, folds, seed)
    assert set(fold) == set(range(folds))
    pairs = np.unique(np.column_stack([groups, fold]), axis=0)
    assert len(pairs) == len(np.unique(groups))


@settings(max_examples=30, deadline=None)
@given(rows(), st.integers(0, 100))
def test_permuting_rows_permutes_folds(data, seed):
    labels, groups, folds = data
    if len(np.unique(groups)) < folds:
        return
    order = np.random.default_rng(seed).permutation(len(labels))
    once = grouped_folds(labels, groups, folds, seed)
    assert np.array_equal(grouped_folds(labels[order], groups[order], folds, seed), once[order])


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000), st.integers(2, 6))
def test_rows_without_groups_are_dealt_to_one_row(seed, folds):
    labels = np.random.default_rng(seed).integers(0, 4, 50)
    fold = grouped_folds(labels, np.arange(50), folds, seed)
    for label in range(4):
        counts = np.bincount(fold[labels == label], minlength=folds)
        assert counts.max() - counts.min() <= 1
    assert np.ptp(np.bincount(fold)) <= 1


def test_classes_are_spread_as_evenly_as_by_scikit_learn():
    uneven = []
    for seed in range(10):
        rng = np.random.default_rng(seed)
        groups = rng.integers(0, 40, 300)
        labels = (groups + (rng.random(300) < 0.3) * rng.integers(0, 4, 300)) % 4
        ours = grouped_folds(labels, groups, 5, seed)
        theirs = np.empty(300, dtype=int)
        splitter = StratifiedGroupKFold(5, shuffle=True, random_state=seed)
        for number, (_, test) in enumerate(splitter.split(labels, labels, groups)):
            theirs[test] = number
        uneven.append([_unevenness(fold, labels) for fold in (ours, theirs)])
    ours, theirs = np.mean(uneven, axis=0)
    assert ours <= theirs * 1.05


def _unevenness(fold: np.ndarray, labels: np.ndarray) -> float:
    shares = np.array([np.bincount(fold[labels == label], minlength=5) for label in range(4)], dtype=float)
    return float((shares / shares.sum(axis=1, keepdims=True)).std(axis=1).mean())


def test_seeds_differ_and_more_folds_than_groups_are_refused():
    labels, groups = np.arange(40) % 2, np.arange(40) // 2
    assert not np.array_equal(grouped_folds(labels, groups, 5, 0), grouped_folds(labels, groups, 5, 1))
    with pytest.raises(
        DataError, match="got 5 folds of 2 groups, expected from 2 folds to one for each group"
    ):
        grouped_folds(np.array([0, 1, 0]), np.array([0, 0, 1]), 5)


def test_usable_rows_names_what_is_set_aside():
    labels = np.array(["a"] * 6 + ["b"] * 6 + ["c"] * 3 + [None, np.nan], dtype=object)
    groups = np.array([0, 1, 2, 3, 4, 5] * 2 + [0, 0, 1] + [0, 0])
    mask, reasons = usable_rows(labels, groups, folds=3)
    assert reasons == {"no label": 2, "class 'c' in 2 groups, fewer than 3 folds": 3}
    assert mask.sum() == 12
    assert mask[:12].all()
    mask, reasons = usable_rows(labels[:12], groups[:12], folds=3)
    assert mask.all()
    assert not reasons
