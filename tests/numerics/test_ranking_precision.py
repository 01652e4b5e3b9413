"""Average precision against scikit-learn, a literal reading of its definition, and the laws that it obeys."""

from __future__ import annotations

import warnings
from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kstest, rankdata
from sklearn.metrics import average_precision_score

from trimtab.errors import ConfigError, ShapeError
from trimtab.numerics import ranking
from trimtab.numerics.ranking import (
    average_precision,
    average_precision_null,
    chance_of,
    has_ties,
    untied,
)

WAYS = {
    "keys": lambda scores, labels: average_precision(scores.astype(np.float32), labels),
    "half": lambda scores, labels: average_precision(scores.astype(np.float16), labels),
    "classes": lambda scores, labels: average_precision(scores.astype(np.float64), labels),
    "whole numbers": lambda scores, labels: average_precision(scores.astype(np.int64), labels),
    "tensor": lambda scores, labels: average_precision(torch.tensor(scores), torch.tensor(labels)).numpy(),
    "bfloat16": lambda scores, labels: average_precision(
        torch.tensor(scores).bfloat16(), torch.tensor(labels)
    ).numpy(),
    "accelerator": lambda scores, labels: ranking._on_device(
        torch.tensor(scores), torch.tensor(labels)
    ).numpy(),
}
"""Each way through the code; all get scores that float16 holds."""


@st.composite
def cases(draw):
    """Scores of a few units with few or many ties, and at least one positive, at times all but one."""
    samples = draw(st.integers(1, 24))
    levels = draw(st.sampled_from([1, 2, 5, 200]))
    row = st.lists(st.integers(-levels, levels), min_size=samples, max_size=samples)
    scores = np.array(draw(st.lists(row, min_size=1, max_size=4)), dtype=float)
    positives = draw(st.sampled_from([1, max(1, samples - 1), samples, draw(st.integers(1, samples))]))
    labels = np.array(draw(st.permutations([True] * positives + [False] * (samples - positives))))
    return scores, labels


def theirs(scores, labels):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return np.array([average_precision_score(labels, row) for row in scores])


@pytest.mark.parametrize("way", WAYS)
@settings(max_examples=20)
@given(case=cases())
def test_it_is_that_of_scikit_learn(way, case):
    np.testing.assert_allclose(WAYS[way](*case), theirs(*case), rtol=0, atol=1e-12)


@given(
    scores=st.lists(
        st.tuples(st.floats(width=32, allow_nan=False), st.booleans()), min_size=1, max_size=30
    ).filter(lambda pairs: any(label for _, label in pairs))
)
def test_infinities_denormals_and_both_zeros_are_ordinary_values(scores):
    """scikit-learn refuses infinities, and so gets ranks, which are the same question."""
    values, labels = (np.array(part) for part in zip(*scores, strict=True))
    expected = theirs(rankdata(values, method="dense")[None], labels)
    for kind in (np.float32, np.float64):
        np.testing.assert_allclose(average_precision(values[None].astype(kind), labels), expected, atol=1e-12)


def test_doubles_that_single_precision_cannot_tell_apart_are_told_apart():
    scores = np.array([[1.0, 1.0 + 1e-15, 1.0 - 1e-15]])
    assert average_precision(scores, np.array([False, True, False])).tolist() == [1.0]


def test_it_is_the_step_function_of_its_definition():
    """Thresholds from the top: the rise of recall times precision there."""
    draw = np.random.default_rng(3)
    scores, labels = draw.integers(0, 6, (5, 40)).astype(float), draw.random(40) < 0.3
    for row, found in zip(scores, average_precision(scores, labels), strict=True):
        total = reached = 0.0
        for threshold in sorted(set(row), reverse=True):
            taken = row >= threshold
            recall = labels[taken].sum() / labels.sum()
            total += (recall - reached) * labels[taken].mean()
            reached = recall
        assert found == pytest.approx(total, abs=1e-12)


@given(case=cases(), seed=st.integers(0, 99))
def test_order_of_samples_and_increasing_functions_change_nothing(case, seed):
    scores, labels = case
    plain = average_precision(scores, labels)
    order = np.random.default_rng(seed).permutation(len(labels))
    np.testing.assert_array_equal(average_precision(scores[:, order], labels[order]), plain)
    np.testing.assert_array_equal(average_precision(np.arctan(scores / 50), labels), plain)


def test_planted_units_have_the_precision_they_were_built_for():
    labels = np.arange(10) < 4
    above, below, constant = -np.arange(10.0), np.arange(10.0), np.zeros(10)
    worst = np.mean([k / (6 + k) for k in range(1, 5)])
    found = average_precision(np.stack([above, below, constant]), labels)
    np.testing.assert_allclose(found, [1.0, worst, 0.4], atol=1e-15)


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_without_positives_and_with_nan_there_is_no_answer(kind):
    scores = np.array([[1, 2, 3], [1, np.nan, 3]], dtype=kind)
    assert np.isnan(average_precision(scores, np.zeros(3, dtype=bool))).all()
    assert np.isnan(average_precision(scores, np.array([0, 0, 1]))).tolist() == [False, True]
    assert average_precision(scores[:1], np.ones(3)).tolist() == [1.0]
    assert average_precision(scores[:0], np.ones(3)).shape == (0,)


def test_the_callers_scores_are_left_alone_and_kinds_come_back():
    scores = torch.tensor([[2.0, 1.0]])
    found = average_precision(scores, torch.tensor([1, 0]))
    assert isinstance(found, torch.Tensor)
    assert found.dtype == torch.float64
    assert scores.tolist() == [[2.0, 1.0]]


def test_more_units_than_one_block():
    scores = np.random.default_rng(0).normal(size=(5000, 40)).astype(np.float32)
    labels = np.arange(40) < 7
    whole = average_precision(scores, labels)
    np.testing.assert_array_equal(whole[4321:4322], average_precision(scores[4321:4322], labels))


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ShapeError, match=r"got scores of shape \(2, 3\) and labels of shape \(2,\)"):
        average_precision(np.zeros((2, 3)), np.zeros(2))
    with pytest.raises(ShapeError, match=r"got scores of shape \(3,\), expected \(units, samples\)"):
        average_precision(np.zeros(3), np.zeros(3))


# What chance gives


def test_the_null_is_that_of_all_rankings():
    """Two positives among five: each of ten rankings is equally likely."""
    scores = np.arange(5.0)
    labels = [np.isin(np.arange(5), chosen) for chosen in combinations(range(5), 2)]
    every = np.sort([float(average_precision(scores[None], one)[0]) for one in labels])
    table = average_precision_null(2, 3, draws=20_000)
    shares = np.searchsorted(table, every + 1e-9) / len(table)
    np.testing.assert_allclose(shares, (np.arange(10) + 1) / 10, atol=0.02)


def test_p_values_of_units_that_know_nothing_are_uniform():
    scores = np.random.default_rng(5).normal(size=(4000, 30))
    found = average_precision(scores, np.arange(30) < 8)
    p = chance_of(found, average_precision_null(8, 22, draws=100_000))
    assert kstest(p, "uniform").pvalue > 0.01
    assert np.isnan(chance_of(np.array([np.nan]), np.array([0.5]))).all()


def test_ties_broken_at_random_keep_the_null():
    """Half of the samples share the lowest score, as where a special token holds the maximum."""
    draw = np.random.default_rng(6)
    scores = draw.normal(size=(4000, 30)).clip(min=0)
    p = chance_of(
        average_precision(untied(scores), np.arange(30) < 8), average_precision_null(8, 22, draws=100_000)
    )
    assert kstest(p, "uniform").pvalue > 0.01
    assert has_ties(scores).all()


@given(case=cases())
def test_untied_ranks_keep_the_order_of_different_scores(case):
    scores, _ = case
    ranks = untied(scores)
    assert (np.sort(ranks) == np.arange(scores.shape[1])).all()
    for row, rank in zip(scores, ranks, strict=True):
        assert (np.diff(row[np.argsort(rank)]) >= 0).all()
    np.testing.assert_array_equal(has_ties(scores), [len(set(row)) < len(row) for row in scores])


@given(case=cases(), seed=st.integers(0, 9))
@pytest.mark.parametrize("kind", [np.float32, np.float16, np.float64])
def test_untied_ranks_are_those_of_a_lexical_sort_by_score_and_coin(kind, case, seed):
    scores = case[0].astype(kind)
    order = np.lexsort((np.random.default_rng(seed).random(scores.shape), scores), axis=-1)
    np.testing.assert_array_equal(untied(scores, seed), np.argsort(order, axis=-1))


def test_coins_that_differ_in_their_last_bits_alone_still_decide():
    draw = np.random.default_rng(7)
    scores = draw.integers(0, 2, size=(50, 30)).astype(np.float32)
    scores[0, :3] = np.nan, -np.inf, np.inf
    coins = np.floor(4 * draw.random(scores.shape)) / 4 + 1e-13 * draw.random(scores.shape)
    order = ranking._random_order(scores, coins)
    np.testing.assert_array_equal(order, np.lexsort((coins, scores), axis=-1))


def test_settings_that_cannot_work_are_refused():
    with pytest.raises(ConfigError, match="positives 0, expected at least 1"):
        average_precision_null(0, 3)
